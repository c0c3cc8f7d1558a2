"""What is recorded when a request ends.

Owns the counters that change then, and the reports: access log, span, outages, refusals. Every request ends here
once: through `finished` if it had an exchange, through `refused` if it was refused before.
"""

from __future__ import annotations

from typing import Any, final

from sidecar.errors import MEANINGS, SidecarError
from sidecar.observe.logs import AccessLog
from sidecar.observe.metrics import RouteStats
from sidecar.observe.trace import Trace, read_trace
from sidecar.observe.tracing import Tracer
from sidecar.proxy.fields.headers import Fields
from sidecar.proxy.messages import HTTP2, METHOD_NAMES, RequestHead
from sidecar.proxy.ports import Relay
from sidecar.proxy.refusals.outages import Outages
from sidecar.proxy.refusals.refusals import Refusals
from sidecar.routing.routes import Destination
from sidecar.runtime.clock import Clock


@final
class Ledger:
    """See the module's docstring."""

    def __init__(
        self, clock: Clock, stats: dict[str, RouteStats], access_log: AccessLog, tracer: Tracer | None
    ) -> None:
        """`stats` are each route's counters, by the route's name."""
        self.clock = clock
        self.stats = stats
        self.access_log = access_log
        self.tracer = tracer
        self.refusals = Refusals(clock)
        self.outages = Outages(clock)
        self.unrouted = RouteStats()
        """Counters of requests that matched no route."""

    def begun(self, request: RequestHead, destination: Destination) -> tuple[Any, Fields]:
        """A span for the request, and its header lines with the trace in them; only where there is a tracer."""
        if self.tracer is None:
            return None, request.fields
        return self.tracer.begin(
            METHOD_NAMES[request.method],
            request.fields,
            route=destination.route.name,
            origin=destination.origin,
        )

    def finished(self, exchange: Relay, now_mono: float) -> None:
        """An exchange is over; called once for each."""
        request, pool, error = exchange.request, exchange.pool, exchange.error
        stats = pool.stats
        total = now_mono - request.began_mono
        own = exchange.own_share if exchange.own_share >= 0 else total
        stats.bytes_sent += exchange.sent
        stats.bytes_received += exchange.received
        status = exchange.status or (MEANINGS[error.reason].status if error is not None else 0)
        key = (METHOD_NAMES[request.method], status)
        stats.requests[key] = stats.requests.get(key, 0) + 1
        stats.total.observe(total)
        stats.own.observe(own)
        if request.wire == HTTP2:
            stats.http2 += 1
        if grpc := request.grpc_status:
            stats.grpc[grpc] = stats.grpc.get(grpc, 0) + 1
        if exchange.span is not None and self.tracer is not None:
            self.tracer.end(exchange.span, status=status, reason=error.reason if error is not None else None)
        if error is not None:
            self.outages.note(error, pool.destination.route.name, stats)
        if exchange.sample is not None:
            self.refusals.note(pool.destination, exchange.sample, exchange.bearer, stats)
        if self.access_log.wants(status, own_answer=error is not None):
            self._log(exchange, status=status, duration=total, own=own)

    def refused(
        self,
        error: SidecarError,
        *,
        route: str,
        method: str,
        fields: Fields,
        path: bytes,
        began_mono: float,
    ) -> None:
        """A request was answered with `error` before it had an exchange. `route` is empty if it matched none."""
        stats = self.stats[route] if route else self.unrouted
        duration = self.clock.mono() - began_mono
        stats.refused[error.reason] = stats.refused.get(error.reason, 0) + 1
        if self.tracer is not None:
            self.tracer.refused(method, fields, route=route, status=error.status, reason=error.reason)
        stats.requests[method, error.status] = stats.requests.get((method, error.status), 0) + 1
        stats.total.observe(duration)
        stats.own.observe(duration)
        self.outages.note(error, route, stats)
        if self.access_log.wants(error.status, own_answer=True):
            untold = self._line_due(route, error)
            if untold is not None:
                self.access_log.request(
                    route=route,
                    method=method,
                    target=path.decode("ascii", "replace"),
                    status=error.status,
                    sent=0,
                    received=0,
                    duration=duration,
                    reason=error.reason,
                    detail=error.detail,
                    untold=untold,
                )

    def _log(self, exchange: Relay, *, status: int, duration: float, own: float) -> None:
        """Write the access log's entry for a request that is over."""
        error, destination = exchange.error, exchange.pool.destination
        untold = 0 if error is None else self._line_due(destination.route.name, error)
        if untold is None:
            return
        self.access_log.request(
            route=destination.route.name,
            method=exchange.request.method.decode("ascii"),
            target=exchange.admitted[1].decode("ascii", "replace"),
            status=status,
            sent=exchange.sent,
            received=exchange.received,
            duration=duration,
            own_duration=own,
            reason=error.reason if error is not None else None,
            detail=error.detail if error is not None else None,
            upstream=destination.origin.decode("ascii"),
            trace=trace_of(exchange.request.fields),
            grpc=exchange.request.grpc_status or None,
            untold=untold,
        )

    def _line_due(self, route: str, error: SidecarError) -> int | None:
        """None if the access log skips this request, else how many like it had no line since the last one that had."""
        return self.outages.line_due(route, error.reason) if self.access_log.collapses else 0


def trace_of(fields: Fields) -> Trace | None:
    """The trace that a request belongs to. Looked up only where it is logged."""
    found = {name.lower(): value for name, value in fields}
    return read_trace(found.get(b"traceparent"), found.get(b"x-cloud-trace-context"))
