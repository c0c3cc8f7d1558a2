"""Who gets which connection: the pool under every order of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.net.tls_files import Renewed
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.exchange.retry_budget import FLOOR
from sidecar.proxy.http1.upstream import UpstreamConnection
from sidecar.proxy.pool.pool import Pools
from sidecar.routing.routes import Route
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource
from tests.support.pooling import FAULT, Asker, Dials, MakeBench, Request, Transport

REFUSED = SidecarError(Reason.CONNECT_REFUSED, "Refused.")
HOSTS = ("a.example.com", "b.example.com", "c.example.com")


class PoolMachine(RuleBasedStateMachine):
    """Requests come, leave and end; connections come up, fail and are lost; time passes."""

    askers = Bundle("askers")

    @initialize(connections=st.integers(1, 3), queue=st.integers(0, 4))
    def begin(self, connections: int, queue: int) -> None:
        config = load(
            "routes:\n  - {name: any, host: '*.example.com', upstream: 'https://{host}'}\n"
            f"pool: {{connections: {connections}, queue: {queue}}}",
            environ={},
        ).config
        self.clock = FakeClock()
        self.dials = Dials()
        self.pools = Pools(
            self.dials,  # type: ignore[arg-type]  # all that is asked of a Dialer here
            self.clock,
            self.dials,
            settings=config.pool,
            limits=config.limits,
        )
        self.route = Route(config.routes[0], NamedSource("default"))
        self.stats = self.pools.stats[self.route.name] = RouteStats()
        self.waiting: list[Asker] = []
        self.holding: list[Asker] = []
        self.count = 0

    @rule(host=st.sampled_from(HOSTS), fresh=st.booleans())
    def ask(self, host: str, fresh: bool) -> None:
        self.count += 1
        pool = self.pools.get(self.route.destination(host))
        pool.users += 1
        asker: Any = Asker(pool, self.count, again=fresh)
        connection = pool.acquire(asker, fresh=fresh)
        if connection is not None:
            assert connection._pool is pool
            asker.connected(connection)
        self.waiting.append(asker)
        self.settle()

    def settle(self) -> None:
        for asker in [asker for asker in self.waiting if asker.outcomes]:
            self.waiting.remove(asker)
            (outcome,) = asker.outcomes
            if isinstance(outcome, SidecarError):
                asker.pool.users -= 1
            else:
                assert not outcome.is_closing()
                outcome.served += 1
                self.holding.append(asker)

    @rule(index=st.integers(0, 9), fails=st.booleans())
    def dial_ends(self, index: int, fails: bool) -> None:
        if self.dials.under_way:
            before = self.stats.connections_opened
            self.dials.end(index, SidecarError(Reason.CONNECT_REFUSED, "Refused.") if fails else None)
            assert self.stats.connections_opened == before + (not fails)
            self.settle()

    @rule(index=st.integers(0, 9), lost=st.booleans())
    def request_ends(self, index: int, lost: bool) -> None:
        if self.holding:
            asker = self.holding.pop(index % len(self.holding))
            asker.pool.users -= 1
            (connection,) = asker.outcomes
            assert isinstance(connection, UpstreamConnection)
            queued = [one for one in self.waiting if one in asker.pool.places.queue]
            dialled = [one for one in self.waiting if one in asker.pool._waiting]
            if lost:
                asker.pool.lost(connection)
            else:
                asker.pool.release(connection)
                # First whoever a connection is dialled for already, then by arrival; retries before all.
                if dialled:
                    assert connection in dialled[0].outcomes
                elif queued:
                    first = min(queued, key=self.place_of)
                    assert (connection in first.outcomes) == (first.pool is asker.pool)
            self.settle()

    def place_of(self, asker: Asker) -> int:
        return -asker.number if asker.had_its_turn else asker.number

    @rule(index=st.integers(0, 9))
    def app_leaves(self, index: int) -> None:
        if self.waiting:
            asker: Any = self.waiting.pop(index % len(self.waiting))
            asker.pool.forget(asker)
            asker.pool.users -= 1
            self.settle()
            assert not asker.outcomes

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pools.sweep(self.clock.mono())
        self.settle()

    @invariant()
    def bounds_hold(self) -> None:
        for places in self.pools._places.values():
            pools = list(places.pools)
            assert places.open == sum(pool.open for pool in pools) <= places.limit
            assert self.stats.queued == len(places.queue)
            fresh = [asker for asker in places.queue if not asker.had_its_turn]
            assert len(fresh) <= places.queue_limit
            if places.queue:
                assert places.open == places.limit
                assert not any(pool._idle for pool in pools)
            for pool in pools:
                assert pool._dialling >= len(pool._waiting)
            assert self.stats.connections_idle == sum(len(pool._idle) for pool in pools)
            assert {*places.queue, *(one for pool in pools for one in pool._waiting)} == {*self.waiting}

    def teardown(self) -> None:
        for dial in getattr(self, "dials", Dials()).under_way:
            dial.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Told(Transport):
    """Counts who asks for its socket, which is where a TLS session is read from."""

    asked = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        self.asked += name == "socket"
        return default


def test_a_session_is_read_at_most_every_five_minutes() -> None:
    """However many connections there are: each reading costs memory that some Pythons never give back."""
    machine = PoolMachine()
    machine.begin(connections=3, queue=4)
    pool = machine.pools.get(machine.route.destination(HOSTS[0]))

    def first_request() -> int:
        connection = UpstreamConnection(pool, machine.pools.limits)
        connection.connection_made(transport := Told())
        connection.served = 1
        pool.release(connection)
        return transport.asked

    assert [first_request() for _ in range(5)] == [1, 0, 0, 0, 0]
    machine.clock.advance(299)
    assert first_request() == 0
    machine.clock.advance(1)
    assert [first_request() for _ in range(2)] == [1, 0]


# connections of a bench


def closed(request: Request) -> bool:
    return bool(request.connection.is_closing())


def test_whoever_has_waited_longest_gets_the_first_connection_that_is_up(make_bench: MakeBench) -> None:
    """Whichever dial it came of."""
    bench = make_bench("connections: 2")
    first, second = bench.ask(), bench.ask()
    bench.dials.end(1, None)
    assert (bool(first.connection), second.outcomes) == (True, [])


def test_the_newest_idle_connection_serves_next_and_is_counted(make_bench: MakeBench) -> None:
    """The others grow old and are closed; one that was lost meanwhile is passed over."""
    bench = make_bench("connections: 3, idle: 60s")
    requests = [bench.busy() for _ in range(3)]
    for request in requests:
        bench.free(request)
        bench.clock.advance(1.0)
    assert bench.stats.connections_idle == 3
    requests[2].connection.transport.abort()
    assert bench.ask().connection is requests[1].connection
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
    idle.connection.connection_lost(None)
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
    busy.connection.connection_lost(None)
    idle.connection.connection_lost(None)
    waits = bench.ask()
    changes = iter([pool.renew])
    bench.dials.meanwhile = lambda: next(changes, bool)()
    opened = bench.stats.connections_opened
    bench.dials.end(0, None)
    assert (pool.generation, waits.connection.generation, closed(waits)) == (2, 2, False)
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
    bench = make_bench("connections: 1")
    pool = bench.pool("a")

    def asked() -> int:
        connection = UpstreamConnection(pool, bench.pools.limits)
        connection.connection_made(transport := Told())
        connection.generation, connection.served = pool.generation, 1
        pool.release(connection)
        return transport.asked

    assert [asked(), asked()] == [1, 0]
    pool.renew()
    assert [asked(), asked()] == [1, 0]


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
    bench.pool("a").flush(busy.connection)
    bench.sweep(4.9)
    assert not closed(busy)
    bench.sweep(0.1)
    assert closed(busy)


def test_a_fault_in_closing_an_idle_one_is_that_one_s(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are closed all the same."""
    bench = make_bench("connections: 2")
    first, second = bench.busy(), bench.busy()
    bench.free(first)
    bench.free(second)
    faults = []

    def close(connection: UpstreamConnection) -> None:
        if connection is first.connection:
            raise FAULT
        connection.transport.abort()

    monkeypatch.setattr(UpstreamConnection, "close", close)
    monkeypatch.setattr(
        UpstreamConnection, "fault", lambda connection, fault: faults.append((connection, fault))
    )
    bench.sweep(61.0)
    assert (faults, closed(second)) == ([(first.connection, FAULT)], True)


