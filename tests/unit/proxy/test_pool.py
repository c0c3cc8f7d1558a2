"""Who gets which connection: the pool under every order of events."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.metrics import RouteStats
from sidecar.proxy.pool import Pools
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.routes import Route
from tests.support.clock import FakeClock
from tests.support.pooling import Asker, Dials, Transport

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
        self.route = Route(config.routes[0])
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
