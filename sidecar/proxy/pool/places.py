"""Decides who gets the next connection of a route.

Owns a route's limit on connections (to all of its destinations together), the queue of exchanges that wait for one,
and the budget of requests that are sent again. Called by its pools. All of it is synchronous.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import final

from mypy_extensions import trait

from sidecar.config.groups import PoolSettings
from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.pool.retry_budget import RetryBudget
from sidecar.proxy.ports import Link, Relay
from sidecar.routing.routes import Destination, Route
from sidecar.runtime.clock import Clock


@trait
class Bench:
    """What a route's places ask of each of its pools, and report to it."""

    __slots__ = ()

    def has_spare_dial(self) -> bool:
        """Whether the connections being dialled will have room for more exchanges than wait for them."""
        raise NotImplementedError

    def dial_for(self, exchange: Relay) -> None:
        """Let this exchange wait for a dial. A dial that nobody waits for any more will do."""
        raise NotImplementedError

    def drop(self, link: Link) -> None:
        """Close a connection that carries no request. Its place is free at once."""
        raise NotImplementedError

    def drop_oldest(self) -> None:
        """Close the connection that has been idle longest. Its place is free at once."""
        raise NotImplementedError

    def idle_since_mono(self) -> float | None:
        """Since when its oldest idle connection has been idle; None if none is."""
        raise NotImplementedError


