"""sidecar.proxy.http1.upstream: one connection to a target, read by read; with sockets it is in tests/wire and tests/conformance"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.config.groups import Limits
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.http1.upstream import UpstreamConnection
from sidecar.proxy.messages import UNKNOWN
from sidecar.proxy.ports import Loss, Relay
from tests.support.exchanges import TOKENLESS
from tests.support.pooling import FakeTransport, MakeBench
from tests.support.sides import FAULT, request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD, HEADERS, BUFFER = 120, 4, 4321
INVALID = "The upstream's answer is not valid HTTP/1.1: "
TOO_LARGE = (
    "The head of the answer, or its chunk lines and trailers, are larger than `limits.head` (120 bytes) or have more "
    "than `limits.headers` (4) lines."
)


class Served(Relay):
    """An exchange that writes down what it is told; it may have a fault, or want no answer."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.breaks = ""
        self.takes = True
        self.switches: SidecarError | None = None

    def tell(self, what: str, *said: Any) -> None:
        if self.breaks == what:
            raise FAULT
        if what == "body" and self.told and self.told[-1][0] == "body":
            said = (self.told.pop()[1] + said[0],)
        self.told.append((what, *said))

    def answer(self, status: int, reason: bytes, fields: Any, found: Any, body: Any) -> bool:
        self.tell("answer", status, reason, list(fields))
        return self.takes

    def answer_body(self, data: bytes) -> None:
        self.tell("body", data)

    def flush_answer(self) -> None:
        if self.breaks == "flush":
            raise FAULT

    def answer_end(self, trailers: Any) -> bool:
        self.tell("end", list(trailers))
        return True

    def interim(self, status: int, reason: bytes, fields: Any) -> None:
        self.tell("interim", status, reason, list(fields))

    def switch(self, reason: bytes, fields: Any) -> SidecarError | None:
        self.tell("switch", reason, list(fields))
        return self.switches

    def from_upstream(self, data: bytes) -> None:
        self.tell("tunnel", data)

    def upstream_ended(self) -> bool:
        self.tell("ended")
        return True

    def upstream_full(self) -> None:
        self.tell("full")

    def upstream_writable(self) -> None:
        self.tell("writable")

    def failed(self, error: SidecarError) -> None:
        self.tell("failed", error.reason, error.detail)

    def lost(self, loss: Loss, error: SidecarError | None) -> None:
        self.tell("lost", loss, error)

    def faulted(self, fault: BaseException) -> None:
        self.told.append(("fault", fault))


class Line:
    """A connection with small limits, its transport, and the exchange that it serves."""

    def __init__(self, make_bench: MakeBench, method: bytes = b"GET") -> None:
        self.bench = make_bench("connections: 9")
        self.pool = self.bench.pool("a")
        self.pool.open = self.bench.places.open = 1
        limits = Bounds(Limits())
        limits.head, limits.headers, limits.buffer = HEAD, HEADERS, BUFFER
        self.connection = UpstreamConnection(self.pool, limits)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        self.serve(method)

    def serve(self, method: bytes = b"GET") -> Served:
        self.exchange = Served()
        self.connection.open(self.exchange)
        self.connection.head(request(method), b"/x", b"a.example.com", TOKENLESS, b"")
        return self.exchange

    @property
    def kept(self) -> bool:
        """Whether it is idle in the pool, to serve again."""
        return self.bench.stats.connections_idle == 1 and not self.transport.closed


@pytest.fixture
def line(make_bench: MakeBench) -> Line:
    return Line(make_bench)


def answer(status: int, reason: bytes, *fields: tuple[bytes, bytes]) -> tuple[Any, ...]:
    return ("answer", status, reason, list(fields))


LENGTH = (b"Content-Length", b"2")
NONE = (b"Content-Length", b"0")
WHOLE = [answer(200, b"OK", LENGTH), ("body", b"ok"), ("end", [])]
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"


def padded(size: int) -> bytes:
    """An answer without a body whose fields are of this size, as `limits.head` counts them."""
    return EMPTY + b"X: " + b"x" * (size - len(b"Content-Length: 0\r\nX: \r\n")) + b"\r\n\r\n"


