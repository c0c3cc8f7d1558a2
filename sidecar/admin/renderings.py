"""Renders a page once for all who ask at the same time, and limits the time for that.

Owns the last rendering, and the share of the event loop's time for rendering. Called by `app` and `pages` for
expensive pages: with 200 routes /metrics takes 110 ms, with 1,000 it takes 800. It does not know what is rendered.
Rules: all who ask during a rendering get the next one, which is made once. A caller gets an older one only if it
accepts that, or if the time for rendering is used up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Generic, TypeVar, final

from sidecar.runtime.clock import Clock, TimerHandle

T = TypeVar("T")

_SHARE: Final = 0.1
"""The share of the event loop's time for rendering."""
_AHEAD: Final = 1.0
"""Seconds of work that may be done at once before that share applies: enough for all but endless requests."""
_KEPT: Final = 10.0
"""Seconds for which the last rendering is kept. If there is none, one is made however long it takes."""


@final
class Budget:
    """The time left for rendering."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._spent = 0.0
        self._at_mono = clock.mono()

    def spend(self, seconds: float) -> None:
        """So much time was used."""
        now_mono = self.clock.mono()
        self._spent = max(0.0, self._spent - (now_mono - self._at_mono) * _SHARE) + seconds
        self._at_mono = now_mono

    def is_spent(self) -> bool:
        """Whether nothing should be rendered now."""
        self.spend(0.0)
        return self._spent > _AHEAD


@final
class Rendering(Generic[T]):
    """A page that is rendered in parts, between which the event loop turns."""

    def __init__(
        self, budget: Budget, make: Callable[[], AsyncIterator[Any]], whole: Callable[[list[Any]], T]
    ) -> None:
        """`make` makes the parts, `whole` joins them."""
        self._budget = budget
        self._make = make
        self._whole = whole
        self._lock = asyncio.Lock()
        self._last: T | None = None
        self._begun = 0
        """How many renderings were begun."""
        self._begun_mono = 0.0
        self._forget: TimerHandle | None = None

    async def get(self, *, age: float = 0.0) -> T:
        """The page, at most `age` seconds old unless there is no time to render it."""
        begun = self._begun
        async with self._lock:
            if self._last is not None:
                since_mono = self._budget.clock.mono() - age
                if self._begun > begun or self._begun_mono > since_mono or self._budget.is_spent():
                    return self._last
            return await self._made()

    async def _made(self) -> T:
        clock = self._budget.clock
        self._begun += 1
        begun_mono = since_mono = clock.mono()
        parts = []
        async for part in self._make():
            parts.append(part)
            self._budget.spend(clock.mono() - since_mono)
            # Lets requests of the data path through.
            await asyncio.sleep(0)
            since_mono = clock.mono()
        made = self._whole(parts)
        self._budget.spend(clock.mono() - since_mono)
        self._last, self._begun_mono = made, begun_mono
        if self._forget is not None:
            self._forget.cancel()
        self._forget = clock.call_later(_KEPT, self._drop)
        return made

    def _drop(self) -> None:
        self._last = self._forget = None
