"""Runs one command to its end or to a deadline.

Owns the life of a child process that prints a token: its own process group, a limit on its output, its end with the
fetch. Called by `gcloud`, in a worker thread. It knows nothing about tokens, and shows nothing of the output. The
rules: when this returns or raises, the child and all processes it started are gone; a command with an unknown end has
failed; a process is killed only while its number is surely its own.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import IO, Final, NamedTuple, final

from sidecar.tokens.fetch.flight import Flight

OUTPUT_LIMIT: Final = 64 * 1024
"""Most bytes of stdout, and of stderr; a token is under 4 KiB."""
_CHUNK: Final = 8 * 1024


_POLL: Final = 0.05
"""Seconds between two checks of a command that has closed its output and not ended. `Popen.wait` uses the same."""


class Ended(NamedTuple):
    """How a command ended; its text form shows nothing of what it printed."""

    code: int | None
    """Its exit code; negative for a signal; None if other code in this process collected it."""
    stdout: str
    stderr: str
    late: bool
    """Whether it was ended because the time was up."""
    too_long: bool
    """Whether it was ended because it printed too much."""

    def __repr__(self) -> str:
        return f"<Ended {self.code}>"


def run(command: Sequence[str], environ: Mapping[str, str], flight: Flight, *, seconds: float = inf) -> Ended:
    """Run `command` with `environ` as its whole environment, for at most `seconds`; OSError if it can't be started."""
    ends_mono = flight.clock.mono() + seconds

    def left() -> float:
        return max(0.0, min(flight.left, ends_mono - flight.clock.mono()))

    # Not by a shell: the words come from the configuration.
    process = subprocess.Popen(  # noqa: S603
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environ),
        start_new_session=True,
        close_fds=True,
    )
    group = _ProcessGroup(process)
    flight.on_abort(group.kill)
    code = None
    try:
        printed, too_long = _read(process, left)
        late = left() <= 0
        if not late and not too_long:
            code, late = group.wait(left)
    finally:
        group.end()
        for stream in _pipes(process):
            stream.close()
    stdout, stderr = (data.decode("utf-8", "replace") for data in printed)
    return Ended(code, stdout, stderr, late, too_long)


@final
class _ProcessGroup:
    """The process group of a command: gcloud is a shell script around Python."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._collected = False

    def wait(self, left: Callable[[], float]) -> tuple[int | None, bool]:
        """How the command ended, and whether the `left` seconds ran out.

        It is not collected, so that its number stays its own. `Popen.wait` is not used, because it reports 0 for a
        process that other code has collected.
        """
        if not hasattr(
            os, "waitid"
        ):  # macOS before Python 3.13, where nothing here collects what is not its own
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(left()), False
            return None, True
        delay = _POLL / 100
        while True:
            try:
                found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                return None, False
            if found is not None:
                exited = found.si_code == os.CLD_EXITED
                return (found.si_status if exited else -found.si_status), False
            if (seconds := left()) <= 0:
                return None, True
            time.sleep(min(delay, seconds))
            delay = min(delay * 2, _POLL)

    def kill(self) -> None:
        """Kill the whole group, unless it was collected. For any thread."""
        # The group outlives its leader where that left children behind; once all are gone there is nothing to kill.
        with self._lock, suppress(ProcessLookupError, PermissionError):
            if not self._collected:
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill what is left, and collect the command."""
        self.kill()
        with self._lock:
            self._collected = True
        self._process.wait()


def _read(process: subprocess.Popen[bytes], left: Callable[[], float]) -> tuple[tuple[bytes, bytes], bool]:
    """What it printed on stdout and stderr until it closed both, and whether it was too much."""
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, gathered in zip(_pipes(process), (stdout, stderr), strict=True):
            selector.register(stream, selectors.EVENT_READ, gathered)
        while selector.get_map() and (seconds := left()) > 0:
            for ready, _ in selector.select(seconds):
                data = os.read(ready.fd, _CHUNK)
                ready.data.extend(data)
                if not data:
                    selector.unregister(ready.fileobj)
                if len(ready.data) > OUTPUT_LIMIT:
                    return (bytes(stdout), bytes(stderr)), True
    return (bytes(stdout), bytes(stderr)), False


def _pipes(process: subprocess.Popen[bytes]) -> list[IO[bytes]]:
    """Its stdout and stderr, which `Popen` types as optional."""
    return [stream for stream in (process.stdout, process.stderr) if stream is not None]
