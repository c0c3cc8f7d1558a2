"""What a hostile or broken target answers: heads, frames and floods.

Each case is the answer to one good request. `REFUSED`: the app gets a 502, or, where the answer had begun, its stream is
reset; never the bytes that are wrong, and never an end that looks whole. `PASSES`: the app gets the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from tests.conformance.http2.heads import PASSES, REFUSED
from tests.support import h2_frames as h2
from tests.support.h2_frames import (
    Fields,
    block,
    data,
    frame,
    headers,
    integer,
    long_headers,
    ping,
    rst_stream,
    settings,
    window_update,
)

EITHER: Final = "either"
"""Some pass it on; what is wrong is not."""
BARE: Final = "bare"
"""Passed on without the body that it cannot have, or refused."""


class Answer(NamedTuple):
    """One answer."""

    name: str
    why: str
    reply: Callable[[int], bytes]
    """The frames, for the number of the request's stream."""
    verdict: str
    method: bytes = b"GET"

    @property
    def key(self) -> bytes:
        """All that a proxy is sent, on stream 1."""
        return self.method + self.reply(1)


_STATUS: Final = (
    "an answer has one :status of three digits, first, and no other pseudo-header field (section 8.3.2)"
)
_NAMES: Final = "a name is a token in lower case (section 8.2.1)"
_VALUES: Final = "a value has no control characters, and no blanks around it (section 8.2.1)"
_CONNECTION: Final = "there are no connection-specific fields (section 8.2.2)"
_LENGTH: Final = "content-length is what the DATA frames hold (section 8.1.1)"
_INTERIM: Final = "interim answers do not end a stream, are few, and come before the final one (section 8.1)"
_TRAILERS: Final = "trailers end the stream, have no pseudo-header fields, and do not frame (section 8.1)"
_STREAMS: Final = "frames come on the streams that the client has opened (section 5.1)"
_FRAMES: Final = "frames are of the size and on the stream that section 6 says"
_BOUNDS: Final = "heads are bounded (`limits`)"

OK: Final[Fields] = [(b":status", b"200")]


# fmt: off
def _whole(name: str, why: str, fields: Fields, verdict: str = REFUSED, *, body: bytes = b"ok") -> Answer:
    return Answer(name, why, lambda stream: headers(stream, fields, end=False) + data(stream, body), verdict)


def _heads() -> Iterable[Answer]:
    yield _whole("plain", _STATUS, OK, PASSES)
    yield _whole("status-none", _STATUS, [(b"x-a", b"b")])
    yield _whole("status-twice", _STATUS, [*OK, *OK])
    yield _whole("status-behind-a-field", _STATUS, [(b"x-a", b"b"), *OK])
    for name, value in (("empty", b""), ("letters", b"abc"), ("two-digits", b"20"), ("four-digits", b"2000"), ("zero", b"000"), ("099", b"099"), ("minus", b"-20"), ("blank", b"200 OK"), ("plus", b"+20"), ("high", b"999"), ("crlf", b"200\r\nx-a: b")):
        yield _whole(f"status-{name}", _STATUS, [(b":status", value)])
    yield _whole("status-with-method", _STATUS, [*OK, (b":method", b"GET")])
    yield _whole("status-with-path", _STATUS, [*OK, (b":path", b"/x")])
    yield _whole("pseudo-unknown", _STATUS, [*OK, (b":unknown", b"x")])
    for name, found in (("upper-case", b"X-Test"), ("nul", b"x\0a"), ("lf", b"x\na"), ("crlf", b"x: b\r\ny"), ("colon", b"x:a"), ("blank", b"x a"), ("empty", b""), ("high-byte", b"x\xe4")):
        yield _whole(f"name-{name}", _NAMES, [*OK, (found, b"b")])
    for name, found in (("nul", b"a\0b"), ("lf", b"a\nb"), ("cr", b"a\rb"), ("crlf", b"a\r\nx-smuggled: 1"), ("crlf-answer", b"a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"), ("delete", b"a\x7fb")):
        yield _whole(f"value-{name}", _VALUES, [*OK, (b"x-a", found)])
    for name, found in (("empty", b""), ("tab-inside", b"a\tb"), ("high-byte", b"a\xe4b")):
        yield _whole(f"value-{name}", _VALUES, [*OK, (b"x-a", found)], PASSES)
    for name, value in ((b"connection", b"close"), (b"keep-alive", b"timeout=5"), (b"proxy-connection", b"close"), (b"transfer-encoding", b"chunked"), (b"upgrade", b"websocket")):
        yield _whole(f"connection-{name.decode()}", _CONNECTION, [*OK, (name, value)])


