"""Which connection serves which request.

Owns the connections to every destination: idle ones (last in, first out, so that surplus ones age out), and those being
dialled. How many a route may have, and who waits for one, is `places`'. Called by exchanges. The decision is
synchronous; only dialling is a task. A connection is never shared between destinations: a `Destination`
holds all that matters for safety (route, host, port, TLS settings).

Who gets what: an idle connection of the destination · else a place, if the route has a free one or an idle
connection to another of its destinations that can be closed for it: then one is dialled · else a place in the
route's queue. The queue is first in, first out, whatever the destination: whoever has waited longest gets the next
connection if that leads where it wants to go, else its place. While anybody is queued, none of the route's
connections is idle. Dialling is bounded by the route's `timeouts.connect`, the queue by `pool.queue_wait`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict, deque
from collections.abc import Set
from math import inf
from typing import TYPE_CHECKING, final

from sidecar.config.models import Limits
from sidecar.config.models import Pool as Settings
from sidecar.errors import SidecarError
from sidecar.net import dial, tls
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.faults import Faults, internal
from sidecar.proxy.http1.upstream import UpstreamConnection
from sidecar.proxy.pool.places import Places, give, refuse
from sidecar.routing.routes import Destination, Route
from sidecar.runtime.clock import Clock
from sidecar.runtime.tasks import Tasks

if TYPE_CHECKING:
    from sidecar.proxy.exchange.exchange import Exchange

SESSION_INTERVAL = 300.0
"""Seconds between two readings of a destination's TLS session: servers take one for longer than that, and there are
Pythons for which a reading has its price (`sessions_to_read`)."""


def sessions_to_read(python: tuple[int, ...]) -> float:
    """How many TLS sessions a process may read with this version of Python.

    Before 3.12.8 and 3.13.1, CPython loses 6 KiB with each (https://github.com/python/cpython/issues/116810): 3 MiB may
    go that way, then new connections make whole handshakes.
    """
    return inf if python >= (3, 13, 1) or (3, 12, 8) <= python < (3, 13) else 500


@final
class Pool:
    """The connections of one destination."""

    __slots__ = (
        "_dialling",
        "_dropped",
        "_flushing",
        "_idle",
        "_owner",
        "_session",
        "_session_due_mono",
        "_waiting",
        "destination",
        "faults",
        "generation",
        "open",
        "places",
        "retired",
        "stats",
        "token_key",
        "users",
    )

    def __init__(self, owner: Pools, destination: Destination, places: Places) -> None:
        self._owner = owner
        self.destination = destination
        self.places = places
        self.stats = places.stats
        self.token_key = destination.token_key()
        self.faults = owner.faults
        self._idle: deque[UpstreamConnection] = deque()
        self._waiting: OrderedDict[Exchange, None] = OrderedDict()
        """Whoever is dialled for; they have waited longer than all who are queued."""
        self._dropped: set[UpstreamConnection] = set()
        """Connections whose place was given to another already."""
        self._flushing: dict[UpstreamConnection, float] = {}
        """Connections that end with bytes still unsent, with the monotonic second until which they may."""
        self.open = 0
        """Connections that are up or being dialled."""
        self.users = 0
        """Exchanges that hold on to it, whether they have a connection yet or not."""
        self.retired = False
        """Its route is gone: no connection is kept after its request."""
        self.generation = 0
        """Grows with each change of the TLS files: connections made under earlier ones serve nobody else."""
        self._dialling = 0
        self._session: tls.Session | None = None
        self._session_due_mono = -inf

    def __repr__(self) -> str:
        return (
            f"<Pool {self.destination.origin.decode()} open={self.open} idle={len(self._idle)} "
            f"waiting={len(self._waiting)} queued={len(self.places.queue)}>"
        )

    def acquire(self, exchange: Exchange, *, fresh: bool) -> UpstreamConnection | None:
        """A connection now, or None: then `exchange.connected` or `exchange.not_connected` is called, later or at once.

        `fresh` asks for one that served nobody yet: the request has just met a stale one.
        """
        if not fresh:
            while self._idle:
                connection = self._idle[-1]
                usable = not connection.is_closing()
                self._idle.pop()
                self.stats.connections_idle -= 1
                if usable:
                    return connection
        self.places.enter(exchange)
        return None

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits."""
        if exchange in self._waiting:
            del self._waiting[exchange]
            self.places.advance()
        else:
            self.places.leave(exchange)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is ready for another request."""
        if connection.generation != self.generation:
            connection.close()
            return
        if connection.served == 1:
            self._read_session(connection)
        if self._waiting:
            give(connection, self._waiting.popitem(last=False)[0])
        elif self.places.queue:
            self.places.hand_over(connection, self)
        elif self._owner.closing or self.retired:
            connection.close()
        else:
            connection.idle_since_mono = self._owner.clock.mono()
            self._idle.append(connection)
            self.stats.connections_idle += 1

    def _read_session(self, connection: UpstreamConnection) -> None:
        """Keep the TLS session of a first request's connection: TLS 1.3 servers send their tickets after the
        handshake, and by now they are here."""
        now_mono = self._owner.clock.mono()
        if now_mono >= self._session_due_mono and self._owner.sessions_to_read:
            self._session_due_mono = now_mono + SESSION_INTERVAL
            self._session = tls.session_of(connection.transport)
            if self._session is not None:
                self._owner.sessions_to_read -= 1

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone; one that waits gets the place."""
        if connection in self._dropped:
            self._dropped.remove(connection)
            return
        self._flushing.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
            self.stats.connections_idle -= 1
        self._free_place()

    def fault(self, transport: asyncio.BaseTransport, error: Exception) -> SidecarError | None:
        """The error of a connection that ended in one of TLS; None for every other end."""
        return dial.later_fault(self.destination, transport, error)

    def expire(self, before_mono: float) -> None:
        """Close what has been idle since before then: the far end of the deque is the oldest."""
        while self._idle and self._idle[0].idle_since_mono <= before_mono:
            self.stats.connections_idle -= 1
            connection = self._idle.popleft()
            try:
                connection.close()
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                connection.fault(fault)

    def flush(self, connection: UpstreamConnection) -> None:
        """A connection ends when its last bytes are sent; the upstream has `timeouts.send` to take them."""
        self._flushing[connection] = self._owner.clock.mono() + self.destination.route.config.timeouts.send

    def sweep(self, now_mono: float) -> None:
        """Close what has been idle too long, and what has not sent its last bytes in time."""
        self.expire(now_mono - self.places.idle)
        for connection in [one for one, until_mono in self._flushing.items() if now_mono >= until_mono]:
            del self._flushing[connection]
            connection.transport.abort()

    def renew(self) -> None:
        """The TLS files are others now: close idle connections, and each other one as its request ends."""
        self.generation += 1
        self._session = None
        self._session_due_mono = -inf
        self.expire(float("inf"))

    def idle_since_mono(self) -> float | None:
        """From when on its oldest idle connection is; None where none is."""
        return self._idle[0].idle_since_mono if self._idle else None

    def drop_oldest(self) -> None:
        """Close the oldest idle connection; its place is free at once."""
        self.stats.connections_idle -= 1
        self.drop(self._idle.popleft())

    def drop(self, connection: UpstreamConnection) -> None:
        """Close a connection that is neither idle nor in use any more; its place is free at once."""
        self._dropped.add(connection)
        self.open -= 1
        self.places.open -= 1
        connection.transport.abort()

    def is_unused(self) -> bool:
        """Whether it holds nothing and may be dropped."""
        return not self.open and not self.users

    def has_spare_dial(self) -> bool:
        """Whether more connections are being dialled than are waited for."""
        return self._dialling > len(self._waiting)

    def dial_for(self, exchange: Exchange) -> None:
        """Have it wait for a dial; one that nobody waits for any more will do."""
        spare = self.has_spare_dial()
        self._waiting[exchange] = None
        if not spare:
            self.open += 1
            self.places.open += 1
            self._dialling += 1
            try:
                self._owner.tasks.spawn(self._dial(), name=f"dial {self.destination.host}")
            except BaseException:
                self.open -= 1
                self.places.open -= 1
                self._dialling -= 1
                raise

    def _free_place(self) -> None:
        self.open -= 1
        self.places.open -= 1
        self.places.advance()

    async def _dial(self) -> None:
        """One more connection, for whoever has waited longest by then; a failure is the same one's."""
        connection = error = None
        try:
            while connection is None:
                generation = self.generation
                made = await self._owner.dialer.connect(
                    self.destination,
                    lambda: UpstreamConnection(self, self._owner.limits),
                    self._session,
                    self.stats,
                )
                made.generation = generation
                if generation == self.generation or not self._waiting:
                    connection = made
                else:
                    # The TLS files changed meanwhile: what it was judged by may have been a revocation list that did
                    # not name this server yet.
                    self._dropped.add(made)
                    made.transport.abort()
        except SidecarError as failure:
            error = failure
        except Exception as fault:  # noqa: BLE001  # logged and counted, and whoever waits is told
            self.faults.note(fault, f"connecting for route {self.destination.route.name}")
            error = internal()
        finally:
            self._dialling -= 1
        if connection is not None:
            self.stats.connections_opened += 1
            try:
                self.release(connection)
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                if not connection.fault(fault) and self._waiting:
                    # Not another dial for this one: the next may meet the same.
                    refuse(self._waiting.popitem(last=False)[0], internal())
            return
        self._session = None
        if error is not None and len(self._waiting) > self._dialling:
            refuse(self._waiting.popitem(last=False)[0], error)
        self._free_place()


@final
class Pools:
    """The pools of all destinations."""

    def __init__(
        self, dialer: dial.Dialer, clock: Clock, tasks: Tasks, *, settings: Settings, limits: Limits
    ) -> None:
        self.dialer = dialer
        self.clock = clock
        self.tasks = tasks
        self.settings = settings
        """The top-level ones."""
        self.limits = limits
        self.stats: dict[str, RouteStats] = {}
        """Each route's counters by its name: they outlive the pools, and the route itself where another takes its
        place."""
        self.closing = False
        self.faults = Faults()
        """Of the whole data path."""
        self.sessions_to_read = sessions_to_read(sys.version_info[:3])
        """How many more TLS sessions may be read. A pool lives no longer than its connections, so its own interval
        bounds nothing."""
        self._pools: dict[Destination, Pool] = {}
        self._places: dict[Route, Places] = {}
        """Kept as long as the route is: its budget of retries is not to begin anew with each quiet second."""

    def configure(self, settings: Settings, limits: Limits) -> None:
        """Go by these from now on; connections that are open keep their limits."""
        self.settings = settings
        self.limits = limits
        for places in list(self._places.values()):
            places.configure(settings)

    def get(self, destination: Destination) -> Pool:
        """The pool of a destination."""
        if (pool := self._pools.get(destination)) is None:
            route = destination.route
            if (places := self._places.get(route)) is None:
                places = Places(route, self.settings, self.stats[route.name], self.clock)
                self._places[route] = places
            self._pools[destination] = pool = Pool(self, destination, places)
            places.pools.add(pool)
        return pool

    def sweep(self, now_mono: float) -> bool:
        """Close what has been idle too long, end waits that were; whether anything is left to look after."""
        for places in list(self._places.values()):
            places.sweep(now_mono)
        for route, ok in self.dialer.look():
            self._renew(route, ok=ok)
        for destination, pool in list(self._pools.items()):
            pool.sweep(now_mono)
            if pool.is_unused():
                del self._pools[destination]
                pool.places.pools.discard(pool)
                if pool.retired and not pool.places.pools:
                    del self._places[destination.route]
                    # A last dial for a request under way may have read its files again.
                    self.dialer.forget((destination.route,))
        return bool(self._pools)

    def _renew(self, route: Route, *, ok: bool) -> None:
        if any(pool.retired and destination.route is route for destination, pool in self._pools.items()):
            return  # another of its name may be counted there
        stats, result = self.stats[route.name], "ok" if ok else "error"
        stats.tls_reloads[result] = stats.tls_reloads.get(result, 0) + 1
        stats.tls_current = ok
        if ok:
            for destination, pool in self._pools.items():
                if destination.route is route:
                    pool.renew()

    def retire(self, routes: Set[Route]) -> None:
        """These routes are gone: close their idle connections, and each other one as its request ends."""
        for route in routes:
            self.stats[route.name].tls_current = None
            if (places := self._places.get(route)) is not None and not places.pools:
                del self._places[route]
        for destination, pool in self._pools.items():
            if destination.route in routes:
                pool.retired = True
                pool.expire(float("inf"))

    def close(self) -> None:
        """Close every idle connection, and each other one as its request ends."""
        self.closing = True
        for pool in self._pools.values():
            pool.expire(float("inf"))
