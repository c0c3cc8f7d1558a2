"""sidecar.proxy.http1.downstream: one connection from the app, read by read; with sockets it is in tests/wire and tests/conformance"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import httptools
import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.net.callers import Callers
from sidecar.net.listeners import Owner
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.http1 import framing, heads
from sidecar.proxy.http1.downstream import DownstreamConnection
from tests.conformance.memory import Line, Memory, make
from tests.conformance.play import ANSWER
from tests.conformance.strict import Request

FAULT = ZeroDivisionError("division by zero")
HEAD, HEADERS, TARGET = 1024, 4, 256
CONFIG = f"""
limits: {{head: {HEAD}B, headers: {HEADERS}, target: {TARGET}B, pipelined: 2}}
routes:
  - {{name: billing, host: billing.internal, upstream: "https://billing.example", audience: "https://billing.example"}}
  - name: guarded
    host: guarded.internal
    upstream: "https://guarded.example"
    audience: "https://guarded.example"
    allow: {{methods: [GET], paths: [/let-through]}}
"""
HOST = b"Host: billing.internal\r\n"
INVALID = "The request is not valid HTTP/1.1: "
FIRST_LINE = INVALID + "Its first line is not `METHOD target HTTP/1.1`, with one space between them."
TOO_LARGE = "The head is larger than 1024 bytes (`limits.head`)."
TOO_MANY = "More than 4 header lines (`limits.headers`)."
IN_SIDECAR = "A fault in the sidecar; its log has the traceback."
NO_TURN = "The connection closed before this pipelined request had its turn."
LEFT = "The app closed its connection before the answer was complete."


def get(path: bytes = b"/a", *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    head = b"%b %b HTTP/%b\r\n" % (method, path, version)
    return head + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(body: bytes = b"abcde", path: bytes = b"/p") -> bytes:
    return get(path, b"Content-Length: %d" % len(body), method=b"POST") + body


CLOSING = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
CHUNKED = get(b"/c", b"Transfer-Encoding: chunked", method=b"POST")
UPGRADE = get(b"/u", b"Upgrade: websocket", b"Connection: upgrade")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"


class Told:
    """An access log, and the traces: what they are told."""

    collapses = False

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.begun: list[tuple[Any, ...]] = []
        self.ended: list[Any] = []
        self.refusals: list[tuple[Any, ...]] = []

    def wants(self, *_: object, **__: object) -> bool:
        return True

    def request(self, **entry: Any) -> None:
        self.entries.append(entry)

    def begin(self, method: str, fields: Any, *, route: str, origin: bytes) -> tuple[Any, Any]:
        self.begun.append((method, list(fields), route, origin))
        return self, [*fields, (b"traceparent", b"00-1")]

    def end(self, span: object, **_: object) -> None:
        self.ended.append(span)

    def refused(self, method: str, fields: Any, *, route: str, status: int, reason: Reason) -> None:
        self.refusals.append((method, list(fields), route, status, reason))

    @property
    def details(self) -> list[Any]:
        """Of the requests that ended, in their order."""
        return [entry["detail"] for entry in self.entries]


class App:
    """A connection, and the app at its other end."""

    def __init__(self, memory: Memory, owner: Owner) -> None:
        self.memory = memory
        self.connection = DownstreamConnection(memory.proxy.context, memory.proxy, owner)
        self.line = Line(memory.turns, self.connection)

    def send(self, *reads: bytes) -> App:
        """One read after the other."""
        for data in reads:
            self.line.deliver(data)
            self.memory.settle()
        return self

    def sweep(self, seconds: float) -> None:
        """Let time pass, and look."""
        self.memory.clock.advance(seconds)
        self.connection.sweep(self.memory.clock.mono())
        self.memory.settle()

    @property
    def targets(self) -> list[bytes]:
        """What the upstream was asked for."""
        return [request.line.split(b" ")[1] for request in self.memory.upstream.requests]

    @property
    def request(self) -> Request:
        """The one that the upstream got."""
        (request,) = self.memory.upstream.requests
        return request

    @property
    def got(self) -> bytes:
        return self.line.written

    @property
    def open(self) -> bool:
        """Whether it may be asked more."""
        return not self.line.gone and not self.line.ended and self.line.reading


Call = Callable[..., App]


@pytest.fixture
async def memory() -> Memory:
    memory = await make(CONFIG)
    memory.proxy.ledger.access_log = Told()  # type: ignore[assignment]
    return memory


@pytest.fixture
def log(memory: Memory) -> Any:
    return memory.proxy.ledger.access_log


@pytest.fixture
def call(memory: Memory) -> Call:
    """A connection to a listener: the shared one, or that of the first route."""

    def made(*, own: bool = False, is_unix: bool = False, callers: Callers | None = None) -> App:
        owner = Owner(memory.proxy.context.admission.table.routes[0] if own else None, is_unix=is_unix)
        owner.callers = callers
        return App(memory, owner)

    return made


def refusal(
    memory: Memory,
    reason: Reason,
    detail: str,
    *,
    head: bool = False,
    close: bool = True,
    route: str | None = None,
) -> bytes:
    return heads.own_answer(
        SidecarError(reason, detail), route=route, now=memory.clock.wall(), head=head, close=close
    )


def go_on(app: App) -> None:
    """Have it go on in the next turn, as after a target that took no more for a while."""
    app.connection.pause_request()
    app.connection.resume_request()


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    places = [0, *at, len(data)]
    return [data[start:end] for start, end in pairwise(places)]


STREAMS = [
    pytest.param(get() + get(b"/b"), [b"", b""], [], id="heads"),
    pytest.param(b"\r\n\r\n\r\n" + get() + b"\r\n\r\n" + get(b"/b"), [b"", b""], [], id="empty-lines-before"),
    pytest.param(post() + get(b"/b"), [b"abcde", b""], [], id="length"),
    pytest.param(
        CHUNKED + b"2\r\nab\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n" + get(b"/b"),
        [b"ab\r\n\r\n", b""],
        [],
        id="chunked",
    ),
    pytest.param(
        CHUNKED + b"3;x=1\r\nabc\r\n0\r\nT: 1\r\nU: 2\r\n\r\n" + get(b"/b"),
        [b"abc", b""],
        [(b"t", b"1"), (b"u", b"2")],
        id="trailers",
    ),
]


@pytest.mark.parametrize("crumbs", [False, True], ids=["in-two", "bytes-and-then-the-rest"])
@pytest.mark.parametrize(("data", "bodies", "trailers"), STREAMS)
async def test_requests_are_the_same_however_they_are_read(
    memory: Memory, call: Call, data: bytes, bodies: list[bytes], trailers: list[Any], crumbs: bool
) -> None:
    """A read may end anywhere."""
    for end in range(4, len(data), 1 if not crumbs else 3):
        memory.upstream.requests = []
        app = call().send(*cut(data, range(max(1, end - 9), end + 1) if crumbs else [end]))
        assert app.got == ANSWER * 2, end
        assert [request.body for request in memory.upstream.requests] == bodies, end
        assert memory.upstream.requests[0].trailers == trailers, end
        assert (app.open, memory.upstream.ambiguous, memory.proxy.faults.count) == (True, [], 0)
        assert app.targets[1] == b"/b"


M = Reason.MALFORMED_REQUEST
L = Reason.HEAD_TOO_LARGE
LINES = [b"X%d: 1" % number for number in range(HEADERS - 1)]  # and Host
NO_HOST = b"GET / HTTP/1.1\r\n\r\n"


def sized(target: int, size: int) -> bytes:
    """A head of as many lines as there may be, and with such sizes."""
    path = b"/".ljust(target, b"x")
    return get(path, *LINES[1:], b"X: ".ljust(size - len(get(path, *LINES[1:], b"")), b"x"))


REFUSED = [
    pytest.param(b"\n", M, FIRST_LINE, id="bare-line-feed"),
    pytest.param(b"\nGET /", M, FIRST_LINE, id="bare-line-feed-before-a-start"),
    pytest.param(b"GET  / HTTP/1.1\r\n", M, FIRST_LINE, id="two-spaces"),
    pytest.param(b"GET / RTSP/1.0\r\n", M, FIRST_LINE, id="another-protocol-s-version"),
    pytest.param(get(b"/a", b"X: \1"), M, INVALID + "Invalid header value char.", id="a-control-in-a-value"),
    pytest.param(
        b"PRI * HTTP/2.0\r\nX",
        M,
        INVALID + "It begins as HTTP/2 does, and goes on otherwise.",
        id="http-2",
    ),
    pytest.param(
        b"\x16\x03\x01",
        M,
        INVALID + "It does not begin with a method. Is this another protocol (TLS, SOCKS, …)?",
        id="tls",
    ),
    pytest.param(
        get(b"/a", b"Upgrade: websocket", b"Connection: upgrade", b"Content-Length: 2") + b"ab",
        M,
        INVALID + "A request to upgrade the connection may not have a body here.",
        id="upgrade-with-a-body",
    ),
    pytest.param(
        get(b"https://billing.internal/"),
        M,
        INVALID + "Its target is an https URL, on a connection without TLS. Ask for http:// instead: "
        "the sidecar itself speaks https to the service.",
        id="https-without-tls",
    ),
    pytest.param(
        b"GET / HTTP/1.0\r\n\r\n",
        Reason.BAD_HOST,
        "The request has no Host to say where it should go.",
        id="1.0-without-host",
    ),
    pytest.param(get(b"/a", *LINES, b"X: 1"), L, TOO_MANY, id="a-line-too-many"),
    pytest.param(
        get(b"/a", b"X: " + b"x" * (HEAD + 1 - len(get(b"/a", b"X: ")))), L, TOO_LARGE, id="a-byte-too-many"
    ),
    pytest.param(sized(TARGET, HEAD + 1), L, TOO_LARGE, id="a-byte-too-many-beside-a-target-that-fits"),
    pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD, L, TOO_LARGE, id="a-head-without-end"),
    pytest.param(
        get(b"/" + b"x" * TARGET),
        Reason.TARGET_TOO_LONG,
        "The target is longer than 256 bytes (`limits.target`).",
        id="a-target-too-long",
    ),
]


@pytest.mark.parametrize(("data", "reason", "detail"), REFUSED)
async def test_what_is_refused_is_told_why_and_the_connection_ends(
    memory: Memory, call: Call, data: bytes, reason: Reason, detail: str
) -> None:
    """And what follows is not looked at any more."""
    app = call().send(data, get(b"/b"))
    assert app.got == refusal(memory, reason, detail)
    assert (app.targets, app.line.ended, app.connection.rest) == ([], True, b"")
    assert app.line.reading  # and dropped, or a reset could overtake the answer


async def test_as_much_as_the_limits_name_is_allowed(memory: Memory, call: Call) -> None:
    """All of it at once; and a head is held to its limit however long its target may be."""
    head = sized(TARGET, HEAD)
    assert len(head) == HEAD
    assert call().send(head).got == ANSWER
    memory.proxy.context.limits.target = 2 * HEAD
    assert call().send(head).got == ANSWER
    assert call().send(sized(TARGET, HEAD + 1)).got == refusal(memory, L, TOO_LARGE)


async def test_a_later_head_has_as_much_room_as_the_first(memory: Memory, call: Call) -> None:
    """While it is incomplete, too."""
    app = call().send(get(), (b"GET /b HTTP/1.1\r\nX: ").ljust(HEAD, b"x"))
    assert (app.got, app.open) == (ANSWER, True)
    app.send(b"x")
    assert app.got == ANSWER + refusal(memory, L, TOO_LARGE)


async def test_behind_a_refused_request_nothing_is_parsed_or_kept(memory: Memory, call: Call) -> None:
    """While the refusal waits for its turn, too."""
    app = call()
    app.line.deliver(get() + NO_HOST + get(b"/b"))
    app.line.deliver(get(b"/c"))
    assert app.connection.rest == b""
    memory.settle()
    assert (app.targets, app.line.ended) == ([b"/a"], True)


@pytest.mark.parametrize(
    ("more", "reason", "detail"),
    [
        pytest.param(b"1;" + b"x" * HEAD, L, TOO_LARGE, id="a-chunk-line-without-end"),
        pytest.param(b"0\r\nT: " + b"x" * HEAD, L, TOO_LARGE, id="a-trailer-without-end"),
        pytest.param(b"0\r\n" + b"T: 1\r\n" * 5 + b"\r\n", L, TOO_MANY, id="a-trailer-too-many"),
        pytest.param(b"x\r\n", M, INVALID + "Invalid character in chunk size.", id="no-chunk-size"),
    ],
)
@pytest.mark.parametrize("queued", [False, True], ids=["alone", "behind-another"])
async def test_a_chunked_body_that_is_refused(
    memory: Memory, call: Call, log: Any, more: bytes, reason: Reason, detail: str, queued: bool
) -> None:
    """It is answered in its turn, though its head was taken; what follows is no request."""
    app = call()
    app.line.deliver((get() if queued else b"") + CHUNKED + more)
    app.line.deliver(get(b"/b"))
    memory.settle()
    assert app.got == (ANSWER if queued else b"") + refusal(memory, reason, detail, route="billing")
    assert (app.line.ended, log.details) == (True, [None, detail] if queued else [detail])


async def test_many_small_chunks_are_no_excess(call: Call) -> None:
    """Chunk lines may cost 17 bytes for each of the body's, however many there are; not one more, beside `limits.head`."""
    app = call().send(CHUNKED)
    app.send(*[b"1;" + b"x" * 10 + b"\r\na\r\n"] * 200)
    assert app.got == b""
    app.send(b"0\r\n\r\n")
    assert (app.got, app.request.body) == (ANSWER, b"a" * 200)
    long = b"1;" + b"x" * 900 + b"\r\na\r\n"
    app = call().send(CHUNKED, long)
    reads = 0
    while not app.got:
        reads += 1
        app.send(b"1;" + b"x" * 11 + b"\r\na\r\n")
    assert len(CHUNKED) + len(long) - 17 + reads == HEAD + 1


