"""Names of header fields that have a meaning already: what may hold a token, and what may tell callers apart.

Lower case, as text. `proxy` treats the same names on the wire (RFC 9110 sections 7.6.1 and 7.8, RFC 9112).
"""

from __future__ import annotations

from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",  # never standardised, still sent by clients that think of a proxy
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",  # belongs to an h2c upgrade, which is not carried
    }
)
"""Headers for one hop: they are not forwarded."""

FRAMING: Final = HOP_BY_HOP | {"content-length", "expect", "host", "trailer", "via"}
"""Headers that frame or route a message, or are for one hop."""

NOT_FOR_CALLERS: Final = FRAMING | {"authorization", "x-serverless-authorization"}
"""Headers that can't be a listener's `require_header`, because they frame a message or carry tokens."""

NOT_FOR_TOKENS: Final = (
    FRAMING | {"accept-encoding", "content-encoding", "content-type", "cookie", "date", "origin"}
) - {"proxy-authenticate", "proxy-authorization"}
"""Headers that can't be a route's `header`: they frame, route or describe a message, and a token there would break
it.
"""
