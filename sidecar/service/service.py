"""The composition root: builds everything from a Config and owns its life.

Called by the `run` command and by `exec`, in a process of its own, or by tests in theirs. Nothing else
constructs collaborators, and nothing happens at import. The order of a life:

    bind → credentials and TLS files → admin server → listeners → prefetch → serve
    → told to stop: not ready, each answer ends its connection, `drain.min` if by SIGTERM
    → close listeners, finish what is in flight up to `drain.max`
    → close tokens → close admin, so that probes and the last scrape see the drain to its end

It is long since it is one life with one state: a third are the one-line answers that `admin` and `metrics` ask for.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NamedTuple, final

from prometheus_client import CollectorRegistry

from sidecar.admin import exposition
from sidecar.admin.app import AdminServer
from sidecar.admin.history import INTERVAL, History
from sidecar.admin.status import (
    ProcessStatus,
    RouteStatus,
    RouteTraffic,
    Traffic,
    document,
    shortfall,
    ways_in,
)
from sidecar.config.addresses import parse_listen
from sidecar.config.checks import targets_of
from sidecar.config.document import shown
from sidecar.config.egress import told_at_start
from sidecar.config.models import Config, Limits
from sidecar.config.sharing import takes_persons
from sidecar.config.targets import TokenKind
from sidecar.errors import MEANINGS, SidecarError, Source
from sidecar.net import listeners
from sidecar.net.dial import Dialer
from sidecar.observe import logs
from sidecar.observe.heap import Trimming, own_heap
from sidecar.observe.log_sink import Loss
from sidecar.observe.logs import AccessLog
from sidecar.observe.metrics import (
    CertificateReading,
    ListenerStats,
    LoopStats,
    RouteStats,
    TokenReading,
    TokenStatsTable,
)
from sidecar.observe.tracing import NotInstalledError, Tracer
from sidecar.observe.watchdog import Watchdog
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.admission.explain import explain
from sidecar.proxy.http1.answers import NAME
from sidecar.proxy.pool.pool import Pools
from sidecar.proxy.refusals.outages import ErrorGroup, Refusing
from sidecar.proxy.refusals.refusals import LastRefusal
from sidecar.proxy.server import Proxy
from sidecar.routing.routes import Route, RouteTable
from sidecar.runtime import descriptors
from sidecar.runtime.clock import Clock, SystemClock, process_cpu
from sidecar.runtime.file_watch import FileWatch
from sidecar.runtime.tasks import Tasks
from sidecar.runtime.trust import UnusableCaError, for_token_endpoints, for_upstreams
from sidecar.service.bindings import Bindings, Plan
from sidecar.service.start_error import EXIT_CONFIG, EXIT_REQUIRED, StartError
from sidecar.tokens.credential_file import is_project
from sidecar.tokens.entry import TokenStatus
from sidecar.tokens.fetch_threads import FetchThreads
from sidecar.tokens.google_source import GoogleSource
from sidecar.tokens.renewals import Renewal, Renewals
from sidecar.tokens.sources import Inspection, build_sources, inspect, unchanged
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import Token, TokenKey

_log = logging.getLogger(__name__)

_ROUTE_AUDIENCES: Final = 1000
"""Audiences that metrics keep apart, wildcard traffic included."""


def own_version() -> str:
    """The version of the installed package."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0+unknown"


PREFETCH_LIMIT: Final = 10.0
"""Seconds that another configuration waits for the tokens that are new in it."""

_LAST_SPANS: Final = 2.0
"""Seconds that the last spans may take to get out at the end."""

_AT_START: Final = ("admin", "tracing", "via", "token_wait", "token_cache", "log_format", "core_dumps")
"""Settings that another configuration can't change while the sidecar runs."""


class Reloaded(NamedTuple):
    """What became of reading the configuration again."""

    result: str
    """`ok`, `unchanged` or `error`."""
    detail: str = ""
    """What is wrong with it, or what to tell about it."""