@pytest.mark.parametrize("before", [b"", b"\r\n\r\n"], ids=["at-once", "behind-empty-lines"])
async def test_an_answer_to_head_has_no_body(memory: Memory, call: Call, before: bytes) -> None:
    """However the rest of its request reads."""
    app = call().send(before + b"HEAD / HTTP/1.1\r\nX: \1\r\n\r\n")
    assert app.got == refusal(memory, M, INVALID + "Invalid header value char.", head=True)


async def test_pipelined_requests_are_answered_in_their_order(memory: Memory, call: Call, log: Any) -> None:
    """A refused one in its turn; behind one that leaves no doubt of where it ends the connection goes on."""
    missing = get(b"/b").replace(b"billing", b"unknown")
    app = call().send(get() + missing + get(b"/c"))
    assert (app.targets, app.open) == ([b"/a", b"/c"], True)
    detail = log.details[1]
    assert app.got == ANSWER + refusal(memory, Reason.NO_ROUTE, detail, close=False) + ANSWER
    log.entries.clear()
    app = call().send(get() + b"GET  / HTTP/1.1\r\n\r\n" + get(b"/d"))
    assert app.got == ANSWER + refusal(memory, M, FIRST_LINE)
    assert (log.details, app.line.ended) == ([None, FIRST_LINE], True)