ANSWERS = [
    pytest.param(OK, WHOLE, True, id="usual"),
    pytest.param(
        OK.replace(b"200 OK", b"404 Not Found"),
        [answer(404, b"Not Found", LENGTH), *WHOLE[1:]],
        True,
        id="404",
    ),
    pytest.param(
        OK.replace(b" OK", b" "), [answer(200, b"", LENGTH), *WHOLE[1:]], True, id="no-reason-phrase"
    ),
    pytest.param(OK.replace(b"200", b"599"), [answer(599, b"OK", LENGTH), *WHOLE[1:]], True, id="599"),
    pytest.param(
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        [("interim", 103, b"Early Hints", [(b"Link", b"x")]), *WHOLE],
        True,
        id="interim",
    ),
    pytest.param(
        b"HTTP/1.1 100 Continue\r\n\r\n" * 32 + OK,
        [("interim", 100, b"Continue", [])] * 32 + WHOLE,
        True,
        id="as-many-interim-ones-as-may-be",
    ),
    pytest.param(
        OK.replace(b": 2", b": 002"),
        [answer(200, b"OK", LENGTH), *WHOLE[1:]],
        True,
        id="zeros-before-a-length",
    ),
    pytest.param(EMPTY + b"\r\n", [answer(200, b"OK", NONE), ("end", [])], True, id="length-of-zero"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", WHOLE, False, id="1.0-is-not-kept"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        [answer(200, b"OK", (b"Connection", b"close"), LENGTH), *WHOLE[1:]],
        False,
        id="close",
    ),
    pytest.param(
        CHUNKED + b"2\r\nok\r\n0\r\nX: 1\r\n\r\n",
        [answer(200, b"OK", (b"Transfer-Encoding", b"chunked")), ("body", b"ok"), ("end", [(b"X", b"1")])],
        True,
        id="chunked-with-trailers",
    ),
    pytest.param(
        EMPTY + b"A: 1\r\nB: 2\r\nC: 3\r\n\r\n",
        [answer(200, b"OK", NONE, (b"A", b"1"), (b"B", b"2"), (b"C", b"3")), ("end", [])],
        True,
        id="as-many-lines-as-may-be",
    ),
]


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(("data", "told", "kept"), ANSWERS)
def test_an_answer_is_told_as_it_came(
    line: Line, data: bytes, told: list[Any], kept: bool, bytewise: bool
) -> None:
    """However it comes in pieces; then the connection is kept, or ends. Twice, since nothing may be left of the first."""
    for _ in range(2 if kept else 1):
        for piece in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
            line.connection.data_received(piece)
        assert line.exchange.told == told
        assert (line.kept, line.bench.stats.connections_active) == (kept, 0)
        if kept:
            line.pool.acquire(line.exchange, fresh=False)
            line.serve()


TOO_MANY = b"".join(b"X%d: 1\r\n" % number for number in range(HEADERS))
WRONG = [
    pytest.param(b"SSH-2.0-x\r\n", INVALID + "it does not begin with `HTTP/1.`.", id="another-protocol"),
    pytest.param(b"HTTP/2.0 200 OK\r\n\r\n", INVALID + "it does not begin with `HTTP/1.`.", id="version-2"),
    pytest.param(b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", INVALID, id="version-1.2"),
    pytest.param(OK.replace(b"200", b"600"), INVALID + "its status is 600.", id="status-600"),
    pytest.param(
        OK.replace(b"OK", b"O\1K"), INVALID + "its reason phrase has control characters.", id="control"
    ),
    pytest.param(
        b"HTTP/1.1 100 Continue\r\n\r\n" * 33 + OK,
        INVALID + "more than 32 interim answers.",
        id="interim-for-ever",
    ),
    pytest.param(EMPTY + TOO_MANY + b"\r\n", TOO_LARGE, id="a-line-too-many"),
    pytest.param(CHUNKED + b"0\r\n" + TOO_MANY + b"Y: 1\r\n\r\n", TOO_LARGE, id="a-trailer-too-many"),
    pytest.param(padded(HEAD + 1), TOO_LARGE, id="a-byte-too-many"),
    pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9999, TOO_LARGE, id="a-head-without-end"),
    pytest.param(CHUNKED + b"1;" + b"x" * 999 + b"\r\na\r\n", TOO_LARGE, id="chunk-lines-without-bytes"),
    pytest.param(OK.replace(b": 2", b": 2x"), INVALID, id="length-is-no-number"),
    pytest.param(CHUNKED + b"x\r\n", INVALID, id="chunk-size-is-no-number"),
]


