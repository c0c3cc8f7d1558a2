"""The pools of all destinations, and which of them a request goes to.

Owns when a pool begins and when it is dropped: it is made for the first request that needs it, and goes once it holds
no connection and nobody waits. Called by exchanges, the sweep and a reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Final, final

from sidecar.config.groups import Limits, PoolSettings
from sidecar.net import dial
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.messages import HTTP1, HTTP2
from sidecar.proxy.pool.places import Places
from sidecar.proxy.pool.pool import MakeLink, Pool, PoolContext
from sidecar.routing.routes import Destination, Route
from sidecar.runtime.clock import Clock
from sidecar.runtime.tasks import Tasks

_ASKED: Final = {"auto": None, "http1": HTTP1, "http2": HTTP2}
"""By a route's `protocol`; None: what the request came in."""


@final
class Pools(PoolContext):
    """The pools of all destinations."""

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
        super().__init__(dialer, make_link, clock, tasks, settings=settings, limits=limits)
        self.stats: dict[str, RouteStats] = {}
        """Each route's counters by its name: they outlive the pools, and the route itself where another takes its
        place."""
        self._pools: tuple[dict[Destination, Pool], dict[Destination, Pool]] = ({}, {})
        """By the format in which requests arrive, HTTP1 or HTTP2. Both lead to the same pool if the route fixes the
        version.
        """
        self._places: dict[Route, Places] = {}
        """Kept as long as the route exists, so that its retry budget does not restart with each quiet second."""

    def configure(self, settings: PoolSettings, limits: Limits) -> None:
        """Use these from now on. Open connections keep their limits."""
        self.settings = settings
        self.limits = Bounds(limits)
        for places in list(self._places.values()):
            places.configure(settings)

    def get(self, destination: Destination, wire: int) -> Pool:
        """The pool of a destination, for a request that arrived in HTTP1 or HTTP2."""
        if (pool := self._pools[wire].get(destination)) is None:
            route = destination.route
            asked = _ASKED[route.config.protocol]
            if asked is not None and (pool := self._pools[1 - wire].get(destination)) is not None:
                self._pools[wire][destination] = pool
                return pool
            if (places := self._places.get(route)) is None:
                places = Places(route, self.settings, self.stats[route.name], self.clock)
                self._places[route] = places
            self._pools[wire][destination] = pool = Pool(
                self, destination, places, wire if asked is None else asked
            )
            places.pools.add(pool)
        return pool

    def __iter__(self) -> Iterator[Pool]:
        """Each pool, once."""
        return iter({pool: None for pools in self._pools for pool in pools.values()})

    def sweep(self, now_mono: float) -> bool:
        """Close connections that have been idle too long, and end waits that took too long. Returns whether anything
        is left to look after.
        """
        for places in list(self._places.values()):
            places.sweep(now_mono)
        for route, ok in self.dialer.look():
            self._renew(route, ok=ok)
        for pool in self:
            pool.sweep(now_mono)
            if pool.is_unused():
                destination = pool.destination
                for pools in self._pools:
                    if pools.get(destination) is pool:
                        del pools[destination]
                pool.places.pools.discard(pool)
                if pool.retired and not pool.places.pools:
                    del self._places[destination.route]
                    # A last dial for a request under way may have read its files again.
                    self.dialer.forget((destination.route,))
        return any(self._pools)

    def _renew(self, route: Route, *, ok: bool) -> None:
        if any(pool.retired and pool.destination.route is route for pool in self):
            return  # another of its name may be counted there
        stats, result = self.stats[route.name], "ok" if ok else "error"
        stats.tls_reloads[result] = stats.tls_reloads.get(result, 0) + 1
        stats.tls_current = ok
        if ok:
            for pool in self:
                if pool.destination.route is route:
                    pool.renew()

    def retire(self, routes: Set[Route]) -> None:
        """These routes are gone: close their idle connections now, and each busy one when its request ends."""
        for route in routes:
            self.stats[route.name].tls_current = None
            if (places := self._places.get(route)) is not None and not places.pools:
                del self._places[route]
        for pool in self:
            if pool.destination.route in routes:
                pool.retired = True
                pool.expire(float("inf"))

    def close(self) -> None:
        """Close every idle connection now, and each busy one when its request ends."""
        self.closing = True
        for pool in self:
            pool.expire(float("inf"))
