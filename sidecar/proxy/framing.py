"""How a message's body ends: the part the parser leaves to its caller.

Owns the reading of `Content-Length` and `Transfer-Encoding` for both directions. Called once a head is
complete. Pure. The parser has by then refused what is contradictory or malformed (docs/architecture.md
lists what llhttp does and does not check); here is what it lets through and what the sidecar does not
carry. Rules: RFC 9112 section 6.3, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.errors import Reason, SidecarError

NO_BODY: Final = 0
"""The message ends with its head."""
CHUNKED: Final = -1
"""The last chunk ends it."""
UNTIL_CLOSE: Final = -2
"""Only a response: the end of the connection ends it."""


def request_body(found: Mapping[bytes, bytes], *, http10: bool) -> int:
    """NO_BODY, CHUNKED, or the length in bytes; SidecarError for what is not carried."""
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
    """NO_BODY, CHUNKED, UNTIL_CLOSE, or the length in bytes; SidecarError for what is not carried."""
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
                "The upstream answered with a transfer coding other than `chunked`, which nobody asked for.",
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