@final
class Reloads:
    """Of the process so far; see `metrics.ReloadReading`."""

    def __init__(self, at: float) -> None:
        self.counts = {"ok": 0, "unchanged": 0, "error": 0}
        self.at = at
        self.last: Reloaded | None = None
        self.last_at = at

    @property
    def last_ok(self) -> bool:
        """Whether the last one went well; from the start, too."""
        return self.last is None or self.last.result != "error"

    @property
    def error(self) -> tuple[str, float] | None:
        """What was wrong with the last one, and when (Unix seconds) that was; None where it went well."""
        return None if self.last is None or self.last_ok else (self.last.detail, self.last_at)

    def note(self, outcome: Reloaded, now_at: float) -> None:
        """One more."""
        self.counts[outcome.result] += 1
        self.last, self.last_at = outcome, now_at
        if outcome.result != "error":
            self.at = now_at


@final
class Service:
    """One running sidecar. Implements `admin.view.AdminView` and `metrics.MetricsSource`."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        *,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        jitter: Callable[[], float] | None = None,
        inherited: Iterable[socket.socket] = (),
        log_lines_lost: Mapping[Loss, int] | None = None,
    ) -> None:
        """`inherited`: sockets that listen already, for addresses of the configuration (socket activation);
        `log_lines_lost`: by reason, counted by the log's handler."""
        self._log_lines_lost = log_lines_lost or {}
        self.config = config
        self.version = own_version()
        self._loop = loop
        self._clock = clock or SystemClock(loop)
        self._tasks = Tasks(loop)
        self._jitter = jitter or secrets.SystemRandom().random
        self.bindings = Bindings(self._clock, inherited)
        self._token_stats = TokenStatsTable(_ROUTE_AUDIENCES + config.token_cache)
        self._sources = build_sources(
            config.credentials,
            clock=self._clock,
            environ=environ,
            endpoints=config.endpoints,
            withheld=config.secret_variables,
            ca_file=config.ca_file,
            listening=config.listening,
        )
        self._table = RouteTable.compile(config, self._sources)
        self._tokens = TokenStore(
            self._sources.values(),
            self._clock,
            self._tasks,
            self._token_stats.record,
            jitter=self._jitter,
            wait=config.token_wait,
            size=config.token_cache,
        )
        self._renewals = Renewals(self._tokens, self._clock)
        self._environ = environ
        self._log_level: logs.Level = config.log_level
        self._file_watch = FileWatch(
            _token_files(config),
            self._clock,
            lambda credential: self._tokens.renew(self._sources[credential]),
        )
        self._dialer = Dialer(
            loop,
            self.bindings.own_addresses,
            self._clock,
            jitter=self._jitter,
            trust=for_upstreams(environ),
        )
        self._pseudonym = f"{NAME}-{secrets.token_hex(6)}".encode() if config.via else None
        self._tracer = _tracer(config, self.version)
        self._proxy = Proxy(
            loop,
            self._clock,
            admission=Admission(self._table, pseudonym=self._pseudonym),
            tokens=self._tokens,
            pools=Pools(
                self._dialer,
                self._clock,
                self._tasks,
                settings=config.pool,
                limits=config.limits,
            ),
            limits=_limits(config),
            pseudonym=self._pseudonym,
            access_log=_access_log(config, environ),
            tracer=self._tracer,
        )
        self._admin: AdminServer | None = None
        self._registry = exposition.build_registry(self)
        self._shown: tuple[Config, str] | None = None
        """A configuration, and how it is shown."""
        self._started_at = self._clock.wall()
        self._reloads = Reloads(self._started_at)
        self._history = History()
        self._loop_stats = LoopStats()
        self._watchdog = Watchdog(self._clock, self._loop_stats, process_cpu)
        self._trimming = Trimming(self._clock, own_heap())
        self._sampling: asyncio.TimerHandle | None = None
        self.reloader: Callable[[], Awaitable[Reloaded]] | None = None
        """How the configuration is read again; None where that can't be."""
        self._began_mono = self._clock.mono()
        self._listening = False
        self._was_ready = False
        self._draining = False
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    # its life

    async def start(self) -> None:
        """Bind, check, listen, prefetch; raises StartError with nothing left open."""
        try:
            warnings = _inspect(self.config, self._sources, self._environ)
            self.bindings.bind(self.config, self._table)
            self._check_files(self._table.routes)
            self._admin = AdminServer(
                self, [listener.socket for listener in self.bindings.admin], self._clock
            )
            await self._admin.start()
            for use in self.bindings.uses:
                await self._proxy.serve(*use)
        except BaseException:
            await self._close()
            raise
        self._listening = True
        self._loop.set_exception_handler(self._proxy.faults.from_loop)
        for name, source in self._sources.items():
            found = source.describe()
            _log.info(f"credential `{name}`: {found}", extra={"fields": {"credential": name, "found": found}})
        for warning in warnings:
            _log.warning(warning)
        if (told := told_at_start(self._environ, self.config)) is not None:
            _log.info(told)
        self._file_watch.start()
        self._pin_and_prefetch()
        self.bindings.tell([route.name for route in self._table.routes], self.version)
        self._sample()
        self._watchdog.start()
        # What lives now lives on: the collector need not look at it again, and forks of its pages are spared.
        gc.collect()
        gc.freeze()
        self._trimming.start()

    async def run(self) -> None:
        """Serve until `request_quit`, then drain and close; StartError where a required route gets no token in time."""
        await self._until_told()
        drain = self.config.drain
        _log.info(
            f"draining: {self._proxy.connections} connections are open, and get at most {drain.max:g} s to end",
            extra={"fields": {"connections": self._proxy.connections, "max": drain.max}},
        )
        began_mono = self._clock.mono()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain.min):
                await self._stop_now.wait()
        self._proxy.stop_accepting()
        self._proxy.begin_drain()
        left = max(0.0, drain.max - (self._clock.mono() - began_mono))
        try:
            async with asyncio.timeout(left):
                await self._proxy.drained()
        except TimeoutError:
            _log.warning(
                "drain timed out: open connections are closed",
                extra={"fields": {"connections": self._proxy.connections, "max": drain.max}},
            )
        await self._close()
        _log.info("stopped: no connection is open any more, and the sidecar ends")

    def set_log_level(self, level: logs.Level | None) -> logs.Level:
        """See `AdminView`."""
        self._log_level = level or ("debug" if self._log_level != "debug" else self.config.log_level)
        logs.set_level(self._log_level)
        _log.warning(
            f"log level: `{self._log_level}` from now on", extra={"fields": {"level": self._log_level}}
        )
        return self._log_level

    def request_quit(self, *, at_once: bool = True) -> None:
        """Begin to stop; again is harmless. Unless `at_once`, go on accepting for `drain.min`: the app stops later, or
        has yet to hear on each of its connections that it closes."""
        self._draining = True
        self._proxy.announce_end()
        self._stop.set()
        if at_once:
            self._stop_now.set()

    async def _until_told(self) -> None:
        if any(route.config.required for route in self._table.routes):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._startup_left()):
                    await self._stop.wait()
            if (fault := self.overdue()) is not None:
                _log.error(
                    f"a required route has no token, and the sidecar ends: {fault}",
                    extra={"fields": {"detail": str(fault)}},
                )
                await self._close()
                raise fault
        await self._stop.wait()

    def overdue(self) -> StartError | None:
        """Why the sidecar must end before it ever served: a required route without a token after `startup_wait`."""
        if self._draining or self._was_ready or self._startup_left() > 0:
            return None
        missing = [
            why for route in self._table.routes if route.config.required and (why := self._unready(route))
        ]
        return StartError("; ".join(missing), EXIT_REQUIRED) if missing else None

    def _startup_left(self) -> float:
        return max(0.0, self._began_mono + self.config.startup_wait - self._clock.mono())

    async def _close(self) -> None:
        self._file_watch.stop()
        if self._sampling is not None:
            self._sampling.cancel()
        self._watchdog.stop()
        self._trimming.stop()
        self._proxy.stop_accepting()
        self._proxy.abort()
        await self._tokens.close()
        await self._tasks.close()
        if self._tracer is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SPANS):
                    await self._loop.run_in_executor(None, self._tracer.close)
        if self._admin is not None:
            await self._admin.close()
        self.bindings.close()

    # another configuration

    async def switch(self, config: Config) -> list[str]:
        """Serve by another configuration from now on; what to tell about it.

        Raises StartError, with everything as it was, where the new one can't be served. Requests under way end under
        the old route table; tokens of credentials that mean the same are kept, the first ones of the others are fetched
        before the switch, for at most `PREFETCH_LIMIT` seconds.
        """
        kept = unchanged(
            self.config.credentials,
            config.credentials,
            same_surroundings=_same_surroundings(config, self.config),
        )
        sources = build_sources(
            config.credentials,
            clock=self._clock,
            environ=self._environ,
            endpoints=config.endpoints,
            known={name: self._sources[name] for name in kept},
            withheld=config.secret_variables,
            ca_file=config.ca_file,
            listening=config.listening,
        )
        told = _inspect(config, sources, self._environ)
        told += [
            f"`{name}` takes effect at the next start"
            for name in _AT_START
            if _differs(name, config, self.config)
        ]
        table = RouteTable.compile(config, sources, self._table.routes)
        new = [route for route in table.routes if route not in self._table.routes]
        plan = None
        try:
            self._check_files(new)
            plan = self.bindings.plan(config, table)
            fetched = await self._fetch_first(table)
            self._refuse_missing(table, fetched)
            if self._draining:
                raise StartError("the sidecar is shutting down", EXIT_CONFIG)
        except BaseException:
            if plan is not None:
                plan.drop()
            self._dialer.forget(new)
            raise
        self._take(config, table, sources, fetched=fetched, plan=plan)
        for use in plan.bound:
            await self._proxy.serve(*use)
        self.bindings.tell([route.name for route in self._table.routes], self.version)
        return told

    def _take(
        self,
        config: Config,
        table: RouteTable,
        sources: dict[str, GoogleSource],
        *,
        fetched: Mapping[TokenKey, Token],
        plan: Plan,
    ) -> None:
        """The switch itself, with no turn of the loop in it: no request sees half of it."""
        gone = set(self._table.routes) - set(table.routes)
        self._tokens.switch(
            sources.values(), {key for route in table.routes if (key := _fixed_key(route)) is not None}
        )
        for key, token in fetched.items():
            self._tokens.adopt(key, token)
        if config.log_level != self.config.log_level:
            self._log_level = config.log_level
            logs.set_level(config.log_level)
        self.config, self._table, self._sources = config, table, sources
        self._proxy.switch(
            Admission(table, pseudonym=self._pseudonym),
            limits=_limits(config),
            pool=config.pool,
            access_log=_access_log(config, self._environ),
        )
        self._dialer.forget(gone)
        self._file_watch.watch(_token_files(config))
        self._pin_and_prefetch()
        surplus = self.bindings.adopt(plan)
        for use in plan.stay:
            self._proxy.reassign(*use)
        for listener in surplus:
            self._proxy.stop_serving(listener)
            listeners.close(listener)

    async def reload(self) -> Reloaded:
        """Read the configuration again and serve by it; the old one stays in force if that fails."""
        self.bindings.certificates.read_again()
        if self.reloader is None:
            return Reloaded("error", "This sidecar was started without a file that could be read again.")
        outcome = await self.reloader()
        self._reloads.note(outcome, self._clock.wall())
        return outcome

    async def _fetch_first(self, table: RouteTable) -> dict[TokenKey, Token]:
        """Tokens for what is to be prefetched and has none of its own yet; what does not come in time is left out."""
        known = {status.key for status in self._tokens.status() if status.expires_at is not None}
        keys = {
            key
            for route in table.routes
            if route.config.prefetch and (key := _fixed_key(route)) is not None and key not in known
        }
        fetched: dict[TokenKey, Token] = {}

        async def fetch(key: TokenKey) -> None:
            try:
                fetched[key] = await key.source.mint(key)
            except SidecarError as error:
                fields = {"credential": key.credential, "audience": key.audience, "reason": str(error.reason)}
                _log.warning(
                    f"no token for `{key.audience}` before the switch to another configuration: {error}",
                    extra={"fields": {**fields, "detail": error.detail}},
                )

        with suppress(TimeoutError):
            async with asyncio.timeout(PREFETCH_LIMIT):
                await asyncio.gather(*(fetch(key) for key in keys))
        return fetched

    def _refuse_missing(self, table: RouteTable, fetched: Mapping[TokenKey, Token]) -> None:
        """A route that comes to be required must have its token before it is served by."""
        for route in table.routes:
            key = _fixed_key(route)
            if not route.config.required or key is None or key in fetched:
                continue
            if not self._tokens.ready_state(key)[0]:
                raise StartError(
                    f"route `{route.name}` is required, and no token came for it within {PREFETCH_LIMIT:.0f} s",
                    EXIT_REQUIRED,
                )

    def _pin_and_prefetch(self) -> None:
        keys = []
        for route in self._table.routes:
            if (key := _fixed_key(route)) is not None:
                self._tokens.pin(key)
                if route.config.prefetch:
                    keys.append(key)
        self._tokens.prefetch(keys)

    # binding

    def _check_files(self, routes: Iterable[Route]) -> None:
        for route in routes:
            try:
                self._dialer.check(route)
            except SidecarError as error:
                raise StartError(f"route `{route.name}`: {error.detail}", EXIT_CONFIG) from error

    def token_statuses(self) -> list[TokenStatus]:
        """The state of every token; never the token."""
        return self._tokens.status()

    def last_refusal(self, route: str) -> LastRefusal | None:
        """What this route's target refused last."""
        return self._proxy.refusals.last(route)

    def errors(self) -> Sequence[ErrorGroup]:
        """The answers that the sidecar made itself, and those that it broke off, by route and reason."""
        return self._proxy.outages.errors()

    # admin.view.AdminView

    @property
    def started(self) -> bool:
        """See `AdminView`."""
        self.ready_state()
        return self._was_ready

    @property
    def draining(self) -> bool:
        """See `AdminView`."""
        return self._draining

    @property
    def registry(self) -> CollectorRegistry:
        """See `AdminView`."""
        return self._registry

    def ready_state(self) -> tuple[bool, list[str]]:
        """See `AdminView`."""
        if self._draining:
            return False, ["shutting down"]
        if not self._listening:
            return False, ["not listening yet"]
        if not self._was_ready:
            for_all = self.config.startup == "wait" and self._startup_left() > 0
            reasons = [
                reason
                for route in self._table.routes
                if (for_all or route.config.required) and (reason := self._unready(route)) is not None
            ]
            if reasons:
                return False, reasons
        self._was_ready = True
        return True, []

    def shortfall(self) -> str:
        """See `AdminView`."""
        return shortfall(self._tokens.status())

    async def renew(self, route: str | None) -> list[Renewal]:
        """See `AdminView`."""
        routes = [it for it in self._table.routes if route is None or it.name == route]
        if not routes and route is not None:
            raise KeyError(route)
        fixed = {key: it.name for it in self._table.routes if (key := _fixed_key(it)) is not None}
        kept = [status.key for status in self._tokens.status()]
        keys = {key: name for key, name in fixed.items() if route in (None, name)}
        # Those of a route that follows the request's host: whatever it has been asked for.
        for it in routes:
            if it.dynamic:
                keys |= {key: it.name for key in kept if key.source is it.source and key not in fixed}
        _log.info(
            f"renewing {len(keys)} token{'s' if len(keys) != 1 else ''} now, as asked"
            + (f" for route `{route}`" if route is not None else ""),
            extra={"fields": {"route": route, "tokens": len(keys)}},
        )
        return await self._renewals.renew(keys)

    def _unready(self, route: Route) -> str | None:
        key = _fixed_key(route)
        if key is None or not route.config.prefetch:
            return None
        had_token, error = self._tokens.ready_state(key)
        if had_token:
            return None
        why = f"{error.reason}: {error.detail}" if error is not None else "it is being fetched"
        return f"route `{route.name}` has had no token yet ({why})"

    def status(self) -> dict[str, Any]:
        """See `AdminView`."""
        ready, reasons = self.ready_state()
        process = ProcessStatus(
            version=self.version,
            started_at=self._started_at,
            ready=ready,
            reasons=reasons,
            draining=self._draining,
            listen=self.bindings.shared(),
            configured_at=self._reloads.at,
            reload_error=self._reloads.error,
        )
        routes = [self._route_status(route) for route in self._table.routes]
        traffic = Traffic(
            self._history.samples,
            [
                RouteTraffic(
                    name,
                    sum(stats.requests.values()),
                    stats.in_flight,
                    sum(stats.refused.values()),
                    *stats.upstream_errors(),
                )
                for name, stats in self.routes()
            ],
            self.errors(),
        )
        return document(
            process, routes, self._tokens.status(), traffic, now=self._clock.wall(), note=self.fault
        )

    def fault(self, error: Exception, where: str) -> None:
        """See `AdminView`."""
        self._proxy.faults.note(error, where)

    def _sample(self) -> None:
        stats = (stats for _, stats in self.routes())
        self._history.sample(stats, now_at=self._clock.wall(), now_mono=self._clock.mono())
        self._sampling = self._loop.call_later(INTERVAL, self._sample)

    async def configuration(self) -> str:
        """See `AdminView`."""
        config = self.config
        if self._shown is None or self._shown[0] is not config:
            # 200 routes are 250 ms of work: in a thread, and once.
            self._shown = config, await asyncio.to_thread(shown, config)
        return self._shown[1]

    async def explain(self, url: str, lines: Sequence[str]) -> dict[str, Any]:
        """See `AdminView`."""
        places = [
            (parse_listen(str(use.listener)), use.route and use.route.name) for use in self.bindings.uses
        ]
        return await asyncio.to_thread(explain, self.config, url, lines, places=places)

    def _route_status(self, route: Route) -> RouteStatus:
        config = route.config
        fixed = route.fixed()
        return RouteStatus(
            name=route.name,
            upstream=config.upstream,
            audience=fixed.audience if fixed is not None else config.audience or config.upstream,
            credential=config.credential,
            target=fixed.target if fixed is not None else config.target,
            token=config.token,
            refusal=self.last_refusal(route.name),
            refusing=self._refusing(route),
            ways_in=ways_in(
                route.name,
                self._table.hosts_of(route),
                dynamic=route.dynamic,
                path_prefix=config.path_prefix,
                shared=self.bindings.shared(),
                own=self.bindings.of_route(route.name),
                secure=self.bindings.secure(),
            ),
        )

    def _refusing(self, route: Route) -> Refusing | None:
        found = self._proxy.outages.refusing(route.name)
        key = _fixed_key(route)
        if found is not None and key is not None and MEANINGS[found.reason].source is Source.TOKEN:
            # Where no request has come since, the token tells whether one would be refused.
            return None if self._tokens.is_served(key) else found
        return found

    def nudge(self) -> None:
        """See `AdminView`."""
        self._file_watch.look()
        self.bindings.certificates.look()
        self._tokens.nudge()

    # metrics.MetricsSource

    @property
    def started_at(self) -> float:
        """See `MetricsSource`."""
        return self._started_at

    def is_ready(self) -> bool:
        """See `MetricsSource`."""
        return self.ready_state()[0]

    def routes(self) -> Iterable[tuple[str, RouteStats]]:
        """See `MetricsSource`."""
        # Routes that are gone go on being shown: a counter is never taken back.
        yield from self._proxy.stats.items()
        yield "", self._proxy.unrouted

    def connections(self) -> int:
        """See `MetricsSource`."""
        return self._proxy.connections

    def listener_stats(self) -> ListenerStats:
        """See `MetricsSource`."""
        return self._proxy.acceptors.stats

    def certificates(self) -> Iterable[CertificateReading]:
        """See `MetricsSource`."""
        return self.bindings.certificates.readings()

    def client_expiries(self) -> Mapping[str, float]:
        """See `MetricsSource`."""
        return self._dialer.client_expiries()

    def tokens(self) -> Iterable[TokenReading]:
        """See `MetricsSource`."""
        return self._tokens.status()

    def token_stats(self) -> TokenStatsTable:
        """See `MetricsSource`."""
        return self._token_stats

    def faults(self) -> int:
        """See `MetricsSource`."""
        return self._proxy.faults.count

    def loop_stats(self) -> LoopStats:
        """See `MetricsSource`."""
        return self._loop_stats

    def log_lines_lost(self) -> Mapping[Loss, int]:
        """See `MetricsSource`."""
        return self._log_lines_lost

    def reloads(self) -> Reloads:
        """See `MetricsSource`."""
        return self._reloads

    def fetch_threads(self) -> Iterable[tuple[str, FetchThreads]]:
        """See `MetricsSource`."""
        return ((name, source.threads) for name, source in self._sources.items())


