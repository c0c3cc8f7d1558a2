"""sidecar.proxy.http1.request_reader: what is read of bytes, told to a sink that writes it down; with a connection around it, it is in
test_downstream, tests/wire and tests/conformance"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import httptools
import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.net.listeners import Owner
from sidecar.proxy.http1.request import Request, Sink
from sidecar.proxy.http1.request_reader import BETWEEN, BODY, BROKEN, HEAD, RequestReader
from sidecar.proxy.messages import NO_BODY, UNKNOWN
from sidecar.proxy.ports import Relay
from tests.support.exchanges import Exchanges
from tests.support.sides import FAULT

SIZE, HEADERS, TARGET = 1024, 4, 256
NOT_FOUND = SidecarError(Reason.NO_ROUTE, "Nowhere.")
ADMITTED: Any = ("admitted",)


def get(path: bytes = b"/a", *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    head = b"%b %b HTTP/%b\r\nHost: a.example\r\n" % (method, path, version)
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(body: bytes = b"abcde") -> bytes:
    return get(b"/p", b"Content-Length: %d" % len(body), method=b"POST") + body


CHUNKED = get(b"/c", b"Transfer-Encoding: chunked", method=b"POST")
UPGRADE = get(b"/u", b"Upgrade: websocket", b"Connection: upgrade")


class Receiver(Relay):
    """A request whose body is read."""

    def __init__(self, told: list[tuple[Any, ...]]) -> None:
        self.told = told

    def request_body(self, data: bytes) -> None:
        """Pieces that follow each other are one."""
        if self.told[-1][0] == "body":
            data = self.told.pop()[1] + data
        self.told.append(("body", data))


class Recorder(Sink):
    """Writes down what it is told, and does what a reader expects of its connection."""

    def __init__(self, around: Exchanges | None = None) -> None:
        self.owner = Owner(None, is_unix=False)
        self.told: list[tuple[Any, ...]] = []
        self.requests: list[Request] = []
        self.refusal: SidecarError | None = None
        self.fault: Exception | None = None
        self.parses = True
        self.waits = False
        self.carries: bytes | None = b"websocket"
        around = around or Exchanges(head=SIZE, headers=HEADERS, target=TARGET)
        self.clock = around.clock
        self.reader = RequestReader(self, around.context)

    def admit(self, request: Request) -> Any:
        if self.fault is not None:
            raise self.fault
        if self.refusal is not None:
            raise self.refusal
        return ADMITTED

    def request(self, request: Request, admitted: Any) -> None:
        assert admitted is ADMITTED
        self.requests.append(request)
        self.told.append(("request", request.method, request.path))
        if request.body != NO_BODY:
            self.reader.receiving = Receiver(self.told)

    def refuse(self, request: Request, error: SidecarError) -> None:
        self.requests.append(request)
        self.told.append(("refused", error.reason, request.keep_alive))
        if not request.keep_alive:
            self.reader.stop()

    def broken(self, request: Request, error: SidecarError) -> None:
        self.requests.append(request)
        self.reader.receiving = None
        self.told.append(("broken", error.reason))

    def upgrade_waits(self) -> bool:
        if self.waits:
            self.parses = False
        return self.waits

    def carried(self, request: Request, target: bytes, wish: bytes) -> bytes | None:
        return self.carries

    def body_ended(self, receiving: Relay, trailers: Any) -> None:
        assert isinstance(receiving, Receiver)
        self.told.append(("end", list(trailers)))

    def may_parse(self) -> bool:
        return self.parses

    def feed(self, *reads: bytes) -> bytes:
        """One read after the other; what is left of the last."""
        rest = b""
        for data in reads:
            rest = self.reader.feed(data)
        return rest


@pytest.fixture
def sink() -> Recorder:
    return Recorder()


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    places = [0, *at, len(data)]
    return [data[start:end] for start, end in pairwise(places)]


A, B = ("request", b"GET", b"/a"), ("request", b"GET", b"/b")
C = ("request", b"POST", b"/c")
STREAMS = [
    pytest.param(get() + get(b"/b"), [A, B], id="heads"),
    pytest.param(b"\r\n\r\n\r\n" + get() + b"\r\n\r\n" + get(b"/b"), [A, B], id="empty-lines-before"),
    pytest.param(
        post() + get(b"/b"),
        [("request", b"POST", b"/p"), ("body", b"abcde"), ("end", []), B],
        id="length",
    ),
    pytest.param(
        CHUNKED + b"2\r\nab\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n" + get(b"/b"),
        [C, ("body", b"ab\r\n\r\n"), ("end", []), B],
        id="chunked",
    ),
    pytest.param(
        CHUNKED + b"3;x=1\r\nabc\r\n0\r\nT: 1\r\nU: 2\r\n\r\n" + CHUNKED + b"0\r\n\r\n",
        [C, ("body", b"abc"), ("end", [(b"T", b"1"), (b"U", b"2")]), C, ("end", [])],
        id="trailers-are-not-the-next-one-s",
    ),
    pytest.param(
        get(b"/\xc3\xa4") + get(b"/b"), [("request", b"GET", b"/%C3%A4"), B], id="bytes-above-ascii"
    ),
    pytest.param(UPGRADE + get(b"/b"), [("request", b"GET", b"/u"), B], id="an-upgrade"),
]


@pytest.mark.parametrize(("data", "told"), STREAMS)
def test_it_reads_the_same_however_it_is_fed(data: bytes, told: list[Any]) -> None:
    """A read may end anywhere."""
    around = Exchanges(head=SIZE, headers=HEADERS, target=TARGET)
    for end in range(len(data) + 1):
        for at in ([end], range(max(1, end - 9), end + 1)):
            sink = Recorder(around)
            assert sink.feed(*[piece for piece in cut(data, at) if piece]) == b""
            assert sink.told == told, end
            assert (sink.reader.state, sink.reader.receiving) == (BETWEEN, None)


class Parser:
    """Writes down what is parsed at once."""

    def __init__(self, parser: Any, fed: list[bytes]) -> None:
        self._parser = parser
        self.fed = fed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        self.fed.append(data)
        self._parser.feed_data(data)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the parsers that are made from now on are fed."""
    data: list[bytes] = []
    real = httptools.HttpRequestParser
    monkeypatch.setattr(httptools, "HttpRequestParser", lambda protocol: Parser(real(protocol), data))
    return data


