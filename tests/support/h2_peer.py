"""A peer that speaks HTTP/2 by the `h2` library, over an end of the wire: an app or a target that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes, Settings

from tests.support.source import LIMIT
from tests.support.wire import End

E = TypeVar("E", bound=h2.events.Event)
Lines = Sequence[tuple[bytes, bytes]]

GET: Lines = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"billing.internal"),
    (b":path", b"/x"),
)
POST: Lines = ((b":method", b"POST"), *GET[1:])
CALL: Lines = (*POST, (b"content-type", b"application/grpc"), (b"te", b"trailers"))
OK: Lines = ((b":status", b"200"),)


class Peer:
    """One end, and what has come to it."""

    def __init__(
        self,
        end: End,
        *,
        is_client: bool,
        announced: dict[SettingCodes | int, int] | None = None,
        credits_all: bool = True,
    ) -> None:
        """`announced` are its SETTINGS; with `credits_all` what comes is taken at once."""
        self.end = end
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=is_client, header_encoding=None, validate_outbound_headers=False
            )
        )
        self.h2.local_settings = Settings(is_client, announced or {})
        self.credits_all = credits_all
        self.seen: list[h2.events.Event] = []
        """What came and was not asked for yet."""

    @classmethod
    async def begin(cls, end: End, *, is_client: bool, **more: Any) -> Peer:
        """One whose connection has begun."""
        peer = cls(end, is_client=is_client, **more)
        peer.h2.initiate_connection()
        await peer.flush()
        return peer

    async def flush(self) -> None:
        """Send what is due."""
        if data := self.h2.data_to_send():
            await self.end.send(data)

    async def read(self) -> bool:
        """Take what comes next; whether the connection goes on."""
        async with asyncio.timeout(LIMIT):
            data = await self.end.reader.read(65536)
        if not data:
            return False
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived) and self.credits_all:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.seen.append(event)
        await self.flush()
        return True

    async def until(self, kind: type[E], stream: int | None = None) -> E:
        """The next event of a kind, of a stream if one is named."""
        while True:
            for event in self.seen:
                if isinstance(event, kind) and (
                    stream is None or getattr(event, "stream_id", None) == stream
                ):
                    self.seen.remove(event)
                    return event
            assert await self.read(), f"the connection ended before {kind.__name__}; seen: {self.seen}"

    async def ends(self) -> None:
        """Read until the other side has closed."""
        while await self.read():
            pass

    async def ask(self, lines: Lines = GET, *, body: bytes | None = None, end: bool = True) -> int:
        """A request; the id of its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, lines, end_stream=end and body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end)
        await self.flush()
        return stream

    async def asked(self) -> h2.events.RequestReceived:
        """The next request."""
        return await self.until(h2.events.RequestReceived)

    async def answer(
        self,
        stream: int,
        lines: Lines = OK,
        *,
        body: bytes | None = None,
        trailers: Lines = (),
        end: bool = True,
    ) -> None:
        """An answer."""
        self.h2.send_headers(stream, lines, end_stream=end and body is None and not trailers)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end and not trailers)
        if trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        await self.flush()

    async def body(self, stream: int) -> bytes:
        """All of a body to its end."""
        body = b""
        while True:
            event = await self.until(h2.events.Event, stream)
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                return body
            elif isinstance(event, h2.events.TrailersReceived):
                self.seen.append(event)
                return body
            else:
                assert not isinstance(event, h2.events.StreamReset), event


def fields(event: Any) -> dict[bytes, bytes]:
    """The lines of an event by their names."""
    return {bytes(name): bytes(value) for name, value in event.headers}