def _lengths() -> Iterable[Answer]:
    def sent(name: str, lengths: Iterable[bytes], verdict: str = REFUSED, *, status: bytes = b"200", body: bytes = b"test") -> Answer:
        fields: Fields = [(b":status", status), *((b"content-length", length) for length in lengths)]
        return _whole(f"length-{name}", _LENGTH, fields, verdict, body=body)

    yield sent("right", [b"4"], PASSES)
    yield sent("below", [b"3"])
    yield sent("above", [b"5"])
    zero = [*OK, (b"content-length", b"0")]
    yield sent("zero-with-a-body", [b"0"])
    yield Answer("length-zero-then-an-empty-end", _LENGTH, lambda stream: headers(stream, zero, end=False) + data(stream, b""), PASSES)
    yield Answer("length-zero-with-trailers", _LENGTH, lambda stream: headers(stream, zero, end=False) + headers(stream, [(b"x-a", b"b")]), PASSES)
    yield sent("twice", [b"4", b"4"])
    yield sent("two", [b"4", b"5"])
    for name, value in (("list", b"4, 4"), ("plus", b"+4"), ("letters", b"four"), ("empty", b""), ("huge", b"9" * 30)):
        yield sent(name, [value])
    yield sent("with-204", [b"4"], BARE, status=b"204")
    yield sent("body-with-204", [], BARE, status=b"204")
    yield sent("body-with-304", [b"4"], BARE, status=b"304")
    yield Answer("length-of-head", _LENGTH, lambda stream: headers(stream, [*OK, (b"content-length", b"4")]), PASSES, b"HEAD")
    yield Answer("body-of-head", _LENGTH, lambda stream: headers(stream, [*OK, (b"content-length", b"4")], end=False) + data(stream, b"test"), BARE, b"HEAD")
    yield Answer("length-without-a-body", _LENGTH, lambda stream: headers(stream, [*OK, (b"content-length", b"4")]), REFUSED)


def _interim() -> Iterable[Answer]:
    def sent(name: str, before: Callable[[int], bytes], verdict: str) -> Answer:
        final = lambda stream: headers(stream, OK, end=False) + data(stream, b"ok")  # noqa: E731
        return Answer(f"interim-{name}", _INTERIM, lambda stream: before(stream) + final(stream), verdict)

    yield sent("early-hints", lambda s: headers(s, [(b":status", b"103"), (b"link", b"</a>")], end=False), PASSES)
    yield sent("unasked-continue", lambda s: headers(s, [(b":status", b"100")], end=False), PASSES)
    yield sent("switching-protocols", lambda s: headers(s, [(b":status", b"101")], end=False), REFUSED)
    yield sent("with-end", lambda s: headers(s, [(b":status", b"103")]), REFUSED)
    yield sent("then-data", lambda s: headers(s, [(b":status", b"103")], end=False) + data(s, b"x", end=False), REFUSED)
    yield sent("a-thousand", lambda s: headers(s, [(b":status", b"103"), (b"x-a", b"b")], end=False) * 1000, REFUSED)
    yield Answer("interim-behind-the-final", _INTERIM, lambda s: headers(s, OK, end=False) + headers(s, [(b":status", b"103")], end=False) + data(s, b"ok"), REFUSED)
    yield Answer("interim-only", _INTERIM, lambda s: headers(s, [(b":status", b"103")], end=False) + rst_stream(s, h2.NO_ERROR), REFUSED)


def _trailers() -> Iterable[Answer]:
    def sent(name: str, trailers: Fields, verdict: str = REFUSED, *, end: bool = True) -> Answer:
        made = lambda s: headers(s, OK, end=False) + data(s, b"ok", end=False) + headers(s, trailers, end=end)  # noqa: E731
        return Answer(f"trailer-{name}", _TRAILERS, made, verdict)

    yield sent("plain", [(b"x-a", b"b")], PASSES)
    yield sent("status", [(b":status", b"200")])
    yield sent("pseudo", [(b":path", b"/x")])
    yield sent("without-end", [(b"x-a", b"b")], end=False)
    yield sent("content-length", [(b"content-length", b"2")], PASSES)  # without it, as in HTTP/1.1
    yield sent("transfer-encoding", [(b"transfer-encoding", b"chunked")])
    yield sent("upper-case", [(b"X-A", b"b")])
    yield sent("nul", [(b"x-a", b"a\0b")])
    yield sent("crlf", [(b"x-a", b"a\r\nb: c")])
    yield Answer("trailers-only", _TRAILERS, lambda s: headers(s, [*OK, (b"grpc-status", b"0")]), PASSES)


