"""A target that speaks HTTP/2 frame by frame, keeps what it was sent, and answers what it is told.

Threads and blocking sockets, no HTTP/2 library. What it keeps is judged by `faults`, from the grammar of RFC 9113 alone.
"""

from __future__ import annotations

import re
import select
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

import hpack

from tests.support import h2_frames as h2
from tests.support.h2_frames import Fields, Frame, FrameReader

OK: Final[Fields] = [(b":status", b"200"), (b"content-length", b"2")]

_PSEUDO: Final = (b":method", b":scheme", b":authority", b":path")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_CONNECTION: Final = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")


class Request(NamedTuple):
    """One request, as far as it came."""

    stream: int
    fields: Fields
    body: bytearray
    trailers: Fields

    def all(self, name: bytes) -> list[bytes]:
        """The values of every line of this name."""
        return [value for known, value in self.fields if known == name]


class Connection:
    """One connection of the proxy's."""

    def __init__(self, sock: socket.socket, target: Target) -> None:
        self.socket = sock
        self.frames: list[Frame] = []
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.pongs: set[bytes] = set()
        self.updates: dict[int, int] = {}
        """Bytes that the proxy has added to each window; 0 is the connection's."""
        self.first_room = 0
        """Bytes that the connection's window had room for before any were sent."""
        self._spent: dict[int, int] = {}
        self._stream_window = h2.WINDOW
        self.hung_up = False
        self.closed = threading.Event()
        self._target = target
        self._reader = FrameReader()
        self._open: dict[int, Request] = {}

    def send(self, data: bytes) -> bool:
        """Write all of it; False where the proxy has hung up."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def push(self, data: bytes, *, deaf: bool = False, patience: float = 4.0) -> bool:
        """Write all of it, and take what comes meanwhile, unless `deaf`; False where the proxy hangs up, or takes none of
        it for so many seconds. For an answer that goes on and on: what comes is only looked through for PING and GOAWAY.
        """
        left = memoryview(data)
        self.socket.setblocking(False)
        try:
            while left:
                wanted = [] if deaf else [self.socket]
                readable, writable, _ = select.select(wanted, [self.socket], [], patience)
                if not readable and not writable:
                    return False
                if readable and not self._look():
                    return False
                if writable:
                    left = left[self.socket.send(left[: 1 << 16]) :]
        except BlockingIOError:
            return self.push(bytes(left), deaf=deaf, patience=patience)
        except OSError:
            self._look()
            self.hung_up = True
            return False
        finally:
            self.socket.setblocking(True)
        return True

    def room(self, stream: int) -> int:
        """Bytes that the windows have room for, of the connection alone or of a stream too; for who calls `sent`."""
        connection = h2.WINDOW + self.updates.get(0, 0) - self._spent.get(0, 0)
        if stream == 0:
            return connection
        return min(connection, self._stream_window + self.updates.get(stream, 0) - self._spent.get(stream, 0))

    @property
    def spent(self) -> int:
        """Bytes of DATA that `sent` was called with."""
        return self._spent.get(0, 0)

    def sent(self, stream: int, size: int) -> None:
        """DATA of so many bytes was sent."""
        if not self._spent:
            self.first_room = self.room(0)
        for window in (0, stream):
            self._spent[window] = self._spent.get(window, 0) + size

    def lives(self, payload: bytes = b"all sent", patience: float = 10.0) -> bool:
        """Whether the proxy answers a PING."""
        if self.push(h2.ping(payload)):
            while payload not in self.pongs and select.select([self.socket], [], [], patience)[0]:
                if not self._look():
                    break
        return payload in self.pongs

    @property
    def end(self) -> str:
        """How the proxy ended it, in the page's words; `holds` where it has only stopped to read."""
        if self.goaway:
            return f"GOAWAY({h2.CODES[self.goaway]})"
        return "closes" if self.hung_up or self.goaway == 0 else "holds"

    def _look(self) -> bool:
        try:
            piece = self.socket.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError:
            piece = b""
        if not piece:
            self.hung_up = True
        for frame in self._reader.feed(piece):
            if frame.kind == h2.GOAWAY:
                self.goaway = frame.code
            elif frame.kind == h2.PING and frame.flags & h2.ACK:
                self.pongs.add(frame.payload)
        return bool(piece)

    def drop(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Until either side has closed."""
        self.socket.settimeout(60)
        left = b""
        while len(left) < len(h2.PREFACE):
            left += self.socket.recv(1 << 16) or b"\0" * 24
        if not left.startswith(h2.PREFACE):
            self._target.ambiguous.append("no preface")
            return
        self.send(self._target.settings + h2.window_update(0, 1 << 24))
        piece = left[len(h2.PREFACE) :]
        while True:
            for frame in self._reader.feed(piece):
                self.frames.append(frame)
                self._on(frame)
            piece = self.socket.recv(1 << 18)
            if not piece:
                return

    def _on(self, frame: Frame) -> None:
        if frame.kind == h2.SETTINGS and not frame.flags & h2.ACK:
            for at in range(0, len(frame.payload), 6):
                if int.from_bytes(frame.payload[at : at + 2], "big") == h2.INITIAL_WINDOW_SIZE:
                    self._stream_window = int.from_bytes(frame.payload[at + 2 : at + 6], "big")
            self.send(h2.SETTINGS_ACK)
        elif frame.kind == h2.WINDOW_UPDATE:
            added = int.from_bytes(frame.payload, "big")
            self.updates[frame.stream] = self.updates.get(frame.stream, 0) + added
        elif frame.kind == h2.PING and not frame.flags & h2.ACK:
            self.send(h2.ping(frame.payload, ack=True))
        elif frame.kind == h2.GOAWAY:
            self.goaway = frame.code
        elif frame.kind == h2.RST_STREAM:
            self.resets[frame.stream] = frame.code
            self._target.reset(frame.stream, frame.code)
            self._open.pop(frame.stream, None)
        elif frame.kind in (h2.HEADERS, h2.CONTINUATION):
            self._on_head(frame)
        elif frame.kind == h2.DATA:
            request = self._open.get(frame.stream)
            if frame.payload and self._target.credits:
                self.send(h2.window_update(0, len(frame.payload)))
            if request is not None:
                request.body.extend(h2.body(frame))
                if frame.flags & h2.END_STREAM:
                    self._end(frame.stream)
                elif frame.payload and self._target.credits:
                    self.send(h2.window_update(frame.stream, len(frame.payload)))

    def _on_head(self, frame: Frame) -> None:
        if frame.kind == h2.HEADERS:
            self._ends = bool(frame.flags & h2.END_STREAM)
        try:
            fields = self._reader.fields(frame)
        except hpack.HPACKError as error:
            self._target.ambiguous.append(repr(error))
            return
        if fields is None:
            return
        if frame.stream in self._open:
            self._open[frame.stream].trailers.extend(fields)
        else:
            request = Request(frame.stream, fields, bytearray(), [])
            self._open[frame.stream] = request
            self._target.begun.append(request)
            self._target.began(self, request)
        if self._ends:
            self._end(frame.stream)

    def _end(self, stream: int) -> None:
        request = self._open.pop(stream)
        self._target.ambiguous += faults(request)
        self._target.requests.append(request)
        self._target.answer(self, request)


class Target(socketserver.ThreadingTCPServer):
    """It listens on a free port of 127.0.0.1 while entered."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        self.connections: list[Connection] = []
        self.settings = h2.settings((h2.MAX_CONCURRENT_STREAMS, 1000))
        """The first frame of every connection."""
        self.credits = True
        """Give windows back."""
        self.forget()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def forget(self) -> None:
        """Begin a case: nothing came yet, and every request is answered `ok`."""
        self.begun: list[Request] = []
        """Of which the head came."""
        self.requests: list[Request] = []
        """Of which all came."""
        self.resets: list[int] = []
        """Codes of the proxy's RST_STREAM."""
        self.ambiguous: list[str] = []
        self.answer: Callable[[Connection, Request], object] = answer_ok
        self.began: Callable[[Connection, Request], object] = lambda *_: None

    def reset(self, _: int, code: int) -> None:
        """The proxy has reset a stream."""
        self.resets.append(code)

    def drop(self) -> None:
        """End every connection there is, so that the next case begins on one of its own."""
        for connection in list(self.connections):
            connection.drop()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.drop()
        self.server_close()


class _Handler(socketserver.BaseRequestHandler):
    server: Target

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self.request, self.server)
        self.server.connections.append(connection)
        try:
            with suppress(OSError):
                connection.serve()
        finally:
            self.server.connections.remove(connection)
            connection.closed.set()


