"""RFC 9113 and RFC 7541, section by section: what an endpoint must take, and what it must refuse, as frames.

Each case is one connection. A name begins with its section; RFC 9113's where no other is named. `allowed` is every
outcome that the RFC permits: a connection error may also be told by closing alone (section 5.4.1), and a stream error may
be taken for one of the connection (section 5.4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tests.conformance.http2.app import App
from tests.support import h2_frames as h2
from tests.support.h2_frames import Fields, block, data, frame, headers, integer, ping, rst_stream, settings

HOST: Final = b"billing.internal"

Step = bytes | Callable[[App], object]
"""Bytes to send, or what to wait for."""


def get(path: bytes = b"/x", *more: tuple[bytes, bytes], method: bytes = b"GET") -> Fields:
    """The fields of a request."""
    return [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", HOST), *more]


def post(*more: tuple[bytes, bytes]) -> Fields:
    return get(b"/x", *more, method=b"POST")


class Section(NamedTuple):
    """One case."""

    name: str
    what: str
    steps: tuple[Step, ...]
    allowed: frozenset[str]
    stream: int = 1
    """Whose outcome counts; 0: the connection's alone."""
    wants: Fields = []  # noqa: RUF012  # never changed
    """Fields that reach the target."""
    check: Callable[[App], bool] | None = None
    """What else must hold."""


ANSWERED: Final = frozenset({"200"})
IGNORED: Final = frozenset({"ignores"})


def connection(*codes: int) -> frozenset[str]:
    """A connection error with one of these codes, or by closing alone."""
    return frozenset({"closes", *(f"GOAWAY({h2.CODES[code]})" for code in codes)})


def stream_error(*codes: int) -> frozenset[str]:
    """A stream error with one of these codes, or one of the connection."""
    return connection(*codes) | {f"RST_STREAM({h2.CODES[code]})" for code in codes}


def malformed() -> frozenset[str]:
    """A malformed request: a stream error (section 8.1.1), or an answer that refuses it (section 8.1.1, last paragraph)."""
    return stream_error(h2.PROTOCOL_ERROR) | {"400"}


def over(stream: int = 1) -> Callable[[App], object]:
    """Wait until nothing more comes on a stream."""
    return lambda app: app.until(lambda: app.stream(stream).is_over)


def settled(app: App) -> object:
    """Wait for the proxy's SETTINGS."""
    return app.until(lambda: app.settled > 0)


def _huffman(text: bytes) -> bytes:
    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    coded = bytes(encoder.encode(text))
    return integer(len(coded), 7, 0x80) + coded


def _plain(text: bytes) -> bytes:
    return integer(len(text), 7) + text


_BASE: Final = block(get())
_CLOSED: Final = stream_error(h2.STREAM_CLOSED, h2.PROTOCOL_ERROR)
_CLOSED_BEHIND_AN_ANSWER: Final = connection(h2.STREAM_CLOSED, h2.PROTOCOL_ERROR) | {
    "200, RST_STREAM(STREAM_CLOSED)"
}
_FAR: Final = (1 << 31) - 1