PARSED = [
    pytest.param([get() + get(b"/b")], [get(), get(b"/b")], id="a-head-at-a-time"),
    pytest.param([b"\r\n" * 99 + get()], [b"\r\n" * 99 + get()], id="all-empty-lines-with-the-head"),
    pytest.param([b"\r\n" * 9 + get() + get(b"/b")], [b"\r\n" * 9 + get(), get(b"/b")], id="and-no-further"),
    pytest.param([get()[:9], get()[9:]], [get()[:9], get()[9:]], id="what-there-is-of-a-head"),
    pytest.param(
        [get()[:-2], get()[-2:] + get(b"/b")], [get()[:-2], get()[-2:], get(b"/b")], id="the-end-of-a-head"
    ),
    pytest.param(
        [b"\r\n\r\nGE", get()[2:] + get(b"/b")],
        [b"\r\n\r\nGE", get()[2:], get(b"/b")],
        id="a-head-behind-empty-lines",
    ),
    pytest.param(
        [b"\r", b"\n\r\n" + get() + get(b"/b")],
        [b"\r", b"\n\r\n", get(), get(b"/b")],
        id="the-end-of-an-empty-line",
    ),
    pytest.param(
        [CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n" + get()],
        [CHUNKED, b"5\r\nabcde\r\n0\r\n\r\n", get()],
        id="all-chunks-that-are-there",
    ),
    pytest.param(
        [CHUNKED + b"0\r\n\r", b"\n\r\n" + get()],
        [CHUNKED, b"0\r\n\r", b"\n", b"\r\n" + get()],
        id="the-end-of-chunks",
    ),
    pytest.param(
        [post()[:-5], b"ab", b"cde" + get()],
        [post()[:-5], get()],
        id="a-body-in-pieces-is-counted",
    ),
    pytest.param(
        [post()[:-5], b"abcde" + get()],
        [post()[:-5], b"abcde", get()],
        id="what-is-due-of-a-body",
    ),
]


@pytest.mark.parametrize(("reads", "parsed"), PARSED)
def test_what_is_parsed_at_once(fed: list[bytes], reads: list[bytes], parsed: list[bytes]) -> None:
    """A head, or a piece of a body: what follows is looked at from its first byte, and nothing is copied twice."""
    Recorder().feed(*reads)
    assert fed == parsed


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        pytest.param(b"GET  / HTTP/1.1\r\n\r\n", ("refused", Reason.MALFORMED_REQUEST, False), id="refused"),
        pytest.param(b"GET /\1 HTTP/1.1\r\n\r\n", ("broken", Reason.MALFORMED_REQUEST), id="broken"),
    ],
)
def test_behind_what_makes_no_sense_nothing_is_parsed(fed: list[bytes], bad: bytes, told: Any) -> None:
    """Nor kept."""
    sink = Recorder()
    assert sink.feed(get() + bad + get(b"/b"), get(b"/c")) == b""
    assert fed == [get(), bad]
    assert sink.told == [A, told]


