"""The data path as a whole.

Owns the connections from apps, and the one timer behind every timeout; puts together what all of them share
(`exchange.context`). Made by the service.

A sweep over all connections, about once a second, enforces the timeouts, so a request sets no timer and cancels none.
The sweep is off while there are no connections, so an idle sidecar does not wake.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import final

from sidecar.config.groups import Limits, PoolSettings
from sidecar.config.models import RouteConfig
from sidecar.errors import Reason, SidecarError
from sidecar.net.listeners import PLAIN, Listener, Owner, Settings
from sidecar.net.transport import Nobody, Transport
from sidecar.observe.logs import AccessLog
from sidecar.observe.metrics import RouteStats
from sidecar.observe.tracing import Tracer
from sidecar.proxy.acceptor import Acceptors
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.connections import Connection, Connections
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.ledger import Ledger
from sidecar.proxy.http1.downstream import LEAVE_TIME, DownstreamConnection
from sidecar.proxy.http1.heads import TUNNEL_OPEN
from sidecar.proxy.http1.upstream import UpstreamConnection
from sidecar.proxy.http2.downstream import Http2Downstream
from sidecar.proxy.http2.upstream import Http2Upstream
from sidecar.proxy.pool.pools import Pools
from sidecar.proxy.ports import Keeper, Link
from sidecar.routing.routes import Route
from sidecar.runtime import descriptors
from sidecar.runtime.clock import Clock, TimerHandle, until_next
from sidecar.tokens.store import TokenStore

_SWEEP = 1.0
_SHORTEST_SWEEP = 0.02
"""The shortest and longest time between sweeps, in seconds. Within these it is a tenth of the shortest timeout."""
_QUIET_SWEEP = 4.0
"""The usual time between sweeps while no app has a connection open: only idle ones to targets are left then."""


def make_link(keeper: Keeper, limits: Bounds, speaks_http2: bool) -> Link:
    """The codec of a new connection to a target."""
    if speaks_http2:
        return Http2Upstream(keeper, limits, keeper.capacity)
    return UpstreamConnection(keeper, limits)


@final
class Proxy(Connections):
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
        access_log: AccessLog,
        tracer: Tracer | None = None,
    ) -> None:
        self.clock = clock
        self.pools = pools
        self.faults = pools.faults
        self.stats = pools.stats
        self.stats.update((route.name, RouteStats()) for route in admission.table.routes)
        self.ledger = Ledger(clock, self.stats, access_log, tracer)
        self.context = Context(
            clock,
            loop.call_soon,
            admission=admission,
            limits=limits,
            pools=pools,
            tokens=tokens,
            ledger=self.ledger,
        )
        if (pseudonym := admission.pseudonym) is not None:
            one, old, two = (b"Via: %b %b\r\n" % (version, pseudonym) for version in (b"1.1", b"1.0", b"2.0"))
            self.context.via = (one, old, two)
        self._leaving_since_mono = inf
        self.acceptors = Acceptors(
            loop,
            clock,
            lambda owner, barred, at_once: DownstreamConnection(
                self.context, self, owner, barred, at_once=at_once
            ),
            self._settled,
            self.faults,
            limit=limits.connections,
            handshake=limits.head_timeout,
        )
        self.interception = self.acceptors.handshakes.interception
        self.serving: set[Connection] = set()
        self._sweep_timer: TimerHandle | None = None
        self._is_quiet = False  # the next sweep is one of those while no app has a connection open
        self.on_woken: Callable[[], object] = lambda: None
        """Called for the first connection from an app after a time without."""
        self._sweep_every, self._quiet_every = _paces(limits, pools.settings, admission.table.routes)
        self._drained: asyncio.Event = asyncio.Event()

    async def serve(self, listener: Listener, own: Route | None, settings: Settings = PLAIN) -> None:
        """Accept connections; `own` is the route whose listener this is."""
        self.acceptors.add(listener, Owner(own, is_unix=listener.is_unix, settings=settings))

    def reassign(self, listener: Listener, own: Route | None, settings: Settings = PLAIN) -> None:
        """Give this listener to another route, or other settings. Open connections go on and use them from their next
        request. They end if it changes between http and https, or if other processes or client certificates may
        connect now.
        """
        owner = self.acceptors.owner(listener)
        if owner.connects_alike(settings):
            owner.assign(own, settings)
            self.acceptors.update()
        else:
            self._begin_anew(listener, owner, own, settings)

    def _begin_anew(self, listener: Listener, owner: Owner, own: Route | None, settings: Settings) -> None:
        """New connections get another owner. Open ones end after their current answer, idle ones at once, because the
        rules that let them in no longer hold.
        """
        self.acceptors.set_owner(listener, Owner(own, is_unix=listener.is_unix, settings=settings))
        self._leave(owner, at_once=True)

    def stop_serving(self, listener: Listener) -> None:
        """Stop accepting on this listener. Its connections end after their current answer."""
        self._leave(self.acceptors.remove(listener))

    def _leave(self, owner: Owner, *, at_once: bool = False) -> None:
        owner.closing = True
        for connection in list(self.serving):
            if connection.owner.entrance is owner:
                connection.owner.closing = True
                connection.drain(self.clock.mono())
                if at_once:
                    connection.close_if_idle()

    def switch(
        self, admission: Admission, *, limits: Limits, pool: PoolSettings, access_log: AccessLog
    ) -> None:
        """Use another route table for new requests. Those in progress end under the old one.

        A route of the same name goes on counting where the old one was; connections to the destinations of routes
        that are gone are closed, busy ones when they have answered.
        """
        context = self.context
        old, new = context.admission.table.routes, admission.table.routes
        for route in new:
            self.stats.setdefault(route.name, RouteStats())
        context.admission = admission
        context.limits = Bounds(limits)
        self.acceptors.set_limits(limit=limits.connections, handshake=limits.head_timeout)
        self.ledger.access_log = access_log
        self.pools.configure(pool, limits)
        self._sweep_every, self._quiet_every = _paces(limits, pool, new)
        for connection in list(self.serving):
            if connection.owner.origin is not None:
                # What it may ask for was settled when its tunnel was opened.
                connection.owner.closing = True
                connection.drain(self.clock.mono())
                connection.close_if_idle()
        self.pools.retire(set(old) - set(new))

    @property
    def connections(self) -> int:
        """Open connections from the app."""
        return len(self.serving)

    def stop_accepting(self) -> None:
        """Accept the callers that already wait, then close the listeners. Open connections go on."""
        self.acceptors.close()

    def announce_end(self) -> None:
        """Say `Connection: close` in every answer from now on, and go on accepting. Clients with idle connections
        send a request, learn of it, and open new ones. Calling it twice does no harm.
        """
        if not self.context.is_leaving:
            self.context.is_leaving = True
            self._leaving_since_mono = self.clock.mono()

    def begin_drain(self) -> None:
        """Close every connection after its current answer. Idle ones close after their next answer, or if no request
        comes within `LEAVE_TIME` after the end was announced.
        """
        self.announce_end()
        self.context.draining = True
        self.pools.close()
        for connection in list(self.serving):
            connection.drain(self._leaving_since_mono)
        if self._sweep_timer is not None:
            # Soon: an end is not to take a sweep longer than the grace.
            self._sweep_every = self._quiet_every = min(self._sweep_every, LEAVE_TIME / 10)
            self._arm_sweep()
        self._settled()

    async def drained(self) -> None:
        """Wait until the last connection has closed; only after `begin_drain`."""
        await self._drained.wait()

    def abort(self) -> None:
        """Close every connection at once."""
        self.acceptors.abort()
        for connection in list(self.serving):
            connection.abort()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    # what connections call

    def opened(self, connection: Connection) -> None:
        """A connection from the app."""
        self.serving.add(connection)
        self.acceptors.opened(connection.owner.entrance)
        if self._sweep_timer is None or self._is_quiet:
            self._wake()

    def closed(self, connection: Connection) -> None:
        """It is gone. A connection with a fault in `opened` may never have been counted."""
        if connection in self.serving:
            self.serving.discard(connection)
            self.acceptors.closed(connection.owner.entrance)
        self._settled()

    def speaks_http2(
        self, connection: Connection, transport: Transport, barred: SidecarError | None, data: bytes
    ) -> None:
        """It starts as HTTP/2 does: another object takes its place."""
        heir = Http2Downstream(self.context, self, connection.owner, barred, transport)
        self.serving.discard(connection)
        self.serving.add(heir)
        transport.set_protocol(heir)
        heir.data_received(data)

    def tunnels(self, connection: Connection, transport: Transport, inner: Owner, data: bytes) -> None:
        """Its app asked for a tunnel: another object, which serves what is inside, takes its place."""
        if inner.rules is not self.context.admission or inner.entrance.closing:
            raise SidecarError(
                Reason.CALLER_REFUSED,
                "Another configuration came into force while this tunnel was being opened. Ask for it again.",
            )
        origin = inner.origin
        if origin is not None and origin.is_secure:
            self._secure_tunnel(connection, transport, inner, self.interception.context_of(origin.host))
            return
        heir = DownstreamConnection(self.context, self, inner)
        transport.write(TUNNEL_OPEN)
        transport.set_protocol(heir)
        heir.connection_made(transport)
        self.closed(connection)
        transport.resume_reading()
        if data:
            heir.data_received(data)

    def _secure_tunnel(
        self, connection: Connection, transport: Transport, inner: Owner, context: ssl.SSLContext
    ) -> None:
        """Do the handshake on the connection's socket, which no transport owns meanwhile."""
        sock = transport.get_socket()
        try:
            own = None if sock is None else socket.socket(fileno=os.dup(sock.fileno()))
        except OSError as error:
            raise descriptors.none_left("opening a tunnel", error) from error
        taken = False
        try:
            transport.write(TUNNEL_OPEN)
            # An empty buffer takes it at once; else the app is gone, or takes nothing.
            is_out = not transport.get_write_buffer_size()
            transport.set_protocol(Nobody())
            transport.abort()  # what is closed is its descriptor, not the connection
            if own is not None and is_out:
                self.acceptors.tunnel(own, inner, context)
                taken = True
        finally:
            if own is not None and not taken:
                own.close()
            self.closed(connection)

    def _settled(self) -> None:
        if self.context.draining and not self.serving and not self.acceptors.arriving:
            self._drained.set()

    def lost_unused(self, owner: Owner, error: OSError) -> None:
        """A connection ended by an error before it sent a request."""
        self.acceptors.handshakes.lost_unused(owner, error)

    def _sweep(self) -> None:
        busy = True
        try:
            now_mono = self.clock.mono()
            for connection in list(self.serving):
                try:
                    connection.sweep(now_mono)
                except Exception as fault:  # noqa: BLE001  # the connection logs and counts it
                    connection.fault(fault)
            for listener in self.acceptors.outdated():
                owner = self.acceptors.owner(listener)
                settings = Settings(owner.callers, owner.limit, owner.certificate, owner.intercepts)
                self._begin_anew(listener, owner, owner.route, settings)
            busy = self.pools.sweep(now_mono)
            self.ledger.outages.look()
        except Exception as fault:  # noqa: BLE001  # logged and counted; every timeout hangs on the next sweep
            self.faults.note(fault, "sweep")
        finally:
            self._sweep_timer = None
            if busy or self.serving:
                self._arm_sweep()

    def _wake(self) -> None:
        """The first connection after a quiet time: what a sweep would have closed is to serve no request of its."""
        self._arm_sweep()
        self.on_woken()
        self.pools.sweep(self.clock.mono())

    def _arm_sweep(self) -> None:
        """Set the next sweep, and call off the one that was set."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._is_quiet = not self.serving
        pause = until_next(self._quiet_every, self.clock.mono()) if self._is_quiet else self._sweep_every
        self._sweep_timer = self.clock.call_later(pause, self._sweep)


def _sweep_every(limits: Limits, pool: PoolSettings, routes: Iterable[Route]) -> float:
    shortest = min(
        *(limits.head_timeout, limits.keep_alive, limits.body_timeout, limits.send_timeout, pool.queue_wait),
        *(_shortest(route.config, pool) for route in routes),
    )
    return min(_SWEEP, max(_SHORTEST_SWEEP, shortest / 10))


def _paces(limits: Limits, pool: PoolSettings, routes: Collection[Route]) -> tuple[float, float]:
    """Seconds between sweeps: usually, and while no app has a connection open."""
    usual = _sweep_every(limits, pool, routes)
    idle = min((route.config.pool.over(pool).idle for route in routes), default=pool.idle)
    return usual, min(_QUIET_SWEEP, max(usual, idle / 10))


def _shortest(config: RouteConfig, pool: PoolSettings) -> float:
    timeouts = config.timeouts
    return min(
        *(timeouts.response, timeouts.send, timeouts.idle, timeouts.tunnel_idle),
        timeouts.total or inf,
        config.pool.over(pool).queue_wait,
    )
