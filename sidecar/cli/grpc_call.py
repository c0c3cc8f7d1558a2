"""One gRPC call over a connection of its own, for `check --online` and the demo.

Owns the client's side of a call, and the reading of one message: a health service's answer. Messages are bytes
without types. Called with a connection to a sidecar. No timeout of its own. Rules:
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, …/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, final

from sidecar.config.groups import Limits
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.http2 import grpc
from sidecar.proxy.http2.connection import Answer, Closed, Data, Event, Http2Connection, Reset, Trailers

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")

_LIMIT: Final = 64 * 1024
"""Most bytes of an answer's body that are kept."""


class CallAnswer(NamedTuple):
    """The result of a call."""

    http_status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    """Its beginning."""
    status: str | None
    """The name of the gRPC status, such as `UNAVAILABLE`; None if there was none."""

    @property
    def is_grpc(self) -> bool:
        """Whether it is a gRPC answer, and not a page."""
        return grpc.is_call(self.headers.get("content-type", "").encode("latin-1"))

    @property
    def messages(self) -> list[bytes]:
        """The complete messages."""
        return _messages(self.body) if self.is_grpc else []

    @property
    def page(self) -> str:
        """The body of an answer that is not gRPC's."""
        return "" if self.is_grpc else self.body.decode("utf-8", "replace")


async def call(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    authority: str,
    path: str,
    messages: Sequence[bytes],
    *,
    in_turn: bool = False,
) -> CallAnswer:
    """Send `messages` and read the whole answer; OSError if there is none.

    `in_turn` sends each message after the answer to the one before.
    """
    http2 = Http2Connection(Bounds(Limits()), 0.0, is_client=True, streams=1)
    found = _Found(http2)
    lines = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", authority.encode()),
        (b":path", path.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    stream = http2.request(lines, end=False)
    waiting, sent, has_ended = list(messages), 0, False
    while not found.is_over:
        while waiting and (not in_turn or len(_messages(found.body)) >= sent):
            message = waiting.pop(0)
            http2.body(stream, b"\x00" + len(message).to_bytes(4) + message)
            sent += 1
        if not waiting and not has_ended:
            http2.end(stream)
            has_ended = True
        writer.write(http2.take())
        await writer.drain()
        data = await reader.read(_LIMIT)
        if not data or http2.is_dead:
            raise OSError("the connection ended before the answer")
        for event in http2.feed(data):
            found.on(event)
    return CallAnswer(found.http_status, found.headers, bytes(found.body), found.status)


@final
class _Found:
    """The part of an answer that has arrived."""

    def __init__(self, http2: Http2Connection) -> None:
        self._http2 = http2
        self.http_status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.status: str | None = None
        self.is_over = False

    def on(self, event: Event) -> None:
        """Take bytes that arrived."""
        if isinstance(event, Answer):
            self.http_status = int(event.headers[0][1])
            self.headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers[1:]
            }
            self._end(event.headers, is_end=event.end_stream)
        elif isinstance(event, Data):
            self.body += event.data[: _LIMIT - len(self.body)]
            self._http2.credit(event.stream_id, len(event.data))
            self._end((), is_end=event.end_stream)
        elif isinstance(event, Trailers):
            self._end(event.headers, is_end=True)
        elif isinstance(event, Reset | Closed) and not self.is_over:
            raise OSError("the call's stream was ended before its answer")

    def _end(self, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool) -> None:
        if is_end:
            self.is_over = True
            if any(name == b"grpc-status" for name, _ in fields):
                self.status = grpc.status_of(fields)


def _messages(body: bytes | bytearray) -> list[bytes]:
    found, at = [], 0
    while at + 5 <= len(body):
        end = at + 5 + int.from_bytes(body[at + 1 : at + 5])
        if end > len(body):
            break
        found.append(bytes(body[at + 5 : end]))
        at = end
    return found


def serving_status(messages: Sequence[bytes]) -> str | None:
    """The status in a HealthCheckResponse, by its enum's name; None if it can't be read. Zero is not encoded."""
    if len(messages) != 1:
        return None
    message = messages[0] or b"\x08\x00"
    if len(message) != 2 or message[0] != 0x08 or message[1] >= len(_SERVING):
        return None
    return _SERVING[message[1]]
