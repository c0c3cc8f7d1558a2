"""Who gets which connection: the pool under every order of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.errors import Reason, SidecarError
from sidecar.net.tls_files import Renewed
from sidecar.proxy.pool.retry_budget import FLOOR
from tests.support.pooling import Asker, Bench, Dials, MakeBench
from tests.support.sampling import examples
from tests.support.sides import FAULT, FakeLink

REFUSED = SidecarError(Reason.CONNECT_REFUSED, "Refused.")
NO_TOKEN = SidecarError(Reason.TOKEN_TIMEOUT, "No token.")
CAPACITIES = [(1,), (2,), (3,), (1, 3), (3, 1), (2, 3, 1)]
"""Of one connection after the other."""


class PoolMachine(RuleBasedStateMachine):
    """Requests come, leave and end; connections come up, fail, fill, change and are lost; time passes.

    A connection carries one, two or three at once, which the pool learns when it is up: it knows nothing at first, and
    what it learned of one may be wrong for the next.
    """

    @initialize(
        connections=st.integers(1, 3), queue=st.integers(0, 4), capacities=st.sampled_from(CAPACITIES)
    )
    def begin(self, connections: int, queue: int, capacities: tuple[int, ...]) -> None:
        self.bench = Bench(f"connections: {connections}, queue: {queue}", make_link=self.make_link)
        self.stats = self.bench.stats
        self.capacities = capacities
        self.links: list[FakeLink] = []
        """All that are open, and those that were closed by the pool and are not gone yet."""
        self.waiting: list[Asker] = []
        self.fresh: set[Asker] = set()
        """Those that want a connection which served nobody yet."""
        self.holding: list[Asker] = []
        self.outdated: dict[FakeLink, int] = {}
        """How many each had carried when its TLS files changed."""
        self.closed: dict[FakeLink, int] = {}
        self.count = 0

    def make_link(self, keeper: Any, limits: object, http2: bool) -> FakeLink:
        link = FakeLink(keeper, capacity=self.capacities[len(self.links) % len(self.capacities)])
        self.links.append(link)
        return link

    @rule(host=st.sampled_from("abc"), fresh=st.booleans(), tokenless=st.sampled_from([False, False, True]))
    def ask(self, host: str, fresh: bool, tokenless: bool) -> None:
        self.count += 1
        pool = self.bench.pool(host)
        pool.users += 1
        asker = Asker(pool, self.count, again=fresh)
        asker.tokenless = NO_TOKEN if tokenless else None
        if fresh:
            self.fresh.add(asker)
        if (link := pool.acquire(asker, fresh=fresh)) is not None:
            assert not fresh
            asker.connected(link)
        self.waiting.append(asker)
        self.settle()

    def settle(self) -> None:
        for asker in [asker for asker in self.waiting if asker.outcomes]:
            self.waiting.remove(asker)
            (outcome,) = asker.outcomes
            if isinstance(outcome, SidecarError):
                asker.pool.users -= 1
            else:
                self.holding.append(asker)

    @rule(index=st.integers(0, 9), fails=st.booleans())
    def dial_ends(self, index: int, fails: bool) -> None:
        if self.bench.dials.under_way:
            before = self.stats.connections_opened
            self.bench.dials.end(index, REFUSED if fails else None)
            assert self.stats.connections_opened == before + (not fails)
            self.settle()

    @rule(index=st.integers(0, 9))
    def request_ends(self, index: int) -> None:
        if self.holding:
            asker = self.holding.pop(index % len(self.holding))
            asker.pool.users -= 1
            link, places = asker.link, asker.pool.places
            queued = [one for one in self.waiting if one in places.queue]
            dialled = [one for one in self.waiting if one not in places.queue and one.pool is asker.pool]
            link.streams -= 1
            asker.pool.release(link)
            # First those that a connection is dialled for already, then by arrival; retries before all.
            if not link.closed and link.generation == asker.pool.generation:
                if dialled:
                    assert dialled[0].outcomes
                elif queued and link.capacity == 1:
                    first = places_order(queued)[0]
                    assert bool(first.outcomes) == (first.pool is asker.pool)
            self.settle()

    @rule(index=st.integers(0, 9))
    def connection_is_lost(self, index: int) -> None:
        live = [link for link in self.links if link not in self.closed or link.closed]
        if live:
            link = live[index % len(live)]
            for asker in [one for one in self.holding if one.link is link]:
                self.holding.remove(asker)
                asker.pool.users -= 1
                link.streams -= 1
            self.links.remove(link)
            link.gone()
            self.settle()

    @rule(index=st.integers(0, 9), capacity=st.integers(1, 3))
    def target_says_how_many_it_takes(self, index: int, capacity: int) -> None:
        shared = [link for link in self.links if link.capacity > 1 and not link.closed]
        if shared:
            link = shared[index % len(shared)]
            link.capacity = max(2, capacity, link.streams)
            if link.streams and link.streams < link.capacity:
                link.keeper.release(link)
            self.settle()

    @rule(index=st.integers(0, 9))
    def app_leaves(self, index: int) -> None:
        if self.waiting:
            asker = self.waiting.pop(index % len(self.waiting))
            asker.pool.forget(asker)
            asker.pool.users -= 1
            self.settle()
            assert not asker.outcomes

    @rule(host=st.sampled_from("abc"))
    def files_change(self, host: str) -> None:
        pool = self.bench.pool(host)
        pool.renew()
        for link in self.links:
            if link.keeper is pool:
                self.outdated.setdefault(link, len(link.carried))
        self.settle()

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.sweep(seconds)
        self.settle()

    @invariant()
    def bounds_hold(self) -> None:
        places = self.bench.pool("a").places
        pools: Any = list(places.pools)
        assert places.open == sum(pool.open for pool in pools) <= places.limit
        assert self.stats.queued == len(places.queue)
        for link in self.links:
            assert link.streams == sum(one.link is link for one in self.holding) <= link.capacity
        assert all(len(asker.outcomes) == 1 for asker in self.holding)
        assert not any(asker.outcomes or asker.faults for asker in self.waiting)
        if places.queue:
            assert places.open == places.limit
            assert not self.stats.connections_idle

    @invariant()
    def a_connection_that_is_to_end_gets_nothing_new(self) -> None:
        for link, carried in self.outdated.items():
            assert len(link.carried) == carried
        for link in self.links:
            if link.closed:
                assert self.closed.setdefault(link, len(link.carried)) == len(link.carried)

    @invariant()
    def what_is_idle_is_counted(self) -> None:
        idle = [
            link
            for link in self.links
            if not link.streams and not link.closed and link.generation == link.keeper.generation
        ]
        assert self.stats.connections_idle == len(idle)

    @invariant()
    def nobody_waits_beside_room(self) -> None:
        """But for one that is sent again, and wants a connection that served nobody yet."""
        for asker in self.waiting:
            if asker not in self.fresh:
                assert not [
                    link
                    for link in self.links
                    if link.keeper is asker.pool
                    and link.streams < link.capacity
                    and not link.closed
                    and link.generation == asker.pool.generation
                ]

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            for dial in self.bench.dials.under_way:
                dial.close()


def places_order(queued: list[Asker]) -> list[Asker]:
    """As they are to be served: those that had their turn, the last of them first, then by arrival."""
    return sorted(queued, key=lambda asker: -asker.number if asker.again else asker.number)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)


def sessions(bench: Bench, times: int = 1) -> list[int]:
    """How often the session of a new connection is read when its first request has ended."""
    busy = [bench.busy() for _ in range(times)]
    for asker in busy:
        bench.free(asker)
    for asker in busy:
        asker.link.gone()
    return [asker.link.sessions_read for asker in busy]


def test_a_session_is_read_at_most_every_five_minutes(make_bench: MakeBench) -> None:
    """However many connections there are: each reading costs memory that some Pythons never give back."""
    bench = make_bench("connections: 9")
    # One that is up is read when it is handed over already; nothing is idle meanwhile.
    assert sum(sessions(bench, 5)) == 1
    bench.clock.advance(299)
    assert sessions(bench) == [0]
    bench.clock.advance(1)
    assert sum(sessions(bench, 2)) == 1


# connections of a bench


def closed(request: Asker) -> bool:
    return bool(request.link.is_closing())


def pools_of(bench: Bench) -> list[Any]:
    """Those that are kept."""
    return list(bench.places.pools)


def test_the_longest_waiting_gets_the_first_connection_that_is_up(make_bench: MakeBench) -> None:
    """Whichever dial it came of."""
    bench = make_bench("connections: 2")
    first, second = bench.ask(), bench.ask()
    bench.dials.end(1, None)
    assert (bool(first.link), second.outcomes) == (True, [])


def test_the_newest_idle_connection_serves_next_and_is_counted(make_bench: MakeBench) -> None:
    """The others grow old and are closed; one that was lost meanwhile is passed over."""
    bench = make_bench("connections: 3, idle: 60s")
    requests = [bench.busy() for _ in range(3)]
    for request in requests:
        bench.free(request)
        bench.clock.advance(1.0)
    assert bench.stats.connections_idle == 3
    requests[2].link.abort()
    assert bench.ask().link is requests[1].link
    assert bench.stats.connections_idle == 1
    bench.sweep(56.9)
    assert not closed(requests[0])
    bench.sweep(0.1)
    assert (closed(requests[0]), bench.stats.connections_idle) == (True, 0)


def test_an_idle_connection_that_is_lost_is_counted_off(make_bench: MakeBench) -> None:
    """And its place is free."""
    bench = make_bench("connections: 2")
    idle, other = bench.busy(), bench.busy()
    bench.free(idle)
    bench.free(other)
    idle.link.gone()
    assert (bench.stats.connections_idle, bench.places.open) == (1, 1)


def test_a_connection_made_under_other_tls_files_serves_nobody_else(make_bench: MakeBench) -> None:
    """Idle and served ones end; one that was being dialled meanwhile ends, and its place is dialled for again."""
    bench = make_bench("connections: 2")
    pool = bench.pool("a")
    busy, idle = bench.busy(), bench.busy()
    bench.free(idle)
    assert pool.generation == 0
    pool.renew()
    assert (pool.generation, closed(idle), closed(busy)) == (1, True, False)
    bench.free(busy)
    assert closed(busy)
    busy.link.gone()
    idle.link.gone()
    waits = bench.ask()
    changes = iter([pool.renew])
    bench.dials.meanwhile = lambda: next(changes, bool)()
    opened = bench.stats.connections_opened
    bench.dials.end(0, None)
    assert (pool.generation, waits.link.generation, closed(waits)) == (2, 2, False)
    assert (bench.stats.connections_opened - opened, bench.places.open) == (1, 1)
    bench.free(waits)
    assert not closed(waits)


def test_one_that_nobody_waits_for_any_more_is_not_kept_after_a_change_of_files(
    make_bench: MakeBench,
) -> None:
    """It would serve the next request under the old ones."""
    bench = make_bench("connections: 1")
    pool = bench.pool("a")
    gone = bench.ask()
    pool.forget(gone)
    bench.dials.meanwhile = pool.renew
    bench.dials.end(0, None)
    assert bench.stats.connections_idle == 0


def test_a_change_of_files_ends_the_session_too(make_bench: MakeBench) -> None:
    """The next first request's is read at once."""
    bench = make_bench("connections: 2")
    assert sum(sessions(bench, 2)) == 1
    bench.pool("a").renew()
    assert sum(sessions(bench, 2)) == 1