def answer_ok(connection: Connection, request: Request) -> None:
    """`ok`, or as many bytes as the path says: `/bytes/N`."""
    path = request.all(b":path")
    if path and path[0].startswith(b"/bytes/"):
        size = int(path[0].rpartition(b"/")[2])
        head: Fields = [(b":status", b"200"), (b"content-length", b"%d" % size)]
        connection.send(h2.headers(request.stream, head, end=False) + h2.data(request.stream, bytes(size)))
        return
    body = b"" if request.all(b":method") == [b"HEAD"] else b"ok"
    connection.send(
        h2.headers(request.stream, OK, end=not body) + (h2.data(request.stream, body) if body else b"")
    )


def field_faults(fields: Fields) -> list[str]:
    """What in a field section breaks the grammar of RFC 9113 section 8.2."""
    found = []
    for name, value in fields:
        if not _NAME.fullmatch(name.removeprefix(b":")):
            found.append(f"the name {name[:80]!r}")
        if not _VALUE.fullmatch(value):
            found.append(f"the value {value[:80]!r} of {name!r}")
        if name in _CONNECTION or (name == b"te" and value != b"trailers"):
            found.append(f"{name!r}: {value[:80]!r}")
    return found


def faults(request: Request) -> list[str]:
    """What in a request breaks the grammar of RFC 9113 sections 8.2 and 8.3, or could be read in two ways."""
    found = []
    names = [name for name, _ in request.fields]
    pseudo = sorted(name for name in names if name[:1] == b":")
    named = b"host" in names and b":authority" not in names  # section 8.3.1
    if pseudo != sorted(name for name in _PSEUDO if not named or name != b":authority"):
        found.append(f"pseudo-header fields {pseudo}")
    plain = [index for index, name in enumerate(names) if name[:1] != b":"]
    if plain and any(name[:1] == b":" for name in names[plain[0] :]):
        found.append("a pseudo-header field behind another field")
    if any(name[:1] == b":" for name, _ in request.trailers):
        found.append("a pseudo-header field among trailers")
    found += field_faults([*request.fields, *request.trailers])
    found += [f"the trailer {name!r}" for name, _ in request.trailers if name in (b"content-length", b"host")]
    lengths = request.all(b"content-length")
    if len(lengths) > 1 or any(value != b"%d" % len(request.body) for value in lengths):
        found.append(f"content-length {lengths} for {len(request.body)} bytes")
    hosts = request.all(b"host")
    if hosts and not named and hosts != request.all(b":authority"):
        found.append(f"host {hosts} beside :authority {request.all(b':authority')}")
    path = request.all(b":path")
    if path and not re.fullmatch(rb"/[!-\"$-~]*|\*", path[0]):
        found.append(f":path {path[0][:80]!r}")
    return found