@pytest.mark.parametrize(("data", "says"), WRONG)
def test_what_is_no_answer_ends_the_connection(line: Line, data: bytes, says: str) -> None:
    """At once, and with what is wrong."""
    line.connection.data_received(data)
    what, reason, detail = line.exchange.told[-1]
    assert (what, reason.startswith("upstream_")) == ("failed", True)
    assert detail == says or (
        says == INVALID and detail.startswith(INVALID) and detail[len(INVALID) :] not in ("", "None.")
    )
    assert (line.transport.closed, line.bench.stats.connections_active) == (True, 0)


def test_bounds_are_of_what_is_no_body(line: Line) -> None:
    """A head may be as large as `limits.head`; chunk lines may cost 17 bytes for each of a body's, beside that."""
    line.connection.data_received(padded(HEAD))
    assert line.exchange.told[-1] == ("end", [])
    line.pool.acquire(line.exchange, fresh=False)
    line.serve()
    head = len(CHUNKED)
    line.connection.data_received(CHUNKED)
    chunk = b"1;" + b"x" * 11 + b"\r\na\r\n"  # 18 bytes with one of a body
    spent, size = 0, len(b"Transfer-Encoding: chunked\r\n")
    while head + spent + 1 <= HEAD + size:
        line.connection.data_received(chunk)
        spent += 1
        assert not line.transport.closed, spent
    line.connection.data_received(chunk)
    assert line.exchange.told[-1] == ("failed", Reason.UPSTREAM_HEAD_TOO_LARGE, TOO_LARGE)


@pytest.mark.parametrize(
    "interim", [b"", b"HTTP/1.1 103 E\r\nA: b\r\n\r\n"], ids=["at-once", "after-another"]
)
def test_a_head_that_has_no_end_is_bounded_to_the_byte(line: Line, interim: bytes) -> None:
    """Each by itself: what came before is not counted."""
    start = b"HTTP/1.1 200 OK\r\nX: "
    line.connection.data_received(interim + start + b"x" * (HEAD - len(start)))
    assert "failed" not in [what for what, *_ in line.exchange.told]
    line.connection.data_received(b"x")
    assert line.exchange.told[-1] == ("failed", Reason.UPSTREAM_HEAD_TOO_LARGE, TOO_LARGE)


def test_an_answer_without_a_length_ends_with_the_connection(line: Line) -> None:
    """And so does a read of nobody's: the app is told which."""
    line.connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nok")
    line.connection.eof_received()
    assert line.exchange.told == [answer(200, b"OK"), ("body", b"ok"), ("end", [])]
    assert (line.kept, line.transport.closed) == (False, True)


@pytest.mark.parametrize(
    "extra", [OK, EMPTY + b"\r\n", b"x"], ids=["a-second-answer", "one-without-a-body", "a-byte"]
)
def test_what_nobody_asked_for_ends_the_connection(line: Line, extra: bytes) -> None:
    """In the same read, or on an idle connection; the answer before it is whole."""
    line.connection.data_received(OK + extra)
    assert (line.exchange.told, line.kept, line.transport.closed) == (WHOLE, False, True)


def test_bytes_on_an_idle_connection_end_it(line: Line) -> None:
    """They could be taken for the next answer."""
    line.connection.data_received(OK)
    assert (line.kept, line.transport.resumed) == (True, 1)
    line.connection.data_received(b"x")
    assert line.transport.closed


def test_the_answer_to_head_has_no_body_and_the_next_is_read_anew(make_bench: MakeBench) -> None:
    """Whatever its length says."""
    line = Line(make_bench, b"HEAD")
    line.connection.data_received(OK[:-2])
    assert (line.exchange.told, line.kept) == ([WHOLE[0], ("end", [])], True)
    line.pool.acquire(line.exchange, fresh=False)
    line.serve()
    line.connection.data_received(OK)
    assert line.exchange.told == WHOLE


def test_an_answer_that_is_not_wanted_ends_the_connection(line: Line) -> None:
    """The request is sent again on another."""
    line.exchange.takes = False
    line.connection.data_received(OK)
    assert (line.exchange.told, line.transport.closed) == ([WHOLE[0]], True)
    assert line.bench.stats.connections_active == 0


