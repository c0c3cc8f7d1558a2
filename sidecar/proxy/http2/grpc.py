"""What gRPC adds to HTTP/2: how to recognise a call, its deadline, and how its answers report errors.

Owns the sidecar's own answers to gRPC calls, and the reading of a call's status. Called by the two sides. Pure.
Rules: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, and http-grpc-status-mapping.md beside it.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from sidecar.errors import MEANINGS, SidecarError
from sidecar.proxy.fields.headers import Fields
from sidecar.proxy.fields.semantics import malformed

STATUSES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""The names of a call's statuses, each at its number."""

_CANCELLED: Final = 1
_OF_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
"""What a client makes of an HTTP status in place of gRPC's. All others are UNKNOWN."""

_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LONGEST_MESSAGE: Final = 1024
"""The most bytes of a message. Clients limit the size of a head (usually 8 KiB)."""


def is_call(content_type: bytes) -> bool:
    """Whether a message is gRPC's. gRPC-Web does not count: it is a format of HTTP bodies, with HTTP's statuses."""
    return content_type[:16] == b"application/grpc" and content_type[16:17] in (b"", b"+", b";")


def time_limit(fields: Fields) -> float | None:
    """A call's deadline, in seconds from its beginning. Raises MALFORMED_REQUEST if it can't be read."""
    for name, value in fields:
        if name == b"grpc-timeout":
            found = _TIMEOUT.fullmatch(value)
            if found is None:
                raise malformed("`grpc-timeout` is not a number of at most eight digits and a unit.", "gRPC")
            return int(found[1]) * _SECONDS[found[2]]
    return None


def with_time_left(fields: Fields, seconds: float) -> list[tuple[bytes, bytes]]:
    """The same lines with the time that is left until the deadline."""
    value = _timeout(max(0.0, seconds))
    return [(name, value if name == b"grpc-timeout" else old) for name, old in fields]


def _timeout(seconds: float) -> bytes:
    for unit in (b"u", b"m", b"S", b"M", b"H"):
        count = int(seconds / _SECONDS[unit])
        if count < 100_000_000:
            return b"%d%b" % (count, unit)
    return b"99999999H"


def own_answer(error: SidecarError, *, route: str | None) -> list[tuple[bytes, bytes]]:
    """The only head of one of the sidecar's own answers: HTTP 200, with the status that ends a call."""
    meaning = MEANINGS[error.reason]
    where = "" if not route else f" (route {route})"
    fix = f" To fix it: {error.command}" if error.command and error.command not in error.detail else ""
    return refusal(meaning.grpc, f"{error.reason}: {meaning.title}{where}. {error.detail}{fix}")


def refusal(status: int, message: str) -> list[tuple[bytes, bytes]]:
    """The only head of an answer that ends a call with this status."""
    return [(b":status", b"200"), (b"content-type", b"application/grpc"), *end(status, message)]


def end(status: int, message: str) -> list[tuple[bytes, bytes]]:
    """Trailers that end a call with this status."""
    return [(b"grpc-status", b"%d" % status), (b"grpc-message", _encoded(message))]


def of_http(status: int) -> int:
    """The status of a call whose answer is not gRPC's, by its HTTP status."""
    return _OF_HTTP.get(status, 2)


def _encoded(message: str) -> bytes:
    """Percent-encoded, as a `grpc-message` is. Cut so that no escape is broken."""
    out = b"".join(
        quote(char, safe="").encode() if char == "%" or not " " <= char <= "~" else char.encode()
        for char in message
    )
    if len(out) > _LONGEST_MESSAGE:
        out = out[:_LONGEST_MESSAGE]
        cut = out.rfind(b"%", -2)
        out = out[:cut] if cut >= 0 else out
    return out


def status_of(fields: Fields) -> str:
    """The name of the status in a call's last lines. UNKNOWN if there is none, as clients see it."""
    for name, value in fields:
        if name == b"grpc-status":
            return name_of(int(value)) if value.isdigit() and len(value) < 3 else "UNKNOWN"
    return "UNKNOWN"


def name_of(status: int) -> str:
    """The name of a status."""
    return STATUSES[status] if status < len(STATUSES) else "UNKNOWN"
