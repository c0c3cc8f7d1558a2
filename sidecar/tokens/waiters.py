"""Callers who wait for one token.

Owns the callers of one key, their time limits and the calling of them. The store adds, removes and wakes them. It
knows nothing of tokens. The rule: each waiter is called exactly once or removed, in the order of joining, and never
from within the call that added it. One timer serves them all, because all wait equally long. If one raises, the
others are still called. Some wait for another token than the current one, because a target refused that: the current
one does not wake them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.observe.metrics import TokenStats
from sidecar.runtime.clock import Clock, TimerHandle

Waiter = Callable[[SidecarError | None], object]

_TIMER_SLACK: Final = 0.001
"""Seconds: a timer that fires up to this much early counts as on time."""

_log: Final = logging.getLogger("sidecar.tokens")


@final
class Waiters:
    """The callers of one key; `wait` is how long (seconds) each may wait before `on_limit` is called."""

    __slots__ = ("_calling", "_clock", "_for_another", "_joined", "_on_limit", "_stats", "_timer", "_wait")

    def __init__(self, clock: Clock, stats: TokenStats, wait: float, on_limit: Callable[[], None]) -> None:
        self._clock = clock
        self._stats = stats
        self._wait = wait
        self._on_limit = on_limit
        self._joined: OrderedDict[Waiter, float] = OrderedDict()
        """Each with the monotonic moment of joining."""
        self._calling: OrderedDict[Waiter, float] = OrderedDict()
        """Waiters that are being called right now: they can still leave."""
        self._for_another: set[Waiter] = set()
        """Waiters who can't use the current token."""
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._joined) + len(self._calling)

    def add(self, waiter: Waiter, *, soon: bool = False, for_another: bool = False) -> None:
        """Add a waiter. `soon` has `on_limit` called at the next opportunity; with `for_another`, `wake_ready` leaves
        it alone.
        """
        self._joined[waiter] = self._clock.mono()
        self._stats.waits += 1
        self._stats.waiting += 1
        if for_another:
            self._for_another.add(waiter)
        if soon:
            self._arm(0.0)
        elif self._timer is None:
            self._arm(self._wait)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter, so that it is not called any more. Harmless if it was called already."""
        self._for_another.discard(waiter)
        for waiters in (self._joined, self._calling):
            if waiters.pop(waiter, None) is not None:
                self._stats.waiting -= 1
        if not self._joined:
            self._disarm()

    def wake(self, error: SidecarError | None) -> None:
        """Call all waiters."""
        self._disarm()
        self._for_another.clear()
        waiters, self._joined = self._joined, OrderedDict()
        self._call(waiters, error)

    def wake_ready(self) -> None:
        """Call those who can use the current token, and those who have waited long enough for another."""
        self._disarm()
        ready: OrderedDict[Waiter, float] = OrderedDict()
        now_mono = self._clock.mono()
        for waiter, joined_mono in list(self._joined.items()):
            left = joined_mono + self._wait - now_mono
            if left <= _TIMER_SLACK or waiter not in self._for_another:
                ready[waiter] = self._joined.pop(waiter)
                self._for_another.discard(waiter)
            elif self._timer is None:
                self._arm(left)
        self._call(ready, None)

    def wake_late(self, error: SidecarError) -> None:
        """Call those who have waited long enough."""
        late: OrderedDict[Waiter, float] = OrderedDict()
        now_mono = self._clock.mono()
        while self._joined:
            waiter, joined_mono = next(iter(self._joined.items()))
            left = joined_mono + self._wait - now_mono
            if left > _TIMER_SLACK:
                self._arm(left)
                break
            late[waiter] = self._joined.popitem(last=False)[1]
            self._for_another.discard(waiter)
        self._call(late, error)

    def _call(self, waiters: OrderedDict[Waiter, float], error: SidecarError | None) -> None:
        now_mono = self._clock.mono()
        self._calling = waiters
        while waiters:
            waiter, joined_mono = waiters.popitem(last=False)
            self._stats.waiting -= 1
            self._stats.wait.observe(now_mono - joined_mono)
            try:
                waiter(error)
            except Exception:  # noqa: BLE001 - logged; the others are owed their call all the same
                _log.exception("a request that waited for a token met a fault in the sidecar")

    def _arm(self, delay: float) -> None:
        self._disarm()
        self._timer = self._clock.call_later(delay, self._ring)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._on_limit()
