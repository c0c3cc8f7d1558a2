"""An answer of a server of the control plane, and how it is written.

Owns the head of every answer and the frames of one that comes in parts. Made by handlers and `problems`, written by
`site` and `gate`. Pure. Rules: RFC 9112 sections 6 (a known length, else chunks, and none of these to HTTP/1.0) and
9.6: the connection ends behind the answer, which says so.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Self, final

LAST_CHUNK: Final = b"0\r\n\r\n"


@final
@dataclass(slots=True)
class Response:
    """An answer: `body`, or what `parts` brings bit by bit."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    """Without those that say how the body is framed."""
    parts: AsyncGenerator[bytes, None] | None = None

    @classmethod
    def of_text(
        cls,
        text: str,
        media_type: str = "text/plain",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """A text in UTF-8."""
        typed = {"Content-Type": f"{media_type}; charset=utf-8"}
        return cls(status, text.encode(), typed if headers is None else {**typed, **headers})

    @classmethod
    def of_json(cls, value: object, *, status: int = 200) -> Self:
        """A value in JSON."""
        return cls.of_text(json.dumps(value), "application/json", status=status)

    def head(self, *, http10: bool, now: float) -> bytes:
        """The head as it is sent; `now` is in Unix seconds."""
        lines = [
            f"HTTP/1.{0 if http10 else 1} {self.status} {HTTPStatus(self.status).phrase}",
            f"Date: {formatdate(now, usegmt=True)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            "Connection: close",
        ]
        if self.parts is None:
            lines.append(f"Content-Length: {len(self.body)}")
        elif not http10:
            lines.append("Transfer-Encoding: chunked")
        if any(not line.isprintable() for line in lines):
            raise ValueError("a header line of an answer has a control character")
        return "\r\n".join([*lines, "", ""]).encode()


def chunk(part: bytes) -> bytes:
    """One part of an answer in its frame."""
    return b"%x\r\n%b\r\n" % (len(part), part)
