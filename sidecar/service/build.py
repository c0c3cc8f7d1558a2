"""Everything that a sidecar is made of, built from a Config.

Owns how the parts are connected: nothing else constructs collaborators, and nothing happens at import. Called by
`life`. `switch` replaces what depends on the configuration; `readiness` and `view` read.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final, final

from sidecar.config.checks import targets_of
from sidecar.config.groups import Limits
from sidecar.config.models import Config
from sidecar.config.sharing import takes_persons
from sidecar.config.targets import TokenKind
from sidecar.errors import SidecarError
from sidecar.handout.offer import Offer
from sidecar.net.dial import Dialer
from sidecar.net.interception import InterceptError, Prepared
from sidecar.observe.logs import AccessLog, Level
from sidecar.observe.metrics import LoopStats, TokenStatsTable
from sidecar.observe.tracing import NotInstalledError, Tracer
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.fields.proxy_status import NAME
from sidecar.proxy.pool.pools import Pools
from sidecar.proxy.server import Proxy, make_link
from sidecar.routing.routes import Route, RouteTable
from sidecar.runtime import descriptors
from sidecar.runtime.clock import Clock, SystemClock
from sidecar.runtime.file_watch import FileWatch
from sidecar.runtime.tasks import Tasks
from sidecar.runtime.trust import UnusableCaError, for_token_endpoints, for_upstreams
from sidecar.service.bindings import Bindings
from sidecar.service.start_error import EXIT_CONFIG, StartError
from sidecar.tokens.credential_file import is_project
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.renewals import Renewals
from sidecar.tokens.sources import Inspection, build_sources, inspect
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import TokenKey

_log = logging.getLogger(__name__)

_PROJECT: Final = "GOOGLE_CLOUD_PROJECT"
_ROUTE_AUDIENCES: Final = 1000
"""Audiences that metrics keep apart, wildcard traffic included."""


def own_version() -> str:
    """The version of the installed package."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0+unknown"


@final
class Parts:
    """The parts of one sidecar: `config`, `table`, `sources` and `log_level` are those in force and change together."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        *,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        jitter: Callable[[], float] | None = None,
        inherited: Iterable[socket.socket] = (),
    ) -> None:
        """Raises StartError for what can't be built. `jitter` is from 0 to 1; `inherited` are sockets that listen
        already, for addresses of the configuration (socket activation)."""
        jitter = jitter or secrets.SystemRandom().random
        self.loop = loop
        self.environ = environ
        self.project = _project(environ)
        self.version = own_version()
        self.clock = clock or SystemClock(loop)
        self.tasks = Tasks(loop)
        self.config = config
        self.log_level: Level = config.log_level
        self.bindings = Bindings(self.clock, inherited)
        self.loop_stats = LoopStats()
        self.token_stats = TokenStatsTable(_ROUTE_AUDIENCES + config.token_cache)
        self.sources = self.sources_of(config, {})
        self.table = RouteTable.compile(config, self.sources)
        self.offers = self.offers_of(config, self.table, self.sources)
        """What programs may be given, by the key of the server that gives it."""
        self.tokens = TokenStore(
            self.sources.values(),
            self.clock,
            self.tasks,
            self.token_stats.record,
            jitter=jitter,
            wait=config.token_wait,
            size=config.token_cache,
        )
        self.renewals = Renewals(self.tokens, self.clock)
        self.file_watch = FileWatch(
            token_files(config), self.clock, lambda credential: self.tokens.renew(self.sources[credential])
        )
        self.dialer = Dialer(
            loop, self.bindings.own_addresses, self.clock, jitter=jitter, trust=for_upstreams(environ)
        )
        self.tracer = _tracer(config, self.version)
        self._pseudonym = f"{NAME}-{secrets.token_hex(6)}".encode() if config.via else None
        self._placeholders = False
        self.proxy = self._proxy(config)

    def _proxy(self, config: Config) -> Proxy:
        return Proxy(
            self.loop,
            self.clock,
            admission=self.admission(self.table),
            tokens=self.tokens,
            pools=Pools(
                self.dialer,
                make_link,
                self.clock,
                self.tasks,
                settings=config.pool,
                limits=config.limits,
            ),
            limits=limits(config),
            access_log=self.access_log(config),
            tracer=self.tracer,
        )

    def sources_of(self, config: Config, known: Mapping[str, GoogleSource]) -> dict[str, GoogleSource]:
        """A source for each credential of a configuration: one of those that are `known`, or a new one."""
        return build_sources(
            config.credentials,
            clock=self.clock,
            environ=self.environ,
            endpoints=config.endpoints,
            known=known,
            withheld=config.secret_variables,
            ca_file=config.ca_file,
            listening=config.listening,
        )

    def offers_of(
        self, config: Config, table: RouteTable, sources: Mapping[str, GoogleSource]
    ) -> dict[str, Offer]:
        """What the servers of a configuration may give to programs."""
        return {key: Offer(key, it, table, sources[it.credential]) for key, it in config.handouts.items()}

    def admission(self, table: RouteTable) -> Admission:
        """What decides about requests by a route table."""
        server = self.config.metadata_server
        # Once given, they are known for as long as they may live.
        self._placeholders |= self.config.google_token_endpoints is not None
        self._placeholders |= server is not None and server.tokens == "placeholder"
        return Admission(table, pseudonym=self._pseudonym, placeholders=self._placeholders)

    def access_log(self, config: Config) -> AccessLog:
        """The access log as a configuration wants it."""
        if self.project is None and self.environ.get(_PROJECT, "").strip():
            _log.warning(
                "GOOGLE_CLOUD_PROJECT is not the ID of a project: log lines name their traces without one. Set it to "
                "an ID such as `my-project`, or unset it"
            )
        return AccessLog(
            config.access_log,
            log_query=config.log_query,
            sample=config.access_log_sample,
            project=self.project or "",
        )

    def check_tls_files(self, routes: Iterable[Route]) -> None:
        """Read the TLS files of routes; raises StartError for those that can't be used."""
        for route in routes:
            try:
                self.dialer.check(route)
            except SidecarError as error:
                raise StartError(f"route `{route.name}`: {error.detail}", EXIT_CONFIG) from error

    def prepare_interception(self, config: Config, table: RouteTable) -> Prepared:
        """What a configuration's `intercept` needs, its bundle written; raises StartError for what can't be served."""
        try:
            return self.proxy.interception.prepare(config.intercept, table, self.environ)
        except InterceptError as error:
            raise StartError(f"`intercept`: {error}", EXIT_CONFIG) from error

    def pin_and_prefetch(self) -> None:
        """Keep the tokens of all fixed routes, and fetch those that are to be there before a request is."""
        keys = []
        for route in self.table.routes:
            if (key := route.fixed_key()) is not None:
                self.tokens.pin(key)
                if route.config.prefetch:
                    keys.append(key)
        keys += [key for offer in self.offers.values() for key in offer.keys()]
        self.tokens.prefetch(keys)


