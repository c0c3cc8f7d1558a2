"""What a transport over a socket is, whether or not TLS is spoken on it.

Owns the socket, the bytes that wait to be sent, and how the receiver is told to pause. The base of `tcp` and `tls`,
which read and write.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import ClassVar

from sidecar.net.readiness import SocketReadiness, Watcher
from sidecar.net.transport import Receiver, Transport


class SocketTransport(Transport, Watcher):
    """See the module's docstring; a subclass calls `begin` when it is made."""

    __slots__ = (
        "_closing",
        "_ended",
        "_ending",
        "_fd",
        "_high",
        "_is_paused",
        "_loop",
        "_lost",
        "_readiness",
        "_reading",
        "_receiver",
        "_sock",
        "_unsent",
        "_unsent_size",
    )

    kind: ClassVar[str]
    """For people: TCP or TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        readiness: SocketReadiness,
        sock: socket.socket,
        receiver: Receiver,
    ) -> None:
        self._loop = loop
        self._readiness = readiness
        self._sock = sock
        self._fd = sock.fileno()
        self._receiver = receiver
        self._unsent: deque[memoryview] = deque()
        self._unsent_size = 0
        self._high = 64 * 1024
        self._is_paused = False
        """The receiver was asked to pause."""
        self._reading = False
        self._ending = False
        """Our side ends as soon as what is kept is sent."""
        self._ended = False
        """And the end has been sent."""
        self._closing = False
        self._lost = False

    def __repr__(self) -> str:
        state = "lost" if self._lost else "closing" if self._closing else "open"
        return f"<{self.kind.title()}Transport fd={self._fd} {state} unsent={self._unsent_size}>"

    def begin(self) -> None:
        """Call `connection_made`, and read. What the first raises comes out, with the socket still open."""
        self._receiver.connection_made(self)
        try:
            self.resume_reading()
        except Exception as error:  # noqa: BLE001  # the receiver saw a beginning, so it sees an end
            self._fail(error)

    def set_protocol(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def is_reading(self) -> bool:
        return self._reading

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return self._unsent_size

    def get_socket(self) -> socket.socket | None:
        return self._sock

    def _keep(self, data: memoryview) -> None:
        if self._lost:
            return
        self._unsent.append(data)
        self._unsent_size += len(data)
        if self._unsent_size > self._high and not self._is_paused:
            self._is_paused = True
            self._receiver.pause_writing()

    def _drop_kept(self) -> None:
        self._unsent.clear()
        self._unsent_size = 0

    def _fail(self, error: Exception) -> None:
        """Close after an error. An error that is not the connection's is a fault, which the event loop's handler
        logs.
        """
        if not isinstance(error, OSError):
            message = f"Fatal error on a {self.kind} connection."
            self._loop.call_exception_handler({"message": message, "exception": error, "transport": self})
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        raise NotImplementedError

    def _closed(self, error: Exception | None) -> None:
        try:
            self._receiver.connection_lost(error)
        finally:
            self._sock.close()
