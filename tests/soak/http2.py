"""HTTP/2 for the soak, by the `h2` library: a connection of either side with many streams, each with its events in a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import h2.config
import h2.connection
import h2.events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from tests.support.h2_frames import GOAWAY, FrameReader, frame, goaway

Lines = Sequence[tuple[bytes, bytes]]
WINDOW: Final = 256 * 1024
"""Bytes of a stream that may come before they are taken."""
LINGER: Final = 0.5
"""Seconds between a GOAWAY and the end."""
_PREFACE: Final = 24


class Stream:
    """One request and its answer."""

    def __init__(self, connection: Http2, number: int) -> None:
        self.connection = connection
        self.number = number
        self._events: asyncio.Queue[h2.events.Event | None] = asyncio.Queue()

    def put(self, event: h2.events.Event | None) -> None:
        """What came on it; None: its connection is gone."""
        self._events.put_nowait(event)

    async def next(self) -> h2.events.Event | None:
        """The next event; a body's bytes are credited with it."""
        event = await self._events.get()
        if isinstance(event, h2.events.DataReceived):
            self.connection.credit(event)
        return event

    def head(self, lines: Lines, *, end: bool = False) -> None:
        """Write a head, or trailers."""
        self.connection.do(lambda it: it.send_headers(self.number, lines, end_stream=end))

    async def body(self, data: bytes, *, end: bool = False) -> None:
        """Write of a body as the windows let it go; ConnectionError once the stream has ended."""
        left = memoryview(data)
        while True:
            size = min(len(left), self.connection.room(self.number), 16384)
            if size or not left:
                piece, last = bytes(left[:size]), end and size == len(left)
                self.connection.do(lambda it, p=piece, e=last: it.send_data(self.number, p, end_stream=e))
                left = left[size:]
                await self.connection.writer.drain()
                if not left:
                    return
            else:
                await self.connection.moved()

    def reset(self, code: int = ErrorCodes.CANCEL) -> None:
        """End it; harmless where it has ended."""
        try:
            self.connection.do(lambda it: it.reset_stream(self.number, code))
        except ConnectionError:
            pass
        self.connection.streams.pop(self.number, None)


class Http2:
    """A connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        asked: Callable[[Stream, h2.events.RequestReceived], None] | None = None,
    ) -> None:
        """`asked` is called with each request; without it this is a client's."""
        self.reader = reader
        self.writer = writer
        self._asked = asked
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=asked is None,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.local_settings = Settings(asked is None, {SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self.streams: dict[int, Stream] = {}
        self.leaving = False
        """The other side takes no further request, or is gone."""
        self._last: int | None = None
        """Of the streams that are served, where this side has said that it takes no more."""
        self._frames = FrameReader()
        self._left = 0 if asked is None else _PREFACE
        self._moved = asyncio.Event()
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(100 * WINDOW)
        self._flush()

    def do(self, call: Callable[[h2.connection.H2Connection], object]) -> None:
        """Write what a call makes; ConnectionError where the stream or the connection takes it no more."""
        try:
            call(self.h2)
        except (ProtocolError, KeyError) as error:
            raise ConnectionError(repr(error)) from error
        self._flush()

    def _flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.writer.is_closing():
            self.writer.write(data)

    def credit(self, event: h2.events.DataReceived) -> None:
        """What came was taken."""
        try:
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        except (ProtocolError, KeyError):
            return
        self._flush()

    def room(self, stream: int) -> int:
        """Bytes that may be sent on a stream."""
        try:
            return self.h2.local_flow_control_window(stream)
        except (ProtocolError, KeyError) as error:
            raise ConnectionError(repr(error)) from error

    async def moved(self) -> None:
        """Wait until something came; ConnectionError where nothing will."""
        if self.writer.is_closing() or self.reader.at_eof():
            raise ConnectionError("the connection is gone")
        self._moved.clear()
        await self._moved.wait()

    def begin(self) -> Stream:
        """Another request."""
        stream = Stream(self, self.h2.get_next_available_stream_id())
        self.streams[stream.number] = stream
        return stream

    def announce_end(self) -> None:
        """Serve what has come, and nothing more; close a while later, for what is unread then would reset the connection, and
        the GOAWAY might be lost."""
        if self._last is None and not self.writer.is_closing():
            self._last = self.h2.highest_inbound_stream_id
            self.writer.write(goaway(self._last))
            self._close_later()

    def _close_later(self) -> None:
        def close() -> None:
            if self.streams:
                self._close_later()
            else:
                self.writer.close()

        asyncio.get_running_loop().call_later(LINGER, close)

    async def run(self, first: bytes = b"") -> None:
        """Read until the end; `first` was read already."""
        try:
            if first:
                self._take(first)
            while data := await self.reader.read(65536):
                self._take(data)
        except (OSError, ProtocolError):
            pass
        finally:
            self.leaving = True
            self.writer.transport.abort()
            self._moved.set()
            for stream in list(self.streams.values()):
                stream.put(None)
            self.streams.clear()

    def _take(self, data: bytes) -> None:
        preface, data = data[: self._left], data[self._left :]
        self._left -= len(preface)
        # h2 would take nothing more behind a GOAWAY, and there is more to come.
        fed = preface
        for piece in self._frames.feed(data):
            if piece.kind != GOAWAY:
                fed += frame(piece.kind, piece.flags, piece.stream, piece.payload)
                continue
            self.leaving = True
            last = int.from_bytes(piece.payload[:4], "big") & 0x7FFFFFFF
            for stream in [one for number, one in self.streams.items() if number > last and not self._asked]:
                stream.put(
                    h2.events.StreamReset(stream_id=stream.number, error_code=ErrorCodes.REFUSED_STREAM)
                )
        for event in self.h2.receive_data(fed):
            self._on(event)
        self._moved.set()
        self._flush()

    def _on(self, event: h2.events.Event) -> None:
        number = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived) and self._asked is not None:
            if self._last is None or event.stream_id <= self._last:
                stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
                self._asked(stream, event)
        elif number in self.streams:
            stream = self.streams[number]
            stream.put(event)
            if isinstance(event, h2.events.StreamReset):
                self.streams.pop(number)
        elif isinstance(event, h2.events.DataReceived):
            self.credit(event)


def messages(data: bytes) -> bytes:
    """A message of gRPC's around these bytes."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class Messages:
    """Takes a body of gRPC's, and gives what its messages hold."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> bytes:
        """What the messages hold that are whole by now."""
        self._left += data
        found = b""
        while len(self._left) >= 5:
            size = int.from_bytes(self._left[1:5], "big")
            if len(self._left) < 5 + size:
                break
            found += self._left[5 : 5 + size]
            self._left = self._left[5 + size :]
        return found
