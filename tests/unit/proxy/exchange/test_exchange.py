"""sidecar.proxy.exchange.exchange: what a request is told when it takes too long or loses its upstream, and what is held of it for
another try; everything else of it is in tests/wire"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.observe.logs import AccessLog
from sidecar.proxy.admission.admission import Plan
from sidecar.proxy.exchange.exchange import Exchange, State
from sidecar.proxy.faults import Faults, internal
from sidecar.proxy.fields.headers import drop_table
from sidecar.proxy.http1 import framing
from sidecar.proxy.http1.upstream import UpstreamConnection
from tests.support.pooling import FAULT, MakeBench, Transport

ERROR = SidecarError(Reason.SEND_TIMEOUT, "Too slow.")
LIMITS = {"buffer": 10, "body_timeout": 20.0, "send_timeout": 21.0}
TIMEOUTS = "timeouts: {connect: 1s, response: 3s, send: 4s, idle: 5s, tunnel_idle: 6s, total: 100s}"


class Written(Transport):
    """Keeps what is written; as TLS is, it can't be closed by half."""

    def can_write_eof(self) -> bool:
        return False

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
            outages=SimpleNamespace(note=lambda error, route, _: self.told.append(("noted", error, route))),
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
    """As far as `limits.buffer`, in bytes of the body and 64 for each small piece behind the first; beyond that nothing
    is held, and nothing sent twice."""
    making.down.proxy.limits = making.down.proxy.limits.model_copy(update={"buffer": 10 + 64})
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

    monkeypatch.setattr("sidecar.net.peer.has_vanished", has_vanished)
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


class Tokens:
    """The token store, as an exchange asks it."""

    def __init__(self) -> None:
        self.value: bytes | None = b"Bearer first"
        self.asked: list[tuple[Any, ...]] = []
        self.waiting: list[Any] = []

    def bearer(self, *asked: Any) -> bytes | None:
        self.asked.append(asked)
        return self.value

    def join(self, key: Any, settled: Any, *, refused: bytes = b"") -> None:
        self.waiting.append(settled)

    def reject(self, key: Any, value: bytes) -> bool:
        return True


@pytest.fixture
def sending(make_bench: MakeBench) -> Making:
    """With all that a request needs to be sent and answered."""
    making = Making(make_bench)
    making.down.proxy.tokens = Tokens()
    making.down.proxy.via = (b"", b"")
    making.down.owner = SimpleNamespace(origin_scheme=b"http://")
    return making


def with_token(exchange: Any) -> Any:
    """Its route puts a token into Authorization."""
    destination, path, prefix, _ = exchange.admitted
    dropped = frozenset({b"authorization"})
    exchange.admitted = (
        destination,
        path,
        prefix,
        Plan((b"Authorization",), dropped, drop_table(dropped)),
    )
    return exchange


OK = (200, b"OK", [(b"Content-Length", b"4")], {b"content-length": b"4"}, 4)


def test_whatever_moves_is_progress(sending: Making) -> None:
    """By one each: events of both directions never cancel each other out, or going slowly would be a stall."""
    exchange = sending.exchange(body=framing.CHUNKED)
    for does, seen in (
        (lambda: exchange.request_body(b"abc"), 1),
        (lambda: exchange.interim(103, b"Early Hints", []), 2),
        (lambda: exchange.answer(*OK), 3),
        (lambda: exchange.answer_body(b"ab"), 4),
        (lambda: exchange.answer_body(b"cd"), 5),
        (lambda: exchange.tunnel_from_app(b"x"), 6),
        (lambda: exchange.tunnel_from_app(b"yz"), 7),
        (lambda: exchange.tunnel_from_upstream(b"x"), 8),
        (lambda: exchange.tunnel_from_upstream(b"yz"), 9),
        (lambda: exchange.request_end([]), 10),
    ):
        does()
        assert exchange.progress == seen
    assert (exchange.sent, exchange.received) == (6, 7)