def test_what_is_unused_is_forgotten(make_bench: MakeBench) -> None:
    """With a route that is gone its places, and what the dialler keeps, once its last pool is; what is used, or wanted,
    is not."""
    bench = make_bench("connections: 2")
    busy = bench.busy("b")
    assert len(bench.pools._pools) == 2
    bench.sweep(1.0)
    assert [pool.destination.host for pool in bench.pools._pools.values()] == ["b.example.com"]
    pool = busy.pool
    busy.connection.connection_lost(None)
    assert bench.pools.sweep(bench.clock.mono())
    pool.users -= 1
    assert not bench.pools.sweep(bench.clock.mono())
    assert (bench.pools._pools, bench.pools._places) == ({}, {bench.route: bench.places})
    bench.pools.retire({bench.route})
    assert bench.pools._places == {}


def test_a_route_that_is_gone_is_forgotten_when_its_last_request_has_ended(make_bench: MakeBench) -> None:
    """By the dialler, too, which may have read its files again for that; how they fare is not counted any more."""
    bench = make_bench("connections: 2")
    busy = bench.busy()
    bench.pools.retire({bench.route})
    bench.dials.changed = [Renewed(bench.route, ok=False)]
    bench.sweep(1.0)
    assert (bench.stats.tls_current, bench.stats.tls_reloads, bench.dials.forgotten) == (None, {}, [])
    busy.connection.connection_lost(None)
    busy.pool.users -= 1
    bench.sweep(1.0)
    assert (bench.pools._places, bench.dials.forgotten) == ({}, [bench.route])


def test_a_quiet_second_renews_no_budget(make_bench: MakeBench) -> None:
    """Of retries: it is the route's, whether or not a connection is open."""
    bench = make_bench("connections: 2")
    assert [bench.pool("a").places.may_retry() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    bench.sweep(1.0)
    assert not bench.pools._pools
    assert not bench.pool("a").places.may_retry()


def test_a_dial_is_for_the_destination_with_its_session_and_counters(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dial that failed ends the session: the server may have forgotten it."""
    session = object()
    monkeypatch.setattr("sidecar.net.tls.session_of", lambda _: session)
    bench = make_bench("connections: 9")
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


def test_a_failed_dial_is_told_to_whoever_has_waited_longest(make_bench: MakeBench) -> None:
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
    assert (pool.open, bench.places.open, pool._dialling) == (0, 0, 0)


def broken(*_: object, **__: object) -> None:
    raise FAULT


def test_a_fault_in_dialling_is_told_and_noted(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """With the route; whoever waits gets a 500."""
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
    """Whoever has waited longest is told at once, where it was not given to anybody: the next dial may meet the same."""
    bench = make_bench("connections: 2")
    first, second = bench.ask(), bench.ask()
    faults = []

    def fault(connection: UpstreamConnection, error: Exception) -> bool:
        faults.append(error)
        return serves

    monkeypatch.setattr(type(bench.pool("a")), "release", broken)
    monkeypatch.setattr(UpstreamConnection, "fault", fault)
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
