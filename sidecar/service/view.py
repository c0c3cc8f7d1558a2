"""What the admin server and the metrics show of a sidecar.

Implements `admin.view.AdminView` and `families.MetricsSource`. Nearly all methods are one line that reads another
part. Its only state is the history behind the status page's curves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from sidecar.admin.history import INTERVAL, History
from sidecar.admin.shortfall import RouteTrouble, shortfall
from sidecar.admin.status import (
    ProcessStatus,
    RouteLinks,
    RouteStatus,
    RouteTraffic,
    Traffic,
    document,
    ways_in,
)
from sidecar.config.addresses import parse_listen
from sidecar.config.base_urls import only_route
from sidecar.config.document import shown
from sidecar.config.models import Config
from sidecar.errors import MEANINGS, Source
from sidecar.observe import logs
from sidecar.observe.families import CertificateReading
from sidecar.observe.log_sink import LineLoss
from sidecar.observe.metrics import (
    HandoutStats,
    ListenerStats,
    LoopStats,
    ReloadStats,
    RouteStats,
    TokenStatsTable,
)
from sidecar.proxy.explain import explain
from sidecar.proxy.messages import HTTP1, HTTP2
from sidecar.proxy.refusals.outages import ErrorGroup, Refusing
from sidecar.proxy.refusals.refusals import LastRefusal
from sidecar.routing.routes import Route
from sidecar.runtime.clock import TimerHandle, until_next
from sidecar.service.build import Parts
from sidecar.service.handouts import Handouts
from sidecar.service.readiness import Readiness
from sidecar.service.reload import Reloaded, Reloader
from sidecar.tokens.entry import TokenStatus
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.renewals import Renewal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_log = logging.getLogger(__name__)


@final
class View:
    """One running sidecar, seen from outside."""

    def __init__(
        self,
        parts: Parts,
        readiness: Readiness,
        reloader: Reloader,
        handouts: Handouts,
        *,
        request_quit: Callable[[], None],
        log_lines_lost: Mapping[LineLoss, int],
    ) -> None:
        """`log_lines_lost`: by reason, counted by the log's handler."""
        self._parts = parts
        self._readiness = readiness
        self._reloader = reloader
        self._handouts = handouts
        self._log_lines_lost = log_lines_lost
        self.request_quit = request_quit
        self.version = parts.version
        self.started_at = parts.clock.wall()
        self._shown: tuple[Config, str] | None = None
        """A configuration, and how it is shown."""
        self._history = History()
        self._sampling: TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample for the curves of the status page."""
        clock = self._parts.clock
        self._history.sample(self.routes(), now_at=clock.wall(), now_mono=clock.mono())
        self._sampling = clock.call_later(until_next(INTERVAL, clock.mono()), self.start)

    def stop(self) -> None:
        """Sample no more."""
        if self._sampling is not None:
            self._sampling.cancel()

    # admin.view.AdminView: what each of these does is said there

    @cached_property
    def registry(self) -> CollectorRegistry:
        # Not at the top: it is loaded for the first scrape.
        from sidecar.admin.exposition import build_registry

        return build_registry(self)

    @property
    def started(self) -> bool:
        return self._readiness.has_started

    @property
    def draining(self) -> bool:
        return self._readiness.is_draining

    def ready_state(self) -> tuple[bool, list[str]]:
        return self._readiness.state()

    def shortfall(self) -> str:
        error = self._reloader.error
        routes = self._parts.table.routes
        return shortfall(
            self.tokens(),
            [RouteTrouble(it.name, self._refusing(it), self.last_refusal(it.name)) for it in routes],
            {key: it.name for it in routes if (key := it.fixed_key()) is not None},
            None if error is None else error[0],
        )

    async def reload(self) -> Reloaded:
        return await self._reloader.reload()

    def set_log_level(self, level: logs.Level | None) -> logs.Level:
        parts = self._parts
        parts.log_level = level or ("debug" if parts.log_level != "debug" else parts.config.log_level)
        logs.set_level(parts.log_level)
        _log.warning(
            f"log level: `{parts.log_level}` from now on", extra={"fields": {"level": parts.log_level}}
        )
        return parts.log_level

    async def renew(self, route: str | None) -> list[Renewal]:
        table = self._parts.table
        routes = [it for it in table.routes if route is None or it.name == route]
        if not routes and route is not None:
            raise KeyError(route)
        fixed = {key: it.name for it in table.routes if (key := it.fixed_key()) is not None}
        kept = [status.key for status in self.tokens()]
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
        return await self._parts.renewals.renew(keys)

    async def configuration(self) -> str:
        config = self._parts.config
        if self._shown is None or self._shown[0] is not config:
            # 200 routes are 250 ms of work: in a thread, and once.
            self._shown = config, await asyncio.to_thread(shown, config)
        return self._shown[1]

    async def explain(self, url: str, lines: Sequence[str]) -> dict[str, Any]:
        uses = self._parts.bindings.uses
        places = [(parse_listen(str(use.listener)), use.route and use.route.name) for use in uses]
        return await asyncio.to_thread(explain, self._parts.config, url, lines, places=places)

    def fault(self, error: Exception, where: str) -> None:
        self._parts.proxy.faults.note(error, where)

    def nudge(self) -> None:
        self._parts.file_watch.look()
        self._parts.bindings.certificates.look()
        self._parts.tokens.nudge()

    def status(self) -> dict[str, Any]:
        ready, reasons = self._readiness.state()
        process = ProcessStatus(
            version=self.version,
            started_at=self.started_at,
            ready=ready,
            reasons=reasons,
            draining=self.draining,
            listen=self._parts.bindings.shared(),
            configured_at=self._reloader.stats.at,
            reload_error=self._reloader.error,
            handouts=self._handouts.status(),
        )
        return document(
            process,
            [self._route_status(route) for route in self._parts.table.routes],
            self.tokens(),
            Traffic(self._history.samples, self._route_traffic(), self.errors()),
            now=self._parts.clock.wall(),
            note=self.fault,
        )

    def _route_traffic(self) -> list[RouteTraffic]:
        return [
            RouteTraffic(
                name,
                sum(stats.requests.values()),
                stats.in_flight,
                sum(stats.refused.values()),
                *stats.upstream_errors(),
                self._history.recent(name),
                stats.http2,
                self._links(name, stats),
            )
            for name, stats in self.routes()
        ]

    def _links(self, name: str, stats: RouteStats) -> RouteLinks:
        busy, idle = {HTTP1: 0, HTTP2: 0}, {HTTP1: 0, HTTP2: 0}
        for pool in self._parts.proxy.pools:
            if pool.destination.route.name == name:
                carrying, resting = pool.links()
                busy[pool.wire] += carrying
                idle[pool.wire] += resting
        return RouteLinks(busy[HTTP1], idle[HTTP1], busy[HTTP2], idle[HTTP2], stats.upstream_streams)

    def _route_status(self, route: Route) -> RouteStatus:
        config, parts = route.config, self._parts
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
                parts.table.hosts_of(route),
                dynamic=route.dynamic,
                path_prefix=config.path_prefix,
                only=only_route(parts.config.routes) is not None,
                shared=parts.bindings.shared(),
                own=parts.bindings.of_route(route.name),
                secure=parts.bindings.secure(),
                by_name=parts.bindings.intercepting(),
                intercepted=config.intercept,
            ),
            url=parts.table.urls.get(route.name),
        )

    def _refusing(self, route: Route) -> Refusing | None:
        found = self._parts.proxy.ledger.outages.refusing(route.name)
        key = route.fixed_key()
        if found is not None and key is not None and MEANINGS[found.reason].source is Source.TOKEN:
            # Where no request has come since, the token tells whether one would be refused.
            return None if self._parts.tokens.is_served(key) else found
        return found

    # what `check` asks, beside the status page

    def last_refusal(self, route: str) -> LastRefusal | None:
        """What this route's target refused last."""
        return self._parts.proxy.ledger.refusals.last(route)

    def errors(self) -> Sequence[ErrorGroup]:
        """The answers that the sidecar made itself, and those that it broke off, by route and reason."""
        return self._parts.proxy.ledger.outages.errors()

    # families.MetricsSource: likewise

    def is_ready(self) -> bool:
        return self._readiness.state()[0]

    def routes(self) -> Iterable[tuple[str, RouteStats]]:
        # Routes that are gone go on being shown: a counter is never taken back.
        yield from self._parts.proxy.stats.items()
        yield "", self._parts.proxy.ledger.unrouted

    def connections(self) -> int:
        return self._parts.proxy.connections

    def listener_stats(self) -> ListenerStats:
        return self._parts.proxy.acceptors.stats

    def certificates(self) -> Iterable[CertificateReading]:
        return [*self._parts.bindings.certificates.readings(), *self._parts.proxy.interception.readings()]

    def client_expiries(self) -> Mapping[str, float]:
        return self._parts.dialer.client_expiries()

    def handouts(self) -> Iterable[tuple[str, HandoutStats]]:
        return self._handouts.stats()

    def tokens(self) -> list[TokenStatus]:
        return self._parts.tokens.status()

    def token_stats(self) -> TokenStatsTable:
        return self._parts.token_stats

    def faults(self) -> int:
        return self._parts.proxy.faults.count

    def loop_stats(self) -> LoopStats:
        return self._parts.loop_stats

    def log_lines_lost(self) -> Mapping[LineLoss, int]:
        return self._log_lines_lost

    def reload_stats(self) -> ReloadStats:
        return self._reloader.stats

    def fetch_threads(self) -> Iterable[tuple[str, FetchThreads]]:
        return ((name, source.threads) for name, source in self._parts.sources.items())
