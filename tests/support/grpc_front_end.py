"""Google's front end before a gRPC service, in cleartext HTTP/2, with the peer `h2`.

It judges every call as the stand-in's HTTP targets do, by the same code, and answers what it refuses as Google does:
a page of HTML with an HTTP status, which no gRPC client expects. What it admits it answers with the same bytes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError

from sidecar.emulator.asked import Asked
from sidecar.emulator.checks import check
from sidecar.emulator.keys import signing_key
from sidecar.emulator.kinds import Settings, TargetKind
from sidecar.emulator.principals import Principals
from sidecar.emulator.verdicts import Judge, RefusedError

ENDS: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))


class Received(NamedTuple):
    """One call as the front end got it."""

    fields: list[tuple[str, str]]
    body: bytearray
    refused: int
    """The HTTP status, or 0."""

    def get(self, name: str) -> str | None:
        """The value of the first field of this name."""
        return next((value for known, value in self.fields if known == name), None)


class FrontEnd:
    """One that listens on a free port of 127.0.0.1 while entered."""

    def __init__(self, kind: TargetKind, *, audience: str, callers: set[str] | None = None) -> None:
        """`callers` are the e-mails of those who may call; None: everyone whose token is good."""
        self.received: list[Received] = []
        self.port = 0
        self._settings = Settings.of(kind, audience=audience, callers=callers)
        self._principals = Principals(time.time)  # noqa: TID251  # tokens are of the real clock
        self._open: set[asyncio.BaseTransport] = set()

    async def __aenter__(self) -> FrontEnd:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for transport in self._open:
            transport.close()
        await asyncio.sleep(0)

    def judge(self, fields: list[tuple[str, str]]) -> RefusedError | None:
        """The refusal of a call with these fields, if it is one."""
        asked = Asked.of_fields(
            tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in fields)
        )
        url = f"http://127.0.0.1:{self.port}"
        now = time.time()  # noqa: TID251  # tokens are of the real clock
        assert self._settings.audience is not None
        key = signing_key("google")
        try:
            check(asked, Judge(self._settings, url, self._settings.audience, key, now, self._principals))
        except RefusedError as refused:
            return refused
        return None


class _Connection(asyncio.Protocol):
    def __init__(self, front: FrontEnd) -> None:
        self._front = front
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self._calls: dict[int, Received] = {}
        self._left: dict[int, bytes] = {}
        """What is to be sent when the window opens."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._front._open.add(transport)
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def connection_lost(self, _: Exception | None) -> None:
        self._front._open.discard(self._transport)

    def data_received(self, received: bytes) -> None:
        try:
            for event in self._h2.receive_data(received):
                self._on(event)
        except ProtocolError:
            self._transport.write(self._h2.data_to_send())
            self._transport.close()
            return
        self._transport.write(self._h2.data_to_send())

    def _on(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream), headers=fields) if fields is not None:
                self._begin(stream, [(str(name), str(value)) for name, value in fields])
            case DataReceived(stream_id=int(stream), data=bytes(piece), flow_controlled_length=int(size)):
                self._h2.acknowledge_received_data(size, stream)
                if stream in self._calls:
                    self._calls[stream].body.extend(piece)
            case StreamEnded(stream_id=int(stream)) if stream in self._calls:
                self._h2.send_headers(stream, [*ENDS, *self._encoding(stream)])
                self._left[stream] = bytes(self._calls[stream].body)
                self._send(stream)
            case StreamReset(stream_id=int(stream)):
                self._calls.pop(stream, None)
                self._left.pop(stream, None)
            case WindowUpdated():
                for stream in list(self._left):
                    self._send(stream)

    def _begin(self, stream: int, fields: list[tuple[str, str]]) -> None:
        refused = self._front.judge(fields)
        call = Received(fields, bytearray(), 0 if refused is None else refused.response.status)
        self._front.received.append(call)
        if refused is None:
            self._calls[stream] = call
            return
        answer = refused.response
        head = [(":status", str(answer.status)), ("server", "Google Frontend")]
        head += [(name.lower(), value) for name, value in answer.headers.items()]
        self._h2.send_headers(stream, head)
        assert isinstance(answer.body, bytes)
        self._h2.send_data(stream, answer.body, end_stream=True)

    def _encoding(self, stream: int) -> list[tuple[bytes, bytes]]:
        encoding = self._calls[stream].get("grpc-encoding")
        return [] if encoding is None else [(b"grpc-encoding", encoding.encode())]

    def _send(self, stream: int) -> None:
        while left := self._left[stream]:
            size = min(
                len(left), self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size
            )
            if size <= 0:
                return
            self._h2.send_data(stream, left[:size])
            self._left[stream] = left[size:]
        del self._left[stream], self._calls[stream]
        self._h2.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