def test_one_with_bytes_unsent_is_not_kept(line: Line) -> None:
    """The next request's would stand behind them."""
    line.transport.unsent = 1
    line.connection.data_received(OK)
    assert (line.exchange.told, line.kept, line.transport.closed) == (WHOLE, False, True)


SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"


def test_a_switch_makes_a_tunnel(line: Line) -> None:
    """What came behind its head is the tunnel's already."""
    line.connection.data_received(SWITCHED + b"abc")
    line.connection.data_received(b"def")
    assert [told[0] for told in line.exchange.told] == ["switch", "tunnel", "tunnel"]
    assert line.exchange.told[1:] == [("tunnel", b"abc"), ("tunnel", b"def")]
    assert line.connection.eof_received()
    assert line.exchange.told[-1] == ("ended",)


def test_a_switch_that_is_refused_is_an_error(line: Line) -> None:
    """The exchange's own."""
    line.exchange.switches = SidecarError(Reason.UPGRADE_FAILED, "No.")
    line.connection.data_received(SWITCHED + b"abc")
    assert line.exchange.told[1:] == [("failed", Reason.UPGRADE_FAILED, "No.")]
    assert line.transport.closed


def test_the_exchange_that_it_serves_when_it_is_lost_learns_why(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as TLS says; what the transport caught of the sidecar's own is a 500."""
    why = SidecarError(Reason.TLS_ALERT, "An alert.")
    asked = []

    def fault(_: object, transport: object, error: object) -> SidecarError:
        asked.append((transport, error))
        return why

    monkeypatch.setattr(type(line.pool), "later_fault", fault)
    reset = ConnectionResetError(104, "reset")
    line.connection.connection_lost(reset)
    assert line.exchange.told == [("lost", Loss.UNKNOWN, why)]
    assert asked == [(line.transport, reset)]
    assert (line.bench.stats.connections_active, line.bench.places.open) == (0, 0)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(None, "lost", id="an-end"),
        pytest.param(ConnectionResetError(104, "reset"), "lost", id="a-reset"),
        pytest.param(MemoryError(), "failed", id="a-fault"),
    ],
)
def test_it_is_lost_by_an_end_or_a_fault(line: Line, error: Exception | None, told: str) -> None:
    """The place is free in any case."""
    line.connection.connection_lost(error)
    assert line.exchange.told[0][0] == told
    assert line.exchange.told[0][1:] in (
        (Loss.UNKNOWN, None),
        (Reason.INTERNAL, "A fault in the sidecar; its log has the traceback."),
    )
    assert (line.bench.stats.connections_active, line.bench.places.open) == (0, 0)


FAULTS = [
    *(pytest.param(name, OK, id=name) for name in ("answer", "body", "end")),
    pytest.param("flush", OK[:-1], id="flush"),
    pytest.param("interim", b"HTTP/1.1 103 Early Hints\r\n\r\n", id="interim"),
    pytest.param("failed", b"SSH", id="failed"),
    pytest.param("switch", SWITCHED, id="switch"),
    pytest.param("tunnel", SWITCHED + b"abc", id="tunnel"),
    pytest.param("ended", SWITCHED, id="tunnel-ends"),
    pytest.param("lost", OK[:-1], id="lost"),
]


@pytest.mark.parametrize(("breaks", "data"), FAULTS)
def test_a_fault_of_the_exchange_ends_it_with_its_connection(line: Line, breaks: str, data: bytes) -> None:
    """And nothing else; it is told once."""
    line.exchange.breaks = breaks
    line.connection.data_received(data)
    if breaks == "ended":
        line.connection.eof_received()
    elif breaks == "lost":
        line.connection.connection_lost(None)
    (fault,) = [told[1] for told in line.exchange.told if told[0] == "fault"]
    assert FAULT in (fault, fault.__context__)  # what the parser calls is wrapped by it
    assert (line.transport.closed, line.bench.stats.connections_active) == (True, 0)