@pytest.mark.parametrize("how", ["drain", "retire"])
def test_after_a_drain_or_without_its_route_nothing_is_kept(make_bench: MakeBench, how: str) -> None:
    """Idle ones end at once, busy ones with their request."""
    bench = make_bench("connections: 2")
    idle, busy = bench.busy(), bench.busy()
    bench.free(idle)
    if how == "drain":
        bench.pools.close()
    else:
        bench.pools.retire({bench.route})
    assert (closed(idle), closed(busy)) == (True, False)
    bench.free(busy)
    assert (closed(busy), bench.stats.connections_idle) == (True, 0)


def test_another_route_s_end_is_nothing_to_this_one(make_bench: MakeBench) -> None:
    """Its idle connections stay."""
    bench = make_bench("connections: 1")
    idle = bench.busy()
    bench.free(idle)
    bench.pools.retire({make_bench("connections: 1").route})
    assert not closed(idle)


def test_last_bytes_have_their_time(make_bench: MakeBench) -> None:
    """`timeouts.send`, and not a moment more."""
    bench = make_bench("connections: 1", ", timeouts: {send: 5s}")
    busy = bench.busy()
    bench.pool("a").flush(busy.link)
    bench.sweep(4.9)
    assert not closed(busy)
    bench.sweep(0.1)
    assert closed(busy)