async def test_so_many_pipelined_requests_wait(memory: Memory, call: Call) -> None:
    """`limits.pipelined`; what is behind them is not parsed before one has its answer, nor read."""
    app = call()
    app.line.deliver(get(b"/1") + get(b"/2") + get(b"/3") + get(b"/4") + get(b"/5"))
    assert "queued=2>" in repr(app.connection)
    assert app.connection.rest == get(b"/4") + get(b"/5")
    assert (app.line.reading, memory.proxy.ledger.unrouted.pipelining_stopped) == (False, 1)
    memory.settle()
    assert app.targets == [b"/1", b"/2", b"/3", b"/4", b"/5"]
    assert (app.got, app.open) == (ANSWER * 5, True)
    assert memory.proxy.ledger.unrouted.pipelining_stopped == 2  # before /5 once more


async def test_an_answer_that_ends_while_the_next_request_comes(memory: Memory, call: Call) -> None:
    """The body that is being read is not its own."""
    app = call().send(get() + post()[:-3])
    assert (app.got, app.open) == (ANSWER, True)
    app.send(b"c", b"de" + get(b"/b"))
    assert (app.got, memory.upstream.requests[1].body) == (ANSWER * 3, b"abcde")


async def test_an_app_that_takes_no_more_is_not_read(memory: Memory, call: Call) -> None:
    """Until it does: each answer to it would be kept here."""
    app = call()
    app.line.deliver(get())
    app.connection.pause_writing()
    memory.settle()
    assert (app.got, app.line.reading) == (ANSWER, False)
    go_on(app)
    memory.settle()
    assert not app.line.reading
    app.connection.resume_writing()
    memory.settle()
    assert app.open
    app.line.deliver(get(b"/1") + get(b"/2") + get(b"/3") + get(b"/4"))
    app.connection.pause_writing()
    memory.settle()
    assert (app.targets[1:], app.line.reading) == ([b"/1", b"/2", b"/3"], False)
    app.connection.resume_writing()
    memory.settle()
    assert (app.targets[1:], app.open) == ([b"/1", b"/2", b"/3", b"/4"], True)


