"""How many requests may be sent once more, whatever the traffic."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.proxy.retry_budget import FLOOR, WINDOW, RetryBudget

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
