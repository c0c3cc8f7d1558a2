"""sidecar.proxy.exchange: what a request is told when it takes too long or loses its upstream, and what is held of it for
another try; everything else of it is in tests/wire"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.logs import AccessLog
from sidecar.proxy import framing
from sidecar.proxy.admission import Plan
from sidecar.proxy.exchange import Exchange, State
from sidecar.proxy.faults import Faults, internal
from sidecar.proxy.headers import drop_table
from sidecar.proxy.upstream import UpstreamConnection
from tests.support.pooling import FAULT, MakeBench, Transport

ERROR = SidecarError(Reason.SEND_TIMEOUT, "Too slow.")
LIMITS = {"buffer": 10, "body_timeout": 20.0, "send_timeout": 21.0}
TIMEOUTS = "timeouts: {connect: 1s, response: 3s, send: 4s, idle: 5s, tunnel_idle: 6s, total: 100s}"


class Written(Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data: list[bytes] = []

    def write(self, data: Any) -> None:
        self.data.append(bytes(data))

    def pause_reading(self) -> None:
        """Not asked about."""


class Down:
    """The app's connection, as an exchange knows it."""

    def __init__(self, bench: Any) -> None:
        self.transport = Written()
        self.current: Any = None
        self.is_leaving = False
        self.is_full = False
        self.told: list[tuple[Any, ...]] = []
        self.proxy: Any = SimpleNamespace(
            limits=bench.pools.limits.model_copy(update=LIMITS),
            clock=bench.clock,
            access_log=AccessLog("off"),
            refusals=SimpleNamespace(
                note_error=lambda error, route: self.told.append(("noted", error, route))
            ),
            tracer=None,
            faults=Faults(),
            tunnels=set(),
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **how: self.told.append((name, *args, *sorted(how.items())))


class Making:
    """Exchanges of one route, and connections for them."""

    def __init__(self, make_bench: MakeBench, keys: str = TIMEOUTS) -> None:
        self.bench = make_bench("connections: 9", f", {keys}")
        self.pool = self.bench.pool("a")
        self.down = Down(self.bench)

    def exchange(
        self,
        state: State = State.SENT,
        *,
        method: bytes = b"GET",
        body: int = framing.NO_BODY,
        connected: bool = True,
    ) -> Any:
        plan = Plan((), frozenset(), drop_table(frozenset()))
        made: Any = Exchange(
            self.down,  # type: ignore[arg-type]
            (self.pool.destination, b"/x", b"", plan),
            self.pool,
            method=method,
            authority=b"a.example.com",
            fields=[],
            found={},
            body=body,
            http10=False,
            keep_alive=True,
            upgrade=None,
            began_mono=self.bench.clock.mono(),
        )
        made.state = state
        if connected:
            made._connection = self.connection(made)
        return made

    def connection(self, exchange: Any) -> UpstreamConnection:
        connection = UpstreamConnection(self.pool, self.bench.pools.limits)
        self.pool.open += 1
        self.bench.places.open += 1
        connection.connection_made(Written())
        connection.begin(exchange)
        return connection

    @property
    def answer(self) -> tuple[str, str]:
        """Reason and detail of the answer that was written."""
        body = json.loads(self.down.transport.data[-1].partition(b"\r\n\r\n")[2])
        return body["reason"], body["detail"]


@pytest.fixture
def making(make_bench: MakeBench) -> Making:
    return Making(make_bench)


OVERDUE = [
    pytest.param(
        "total",
        100.0,
        Reason.TOTAL_TIMEOUT,
        "The answer was not complete 100 s after the request had come, while it was waiting for the upstream. If it may take longer, raise the route's `timeouts.total`.",
        id="total",
    ),
    pytest.param(
        "response",
        3.0,
        Reason.RESPONSE_TIMEOUT,
        "The upstream did not answer within 3 s. If the service may take longer, raise the route's `timeouts.response`.",
        id="response",
    ),
    pytest.param(
        "body",
        20.0,
        Reason.BODY_TIMEOUT,
        "No byte of the request's body came for 20 s (`limits.body_timeout`).",
        id="body",
    ),
    pytest.param(
        "send",
        4.0,
        Reason.SEND_TIMEOUT,
        "The upstream took none of the bytes that wait for it for 4 s. Find out what keeps it, or raise the route's `timeouts.send`.",
        id="send",
    ),
    pytest.param(
        "app",
        21.0,
        Reason.CLIENT_STALLED,
        "The app took none of the bytes that wait for it for 21 s (`limits.send_timeout`).",
        id="app",
    ),
    pytest.param(
        "app-before",
        21.0,
        Reason.CLIENT_STALLED,
        "The app took none of the bytes that wait for it for 21 s (`limits.send_timeout`).",
        id="app-before-its-answer",
    ),
    pytest.param(
        "late-send",
        4.0,
        Reason.SEND_TIMEOUT,
        "The upstream took none of the bytes that wait for it for 4 s. Find out what keeps it, or raise the route's `timeouts.send`.",
        id="send-while-answering",
    ),
    pytest.param(
        "idle",
        5.0,
        Reason.IDLE_TIMEOUT,
        "No byte moved in either direction for 5 s. If long silences are normal here, raise the route's `timeouts.idle`.",
        id="idle",
    ),
    pytest.param(
        "tunnel",
        6.0,
        Reason.TUNNEL_IDLE,
        "No byte moved in either direction for 6 s. If long silences are normal here, raise the route's `timeouts.tunnel_idle`.",
        id="tunnel",
    ),
]


@pytest.mark.parametrize(("what", "limit", "reason", "says"), OVERDUE)
def test_every_wait_has_its_limit_and_its_words(
    making: Making, what: str, limit: float, reason: Reason, says: str
) -> None:
    """Not a moment before it; by whatever holds things up just now."""
    state = {
        "app": State.ANSWERING,
        "late-send": State.ANSWERING,
        "idle": State.ANSWERING,
        "tunnel": State.TUNNEL,
    }
    exchange = making.exchange(
        state.get(what, State.SENT), body=5 if what in ("body", "send") else framing.NO_BODY
    )
    exchange._connection.transport.unsent = 1 if what in ("send", "late-send", "app") else 0
    making.down.transport.unsent = 1 if what in ("app", "app-before") else 0
    making.down.is_full = what == "app-before"
    quiet, passed = (0.0, limit) if what == "total" else (limit, 0.0)
    begun = exchange.began_mono
    assert exchange.overdue(max(quiet - 0.01, 0.0), begun + max(passed - 0.01, 0.0)) is None
    error = exchange.overdue(quiet, begun + passed)
    assert (error.reason, error.detail) == (reason, says)


def test_what_is_waited_for_elsewhere_has_its_limit_there(making: Making) -> None:
    """Token and connection; a tunnel has no total."""
    for state in (State.QUEUED, State.TOKEN, State.CONNECT):
        assert making.exchange(state, connected=False).overdue(99.0, making.bench.clock.mono()) is None
    assert making.exchange(State.TUNNEL).overdue(0.0, making.bench.clock.mono() + 999.0) is None


def test_where_nothing_is_said_of_a_total_there_is_none(make_bench: MakeBench) -> None:
    """By default."""
    making = Making(make_bench, "timeouts: {response: 3s}")
    assert making.exchange().overdue(0.0, making.bench.clock.mono() + 1e9) is None


NO_ANSWER = "The upstream closed the connection before it answered."
RECURS = " If this recurs, its keep-alive time may be below `pool.idle`, or it crashes on this request."
LOST = [
    pytest.param(b"POST", 2, "", f"{NO_ANSWER} POST is not sent twice.{RECURS}", id="not-idempotent"),
    pytest.param(b"GET", 1, "", NO_ANSWER + RECURS, id="a-first-request"),
    pytest.param(b"GET", 2, "heard", NO_ANSWER + RECURS, id="a-byte-had-come"),
    pytest.param(b"GET", 2, "retried", NO_ANSWER + RECURS, id="sent-again-already"),
    pytest.param(b"GET", 2, "not-held", NO_ANSWER + RECURS, id="too-large-to-hold"),
    pytest.param(
        b"GET",
        2,
        "",
        f"{NO_ANSWER} It was not sent again: the route's `retry_budget` is spent.{RECURS}",
        id="budget",
    ),
]


@pytest.mark.parametrize(("method", "served", "how", "says"), LOST)
def test_a_lost_connection_says_why_it_was_not_sent_again(
    make_bench: MakeBench, method: bytes, served: int, how: str, says: str
) -> None:
    """Where nothing of an answer had come."""
    making = Making(make_bench, "retry_budget: 0")
    exchange = making.exchange(method=method)
    connection = exchange._connection
    connection.served = served
    connection._fed = 1 if how == "heard" else 0
    exchange._retried = how == "retried"
    if how == "not-held":
        exchange._held = None
    exchange.upstream_lost(connection)
    assert making.answer == ("upstream_closed", says)
    assert making.bench.stats.retries_denied == (1 if "budget" in says else 0)
    assert exchange.state is State.DONE


def test_a_stale_connection_takes_those_along_that_idle_as_long(making: Making) -> None:
    """And the request goes out on another, once; the newer ones stay."""
    old, new = making.bench.busy(), making.bench.busy()
    making.bench.free(old)
    making.bench.clock.advance(1.0)
    exchange = making.exchange()
    connection = exchange._connection
    connection.served, connection.idle_since_mono = 2, making.bench.clock.mono()
    making.bench.clock.advance(1.0)
    making.bench.free(new)
    exchange.upstream_lost(connection)
    assert (exchange.state, making.bench.stats.retries, exchange.had_its_turn) == (State.CONNECT, 1, True)
    assert (old.connection.is_closing(), new.connection.is_closing()) == (True, False)
    assert len(making.bench.dials.under_way) == 1


@pytest.mark.parametrize("body", [5, framing.CHUNKED], ids=["length", "chunked"])
def test_a_body_is_written_in_one_piece_and_held(making: Making, body: int) -> None:
    """As far as `limits.buffer`, in bytes of the body; beyond that nothing is held, and nothing sent twice."""
    exchange = making.exchange(body=body)
    written = exchange._connection.transport.data
    for data in (b"abcd", b"efghij"):
        exchange.request_body(data)
    exchange.flush_request()
    exchange.flush_request()
    chunks = [b"4\r\nabcd\r\n", b"6\r\nefghij\r\n"] if body == framing.CHUNKED else [b"abcd", b"efghij"]
    assert written == [b"".join(chunks)]
    assert exchange._held == chunks
    assert (exchange.sent, exchange.progress, exchange.request_done) == (10, 2, False)
    exchange.request_body(b"k")
    assert exchange._held is None
    exchange.request_end([])
    exchange.flush_request()
    assert written[1:] == [b"1\r\nk\r\n0\r\n\r\n" if body == framing.CHUNKED else b"k"]
    assert (exchange.sent, exchange.progress, exchange.request_done) == (11, 4, True)


def test_a_body_that_has_no_connection_yet_is_held_back(making: Making) -> None:
    """At `limits.buffer` the app is read no further."""
    exchange = making.exchange(State.CONNECT, body=framing.CHUNKED, connected=False)
    exchange.request_body(b"abcdefghi")
    assert making.down.told == []
    exchange.request_body(b"j")
    assert making.down.told == [("block_body",)]
    exchange.flush_request()
    assert exchange._held == [b"9\r\nabcdefghi\r\n", b"1\r\nj\r\n"]


def test_too_late_is_an_answer_or_a_cut(making: Making) -> None:
    """Whichever is still possible; both are counted, noted, and end the request once."""
    stats = making.bench.stats
    waits, answered = making.exchange(), making.exchange(State.ANSWERING)
    transport = waits._connection.transport
    waits.time_out(ERROR)
    assert making.answer == ("send_timeout", "Too slow.")
    assert (transport.closed, stats.refused, waits.error) == (True, {"send_timeout": 1}, ERROR)
    assert making.down.told == [("noted", ERROR, "any"), ("exchange_done", waits, making.bench.clock.mono())]
    making.down.told.clear()
    answered._status = 200
    answered.time_out(ERROR)
    assert stats.cut == {"send_timeout": 1}
    assert making.down.told[0] == ("break_off", ("flush", True), ("reset", False))
    assert stats.requests == {("GET", 504): 1, ("GET", 200): 1}
    assert (stats.in_flight, making.pool.users) == (0, 0)


def test_a_cut_that_the_app_could_take_for_an_end_is_a_reset(making: Making) -> None:
    """And to an app that takes nothing, nothing more is sent."""
    exchange = making.exchange(State.ANSWERING)
    exchange._answer_body = framing.UNTIL_CLOSE
    exchange.time_out(SidecarError(Reason.CLIENT_STALLED, "Stalled."))
    assert making.down.told[0] == ("break_off", ("flush", False), ("reset", True))


def test_an_end_that_fails_gives_back_all_the_same(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault is noted."""
    exchange = making.exchange()

    def broken(*_: object) -> None:
        raise FAULT

    monkeypatch.setattr(Exchange, "time_out", broken)
    monkeypatch.setattr(Exchange, "abort", broken)
    exchange.end_by_fault(internal())
    assert (exchange.state, exchange.keep_alive, making.down.proxy.faults.count) == (State.DONE, False, 2)
    assert (making.bench.stats.in_flight, making.pool.users) == (0, 0)


def test_a_fault_is_the_connection_s_of_the_app_while_it_is_answered(making: Making) -> None:
    """Of one that is not, it is noted."""
    exchange = making.exchange()
    exchange.fault(FAULT)
    assert (making.down.told, making.down.proxy.faults.count) == ([], 1)
    making.down.current = exchange
    exchange.fault(FAULT)
    assert (making.down.told, making.down.proxy.faults.count) == ([("fault", FAULT)], 1)


@pytest.mark.parametrize("gone", [True, False], ids=["vanished", "there"])
def test_an_upstream_that_has_vanished_is_not_waited_for(
    making: Making, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """After as long as connecting may take; what idles there is closed as well."""
    asked: list[tuple[object, float]] = []

    def has_vanished(transport: object, seconds: float) -> bool:
        asked.append((transport, seconds))
        return gone

    monkeypatch.setattr("sidecar.proxy.peer.has_vanished", has_vanished)
    idle = making.bench.busy()
    making.bench.free(idle)
    exchange = making.exchange()
    transport = exchange._connection.transport
    exchange.look_for_peer(0.9)
    assert asked == []
    exchange.look_for_peer(1.0)
    assert asked == [(transport, 1.0)]
    assert (transport.closed, idle.connection.is_closing()) == (gone, gone)
    if gone:
        assert making.answer == (
            "response_timeout",
            "For 1 s the upstream has acknowledged nothing of what was sent to it: its machine, or the network path to "
            "it, is gone.",
        )
    for state in (State.ANSWERING, State.TUNNEL):
        making.exchange(state).look_for_peer(9.0)
    making.exchange(connected=False).look_for_peer(9.0)
    assert len(asked) == 1
