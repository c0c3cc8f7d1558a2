"""sidecar.proxy.pool.places: the bound of a route, and who waits for a place; on the wire it is tests/wire/test_queue.py"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.pool.places import give, refuse
from sidecar.proxy.pool.retry_budget import FLOOR, WINDOW
from tests.support.pooling import Asker, Bench, MakeBench
from tests.support.sides import FAULT, FakeLink

REFUSED = SidecarError(Reason.CONNECT_REFUSED, "Refused.")


def test_who_waits_is_served_in_turn_and_one_that_had_its_turn_first(make_bench: MakeBench) -> None:
    """Each with the place that came free; the gauge follows."""
    bench = make_bench("connections: 1, queue: 2")
    first = bench.busy()
    second, third = bench.ask(), bench.ask()
    again = bench.ask(again=True)
    assert bench.stats.queued == 3
    for before, after in ((first, again), (again, second), (second, third)):
        bench.free(before)
        assert after.link is first.link
    assert (bench.stats.queued, bench.places.open, bench.dials.under_way) == (0, 1, [])


@pytest.mark.parametrize(
    ("queue", "words", "retry_after"),
    [
        pytest.param(0, "none may wait", None, id="no-queue"),
        pytest.param(2, "2 requests wait for one already", 7.0, id="full"),
    ],
)
def test_a_full_queue_says_so(
    make_bench: MakeBench, queue: int, words: str, retry_after: float | None
) -> None:
    """With how many wait, and as long as the first of them has; one that had its turn is no more than was there."""
    bench = make_bench(f"connections: 1, queue: {queue}")
    bench.busy()
    waiting = []
    for _ in range(queue):
        waiting.append(bench.ask())
        bench.clock.advance(3.5)
    error = bench.ask().error
    assert (error.reason, error.retry_after) == (Reason.QUEUE_FULL, retry_after)
    assert error.detail == (
        f"All 1 connections of route `any` are busy and {words} (`pool.queue`). "
        "Find out why the upstream is slow, or raise `pool.connections`."
    )
    assert [request.outcomes for request in (*waiting, bench.ask(again=True))] == [[]] * (queue + 1)
    assert bench.stats.queued == queue + 1


def test_a_wait_has_an_end(make_bench: MakeBench) -> None:
    """At `queue_wait`, not before, and each its own; the place of the others is theirs still."""
    bench = make_bench("connections: 1, queue_wait: 4s")
    first = bench.busy()
    early = bench.ask()
    bench.clock.advance(1.0)
    late = bench.ask()
    bench.sweep(2.9)
    assert early.outcomes == []
    bench.sweep(0.1)
    assert (early.error.reason, early.error.retry_after) == (Reason.QUEUE_TIMEOUT, 4.0)
    assert early.error.detail == (
        "All 1 connections of route `any` were busy for 4 s. "
        "Find out why the upstream is slow, or raise `pool.connections`."
    )
    assert (late.outcomes, bench.stats.queued) == ([], 1)
    bench.free(first)
    assert late.link is first.link


def test_who_leaves_waits_no_longer(make_bench: MakeBench) -> None:
    """Once or twice; who never waited is not counted off."""
    bench = make_bench("connections: 1")
    first = bench.busy()
    gone, other = bench.ask(), bench.ask()
    for _ in range(2):
        bench.pool("a").forget(gone)
    assert bench.stats.queued == 1
    bench.free(first)
    assert (gone.outcomes, other.link) == ([], first.link)


def test_the_host_that_was_idle_for_longest_makes_room_for_another(make_bench: MakeBench) -> None:
    """Only where there is no place left, and none where nothing is idle."""
    bench = make_bench("connections: 2")
    a, b = bench.busy("a"), bench.busy("b")
    bench.free(b)
    bench.clock.advance(1.0)
    bench.free(a)
    c = bench.ask("c")
    assert (b.link.is_closing(), a.link.is_closing()) == (True, False)
    bench.dials.end(0, None)
    assert c.link
    d = bench.ask("d")
    assert a.link.is_closing()
    waits = bench.ask("e")
    assert (bench.places.open, bench.stats.queued, len(bench.dials.under_way)) == (2, 1, 1)
    bench.dials.end(0, None)
    assert (bool(d.link), waits.outcomes) == (True, [])


def test_a_place_is_the_next_ones_whatever_its_host(make_bench: MakeBench) -> None:
    """A connection to another host is closed for it, and its own is dialled for."""
    bench = make_bench("connections: 1")
    a = bench.busy("a")
    b = bench.ask("b")
    bench.free(a)
    assert a.link.is_closing()
    assert (bench.stats.queued, bench.places.open, len(bench.dials.under_way)) == (0, 1, 1)
    bench.dials.end(0, None)
    assert b.link.keeper is bench.pool("b")


def test_a_dial_that_is_to_spare_needs_no_place(make_bench: MakeBench) -> None:
    """The next one waits for the dial that nobody waits for any more."""
    bench = make_bench("connections: 1")
    gone = bench.ask()
    bench.pool("a").forget(gone)
    heir = bench.ask()
    assert (bench.stats.queued, len(bench.dials.under_way)) == (0, 1)
    bench.dials.end(0, None)
    assert (gone.outcomes, bool(heir.link)) == ([], True)


def test_a_dial_that_failed_leaves_its_place_to_the_queue(make_bench: MakeBench) -> None:
    """Only the request it was for is told."""
    bench = make_bench("connections: 1")
    first, second = bench.ask(), bench.ask()
    bench.dials.end(0, REFUSED)
    assert (first.error, second.outcomes, bench.stats.queued) == (REFUSED, [], 0)
    bench.dials.end(0, None)
    assert second.link


def test_retries_beyond_the_budget_are_counted(make_bench: MakeBench) -> None:
    """By the clock and the requests of the route."""
    bench = make_bench("connections: 1", ", retry_budget: 0.5")
    assert [bench.places.may_retry() for _ in range(FLOOR + 2)] == [True] * FLOOR + [False] * 2
    assert bench.stats.retries_denied == 2
    bench.clock.advance(3 * WINDOW)
    assert bench.places.may_retry()
    bench.stats.requests["GET", 200] = 4
    assert [bench.places.may_retry() for _ in range(FLOOR + 2)].count(True) == FLOOR - 1 + 2


def test_the_budget_s_buckets_go_by_the_sweep(make_bench: MakeBench) -> None:
    """Also where nobody retries: what was spent counts in its bucket and the next."""
    bench = make_bench("connections: 1", ", retry_budget: 0.5")
    bench.busy()
    assert all(bench.places.may_retry() for _ in range(FLOOR))
    bench.stats.requests["GET", 200] = 100
    bench.sweep(WINDOW)
    bench.sweep(WINDOW)
    assert [bench.places.may_retry() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]


# faults: those of a waiting request, met in the middle of another's


def broken(*_: object) -> None:
    raise FAULT


def given(bench: Bench, connection: FakeLink, request: Asker) -> None:
    give(connection, request)


def handed_over(bench: Bench, connection: FakeLink, request: Asker) -> None:
    bench.places.queue[request] = 0.0, request.pool
    bench.stats.queued += 1
    assert bench.places.hand_over(connection, request.pool)


@pytest.mark.parametrize("how", [given, handed_over])
def test_a_fault_of_an_exchange_that_is_given_a_connection_is_its_own(
    make_bench: MakeBench, how: Callable[[Bench, FakeLink, Asker], None]
) -> None:
    """It is told, and the connection closed at once: nobody knows what was written to it."""
    bench = make_bench("connections: 1")
    before = bench.busy()
    before.link.streams = 0
    request = Asker(bench.pool("a"), 1)
    request.broken = True
    how(bench, before.link, request)
    assert (request.faults, request.outcomes, before.link.closed) == ([FAULT], [], True)


def test_a_fault_in_leaving_the_queue_is_the_waiting_one_s(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is closed as well, and is not kept."""
    bench = make_bench("connections: 1")
    first = bench.busy()
    request = bench.ask()
    with monkeypatch.context() as patch:
        patch.setattr(type(bench.places), "leave", broken)
        bench.free(first)
    assert (request.faults, request.outcomes) == ([FAULT], [])
    assert (first.link.closed, bench.stats.connections_idle) == (True, 0)


