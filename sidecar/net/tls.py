"""TLS to an upstream, and on a listener: a small transport over a non-blocking `SSLSocket`.

Owns the record layer's reads and writes after `tls_handshake`. Made by `dial` and by the acceptor; its receiver is a
connection of either side. asyncio's own TLS (memory BIOs) costs 28.7 µs of CPU a request where this costs 22.3
(measured side by side, docs/decisions).

OpenSSL asks three things of a non-blocking caller (SSL_read(3), SSL_get_error(3)). A read may have to write, and a
write may have to read. Data may be pending inside OpenSSL that no selector reports. An end without close_notify is an
error, because it may be an attacker's truncation. After a failed write, what the other side sent before is read
first: it may be the alert or the answer that explains the failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final, NamedTuple, final

from sidecar.net.readiness import SocketReadiness
from sidecar.net.socket_transport import SocketTransport
from sidecar.net.transport import Receiver, Transport

_RECORD: Final = 16 * 1024
_READ: Final = 64 * 1024
"""More than a record holds, so that nothing stays pending inside OpenSSL after a read."""
_READS_AT_ONCE: Final = 16
"""Records that are passed on together before other sockets get their turn."""
_BARREN: Final = 8
"""How many small records are passed on one by one after one with nothing behind it: looking costs a system call."""


class Session(NamedTuple):
    """What the next handshake with a server may resume. Valid only with the context it was made with."""

    context: ssl.SSLContext
    session: ssl.SSLSession


@final
class TlsTransport(SocketTransport):
    """The transport of one TLS connection, after its handshake."""

    __slots__ = (
        "_barren",
        "_read_again",
        "_read_error",
        "_read_wants_write",
        "_reads_ahead",
        "_secured",
        "_write_error",
        "_write_wants_read",
    )

    kind = "TLS"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        readiness: SocketReadiness,
        sock: ssl.SSLSocket,
        receiver: Receiver,
    ) -> None:
        super().__init__(loop, readiness, sock, receiver)
        self._secured = sock
        """The socket again, as what it is."""
        self._read_wants_write = False
        self._write_wants_read = False
        self._write_error: OSError | None = None
        self._read_error: OSError | None = None
        """What ended the reading, while bytes that came before it are handed on."""
        self._read_again = False
        """OpenSSL holds something that no selector will report."""
        self._reads_ahead = False
        """Whether what stands behind a small record is read at once, too: it may be of another stream of HTTP/2."""
        self._barren = 0
        """How many more small records are passed on one by one."""
        self.begin()

    # what the receiver calls

    def write(self, data: bytes) -> None:
        if self._lost or self._closing or not data or self._write_error is not None:
            return
        if not self._unsent:
            try:
                sent = self._secured.send(data)
            except ssl.SSLWantWriteError:
                sent = 0
            except ssl.SSLWantReadError:
                sent, self._write_wants_read = 0, True
            except OSError as error:
                self._write_failed(error)
                return
            if sent == len(data):
                return
            self._wait(reading=self._write_wants_read)
            self._keep(memoryview(data)[sent:])
        else:
            self._keep(memoryview(data))

    def _wait(self, *, reading: bool) -> None:
        try:
            if reading:
                self._readiness.read(self._fd, self, True)
            else:
                self._readiness.write(self._fd, self, True)
        except OSError as error:
            self._lose(error)

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            if not self._write_wants_read:
                self._readiness.read(self._fd, self, False)

    def resume_reading(self) -> None:
        if not self._reading and not self._lost and not self._closing:
            self._reading = True
            self._wait(reading=True)
            # OpenSSL may hold some that no selector would report.
            if self._read_again or self._secured.pending():
                self._loop.call_soon(self.on_readable)

    def read_ahead(self) -> None:
        self._reads_ahead = True

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._closing or self._lost or self._write_error is not None

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        if self._reading:
            self._reading = False
            self._readiness.read(self._fd, self, False)
        if not self._unsent:
            self._lose(None)

    def end(self) -> None:
        """See `Transport.end`; what still comes is dropped, unread."""
        if not (self._closing or self._lost or self._ending):
            self._ending = True
            if not self._unsent:
                self._say_end()

    def _say_end(self) -> None:
        try:
            self._secured.unwrap()
        except ssl.SSLWantWriteError:
            self._readiness.write(self._fd, self, True)
            return
        except (OSError, ValueError):
            pass  # said; what would come next is the peer's own, or more of a request
        self.resume_reading()
        self._ended = self._closing = True
        try:
            # From here on the socket reads what is under TLS.
            self._secured.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    def _drop(self) -> None:
        """Take what still comes, and leave it unread."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            if not self._secured.recv(_READ):
                self._lose(None, notify=False)

    def abort(self) -> None:
        """See `Transport.abort`; the peer is not told that this is the end."""
        self._lose(None, notify=False)

    # what the selector calls

    def on_readable(self) -> None:
        if self._write_wants_read:
            self._write_wants_read = False
            if not self._reading:
                self._readiness.read(self._fd, self, False)
            self.on_writable()
        if not self._reading or self._lost:
            return
        if self._read_error is not None:
            self._lose(self._read_error)
            return
        self._read_again = False
        try:
            if self._ended:
                self._drop()
                return
            data = self._with_more(self._secured.recv(_READ))
        except ssl.SSLWantReadError:
            if self._write_error is not None:
                self._lose(self._write_error)
            return
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            self._readiness.write(self._fd, self, True)
            return
        except Exception as error:  # noqa: BLE001  # an OSError, or no memory to read into
            self._fail(error)
            return
        try:
            if data:
                self._receiver.data_received(data)
            elif not self._lost:
                self._receiver.eof_received()
                self.close()
        except Exception as error:  # noqa: BLE001  # as asyncio's transports do
            self._fail(error)

    def _with_more(self, first: bytes) -> bytes:
        """What was read, with the records behind it. Behind a small record it looks only if it may belong to another
        stream, and if the last ones had something behind them.
        """
        if len(first) >= _RECORD or self._secured.pending():
            return self._more(first)
        if not self._reads_ahead:
            return first
        if self._barren:
            self._barren -= 1
            return first
        data = self._more(first)
        if len(data) == len(first):
            self._barren = _BARREN
        return data

    def _more(self, first: bytes) -> bytes:
        """The records that are there already, as one piece; an end or an error among them comes up next time.

        An error is kept: OpenSSL reports a fatal alert once, and from then on says that the connection ended
        properly.
        """
        pieces = [first]
        for _ in range(_READS_AT_ONCE):
            try:
                data = self._secured.recv(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLWantWriteError:
                self._read_again = True
                break
            except OSError as error:
                self._read_error = error
                self._read_again = True
                break
            if not data:
                self._read_again = True
                break
            pieces.append(data)
            if len(data) < _RECORD and not self._reads_ahead and not self._secured.pending():
                break
        if self._read_again:
            self._loop.call_soon(self.on_readable)
        return b"".join(pieces)

    def on_writable(self) -> None:
        if self._lost:
            return
        if self._read_wants_write:
            self._read_wants_write = False
            self._loop.call_soon(self.on_readable)
        try:
            while self._unsent:
                piece = self._unsent[0]
                sent = self._secured.send(piece)
                self._unsent_size -= sent
                if sent == len(piece):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = piece[sent:]
        except ssl.SSLWantWriteError:
            self._readiness.write(self._fd, self, True)
            return
        except ssl.SSLWantReadError:
            self._write_wants_read = True
            self._readiness.write(self._fd, self, False)
            self._readiness.read(self._fd, self, True)
            return
        except OSError as error:
            self._write_failed(error)
            return
        except Exception as error:  # noqa: BLE001  # an OSError, or a fault
            self._fail(error)
            return
        finally:
            if self._is_paused and self._unsent_size <= self._high // 4 and not self._lost:
                self._is_paused = False
                self._receiver.resume_writing()
        if not self._unsent and not self._lost:
            self._all_sent()

    def _all_sent(self) -> None:
        """Go on after the last byte that was kept, unless the receiver has written more or ended it meanwhile."""
        self._readiness.write(self._fd, self, False)
        if self._ended:
            return  # it was a read that waited; now the peer's end is what is waited for
        if self._closing:
            self._lose(None)
        elif self._ending:
            try:
                self._say_end()
            except Exception as error:  # noqa: BLE001  # a fault
                self._fail(error)

    def _write_failed(self, error: OSError) -> None:
        """Send no more; the end comes up once what was received before is read, which is at once where nobody reads."""
        self._write_error = error
        self._drop_kept()
        self._readiness.write(self._fd, self, False)
        if self._reading:
            self._loop.call_soon(self.on_readable)
        else:
            self._lose(error)

    def _lose(self, error: Exception | None, *, notify: bool = True) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._reading = False
        self._readiness.leave(self._fd)
        self._drop_kept()
        if error is None and notify:
            # Sends close_notify; the peer's own is not waited for (RFC 8446 section 6.1 allows that).
            with contextlib.suppress(OSError, ValueError):
                self._secured.unwrap()
        self._loop.call_soon(self._closed, error)


def session_of(transport: Transport) -> Session | None:
    """The session to resume next time, once the server has sent its tickets; None for plain TCP."""
    sock = transport.get_socket()
    if not isinstance(sock, ssl.SSLSocket) or (session := sock.session) is None:
        return None
    return Session(sock.context, session)