# fmt: off
STARTING = (
    Section("3.4-preface", "the preface, SETTINGS, and a request", (headers(1, get()),), ANSWERED),
    Section("3.4-settings-first", "the server's first frame is SETTINGS", (ping(),), IGNORED, 0, check=lambda app: app.frames[0].kind == h2.SETTINGS),
    Section("4.1-unknown-type", "a frame of no known type is ignored", (frame(0x16, 0, 0, bytes(8)), headers(1, get())), ANSWERED),
    Section("4.1-undefined-flag", "flags that mean nothing are ignored", (frame(h2.PING, 0xFE & ~h2.ACK, 0, b"12345678"),), IGNORED, 0, check=lambda app: b"12345678" in app.pongs),
    Section("4.1-reserved-bit", "the reserved bit is ignored", (frame(h2.PING, 0, 1 << 31, b"12345678"),), IGNORED, 0, check=lambda app: b"12345678" in app.pongs),
    Section("4.2-largest-frame", "a DATA frame of 2^14 bytes", (headers(1, post(), end=False) + data(1, bytes(1 << 14)),), ANSWERED),
    Section("4.2-data-too-large", "a DATA frame above MAX_FRAME_SIZE", (headers(1, post(), end=False) + data(1, bytes((1 << 14) + 1)),), stream_error(h2.FRAME_SIZE_ERROR)),
    Section("4.2-headers-too-large", "a HEADERS frame above MAX_FRAME_SIZE", (headers(1, block(get(b"/x", *((b"x-%d" % n, bytes(b"a" * 2000)) for n in range(9))))),), connection(h2.FRAME_SIZE_ERROR)),
    Section("4.3-bad-block", "a field block that HPACK cannot read", (headers(1, b"\x00\x05x"),), connection(h2.COMPRESSION_ERROR)),
    Section("4.3-priority-within-block", "another frame between HEADERS and CONTINUATION", (headers(1, get(), end_headers=False) + h2.priority(1) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")])),), connection(h2.PROTOCOL_ERROR)),
    Section("4.3-headers-within-block", "HEADERS of another stream between HEADERS and CONTINUATION", (headers(1, get(), end_headers=False) + headers(3, get()),), connection(h2.PROTOCOL_ERROR)),
    Section("3.4-bad-preface", "a connection that does not begin with the preface", (b"INVALID CONNECTION PREFACE\r\n\r\n",), frozenset({"closes", "GOAWAY(PROTOCOL_ERROR)"}), 0),
)
"""The last is sent without a preface of its own."""


def _open(stream: int = 1) -> bytes:
    return headers(stream, post(), end=False)


STREAMS = (
    Section("5.1-idle-priority", "PRIORITY on an idle stream", (h2.priority(3) + headers(1, get()),), ANSWERED),
    Section("5.1-idle-data", "DATA on an idle stream", (data(1, b"test"),), connection(h2.PROTOCOL_ERROR, h2.STREAM_CLOSED)),
    Section("5.1-idle-rst-stream", "RST_STREAM on an idle stream", (rst_stream(1),), connection(h2.PROTOCOL_ERROR), 0),
    Section("5.1-idle-window-update", "WINDOW_UPDATE on an idle stream", (h2.window_update(1, 100),), connection(h2.PROTOCOL_ERROR), 0),
    Section("5.1-idle-continuation", "CONTINUATION on an idle stream", (frame(h2.CONTINUATION, h2.END_HEADERS, 1, _BASE),), connection(h2.PROTOCOL_ERROR)),
    Section("5.1-half-closed-window-update", "WINDOW_UPDATE on a stream that the app has ended", (headers(1, get()) + h2.window_update(1, 1),), ANSWERED),
    Section("5.1-half-closed-priority", "PRIORITY on a stream that the app has ended", (headers(1, get()) + h2.priority(1),), ANSWERED),
    Section("5.1-half-closed-rst-stream", "RST_STREAM on a stream that the app has ended", (headers(1, get()) + rst_stream(1) + headers(3, get()),), ANSWERED, 3),
    Section("5.1-half-closed-data", "DATA behind END_STREAM", (headers(1, get()) + data(1, b"test"),), _CLOSED),
    Section("5.1-half-closed-headers", "HEADERS behind END_STREAM", (headers(1, get()) + headers(1, get()),), _CLOSED),
    Section("5.1-half-closed-continuation", "CONTINUATION behind END_STREAM", (headers(1, get()) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")])),), connection(h2.STREAM_CLOSED, h2.PROTOCOL_ERROR)),
    Section("5.1-reset-then-data", "DATA behind one's own RST_STREAM", (_open() + rst_stream(1) + data(1, b"test"),), _CLOSED),
    Section("5.1-reset-then-headers", "HEADERS behind one's own RST_STREAM", (_open() + rst_stream(1) + headers(1, get()),), _CLOSED),
    Section("5.1-reset-then-continuation", "CONTINUATION behind one's own RST_STREAM", (_open() + rst_stream(1) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")])),), connection(h2.STREAM_CLOSED, h2.PROTOCOL_ERROR)),
    Section("5.1-closed-priority", "PRIORITY on a closed stream", (headers(1, get()), over(1), h2.priority(1) + headers(3, get())), ANSWERED, 3),
    Section("5.1-closed-data", "DATA on a closed stream", (headers(1, get()), over(1), data(1, b"test")), _CLOSED_BEHIND_AN_ANSWER),
    Section("5.1-closed-headers", "HEADERS on a closed stream", (headers(1, get()), over(1), headers(1, get())), _CLOSED_BEHIND_AN_ANSWER),
    Section("5.1-closed-continuation", "CONTINUATION on a closed stream", (headers(1, get()), over(1), frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")]))), connection(h2.STREAM_CLOSED, h2.PROTOCOL_ERROR), 0),
    Section("5.1.1-even", "a stream with an even number", (headers(2, get()),), connection(h2.PROTOCOL_ERROR), 2),
    Section("5.1.1-smaller", "a stream with a number below one that was used", (headers(5, get()), over(5), headers(3, get())), connection(h2.PROTOCOL_ERROR, h2.STREAM_CLOSED), 3),
    Section("5.3.1-headers-on-itself", "HEADERS that depend on their own stream: priorities are ignored (section 5.3.2)", (frame(h2.HEADERS, h2.END_STREAM | h2.END_HEADERS | h2.PRIORITY_FLAG, 1, (1).to_bytes(4, "big") + b"\x10" + _BASE),), stream_error(h2.PROTOCOL_ERROR) | ANSWERED),
    Section("5.3.1-priority-on-itself", "PRIORITY that depends on its own stream: priorities are ignored (section 5.3.2)", (h2.priority(1, 1) + headers(1, get()),), stream_error(h2.PROTOCOL_ERROR) | ANSWERED),
    Section("5.4.1-error-closes", "a connection error ends the connection", (frame(h2.PING, 0, 0, bytes(6)),), connection(h2.FRAME_SIZE_ERROR), 0),
    Section("5.5-extension", "an unknown frame between others", (headers(1, get(), end=False) + frame(0x20, 0, 1, bytes(9)) + data(1, b""),), ANSWERED),
    Section("5.5-extension-within-block", "an unknown frame between HEADERS and CONTINUATION", (headers(1, get(), end_headers=False) + frame(0x16, 0, 0, bytes(8)) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")])),), connection(h2.PROTOCOL_ERROR)),
)

FRAMES = (
    Section("6.1-data", "one DATA frame", (_open() + data(1, b"test"),), ANSWERED),
    Section("6.1-data-in-two", "two DATA frames", (_open() + data(1, b"test", end=False) + data(1, b"test"),), ANSWERED),
    Section("6.1-padded", "DATA with padding", (_open() + frame(h2.DATA, h2.END_STREAM | h2.PADDED, 1, b"\x06test" + bytes(6)),), ANSWERED),
    Section("6.1-stream-0", "DATA without a stream", (data(0, b"test"),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.1-padding-too-long", "padding as long as the frame", (_open() + frame(h2.DATA, h2.END_STREAM | h2.PADDED, 1, b"\x06test"),), connection(h2.PROTOCOL_ERROR)),
    Section("6.1-padding-without-length", "a padded frame of no bytes", (_open() + frame(h2.DATA, h2.END_STREAM | h2.PADDED, 1),), connection(h2.PROTOCOL_ERROR, h2.FRAME_SIZE_ERROR)),
    Section("6.2-padded", "HEADERS with padding", (frame(h2.HEADERS, h2.END_STREAM | h2.END_HEADERS | h2.PADDED, 1, b"\x08" + _BASE + bytes(8)),), ANSWERED),
    Section("6.2-priority", "HEADERS with a priority", (frame(h2.HEADERS, h2.END_STREAM | h2.END_HEADERS | h2.PRIORITY_FLAG, 1, bytes(4) + b"\xff" + _BASE),), ANSWERED),
    Section("6.2-stream-0", "HEADERS without a stream", (headers(0, get()),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.2-padding-too-long", "padding longer than the frame", (frame(h2.HEADERS, h2.END_STREAM | h2.END_HEADERS | h2.PADDED, 1, b"\xff" + _BASE),), connection(h2.PROTOCOL_ERROR)),
    Section("6.2-second-without-end", "a second HEADERS without END_STREAM (section 8.1)", (_open() + headers(1, [(b"x-a", b"b")], end=False) + data(1, b"test"),), malformed()),
    Section("6.3-priority-1", "PRIORITY with the least weight", (h2.priority(1, 0, 0) + headers(1, get()),), ANSWERED),
    Section("6.3-priority-256", "PRIORITY with the most weight", (h2.priority(1, 0, 255) + headers(1, get()),), ANSWERED),
    Section("6.3-priority-depends", "PRIORITY on another stream", (h2.priority(1, 3) + headers(1, get()),), ANSWERED),
    Section("6.3-priority-exclusive", "exclusive PRIORITY", (h2.priority(1, 1 << 31 | 3) + headers(1, get()),), ANSWERED),
    Section("6.3-priority-of-a-higher", "PRIORITY of a stream, then HEADERS of a lower one", (h2.priority(5) + headers(3, get()),), ANSWERED, 3),
    Section("6.3-stream-0", "PRIORITY without a stream", (h2.priority(0),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.3-length", "PRIORITY of four bytes", (_open() + frame(h2.PRIORITY, 0, 1, bytes(4)),), stream_error(h2.FRAME_SIZE_ERROR)),
    Section("6.4-rst-stream", "RST_STREAM ends a stream and no other", (_open() + rst_stream(1) + headers(3, get()),), ANSWERED, 3),
    Section("6.4-stream-0", "RST_STREAM without a stream", (rst_stream(0),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.4-length", "RST_STREAM of three bytes", (_open() + frame(h2.RST_STREAM, 0, 1, bytes(3)),), connection(h2.FRAME_SIZE_ERROR)),
    Section("6.5-settings", "SETTINGS are acknowledged", (settings((h2.HEADER_TABLE_SIZE, 100)), lambda app: app.until(lambda: app.settings_acked > 1), headers(1, get())), ANSWERED, check=lambda app: app.settings_acked > 1),
    Section("6.5-ack-with-payload", "an acknowledgement with a payload", (frame(h2.SETTINGS, h2.ACK, 0, bytes(6)),), connection(h2.FRAME_SIZE_ERROR), 0),
    Section("6.5-stream", "SETTINGS on a stream", (frame(h2.SETTINGS, 0, 1, b"\x00\x03\x00\x00\x00\x64"),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.5-length", "SETTINGS of three bytes", (frame(h2.SETTINGS, 0, 0, bytes(3)),), connection(h2.FRAME_SIZE_ERROR), 0),
    Section("6.5.2-enable-push", "ENABLE_PUSH of 2", (settings((h2.ENABLE_PUSH, 2)),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.5.2-window-too-large", "INITIAL_WINDOW_SIZE above 2^31-1", (settings((h2.INITIAL_WINDOW_SIZE, 1 << 31)),), connection(h2.FLOW_CONTROL_ERROR), 0),
    Section("6.5.2-frame-size-too-small", "MAX_FRAME_SIZE below 2^14", (settings((h2.MAX_FRAME_SIZE, (1 << 14) - 1)),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.5.2-frame-size-too-large", "MAX_FRAME_SIZE above 2^24-1", (settings((h2.MAX_FRAME_SIZE, 1 << 24)),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.5.2-unknown", "a setting that nobody knows", (settings((0xFF, 1)) + headers(1, get()),), ANSWERED),
    Section("6.5.3-last-of-several", "of several INITIAL_WINDOW_SIZE the last counts", (settings((h2.INITIAL_WINDOW_SIZE, 100), (h2.INITIAL_WINDOW_SIZE, 1)), lambda app: app.until(lambda: app.settings_acked > 1), headers(1, get()), lambda app: app.until(lambda: bool(app.stream(1).pieces)), h2.window_update(1, 100)), ANSWERED, check=lambda app: app.stream(1).pieces[0] == 1),
    Section("6.6-push", "PUSH_PROMISE of an app", (frame(h2.PUSH_PROMISE, h2.END_HEADERS, 1, (2).to_bytes(4, "big") + _BASE),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.7-ping", "PING comes back", (ping(b"abcdefgh"),), IGNORED, 0, check=lambda app: b"abcdefgh" in app.pongs),
    Section("6.7-pong", "an answer that nobody asked for is no question", (ping(b"unasked.", ack=True),), IGNORED, 0, check=lambda app: b"unasked." not in app.pongs),
    Section("6.7-stream", "PING on a stream", (frame(h2.PING, 0, 1, bytes(8)),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.7-length", "PING of six bytes", (frame(h2.PING, 0, 0, bytes(6)),), connection(h2.FRAME_SIZE_ERROR), 0),
    Section("6.8-stream", "GOAWAY on a stream", (frame(h2.GOAWAY, 0, 1, bytes(8)),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.8-goaway", "what is open when an app says GOAWAY is answered", (headers(1, get()) + h2.goaway(0),), ANSWERED),
    Section("6.9-window-update", "WINDOW_UPDATE of the connection and of a stream", (h2.window_update(0, 1) + _open() + h2.window_update(1, 1) + data(1, b""),), ANSWERED),
    Section("6.9-zero", "an increment of 0 for the connection", (h2.window_update(0, 0),), connection(h2.PROTOCOL_ERROR), 0),
    Section("6.9-zero-on-a-stream", "an increment of 0 for a stream", (_open() + h2.window_update(1, 0),), stream_error(h2.PROTOCOL_ERROR)),
    Section("6.9-length", "WINDOW_UPDATE of three bytes", (frame(h2.WINDOW_UPDATE, 0, 0, bytes(3)),), connection(h2.FRAME_SIZE_ERROR), 0),
    Section("6.9.1-window-of-1", "no more is sent than the window has room for", (settings((h2.INITIAL_WINDOW_SIZE, 1)), lambda app: app.until(lambda: app.settings_acked > 1), headers(1, get()), lambda app: app.until(lambda: bool(app.stream(1).pieces)), h2.window_update(1, 1)), ANSWERED, check=lambda app: [p for p in app.stream(1).pieces if p] == [1, 1]),
    Section("6.9.1-overflow", "the connection's window above 2^31-1", (h2.window_update(0, _FAR) + h2.window_update(0, _FAR),), connection(h2.FLOW_CONTROL_ERROR), 0),
    Section("6.9.1-overflow-on-a-stream", "a stream's window above 2^31-1", (_open() + h2.window_update(1, _FAR) + h2.window_update(1, _FAR),), stream_error(h2.FLOW_CONTROL_ERROR)),
    Section("6.9.2-changed", "INITIAL_WINDOW_SIZE changes the windows of open streams", (settings((h2.INITIAL_WINDOW_SIZE, 0)), lambda app: app.until(lambda: app.settings_acked > 1), headers(1, get()), lambda app: app.until(lambda: bool(app.stream(1).heads)), settings((h2.INITIAL_WINDOW_SIZE, 1)), lambda app: app.until(lambda: bool(sum(app.stream(1).pieces))), h2.window_update(1, 1)), ANSWERED, check=lambda app: [p for p in app.stream(1).pieces if p] == [1, 1]),
    Section("6.9.2-negative", "a window that falls below 0 has room again once it is above", (settings((h2.INITIAL_WINDOW_SIZE, 3)), lambda app: app.until(lambda: app.settings_acked > 1), headers(1, get(b"/bytes/10")), lambda app: app.until(lambda: sum(app.stream(1).pieces) == 3), settings((h2.INITIAL_WINDOW_SIZE, 2)) + h2.window_update(1, 2), lambda app: app.until(lambda: sum(app.stream(1).pieces) == 4), h2.window_update(1, 100)), ANSWERED, check=lambda app: app.stream(1).pieces[:2] == [3, 1]),
    Section("6.9.2-overflow", "INITIAL_WINDOW_SIZE makes an open stream's window too large", (settings((h2.INITIAL_WINDOW_SIZE, 0)) + _open() + h2.window_update(1, 1) + settings((h2.INITIAL_WINDOW_SIZE, _FAR)),), connection(h2.FLOW_CONTROL_ERROR)),
    Section("6.10-one", "a block in two frames", (headers(1, _BASE[:20], end_headers=False) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, _BASE[20:]),), ANSWERED),
    Section("6.10-several", "a block in several frames", (headers(1, _BASE[:15], end_headers=False) + b"".join(frame(h2.CONTINUATION, 0, 1, _BASE[n : n + 15]) for n in range(15, len(_BASE), 15)) + frame(h2.CONTINUATION, h2.END_HEADERS, 1),), ANSWERED),
    Section("6.10-then-another", "CONTINUATION, then DATA, before the block's end", (headers(1, post(), end=False, end_headers=False) + frame(h2.CONTINUATION, 0, 1, block([(b"x-a", b"b")])) + data(1, b"test"),), connection(h2.PROTOCOL_ERROR)),
    Section("6.10-stream-0", "CONTINUATION without a stream", (headers(1, get(), end_headers=False) + frame(h2.CONTINUATION, h2.END_HEADERS, 0, block([(b"x-a", b"b")])),), connection(h2.PROTOCOL_ERROR)),
    Section("6.10-behind-the-end", "CONTINUATION behind END_HEADERS", (headers(1, post(), end=False) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")])),), connection(h2.PROTOCOL_ERROR)),
    Section("6.10-behind-its-own-end", "CONTINUATION behind CONTINUATION with END_HEADERS", (headers(1, post(), end=False, end_headers=False) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")])) * 2,), connection(h2.PROTOCOL_ERROR)),
    Section("6.10-behind-data", "CONTINUATION behind DATA", (headers(1, post(), end=False) + data(1, b"test", end=False) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block([(b"x-a", b"b")])),), connection(h2.PROTOCOL_ERROR)),
    Section("7-unknown-goaway", "GOAWAY with a code that nobody knows", (headers(1, get()) + h2.goaway(0, 0xFF),), ANSWERED | connection(h2.NO_ERROR)),
    Section("7-unknown-rst-stream", "RST_STREAM with a code that nobody knows", (_open() + rst_stream(1, 0xFF) + headers(3, get()),), ANSWERED, 3),
)

MESSAGES = (
    Section("8.1-get", "GET", (headers(1, get()),), ANSWERED, check=lambda app: app.stream(1).body == b"ok"),
    Section("8.1-head", "HEAD has no body", (headers(1, get(method=b"HEAD")),), ANSWERED, check=lambda app: app.stream(1).body == b""),
    Section("8.1-post", "POST", (_open() + data(1, b"test"),), ANSWERED),
    Section("8.1-trailers", "POST with trailers", (_open() + data(1, b"test", end=False) + headers(1, [(b"x-a", b"b")]),), ANSWERED),
    Section("8.1-length-below", "content-length of more than came", (headers(1, post((b"content-length", b"1")), end=False) + data(1, b"test"),), malformed()),
    Section("8.1-length-above", "content-length of less than came, in two frames", (headers(1, post((b"content-length", b"9")), end=False) + data(1, b"test", end=False) + data(1, b"test"),), malformed()),
)


def _indexed(prefix: int, bits: int, index: int, value: bytes) -> bytes:
    return integer(index, bits, prefix) + value


_USER_AGENT: Final = 58
_NEW: Final = (b"x-test", b"value")


def _representation(name: str, what: str, block_: bytes, wants: tuple[bytes, bytes]) -> Section:
    return Section(f"7541-{name}", what, (headers(1, _BASE + block_),), ANSWERED, wants=[wants])


_UA: Final = (b"user-agent", b"value")
HPACK = (
    Section("7541-6.1-indexed", "fields of the static table", (headers(1, b"\x82\x86\x84" + _indexed(0x40, 6, 1, _plain(HOST))),), ANSWERED),
    *(
        _representation(f"6.2-{kind}-{how}-{coding}", f"{kind} literal, {how} name, {coding}", made, wants)
        for kind, prefix, bits in (("incremental", 0x40, 6), ("unindexed", 0, 4), ("never-indexed", 0x10, 4))
        for coding, code in (("plain", _plain), ("huffman", _huffman))
        for how, made, wants in (
            ("indexed", _indexed(prefix, bits, _USER_AGENT, code(b"value")), _UA),
            ("new", bytes((prefix,)) + code(b"x-test") + code(b"value"), _NEW),
        )
    ),
    Section("7541-6.2-from-the-dynamic-table", "a field that the block before has indexed", (headers(1, _BASE + b"\x40" + _plain(b"x-test") + _plain(b"value")), over(1), headers(3, _BASE + b"\xbe")), ANSWERED, 3, wants=[_NEW]),
    Section("7541-6.3-size-update", "a smaller dynamic table", (headers(1, integer(128, 5, 0x20) + _BASE),), ANSWERED),
    Section("7541-6.3-two-size-updates", "two size updates", (headers(1, integer(128, 5, 0x20) + integer(4096, 5, 0x20) + _BASE),), ANSWERED),
    Section("7541-2.3.3-index-too-high", "an index that is in neither table", (headers(1, _BASE + integer(70, 7, 0x80)),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-2.3.3-name-index-too-high", "a literal whose name is in neither table", (headers(1, _BASE + _indexed(0x40, 6, 70, _plain(b"value"))),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-4.2-size-update-at-the-end", "a size update behind a field", (headers(1, _BASE + integer(1, 5, 0x20)),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-5.1-integer-too-long", "an integer without an end", (headers(1, _BASE + b"\x40\x7f" + b"\xff" * 10 + b"\x0f"),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-5.2-padding-too-long", "Huffman with more than seven bits of padding", (headers(1, _BASE + b"\x40" + _plain(b"x-test") + b"\x86\xf2\xb2\x4a\x84\xff\xff"),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-5.2-padding-of-zeros", "Huffman that is padded by zeros", (headers(1, _BASE + b"\x40" + _plain(b"x-test") + b"\x83\xf2\xb2\x40"),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-5.2-eos", "Huffman with the end-of-string symbol", (headers(1, _BASE + b"\x40" + _plain(b"x-test") + b"\x84\xff\xff\xff\xff"),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-5.2-string-too-long", "a string longer than its block", (headers(1, _BASE + b"\x40\x06x-test\x7f\x10abc"),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-6.1-index-0", "index 0", (headers(1, _BASE + b"\x80"),), connection(h2.COMPRESSION_ERROR)),
    Section("7541-6.3-size-update-too-large", "a size above HEADER_TABLE_SIZE", (settled, headers(1, integer(1 << 20, 5, 0x20) + _BASE)), connection(h2.COMPRESSION_ERROR)),
)
# fmt: on

SECTIONS: Final = (*STARTING, *STREAMS, *FRAMES, *MESSAGES, *HPACK)
NO_PREFACE: Final = frozenset({"3.4-bad-preface"})
"""Cases whose first bytes are theirs."""
_FORGOTTEN: Final = "libnghttp2 keeps no account of streams that are closed, and ignores what comes on them"
MISSES: Final = {
    "5.1-reset-then-data": _FORGOTTEN,
    "5.1-reset-then-headers": _FORGOTTEN,
    "5.1-closed-data": _FORGOTTEN,
    "5.1-closed-headers": _FORGOTTEN,
    "5.1.1-smaller": _FORGOTTEN,
}
"""Cases that the sidecar does not keep, each with the reason."""
