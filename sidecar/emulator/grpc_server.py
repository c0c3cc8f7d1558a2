"""HTTP/2 and gRPC's framing before a target's gRPC service.

Owns the connections of such a target, in plaintext (by prior knowledge) and in TLS (by ALPN). Made by `targets`,
started and stopped by `app`. It has the target judge each request, as those of HTTP/1.1 are; refuses it with the same
answer that the front end gives there (a page of HTML, which no gRPC client expects), or hands its messages to
`grpc_app`. The only module of the stand-in that imports ngh2, and on purpose not `proxy.http2`: the stand-in shares no
code with the sidecar. It takes HTTP/2 and gRPC only: another request that is let in is answered 415. Sources: RFC 9113,
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

What comes is credited once little of the call's answer waits to be sent: a caller that reads no answers can't fill the
memory with echoes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, cast, final
from urllib.parse import quote

from aiohttp import web
from ngh2 import (
    Configuration,
    Connection,
    DataReceived,
    Event,
    NGH2Error,
    RequestReceived,
    Role,
    Setting,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

from sidecar.emulator.asked import Asked
from sidecar.emulator.grpc_app import GrpcApp, Method
from sidecar.emulator.verdicts import Admitted, RefusedError

_STREAMS: Final = 100
_WINDOW: Final = 1 << 18
"""Bytes that may come on one stream before they are credited, and that may wait to be sent before they are not."""
_HEAD_LIMIT: Final = 1 << 17
"""Bytes of a head, as of the targets of HTTP."""
_MESSAGE_LIMIT: Final = 4 << 20
"""Bytes of one message, as servers of gRPC have it by themselves."""
_RESOURCE_EXHAUSTED, _INTERNAL = 8, 13


@final
class GrpcServer:
    """What listens for one target."""

    def __init__(
        self,
        app: GrpcApp,
        admit: Callable[[Asked], Admitted],
        now: Callable[[], float],
        name: str | None,
    ) -> None:
        """`admit` judges a request, and raises RefusedError; `name` is the front end's (`server`)."""
        self.app = app
        self.admit = admit
        self._now = now
        self._name = name
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()

    async def start(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        """Listen there."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=sock, ssl=context, backlog=1024
        )

    def stop_listening(self) -> None:
        """Take no further connection."""
        if self._server is not None:
            self._server.close()

    async def cleanup(self) -> None:
        """Close every connection."""
        for connection in list(self.connections):
            connection.transport.abort()
        # Each hears of it in the next turn.
        await asyncio.sleep(0)

    def own_fields(self) -> list[tuple[bytes, bytes]]:
        """What the front end adds to the head of every answer."""
        fields = [(b"date", formatdate(self._now(), usegmt=True).encode())]
        return fields if self._name is None else [*fields, (b"server", self._name.encode())]


@final
class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: GrpcServer) -> None:
        self.server = server
        self.http2 = Connection(
            Role.SERVER,
            Configuration(auto_window_update=False, max_inbound_header_list_size=_HEAD_LIMIT),
        )
        self.http2.initiate_connection(
            {Setting.MAX_CONCURRENT_STREAMS: _STREAMS, Setting.INITIAL_WINDOW_SIZE: _WINDOW}
        )
        # As much as all streams may have: none that waits holds up another.
        self.http2.set_local_window_size(_STREAMS * _WINDOW)
        self.calls: dict[int, _Call] = {}
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.add(self)
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.server.connections.discard(self)
        for call in list(self.calls.values()):
            call.method.closed()

    def data_received(self, data: bytes) -> None:
        try:
            self.http2.receive_data(data)
        except NGH2Error:
            self._read()
            self._end()
            return
        self._read()
        self.flush()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.flush()

    def flush(self) -> None:
        """Send what is ready, and credit what has been dealt with."""
        while not self._is_full:
            for call in self.calls.values():
                call.credit()
            try:
                data = self.http2.data_to_send()
            except NGH2Error:
                self._end()
                return
            self._read()
            if not data:
                break
            self.transport.write(data)
        if not self.http2.want_read and not self.http2.want_write:
            self.transport.close()

    def _end(self) -> None:
        """After an error of the peer's: say what is left to say (GOAWAY)."""
        try:
            self.transport.write(self.http2.data_to_send())
        except NGH2Error:
            pass
        self.transport.close()

    def _read(self) -> None:
        for event in self.http2.events():
            self._on(event)

    def _on(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id, headers, end_stream):
                self._request(stream_id, headers, end_stream)
            case DataReceived(stream_id, data, end_stream):
                if (call := self.calls.get(stream_id)) is None:
                    self.acknowledge(stream_id, len(data))
                else:
                    call.data(data)
                    if end_stream:
                        call.ended()
            case TrailersReceived(stream_id, _) if stream_id in self.calls:
                self.calls[stream_id].ended()
            case StreamReset(stream_id, _) | StreamClosed(stream_id, _, _) if stream_id in self.calls:
                call = self.calls.pop(stream_id)
                # What a stream that is over has not credited is lost to all others otherwise.
                call.credit(is_over=True)
                call.method.closed()

    def _request(self, stream: int, fields: tuple[tuple[bytes, bytes], ...], end: bool) -> None:
        asked = Asked.of_fields(fields)
        try:
            self.server.admit(asked)
        except RefusedError as error:
            self._answer(stream, asked, error.response)
            return
        if not asked.headers.get("Content-Type", "").startswith("application/grpc"):
            self._answer(stream, asked, web.Response(status=415, text="this service speaks gRPC only\n"))
            return
        call = self.calls[stream] = _Call(self, stream, asked)
        call.begin()
        if end:
            call.ended()

    def _answer(self, stream: int, asked: Asked, response: web.Response) -> None:
        """An answer that is none of gRPC's."""
        body = response.body if isinstance(response.body, bytes) else b""
        head = [(b":status", b"%d" % response.status)]
        head += [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
        head = [line for line in head if line[0] != b"content-length"]
        head += [(b"content-length", b"%d" % len(body)), *self.server.own_fields()]
        has_body = bool(body) and asked.method != "HEAD"
        self.http2.send_response(stream, head, end_stream=not has_body)
        if has_body:
            self.http2.send_data(stream, body, end_stream=True)

    def acknowledge(self, stream: int, count: int) -> None:
        """So many bytes may come again."""
        if count:
            try:
                self.http2.acknowledge_received_data(count, stream)
            except (NGH2Error, ValueError):
                pass  # the connection has ended


@final
class _Call:
    """One call: its messages, cut out of the bytes and put into them."""

    def __init__(self, connection: _Connection, stream: int, asked: Asked) -> None:
        self._connection = connection
        self._stream = stream
        self._asked = asked
        self._left = bytearray()
        """The part of a message that has arrived so far."""
        self._uncredited = 0
        self._has_head = False
        self._is_finished = False

    def begin(self) -> None:
        """Ask the app."""
        self.method: Method = self._connection.server.app.begin(self._asked.raw_path, self)

    # what comes

    def data(self, data: bytes) -> None:
        """Bytes of the request."""
        self._uncredited += len(data)
        if self._is_finished:
            return
        left = self._left
        left += data
        while len(left) >= 5 and not self._is_finished:
            size = int.from_bytes(left[1:5])
            if size > _MESSAGE_LIMIT:
                self.finish(
                    _RESOURCE_EXHAUSTED,
                    f"a message of {size} bytes, and at most {_MESSAGE_LIMIT} are taken",
                )
            elif len(left) < 5 + size:
                return
            else:
                message, is_compressed = bytes(left[5 : 5 + size]), left[0] == 1
                del left[: 5 + size]
                self.method.message(message, is_compressed)

    def ended(self) -> None:
        """The request is complete."""
        if self._is_finished:
            return
        if self._left:
            self.finish(_INTERNAL, "the last message is cut")
        else:
            self.method.end()

    def credit(self, *, is_over: bool = False) -> None:
        """Let as much come as has been dealt with, unless too much waits to be sent."""
        count = self._uncredited
        if count and (is_over or self._connection.http2.queued_body_size(self._stream) < _WINDOW):
            self._uncredited = 0
            self._connection.acknowledge(self._stream, count)

    # what goes, as `grpc_app.Call` says

    def send(self, message: bytes, *, is_compressed: bool = False) -> None:
        if self._is_finished:
            return
        try:
            self._head()
            http2 = self._connection.http2
            http2.send_data(self._stream, bytes((is_compressed,)) + len(message).to_bytes(4) + message)
        except NGH2Error:
            self._is_finished = True  # the caller has left, and the event that says so is still to be read

    def finish(self, status: int, text: str = "") -> None:
        if self._is_finished:
            return
        self._is_finished = True
        end = [(b"grpc-status", b"%d" % status)]
        if text:
            end.append((b"grpc-message", quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}").encode()))
        try:
            if self._has_head:
                self._connection.http2.send_trailers(self._stream, end)
            else:
                self._head(*end)
        except NGH2Error:
            pass  # as above

    def flush(self) -> None:
        self._connection.flush()

    def _head(self, *end: tuple[bytes, bytes]) -> None:
        """The head of the answer, once; with its end it is all of it."""
        if self._has_head:
            return
        self._has_head = True
        head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        # What is echoed is compressed as it was.
        if (encoding := self._asked.headers.get("grpc-encoding")) is not None and not end:
            head.append((b"grpc-encoding", encoding.encode()))
        head += self._connection.server.own_fields()
        self._connection.http2.send_response(self._stream, [*head, *end], end_stream=bool(end))
