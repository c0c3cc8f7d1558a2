"""How often similar events are logged: the first at once, the next ones once a minute, with how many were left out.

Owns that rule for all log lines that traffic or a failing peer could repeat endlessly. The module that logs keeps a
`Pace` for each kind of event, or `Paces` where the kinds come with the events. Pure: time comes in as an argument.
"""

from __future__ import annotations

from math import inf
from typing import Final, Generic, TypeVar, final

INTERVAL: Final = 60.0
"""Seconds between two lines about the same."""

K = TypeVar("K")

_KINDS: Final = 1000
"""Most kinds that `Paces` keeps at once: names of callers and libraries may come from outside."""


@final
class Pace:
    """The pace of one kind of event."""

    __slots__ = ("_told_mono", "_untold")

    def __init__(self) -> None:
        self._told_mono = -inf
        self._untold = 0

    def take(self, now_mono: float) -> int | None:
        """Count one more event. None if it gets no line, else how many had none since the last line."""
        if now_mono - self._told_mono < INTERVAL:
            self._untold += 1
            return None
        self._told_mono = now_mono
        untold, self._untold = self._untold, 0
        return untold


@final
class Paces(Generic[K]):
    """The paces of many kinds. If there are too many, the oldest kind is forgotten."""

    __slots__ = ("_paces",)

    def __init__(self) -> None:
        self._paces: dict[K, Pace] = {}

    def take(self, kind: K, now_mono: float) -> int | None:
        """See `Pace.take`."""
        pace = self._paces.get(kind)
        if pace is None:
            if len(self._paces) >= _KINDS:
                del self._paces[next(iter(self._paces))]
            pace = self._paces[kind] = Pace()
        return pace.take(now_mono)
