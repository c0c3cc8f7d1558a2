"""What is said of a target that does not speak HTTP/2 as it should.

Owns the words; `upstream` says when. Pure.
"""

from __future__ import annotations

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.http2.connection import code_name


def said_nothing(origin: str, seconds: float) -> SidecarError:
    """The connection is up, and no SETTINGS came in time."""
    return SidecarError(
        Reason.CONNECT_TIMEOUT,
        f"`{origin}` was connected to and said nothing for {seconds:g} s: HTTP/2 begins with SETTINGS from both sides. "
        "Set the route's `protocol` to `http1` if it speaks HTTP/1.1.",
    )


def never_settled(origin: str) -> SidecarError:
    """The connection ended before any SETTINGS came."""
    return SidecarError(
        Reason.UPSTREAM_CLOSED,
        f"`{origin}` closed the connection without a word of HTTP/2. If it speaks HTTP/1.1 only, set the route's "
        "`protocol` to `http1`.",
    )


def was_reset(code: int, *, answered: bool) -> SidecarError:
    """The target ended one stream."""
    when = "in mid-answer" if answered else "before it answered"
    return SidecarError(
        Reason.UPSTREAM_RESET, f"The upstream ended the request's stream with {code_name(code)}, {when}."
    )