def test_a_fault_in_closing_an_idle_one_is_that_one_s(make_bench: MakeBench) -> None:
    """The others are closed all the same."""
    bench = make_bench("connections: 2")
    first, second = bench.busy(), bench.busy()
    bench.free(first)
    bench.free(second)
    first.link.breaks = {"close"}
    bench.sweep(61.0)
    assert (first.link.faults, second.link.faults, closed(second)) == ([FAULT], [], True)


def test_what_is_unused_is_forgotten(make_bench: MakeBench) -> None:
    """With a route that is gone its places, and what the dialler keeps, once its last pool is; what is used, or wanted,
    is not."""
    bench = make_bench("connections: 2")
    busy = bench.busy("b")
    assert len(pools_of(bench)) == 2
    bench.sweep(1.0)
    assert [pool.destination.host for pool in pools_of(bench)] == ["b.example.com"]
    pool = busy.pool
    busy.link.gone()
    assert bench.pools.sweep(bench.clock.mono())
    pool.users -= 1
    assert not bench.pools.sweep(bench.clock.mono())
    assert pools_of(bench) == []
    assert bench.pool("a").places is bench.places
    bench.sweep(1.0)
    bench.pools.retire({bench.route})
    assert bench.pool("a").places is not bench.places


def test_a_route_that_is_gone_is_forgotten_when_its_last_request_has_ended(make_bench: MakeBench) -> None:
    """By the dialler, too, which may have read its files again for that; how they fare is not counted any more."""
    bench = make_bench("connections: 2")
    busy = bench.busy()
    bench.pools.retire({bench.route})
    bench.dials.changed = [Renewed(bench.route, ok=False)]
    bench.sweep(1.0)
    assert (bench.stats.tls_current, bench.stats.tls_reloads, bench.dials.forgotten) == (None, {}, [])
    busy.link.gone()
    busy.pool.users -= 1
    bench.sweep(1.0)
    assert bench.dials.forgotten == [bench.route]
    assert bench.pool("a").places is not bench.places