def test_an_interim_answer_goes_before_the_final_one(sending: Making) -> None:
    """Also where both came in one piece of bytes."""
    exchange = sending.exchange()
    exchange.interim(103, b"Early Hints", [(b"Link", b"</a>")])
    exchange.answer(*OK)
    exchange.answer_body(b"abcd")
    exchange.answer_end([])
    (written,) = sending.down.transport.data
    assert written == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"
    )


def test_bytes_are_counted_for_all_requests_of_a_route(sending: Making) -> None:
    """In both directions."""
    for _ in range(2):
        exchange = sending.exchange(body=5)
        exchange.request_body(b"abcde")
        exchange.request_end([])
        exchange.answer(*OK)
        exchange.answer_body(b"abcd")
        exchange.answer_end([])
    stats = sending.bench.stats
    assert (stats.bytes_sent, stats.bytes_received) == (10, 8)
    assert stats.requests == {("GET", 200): 2}


def test_a_content_location_is_mapped_as_a_location_is(sending: Making) -> None:
    """By itself, where no prefix was stripped."""
    exchange = sending.exchange()
    where = b"https://a.example.com/x"
    exchange.answer(200, b"OK", [(b"Content-Location", where)], {b"content-location": where}, 0)
    exchange.flush_answer()
    assert b"Content-Location: http://a.example.com/x\r\n" in sending.down.transport.data[0]


@pytest.mark.parametrize(("waited", "own"), [(0.0, 0.0), (0.5, 0.5)], ids=["at-once", "later"])
def test_the_sidecar_s_own_share_ends_when_the_request_is_sent_first(
    sending: Making, waited: float, own: float
) -> None:
    """What the upstream takes is not it, nor what sending once more costs."""
    exchange = sending.exchange(State.CONNECT, connected=False)
    clock, stats = sending.bench.clock, sending.bench.stats
    clock.advance(waited)
    first = sending.connection(exchange)
    exchange.connected(first)
    first.served = 2
    clock.advance(2.0)
    exchange.upstream_lost(first)
    exchange.connected(sending.connection(exchange))
    clock.advance(3.0)
    exchange.answer(*OK)
    exchange.answer_body(b"abcd")
    exchange.answer_end([])
    assert (stats.own.sum, stats.total.sum, stats.retries) == (own, waited + 5.0, 1)


def test_where_nothing_was_sent_all_of_it_is_the_sidecar_s_own(making: Making) -> None:
    """The time until the error."""
    exchange = making.exchange(State.CONNECT, connected=False)
    making.bench.clock.advance(2.0)
    exchange.not_connected(ERROR)
    assert making.bench.stats.own.sum == 2.0


def test_a_token_is_asked_for_by_the_clock_that_the_request_came_with(sending: Making) -> None:
    """At the start, and again when there is a connection."""
    exchange = with_token(sending.exchange(State.QUEUED, connected=False))
    came = exchange.began_mono
    sending.bench.clock.advance(1.0)
    exchange.start()
    assert exchange.state is State.CONNECT
    connection = sending.connection(exchange)
    exchange.connected(connection)
    tokens = sending.down.proxy.tokens
    assert tokens.asked == [(sending.pool.token_key, came)] * 2
    assert b"\r\nAuthorization: Bearer first\r\n" in connection.transport.data[0]  # type: ignore[attr-defined]


def test_a_request_whose_token_is_the_app_s_has_none(sending: Making) -> None:
    """Nothing is asked of the store, and nothing the target says is laid at a token's door."""
    idle = sending.bench.busy()
    sending.bench.free(idle)
    idle.connection.transport = Written()
    exchange = sending.exchange(State.QUEUED, connected=False)
    exchange.start()
    assert (exchange.state, exchange._bearer, sending.down.proxy.tokens.asked) == (State.SENT, b"", [])
    exchange.answer(403, b"Forbidden", [], {}, 0)
    assert exchange._sample is None


