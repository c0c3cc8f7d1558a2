"""sidecar.runtime.clock: timers that ring together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.runtime.clock import until_next


@given(st.sampled_from([1.0, 2.0, 4.0, 10.0, 0.3]), st.floats(0, 1e7))
def test_the_next_multiple_is_near_and_never_at_once(period: float, now_mono: float) -> None:
    """From half a period to one and a half: what rang a moment too early does not ring twice."""
    left = until_next(period, now_mono)
    assert period / 2 <= left <= period * 1.5
    beyond = (now_mono + left) / period
    assert beyond == pytest.approx(round(beyond), abs=1e-6)


def test_timers_of_one_period_ring_together() -> None:
    """Whenever each was set."""
    assert {now_mono + until_next(4.0, now_mono) for now_mono in (1.0, 1.5, 0.25)} == {4.0}