@final
class Places:
    """How many connections a route may have, and which exchanges wait for one."""

    __slots__ = (
        "_budget",
        "_clock",
        "idle",
        "limit",
        "open",
        "pools",
        "queue",
        "queue_limit",
        "queue_wait",
        "route",
        "stats",
    )

    def __init__(self, route: Route, settings: PoolSettings, stats: RouteStats, clock: Clock) -> None:
        self.route = route
        self.stats = stats
        self._clock = clock
        self.pools: set[Bench] = set()
        self.open = 0
        """Connections that are up or being dialled, to all of the route's destinations."""
        self.queue: OrderedDict[Relay, tuple[float, Bench]] = OrderedDict()
        """Exchanges that wait without a dial, with the monotonic second since when, and the pool they need."""
        self._budget = RetryBudget(route.config.retry_budget, requests=stats.begun(), now_mono=clock.mono())
        self.configure(settings)

    def configure(self, settings: PoolSettings) -> None:
        """Use other settings from now on: the top-level ones; the route's own override them."""
        own = self.route.config.pool.over(settings)
        self.limit = own.connections
        self.queue_limit = own.queue
        self.queue_wait = own.queue_wait
        self.idle = own.idle
        self.advance()

    def enter(self, exchange: Relay, pool: Bench) -> None:
        """No connection is idle: dial for this exchange, let it wait, or tell it that the queue is full."""
        if not self.queue and (pool.has_spare_dial() or self._has_room()):
            pool.dial_for(exchange)
            return
        again = exchange.had_its_turn()
        if len(self.queue) >= self.queue_limit and not again:
            exchange.not_connected(self._full())
        elif again:
            self.queue_first([(exchange, pool)])
        else:
            self.queue[exchange] = self._clock.mono(), pool
            self.stats.queued += 1

    def queue_first(self, waiting: Iterable[tuple[Relay, Bench]]) -> None:
        """Queue these before all others, the last of them first. They have waited before."""
        for exchange, pool in waiting:
            self.queue[exchange] = self._clock.mono(), pool
            self.stats.queued += 1
            self.queue.move_to_end(exchange, last=False)
        self.advance()

    def leave(self, exchange: Relay) -> None:
        """It no longer waits."""
        if self.queue.pop(exchange, None) is not None:
            self.stats.queued -= 1

    def hand_over(self, link: Link, pool: Bench) -> bool:
        """A connection has room, and an exchange is queued.

        Returns whether the connection is taken, or was closed by a fault. A connection that still carries requests
        gives no place away: it goes to the first exchange that needs its destination.
        """
        exchange, (_, wanted) = next(iter(self.queue.items()))
        if wanted is not pool and link.streams:
            found = next((one for one, (_, wanted) in self.queue.items() if wanted is pool), None)
            if found is None:
                return False
            exchange, wanted = found, pool
        if wanted is pool:
            try:
                self.leave(exchange)
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                link.abort()
                exchange.faulted(fault)
            else:
                give(link, exchange)
            return True
        pool.drop(link)
        self.advance()
        return False

    def advance(self) -> None:
        """Dial for the exchanges that have waited longest, as long as there is room."""
        while self.queue:
            exchange, (_, pool) = next(iter(self.queue.items()))
            try:
                if not pool.has_spare_dial() and not self._has_room():
                    return
                self.leave(exchange)
                pool.dial_for(exchange)
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                # Taken out here and not by `leave`, which may be what is at fault.
                self.stats.queued -= self.queue.pop(exchange, None) is not None
                exchange.faulted(fault)

    def may_retry(self) -> bool:
        """Whether one more request may be sent again. Counts it in either case."""
        if self._budget.spend(self.stats.begun(), self._clock.mono()):
            return True
        self.stats.retries_denied += 1
        return False

    def sweep(self, now_mono: float) -> None:
        """Fail exchanges that have waited too long, and make sure that the others are dialled for."""
        self._budget.tick(self.stats.begun(), now_mono)
        for exchange in [
            one for one, (since, _) in self.queue.items() if now_mono - since >= self.queue_wait
        ]:
            self.leave(exchange)
            refuse(
                exchange,
                SidecarError(
                    Reason.QUEUE_TIMEOUT,
                    f"All {self.limit} connections of route `{self.route.name}` were busy for {self.queue_wait:g} s. "
                    "Find out why the upstream is slow, or raise `pool.connections`.",
                    retry_after=self.queue_wait,
                ),
            )
        self.advance()

    def _has_room(self) -> bool:
        """Whether another connection may be opened. Closes an idle one for it that no exchange here can use."""
        if self.open < self.limit:
            return True
        if not self.stats.connections_idle:
            return False
        pools = [pool for pool in self.pools if pool.idle_since_mono() is not None]
        if not pools:
            return False
        min(pools, key=lambda pool: pool.idle_since_mono() or 0.0).drop_oldest()
        return True

    def _full(self) -> SidecarError:
        waiting = f"{len(self.queue)} requests wait for one already" if self.queue else "none may wait"
        since_mono = next((since for since, _ in self.queue.values()), None)
        return SidecarError(
            Reason.QUEUE_FULL,
            f"All {self.limit} connections of route `{self.route.name}` are busy and {waiting} (`pool.queue`). "
            "Find out why the upstream is slow, or raise `pool.connections`.",
            # As long as the queue takes at present.
            retry_after=None if since_mono is None else self._clock.mono() - since_mono,
        )


def give(link: Link, exchange: Relay) -> None:
    """Hand over what was waited for. A fault in it belongs to the waiting request: the caller is handling another
    one.
    """
    try:
        exchange.connected(link)
    except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
        link.abort()
        exchange.faulted(fault)


def refuse(exchange: Relay, error: SidecarError) -> None:
    """Report that there is none to be had. Faults are handled as in `give`."""
    try:
        exchange.not_connected(error)
    except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
        exchange.faulted(fault)


def unspoken(destination: Destination) -> SidecarError:
    """The error of a request that needs HTTP/2, to a target that does not speak it."""
    route = destination.route
    need = "Its `protocol` is `http2`" if route.config.protocol == "http2" else "gRPC needs HTTP/2"
    return SidecarError(
        Reason.UPSTREAM_NO_HTTP2,
        f"{need}, and `{destination.origin.decode()}` speaks HTTP/1.1 only, or route `{route.name}` says "
        "`protocol: http1`. On Cloud Run, name the container's port `h2c`; else check the route's `upstream`.",
    )
