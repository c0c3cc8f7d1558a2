"""sidecar.observe.metrics: the records that are counted in."""

from __future__ import annotations

from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe import metrics
from sidecar.observe.histogram import Histogram
from sidecar.observe.metrics import TokenStatsTable
from sidecar.tokens.entry import TokenState


@given(st.lists(st.floats(min_value=0, max_value=1000)))
def test_a_histogram_loses_nothing(durations: list[float]) -> None:
    """Up to any bound, a histogram counts exactly the durations that are not greater."""
    histogram = Histogram(metrics.OWN_BOUNDS)
    for duration in durations:
        histogram.observe(duration)
    for index, bound in enumerate(histogram.bounds):
        assert sum(histogram.counts[: index + 1]) == sum(duration <= bound for duration in durations)
    assert sum(histogram.counts) == len(durations)
    assert histogram.sum == pytest.approx(sum(durations))


@pytest.mark.parametrize(
    ("bounds", "least", "most"),
    [
        pytest.param(metrics.OWN_BOUNDS, 10e-6, 10.0, id="own"),
        pytest.param(metrics.DURATION_BOUNDS, 100e-6, 300.0, id="total"),
        pytest.param(metrics.FETCH_BOUNDS, 1e-3, 30.0, id="fetch"),
    ],
)
def test_bounds_ascend_over_the_range_that_matters(
    bounds: tuple[float, ...], least: float, most: float
) -> None:
    """Bounds strictly ascend from the fastest case to the longest timeout, in steps of at most four."""
    assert (bounds[0], bounds[-1]) == (least, most)
    assert all(1 < high / low <= 4 for low, high in pairwise(bounds))


def _is_parsed(method: str) -> bool:
    try:
        httptools.HttpRequestParser(object()).feed_data(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    except httptools.HttpParserUpgrade:
        return True
    except httptools.HttpParserError:
        return False
    return True


@pytest.mark.parametrize("method", sorted(metrics.METHODS))
def test_a_known_method_is_one_the_parser_lets_through(method: str) -> None:
    """Every value of the label `method` can arrive."""
    assert _is_parsed(method)


@pytest.mark.parametrize("method", ["FOO", "get", "PRI", "DESCRIBE", "SETUP", "PLAY", "FLUSH"])
def test_no_other_method_gets_through(method: str) -> None:
    """What the parser refuses is no value of the label `method`: callers cannot invent series."""
    assert not _is_parsed(method)
    assert method not in metrics.METHODS


def test_token_states_are_those_of_the_store() -> None:
    """The values of the label `state` are the states that the token store knows."""
    assert set(metrics.TOKEN_STATES) == {state.value for state in TokenState}


def test_a_token_record_is_made_once() -> None:
    """A key finds the record that it was given first, so that a counter never goes back."""
    table = TokenStatsTable(limit=10)
    first = table.record("default", "https://a")
    assert table.record("default", "https://a") is first
    assert table.record("default", "https://b") is not first
    assert table.record("other", "https://a") is not first


def test_token_histograms_are_shared_by_a_credential() -> None:
    """Durations are kept for each credential, not for each audience."""
    table = TokenStatsTable(limit=10)
    one, two = table.record("default", "https://a"), table.record("default", "https://b")
    other = table.record("other", "https://a")
    assert one.duration is two.duration
    assert one.wait is two.wait
    assert other.duration is not one.duration
    assert dict(table.histograms()) == {
        "default": (one.duration, one.wait),
        "other": (other.duration, other.wait),
    }


def test_token_records_are_bounded() -> None:
    """Past the limit, new audiences of a credential share one record; the known ones keep theirs."""
    table = TokenStatsTable(limit=2)
    known = [table.record("default", f"https://{name}") for name in "ab"]
    late = [table.record("default", f"https://{n}") for n in range(100)]
    assert {id(record) for record in late} == {id(table.record("default", metrics.OTHERS))}
    assert [table.record("default", f"https://{name}") for name in "ab"] == known
    assert len(list(table.records())) == 3
