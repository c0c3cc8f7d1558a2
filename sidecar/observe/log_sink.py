"""Where log lines go: a descriptor, and the one thread that writes to it.

Owns a bounded queue between the code that logs and a slow reader or a full disk: the event loop never waits for them.
Lost lines are counted by reason, and reported in a line of their own as soon as one can be written. Used by
`logs.LogHandler`. It knows no format and never raises into a caller. It uses a thread instead of O_NONBLOCK, because
that flag belongs to the open file, which the sidecar shares with the program that started it, and a disk ignores it.
One write takes all waiting lines, so that under load there are fewer writes than lines.
"""

from __future__ import annotations

import errno
import os
import queue
import select
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, final

BOUND: Final = 1024 * 1024
"""Most bytes that may wait: a few thousand lines."""

_AT_ONCE: Final = 64 * 1024
"""Bytes of one write: what a pipe holds."""


class LineLoss(StrEnum):
    """Why a line was lost."""

    FULL = "full"
    """The reader is too slow: more than `BOUND` waits."""
    GONE = "gone"
    """There is no reader: the pipe is broken, or the stream is closed."""
    NO_SPACE = "no_space"
    """The disk is full, or the quota is."""
    ERROR = "error"
    """Any other error of the operating system."""


_NEWLINE: Final = ord("\n")

_LOSSES: Final = {
    errno.EPIPE: LineLoss.GONE,
    errno.EBADF: LineLoss.GONE,
    errno.ECONNRESET: LineLoss.GONE,
    errno.ENOSPC: LineLoss.NO_SPACE,
    errno.EDQUOT: LineLoss.NO_SPACE,
    errno.EFBIG: LineLoss.NO_SPACE,
}


def loss_of(error: OSError | ValueError) -> LineLoss:
    """The kind of loss for an error in writing."""
    return _LOSSES.get(error.errno or 0, LineLoss.ERROR) if isinstance(error, OSError) else LineLoss.GONE


@final
class LogSink:
    """See the module's docstring."""

    def __init__(
        self, descriptor: int, *, tell: Callable[[Mapping[LineLoss, int]], bytes], bound: int = BOUND
    ) -> None:
        """`tell` makes the line that reports how many were lost. The thread calls it."""
        self._descriptor = descriptor
        self._tell = tell
        self._bound = bound
        self.lost = dict.fromkeys(LineLoss, 0)
        self._told = dict.fromkeys(LineLoss, 0)
        self._queue: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        # Each is written by one side alone, so that neither needs a lock.
        self._put = 0
        self._taken = 0
        self._torn = False
        """The last line was written in part."""
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Write this line, which includes its newline. One caller at a time."""
        if self._put - self._taken + len(line) > self._bound:
            self.lost[LineLoss.FULL] += 1
            return
        self._put += len(line)
        self._queue.put(line)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no more threads for now; the line waits for the next one's attempt
            self._thread = thread

    def flush(self, limit: float) -> bool:
        """Wait until all earlier lines were written or lost, at most `limit` seconds. Returns whether they were."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(limit)

    def _run(self) -> None:
        while True:
            entry: bytes | threading.Event | None = self._queue.get()
            lines: list[bytes] = []
            size = 0
            while isinstance(entry, bytes):
                lines.append(entry)
                size += len(entry)
                entry = self._next() if size < _AT_ONCE else None
            if lines:
                try:
                    self._write(lines)
                except Exception:  # noqa: BLE001  # no memory, for one: the next lines may fare better
                    self.lost[LineLoss.ERROR] += len(lines)
                self._taken += size
            if entry is not None:
                entry.set()

    def _next(self) -> bytes | threading.Event | None:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None

    def _write(self, lines: list[bytes]) -> None:
        error = self._send(lines)
        if error is None and any(self.lost[loss] > self._told[loss] for loss in LineLoss):
            lost = dict(self.lost)
            line = self._tell(
                {loss: lost[loss] - told for loss, told in self._told.items() if lost[loss] > told}
            )
            if self._send([line]) is None:
                self._told = lost

    def _send(self, lines: list[bytes]) -> OSError | None:
        """Write these lines. On an error the rest of them is lost, and counted."""
        # What was torn ends here, so that the next line is one.
        data = memoryview(b"".join([b"\n", *lines] if self._torn else lines))
        written = 0
        try:
            while written < len(data):
                written += self._some(data[written:])
        except OSError as error:
            left = len(data) - written
            lost = 0
            while left > 0 and lost < len(lines):  # what tore the line before is none of these
                lost += 1
                left -= len(lines[-lost])
            self.lost[loss_of(error)] += lost
            if written:
                self._torn = data[written - 1] != _NEWLINE
            return error
        self._torn = False
        return None

    def _some(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                # The program that started the sidecar made it non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
