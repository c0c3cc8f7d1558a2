"""The sidecar's own answers.

Owns their form: RFC 9457 `application/problem+json` with an RFC 9209 `Proxy-Status`, so that they can't be mistaken
for the upstream's. Called by the codecs of the app's side, which write it. Pure.
"""

from __future__ import annotations

import json
import math
from email.utils import formatdate
from http import HTTPStatus

from sidecar.errors import MEANINGS, SidecarError
from sidecar.proxy.fields.proxy_status import NAME

MEDIA_TYPE = "application/problem+json"
TYPE = "tag:idtoken-sidecar,2026:"
"""Problem types are `tag:` URIs (RFC 4151). They resolve to nothing, so no page has to be hosted."""


def reason_phrase(status: int) -> str:
    """The usual phrase of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def problem(error: SidecarError, *, route: str | None) -> bytes:
    """The problem document (RFC 9457 section 3) for one error."""
    meaning = MEANINGS[error.reason]
    document = {
        "type": TYPE + error.reason,
        "title": meaning.title,
        "status": meaning.status,
        "detail": error.detail,
        "reason": str(error.reason),
        "source": str(meaning.source),
    }
    if route is not None:
        document["route"] = route
    if error.command:
        document["command"] = error.command
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def fields(error: SidecarError, *, body: int, now: float) -> list[tuple[bytes, bytes]]:
    """The answer's header lines; `body` is the document's length in bytes, `now` in Unix seconds."""
    meaning = MEANINGS[error.reason]
    lines = [
        ("Date", formatdate(now, usegmt=True)),
        ("Content-Type", MEDIA_TYPE),
        ("Content-Length", str(body)),
        ("Cache-Control", "no-store"),
        (
            "Proxy-Status",
            f"{NAME}; error={meaning.proxy_status}{_alert(error)}; details={_quoted(error)}",
        ),
    ]
    if meaning.status == 503 or error.retry_after is not None:
        lines.append(("Retry-After", str(max(1, math.ceil(error.retry_after or 1.0)))))
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in lines]


def _quoted(error: SidecarError) -> str:
    """An RFC 8941 string. It holds the reason code only, because such a string can't carry all of a detail's text."""
    return f'"{error.reason}"'


def _alert(error: SidecarError) -> str:
    """The parameters that the type `tls_alert_received` has (RFC 9209 section 2.3.15)."""
    if error.alert is None:
        return ""
    number, name = error.alert
    return f"; alert-id={number}; alert-message={name}"
