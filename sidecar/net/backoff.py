"""Which addresses to dial, in which order, and when to wait instead.

Owns the record of addresses that could not be connected to. Called by `dial`, for names that could not be resolved
too. Pure: time and jitter come in as arguments.

There are two rules. *Order*: an address that failed lately comes last, for 1 s after its first failure and up to 30 s
after many; then one single dial tries it in its old place again. So a dead address at the head of a DNS answer costs
one happy-eyeballs delay (RFC 8305) now and then, not one for each connection. *Pace*: where all addresses have
failed, the first three dials are free; after that there is one at a time, and a pause of at most a quarter of a
second between two. A dial in between gets the last error, unless that error is old. So a dead upstream gets few
dials, and one that is back is found within that pause.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple, final

from sidecar.errors import Reason

FREE: Final = 3
"""Dials in a row that may fail before there is a pause."""
PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 0.25
"""The longest pause between two dials, in seconds. Pauses double up to it. Short, so that an upstream that is back
serves soon.
"""
LAST: Final = 1.0
LONGEST_LAST: Final = 30.0
"""The longest time, in seconds, for which an address that failed comes last. It doubles up to this."""
STALE: Final = 1.0
"""After this many seconds without a dial, the last result says nothing about now: dials are free again until one
fails.
"""
FORGOTTEN: Final = 300.0
"""Seconds after which a failure is forgotten."""


class Failure(NamedTuple):
    """The last failure of an address."""

    reason: Reason
    words: str
    """What happened, worded for the middle of a sentence."""


class DialPlan(NamedTuple):
    """What to dial."""

    order: tuple[int, ...]
    """Positions in the list of addresses to try. Empty: wait instead."""
    failure: Failure | None = None
    """How the last dial failed, if none is to be made now."""
    since: float = 0.0
    """Seconds since that failure."""
    wait: float = 0.0
    """Seconds until the next dial may be made."""


class _AddressRecord:
    __slots__ = ("at_mono", "failure", "failures", "last_until_mono", "next_mono")

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self.failures = 0
        self.at_mono = 0.0
        self.last_until_mono = 0.0
        self.next_mono = 0.0


@final
class Backoff:
    """The failures of all addresses, at most `size` of them. The oldest failure is dropped first."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._records: OrderedDict[Hashable, _AddressRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def plan(self, addresses: Sequence[Hashable], now_mono: float, jitter: float, longest: float) -> DialPlan:
        """What to dial of these, of which there is one at least; the caller then has to say how it ended.

        A dial that is let through is given `longest` seconds, in which no other is.
        """
        records = [self._fresh(address, now_mono) for address in addresses]
        if None in records:
            first, last = [], []
            for index, record in enumerate(records):
                if record is None:
                    first.append(index)
                elif now_mono >= record.last_until_mono:
                    first.append(index)
                    record.last_until_mono = now_mono + _growing(LAST, LONGEST_LAST, record.failures, jitter)
                else:
                    last.append((record.last_until_mono, index))
            return DialPlan((*first, *(index for _, index in sorted(last))))
        known = [record for record in records if record is not None]
        soonest = min(known, key=lambda record: record.next_mono)
        if now_mono < soonest.next_mono:
            return DialPlan((), soonest.failure, now_mono - soonest.at_mono, soonest.next_mono - now_mono)
        if now_mono - max(record.at_mono for record in known) > STALE:
            for record in known:
                record.failures = min(record.failures, FREE - 1)
        for record in known:
            if record.failures >= FREE:
                record.next_mono = now_mono + longest
        order = sorted(range(len(known)), key=lambda index: known[index].last_until_mono)
        return DialPlan(tuple(order))

    def failed(
        self, address: Hashable, failure: Failure, *, began_mono: float, now_mono: float, jitter: float
    ) -> None:
        """A dial that began at that time failed. Only one of several dials at the same time counts."""
        record = self._records.get(address)
        if record is None:
            if len(self._records) >= self._size:
                self._records.popitem(last=False)
            record = self._records[address] = _AddressRecord(failure)
        if not record.failures or began_mono >= record.at_mono:
            record.failures += 1
        record.failure = failure
        record.at_mono = now_mono
        record.last_until_mono = now_mono + _growing(LAST, LONGEST_LAST, record.failures, jitter)
        paused = record.failures - FREE + 1
        record.next_mono = now_mono + _growing(PAUSE, LONGEST_PAUSE, paused, jitter) if paused > 0 else 0.0
        self._records.move_to_end(address)

    def not_made(self, addresses: Sequence[Hashable]) -> None:
        """A dial that was permitted could not even start, so no other has to wait for it."""
        for address in addresses:
            if (record := self._records.get(address)) is not None:
                record.next_mono = 0.0

    def worked(self, address: Hashable) -> None:
        """A dial succeeded."""
        self._records.pop(address, None)

    def _fresh(self, address: Hashable, now_mono: float) -> _AddressRecord | None:
        record = self._records.get(address)
        if record is not None and now_mono - record.at_mono > FORGOTTEN:
            del self._records[address]
            return None
        return record


def _growing(first: float, longest: float, times: int, jitter: float) -> float:
    """Doubles with each failure. Half of it is random, so that routes that failed together don't come back together."""
    return min(longest, first * 2.0 ** min(times - 1, 30)) * (0.5 + 0.5 * jitter)