def test_a_body_of_just_the_buffer_is_held(sending: Making) -> None:
    """Before there is a connection and after; what ends it is no byte of it."""
    exchange = sending.exchange(State.CONNECT, body=framing.CHUNKED, connected=False)
    exchange.request_body(b"abcdefghij")
    exchange.connected(sending.connection(exchange))
    assert exchange._held == [b"a\r\nabcdefghij\r\n"]
    exchange.request_end([])
    assert exchange._held == [b"a\r\nabcdefghij\r\n", b"0\r\n\r\n"]
    larger = sending.exchange(State.CONNECT, body=11, connected=False)
    larger.request_body(b"abcdefghijk")
    larger.connected(sending.connection(larger))
    assert larger._held is None


def test_a_refused_token_is_replaced_once(sending: Making) -> None:
    """By a request that is whole; a second refusal is the app's to see."""
    stats = sending.bench.stats
    found = {b"www-authenticate": b'Bearer error="invalid_token"'}
    for count in (1, 2):
        exchange = with_token(sending.exchange())
        exchange._bearer = b"Bearer first"
        exchange.interim(103, b"Early Hints", [])
        assert not exchange.answer(401, b"No", [], found, 0)
        assert (exchange.state, exchange.had_its_turn, stats.replays) == (State.TOKEN, True, count)
        exchange.flush_answer()
        assert sending.down.transport.data == []
        exchange.state, exchange._connection = State.SENT, sending.connection(exchange)
        assert exchange.answer(401, b"No", [], found, 0)
        assert stats.replays == count
    half = with_token(sending.exchange(body=5))
    half._bearer = b"Bearer first"
    assert half.answer(401, b"No", [], found, 0)


def test_the_trace_of_a_request_is_whichever_header_names_it(making: Making) -> None:
    """Google's own counts where there is no traceparent."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    exchange = making.exchange()
    assert exchange.trace() is None
    for name, value in (
        (b"Traceparent", f"00-{trace}-00f067aa0ba902b7-01".encode()),
        (b"X-Cloud-Trace-Context", f"{trace}/1;o=1".encode()),
    ):
        exchange._fields = [(name, value)]
        assert exchange.trace().trace_id == trace


TOO_MANY = (
    "1 upgraded connections are open already, or asked for (`limits.tunnels`). Close some, or raise it."
)


def test_a_tunnel_more_than_there_may_be_is_told_what_to_do(sending: Making) -> None:
    """And which limit it was."""
    down = sending.down
    down.proxy.limits = down.proxy.limits.model_copy(update={"tunnels": 1})
    first, second = (sending.exchange(State.QUEUED, connected=False) for _ in range(2))
    first.upgrade = second.upgrade = b"websocket"
    first.start()
    second.start()
    assert (first.state, second.state) == (State.CONNECT, State.DONE)
    assert sending.answer == ("tunnel_limit", TOO_MANY)


NOT_ASKED = "The upstream answered 101 Switching Protocols with a protocol that was not asked for."


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        pytest.param(b"websocket", [], id="none"),
        pytest.param(b"websocket", [(b"Upgrade", b"h2c")], id="another"),
        pytest.param(None, [(b"Upgrade", b"websocket")], id="nothing-was-asked"),
        pytest.param(None, [], id="nothing-at-all"),
    ],
)
def test_a_switch_is_to_what_was_asked_for(sending: Making, asked: bytes | None, fields: Any) -> None:
    """Or no switch."""
    exchange = sending.exchange()
    exchange.upgrade = asked
    error = exchange.switch(b"Switching Protocols", fields)
    assert (error.reason, error.detail) == (Reason.UPGRADE_FAILED, NOT_ASKED)
    assert (exchange.state, sending.bench.stats.upgrades, sending.down.told) == (State.SENT, 0, [])


class Halves(Written):
    """A transport of which one direction can end, and that knows how it was closed."""

    ended = 0
    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended += 1


def test_tunnels_are_counted_and_end_without_an_error(sending: Making) -> None:
    """Whoever ends them; what the app had sent still goes to the upstream."""
    stats, open_ = sending.bench.stats, []
    for _ in range(3):
        exchange = sending.exchange()
        exchange.upgrade = b"websocket"
        sending.down.proxy.tunnels.add(exchange)
        assert exchange.switch(b"Switching Protocols", [(b"Upgrade", b"websocket")]) is None
        open_.append(exchange)
    assert (stats.upgrades, stats.tunnels, sending.down.told) == (3, 3, [("become_tunnel",)] * 3)
    by_app, by_upstream, by_both = open_
    upstream = by_app._connection.transport = Halves()
    by_app.abort(ERROR)
    assert (by_app.error, upstream.closed, upstream.aborted) == (None, True, False)
    by_upstream.upstream_lost(by_upstream._connection)
    assert (by_upstream.error, stats.tunnels, stats.refused, stats.cut) == (None, 1, {}, {})
    assert by_both.app_ended() is False  # of a transport that can't be half closed
    assert by_both._connection.transport.closed


def test_a_tunnel_s_directions_end_one_after_the_other(sending: Making) -> None:
    """The first end is passed on, the second one closes."""
    exchange = sending.exchange(State.TUNNEL)
    app = sending.down.transport = Halves()
    upstream = exchange._connection.transport = Halves()
    assert exchange.upstream_ended() is True
    assert (app.ended, app.closed, upstream.ended) == (1, False, 0)
    assert exchange.app_ended() is False
    assert (upstream.ended, upstream.closed) == (0, True)


def test_an_answer_that_breaks_off_says_why(sending: Making) -> None:
    """The upstream's end, what TLS said, or what the parser did."""
    lost, told, malformed = (sending.exchange(State.ANSWERING) for _ in range(3))
    lost.upstream_lost(lost._connection)
    assert (lost.error.reason, lost.error.detail) == (
        Reason.UPSTREAM_INCOMPLETE,
        "The upstream closed the connection in mid-answer.",
    )
    told.upstream_lost(told._connection, ERROR)
    assert told.error is ERROR
    malformed.upstream_failed(ERROR)
    assert malformed.error is ERROR
    assert sending.bench.stats.cut == {"upstream_incomplete": 1, "send_timeout": 2}


