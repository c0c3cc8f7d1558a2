"""The form of a request for a token (RFC 6749 appendix B).

Owns how the token endpoints read a body. Called by `oauth` and `sts`; judges nothing.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from aiohttp import web


async def form(request: web.Request) -> dict[str, str]:
    """Its fields. A body that is no form has none, and what is missed first then is a grant type."""
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    text = (await request.read()).decode("utf-8", "replace")
    return dict(parse_qsl(text, keep_blank_values=True))