def fixed_keys(table: RouteTable, offers: Mapping[str, Offer]) -> set[TokenKey]:
    """Every token that a configuration names, and that is kept for good."""
    of_routes = {key for route in table.routes if (key := route.fixed_key()) is not None}
    return of_routes.union(*(offer.keys() for offer in offers.values()))


def inspected(
    config: Config,
    sources: Mapping[str, GoogleSource],
    environ: Mapping[str, str],
    offers: Mapping[str, Offer],
) -> list[str]:
    """Look at the credentials, without a request to anyone: StartError for what can never work, warnings for what
    should not."""
    warnings = _inspected_trust(config, environ)

    @cache
    def judged(source: GoogleSource, kind: TokenKind, persons: bool, upstream: str) -> Inspection:
        """By credential and kind, of which there are few: their files are read for it."""
        keys = [TokenKey(source, "", kind, persons)]
        return inspect(source.grant, keys, universe=source.universe, upstream=upstream)

    for route in config.routes:
        kind = TokenKind(route.token)
        for host, target in targets_of(route).items():
            # To ID tokens it makes no difference.
            upstream = "" if kind is TokenKind.ID else host
            found = judged(sources[route.credential], kind, takes_persons(route, target), upstream)
            if found.fault is not None:
                raise StartError(
                    f"route `{route.name}`, credential `{route.credential}`: {found.fault}", EXIT_CONFIG
                )
            if found.warning is not None:
                warnings.append(f"route `{route.name}`, credential `{route.credential}`: {found.warning}")
    for key, offer in offers.items():
        found = inspect(offer.source.grant, offer.keys(), universe=offer.source.universe)
        if found.fault is not None:
            raise StartError(f"`{key}`, credential `{offer.source.name}`: {found.fault}", EXIT_CONFIG)
        if found.warning is not None:
            warnings.append(f"`{key}`, credential `{offer.source.name}`: {found.warning}")
    return list(dict.fromkeys(warnings))


def _inspected_trust(config: Config, environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the CAs by which token endpoints are judged, where they are named: StartError if it is the
    configuration that names them, else a warning, since a credential may ask no endpoint."""
    trust = for_token_endpoints(environ, config.ca_file)
    if not trust.bundles:
        return []
    try:
        trust.context()
    except UnusableCaError as error:
        if config.ca_file is not None:
            raise StartError(f"{error}", EXIT_CONFIG) from error
        return [f"token endpoints can't be asked by https: {error}"]
    return []


def _project(environ: Mapping[str, str]) -> str | None:
    """The project that the environment names: Cloud Shell, functions and App Engine set it, elsewhere you may."""
    project = environ.get(_PROJECT, "").strip()
    return project if is_project(project) else None


def _tracer(config: Config, version: str) -> Tracer | None:
    tracing = config.tracing
    if tracing.endpoint is None:
        return None
    try:
        return Tracer(
            tracing.endpoint, sample=tracing.sample, service_name=tracing.service_name, version=version
        )
    except NotInstalledError as error:
        raise StartError(str(error), EXIT_CONFIG) from error


def limits(config: Config) -> Limits:
    """The limits as the process's own limit of open files lets them be kept."""
    limits = config.limits
    elsewhere = sum(route.pool.over(config.pool).connections for route in config.routes)
    possible = descriptors.room(elsewhere + len(config.handouts) * descriptors.SERVED)
    if possible is None or possible >= limits.connections:
        return limits
    _log.warning(
        "fewer connections are accepted than `limits.connections`, because the process may not open as many files. "
        "Raise that limit (`ulimit -n`, `LimitNOFILE=`), or lower `limits.connections`.",
        extra={"fields": {"limit": limits.connections, "possible": possible}},
    )
    return limits.model_copy(update={"connections": possible})


def token_files(config: Config) -> dict[str, str]:
    """The files that hold ready tokens, by credential."""
    return {name: it.path for name, it in config.credentials.items() if it.type == "file"}
