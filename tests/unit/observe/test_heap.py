"""sidecar.observe.heap: when memory is given back, and that glibc really gives it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from sidecar.observe.heap import LOOK, WORTH, Glibc, Trimming, own_heap
from tests.support.clock import FakeClock

MIB = 1 << 20


class Model:
    """A heap of which so many bytes are gaps, beside what is not malloc's."""

    def __init__(self, other: int = 60 * MIB) -> None:
        self.other = other
        self.gaps = 0
        self.trims = 0
        self.fails = False

    def idle(self) -> int:
        if self.fails:
            raise OSError("too many open files")
        return self.other + self.gaps

    def trim(self) -> None:
        self.trims += 1
        self.gaps = 0


@pytest.fixture
def heap() -> Model:
    return Model()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def trimming(clock: FakeClock, heap: Model) -> Trimming:
    it = Trimming(clock, heap)
    it.start()
    return it


def test_gaps_are_given_back(trimming: Trimming, clock: FakeClock, heap: Model) -> None:
    """Once there are enough of them, within one interval, each time anew."""
    for times in (1, 2):
        heap.gaps = WORTH
        clock.advance(LOOK)
        assert (heap.trims, heap.gaps) == (times, 0)
    clock.advance(100 * LOOK)
    assert heap.trims == 2


def test_what_is_not_worth_it_is_left(trimming: Trimming, clock: FakeClock, heap: Model) -> None:
    """The heap is held meanwhile: not for a few pages."""
    heap.gaps = WORTH - 1
    clock.advance(100 * LOOK)
    assert heap.trims == 0


def test_what_can_not_be_given_back_is_tried_once(trimming: Trimming, clock: FakeClock, heap: Model) -> None:
    """Memory that is not malloc's grows, too: one attempt, and none again until it has grown as much again."""
    heap.other += WORTH
    clock.advance(100 * LOOK)
    assert heap.trims == 1
    heap.other -= WORTH
    clock.advance(LOOK)
    heap.gaps = WORTH
    clock.advance(LOOK)
    assert heap.trims == 2, "what has become less is the level that counts"


def test_a_look_that_fails_is_not_the_last(trimming: Trimming, clock: FakeClock, heap: Model) -> None:
    """No descriptor is left to look with: it is tried again."""
    heap.gaps, heap.fails = WORTH, True
    clock.advance(3 * LOOK)
    heap.fails = False
    clock.advance(LOOK)
    assert heap.trims == 1


def test_it_ends(trimming: Trimming, clock: FakeClock, heap: Model) -> None:
    """No timer is left; stopping what never began is harmless, as is a heap that can't be trimmed."""
    trimming.stop()
    assert clock.pending == []
    Trimming(clock, heap).stop()
    without = Trimming(clock, None)
    without.start()
    without.stop()
    assert clock.pending == []


def test_it_says_what_it_did(
    trimming: Trimming, clock: FakeClock, heap: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """How much was given back, for who wonders about a pause."""
    heap.gaps = 10 * MIB
    with caplog.at_level(logging.DEBUG, "sidecar.observe.heap"):
        clock.advance(LOOK)
    (entry,) = caplog.records
    assert entry.message == "memory given back"
    assert entry.fields["bytes"] == 10 * MIB  # type: ignore[attr-defined]


GAPS = """
from sidecar.observe.heap import Glibc
heap = Glibc()
sizes = [heap.idle()]
others, large = [], []
for _ in range(200):
    large.append(b"x" * 100_000)
    others.append(b"y" * 30_000)
sizes.append(heap.idle())
large.clear()
sizes.append(heap.idle())
heap.trim()
sizes.append(heap.idle())
print(*sizes)
"""


@pytest.mark.skipif(not isinstance(own_heap(), Glibc), reason="needs glibc 2.33 or newer")
def test_glibc_gives_back_gaps_between_what_is_in_use() -> None:
    """Large pieces that are free with others between them: malloc keeps them all, and after trimming none."""
    # In a process of its own, whose heap has no room for them yet.
    told = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, check=True, text=True).stdout
    before, used, kept, trimmed = map(int, told.split())
    assert used - before < 5 * MIB, "what is in use is not idle"
    assert kept - before > 15 * MIB
    assert trimmed - before < 5 * MIB
