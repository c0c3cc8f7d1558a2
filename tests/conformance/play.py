"""Bytes against a proxy, and what became of them on both sides.

Owns the recording upstream, and how a case is played: send, read what is answered, say that no more comes, and see
what reached the upstream by then. Knows no proxy in particular.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import NamedTuple

from tests.conformance import strict
from tests.support.closing import close_server

LIMIT = 5.0
"""Seconds to wait for anything."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Recorder:
    """An upstream that answers every whole request, and keeps what it was sent."""

    def __init__(self, answer: bytes = ANSWER, *, close: bool = False) -> None:
        """`answer` is for each request; `close` ends the connection after it."""
        self.answer = answer
        self.close_after = close
        self.requests: list[strict.Request] = []
        self.ambiguous: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close it and every connection, and wait until they have ended."""
        if self._server is not None:
            await close_server(self._server)
        self.drop()
        while self._writers:  # noqa: ASYNC110  # streams have no event for it
            await asyncio.sleep(0)

    def forget(self) -> None:
        """Begin a case."""
        self.requests, self.ambiguous = [], []

    def end(self) -> None:
        """Close every connection in order: nothing more comes on it."""
        for writer in list(self._writers):
            writer.close()

    def drop(self) -> None:
        """End every connection there is, so that the next case begins on one of its own."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        left = b""
        try:
            while data := await reader.read(1 << 16):
                try:
                    requests, left = strict.read(left + data)
                except strict.AmbiguousError as what:
                    self.ambiguous.append(str(what))
                    break
                self.requests += requests
                for _ in requests:
                    writer.write(self.answer)
                    if self.close_after:
                        return
        except ConnectionError:
            return
        finally:
            self._writers.discard(writer)
            writer.close()


class Outcome(NamedTuple):
    """What the app saw."""

    statuses: list[int]
    """Of every answer, interim ones left out."""
    closed: bool
    """Whether the proxy closed the connection before it was told that no more comes."""
    data: bytes
    """All that came."""


async def play(
    port: int,
    data: bytes,
    *,
    method: bytes = b"GET",
    pieces: list[int] | None = None,
    patience: float = LIMIT,
    settle: float = 0.0,
) -> Outcome:
    """Send `data` (cut at `pieces`) to a proxy, and read until it closes, or has answered and is told that no more comes.

    `method` is the first request's, which says how its answer ends. `patience` is how many seconds to wait for an
    answer that does not come; `settle` how many to go on reading after one, before the end is told.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    got = b""
    closed = False
    try:
        with contextlib.suppress(ConnectionError):
            start = 0
            for end in [*(pieces or ()), len(data)]:
                writer.write(data[start:end])
                start = end
                if pieces:
                    for _ in range(4):
                        await asyncio.sleep(0)
            await writer.drain()
        for wait, enough in ((patience, True), (settle, False)):
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(wait):
                    while not closed and not (enough and _answered(got, method)):
                        piece = await reader.read(1 << 16)
                        closed = not piece
                        got += piece
        with contextlib.suppress(TimeoutError, ConnectionError, OSError):
            if not closed:
                async with asyncio.timeout(patience):
                    if b"connection: close" not in got.lower():
                        writer.write_eof()
                    got += await reader.read(-1)
                    closed = b"connection: close" in got.lower()
    finally:
        writer.transport.abort()
    return Outcome([int(s) for s in re.findall(rb"HTTP/1\.[01] ([2-5]\d\d) ", got)], closed, got)


def _answered(got: bytes, method: bytes) -> bool:
    """Whether a whole final answer is among what came; one that can't be read is none that could be waited for."""
    try:
        answer = strict.read_answer(got, method)
    except strict.AmbiguousError:
        return True
    return answer is not None and answer.whole
