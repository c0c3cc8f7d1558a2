"""The data path as a whole.

Owns what all connections share: the route table in force, limits, pools, counters, and the one timer
behind every timeout. Made by the service; connections reach their surroundings through it.

Timeouts are kept by a sweep about once a second over all connections, not by a timer for each request: a
request sets no timer and cancels none. The sweep is off while there are no connections, so an idle
sidecar does not wake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from math import inf
from typing import final

from sidecar.config.models import Limits, Pool, RouteConfig
from sidecar.errors import SidecarError
from sidecar.net.listeners import PLAIN, Listener, Owner, Settings
from sidecar.observe.logs import AccessLog
from sidecar.observe.metrics import RouteStats
from sidecar.observe.tracing import Tracer
from sidecar.proxy.acceptor import Acceptors
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.fields.headers import Fields
from sidecar.proxy.http1.downstream import LEAVE_TIME, DownstreamConnection
from sidecar.proxy.pool.pool import Pools
from sidecar.proxy.refusals.outages import Outages
from sidecar.proxy.refusals.refusals import Refusals
from sidecar.routing.routes import Route
from sidecar.runtime.clock import Clock, TimerHandle
from sidecar.tokens.store import TokenStore

_SWEEP = 1.0
_SHORTEST_SWEEP = 0.02
"""Seconds between sweeps: a tenth of the shortest timeout, within these."""


@final
class Proxy:
    """See the module's docstring."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        admission: Admission,
        tokens: TokenStore,
        pools: Pools,
        limits: Limits,
        pseudonym: bytes | None,
        access_log: AccessLog,
        tracer: Tracer | None = None,
    ) -> None:
        self.clock = clock
        self.tracer = tracer
        self.admission = admission
        self.tokens = tokens
        self.pools = pools
        self.limits = limits
        self.access_log = access_log
        self.refusals = Refusals(clock)
        self.outages = Outages(clock)
        self.via = tuple(
            b"" if pseudonym is None else b"Via: %b %b\r\n" % (version, pseudonym)
            for version in (b"1.1", b"1.0")
        )
        """The line to append, for a request that came as HTTP/1.1 and for one that came as 1.0."""
        self.faults = pools.faults
        self.stats = pools.stats
        self.stats.update((route.name, RouteStats()) for route in admission.table.routes)
        self.unrouted = RouteStats()
        self.is_leaving = False
        """Each answer ends its connection; new ones are accepted still."""
        self.draining = False
        self._leaving_since_mono = inf
        self.tunnels: set[Exchange] = set()
        """Those that are a tunnel, or have asked to become one."""
        self.call_soon = loop.call_soon
        self.acceptors = Acceptors(
            loop,
            clock,
            lambda owner, barred, at_once: DownstreamConnection(self, owner, barred, at_once=at_once),
            self._settled,
            self.faults,
            limit=limits.connections,
            handshake=limits.head_timeout,
        )
        self._connections: set[DownstreamConnection] = set()
        self._sweep_timer: TimerHandle | None = None
        self._sweep_every = _sweep_every(limits, pools.settings, admission.table.routes)
        self._drained: asyncio.Event = asyncio.Event()

    async def serve(self, listener: Listener, own: Route | None, settings: Settings = PLAIN) -> None:
        """Accept connections; `own` is the route whose listener this is."""
        self.acceptors.add(listener, Owner(own, is_unix=listener.is_unix, settings=settings))

    def reassign(self, listener: Listener, own: Route | None, settings: Settings = PLAIN) -> None:
        """From now on this listener is another route's, or has other settings; open connections go on, with their next
        request by these. They end where it served http and is to serve https or the reverse, or where other processes
        or other client certificates may connect than they were judged by."""
        owner = self.acceptors.owner(listener)
        if owner.connects_alike(settings):
            owner.assign(own, settings)
            self.acceptors.update()
        else:
            self._begin_anew(listener, owner, own, settings)

    def _begin_anew(self, listener: Listener, owner: Owner, own: Route | None, settings: Settings) -> None:
        """New connections are another owner's; open ones end, each with its current answer. Idle ones end at once: they
        were let in by rules that hold no more."""
        self.acceptors.set_owner(listener, Owner(own, is_unix=listener.is_unix, settings=settings))
        self._leave(owner, at_once=True)

    def stop_serving(self, listener: Listener) -> None:
        """Accept no more by this listener; its connections end, each with its current answer."""
        self._leave(self.acceptors.remove(listener))

    def _leave(self, owner: Owner, *, at_once: bool = False) -> None:
        owner.closing = True
        for connection in list(self._connections):
            if connection.owner is owner:
                connection.drain(self.clock.mono())
                if at_once:
                    connection.close_if_idle()

    def switch(self, admission: Admission, *, limits: Limits, pool: Pool, access_log: AccessLog) -> None:
        """Judge requests by another route table from now on; those under way end under the old one.

        A route of the same name goes on counting where the old one was; connections to the destinations of routes
        that are gone are closed, busy ones when they have answered.
        """
        old, new = self.admission.table.routes, admission.table.routes
        for route in new:
            self.stats.setdefault(route.name, RouteStats())
        self.admission = admission
        self.limits = limits
        self.acceptors.set_limits(limit=limits.connections, handshake=limits.head_timeout)
        self.access_log = access_log
        self.pools.configure(pool, limits)
        self._sweep_every = _sweep_every(limits, pool, new)
        self.pools.retire(set(old) - set(new))

    @property
    def connections(self) -> int:
        """Connections from the app that are open."""
        return len(self._connections)

    def stop_accepting(self) -> None:
        """Accept who waits already, and close the listeners; open connections go on."""
        self.acceptors.close()

    def announce_end(self) -> None:
        """Say `Connection: close` in every answer from now on, and go on accepting: clients with idle connections come
        back, are told, and open others. Again is harmless."""
        if not self.is_leaving:
            self.is_leaving = True
            self._leaving_since_mono = self.clock.mono()

    def begin_drain(self) -> None:
        """Every connection closes after its current answer; idle ones after their next one, or where none is asked for
        within `LEAVE_TIME` after the end was announced."""
        self.announce_end()
        self.draining = True
        self.pools.close()
        for connection in list(self._connections):
            connection.drain(self._leaving_since_mono)
        if self._sweep_timer is not None:
            # Soon: an end is not to take a sweep longer than the grace.
            self._sweep_timer.cancel()
            self._sweep_every = min(self._sweep_every, LEAVE_TIME / 10)
            self._sweep_timer = self.clock.call_later(self._sweep_every, self._sweep)
        self._settled()

    async def drained(self) -> None:
        """Wait until the last connection has closed; only after `begin_drain`."""
        await self._drained.wait()

    def abort(self) -> None:
        """Close every connection at once."""
        self.acceptors.abort()
        for connection in list(self._connections):
            connection.abort()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    # what connections call

    def opened(self, connection: DownstreamConnection) -> None:
        """A connection from the app."""
        self._connections.add(connection)
        self.acceptors.opened(connection.owner)
        if self._sweep_timer is None:
            self._sweep_timer = self.clock.call_later(self._sweep_every, self._sweep)

    def closed(self, connection: DownstreamConnection) -> None:
        """It is gone; one that met a fault in `opened` may never have been counted."""
        if connection in self._connections:
            self._connections.discard(connection)
            self.acceptors.closed(connection.owner)
        self._settled()

    def _settled(self) -> None:
        if self.draining and not self._connections and not self.acceptors.arriving:
            self._drained.set()

    def refused(
        self,
        error: SidecarError,
        method: str,
        fields: Fields,
        path: bytes,
        own: Route | None,
        began_mono: float,
    ) -> None:
        """Count, trace and log an answer to a request that got no exchange."""
        stats = self.unrouted if own is None else self.stats[own.name]
        duration = self.clock.mono() - began_mono
        stats.refused[error.reason] = stats.refused.get(error.reason, 0) + 1
        name = "" if own is None else own.name
        if self.tracer is not None:
            self.tracer.refused(method, fields, route=name, status=error.status, reason=error.reason)
        stats.requests[method, error.status] = stats.requests.get((method, error.status), 0) + 1
        stats.total.observe(duration)
        stats.own.observe(duration)
        self.outages.note(error, name, stats)
        if self.access_log.wants(error.status, own_answer=True):
            untold = self._line_due(name, error)
            if untold is not None:
                self.access_log.request(
                    route=name,
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

    def log_request(self, exchange: Exchange, *, status: int, duration: float, own: float) -> None:
        """Write the access log's entry for a request that is over."""
        error = exchange.error
        route = exchange.pool.destination.route.name
        untold = 0 if error is None else self._line_due(route, error)
        if untold is None:
            return
        self.access_log.request(
            route=route,
            method=exchange.method.decode("ascii"),
            target=exchange.admitted[1].decode("ascii", "replace"),
            status=status,
            sent=exchange.sent,
            received=exchange.received,
            duration=duration,
            own_duration=own,
            reason=error.reason if error is not None else None,
            detail=error.detail if error is not None else None,
            upstream=exchange.pool.destination.origin.decode("ascii"),
            trace=exchange.trace(),
            untold=untold,
        )

    def _line_due(self, route: str, error: SidecarError) -> int | None:
        """None where the access log leaves this one out, else how many like it had no line since the last that had."""
        return self.outages.line_due(route, error.reason) if self.access_log.collapses else 0

    def _sweep(self) -> None:
        busy = True
        try:
            now_mono = self.clock.mono()
            for connection in list(self._connections):
                try:
                    connection.sweep(now_mono)
                except Exception as fault:  # noqa: BLE001  # the connection logs and counts it
                    connection.fault(fault)
            for listener in self.acceptors.outdated():
                owner = self.acceptors.owner(listener)
                settings = Settings(owner.callers, owner.limit, owner.certificate)
                self._begin_anew(listener, owner, owner.route, settings)
            busy = self.pools.sweep(now_mono)
            self.outages.look()
        except Exception as fault:  # noqa: BLE001  # logged and counted; every timeout hangs on the next sweep
            self.faults.note(fault, "sweep")
        finally:
            self._sweep_timer = (
                self.clock.call_later(self._sweep_every, self._sweep) if busy or self._connections else None
            )


def _sweep_every(limits: Limits, pool: Pool, routes: Iterable[Route]) -> float:
    shortest = min(
        *(limits.head_timeout, limits.keep_alive, limits.body_timeout, limits.send_timeout, pool.queue_wait),
        *(_shortest(route.config, pool) for route in routes),
    )
    return min(_SWEEP, max(_SHORTEST_SWEEP, shortest / 10))


def _shortest(config: RouteConfig, pool: Pool) -> float:
    timeouts = config.timeouts
    return min(
        *(timeouts.response, timeouts.send, timeouts.idle, timeouts.tunnel_idle),
        timeouts.total or inf,
        config.pool.over(pool).queue_wait,
    )