def test_a_quiet_second_renews_no_budget(make_bench: MakeBench) -> None:
    """Of retries: it is the route's, whether or not a connection is open."""
    bench = make_bench("connections: 2")
    assert [bench.pool("a").places.may_retry() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    bench.sweep(1.0)
    assert not pools_of(bench)
    assert not bench.pool("a").places.may_retry()


def test_a_dial_is_for_the_destination_with_its_session_and_counters(make_bench: MakeBench) -> None:
    """A dial that failed ends the session: the server may have forgotten it."""
    session = object()

    def make_link(keeper: Any, limits: object, http2: bool) -> FakeLink:
        link = FakeLink(keeper)
        link.session = session
        return link

    bench = make_bench("connections: 9", make_link=make_link)
    destination = bench.pool("a").destination
    first = bench.busy()
    bench.free(first)
    bench.ask()
    bench.ask()
    bench.dials.end(0, REFUSED)
    bench.ask()
    bench.dials.end(0, None)
    assert bench.dials.asked == [
        (destination, None, bench.stats),
        (destination, session, bench.stats),
        (destination, None, bench.stats),
    ]


def test_a_failed_dial_is_the_error_of_the_longest_waiting(make_bench: MakeBench) -> None:
    """And only where more wait than are dialled for."""
    bench = make_bench("connections: 3")
    first, second, gone = bench.ask(), bench.ask(), bench.ask()
    bench.pool("a").forget(gone)
    bench.dials.end(2, REFUSED)
    assert (first.outcomes, second.outcomes) == ([], [])
    bench.dials.end(1, REFUSED)
    assert (first.error, second.outcomes) == (REFUSED, [])
    assert not bench.pool("a").has_spare_dial()


def test_a_dial_that_cannot_be_begun_holds_nothing(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory for a task, say."""
    bench = make_bench("connections: 1")
    pool = bench.pool("a")
    monkeypatch.setattr(Dials, "spawn", broken)
    with pytest.raises(ZeroDivisionError):
        bench.ask()
    assert (pool.open, bench.places.open, bench.dials.under_way) == (0, 0, [])


def broken(*_: object, **__: object) -> None:
    raise FAULT


def test_a_fault_in_dialling_is_told_and_noted(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """With the route; an exchange that waits gets a 500."""
    bench = make_bench("connections: 1")
    request = bench.ask()
    bench.dials.end(0, FAULT)
    assert request.error.reason is Reason.INTERNAL
    assert (bench.places.open, bench.pools.faults.count) == (0, 1)
    (record,) = caplog.records
    assert record.fields == {"where": "connecting for route any"}  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert record.exc_info[1] is FAULT


@pytest.mark.parametrize("serves", [False, True], ids=["serves-nobody", "serves-one-already"])
def test_a_fault_in_handing_over_a_new_connection(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, serves: bool
) -> None:
    """The longest waiting is told at once, where it was not given to anybody: the next dial may meet the same."""
    bench = make_bench("connections: 2")
    first, second = bench.ask(), bench.ask()
    faults = []

    def fault(connection: FakeLink, error: Exception) -> bool:
        faults.append(error)
        return serves

    monkeypatch.setattr(type(bench.pool("a")), "release", broken)
    monkeypatch.setattr(FakeLink, "fault", fault)
    bench.dials.end(0, None)
    assert (faults, second.outcomes) == ([FAULT], [])
    if serves:
        assert first.outcomes == []
    else:
        assert first.error.reason is Reason.INTERNAL


def test_changed_files_renew_the_pools_of_their_route(make_bench: MakeBench) -> None:
    """Where they could be used; each change is counted by whether they could."""
    bench, other = make_bench("connections: 1"), make_bench("connections: 1")
    idle = bench.busy()
    bench.free(idle)
    bench.pools.stats["other"] = bench.stats
    bench.dials.changed = [(bench.route, False), (other.route, False)]
    bench.sweep(0.0)
    assert not closed(idle)
    bench.dials.changed = [(other.route, True)]
    bench.sweep(0.0)
    assert not closed(idle)
    bench.dials.changed = [(bench.route, True), (bench.route, True)]
    bench.sweep(0.0)
    assert closed(idle)
    assert bench.stats.tls_reloads == {"error": 2, "ok": 3}


# connections that carry more than one


def sharing(make_bench: MakeBench, capacity: int, pool: str = "connections: 1") -> Bench:
    """Whose connections carry so many."""
    return make_bench(pool, make_link=lambda keeper, limits, http2: FakeLink(keeper, capacity=capacity))


def test_a_connection_is_shared_as_far_as_it_goes(make_bench: MakeBench) -> None:
    """The one with the least room first; the next waits for room, and is given the first there is."""
    bench = sharing(make_bench, 2)
    first = bench.busy()
    second = bench.ask()
    assert second.link is first.link
    third = bench.ask()
    assert (third.outcomes, bench.stats.queued) == ([], 1)
    bench.free(second)
    assert (third.link, first.link.streams) == (first.link, 2)
    bench.free(first)
    assert bench.stats.connections_idle == 0
    bench.free(third)
    assert bench.stats.connections_idle == 1


def test_room_beside_other_requests_is_no_place(make_bench: MakeBench) -> None:
    """It goes to the first that wants to go there, past one that needs the place itself."""
    bench = sharing(make_bench, 2)
    first = bench.busy("a")
    second = bench.ask("a")
    elsewhere, later = bench.ask("b"), bench.ask("a")
    bench.free(second)
    assert (elsewhere.outcomes, later.link) == ([], first.link)
    bench.free(later)
    bench.free(first)
    assert (first.link.closed, len(bench.dials.under_way)) == (True, 1)
    bench.dials.end(0, None)
    assert elsewhere.link.keeper is bench.pool("b")


def test_one_that_is_given_back_while_it_is_handed_over_is_idle_once(make_bench: MakeBench) -> None:
    """Its request's token had run out meanwhile."""
    bench = sharing(make_bench, 2)
    asker = bench.ask()
    asker.tokenless = NO_TOKEN
    bench.dials.end(0, None)
    assert (asker.error, bench.stats.connections_idle) == (NO_TOKEN, 1)


def test_one_that_a_fault_closed_is_handed_to_nobody_else(make_bench: MakeBench) -> None:
    """Who waits behind the request that met it waits for another."""
    bench = sharing(make_bench, 3, "connections: 2")
    broken_one, other = bench.ask(), bench.ask()
    broken_one.broken = True
    bench.dials.end(0, None)
    assert (broken_one.faults, other.outcomes, bench.stats.connections_idle) == ([FAULT], [], 0)
    bench.dials.end(0, None)
    assert other.link.streams == 1


@pytest.mark.parametrize("capacity", [1, 3])
def test_what_was_expected_of_a_dial_may_be_wrong(make_bench: MakeBench, capacity: int) -> None:
    """Those that it can't carry wait for others; those for whom it has room are not dialled for."""
    capacities = iter([3 if capacity == 1 else 1] + [capacity] * 9)
    bench = make_bench(
        "connections: 9", make_link=lambda keeper, limits, http2: FakeLink(keeper, capacity=next(capacities))
    )
    before = bench.busy()
    before.link.gone()
    askers = [bench.ask() for _ in range(3)]
    assert len(bench.dials.under_way) == (1 if capacity == 1 else 3)
    bench.dials.end(0, None)
    assert [bool(asker.outcomes) for asker in askers] == [True, capacity == 3, capacity == 3]
    while bench.dials.under_way:
        bench.dials.end(0, None)
    assert all(asker.link for asker in askers)


def test_a_dial_that_fails_is_the_error_of_all_that_it_was_to_carry(make_bench: MakeBench) -> None:
    """As far as is known from the last one."""
    bench = sharing(make_bench, 2, "connections: 9")
    bench.busy().link.gone()
    askers = [bench.ask() for _ in range(3)]
    assert len(bench.dials.under_way) == 2
    bench.dials.end(0, REFUSED)
    assert [asker.outcomes for asker in askers] == [[REFUSED], [], []]
    bench.dials.end(0, REFUSED)
    assert [asker.outcomes for asker in askers] == [[REFUSED]] * 3
