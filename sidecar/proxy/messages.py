"""A request's head, independent of the wire format.

Owns what an exchange knows of a request: every codec reads into this form and writes from it. Made by a codec of the
app's side once a head is whole. Pure. A body is unframed bytes here; its length is a number, NO_BODY or UNKNOWN. An
answer's head is passed as arguments: an object for each would cost every answer.
"""

from __future__ import annotations

from typing import ClassVar, Final

from sidecar.config.allow import METHODS
from sidecar.proxy.fields.headers import Fields, Found

NO_BODY: Final = 0
"""The length of a message that ends with its head."""
UNKNOWN: Final = -1
"""The length of a body whose end is known only when it comes."""

HTTP1: Final = 0
HTTP2: Final = 1
"""The wire formats of messages, as numbers: they index a tuple."""

METHOD_NAMES: Final = {name.encode(): name for name in METHODS}
"""The methods that are carried."""

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2; TRACE is not carried."""


class RequestHead:
    """The head of one request, as received; a codec's own subclass adds what that codec needs for the answer."""

    __slots__ = (
        "authority",
        "began_mono",
        "body",
        "fields",
        "found",
        "method",
        "path",
        "scheme",
        "upgrade",
        "via",
    )

    wire: ClassVar[int] = HTTP1
    """HTTP1 or HTTP2: the format it arrived in."""
    is_bound: bool = False
    """It can only be forwarded in the format it arrived in: a gRPC call."""
    time_limit: float | None = None
    """Seconds from `began_mono` after which the app no longer waits for the answer, if the app says so."""
    grpc_status: str = ""
    """How a gRPC call ended (`OK`, `UNAVAILABLE`); empty for other requests."""

    authority: bytes
    """The Host as received, or what takes its place."""
    began_mono: float
    """The monotonic second in which its first byte was read."""
    body: int
    """The length in bytes, NO_BODY or UNKNOWN."""
    fields: Fields
    found: Found
    method: bytes
    path: bytes
    """In origin form."""
    scheme: bytes
    """How a URL to the listener begins: `http://` or `https://`."""
    upgrade: bytes | None
    """The protocols that the app asks to switch to, as far as they are carried."""
    via: bytes
    """The `Via` line to append, or empty."""
