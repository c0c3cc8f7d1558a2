"""The form of a request for a token (RFC 6749 appendix B), and the JSON that STS takes in its place.

Owns how the token endpoints read a body. Called by `oauth` and `sts`; judges nothing. Sources of the JSON: the fields
of https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token, which google-github-actions/auth sends; R's
gargle sends the same names in a form (`fetch_federated_access_token`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

_CAPITAL: Final = re.compile("[A-Z]")


async def form(request: web.Request) -> dict[str, str]:
    """Its fields. A body that is no form has none, and what is missed first then is a grant type."""
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    text = (await request.read()).decode("utf-8", "replace")
    return dict(parse_qsl(text, keep_blank_values=True))


async def fields(request: web.Request) -> dict[str, str]:
    """Those of a form or of a JSON object, by their names in OAuth: `grantType` is `grant_type`. Only text counts."""
    found: Mapping[str, object] = await form(request)
    if request.content_type == "application/json":
        found = _object(await request.read())
    return {
        _CAPITAL.sub(lambda letter: f"_{letter[0].lower()}", name): value
        for name, value in found.items()
        if isinstance(value, str)
    }


def _object(body: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
