"""Which connection serves which request.

Owns the connections to every destination: idle ones (last in, first out, so that surplus ones age out),
a bound on all, and the queue of exchanges that wait for one. Called by exchanges. The decision is
synchronous; only dialling is a task. A connection is never shared between destinations: a `Destination`
holds all that matters for safety (route, host, port, TLS settings).
"""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Set
from typing import TYPE_CHECKING, final

from sidecar.clock import Clock
from sidecar.errors import Reason, SidecarError
from sidecar.metrics import RouteStats
from sidecar.proxy import tls
from sidecar.proxy.dial import Dialer
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.routes import Destination, Route
from sidecar.tasks import Tasks
from sidecar.tokens.token import token_key

if TYPE_CHECKING:
    from sidecar.proxy.exchange import Exchange

_log = logging.getLogger(__name__)


@final
class Pool:
    """The connections of one destination."""

    __slots__ = (
        "_dialling",
        "_idle",
        "_owner",
        "_session",
        "_waiting",
        "destination",
        "open",
        "retired",
        "stats",
        "token_key",
        "users",
    )

    def __init__(self, owner: Pools, destination: Destination, stats: RouteStats) -> None:
        self._owner = owner
        self.destination = destination
        self.stats = stats
        self.token_key = token_key(destination)
        self._idle: deque[UpstreamConnection] = deque()
        self._waiting: deque[Exchange] = deque()
        self.open = 0
        """Connections that are up or being dialled."""
        self.users = 0
        """Exchanges that hold on to it, whether they have a connection yet or not."""
        self.retired = False
        """Its route is gone: no connection is kept after its request."""
        self._dialling = 0
        self._session: ssl.SSLSession | None = None

    def __repr__(self) -> str:
        return (
            f"<Pool {self.destination.origin.decode()} open={self.open} idle={len(self._idle)} "
            f"waiting={len(self._waiting)}>"
        )

    def acquire(self, exchange: Exchange, *, fresh: bool = False) -> UpstreamConnection | None:
        """A connection now, or None: then `exchange.connected` or `exchange.not_connected` is called later.

        `fresh` asks for one that served nobody yet: the request has just met a stale one.
        """
        if not fresh:
            while self._idle:
                connection = self._idle.pop()
                self.stats.connections_idle -= 1
                if not connection.is_closing():
                    return connection
        self._waiting.append(exchange)
        self._dial_for_waiting()
        return None

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits."""
        if exchange in self._waiting:
            self._waiting.remove(exchange)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is ready for another request."""
        if connection.served == 1:
            # TLS 1.3 servers send their tickets after the handshake: by now they are here.
            self._session = tls.session_of(connection.transport)
        if self._waiting:
            self._waiting.popleft().connected(connection)
        elif self._owner.closing or self.retired:
            connection.close()
        else:
            connection.idle_since_mono = self._owner.clock.mono()
            self._idle.append(connection)
            self.stats.connections_idle += 1

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone; one that waits gets the place."""
        self.open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
            self.stats.connections_idle -= 1
        self._dial_for_waiting()

    def expire(self, before_mono: float) -> None:
        """Close what has been idle since before then: the far end of the deque is the oldest."""
        while self._idle and self._idle[0].idle_since_mono <= before_mono:
            self.stats.connections_idle -= 1
            self._idle.popleft().close()

    def is_unused(self) -> bool:
        """Whether it holds nothing and may be dropped."""
        return not self.open and not self.users

    def _dial_for_waiting(self) -> None:
        """Have as many dials under way as there are exchanges that wait, within the bound."""
        while self._dialling < len(self._waiting) and self.open < self._owner.limit:
            self.open += 1
            self._dialling += 1
            self._owner.tasks.spawn(self._dial(), name=f"dial {self.destination.host}")

    async def _dial(self) -> None:
        """One more connection, for whoever has waited longest by then; a failure is the same one's."""
        connection = error = None
        try:
            connection = await self._owner.dialer.connect(
                self.destination,
                lambda: UpstreamConnection(
                    self, head_limit=self._owner.head_limit, header_limit=self._owner.header_limit
                ),
                self._session,
            )
        except SidecarError as failure:
            error = failure
        except Exception:  # noqa: BLE001  # logged, and whoever waits is told
            _log.exception("fault while connecting", extra={"fields": {"route": self.destination.route.name}})
            error = SidecarError(
                Reason.INTERNAL, "A fault in the sidecar while it connected to the upstream."
            )
        finally:
            self._dialling -= 1
        if connection is not None:
            self.stats.connections_opened += 1
            self.release(connection)
            return
        self.open -= 1
        self._session = None
        if error is not None and len(self._waiting) > self._dialling:
            self._waiting.popleft().not_connected(error)
        self._dial_for_waiting()


@final
class Pools:
    """The pools of all destinations."""

    def __init__(
        self,
        dialer: Dialer,
        clock: Clock,
        tasks: Tasks,
        *,
        limit: int,
        idle: float,
        head_limit: int,
        header_limit: int,
    ) -> None:
        """`limit` bounds the connections of one destination, `idle` is in seconds, `head_limit` in bytes,
        `header_limit` in lines."""
        self.dialer = dialer
        self.clock = clock
        self.tasks = tasks
        self.limit = limit
        self.idle = idle
        self.head_limit = head_limit
        self.header_limit = header_limit
        self.stats: dict[Route, RouteStats] = {}
        """Each route's counters: they outlive the pools."""
        self.closing = False
        self._pools: dict[Destination, Pool] = {}

    def get(self, destination: Destination) -> Pool:
        """The pool of a destination."""
        if (pool := self._pools.get(destination)) is None:
            self._pools[destination] = pool = Pool(self, destination, self.stats[destination.route])
        return pool

    def sweep(self, now_mono: float) -> bool:
        """Close what has been idle too long; whether anything is left to look after."""
        for destination, pool in list(self._pools.items()):
            pool.expire(now_mono - self.idle)
            if pool.is_unused():
                del self._pools[destination]
        return bool(self._pools)

    def retire(self, routes: Set[Route]) -> None:
        """These routes are gone: close their idle connections, and each other one as its request ends."""
        for destination, pool in self._pools.items():
            if destination.route in routes:
                pool.retired = True
                pool.expire(float("inf"))

    def close(self) -> None:
        """Close every idle connection, and each other one as its request ends."""
        self.closing = True
        for pool in self._pools.values():
            pool.expire(float("inf"))