FORWARDED = [
    pytest.param(b"X: a \r\nY:\tb\r\n", [(b"x", b"a"), (b"y", b"b")], id="blank-behind"),
    pytest.param(b"X: a\t\r\nY: b\r\n", [(b"x", b"a"), (b"y", b"b")], id="tab-behind"),
    pytest.param(b"X: a\tb\r\n", [(b"x", b"a\tb")], id="tab-within"),
    pytest.param(b"Content-Length: 000\r\n", [(b"content-length", b"0")], id="zeros"),
    pytest.param(b"Content-Length: 0\r\n", [(b"content-length", b"0")], id="zero"),
]


@pytest.mark.parametrize(("lines", "fields"), FORWARDED)
async def test_what_the_upstream_is_told(call: Call, lines: bytes, fields: list[Any]) -> None:
    """White space behind a value is no part of it, and a length is written without zeros before it."""
    app = call().send(b"GET /a HTTP/1.1\r\n" + HOST + lines + b"\r\n")
    wanted = [name for name, _ in fields]
    assert [field for field in app.request.fields if field[0] in wanted] == fields


async def test_a_length_with_zeros_before_it_is_that_length(call: Call) -> None:
    """The upstream is told the number alone."""
    app = call().send(get(b"/a", b"Content-Length: 002", method=b"POST") + b"ab" + get(b"/b"))
    first, _ = app.memory.upstream.requests
    assert (first.all(b"content-length"), first.body) == ([b"2"], b"ab")