def test_what_goes_wrong_when_a_token_comes_is_the_app_s_connection_s_fault(
    sending: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that tells of it has nothing to do with it."""

    def broken(*_: object) -> None:
        raise FAULT

    sending.down.proxy.tokens.value = None
    exchange = with_token(sending.exchange(State.QUEUED, connected=False))
    exchange.start()
    monkeypatch.setattr(Exchange, "start", broken)
    (settled,) = sending.down.proxy.tokens.waiting
    settled(None)
    assert sending.down.told == [("fault", FAULT)]


def test_faults_are_told_with_where_they_were(
    making: Making, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And with what they were."""

    def broken(*_: object) -> None:
        raise FAULT

    making.exchange().fault(FAULT)
    monkeypatch.setattr(Exchange, "time_out", broken)
    making.exchange().end_by_fault(internal())
    told = [(record.fields["where"], record.exc_info[1]) for record in caplog.records if record.exc_info]  # type: ignore[attr-defined]
    assert told == [("connection to the upstream", FAULT), ("end of a request", FAULT)]


@pytest.mark.parametrize("mode", ["errors", "all", "off"])
def test_the_access_log_is_asked_who_made_the_answer(sending: Making, mode: Any) -> None:
    """An upstream's 403 is its own affair, and the sidecar's is an error."""
    logged: list[int] = []
    sending.down.proxy.access_log = AccessLog(mode)
    sending.down.proxy.log_request = lambda exchange, *, status, duration, own: logged.append(status)
    theirs, ours = sending.exchange(), sending.exchange()
    theirs.answer(403, b"Forbidden", [], {}, 0)
    theirs.answer_end([])
    ours.not_connected(SidecarError(Reason.NO_ROUTE, "Nowhere."))
    assert logged == {"errors": [404], "all": [403, 404], "off": []}[mode]
