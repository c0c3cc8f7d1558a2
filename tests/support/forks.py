"""The command in processes of its own, which have imported it already: for `make test`, at a tenth of what a start costs.

A fork of `fork_server` runs what `python -m sidecar` does after its imports, with the words, variables, folder and files of
the test, under a number of its own: it is signalled, killed and waited for as any process. What it can't show is the start of
an interpreter: every module is imported beforehand (a missing import goes unseen), all forks of a server share one hash seed, a
SIGINT in the first moment is ignored, and /proc has the server's variables instead of its own; it ends without taking its modules
apart. So `make test-all` starts each anew, as users do; and so do tests of `make test` that start `COMMAND` by `subprocess` or
asyncio. Where nothing of the start matters, these start `stand_in()`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

COMMAND = (sys.executable, "-m", "sidecar")
SERVER = Path(__file__).with_name("fork_server.py")
CLIENT = Path(__file__).with_name("fork_client.py")
FORKS = sys.platform == "linux" and "IDTOKEN_TEST_ALL" not in os.environ
READ_EARLY = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_")
"""How variables begin that the loader, the C library, OpenSSL or the interpreter read: a fork would find them as they were."""


class Process(Protocol):
    """What tests need of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Fork:
    """A process that the server has forked, as `Process`."""

    def __init__(self, pid: int, status: int) -> None:
        """`status` is the end of a pipe by which the exit code will come."""
        self.pid = pid
        self._status: int | None = status
        self._code = 0
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; subprocess.TimeoutExpired where it runs on for so many seconds."""
        if (status := self._status) is not None:
            poll = select.poll()
            poll.register(status, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            with self._lock:
                if self._status is not None:  # no other thread has been told
                    told = os.read(status, 4)
                    assert told, "the server of forks has ended"
                    (self._code,) = struct.unpack("i", told)
                    self._status = None
                    os.close(status)
        return self._code

    def send_signal(self, sig: int) -> None:
        """As Popen's: nothing where it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """One server of forks, until this process ends."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._directory = tempfile.TemporaryDirectory(prefix="forks-")
        self.door = f"{self._directory.name}/door"
        # -P: or the modules of this folder would be found in the place of others of their names.
        command = [sys.executable, "-P", str(SERVER), self.door]
        self._process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, env=environ)
        theirs.close()
        atexit.register(self._end)
        self._answer()

    def fork(
        self, words: Sequence[str], environ: Mapping[str, str], cwd: str, standard: tuple[int, ...]
    ) -> Fork:
        ours, theirs = os.pipe()
        order = os.memfd_create("order")
        os.write(order, json.dumps({"words": list(words), "environ": dict(environ), "cwd": cwd}).encode())
        try:
            with self._lock:
                socket.send_fds(self._control, [b"."], [order, *standard, theirs])
                return Fork(self._answer(), ours)
        finally:
            os.close(order)
            os.close(theirs)

    def _answer(self) -> int:
        told = self._control.recv(4)
        assert told, "the server of forks has ended"
        return int(struct.unpack("i", told)[0])

    def _end(self) -> None:
        self._control.close()
        self._process.wait()
        self._directory.cleanup()


@cache
def _server(environ: tuple[tuple[str, str], ...]) -> _Server:
    return _Server(dict(environ))


def _server_for(environ: Mapping[str, str]) -> _Server:
    early = {name: value for name, value in environ.items() if name.startswith(READ_EARLY)}
    return _server(tuple(sorted({**early, "PATH": os.environ["PATH"]}.items())))


def stand_in(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What to start in place of `COMMAND`, by whatever program, with these variables: a small process that has a fork do the
    work, with its words, variables, folder and standard files. Signals reach the fork, and it ends with that process, which
    has another number."""
    if not FORKS:
        return COMMAND
    return sys.executable, "-IS", str(CLIENT), _server_for(os.environ if environ is None else environ).door


def begin(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int,
    stderr: int,
    cwd: Path | None = None,
) -> Process:
    """Start `COMMAND` with further words, and these files, which remain the caller's to close; or another program."""
    environ = os.environ if env is None else env
    if not FORKS or tuple(command[: len(COMMAND)]) != COMMAND:
        return subprocess.Popen(command, env=environ, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd)
    with open(os.devnull, "rb") as nothing:
        given = nothing.fileno() if stdin == subprocess.DEVNULL else stdin
        words = command[len(COMMAND) :]
        return _server_for(environ).fork(words, environ, str(cwd or Path.cwd()), (given, stdout, stderr))


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float,
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.CompletedProcess[str]:
    """The same until it ends, with what it printed, as `subprocess.run` gives it. Killed, with subprocess.TimeoutExpired, after so many seconds."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = begin(command, env=env, stdin=stdin, stdout=out.fileno(), stderr=err.fileno(), cwd=cwd)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read().decode(), err.read().decode())
