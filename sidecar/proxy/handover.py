"""A connection of the data path's that something else serves: a protocol of asyncio's.

Owns the three sides of it: a `Receiver` for the transport, what a protocol expects of asyncio's `Transport`, and a
`Connection` for the proxy, which counts and ends it as any other. Made by `service` for tunnels to hosts that no route
has. It may not look into what passes. Rule: a fault in the protocol ends this connection alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final, cast, final

from sidecar.net.listeners import Owner
from sidecar.net.transport import Receiver, Transport
from sidecar.proxy.connections import Connection, Connections

_LEAVE_TIME: Final = 1.0
"""Seconds that an answer under way is given once the connection is to end, as for a route's requests."""


@final
class Handover(Receiver, Connection):
    """One connection. Its `get_extra_info` knows `peername`, `socket` and `owner`, the `Owner` it came in by."""

    __slots__ = ("_connections", "_ends_mono", "_has_begun", "_loop", "_protocol", "_transport", "owner")

    _transport: Transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        owner: Owner,
        connections: Connections,
    ) -> None:
        self._loop = loop
        self._protocol = protocol
        self.owner = owner
        self._connections = connections
        self._has_begun = False
        """The app has sent something."""
        self._ends_mono = inf

    # what the transport calls

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._guarded(lambda: self._connections.opened(self))
        self._guarded(lambda: self._protocol.connection_made(cast(asyncio.Transport, self)))

    def data_received(self, data: bytes) -> None:
        self._has_begun = True
        self._guarded(lambda: self._protocol.data_received(data))

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guarded(lambda: self._protocol.connection_lost(exc))
        self._connections.closed(self)

    def pause_writing(self) -> None:
        self._guarded(self._protocol.pause_writing)

    def resume_writing(self) -> None:
        self._guarded(self._protocol.resume_writing)

    # what the proxy calls

    def drain(self, since_mono: float) -> None:
        self._ends_mono = min(self._ends_mono, since_mono + _LEAVE_TIME)

    def close_if_idle(self) -> None:
        if not self._has_begun:
            self._transport.abort()

    def sweep(self, now_mono: float) -> None:
        if now_mono >= self._ends_mono:
            self._transport.abort()

    def fault(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": "a connection that was handed over", "exception": error}
        )
        self._transport.abort()

    # what the protocol calls; see asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        if name == "owner":
            return self.owner
        sock = self._transport.get_socket()
        if sock is None:
            return default
        if name == "peername":
            try:
                return sock.getpeername()
            except OSError:
                return default
        return sock if name == "socket" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        self._transport.write(bytes(data))

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """See asyncio.WriteTransport."""
        self._transport.write(b"".join(pieces))

    def write_eof(self) -> None:
        """See asyncio.WriteTransport."""
        self._transport.end()

    def can_write_eof(self) -> bool:
        """See asyncio.WriteTransport."""
        return True

    def get_write_buffer_size(self) -> int:
        """See asyncio.WriteTransport."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """See asyncio.ReadTransport."""
        return self._transport.is_reading()

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._transport.is_closing()

    def close(self) -> None:
        """See asyncio.BaseTransport."""
        self._transport.close()

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        self._transport.abort()

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as fault:  # noqa: BLE001  # logged and counted by the loop's handler
            self.fault(fault)
