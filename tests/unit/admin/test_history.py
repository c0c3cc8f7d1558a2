"""sidecar.admin.history: what counters become in an interval."""

from __future__ import annotations

import pytest

from sidecar.admin.history import KEPT, NONE_YET, RECENT, History, quantile
from sidecar.observe.metrics import RouteStats


def test_rates_and_durations_are_of_the_interval() -> None:
    history, one, other = History(), RouteStats(), RouteStats()
    one.requests["GET", 200] = 1000
    one.total.observe(60.0)
    history.sample([("one", one), ("other", other)], now_at=100.0, now_mono=0.0)
    assert history.samples == ()
    one.requests["GET", 200] += 10
    other.requests["POST", 503] = 5
    for _ in range(100):
        one.total.observe(0.002)
        other.own.observe(0.00003)
    history.sample([("one", one), ("other", other)], now_at=105.0, now_mono=5.0)
    (sample,) = history.samples
    assert (sample.at, sample.requests_per_second, sample.errors_per_second) == (105.0, 3.0, 1.0)
    assert sample.median == pytest.approx(0.00175)
    assert sample.p99 == pytest.approx(0.0025, rel=0.02)
    assert sample.own_median == pytest.approx(0.000035)


def test_an_interval_without_requests_has_no_durations() -> None:
    history, stats = History(), RouteStats()
    history.sample([("", stats)], now_at=0.0, now_mono=0.0)
    history.sample([("", stats)], now_at=5.0, now_mono=5.0)
    (sample,) = history.samples
    assert (sample.requests_per_second, sample.median, sample.p99, sample.own_median) == (
        0.0,
        None,
        None,
        None,
    )


def test_a_route_that_comes_by_a_reload_counts_from_there_on() -> None:
    history, one, new = History(), RouteStats(), RouteStats()
    history.sample([("one", one)], now_at=0.0, now_mono=0.0)
    new.requests["GET", 200] = 4
    history.sample([("one", one), ("new", new)], now_at=2.0, now_mono=2.0)
    assert history.samples[-1].requests_per_second == 2.0


def test_a_routes_own_numbers_are_of_its_last_minute() -> None:
    """By route; of one that has just come, since it is there."""
    history, one, other = History(), RouteStats(), RouteStats()
    assert history.recent("one") == NONE_YET
    one.requests["GET", 500] = 1000
    history.sample([("one", one), ("other", other)], now_at=0.0, now_mono=0.0)
    one.requests["GET", 404] = 3
    one.requests["GET", 503] = 2
    one.requests["GET", 200] = 25
    one.total.observe(0.002)
    one.own.observe(0.00003)
    for number in range(1, RECENT + 1):
        history.sample([("one", one), ("other", other)], now_at=number * 10, now_mono=number * 10)
    found = history.recent("one")
    assert (found.requests_per_second, found.answers_4xx, found.answers_5xx) == (0.5, 3, 2)
    assert found.median is not None
    assert found.own_median is not None
    assert history.recent("other") == NONE_YET
    history.sample([("one", one), ("other", other)], now_at=70.0, now_mono=70.0)
    assert history.recent("one") == NONE_YET, "a minute later it has been forgotten"


def test_the_number_of_samples_is_bounded() -> None:
    history, stats = History(), RouteStats()
    for number in range(3 * KEPT):
        history.sample([("", stats)], now_at=number, now_mono=number)
    assert len(history.samples) == KEPT
    assert history.samples[-1].at == 3 * KEPT - 1


def test_a_clock_that_stands_still_divides_by_nothing() -> None:
    history, stats = History(), RouteStats()
    history.sample([("", stats)], now_at=0.0, now_mono=1.0)
    history.sample([("", stats)], now_at=0.0, now_mono=1.0)
    assert history.samples == ()


@pytest.mark.parametrize(
    ("counts", "share", "wanted"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([0, 10, 0], 0.5, 1.5),
        ([10, 10, 0], 0.5, 1.0),
        ([10, 10, 0], 0.99, 1.98),
        ([0, 0, 3], 0.5, 2.0),
    ],
)
def test_quantiles_are_interpolated(counts: list[int], share: float, wanted: float | None) -> None:
    assert quantile((1.0, 2.0), counts, share) == (None if wanted is None else pytest.approx(wanted))
