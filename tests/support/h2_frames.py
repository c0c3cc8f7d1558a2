"""HTTP/2 frames (RFC 9113) as bytes, right or wrong, and what comes back as frames.

Written apart from the product and from every HTTP/2 library, so that a test can say exactly what no library would
send. Field blocks are written as literals without indexing (RFC 7541 section 6.2.2); what is read is decoded by `hpack`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
KINDS: Final = (
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

CODES: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
    INADEQUATE_SECURITY,
    HTTP_1_1_REQUIRED,
) = range(14)

(
    HEADER_TABLE_SIZE,
    ENABLE_PUSH,
    MAX_CONCURRENT_STREAMS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
) = range(1, 7)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW: Final = 65_535
"""Bytes that each window begins with (section 6.9.2)."""
MAX_FRAME: Final = 16_384
"""Bytes that every endpoint takes in a frame (section 4.2)."""

Fields = list[tuple[bytes, bytes]]


class Frame(NamedTuple):
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or a GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4], "big")

    @property
    def name(self) -> str:
        """As RFC 9113 writes it, with its error code where it has one."""
        kind = KINDS[self.kind] if self.kind < len(KINDS) else f"frame {self.kind:#x}"
        if self.kind in (RST_STREAM, GOAWAY):
            return f"{kind}({CODES[self.code] if self.code < len(CODES) else hex(self.code)})"
        return kind


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Any frame at all; `length` is what it claims to have, if another than that of the payload."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """An integer with a prefix of so many bits (RFC 7541 section 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out, value = bytearray((first | most,)), value - most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A field block, each field a literal that is never indexed anywhere."""
    return b"".join(
        b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value for name, value in fields
    )


def headers(
    stream: int, fields: Iterable[tuple[bytes, bytes]] | bytes, *, end: bool = True, end_headers: bool = True
) -> bytes:
    """HEADERS with these fields, or with this block, in one frame."""
    flags = (END_STREAM if end else 0) | (END_HEADERS if end_headers else 0)
    return frame(HEADERS, flags, stream, fields if isinstance(fields, bytes) else block(fields))


def long_headers(stream: int, fields: bytes, *, end: bool = True) -> bytes:
    """HEADERS and as many CONTINUATION as the block needs."""
    out = headers(stream, fields[:MAX_FRAME], end=end, end_headers=len(fields) <= MAX_FRAME)
    for start in range(MAX_FRAME, len(fields), MAX_FRAME):
        last = start + MAX_FRAME >= len(fields)
        out += frame(CONTINUATION, END_HEADERS if last else 0, stream, fields[start : start + MAX_FRAME])
    return out


def data(stream: int, payload: bytes, *, end: bool = True) -> bytes:
    """DATA, in one frame."""
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(n.to_bytes(2, "big") + v.to_bytes(4, "big") for n, v in pairs))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last: int, code: int = NO_ERROR) -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def priority(stream: int, depends: int = 0, weight: int = 15) -> bytes:
    return frame(PRIORITY, 0, stream, depends.to_bytes(4, "big") + bytes((weight,)))


class FrameReader:
    """Takes bytes and gives frames; field blocks come decoded from `fields`."""

    def __init__(self) -> None:
        self.left = b""
        self._decoder = hpack.Decoder()
        self._decoder.max_header_list_size = 1 << 24
        self._block = b""

    def feed(self, received: bytes) -> list[Frame]:
        """The frames that are whole by now."""
        self.left += received
        found = []
        while len(self.left) >= 9:
            size = int.from_bytes(self.left[:3], "big")
            if len(self.left) < 9 + size:
                break
            stream = int.from_bytes(self.left[5:9], "big") & 0x7FFFFFFF
            found.append(Frame(self.left[3], self.left[4], stream, self.left[9 : 9 + size]))
            self.left = self.left[9 + size :]
        return found

    def fields(self, piece: Frame) -> Fields | None:
        """The field section that HEADERS or CONTINUATION ends; None where more is to come. Each block must be handed in."""
        payload = piece.payload
        if piece.kind == HEADERS:
            padding = 0
            if piece.flags & PADDED:
                padding, payload = payload[0], payload[1:]
            if piece.flags & PRIORITY_FLAG:
                payload = payload[5:]
            self._block = payload[: len(payload) - padding]
        else:
            self._block += payload
        if not piece.flags & END_HEADERS:
            return None
        return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(self._block, raw=True)]


def body(piece: Frame) -> bytes:
    """What a DATA frame carries, without its padding."""
    if piece.flags & PADDED:
        return piece.payload[1 : len(piece.payload) - piece.payload[0]]
    return piece.payload