@pytest.mark.parametrize("where", ["leave", "dial_for"])
def test_a_fault_in_being_dialled_for_takes_nobody_else_s_place(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It is out of the queue, counted off, and told; the next one is dialled for."""
    bench = make_bench("connections: 1")
    bench.busy()
    waiting = [bench.ask() for _ in range(2)]
    monkeypatch.setattr(type(bench.places) if where == "leave" else type(bench.pool("a")), where, broken)
    bench.places.limit = 2
    bench.places.advance()
    assert [request.faults for request in waiting] == [[FAULT]] * 2
    assert (bench.stats.queued, len(bench.places.queue)) == (0, 0)


def test_what_is_idle_of_a_route_before_it_makes_no_room(make_bench: MakeBench) -> None:
    """A route of the same name had the same counters."""
    bench = make_bench("connections: 1")
    bench.busy()
    bench.stats.connections_idle += 1
    waits = bench.ask()
    assert (waits.outcomes, bench.stats.queued, bench.dials.under_way) == ([], 1, [])


def test_a_fault_of_an_exchange_that_is_refused_is_its_own(make_bench: MakeBench) -> None:
    """As with a connection."""
    bench = make_bench("connections: 1")
    request = Asker(bench.pool("a"), 1)
    refuse(request, REFUSED)
    assert (request.error, request.faults) == (REFUSED, [])
    request.broken = True
    refuse(request, REFUSED)
    assert request.faults == [FAULT]
