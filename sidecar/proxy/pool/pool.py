"""Decides which connection serves which request.

Owns the connections to every destination: idle ones (last in, first out, so that surplus ones age out), and those
being dialled. `places` has the number that a route may have, and who waits for one. Called by exchanges. Decisions
are synchronous; only dialling is a task. A connection is never shared between destinations: a `Destination` holds all
that matters for safety (route, host, port, TLS settings).

An exchange gets an idle connection of its destination. If there is none, it gets a place, and one is dialled: the
route has a free place, or can close an idle connection to another of its destinations. Otherwise it waits in the
route's queue. The queue is first in, first out, whatever the destination: the exchange that has waited longest gets
the next connection if that leads where it wants to go, else its place. While an exchange is queued, none of the
route's connections is idle. Dialling is bounded by the route's `timeouts.connect`, the queue by `pool.queue_wait`.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, final

from sidecar.config.groups import Limits, PoolSettings
from sidecar.errors import SidecarError
from sidecar.net import dial
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.faults import Faults, internal
from sidecar.proxy.messages import HTTP1, HTTP2
from sidecar.proxy.pool.places import Bench, Places, give, refuse, unspoken
from sidecar.proxy.ports import Keeper, Link, Relay
from sidecar.routing.routes import Destination
from sidecar.runtime.clock import Clock
from sidecar.runtime.tasks import Tasks

MakeLink = Callable[[Keeper, Bounds, bool], Any]
"""Makes the codec of a new connection, which is a Link. The last argument says whether to speak HTTP/2."""

SESSION_INTERVAL: Final = 300.0
"""Seconds between two readings of a destination's TLS session. Servers accept a session for longer, and on some
versions of Python a reading leaks memory (`sessions_to_read`).
"""


def sessions_to_read(python: tuple[int, ...]) -> float:
    """How many TLS sessions a process may read on this version of Python.

    Before 3.12.8 and 3.13.1, CPython loses 6 KiB with each (https://github.com/python/cpython/issues/116810): 3 MiB may
    go that way, then new connections make whole handshakes.
    """
    return inf if python >= (3, 13, 1) or (3, 12, 8) <= python < (3, 13) else 500


class PoolContext:
    """What all pools work with. `Pools` is one, and holds the pools."""

    def __init__(
        self,
        dialer: dial.Dialer,
        make_link: MakeLink,
        clock: Clock,
        tasks: Tasks,
        *,
        settings: PoolSettings,
        limits: Limits,
    ) -> None:
        self.dialer = dialer
        self.make_link = make_link
        self.clock = clock
        self.tasks = tasks
        self.settings = settings
        """The top-level ones."""
        self.limits = Bounds(limits)
        self.closing = False
        self.faults = Faults()
        """The faults of the whole data path."""
        self.sessions_to_read = sessions_to_read(sys.version_info[:3])
        """How many more TLS sessions may be read. A pool lives no longer than its connections, so its own interval
        bounds nothing."""


@final
class Pool(Keeper, Bench):
    """The connections of one destination."""

    __slots__ = (
        "_dialling",
        "_dropped",
        "_flushing",
        "_idle",
        "_owner",
        "_session",
        "_session_due_mono",
        "_shared",
        "_waiting",
        "expected",
        "generation",
        "open",
        "places",
        "retired",
    )

    def __init__(self, owner: PoolContext, destination: Destination, places: Places, wire: int) -> None:
        self._owner = owner
        self.clock = owner.clock
        self.wire = wire
        self.destination = destination
        self.places = places
        self.stats = places.stats
        self.token_key = destination.token_key()
        self.faults = owner.faults
        self._idle: deque[Link] = deque()
        self._shared: list[Link] = []
        """Connections that carry requests and have room for more."""
        self._waiting: OrderedDict[Relay, None] = OrderedDict()
        """Exchanges that are dialled for. They have waited longer than all queued ones."""
        self._dropped: set[Link] = set()
        """Connections whose place already went to another."""
        self._flushing: dict[Link, float] = {}
        """Connections that end with unsent bytes, and the monotonic second by which they must be done."""
        self.open = 0
        """Connections that are up or being dialled."""
        self.users = 0
        """Exchanges that use this pool, with or without a connection yet."""
        self.retired = False
        """Its route is gone: connections are closed after their request."""
        self.generation = 0
        """Grows with each change of the TLS files. Connections made before the change serve no further requests."""
        self.expected = float(self.capacity) if wire == HTTP2 else 1.0
        """How many requests a connection that is dialled now will probably carry at once."""
        self._dialling = 0
        self._session: Any = None
        self._session_due_mono = -inf

    def __repr__(self) -> str:
        return (
            f"<Pool {self.destination.origin.decode()} open={self.open} idle={len(self._idle)} "
            f"shared={len(self._shared)} waiting={len(self._waiting)} queued={len(self.places.queue)}>"
        )

    def acquire(self, exchange: Relay, *, fresh: bool) -> Link | None:
        if not fresh:
            if self._shared and (link := self._fullest()) is not None:
                return link
            while self._idle:
                link = self._idle[-1]
                usable = not link.is_closing()
                self._idle.pop()
                self.stats.connections_idle -= 1
                if usable:
                    if link.capacity > 1:
                        self._shared.append(link)
                    return link
        self.places.enter(exchange, self)
        return None

    def _fullest(self) -> Link | None:
        """The connection with the least room, so that the others can become idle and close."""
        best: Link | None = None
        for link in list(self._shared):
            if link.is_closing() or link.streams >= link.capacity or link.generation != self.generation:
                self._shared.remove(link)
            elif best is None or link.streams > best.streams:
                best = link
        return best

    @property
    def capacity(self) -> int:
        """How many requests a connection may carry at once, before the target's own limit."""
        return self.destination.route.config.pool.streams or self._owner.settings.streams

    def declined_http2(self) -> None:
        if self.destination.route.config.protocol == "auto":
            self.wire = HTTP1
            self.expected = 1.0

    def forget(self, exchange: Relay) -> None:
        if exchange in self._waiting:
            del self._waiting[exchange]
            self.places.advance()
        else:
            self.places.leave(exchange)

    def may_retry(self) -> bool:
        return self.places.may_retry()

    def release(self, link: Link) -> None:
        """Take back a connection that is ready for another request."""
        if link.generation != self.generation:
            if not link.streams:
                link.close()
            return
        if link.served == 1:
            self._read_session(link)
        if (self._waiting or self.places.queue) and self._serve_waiting(link):
            return
        if link.streams:
            if link.streams < link.capacity and link not in self._shared:
                self._shared.append(link)
            return
        if link in self._shared:
            self._shared.remove(link)
        if self._owner.closing or self.retired:
            link.close()
        else:
            link.idle_since_mono = self._owner.clock.mono()
            self._idle.append(link)
            self.stats.connections_idle += 1

    def _serve_waiting(self, link: Link) -> bool:
        """Give a connection to the exchanges that wait. Returns whether no other may use it then."""
        while link.streams < link.capacity:
            if self._waiting:
                give(link, self._waiting.popitem(last=False)[0])
            elif not self.places.queue or not self.places.hand_over(link, self):
                break
            if link.capacity == 1 or link.is_closing():
                return True
        # It may be idle already: the exchange that it was given to may have given it back.
        return link in self._dropped or (link.capacity > 1 and link in self._idle)

    def _read_session(self, link: Link) -> None:
        """Keep the TLS session of a connection after its first request: TLS 1.3 servers send their tickets after the
        handshake, and by now they have arrived.
        """
        now_mono = self._owner.clock.mono()
        if now_mono >= self._session_due_mono and self._owner.sessions_to_read:
            self._session_due_mono = now_mono + SESSION_INTERVAL
            self._session = link.read_session()
            if self._session is not None:
                self._owner.sessions_to_read -= 1

    def lost(self, connection: Link) -> None:
        """A connection is gone. A waiting exchange gets its place."""
        if connection in self._dropped:
            self._dropped.remove(connection)
            return
        self._flushing.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
            self.stats.connections_idle -= 1
        elif connection in self._shared:
            self._shared.remove(connection)
        self._free_place()

    def later_fault(self, transport: Any, error: Exception) -> SidecarError | None:
        """The error of a connection that ended in a TLS error; None for every other end."""
        return dial.later_fault(self.destination, transport, error)

    def expire(self, before_mono: float) -> None:
        """Close connections that have been idle since before that time. The oldest is at the far end of the deque."""
        while self._idle and self._idle[0].idle_since_mono <= before_mono:
            self.stats.connections_idle -= 1
            connection = self._idle.popleft()
            try:
                connection.close()
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                connection.fault(fault)

    def flush(self, connection: Link) -> None:
        """A connection ends when its last bytes are sent, within `timeouts.send`."""
        self._flushing[connection] = self._owner.clock.mono() + self.destination.route.config.timeouts.send

    def sweep(self, now_mono: float) -> None:
        """Close connections that have been idle too long, or have not sent their last bytes in time."""
        self.expire(now_mono - self.places.idle)
        for connection in [one for one, until_mono in self._flushing.items() if now_mono >= until_mono]:
            del self._flushing[connection]
            connection.abort()

    def renew(self) -> None:
        """The TLS files have changed: close idle connections now, and each busy one when its request ends."""
        self.generation += 1
        self._session = None
        self._session_due_mono = -inf
        self.expire(float("inf"))

    def links(self) -> tuple[int, int]:
        """How many connections carry requests or are being made, and how many are idle."""
        return self.open - len(self._idle), len(self._idle)

    def idle_since_mono(self) -> float | None:
        """Since when its oldest idle connection has been idle; None if none is."""
        return self._idle[0].idle_since_mono if self._idle else None

    def drop_oldest(self) -> None:
        """Close the connection that has been idle longest. Its place is free at once."""
        self.stats.connections_idle -= 1
        self.drop(self._idle.popleft())

    def drop(self, connection: Link) -> None:
        """Close a connection that is neither idle nor in use. Its place is free at once."""
        self._dropped.add(connection)
        self.open -= 1
        self.places.open -= 1
        connection.abort()

    def is_unused(self) -> bool:
        """Whether it holds nothing and may be dropped."""
        return not self.open and not self.users

    def has_spare_dial(self) -> bool:
        """Whether the connections being dialled will have room for more exchanges than wait for them."""
        return self._dialling * self.expected > len(self._waiting)

    def dial_for(self, exchange: Relay) -> None:
        """Let this exchange wait for a dial. A dial that nobody waits for any more will do."""
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
        """Make one more connection, for the exchange that has waited longest by then. That one also gets the error if
        it fails.
        """
        connection = error = None
        try:
            while connection is None:
                generation = self.generation
                made = await self._owner.dialer.connect(
                    self.destination,
                    lambda http2: self._owner.make_link(self, self._owner.limits, http2),
                    self._session,
                    self.stats,
                    http2=self.wire == HTTP2,
                )
                made.generation = generation
                if not await self._speaks(made):
                    continue
                if generation == self.generation or not self._waiting:
                    connection = made
                else:
                    # The TLS files changed meanwhile: what it was judged by may have been a revocation list that did
                    # not name this server yet.
                    self._dropped.add(made)
                    made.abort()
        except SidecarError as failure:
            error = failure
        except Exception as fault:  # noqa: BLE001  # logged and counted, and the one that waits is told
            self.faults.note(fault, f"connecting for route {self.destination.route.name}")
            error = internal()
        finally:
            self._dialling -= 1
        if connection is not None:
            self.stats.connections_opened += 1
            self.expected = connection.capacity
            try:
                self.release(connection)
                self._dial_again()
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                if not connection.fault(fault) and self._waiting:
                    # Not another dial for this one: the next may meet the same.
                    refuse(self._waiting.popitem(last=False)[0], internal())
            return
        self._session = None
        # As many as it would have carried, of those for which no other dial is under way.
        while error is not None and len(self._waiting) > self._dialling * self.expected:
            refuse(self._waiting.popitem(last=False)[0], error)
            if self.expected == 1:
                break
        self._free_place()

    async def _speaks(self, made: Link) -> bool:
        """Whether the target speaks the requested version, or the request may go in the one that it speaks. Raises
        SidecarError.
        """
        settled = await made.settled()
        if settled and made.wire == self.wire:
            return True
        if self.destination.route.config.protocol == "http2":
            if settled:
                self._dropped.add(made)
                made.abort()
            raise unspoken(self.destination)
        self.declined_http2()
        return settled

    def _dial_again(self) -> None:
        """Queue those waiting exchanges that this connection and the dials in progress will not carry."""
        left: list[tuple[Relay, Bench]] = []
        while len(self._waiting) > self._dialling * self.expected:
            left.append((self._waiting.popitem(last=True)[0], self))
        if left:
            self.places.queue_first(left)
