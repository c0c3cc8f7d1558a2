"""The form of a refusal by a server of the control plane.

Owns RFC 9457 problem+json and the header fields that no answer goes without. Called by applications for what they are
asked and by `gate` for what never gets there. Pure. Rules: nothing that was received is repeated; nothing is cached,
sniffed or framed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from sidecar.serving.response import Response

TYPE: Final = "application/problem+json"

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RefusedError(Exception):
    """A request that is not served: its status, a sentence that says why, and header fields of its own."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says why."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(status, f"{json.dumps(document)}\n".encode(), {"Content-Type": TYPE, **(headers or {})})


def answer(status: int, detail: str, *, head: bool, now: float) -> bytes:
    """The same, as it is sent. `head` leaves the body out; `now` is in Unix seconds."""
    made = problem(status, detail, HEADERS)
    return made.head(http10=False, now=now) + (b"" if head else made.body)