ASKED = [
    pytest.param(get(), {"body": NO_BODY, "keep_alive": True, "http10": False}, id="usual"),
    pytest.param(get(b"/", b"Connection: close"), {"keep_alive": False}, id="close"),
    pytest.param(get(version=b"1.0"), {"keep_alive": False, "http10": True}, id="1.0"),
    pytest.param(
        get(b"/", b"Connection: keep-alive", version=b"1.0"), {"keep_alive": True}, id="1.0-that-stays"
    ),
    pytest.param(post(), {"body": 5, "authority": b"a.example"}, id="length"),
    pytest.param(CHUNKED + b"0\r\n\r\n", {"body": UNKNOWN}, id="unknown-length"),
    pytest.param(
        get(b"http://b.example:81/x?y"),
        {"absolute": True, "authority": b"b.example:81", "path": b"/x?y"},
        id="absolute",
    ),
    pytest.param(UPGRADE, {"upgrade": b"websocket", "body": NO_BODY}, id="upgrade"),
    pytest.param(
        get(b"/", b"Upgrade: websocket", b"Connection: upgrade", version=b"1.0"),
        {"upgrade": None, "http10": True},
        id="1.0-has-no-upgrade",
    ),
    pytest.param(
        get(b"/", b"X: a \t"),
        {"fields": [(b"Host", b"a.example"), (b"X", b"a")], "scheme": b"http://"},
        id="white-space-behind-a-value",
    ),
]


@pytest.mark.parametrize(("data", "asked"), ASKED)
def test_what_is_known_of_a_request(sink: Recorder, data: bytes, asked: dict[str, Any]) -> None:
    """In no wire format, but for what the answer depends on."""
    sink.clock.advance(1.0)
    sink.feed(data)
    (request,) = sink.requests
    assert {name: getattr(request, name) for name in asked} == asked
    assert request.began_mono == sink.clock.mono()


KEPT = [
    pytest.param(get(), True, id="a-refusal-of-one-without-a-body"),
    pytest.param(post(), False, id="a-body-would-follow"),
    pytest.param(get(b"/", b"Connection: close"), False, id="it-was-to-end"),
    pytest.param(UPGRADE, False, id="another-protocol-would-follow"),
]


@pytest.mark.parametrize(("data", "kept"), KEPT)
def test_a_refused_request_says_whether_another_can_follow(sink: Recorder, data: bytes, kept: bool) -> None:
    """Where the framing is beyond doubt."""
    sink.refusal = NOT_FOUND
    sink.feed(data)
    assert sink.told == [("refused", Reason.NO_ROUTE, kept)]


def test_one_without_a_host_ends_it(sink: Recorder) -> None:
    """Whose it was is in doubt."""
    sink.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert sink.told == [("refused", Reason.BAD_HOST, False)]


def test_where_it_is(sink: Recorder) -> None:
    """As the connection asks it."""
    reader = sink.reader
    seen = []
    for data in (
        b"\r",
        b"\nP",
        b"OST /p HTTP/1.1\r\nHost: a\r\nContent-Le",
        b"ngth: 5\r\n\r\n",
        b"ab",
        b"cde",
    ):
        sink.feed(data)
        seen.append((reader.state, reader.in_message, reader.has_begun, reader.method(), reader.due(1)))
    assert seen == [
        (BETWEEN, False, True, b"", 0),
        (HEAD, True, True, b"", 0),
        (HEAD, True, True, b"POST", 0),
        (BODY, True, True, b"POST", 4),
        (BODY, True, True, b"POST", 2),
        (BETWEEN, False, False, b"", 0),
    ]


@pytest.mark.parametrize("stops", [RequestReader.stop, lambda reader: reader.give_up(NOT_FOUND)])
def test_what_has_stopped_reads_nothing(sink: Recorder, stops: Callable[[RequestReader], None]) -> None:
    """And says why at most once."""
    sink.feed(get()[:-2])
    stops(sink.reader)
    stops(sink.reader)
    told = list(sink.told)
    assert len(told) <= 1
    assert sink.feed(b"\r\n" + get(b"/b")) == b""
    sink.reader.give_up(NOT_FOUND)
    assert (sink.told, sink.reader.state) == (told, BROKEN)


