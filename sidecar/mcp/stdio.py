"""Messages by stdin and stdout, so that the process can end while nobody writes to it.

Owns the thread that reads stdin. The SDK's own reader is a thread that the event loop waits for at the end, and a read
of a pipe can't be broken off: a client that sends SIGTERM with the pipe open would wait forever. Called by `bridge`.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import BinaryIO, Final, Self, final

_AHEAD: Final = 64
"""Lines that are read before they are asked for."""


@final
class Lines:
    """The lines of a file, as an asynchronous iterator that `end` ends too."""

    def __init__(self, file: BinaryIO, loop: asyncio.AbstractEventLoop) -> None:
        self._file = file
        self._loop = loop
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._ended = False
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def end(self) -> None:
        """No line comes any more, whatever the file holds."""
        self._ended = True
        self._lines.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = None if self._ended else await self._lines.get()
        if line is None or self._ended:
            raise StopAsyncIteration
        self._room.release()
        return line

    def _read(self) -> None:
        with suppress(
            RuntimeError, OSError, ValueError
        ):  # the loop is closed, or the file is: there is no reader
            for line in self._file:
                if line.strip():
                    self._room.acquire()
                    text = line.decode("utf-8", "replace")
                    self._loop.call_soon_threadsafe(self._lines.put_nowait, text)
            self._loop.call_soon_threadsafe(self._lines.put_nowait, None)
