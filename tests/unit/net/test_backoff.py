"""sidecar.net.backoff"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Reason
from sidecar.net.backoff import FORGOTTEN, FREE, LONGEST_PAUSE, PAUSE, STALE, Backoff, Failure

REFUSED = Failure(Reason.CONNECT_REFUSED, "connection refused")
LONGEST = 5.0


def fail(backoff: Backoff, address: str, at: float, *, began: float | None = None) -> None:
    backoff.failed(address, REFUSED, began_mono=at if began is None else began, now_mono=at, jitter=1.0)


def order(backoff: Backoff, addresses: str, at: float) -> str:
    """Addresses are letters; what is dialled, in order."""
    return "".join(addresses[i] for i in backoff.plan(addresses, at, 1.0, LONGEST).order)


def test_what_failed_comes_last_then_is_tried_once_in_its_place() -> None:
    """1 s after the first failure, 2 s after the second: one dial pays for it, those beside it do not."""
    backoff = Backoff()
    assert order(backoff, "abc", 0.0) == "abc"
    fail(backoff, "a", 0.0)
    assert [order(backoff, "abc", at) for at in (0.0, 0.9)] == ["bca", "bca"]
    assert [order(backoff, "abc", at) for at in (1.0, 1.0, 1.9)] == ["abc", "bca", "bca"]
    fail(backoff, "a", 1.5)
    assert [order(backoff, "abc", at) for at in (3.4, 3.5)] == ["bca", "abc"]
    backoff.worked("a")
    assert order(backoff, "abc", 3.6) == "abc"
    assert len(backoff) == 0


def test_of_those_that_failed_the_one_due_soonest_comes_first() -> None:
    """Behind all that did not."""
    backoff = Backoff()
    fail(backoff, "a", 0.5)
    fail(backoff, "b", 0.0)
    assert order(backoff, "abc", 0.6) == "cba"


def test_where_all_failed_the_order_is_the_same() -> None:
    """The one due soonest first; at the same time, the order of the resolver."""
    backoff = Backoff()
    fail(backoff, "a", 0.5)
    fail(backoff, "b", 0.0)
    assert order(backoff, "ab", 0.6) == "ba"
    assert order(backoff, "ba", 0.6) == "ba"


def test_the_one_that_may_be_dialled_first_says_when() -> None:
    """And what became of it: of several the wait is the shortest."""
    backoff = Backoff()
    for address, failures in (("a", FREE + 5), ("b", FREE)):
        for _ in range(failures):
            fail(backoff, address, 1.0)
    assert backoff.plan("ab", 1.0, 1.0, LONGEST).wait == pytest.approx(PAUSE)
    assert order(backoff, "ab", 1.0 + PAUSE) == "ba"


@pytest.mark.parametrize(
    ("jitter", "seconds"), [pytest.param(0.0, 0.5, id="soonest"), pytest.param(1.0, 1.0, id="latest")]
)
def test_half_of_every_wait_is_by_chance(jitter: float, seconds: float) -> None:
    """Those who failed together come back apart."""
    backoff = Backoff()
    backoff.failed("a", REFUSED, began_mono=10.0, now_mono=10.0, jitter=jitter)
    assert order(backoff, "ab", 10.0 + seconds - 0.01) == "ba"
    assert order(backoff, "ab", 10.0 + seconds) == "ab"


def test_where_all_failed_the_first_dials_are_free_then_there_is_one_at_a_time() -> None:
    """A restart of a local upstream must not be felt longer than it takes."""
    backoff = Backoff()
    for _ in range(FREE):
        assert order(backoff, "a", 1.0) == "a"
        fail(backoff, "a", 1.0)
    held = backoff.plan("a", 1.02, 1.0, LONGEST)
    assert (held.order, held.failure) == ((), REFUSED)
    assert (held.since, held.wait) == (pytest.approx(0.02), pytest.approx(0.03))
    assert order(backoff, "a", 1.05) == "a"
    assert order(backoff, "a", 1.05) == ""
    assert order(backoff, "a", 1.05 + LONGEST) == "a"
    backoff.worked("a")
    assert [order(backoff, "a", 9.0) for _ in range(9)] == ["a"] * 9


def test_a_dial_that_could_not_even_begin_is_no_try() -> None:
    """The next one is let through, and not the one after; on a machine that has just started, too."""
    backoff = Backoff()
    for _ in range(FREE):
        fail(backoff, "a", 0.0)
    assert [order(backoff, "a", 0.05) for _ in range(2)] == ["a", ""]
    backoff.not_made("ab")
    assert [order(backoff, "a", 0.05) for _ in range(2)] == ["a", ""]


def test_what_failed_long_ago_refuses_nobody() -> None:
    """After a quiet while the first requests dial together: none gets the error of an outage that may be over."""
    backoff = Backoff()
    for _ in range(FREE + 5):
        fail(backoff, "a", 1.0)
    assert order(backoff, "a", 1.0 + STALE) == "a"
    assert order(backoff, "a", 1.0 + STALE) == ""
    later = 1.0 + STALE + LONGEST + 0.1
    assert [order(backoff, "a", later) for _ in range(3)] == ["a"] * 3
    fail(backoff, "a", later)
    assert order(backoff, "a", later) == ""


def test_dials_beside_each_other_count_as_one() -> None:
    """A hundred requests that meet a restart at once are one failure, not a hundred."""
    backoff = Backoff()
    for _ in range(100):
        fail(backoff, "a", 1.0, began=0.9)
    assert order(backoff, "a", 1.0) == "a"


def test_the_longest_pause_is_short() -> None:
    """However often it failed."""
    backoff = Backoff()
    for at in range(1000):
        fail(backoff, "a", float(at))
    assert backoff.plan("a", 999.0, 1.0, LONGEST).wait == LONGEST_PAUSE


def test_failures_are_forgotten_and_bounded() -> None:
    """By time and by number."""
    backoff = Backoff(size=2)
    for _ in range(FREE):
        fail(backoff, "a", 0.0)
    assert order(backoff, "ab", FORGOTTEN) == "ab"
    assert len(backoff) == 1
    assert order(backoff, "a", FORGOTTEN + 0.1) == "a"
    assert len(backoff) == 0
    for address in "xyz":
        fail(backoff, address, 0.0)
    assert len(backoff) == 2
    assert order(backoff, "zyx", 0.0) == "xzy"


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["dial-fails", "dial-works", "dial-hangs"]), st.floats(0.0, 2.0)),
        max_size=60,
    ),
    addresses=st.integers(1, 4),
    jitter=st.floats(0.0, 1.0),
)
def test_no_address_is_lost_and_nothing_waits_for_long(
    events: list[tuple[str, float]], addresses: int, jitter: float
) -> None:
    """A plan has each address once, or none and a wait that ends; after a success every dial goes through."""
    backoff, now = Backoff(), 0.0
    names = [f"a{n}" for n in range(addresses)]
    for event, pause in events:
        now += pause
        plan = backoff.plan(names, now, jitter, LONGEST)
        if not plan.order:
            assert plan.failure == REFUSED
            assert 0.0 < plan.wait <= LONGEST + 1e-6
            continue
        assert sorted(plan.order) == list(range(addresses))
        if event == "dial-works":
            backoff.worked(names[plan.order[0]])
            assert backoff.plan(names, now, jitter, LONGEST).order
        elif event == "dial-fails":
            for name in names:
                backoff.failed(name, REFUSED, began_mono=now, now_mono=now, jitter=jitter)
            held = backoff.plan(names, now, jitter, LONGEST)
            assert held.wait <= LONGEST_PAUSE + 1e-6