async def test_a_request_of_http_1_0_needs_no_host_where_the_listener_is_a_route_s(
    memory: Memory, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for as `localhost`."""
    asked: list[dict[str, Any]] = []
    admit = memory.proxy.context.admission.admit

    def asking(*fields: Any, **said: Any) -> Any:
        asked.append(said)
        return admit(*fields, **said)

    monkeypatch.setattr(memory.proxy.context.admission, "admit", asking)
    app = call(own=True).send(b"GET /a HTTP/1.0\r\n\r\n")
    assert (app.targets, app.got[:15], app.line.gone) == ([b"/a"], b"HTTP/1.1 200 OK", True)
    (said,) = asked
    assert said["own"] is memory.proxy.context.admission.table.routes[0]
    del said["own"]
    assert said == {
        "method": b"GET",
        "authority": b"localhost",
        "path": b"/a",
        "absolute": False,
        "local_socket": False,
        "scheme": b"http://",
    }


async def test_an_absolute_target_may_be_of_https_where_the_listener_is(memory: Memory, call: Call) -> None:
    """The route is found by its host, whatever its path begins with."""
    app = call()
    app.connection.owner.origin_scheme = b"https://"
    assert app.send(get(b"https://billing.internal/x")).targets == [b"/x"]


async def test_a_route_s_methods_are_the_request_s(memory: Memory, call: Call, log: Any) -> None:
    """What its `allow` does not name is refused; the connection goes on."""
    guarded = get(b"/let-through").replace(b"billing", b"guarded")
    app = call().send(guarded, guarded.replace(b"GET", b"PUT"))
    assert (app.targets, [entry["status"] for entry in log.entries]) == ([b"/let-through"], [200, 403])
    assert (log.entries[1]["method"], app.open) == ("PUT", True)


CALLERS = Callers({"X-Secret": "s3cret"})
STRANGER = (
    "This listener asks for the header `X-Secret`, once and with its value (`require_header`), "
    "and the request did not bring that."
)


async def test_the_header_that_a_listener_requires_goes_no_further(memory: Memory, call: Call) -> None:
    """Nor in trailers; a stranger is refused, by the route's own listener in the route's name."""
    app = call(callers=CALLERS).send(get(b"/a", b"X-Secret: s3cret"))
    assert (app.got, app.request.all(b"x-secret")) == (ANSWER, [])
    app.send(get(b"/a", b"X-Secret: s3cret\t"))
    assert app.got == ANSWER * 2
    memory.upstream.requests = []
    secret = CHUNKED.replace(b"\r\n\r\n", b"\r\nX-Secret: s3cret\r\n\r\n")
    app.send(secret + b"1\r\na\r\n0\r\nX-Secret: s3cret\r\nT: 1\r\n\r\n")
    assert app.request.trailers == [(b"t", b"1")]
    for own, name in ((False, None), (True, "billing")):
        app = call(own=own, callers=CALLERS).send(get())
        assert app.got == refusal(memory, Reason.CALLER_REFUSED, STRANGER, close=False, route=name)


async def test_what_is_traced_of_a_request(memory: Memory, call: Call) -> None:
    """Its fields go on as the tracer gives them back, and its end is reported for the same span; a refused one has none."""
    memory.proxy.ledger.tracer = told = Told()  # type: ignore[assignment]
    app = call().send(get(b"/a", b"X: 1"))
    assert app.request.all(b"traceparent") == [b"00-1"]
    fields = [(b"Host", b"billing.internal"), (b"X", b"1")]
    assert told.begun == [("GET", fields, "billing", b"https://billing.example")]
    assert told.ended == [told]
    call().send(get(b"/a", b"X: 1", method=b"TRACE"))
    call().send(b"GET  / HTTP/1.1\r\n")
    call().send(b"\x16")
    assert told.refusals == [
        ("TRACE", fields, "", 501, Reason.METHOD_NOT_CARRIED),
        ("", [], "", 400, M),
        ("", [], "", 400, M),
    ]


async def test_a_request_that_began_untraced_ends_so(memory: Memory, call: Call) -> None:
    """Whatever is traced by then."""
    app = call()
    app.line.deliver(get())
    memory.proxy.ledger.tracer = told = Told()  # type: ignore[assignment]
    memory.settle()
    assert (app.got, told.ended) == (ANSWER, [])


H2C = (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings, X, Y", b"HTTP2-Settings: AAMAAABk")


async def test_a_wish_for_h2c_is_declined(memory: Memory, call: Call) -> None:
    """The request is served without it, its body too; what else `Connection` names stays named."""
    memory.proxy.context.limits.headers = 9
    head = get(b"/a", *H2C, b"X: 1", b"Y: 2", b"Z: 3", b"Content-Length: 3", method=b"POST")
    for reads in ([head + b"abc" + get(b"/b")], [head, b"ab", b"c" + get(b"/b")]):
        memory.upstream.requests = []
        app = call().send(*reads)
        first, second = memory.upstream.requests
        assert (first.body, second.line, app.got) == (b"abc", b"GET /b HTTP/1.1", ANSWER * 2)
        names = {name for name, _ in first.fields}
        assert names & {b"upgrade", b"http2-settings", b"connection", b"x", b"y", b"z"} == {b"z"}
    memory.upstream.requests = []
    assert app.send(UPGRADE).request.all(b"upgrade") == [b"websocket"]


async def test_of_a_wish_for_h2c_nothing_is_told(memory: Memory, call: Call) -> None:
    """Nor to the tracer: the request is one that never had it."""
    memory.proxy.ledger.tracer = told = Told()  # type: ignore[assignment]
    call().send(get(b"/a", *H2C))
    fields = [(b"Host", b"billing.internal"), (b"Connection", b"x, y")]
    assert told.begun == [("GET", fields, "billing", b"https://billing.example")]


async def test_a_head_without_its_wish_for_h2c_is_no_larger(memory: Memory, call: Call) -> None:
    """One that is within `limits.head` is served, however its lines are written."""
    lines = [
        b"Host:billing.internal",
        b"Upgrade:h2c",
        b"Connection:Upgrade",
        *(b"A%d:x" % n for n in range(60)),
    ]
    head = b"GET /a HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    memory.proxy.context.limits.head = len(head)
    memory.proxy.context.limits.headers = 63
    assert call().send(head).got == ANSWER


async def test_a_wish_for_h2c_takes_no_place_of_the_others_that_are_named(call: Call) -> None:
    """As many as `Connection` may name beside it."""
    names = b", ".join(b"n%d" % number for number in range(9))
    app = call().send(get(b"/a", H2C[0], b"Connection: Upgrade, " + names + b", HTTP2-Settings", H2C[2]))
    assert app.got == ANSWER


@pytest.mark.parametrize(
    "reads",
    [[UPGRADE + b"abc"], [UPGRADE, b"abc"], [UPGRADE, b"ab", b"c"]],
    ids=["one-read", "two", "one-more-than-is-asked-for"],
)
async def test_what_follows_a_wish_to_upgrade_waits_for_its_answer(
    memory: Memory, call: Call, reads: list[bytes]
) -> None:
    """Switched, it is the tunnel's."""
    memory.upstream.answer = SWITCHED
    app = call()
    for data in reads:
        app.line.deliver(data)
    assert (app.connection.rest, app.line.reading) == (b"abc", False)
    memory.upstream.waits = True
    memory.settle()
    (line,) = memory.upstream.lines
    assert b"abc" not in line.written
    memory.upstream.waits = False
    memory.upstream.read(line)
    memory.settle()
    assert (line.written, app.open) == (b"abc", True)
    app.send(b"def")
    assert line.written == b"abcdef"
    go_on(app)
    memory.settle()
    assert app.open


async def test_what_follows_a_wish_that_is_not_granted_is_a_request(memory: Memory, call: Call) -> None:
    """Behind another request too."""
    assert call().send(UPGRADE + get(b"/b")).targets == [b"/u", b"/b"]
    memory.upstream.requests = []
    app = call().send(get() + UPGRADE + get(b"/b"))
    assert (app.targets, app.got, app.open) == ([b"/a", b"/u", b"/b"], ANSWER * 3, True)


async def test_what_follows_a_wish_that_is_refused_is_a_request(memory: Memory, call: Call) -> None:
    """Where it has its answer before the next is looked at."""
    memory.proxy.context.limits.tunnels = 0
    app = call().send(UPGRADE + get(b"/b"))
    assert (app.got[:12], app.targets, app.open) == (b"HTTP/1.1 503", [b"/b"], True)
    app.send(UPGRADE)
    assert app.open


async def test_a_connection_with_bytes_that_nobody_wants_is_not_closed_at_once(
    memory: Memory, call: Call
) -> None:
    """A reset could overtake the answer, also where they are no request yet."""
    app = call()
    app.line.deliver(UPGRADE + b"abc")
    assert app.connection.current is not None
    asked: Any = app.connection.current.request
    asked.keep_alive = False
    memory.settle()
    assert (app.got, app.line.ended, app.line.gone) == (CLOSING, True, False)


async def test_requests_that_have_no_turn_any_more_are_ended(memory: Memory, call: Call, log: Any) -> None:
    """When the app leaves, or when an answer before them ends the connection."""
    app = call()
    app.line.deliver(get() + get(b"/b"))
    app.line.close()
    memory.settle()
    assert log.details == [LEFT, LEFT]
    log.entries.clear()
    app = call()
    app.line.deliver(get() + get(b"/b"))
    assert app.connection.current is not None
    asked: Any = app.connection.current.request
    asked.keep_alive = False
    memory.settle()
    assert (log.details, app.got, app.line.ended) == ([None, NO_TURN], CLOSING, True)
    assert memory.proxy.faults.count == 0


async def test_an_answer_that_is_cut_is_flushed_before_the_end(memory: Memory, call: Call) -> None:
    """Where its framing tells that something is missing."""
    memory.upstream.answer, memory.upstream.end = ANSWER[:-1], True
    app = call(is_unix=True).send(get())
    assert (app.got, app.line.gone, app.line.reset) == (ANSWER[:-1], True, False)
    app = call()
    app.connection.cut(SidecarError(Reason.IDLE_TIMEOUT, "Quiet."))
    assert (app.line.gone, app.line.reset) == (True, False)
    app = call()
    app.connection.cut(SidecarError(Reason.CLIENT_STALLED, "Stalled."))
    assert app.line.reset


async def test_a_length_that_is_read_in_two_ways_is_a_fault(
    memory: Memory, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail closed: what follows could be smuggled."""
    monkeypatch.setattr(framing, "request_body", lambda found, http10: 2)
    app = call().send(post())
    says = "The sidecar read a body's length in two ways."
    assert app.got == refusal(memory, Reason.INTERNAL, says, route="billing")


def noted(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [
        record.fields["where"]
        for record in caplog.records
        if record.message.startswith("fault in the sidecar")
    ]  # type: ignore[attr-defined]


def raised(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Of which kind the exceptions were whose traceback is in the log."""
    return [record.exc_info[0] for record in caplog.records if record.exc_info]


def breaks(*_: object, **__: object) -> Any:
    raise ZeroDivisionError  # a new one: its traceback keeps the connection


@pytest.mark.parametrize(
    ("data", "method"),
    [
        pytest.param(get(), "GET", id="a-head"),
        pytest.param(get(method=b"HEAD"), "HEAD", id="a-head-for-head"),
        pytest.param(post()[:-1], "POST", id="a-body"),
    ],
)
async def test_a_fault_before_there_is_a_request_is_a_500(
    memory: Memory,
    call: Call,
    log: Any,
    data: bytes,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The last answer on its connection; it is logged once, with where it came up."""
    monkeypatch.setattr(memory.proxy.context.admission, "admit", breaks)
    app = call().send(data)
    assert app.got == refusal(memory, Reason.INTERNAL, IN_SIDECAR, head=method == "HEAD")
    assert (app.line.ended, noted(caplog)) == (True, ["connection from the app"])
    assert raised(caplog) == [httptools.HttpParserCallbackError]
    assert [entry["method"] for entry in log.entries] == [method]


async def test_a_fault_before_there_is_a_method_is_a_500(memory: Memory, call: Call, log: Any) -> None:
    """It is for none, whatever was asked before."""
    for begun in (b"HE", b"\r"):
        app = call().send(get(), begun)
        app.connection.fault(FAULT)
        assert app.got == ANSWER + refusal(memory, Reason.INTERNAL, IN_SIDECAR)
        assert log.entries[-1]["method"] == ""


async def test_a_fault_at_the_start_of_a_connection_resets_it(
    memory: Memory, call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing has been asked on it."""
    monkeypatch.setattr(type(memory.proxy), "opened", breaks)
    app = call()
    assert (app.line.reset, app.got, noted(caplog)) == (True, b"", ["start of a connection from the app"])
    assert raised(caplog) == [ZeroDivisionError]


async def test_a_fault_when_the_app_leaves(
    memory: Memory, call: Call, log: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its request is over all the same."""
    app = call()
    app.line.deliver(get())
    monkeypatch.setattr(Exchange, "app_gone", breaks)
    app.line.close()
    memory.settle()
    assert (noted(caplog), raised(caplog)) == (["connection from the app"], [ZeroDivisionError])
    assert log.details == [IN_SIDECAR]


async def test_a_fault_ends_all_requests_of_its_connection(
    memory: Memory, call: Call, log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that has its turn with a 500; those behind it, and the one that is being read, without an answer."""
    app = call()
    app.line.deliver(get() + get(b"/b") + post()[:-1])
    app.connection.fault(FAULT)
    memory.settle()
    assert app.got == refusal(memory, Reason.INTERNAL, IN_SIDECAR, route="billing")
    assert log.details == [IN_SIDECAR, NO_TURN, NO_TURN]
    assert (noted(caplog), memory.proxy.faults.count) == (["connection from the app"], 1)
    assert (app.connection.current, app.line.ended) == (None, True)
    assert "queued=0>" in repr(app.connection)


@pytest.mark.parametrize("behind", [get(b"/b"), post()[:-1]], ids=["whole", "being-read"])
async def test_a_fault_between_two_requests(
    memory: Memory, call: Call, log: Any, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The next is ended by it, once."""
    app = call()
    app.line.deliver(get() + behind)
    while app.connection.current is not None:
        memory.turns.step()
    app.connection.fault(FAULT)
    memory.settle()
    assert app.got == ANSWER + refusal(memory, Reason.INTERNAL, IN_SIDECAR, route="billing")
    assert log.details == [None, IN_SIDECAR]
    assert (noted(caplog), app.line.ended) == (["connection from the app"], True)


async def test_a_fault_in_the_end_by_another_resets(
    memory: Memory, call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are logged."""
    app = call()
    monkeypatch.setattr(app.line, "end", breaks)
    app.connection.fault(ValueError())
    assert (app.line.gone, app.line.reset) == (True, True)
    assert noted(caplog) == ["connection from the app", "end of a connection from the app"]
    assert raised(caplog) == [ValueError, ZeroDivisionError]


async def test_after_a_fault_no_further_request_is_begun(
    memory: Memory, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its end failed too, and its turn was to come."""
    app = call()
    app.line.deliver(get(b"/1") + get(b"/2") + get(b"/3") + get(b"/4"))
    assert app.connection.rest == get(b"/4")
    go_on(app)
    monkeypatch.setattr(app.line, "end", breaks)
    app.connection.fault(FAULT)
    memory.settle()
    assert b"/4" not in app.targets
    app.sweep(2.0)
    assert app.line.reset


async def test_a_head_has_its_time(memory: Memory, call: Call, log: Any) -> None:
    """`limits.head_timeout` from its first byte; so long it took."""
    app = call()
    app.sweep(1.0)
    app.send(get()[:-2])
    app.sweep(9.875)
    assert app.got == b""
    app.sweep(0.125)
    says = "The head was not complete after 10 s (`limits.head_timeout`)."
    assert app.got == refusal(memory, Reason.HEAD_TIMEOUT, says)
    assert log.entries[0]["duration"] == 10.0


async def test_bytes_above_ascii_give_a_head_no_more_time(memory: Memory, call: Call) -> None:
    """Though it is read again for each of them: from its first byte, and no empty line before it counts."""
    app = call().send(b"\r\n", b"GET /")
    for _ in range(9):
        app.sweep(1.0)
        app.send(b"\xe4")
    app.sweep(0.875)
    assert app.got == b""
    app.sweep(0.125)
    assert app.got == refusal(
        memory, Reason.HEAD_TIMEOUT, "The head was not complete after 10 s (`limits.head_timeout`)."
    )


async def test_what_is_no_request_took_no_time(memory: Memory, call: Call, log: Any) -> None:
    """That of the request before it is not its own."""
    app = call().send(get())
    memory.clock.advance(60.0)
    app.send(b"\n")
    assert (log.details, log.entries[1]["duration"]) == ([None, FIRST_LINE], 0.0)


async def test_an_idle_connection_is_closed(memory: Memory, call: Call) -> None:
    """`limits.keep_alive` after its last answer; each is counted."""
    for number in (1, 2):
        app = call()
        app.sweep(50.0)
        app.send(get())
        app.sweep(74.875)
        assert app.open
        app.sweep(0.125)
        assert (app.line.gone, memory.proxy.ledger.unrouted.idle_closed) == (True, number)


async def test_an_app_that_does_not_close_is_waited_for_a_moment(call: Call) -> None:
    """Two seconds from the last answer."""
    app = call().send(NO_HOST)
    app.sweep(1.875)
    assert (app.line.ended, app.line.gone) == (True, False)
    app.sweep(0.125)
    assert app.line.reset


async def test_the_last_bytes_have_the_time_that_the_app_takes_for_them(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`limits.send_timeout` without any of them taken."""
    app, unsent = call().send(NO_HOST), 9
    monkeypatch.setattr(app.line, "get_write_buffer_size", lambda: unsent)
    app.sweep(1.0)
    app.sweep(299.875)
    unsent = 8
    app.sweep(0.125)
    app.sweep(299.875)
    assert not app.line.gone
    app.sweep(0.125)
    assert app.line.reset


async def test_what_has_moved_is_not_quiet(memory: Memory, call: Call) -> None:
    """Where the sweep sees it, however short the timeouts."""
    memory.proxy.context.limits.body_timeout = 0.5
    app = call().send(post()[:-2])
    app.sweep(0.75)
    assert app.got == b""
    app.sweep(0.5)
    says = "No byte of the request's body came for 0.5 s (`limits.body_timeout`)."
    assert app.got == refusal(memory, Reason.BODY_TIMEOUT, says, route="billing")


ENDED = [
    pytest.param(get(), False, id="behind-a-request"),
    pytest.param(post()[:-3], True, id="in-a-body"),
    pytest.param(CHUNKED + b"1\r\na\r\n", False, id="in-chunks"),
    pytest.param(get() + post()[:-3].replace(b"billing", b"unknown"), False, id="in-what-is-refused"),
]


@pytest.mark.parametrize(("data", "left"), ENDED)
async def test_an_app_that_ended_its_side_while_it_was_not_read(
    call: Call, monkeypatch: pytest.MonkeyPatch, data: bytes, left: bool
) -> None:
    """It has left where that is sure: when bytes of a length are due that it did not send."""
    app = call()
    ours, its = socket.socketpair()
    with ours, its:
        monkeypatch.setattr(app.line, "get_socket", lambda: ours)
        app.line.deliver(data)
        app.connection.pause_request()
        its.shutdown(socket.SHUT_WR)
        app.connection.sweep(app.memory.clock.mono())
    assert app.line.gone == left