def _resets() -> Iterable[Answer]:
    begun = lambda s: headers(s, [*OK, (b"content-length", b"4")], end=False) + data(s, b"te", end=False)  # noqa: E731
    yield Answer("reset-internal-error", "an answer that breaks off is told as one", lambda s: begun(s) + rst_stream(s, h2.INTERNAL_ERROR), REFUSED)
    yield Answer("reset-no-error-in-the-middle", "RST_STREAM(NO_ERROR) in the middle is no end", lambda s: begun(s) + rst_stream(s, h2.NO_ERROR), REFUSED)
    yield Answer("reset-no-error-behind-the-end", "what was answered is delivered before RST_STREAM(NO_ERROR)", lambda s: headers(s, OK, end=False) + data(s, b"ok") + rst_stream(s, h2.NO_ERROR), PASSES)
    yield Answer("goaway-in-the-middle", "what is open when GOAWAY comes is answered", lambda s: headers(s, OK, end=False) + h2.goaway(s) + data(s, b"ok"), PASSES)


def _frames() -> Iterable[Answer]:
    ok = lambda s: headers(s, OK, end=False) + data(s, b"ok")  # noqa: E731
    yield Answer("data-before-headers", _FRAMES, lambda s: data(s, b"ok"), REFUSED)
    yield Answer("headers-on-an-idle-stream", _STREAMS, lambda s: headers(s + 100, OK), REFUSED)
    yield Answer("headers-on-an-even-stream", _STREAMS, lambda s: headers(2, OK), REFUSED)
    yield Answer("data-on-stream-0", _STREAMS, lambda _: data(0, b"ok"), REFUSED)
    yield Answer("push", "push is not allowed (ENABLE_PUSH is 0, section 8.4)", lambda s: frame(h2.PUSH_PROMISE, h2.END_HEADERS, s, (2).to_bytes(4, "big") + block([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/pushed"), (b":authority", b"billing.internal")])) + ok(s), REFUSED)
    yield Answer("frame-too-large", _FRAMES, lambda s: headers(s, OK, end=False) + data(s, bytes(h2.MAX_FRAME + 1)), EITHER)
    yield Answer("ping-of-six-bytes", _FRAMES, lambda s: frame(h2.PING, 0, 0, bytes(6)) + ok(s), REFUSED)
    yield Answer("settings-enable-push", _FRAMES, lambda s: settings((h2.ENABLE_PUSH, 1)) + ok(s), REFUSED)
    yield Answer("settings-window-too-large", _FRAMES, lambda s: settings((h2.INITIAL_WINDOW_SIZE, 1 << 31)) + ok(s), REFUSED)
    yield Answer("window-update-of-0", _FRAMES, lambda s: window_update(0, 0) + ok(s), REFUSED)
    yield Answer("window-overflow", _FRAMES, lambda s: window_update(0, (1 << 31) - 1) * 2 + ok(s), REFUSED)
    yield Answer("hpack-index-0", "a block that cannot be read ends the connection (section 4.3)", lambda s: headers(s, b"\x80", end=False) + data(s, b"ok"), REFUSED)
    yield Answer("hpack-table-too-large", "a block that cannot be read ends the connection (section 4.3)", lambda s: headers(s, integer(1 << 24, 5, 0x20) + block(OK), end=False) + data(s, b"ok"), REFUSED)
    yield Answer("http-1.1", "an answer of HTTP/1.1 is no HTTP/2", lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", REFUSED)
    yield Answer("unknown-frame", "a frame of no known type is ignored (section 4.1)", lambda s: frame(0x16, 0, s, bytes(8)) + ok(s), PASSES)
    yield Answer("ping", "a target's PING is answered, and no more", lambda s: ping() + ok(s), PASSES)
    yield Answer("padded", "padding is not passed on", lambda s: headers(s, OK, end=False) + frame(h2.DATA, h2.END_STREAM | h2.PADDED, s, b"\x05ok" + bytes(5)), PASSES)
    yield Answer("size-5000-fields", _BOUNDS, lambda s: long_headers(s, block([*OK, *((b"x-%d" % n, b"a") for n in range(5000))]), end=False) + data(s, b"ok"), REFUSED)
    yield Answer("size-field-of-200000-bytes", _BOUNDS, lambda s: long_headers(s, block([*OK, (b"x-a", b"a" * 200_000)]), end=False) + data(s, b"ok"), REFUSED)
# fmt: on

ANSWERS: Final = (*_heads(), *_lengths(), *_interim(), *_trailers(), *_resets(), *_frames())


class Flood(NamedTuple):
    """One way of a target to spend the proxy's CPU or memory: sent in answer to one request, until the proxy hangs up."""

    name: str
    what: str
    units: Callable[[int], Iterator[bytes]]
    """For the number of the request's stream."""
    deaf: bool = False
    """Whether the target reads nothing meanwhile."""
    must_end: bool = True
    """Whether the sidecar ends the connection."""


def _times(
    count: int, unit: Callable[[int], bytes], first: Callable[[int], bytes] = lambda _: b""
) -> Callable[[int], Iterator[bytes]]:
    def units(stream: int) -> Iterator[bytes]:
        yield first(stream)
        made = unit(stream)
        yield from (made for _ in range(count))

    return units


def _begin(stream: int) -> bytes:
    return headers(stream, OK, end=False)


_LONG: Final = b"\x40" + integer(4, 7) + b"x-ab" + integer(4000, 7) + b"a" * 4000

# fmt: off
FLOODS: Final = (
    Flood("ping-flood", "PINGs", _times(100_000, lambda _: ping())),
    Flood("ping-flood-unread", "PINGs whose answers are not read", _times(500_000, lambda _: ping()), deaf=True),
    Flood("settings-flood", "SETTINGS", _times(50_000, lambda _: settings())),
    Flood("settings-flood-unread", "SETTINGS whose acknowledgements are not read", _times(500_000, lambda _: settings()), deaf=True),
    Flood("window-update-flood", "WINDOW_UPDATE of 1, for the connection", _times(100_000, lambda _: window_update(0, 1))),
    Flood("window-update-flood-on-a-stream", "WINDOW_UPDATE of 1, for an open stream", _times(100_000, lambda s: window_update(s, 1))),
    Flood("priority-flood", "PRIORITY", _times(100_000, h2.priority)),
    Flood("rst-stream-flood", "RST_STREAM of a stream that is closed", _times(50_000, rst_stream)),
    Flood("empty-data-flood", "DATA of no bytes", _times(100_000, lambda s: data(s, b"", end=False), _begin)),
    Flood("padding-flood", "DATA of nothing but padding", _times(50_000, lambda s: frame(h2.DATA, h2.PADDED, s, b"\xff" + bytes(255)), _begin), must_end=False),
    Flood("empty-continuation-flood", "CONTINUATION of no bytes", _times(50_000, lambda s: frame(h2.CONTINUATION, 0, s), lambda s: headers(s, OK, end=False, end_headers=False))),
    Flood("continuation-flood", "CONTINUATION without an end", _times(5_000, lambda s: frame(h2.CONTINUATION, 0, s, block([(b"x-a", b"a" * 16_000)])), lambda s: headers(s, OK, end=False, end_headers=False))),
    Flood("interim-flood", "interim answers without an end", _times(100_000, lambda s: headers(s, [(b":status", b"103"), (b"x-a", b"b")], end=False)), must_end=False),
    Flood("hpack-bomb", "16 kB of indexes into a table with a field of 4 kB", _times(50, lambda s: headers(s, block([(b":status", b"103")]) + b"\xbe" * 16_000, end=False), lambda s: headers(s, block([(b":status", b"103")]) + _LONG, end=False)), must_end=False),
    Flood("unknown-frames", "frames of no known type", _times(100_000, lambda _: frame(0x16, 0, 0, bytes(8))), must_end=False),
    Flood("goaway-flood", "GOAWAY", _times(50_000, h2.goaway), must_end=False),
    Flood("data-beyond-the-window", "DATA that no window has room for", _times(5_000, lambda s: data(s, bytes(h2.MAX_FRAME), end=False), _begin)),
    Flood("data-behind-the-end", "DATA on a stream that is closed", _times(20_000, lambda s: data(s, bytes(1000), end=False), lambda s: _begin(s) + data(s, b"ok")), must_end=False),
)
# fmt: on
