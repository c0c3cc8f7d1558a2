"""An app that speaks HTTP/2 frame by frame with a proxy, and remembers all that came back.

Blocking sockets, no HTTP/2 library: it sends what it is told, right or wrong. It takes what the proxy sends while it
sends, unless it is told to be deaf; it acknowledges the proxy's SETTINGS and nothing else.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import hpack

from tests.support import h2_frames as h2
from tests.support.h2_frames import Fields, Frame, FrameReader

PATIENCE: Final = 4.0
"""Seconds before a silence counts as one."""
PROBE: Final = b"probe..."
"""A PING's payload: its answer says that all before it was read."""


class Answer:
    """What came on one stream."""

    def __init__(self) -> None:
        self.heads: list[Fields] = []
        """Interim answers, the answer, trailers."""
        self.body = b""
        self.pieces: list[int] = []
        """Sizes of its DATA frames."""
        self.ended = False
        self.reset: int | None = None
        self.updates: list[int] = []

    @property
    def status(self) -> int | None:
        """Of the final answer, where its head came."""
        for fields in self.heads:
            for name, value in fields:
                if name == b":status" and value[:1] != b"1":
                    return int(value)
        return None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.ended or self.reset is not None


class App:
    """One connection; a context manager that closes it."""

    def __init__(
        self, port: int, *, deaf: bool = False, settings: bytes | None = None, tunnel: bytes = b""
    ) -> None:
        """Connect, and be given a tunnel to that host and port first, if one is named. `settings` are the first frame's
        bytes; empty: not even a preface is sent."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tunnel:
            self._socket.sendall(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (tunnel, tunnel))
            opened = b""
            while not opened.endswith(b"\r\n\r\n"):
                opened += self._socket.recv(1)
            assert opened == b"HTTP/1.1 200 OK\r\n\r\n"
        self._socket.setblocking(False)
        self._reader = FrameReader()
        self.deaf = deaf
        """Read nothing."""
        self.frames: list[Frame] = []
        self.streams: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}
        self.settled = self.settings_acked = 0
        self.pongs: set[bytes] = set()
        self.goaway: int | None = None
        self.closed = False
        self.sent = 0
        """Bytes that the kernel took."""
        self.bad: str = ""
        """What of the proxy's cannot be read, in words."""
        first = h2.PREFACE + h2.settings() if settings is None else settings
        if first:
            self.send(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def stream(self, number: int) -> Answer:
        """What came on it, if anything."""
        return self.streams.setdefault(number, Answer())

    def send(self, data: bytes, *, patience: float = PATIENCE) -> bool:
        """Write all of it; False where the proxy hangs up, or takes none of it for so long."""
        left = memoryview(data)
        deadline = _now() + patience
        while left and not self.closed:
            readable, writable, _ = select.select(
                [] if self.deaf else [self._socket], [self._socket], [], max(0.0, deadline - _now())
            )
            if readable:
                self._take()
            if writable:
                try:
                    size = self._socket.send(left[: 1 << 16])
                except BlockingIOError:
                    continue
                except OSError:
                    self._drain()
                    return False
                self.sent += size
                left = left[size:]
                deadline = _now() + patience
            elif not readable:
                return False
        return not left

    def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Read until it holds, the proxy has closed, or so much time has passed; whether it holds."""
        deadline = _now() + patience
        while not condition() and not self.closed:
            wait = deadline - _now()
            if wait <= 0:
                break
            # What is waited for may also be another thread's doing.
            if select.select([self._socket], [], [], min(wait, 0.05))[0]:
                self._take()
        return condition()

    def pong(self, payload: bytes = PROBE, patience: float = PATIENCE) -> bool:
        """Ask for a PING's answer; False where the proxy closes, or gives none."""
        self.send(h2.ping(payload))
        return self.until(lambda: payload in self.pongs, patience)

    def end(self) -> None:
        """Say that no more comes."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.closed = True

    def _drain(self) -> None:
        """What came before the proxy hung up is still to be read."""
        while not self.closed and select.select([self._socket], [], [], 0.2)[0]:
            self._take()
        self.closed = True

    def _take(self) -> None:
        try:
            piece = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.closed = True
            return
        for frame in self._reader.feed(piece):
            self.frames.append(frame)
            try:
                self._on(frame)
            except (hpack.HPACKError, IndexError) as error:
                self.bad = f"{frame.name}: {error!r}"

    def _on(self, frame: Frame) -> None:
        if frame.kind == h2.SETTINGS:
            if frame.flags & h2.ACK:
                self.settings_acked += 1
                return
            for at in range(0, len(frame.payload), 6):
                name = int.from_bytes(frame.payload[at : at + 2], "big")
                self.settings[name] = int.from_bytes(frame.payload[at + 2 : at + 6], "big")
            self.settled += 1
            if not self.deaf:
                self.send(h2.SETTINGS_ACK)
        elif frame.kind == h2.PING and frame.flags & h2.ACK:
            self.pongs.add(frame.payload)
        elif frame.kind == h2.GOAWAY:
            self.goaway = frame.code
        elif frame.kind in (h2.HEADERS, h2.CONTINUATION):
            answer = self.stream(frame.stream)
            if (fields := self._reader.fields(frame)) is not None:
                answer.heads.append(fields)
            answer.ended |= frame.kind == h2.HEADERS and bool(frame.flags & h2.END_STREAM)
        elif frame.kind == h2.DATA:
            answer = self.stream(frame.stream)
            answer.body += h2.body(frame)
            answer.pieces.append(len(frame.payload))
            answer.ended |= bool(frame.flags & h2.END_STREAM)
        elif frame.kind == h2.RST_STREAM:
            self.stream(frame.stream).reset = frame.code
        elif frame.kind == h2.WINDOW_UPDATE:
            self.stream(frame.stream).updates.append(int.from_bytes(frame.payload, "big"))


def _now() -> float:
    return time.monotonic()  # noqa: TID251  # of how long a silence is


def outcome(app: App, stream: int, patience: float = PATIENCE) -> str:
    """What became of it, in the page's words, once the proxy has answered a probe and all it has to say on this stream.

    `GOAWAY(…)` and `closes` are of the connection; `RST_STREAM(…)` and a status of the stream; `ignores`: the connection
    lives, and nothing was said; `waits`: not even the probe was answered.
    """
    lives = app.pong()
    if lives and stream:
        app.until(lambda: app.stream(stream).is_over, patience)
    if app.goaway:
        app.until(lambda: app.closed)
        name = h2.CODES[app.goaway] if app.goaway < len(h2.CODES) else hex(app.goaway)
        return f"GOAWAY({name})" + ("" if app.closed else ", stays open")
    answer = app.streams.get(stream, Answer())
    if answer.reset is not None and answer.status is not None and answer.ended:
        return f"{answer.status}, RST_STREAM({h2.CODES[answer.reset]})"
    if answer.reset is not None:
        return f"RST_STREAM({h2.CODES[answer.reset]})"
    if answer.status is not None:
        return str(answer.status) + ("" if answer.ended else " without an end")
    if app.closed:
        return "closes"
    return "ignores" if lives else "waits"
