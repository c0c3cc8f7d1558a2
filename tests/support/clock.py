"""The fake clock of the tests.

Owns time in a test: wall clock, monotonic clock and the timers set on it. Any test that needs time builds one
and passes it where a `sidecar.runtime.clock.Clock` is wanted. It never looks at real time and never sleeps. The rule:
the two clocks can part, as they do in the field; a frozen instance wakes up with the wall clock hours ahead
and the monotonic one where it was, and an operator or NTP can step the wall clock either way.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any, final


@final
class FakeTimer:
    """A timer that was set on a `FakeClock`."""

    __slots__ = ("_args", "_callback", "cancelled", "due_mono", "ran")

    def __init__(self, due_mono: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.due_mono = due_mono
        self.cancelled = False
        self.ran = False
        self._callback = callback
        self._args = args

    def cancel(self) -> None:
        """Call the timer off; harmless when it has run already."""
        self.cancelled = True

    def run(self) -> None:
        """Call what was set; only the clock does this."""
        self.ran = True
        self._callback(*self._args)


@final
class FakeClock:
    """A `Clock` that moves only when told to; seconds throughout."""

    def __init__(self, *, wall: float = 1_800_000_000.0, mono: float = 1_000.0) -> None:
        self._wall = wall
        self._mono = mono
        self._order = itertools.count()
        self._timers: list[tuple[float, int, FakeTimer]] = []

    def wall(self) -> float:
        """Unix seconds."""
        return self._wall

    def mono(self) -> float:
        """Monotonic seconds."""
        return self._mono

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> FakeTimer:
        """Run `callback` when the monotonic clock has gained `delay` seconds, within `advance`."""
        timer = FakeTimer(self._mono + max(delay, 0.0), callback, args)
        heapq.heappush(self._timers, (timer.due_mono, next(self._order), timer))
        return timer

    @property
    def pending(self) -> list[float]:
        """The delays after which the timers that are still set will run, soonest first."""
        return sorted(due - self._mono for due, _, timer in self._timers if not timer.cancelled)

    def advance(self, seconds: float) -> None:
        """Let both clocks gain `seconds`, running each timer at its own moment, in order.

        Timers set by timers run too when they fall due within the span. What a timer raises comes out here.
        """
        if seconds < 0:
            raise ValueError("time only grows: use step_wall to move the wall clock back")
        end_mono = self._mono + seconds
        end_wall = self._wall + seconds
        while self._timers and self._timers[0][0] <= end_mono:
            due_mono, _, timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            gained = max(due_mono - self._mono, 0.0)
            self._mono += gained
            self._wall += gained
            moved_from = self._wall
            timer.run()
            end_wall += self._wall - moved_from
        self._mono = end_mono
        self._wall = end_wall

    def freeze_mono(self, seconds: float) -> None:
        """Freeze the instance for `seconds`: the wall clock runs on, the monotonic one and the timers
        stand."""
        self._wall += seconds

    def step_wall(self, delta: float) -> None:
        """Set the wall clock forward, or back with a negative `delta`; no time passes."""
        self._wall += delta