def _inspect(config: Config, sources: Mapping[str, GoogleSource], environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the credentials as far as can be seen without asking anybody: StartError for what can
    never work, warnings for what should not."""
    warnings = _inspect_trust(config, environ)

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
    return list(dict.fromkeys(warnings))


def _inspect_trust(config: Config, environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the CAs by which token endpoints are judged, where they are named: StartError if it is the
    configuration that names them, since a credential may ask nobody."""
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


def _access_log(config: Config, environ: Mapping[str, str]) -> AccessLog:
    # Set by Cloud Shell, functions and App Engine; to be set elsewhere.
    project = environ.get("GOOGLE_CLOUD_PROJECT", "").strip()
    if project and not is_project(project):
        _log.warning(
            "GOOGLE_CLOUD_PROJECT is not the ID of a project: log lines name their traces without one. Set it to an ID "
            "such as `my-project`, or unset it"
        )
        project = ""
    return AccessLog(
        config.access_log,
        log_query=config.log_query,
        sample=config.access_log_sample,
        project=project,
    )


def _limits(config: Config) -> Limits:
    """The limits as the process's own limit of open files lets them be kept."""
    limits = config.limits
    possible = descriptors.room(sum(route.pool.over(config.pool).connections for route in config.routes))
    if possible is None or possible >= limits.connections:
        return limits
    _log.warning(
        "fewer connections are accepted than `limits.connections`: the process may not open as many files. "
        "Raise that (`ulimit -n`, `LimitNOFILE=`), or lower `limits.connections`.",
        extra={"fields": {"limit": limits.connections, "possible": possible}},
    )
    return limits.model_copy(update={"connections": possible})


def _token_files(config: Config) -> dict[str, str]:
    return {name: it.path for name, it in config.credentials.items() if it.type == "file"}


def _same_surroundings(one: Config, other: Config) -> bool:
    """Whether a credential that is the same in both asks the same places in the same way."""
    return (
        one.endpoints == other.endpoints
        and one.secret_variables == other.secret_variables
        and one.ca_file == other.ca_file
        and one.listening == other.listening
    )


def _differs(name: str, one: Config, other: Config) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def _fixed_key(route: Route) -> TokenKey | None:
    fixed = route.fixed()
    return None if fixed is None else fixed.token_key()
