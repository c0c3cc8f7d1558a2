"""Plain TCP, or a Unix socket: a small transport over a non-blocking socket.

Owns its reads and writes. Made by `dial` and by the acceptor; its receiver is a connection of either side. Beside
asyncio's own it spares a handle and two calls for each read (`readiness`), and it is compiled.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, final

from sidecar.net.readiness import SocketReadiness
from sidecar.net.socket_transport import SocketTransport
from sidecar.net.transport import Receiver

_READ: Final = 256 * 1024
"""Bytes that are read at once: of 64, 256 and 512 KiB the best (docs/performance.md)."""

_PIECES: Final = 64
"""Pieces in one sendmsg(2); Linux takes 1,024."""


@final
class TcpTransport(SocketTransport):
    """The transport of one connected socket."""

    __slots__ = ("_peer_ended",)

    kind = "TCP"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        readiness: SocketReadiness,
        sock: socket.socket,
        receiver: Receiver,
    ) -> None:
        """Take over `sock`, which is connected and non-blocking, and call `connection_made`. An exception from that
        call is passed on, with the socket still open. Raises OSError if the socket can't be waited for.
        """
        super().__init__(loop, readiness, sock, receiver)
        self._peer_ended = False
        self.begin()

    # what the receiver calls

    def write(self, data: bytes) -> None:
        if self._lost or self._closing or self._ending or not data:
            return
        if self._unsent_size:
            self._keep(memoryview(data))
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        if sent < len(data):
            # In this order: where a fault keeps the socket from being waited for, nothing is kept that nobody sends.
            self._wait_for_room()
            self._keep(memoryview(data)[sent:])

    def _wait_for_room(self) -> None:
        if self._lost:
            return
        try:
            self._readiness.write(self._fd, self, True)
        except OSError as error:
            self._lose(error)

    def write_eof(self) -> None:
        if not (self._lost or self._closing or self._ending):
            self._ending = True
            if not self._unsent_size:
                self._say_end()

    def can_write_eof(self) -> bool:
        return True

    def end(self) -> None:
        self.write_eof()
        self.resume_reading()

    def _say_end(self) -> None:
        self._ended = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._readiness.read(self._fd, self, False)

    def resume_reading(self) -> None:
        if self._reading or self._lost or self._closing or self._peer_ended:
            return
        try:
            self._readiness.read(self._fd, self, True)
        except OSError as error:
            self._lose(error)
        else:
            self._reading = True

    def read_ahead(self) -> None:
        pass  # it is what each read does

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self.pause_reading()
        if not self._unsent_size:
            self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    # what the selector calls

    def on_readable(self) -> None:
        if not self._reading:
            return
        try:
            data = self._sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:  # noqa: BLE001  # an OSError, or no memory to read into
            self._fail(error)
            return
        try:
            if data:
                self._receiver.data_received(data)
            else:
                self._on_end()
        except Exception as error:  # noqa: BLE001  # as asyncio's transports do
            self._fail(error)

    def _on_end(self) -> None:
        self._peer_ended = True
        keep = self._receiver.eof_received()
        self.pause_reading()
        if not keep:
            self.close()

    def on_writable(self) -> None:
        if not self._unsent_size or self._lost:
            return
        try:
            self._send_kept()
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:  # noqa: BLE001  # an OSError, or a fault
            self._fail(error)
            return
        try:
            if not self._unsent_size:
                self._readiness.write(self._fd, self, False)
            if self._is_paused and self._unsent_size <= self._high // 4:
                self._is_paused = False
                self._receiver.resume_writing()
            # Unless that has written something, or is the end.
            if not self._unsent_size and not self._lost:
                if self._closing:
                    self._lose(None)
                elif self._ending and not self._ended:
                    self._say_end()
        except Exception as error:  # noqa: BLE001  # a fault
            self._fail(error)

    def _send_kept(self) -> None:
        unsent = self._unsent
        if len(unsent) == 1:
            sent = self._sock.send(unsent[0])
        else:
            sent = self._sock.sendmsg([unsent[index] for index in range(min(len(unsent), _PIECES))])
        self._unsent_size -= sent
        while sent:
            first = unsent[0]
            if sent < len(first):
                unsent[0] = first[sent:]
                return
            sent -= len(first)
            unsent.popleft()

    # ends

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._closing = True
        self._reading = False
        self._readiness.leave(self._fd)
        self._drop_kept()
        self._loop.call_soon(self._closed, error)


def attach(
    loop: asyncio.AbstractEventLoop, readiness: SocketReadiness, sock: socket.socket, receiver: Receiver
) -> None:
    """Have `receiver` serve what comes on an accepted socket.

    Raises what its `connection_made` does, and OSError for a socket whose peer is gone already: then nothing waits for
    the socket any more, and to close it is the caller's.
    """
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        TcpTransport(loop, readiness, sock, receiver)
    except BaseException:
        readiness.leave(sock.fileno())
        raise
