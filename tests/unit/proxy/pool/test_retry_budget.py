"""How many requests may be sent once more, whatever the traffic."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.proxy.pool.retry_budget import FLOOR, WINDOW, RetryBudget

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.3, 1.0, 4.0, 9.9, 10.1, 25.0]), st.integers(0, 300), st.integers(0, 60)
    ),
    max_size=40,
)
"""Seconds that pass, requests that come then, and retries that are wanted."""


@example(events=[(0.0, 1, 0), (4.0, 0, 0), (9.9, 49, 11), (9.9, 0, 0)], share=0.02, ticks=True)
@given(events=EVENTS, share=st.sampled_from([0.02, 0.1, 0.5, 1.0]), ticks=st.booleans())
def test_in_no_window_are_there_more_than_the_share_and_the_floor(
    events: list[tuple[float, int, int]], share: float, ticks: bool
) -> None:
    """Whenever one is granted, those of the last 10 seconds are at most the floor and the share of what came in the last
    two buckets, which are as long as somebody looks at them: 22 seconds in service."""
    now, requests = 1000.0, 7
    budget = RetryBudget(share, requests=requests, now_mono=now)
    came: list[tuple[float, int]] = []
    spent: list[float] = []
    reach = 2 * WINDOW + 2 if ticks else 4 * WINDOW
    for seconds, count, wanted in events:
        while ticks and seconds > 1.0:
            now, seconds = now + 1.0, seconds - 1.0
            budget.tick(requests, now)
        now += seconds
        requests += count
        came.append((now, count))
        granted = [now for _ in range(wanted) if budget.spend(requests, now)]
        spent += granted
        recent = sum(1 for at in spent if at > now - WINDOW)
        assert not granted or recent <= FLOOR + share * sum(count for at, count in came if at >= now - reach)
    assert len(spent) <= share * requests * 2 + FLOOR * (1 + (now - 1000.0) / WINDOW)


@pytest.mark.parametrize("wanted", [10, 1000])
def test_a_storm_in_steady_traffic_gets_the_share(wanted: int) -> None:
    """Over five minutes of 100 requests a second, of which all or a tenth want to be sent again."""
    budget = RetryBudget(0.1, requests=0, now_mono=0.0)
    spent = 0
    for second in range(300):
        budget.tick(second * 100, float(second))
        spent += sum(budget.spend((second + 1) * 100, float(second)) for _ in range(wanted))
    assert spent <= 0.1 * 30_000 + FLOOR * 31 / 2
    assert spent >= 0.09 * 30_000


def test_a_quiet_route_may_retry() -> None:
    """The floor needs no requests, and is there again once it is out of both buckets."""
    budget = RetryBudget(0.1, requests=1, now_mono=0.0)
    assert [budget.spend(1, 1.0) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    assert not budget.spend(1, 10.5)
    assert budget.spend(1, 31.0)


def test_none_is_none() -> None:
    """A share of 0 switches retries off, floor and all."""
    assert not RetryBudget(0.0, requests=0, now_mono=0.0).spend(1000, 1.0)


def spent_of(budget: RetryBudget, requests: int, now_mono: float) -> int:
    """How many are granted at a time."""
    spent = 0
    while budget.spend(requests, now_mono):
        spent += 1
    return spent


@pytest.mark.parametrize(
    ("looks", "granted"),
    [
        pytest.param((), 0, id="at-once"),
        pytest.param((9.9,), 0, id="in-the-same-bucket"),
        pytest.param((10.0,), 0, id="in-the-next-one"),
        pytest.param((10.0, 19.9), 0, id="at-its-end"),
        pytest.param((10.0, 20.0), FLOOR, id="in-the-one-after"),
        pytest.param((19.9,), 0, id="looked-at-late"),
        pytest.param((19.9, 29.8), 0, id="looked-at-late-and-not-over"),
        pytest.param((20.0,), FLOOR, id="looked-at-too-late-to-know"),
        pytest.param((25.0,), FLOOR, id="and-later"),
    ],
)
def test_what_was_spent_counts_in_its_bucket_and_the_next(looks: tuple[float, ...], granted: int) -> None:
    """Then the floor is there again, whole; a bucket that nobody ended in time takes the next one with it."""
    budget = RetryBudget(0.1, requests=0, now_mono=1000.0)
    assert spent_of(budget, 0, 1000.0) == FLOOR
    for seconds in looks:
        budget.tick(0, 1000.0 + seconds)
    assert spent_of(budget, 0, 1000.0 + (looks[-1] if looks else 0.0)) == granted


def test_a_bucket_ends_with_its_ten_seconds() -> None:
    """What is spent then belongs to the next one, and counts for as long."""
    budget = RetryBudget(0.1, requests=0, now_mono=1000.0)
    assert [budget.spend(0, 1000.0) for _ in range(4)] == [True] * 4
    assert [budget.spend(0, 1010.0) for _ in range(3)] == [True] * 3
    assert spent_of(budget, 0, 1020.0) == FLOOR - 3


def test_requests_count_in_their_bucket_and_the_next() -> None:
    """As what is spent does."""
    budget = RetryBudget(0.5, requests=0, now_mono=1000.0)
    budget.tick(100, 1010.0)
    assert spent_of(budget, 100, 1010.0) == FLOOR + 50
    budget.tick(100, 1020.0)
    budget.tick(100, 1030.0)
    assert spent_of(budget, 100, 1030.0) == FLOOR
