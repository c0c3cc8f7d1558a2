"""sidecar.observe.repeats: how often alike events are told"""

from __future__ import annotations

from sidecar.observe.repeats import INTERVAL, Pace, Paces


def test_the_first_is_told_at_once_and_the_next_after_a_minute_with_the_count() -> None:
    """To the second; the count begins anew with each that is told."""
    pace = Pace()
    took = [pace.take(now) for now in (5.0, 5.0, 5.0 + INTERVAL - 0.1, 5.0 + INTERVAL, 5.0 + INTERVAL)]
    assert took == [0, None, None, 2, None]
    assert pace.take(5.0 + 2 * INTERVAL) == 1


def test_each_kind_has_its_own_minute() -> None:
    """A flood of one takes no line from another."""
    paces = Paces[str]()
    assert [paces.take(kind, 0.0) for kind in ("a", "a", "b", "a", "b")] == [0, None, 0, None, None]
    assert (paces.take("a", INTERVAL), paces.take("b", INTERVAL)) == (2, 1)


def test_the_number_of_kinds_is_bounded() -> None:
    """The oldest is forgotten: it is told anew."""
    paces = Paces[int]()
    for kind in range(1001):
        assert paces.take(kind, 0.0) == 0
    assert (paces.take(1000, 0.0), paces.take(0, 0.0)) == (None, 0)
