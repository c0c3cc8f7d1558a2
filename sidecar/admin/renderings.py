"""Making what many ask for once, and no more often than the data path can bear.

Owns what was made last, and how much of the event loop's time making may take. Called by `app` and `pages` for whatever
costs more than a look: with 200 routes /metrics is 110 ms of work, with 1,000 it is 800. It may not know what is made.
Rules: all who ask while one is being made get the next one, which is made once. An older one is given only where the
caller says that it will do, or where making has had its share of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Generic, TypeVar, final

from sidecar.runtime.clock import Clock, TimerHandle

T = TypeVar("T")

_SHARE: Final = 0.1
"""The share of the event loop's time that rendering may take."""
_AHEAD: Final = 1.0
"""Seconds of work that may be done at once before that: enough for every caller that does not ask without end."""
_KEPT: Final = 10.0
"""Seconds for which the last rendering is kept; where there is none, one is made however long it takes."""


@final
class Budget:
    """The time that is left for making things."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._spent = 0.0
        self._at_mono = clock.mono()

    def spend(self, seconds: float) -> None:
        """So much was used."""
        now_mono = self.clock.mono()
        self._spent = max(0.0, self._spent - (now_mono - self._at_mono) * _SHARE) + seconds
        self._at_mono = now_mono

    def is_spent(self) -> bool:
        """Whether nothing should be made now."""
        self.spend(0.0)
        return self._spent > _AHEAD


@final
class Rendering(Generic[T]):
    """One thing that is made in parts, between which the event loop turns."""

    def __init__(
        self, budget: Budget, make: Callable[[], AsyncIterator[Any]], whole: Callable[[list[Any]], T]
    ) -> None:
        """`make` makes the parts, `whole` puts them together."""
        self._budget = budget
        self._make = make
        self._whole = whole
        self._lock = asyncio.Lock()
        self._last: T | None = None
        self._begun = 0
        """How often one was begun."""
        self._begun_mono = 0.0
        self._forget: TimerHandle | None = None

    async def get(self, *, age: float = 0.0) -> T:
        """It, begun at most `age` seconds ago unless there is no time for that."""
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
