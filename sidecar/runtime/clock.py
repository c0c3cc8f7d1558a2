"""The clock: the only module that reads real time.

Owns the `Clock` seam and its one real implementation. Everything with a deadline is given a `Clock` by
the composition root; pure modules take plain numbers instead. Wall-clock values end in `_at` (Unix
seconds), monotonic ones in `_mono`; durations are bare seconds.

Two clocks, because each lies in its own way: the monotonic one stands still while an instance is frozen
(Cloud Run without a request), the wall clock can be stepped. Token life is judged by the wall clock,
timeouts of the data path by the monotonic one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, final


class TimerHandle(Protocol):
    """A timer that was set and can be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time as the stateful parts of the sidecar see it."""

    def wall(self) -> float:
        """Unix seconds; may step either way."""
        ...

    def mono(self) -> float:
        """Seconds that only grow; may stand still while the machine is suspended."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Run `callback` after `delay` monotonic seconds, on the event loop."""
        ...


def until_next(period: float, now_mono: float) -> float:
    """Seconds from `now_mono` until the clock shows a multiple of `period`, at least half a period.

    For what is done again and again and is in no hurry: timers that go by this ring together, so that a process with
    nothing to do is woken up less often.
    """
    left = period - now_mono % period
    return left if left >= period / 2 else left + period


def process_cpu() -> float:
    """The CPU seconds that this process has used, all threads together."""
    return time.process_time()


@final
class SystemClock:
    """The real clock, bound to one event loop."""

    __slots__ = ("_loop", "mono", "wall")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Bound here and not wrapped: both are read for every request.
        self.wall: Callable[[], float] = time.time  # noqa: TID251
        # The function under `loop.time()`, less one Python call.
        self.mono: Callable[[], float] = time.monotonic  # noqa: TID251

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """See `Clock.call_later`."""
        return self._loop.call_later(delay, callback, *args)
