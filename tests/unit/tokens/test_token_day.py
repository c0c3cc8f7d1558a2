"""sidecar.tokens.store over days of token life: many keys, outages, rate limits, freezes, clock steps, by seed.

The model of the issuers and of time is `tests.support.token_day`, which holds the store to its rules at every use.
"""

from __future__ import annotations

import asyncio

import pytest

from sidecar.tokens.token import TokenKey
from tests.support.sampling import sampled
from tests.support.token_day import RECOVERY, SLACK, Day
from tests.support.token_issuers import HOUR, ISSUERS, MINUTE, PINNED, SOURCES, WILDCARD, renewed_before

# a day's plan


def plan_traffic(day: Day, hour: int) -> None:
    """An hour of requests: steady, in bursts, or none at all."""
    random = day.random
    start = hour * HOUR
    match random.choice(["steady", "steady", "bursts", "silence"]):
        case "steady":
            moment = random.random()
            while moment < HOUR:
                key = (
                    random.choice(PINNED)
                    if random.random() < 0.7
                    else WILDCARD[int(60 * random.random() ** 3)]
                )
                patience = 0.5 if random.random() < 0.2 else None
                day.at(start + moment, day.request, key, patience)
                moment += random.expovariate(1 / 6)
        case "bursts":
            for _ in range(30):
                moment = start + random.random() * HOUR
                some = [*random.sample(PINNED, 4), *random.sample(WILDCARD, 4)]
                for _ in range(80):
                    day.at(moment, day.request, random.choice(some))


def plan_troubles(day: Day, hours: int) -> None:
    """What goes wrong, and when."""
    random = day.random
    span = hours * HOUR
    for _ in range(hours):
        seconds = random.choice([5.0, 40.0, 90.0, 20 * MINUTE, 90 * MINUTE])
        kind = random.choice(["fail", "limit", "hang", "slow"])
        day.at(random.random() * span, day.trouble, random.choice(list(ISSUERS)), kind, seconds)
    for _ in range(3):
        moment = random.random() * span
        for name in ISSUERS:
            day.at(moment, day.trouble, name, "fail", 10 * MINUTE)
    for _ in range(5):
        day.at(random.random() * span, day.freeze, random.choice([MINUTE, 20 * MINUTE, 5 * HOUR]))
    for _ in range(6):
        moment, back = random.random() * span, random.choice([1.0, MINUTE, 20 * MINUTE])
        seconds = random.choice([-HOUR, -MINUTE, -1.0, 1.0, MINUTE, HOUR])
        day.at(moment, day.step, seconds)
        day.at(moment + back, day.step, -seconds)
    for _ in range(4 * hours):
        moment, key = random.random() * span, random.choice([*PINNED, *WILDCARD[:5]])
        for _ in range(random.choice([1, 1, 50])):
            day.at(moment, day.reject, key)
            moment += 0.3


def judge(day: Day, hours: int) -> None:
    """What can be said of a whole day only."""
    for key in PINNED:
        issuer = ISSUERS[key.credential]
        before = renewed_before(issuer.life)
        period = issuer.life - before
        asks = 5 if issuer.keeps_until is not None and issuer.keeps_until < before else 1
        episodes = day.troubles[key.credential] + day.clock_events + day.renewals[key]
        most = asks * hours * HOUR / period + day.troubled[key.credential] / 10 + 10 * episodes + 2
        assert day.fetches[key] <= most, f"{key} was asked for {day.fetches[key]} times"


def busiest_second(moments: list[float]) -> int:
    """The most moments within one second."""
    most = start = 0
    for end in range(len(moments)):
        while moments[end] - moments[start] > 1.0:
            start += 1
        most = max(most, end - start + 1)
    return most


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "hours"), sampled([(0, 25), (1, 25), (2, 25), (3, 6)], [(3, 6)]))
def test_a_day_of_tokens(seed: int, hours: int) -> None:
    """Over hours of everything, by seed, no caller is given a dying token or another key's, none waits in good
    times, no endpoint is hammered, and nothing is left behind."""

    async def main() -> None:
        day = Day(seed)
        day.probed, day.curious = seed % 2 == 0, True
        day.store.prefetch(PINNED)
        await day.settle()
        for hour in range(hours):
            plan_traffic(day, hour)
        plan_troubles(day, hours)
        if day.probed:
            day.probe()
        await day.live(day.clock.mono() + hours * HOUR)
        judge(day, hours)
        assert day.uses > 80 * hours
        assert day.longest_wait <= 66 + SLACK
        await day.close()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("hours", sampled((24, 6), [6]))
def test_a_quiet_day_makes_nobody_wait(hours: int) -> None:
    """With endpoints that are well, if slow at times, not one of its callers waits after the first fetch."""
    requests, span = 800 * hours, hours * HOUR

    async def main() -> None:
        day = Day(99)
        day.store.prefetch(PINNED)
        await day.live(day.clock.mono() + 5)
        for _ in range(requests):
            day.at(day.random.random() * span, day.request, day.random.choice(PINNED))
        for _ in range(hours):
            day.at(
                day.random.random() * span, day.trouble, day.random.choice(list(ISSUERS)), "slow", 20 * MINUTE
            )
        await day.live(day.clock.mono() + span)
        judge(day, hours)
        assert (day.uses, day.waits, day.turned_away) == (requests, 0, 0)
        await day.close()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("kind", sampled(("fail", "hang", "limit"), ["limit"]))
@pytest.mark.parametrize("asked", [False, True], ids=["nobody-asks", "all-ask"])
def test_recovery_is_no_storm(kind: str, asked: bool) -> None:
    """A hundred keys that were fetched together, and that lost their endpoint together, are not renewed together; only
    callers make a fetch come sooner, and of all that ask for a key at once the first."""

    async def main() -> None:
        keys = [TokenKey(SOURCES["key"], f"https://{number}.test") for number in range(100)]
        day = Day(7, keys)
        day.store.prefetch(keys)
        await day.live(day.clock.mono() + HOUR / 2)
        assert len(day.starts_mono) == 100
        day.starts_mono.clear()
        # One renewal in good times, then none for so long that every token has expired.
        await day.live(day.clock.mono() + HOUR / 2)
        assert len(day.starts_mono) == 100
        assert busiest_second(day.starts_mono) <= 10
        day.trouble("key", kind, 1.1 * HOUR)
        day.sources["key"].retry_after = 60.0
        await day.live(day.clock.mono() + 1.1 * HOUR)
        day.starts_mono.clear()
        for key in keys * 20 if asked else ():
            day.request(key)
        await day.live(day.clock.mono() + RECOVERY)
        assert all(day.use(key) is not None for key in keys)
        # Each came back with its first fetch.
        assert len(day.starts_mono) <= 120
        assert busiest_second(day.starts_mono) <= (100 if asked else 30)
        await day.close()

    asyncio.run(main())
