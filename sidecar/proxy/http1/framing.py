"""How a message's body ends. The parser leaves this to its caller.

Owns the reading of `Content-Length` and `Transfer-Encoding` for both directions, and where a chunked request ends.
Called once a head is complete, and for each piece of such a request. Pure. The parser has by then refused what is
contradictory or malformed (docs/architecture.md lists what llhttp does and does not check); this module handles what
the parser lets through and the sidecar does not carry. Rules: RFC 9112 sections 6.3, in its order, and 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, final

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.messages import NO_BODY, UNKNOWN

CHUNKED: Final = UNKNOWN
"""The last chunk ends it."""
UNTIL_CLOSE: Final = -2
"""For answers only: the body ends with the connection."""


_SIZE: Final = re.compile(rb"[0-9A-Fa-f]+")
_CHUNKS_AT_ONCE: Final = 1024
_CR: Final = 0x0D
_LF: Final = 0x0A
_SEMICOLON: Final = 0x3B


@final
class Chunks:
    """Finds where a chunked body ends, as its bytes come in.

    The parser reads the same bytes and decides about them; this only says how many to give it, so that what follows
    the body can be checked from its first byte. The parser refuses what this can't read.
    """

    __slots__ = ("_last", "_left", "_line")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the chunk that are still missing, with the line end after it."""
        self._line = b""
        """The part of a chunk's line that has arrived; after the last chunk, the last three bytes."""
        self._last = False
        """The last chunk's line has arrived. An empty line ends the body."""

    def end(self, data: bytes, size: int) -> int:
        """How many of the first `size` bytes of `data` to parse: all, or up to the body's end, or up to the end of
        the 1024th chunk. Each chunk is held by itself, and the holder decides when it has enough.
        """
        size = min(size, len(data))
        if (at := self._left) >= size:
            self._left -= size
            return size
        chunks = 0
        while not self._last:
            # A chunk's line begins at `at`, or goes on there.
            if self._line and self._line[-1] == _CR and data[at] == _LF:
                end = at + 1
            elif (end := data.find(b"\r\n", at, size) + 2) == 1:
                self._left = 0
                self._line += data[at:size]
                return size
            line = data[at : end - 2] if not self._line else (self._line + data[at:end])[:-2]
            if _SEMICOLON in line:
                line = line.partition(b";")[0]
            at = end
            chunk = int(line, 16) if _SIZE.fullmatch(line) else 0
            if chunk:
                at += chunk + 2
                if self._line:
                    self._line = b""
                chunks += 1
                if at >= size:
                    self._left = at - size
                    return size
                if chunks == _CHUNKS_AT_ONCE:
                    self._left = 0
                    return at
            else:
                self._last = True
                self._left = 0
                self._line = b"\r\n"
        return self._after_last(data, at, size)

    def _after_last(self, data: bytes, at: int, size: int) -> int:
        known = self._line
        found = (known + data[at : min(at + 3, size)]).find(b"\r\n\r\n")
        if found >= 0:
            end = at + found + 4 - len(known)
        else:
            found = data.find(b"\r\n\r\n", at, size)
            end = found + 4 if found >= 0 else size
        self._line = (known + data[max(at, end - 3) : end])[-3:]
        return end


def request_body(found: Mapping[bytes, bytes], *, http10: bool) -> int:
    """NO_BODY, CHUNKED, or the length in bytes; SidecarError for a body that is not carried."""
    if b"transfer-encoding" in found:
        if http10:
            # RFC 9112 section 6.1: such framing is to be treated as faulty.
            raise SidecarError(Reason.MALFORMED_REQUEST, "An HTTP/1.0 request may not use Transfer-Encoding.")
        if not _is_chunked(found[b"transfer-encoding"]):
            raise SidecarError(
                Reason.CODING_NOT_CARRIED,
                "The only transfer coding carried is a single `chunked`; compress with Content-Encoding.",
            )
        return CHUNKED
    if b"content-length" in found:
        return _length(found[b"content-length"], Reason.MALFORMED_REQUEST)
    return NO_BODY


def response_body(found: Mapping[bytes, bytes], *, status: int, head: bool, http10: bool) -> int:
    """NO_BODY, CHUNKED, UNTIL_CLOSE, or the length in bytes; SidecarError for a body that is not carried.

    A 204 can be CHUNKED too: its only chunk must be the last one, or it may not be passed on.
    """
    if status == 204 and not http10 and _is_chunked(found.get(b"transfer-encoding", b"")):
        # Against RFC 9112 section 6.1, and sent by many. It ends with its head (section 6.3); whether anything could be
        # read into what follows is for the caller to see.
        return NO_BODY if head else CHUNKED
    if status < 200 or status == 204:
        # RFC 9110 section 8.6, RFC 9112 section 6.1; a length of 0 says nothing wrong, and is often sent.
        if b"transfer-encoding" in found or found.get(b"content-length", b"0").strip(b" \t") != b"0":
            raise SidecarError(
                Reason.UPSTREAM_MALFORMED,
                f"The upstream framed a body for a {status} answer, which can have none.",
            )
        return NO_BODY
    if head or status == 304:
        return NO_BODY
    if b"transfer-encoding" in found:
        if not _is_chunked(found[b"transfer-encoding"]):
            raise SidecarError(
                Reason.UPSTREAM_MALFORMED,
                "The upstream answered with a transfer coding other than `chunked`, which was not asked for.",
            )
        if http10:
            raise SidecarError(
                Reason.UPSTREAM_MALFORMED,
                "The upstream answered with HTTP/1.0 and Transfer-Encoding, which that does not have.",
            )
        return CHUNKED
    if b"content-length" in found:
        return _length(found[b"content-length"], Reason.UPSTREAM_MALFORMED)
    return UNTIL_CLOSE


def _is_chunked(value: bytes) -> bool:
    # Not with a tab behind it: to llhttp that is another coding, whose chunks are bytes of the body.
    return value.rstrip(b" ").lower() == b"chunked"


def _length(value: bytes, reason: Reason) -> int:
    text = value.strip(b" \t")
    if not text.isdigit() or len(text) > 19:
        raise SidecarError(reason, "Content-Length is not a plain number.")
    return int(text)