@pytest.mark.parametrize("breaks", ["full", "writable"])
@pytest.mark.parametrize("gone", [False, True], ids=["still-served", "served-no-more"])
async def test_a_fault_under_a_write_comes_up_after_it(
    make_bench: MakeBench, breaks: str, gone: bool
) -> None:
    """The write is the exchange's own: it is not to end in the middle of it."""
    line = Line(make_bench)
    line.exchange.breaks = breaks
    (line.connection.pause_writing if breaks == "full" else line.connection.resume_writing)()
    assert (line.exchange.told, line.transport.closed) == ([], False)
    if gone:
        line.connection.data_received(OK)
        assert line.exchange.told == WHOLE
        line.exchange.told.clear()
    await asyncio.sleep(0)
    assert (line.exchange.told, line.transport.closed) == ([("fault", FAULT)], not gone)


def test_a_fault_met_by_the_code_that_handles_it(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """It ends with the request that it serves; serving nobody, it is noted."""
    assert line.connection.fault(FAULT)
    assert (line.exchange.told, line.transport.closed) == ([("fault", FAULT)], True)
    assert line.bench.pools.faults.count == 0
    assert not line.connection.fault(FAULT)
    assert line.bench.pools.faults.count == 1
    (record,) = caplog.records
    assert record.fields == {"where": "connection to the upstream"}  # type: ignore[attr-defined]
    assert (record.exc_info or (None, None))[1] is FAULT


def test_a_fault_of_one_is_not_the_next_one_s(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had just been given the connection is told that it is lost, and may be sent again."""
    first, given = line.exchange, []

    def release(pool: object, connection: object) -> None:
        given.append(line.serve())
        raise FAULT

    monkeypatch.setattr(type(line.pool), "release", release)
    line.connection.data_received(OK)
    (second,) = given
    assert (first.told, second.told) == ([*WHOLE, ("fault", FAULT)], [("lost", Loss.STALE, None)])


# what an exchange has it write


def test_a_request_is_written_in_one_piece(line: Line) -> None:
    """Its length is among its fields; what has been written is not written again."""
    head = line.connection
    head.head(request(b"PUT", [(b"Content-Length", b"5")], body=5), b"/y", b"b.example", TOKENLESS, b"")
    head.body(b"ab")
    head.body(b"cde")
    head.end([])
    head.flush()
    head.flush()
    assert line.transport.written == [b"PUT /y HTTP/1.1\r\nHost: b.example\r\nContent-Length: 5\r\n\r\nabcde"]


def test_a_body_of_unknown_length_is_chunked(line: Line) -> None:
    """With its trailers."""
    side = line.connection
    side.head(request(b"PUT", body=UNKNOWN), b"/y", b"b.example", TOKENLESS, b"")
    side.flush()
    side.body(b"a" * 17)
    side.flush()
    side.end([(b"X-Sum", b"1")])
    side.flush()
    assert line.transport.written == [
        b"PUT /y HTTP/1.1\r\nHost: b.example\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"11\r\n" + b"a" * 17 + b"\r\n",
        b"0\r\nX-Sum: 1\r\n\r\n",
    ]


def test_what_was_not_written_of_one_request_is_not_the_next_one_s(line: Line) -> None:
    """An answer may come before all of it was flushed."""
    line.connection.flush()
    line.connection.body(b"late")
    line.connection.data_received(OK)
    assert line.bench.pool("a").acquire(line.exchange, fresh=False) is line.connection
    line.serve()
    line.connection.flush()
    assert b"late" not in b"".join(line.transport.written)


def test_it_carries_one_at_a_time(line: Line) -> None:
    """As the pool is told."""
    assert (line.connection.capacity, line.connection.streams, line.connection.served) == (1, 1, 1)
    line.connection.data_received(OK)
    assert line.connection.streams == 0
    line.pool.acquire(line.exchange, fresh=False)
    line.serve()
    assert (line.connection.streams, line.connection.served) == (1, 2)


def test_what_is_known_of_a_request_when_its_connection_is_lost(line: Line) -> None:
    """A connection that had served before, and says nothing, was most likely closed while idle."""
    assert line.connection.loss() is Loss.UNKNOWN
    line.connection.data_received(OK)
    line.pool.acquire(line.exchange, fresh=False)
    line.serve()
    assert line.connection.loss() is Loss.STALE
    line.connection.data_received(OK[:30])
    assert line.connection.loss() is Loss.UNKNOWN


def test_a_stale_one_takes_those_along_that_idle_as_long(line: Line) -> None:
    """And the newer ones stay."""
    old, new = (Line(lambda *_: line.bench) for _ in range(2))
    old.connection.data_received(OK)
    line.bench.clock.advance(1.0)
    line.connection.data_received(OK)
    assert line.pool.acquire(line.exchange, fresh=False) is line.connection
    again = line.serve()
    line.bench.clock.advance(1.0)
    new.connection.data_received(OK)
    line.connection.connection_lost(None)
    assert again.told == [("lost", Loss.STALE, None)]
    assert (old.transport.closed, new.transport.closed) == (True, False)


@pytest.mark.parametrize(
    ("flush", "unsent", "aborted"),
    [
        pytest.param(False, 5, True, id="at-once"),
        pytest.param(True, 0, False, id="after-what-was-sent"),
        pytest.param(True, 5, False, id="after-what-is-unsent"),
    ],
)
def test_what_is_cancelled_ends_its_connection(line: Line, flush: bool, unsent: int, aborted: bool) -> None:
    """The last bytes of a tunnel have `timeouts.send`; the exchange is told nothing any more."""
    line.transport.unsent = unsent
    line.connection.cancel(flush=flush)
    assert (line.transport.closed, line.transport.aborted) == (True, aborted)
    line.connection.data_received(OK)
    assert (line.exchange.told, line.bench.stats.connections_active) == ([], 0)
    line.transport.aborted = False
    line.bench.sweep(line.bench.route.config.timeouts.send)
    assert line.transport.aborted == (flush and unsent > 0)


def test_its_reading_stops_and_goes_on(line: Line) -> None:
    """As the app takes the answer."""
    line.connection.pause_answer()
    line.connection.resume_answer()
    line.transport.unsent = 7
    assert (line.transport.paused, line.transport.resumed, line.connection.unsent()) == (1, 1, 7)


@pytest.mark.parametrize("halves", [True, False], ids=["by-half", "not-by-half"])
def test_it_is_an_end_of_a_tunnel(line: Line, halves: bool) -> None:
    """Which can be ended by half where its transport can."""
    line.transport.halves = halves
    line.connection.data_received(SWITCHED)
    line.connection.tunnel_write(b"abc")
    assert line.transport.written[-1] == b"abc"
    assert (line.connection.tunnel_end(), line.transport.ended) == (halves, halves)
    line.connection.tunnel_close()
    assert (line.transport.closed, line.transport.aborted) == (True, False)


def test_its_buffer_is_what_the_configuration_says(line: Line) -> None:
    """`limits.buffer`."""
    assert line.transport.high == BUFFER


BODY = bytes(range(256)) * 1024
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@pytest.mark.parametrize("first", [0, 1, 100_000, len(BODY) - 1])
def test_a_large_body_is_counted_and_the_next_answer_read_anew(line: Line, first: int) -> None:
    """However it is cut; what the parser took of it, too."""
    line.connection.data_received(BIG + BODY[:first])
    middle = first + (len(BODY) - first) // 2
    for piece in (BODY[first:middle], BODY[middle:]):
        if piece:
            line.connection.data_received(piece)
    bodies = [told[1] for told in line.exchange.told if told[0] == "body"]
    assert b"".join(bodies) == BODY
    assert line.exchange.told[-1] == ("end", [])
    assert line.kept
    line.serve()
    line.connection.data_received(OK)
    assert line.exchange.told[-1] == ("end", [])


def test_bytes_behind_a_counted_body_end_the_connection(line: Line) -> None:
    """They are passed on to nobody, and no other request's answer can begin with them."""
    line.connection.data_received(BIG)
    line.connection.data_received(BODY + OK)
    assert [told[1] for told in line.exchange.told if told[0] == "body"] == [BODY]
    assert line.exchange.told[-1] == ("end", [])
    assert line.transport.closed


def test_a_counted_body_that_ends_too_soon_is_no_whole_answer(line: Line) -> None:
    line.connection.data_received(BIG)
    line.connection.data_received(BODY[:-1])
    line.connection.eof_received()
    line.connection.connection_lost(None)
    assert [told[0] for told in line.exchange.told if told[0] in ("end", "lost")] == ["lost"]
