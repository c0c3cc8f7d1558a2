"""What costs much is made once for all who ask, and takes no more than its share of the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sidecar.admin.renderings import Budget, Rendering
from tests.support.clock import FakeClock


class Counted:
    """Something that takes `cost` seconds to make, and says the how manieth it is."""

    def __init__(self, cost: float = 0.0) -> None:
        self.clock = FakeClock()
        self.cost = cost
        self.made = 0
        self.rendering: Rendering[str] = Rendering(Budget(self.clock), self._make, "".join)

    async def _make(self) -> AsyncIterator[str]:
        self.made += 1
        self.clock.advance(self.cost)
        yield str(self.made)


async def test_each_who_asks_gets_a_new_one() -> None:
    """One after the other: nothing older than the question."""
    counted = Counted()
    assert [await counted.rendering.get() for _ in range(3)] == ["1", "2", "3"]


async def test_all_who_ask_at_once_share_one() -> None:
    """A hundred questions are two at most: what was begun before one of them is not its answer."""
    counted = Counted()
    answers = await asyncio.gather(*(counted.rendering.get() for _ in range(100)))
    assert set(answers) <= {"1", "2"}
    assert counted.made <= 2


async def test_an_older_one_is_given_where_that_will_do() -> None:
    counted = Counted()
    await counted.rendering.get()
    counted.clock.advance(0.9)
    assert await counted.rendering.get(age=1.0) == "1"
    counted.clock.advance(0.2)
    assert await counted.rendering.get(age=1.0) == "2"


async def test_making_takes_a_tenth_of_the_time_at_most() -> None:
    """However often it is asked for; who asks once in a while gets a new one."""
    counted = Counted(cost=0.1)
    began_mono = counted.clock.mono()
    for _ in range(10_000):
        await counted.rendering.get()
        counted.clock.advance(0.01)
    assert counted.made * 0.1 < 1.2 + 0.1 * (counted.clock.mono() - began_mono)
    counted.clock.advance(9.0)
    before = counted.made
    await counted.rendering.get()
    assert counted.made == before + 1


async def test_what_is_no_longer_asked_for_is_not_kept() -> None:
    """Ten seconds after it was made a new one is made, even where that takes more than its share."""
    counted = Counted(cost=30.0)
    await counted.rendering.get()
    assert await counted.rendering.get() == "1"
    counted.clock.advance(10.1)
    assert await counted.rendering.get() == "2"
