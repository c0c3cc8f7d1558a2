"""An upstream's side of one request in HTTP/2: what `upstream.Wire` is in HTTP/1.1, for plain requests and gRPC's."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.events
from h2.errors import ErrorCodes

from tests.soak.http2 import Messages, Stream, messages
from tests.soak.pattern import Pattern


class StreamWire:
    """HTTP/2 on one stream."""

    def __init__(self, stream: Stream, writer: asyncio.StreamWriter, *, grpc: bool) -> None:
        self.stream = stream
        self.writer = writer
        self.grpc = grpc

    def head(self, status: int, fields: list[tuple[str, str]], *, end: bool = False) -> None:
        """Write an answer's head."""
        kind = [("content-type", "application/grpc")] if self.grpc and status == 200 else []
        lines = [(":status", str(status)), *fields, *kind]
        self.stream.head([(name.lower().encode(), value.encode("latin-1")) for name, value in lines], end=end)

    def go_on(self) -> None:
        """100 Continue."""
        self.head(100, [])

    async def body(self, head: object) -> Any:
        """The pieces of a request's body."""
        unframed = Messages()
        while True:
            event = await self.stream.next()
            if isinstance(event, h2.events.DataReceived):
                yield unframed.feed(event.data) if self.grpc else event.data
            elif isinstance(event, h2.events.StreamEnded):
                return
            elif event is None or isinstance(event, h2.events.StreamReset):
                raise ConnectionError("the request was broken off")

    async def refuse(self, head: object, answer: list[tuple[str, str]]) -> bool:
        """Call the token invalid."""
        self.head(401, [*answer, ("www-authenticate", 'Bearer error="invalid_token"')], end=True)
        return True

    async def send(
        self,
        head: Any,
        status: int,
        fields: list[tuple[str, str]],
        body: Pattern,
        framing: str,
        cut: int | None = None,
    ) -> None:
        """A whole answer, or all up to `cut`."""
        if framing != "length" or self.grpc:
            length = []
        else:
            length = [("content-length", str(body.size))]
        is_head = head.method == "HEAD"
        self.head(status, [*fields, *length], end=is_head)
        if is_head:
            return
        sent = 0
        for block in body.blocks():
            if cut is not None and sent + len(block) >= cut:
                self.reset()
                return
            sent += len(block)
            await self.stream.body(messages(block) if self.grpc else block)
        if cut is not None:
            self.reset()
        else:
            await self._end()

    async def _end(self) -> None:
        if self.grpc:
            self.stream.head([(b"grpc-status", b"0")], end=True)
        else:
            await self.stream.body(b"", end=True)

    async def mirror(self, head: object, fields: list[tuple[str, str]]) -> None:
        """Send the body back while it comes."""
        self.head(200, [*fields, ("x-soak-intact", "1")])
        async for piece in self.body(head):
            if piece:
                await self.stream.body(messages(piece) if self.grpc else piece)
        await self._end()

    def garbage(self, text: bytes) -> None:
        """An answer that is none."""
        self.stream.head([(b":status", b"20x")])

    def reset(self) -> None:
        """End the stream."""
        self.stream.reset(ErrorCodes.INTERNAL_ERROR)
