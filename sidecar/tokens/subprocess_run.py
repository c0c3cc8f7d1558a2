"""One command, run to its end or to a deadline.

Owns the life of a child process that prints a token: its own process group, a bound on its output, its end with
the fetch. Called by `gcloud`, in a worker thread. It knows nothing of tokens, and shows nothing of what was
printed. The rule: when this returns or raises, the child and whatever it started are gone.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Final, NamedTuple

from sidecar.tokens.flight import Flight

OUTPUT_LIMIT: Final = 64 * 1024
"""Bytes of each of stdout and stderr; a token is under 4 KiB."""
_CHUNK: Final = 8 * 1024


class Ended(NamedTuple):
    """How a command ended; its text form shows nothing of what it printed."""

    code: int
    """Its exit code; negative for a signal."""
    stdout: str
    stderr: str
    late: bool
    """Whether it was ended because the time was up."""
    too_long: bool
    """Whether it was ended because it printed too much."""

    def __repr__(self) -> str:
        return f"<Ended {self.code}>"


def run(command: Sequence[str], environ: Mapping[str, str], flight: Flight) -> Ended:
    """Run `command` with `environ` as its whole environment; OSError if it can't be started."""
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
    flight.on_abort(lambda: _kill(process))
    try:
        printed, too_long = _read(process, flight)
        late = flight.left <= 0
        if not late and not too_long:
            with suppress(subprocess.TimeoutExpired):
                process.wait(flight.left)
            late = process.returncode is None
    finally:
        # The group: gcloud is a shell script around Python.
        _kill(process)
        process.wait()
        for stream in _pipes(process):
            stream.close()
    stdout, stderr = (data.decode("utf-8", "replace") for data in printed)
    return Ended(process.returncode, stdout, stderr, late, too_long)


def _read(process: subprocess.Popen[bytes], flight: Flight) -> tuple[tuple[bytes, bytes], bool]:
    """What it printed on stdout and stderr until it closed both, and whether that was too much."""
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, gathered in zip(_pipes(process), (stdout, stderr), strict=True):
            selector.register(stream, selectors.EVENT_READ, gathered)
        while selector.get_map() and (left := flight.left) > 0:
            for ready, _ in selector.select(left):
                data = os.read(ready.fd, _CHUNK)
                ready.data.extend(data)
                if not data:
                    selector.unregister(ready.fileobj)
                if len(ready.data) > OUTPUT_LIMIT:
                    return (bytes(stdout), bytes(stderr)), True
    return (bytes(stdout), bytes(stderr)), False


def _pipes(process: subprocess.Popen[bytes]) -> list[IO[bytes]]:
    """Its stdout and stderr: `Popen` types them as if they might not be pipes."""
    return [stream for stream in (process.stdout, process.stderr) if stream is not None]


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader where that left children behind; once all are gone there is nothing to kill.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