def test_a_head_that_is_given_up_took_so_long(sink: Recorder) -> None:
    """From its first byte; where none came, no time."""
    began_mono = sink.clock.mono()
    sink.feed(b"HEAD / HTTP/1.1\r\n")
    sink.clock.advance(9.0)
    sink.reader.give_up(NOT_FOUND)
    (request,) = sink.requests
    assert (request.method, request.began_mono, request.keep_alive) == (b"HEAD", began_mono, False)
    other = Recorder()
    other.feed(get())
    other.clock.advance(9.0)
    other.reader.give_up(NOT_FOUND)
    assert other.requests[1].began_mono == other.clock.mono()


def test_what_the_sink_has_no_room_for_comes_back(sink: Recorder) -> None:
    """Behind the piece that was read."""
    sink.parses = False
    assert sink.feed(get() + get(b"/b") + get(b"/c")) == get(b"/b") + get(b"/c")
    assert sink.told == [A]
    assert sink.feed(get(b"/b") + get(b"/c")) == get(b"/c")


def test_what_follows_a_wish_to_upgrade_comes_back_where_it_has_to_wait(sink: Recorder) -> None:
    """It is of another protocol, if that is granted; else the next request."""
    sink.waits = True
    assert sink.feed(UPGRADE + b"\x81\x00abc") == b"\x81\x00abc"
    assert sink.told == [("request", b"GET", b"/u")]
    sink.parses = True
    assert sink.feed(get()) == b""
    assert sink.told[1:] == [A]


H2C = (b"Upgrade: h2c", b"Connection: Upgrade, X")


def test_a_wish_that_is_declined_is_none(sink: Recorder) -> None:
    """The head is read again without it, and its body as a body."""
    sink.carries = None
    head = get(b"/p", *H2C, b"Content-Length: 3", method=b"POST")
    assert sink.feed(head + b"abc" + get(b"/b")) == b""
    assert sink.told == [("request", b"POST", b"/p"), ("body", b"abc"), ("end", []), B]
    assert (sink.requests[0].upgrade, sink.requests[0].fields) == (
        None,
        [(b"Host", b"a.example"), (b"Connection", b"x"), (b"Content-Length", b"3")],
    )


LIMITED = [
    pytest.param(b"1;" + b"x" * SIZE, Reason.HEAD_TOO_LARGE, id="a-chunk-line-without-end"),
    pytest.param(b"0\r\nT: " + b"x" * SIZE, Reason.HEAD_TOO_LARGE, id="a-trailer-without-end"),
    pytest.param(b"0\r\n" + b"T: 1\r\n" * 5 + b"\r\n", Reason.HEAD_TOO_LARGE, id="a-trailer-too-many"),
    pytest.param(b"x\r\n", Reason.MALFORMED_REQUEST, id="no-chunk-size"),
]


@pytest.mark.parametrize(("more", "reason"), LIMITED)
def test_a_body_is_bounded_too(sink: Recorder, more: bytes, reason: Reason) -> None:
    """In what is none of its bytes; no end of it is told."""
    sink.feed(CHUNKED + more, get(b"/b"))
    assert sink.told == [C, ("broken", reason)]


def test_a_fault_of_the_sink_s_comes_out_as_one(sink: Recorder) -> None:
    """And is not taken for bytes that make no sense."""
    sink.fault = FAULT
    with pytest.raises(httptools.HttpParserCallbackError) as raised:
        sink.feed(get())
    assert raised.value.__context__ is FAULT
    assert sink.told == []


@pytest.mark.parametrize("cut", [1, 5, 6])
def test_nothing_is_read_behind_the_last_request(cut: int) -> None:
    """One that says `close`, with a body that is counted or parsed: what stands behind it is no request."""
    last = get(b"/p", b"Content-Length: 6", b"Connection: close", method=b"POST") + b"abcdef"
    recorder = Recorder()
    recorder.feed(last[:-cut], last[-cut:] + get(b"/next"))
    assert [told[2] for told in recorder.told if told[0] == "request"] == [b"/p"]
    assert recorder.reader.state is BROKEN


@pytest.mark.parametrize("first", [1, 40, SIZE // 2, SIZE, SIZE + 40], ids=lambda size: f"after-{size}-bytes")
def test_what_a_body_spends_on_chunk_lines_has_a_limit_however_it_is_read(first: int) -> None:
    """Also where the read that goes over it brings the end of the message with it."""
    recorder = Recorder()
    message = CHUNKED + b"5;" + b"x" * (SIZE + 100) + b"\r\nhello\r\n0\r\n\r\n"
    recorder.feed(message[: len(CHUNKED) + first], message[len(CHUNKED) + first :])
    assert recorder.told[-1] == ("broken", Reason.HEAD_TOO_LARGE)
    assert not any(kind == "end" for kind, *_ in recorder.told)
