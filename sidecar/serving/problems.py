"""The form of a refusal by a server of the control plane.

Owns RFC 9457 problem+json and the header fields that no answer goes without. Called by applications for what aiohttp
serves and by `gate` for what aiohttp never sees. Pure. Rules: nothing that was received is repeated; nothing is cached,
sniffed or framed.
"""

from __future__ import annotations

import json
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

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
    """A request that is not served: its status, and a sentence that says why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def document(status: int, detail: str) -> str:
    """The problem document."""
    return json.dumps({"title": HTTPStatus(status).phrase, "status": status, "detail": detail}) + "\n"


def answer(status: int, detail: str, *, head: bool, now: float) -> bytes:
    """A whole answer, behind which the connection ends. `head` leaves the body out; `now` is in Unix seconds."""
    body = document(status, detail).encode()
    fields = {
        "Date": formatdate(now, usegmt=True),
        "Content-Type": TYPE,
        "Content-Length": str(len(body)),
        **HEADERS,
        "Connection": "close",
    }
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {it}" for name, it in fields.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (b"" if head else body)
