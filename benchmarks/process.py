"""Processes of a benchmark run: started on chosen cores, measured from the outside, always ended.

Owns: every child process of the run, the cores it is pinned to, and the readings of /proc.
Called by: products, upstream and run.
May not: know what the process is or does.
Rule: CPU time and memory are those of the whole process tree, so that a master with workers is not flattered.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

TICK = 1 / os.sysconf("SC_CLK_TCK")
RESET_PEAK = "5"  # proc(5), clear_refs: sets VmHWM back to what is resident now
CPU_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
INHERITED = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
"""What a process gets of the environment. A machine's other settings may cost one product more than another: where
SSL_CERT_FILE is set, the sidecar reads that file's CAs when it starts.
"""


class RunError(Exception):
    """The run cannot go on; the text says why, and what to do about it."""


@dataclass(frozen=True)
class Cores:
    """Which core the product has for itself, and which the load and the upstream share."""

    product: int
    load: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> Self:
        """The first core that this process may use goes to the product, the others to the rest."""
        first, *others = sorted(os.sched_getaffinity(0))
        if not others:
            raise RunError("two cores are needed: one for the product, one for the load and the upstream")
        return cls(first, tuple(others))


class Process:
    """One program and its children, pinned to cores; a context manager that ends them."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        cores: Sequence[int],
        directory: Path,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start `argv` in `directory`; what it prints goes to `output.log` there.

        Raises RunError when it can't be started.
        """
        self.name = name
        self.log = directory / "output.log"
        with self.log.open("wb") as log:
            try:
                self._child = subprocess.Popen(
                    ["taskset", "--cpu-list", ",".join(map(str, cores)), *argv],
                    cwd=directory,
                    env={**_inherited(), **(environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise RunError(f"{name} can't be started: {error}") from error

    def __enter__(self) -> Self:
        """Return the running process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the whole session of the process at once: a sidecar that may say goodbye takes two seconds for it."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def check(self) -> None:
        """Raise RunError, with the end of its output, when the process is gone."""
        if self._child.poll() is not None:
            raise RunError(f"{self.name} ended with code {self._child.returncode}:\n{self.last_output()}")

    def last_output(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def cpu_seconds(self) -> float:
        """User and system time so far of all threads of the tree, in seconds (10 ms steps)."""
        ticks = 0
        for pid in self._tree():
            # The name in the second field may hold blanks and parentheses.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, and both of children that were waited for
        return ticks * TICK

    def resident(self) -> int:
        """Resident memory of the tree now, in bytes (pages that processes share count once each)."""
        return self._memory("VmRSS")

    def switches(self) -> int:
        """How often its threads, and those of its children, have left a core so far: to wait, or for another."""
        return sum(
            int(line.split()[1])
            for pid in self._tree()
            for status in Path(f"/proc/{pid}/task").glob("*/status")
            for line in status.read_text().splitlines()
            if line.startswith(("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"))
        )

    def peak_resident(self) -> int:
        """Highest resident memory of the tree since `reset_peak`, in bytes."""
        return self._memory("VmHWM")

    def reset_peak(self) -> None:
        """Start a new peak at what is resident now."""
        for pid in self._tree():
            Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)

    def _memory(self, field: str) -> int:
        return sum(
            int(line.split()[1]) * 1024
            for pid in self._tree()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith(f"{field}:")
        )

    def _tree(self) -> list[int]:
        self.check()
        members = [self._child.pid]
        for entry in Path("/proc").glob("[0-9]*/stat"):
            # A process may end between the listing and the reading.
            with suppress(OSError):
                session = int(entry.read_text().rpartition(")")[2].split()[3])
                if session == self._child.pid and int(entry.parent.name) != self._child.pid:
                    members.append(int(entry.parent.name))
        return members


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def wait_listening(process: Process, port: int, *, seconds: float = 15.0) -> None:
    """Return when 127.0.0.1:`port` accepts; RunError when the process ends or takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process.check()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.002)
        else:
            return
    raise RunError(f"{process.name} doesn't listen on port {port}:\n{process.last_output()}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def core_seconds(core: int) -> dict[str, float]:
    """What a core has done so far: seconds by the kernel's fields (user, system, steal, …)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            return dict(zip(CPU_FIELDS, (int(value) * TICK for value in values), strict=False))
    raise RunError(f"/proc/stat has no core {core}")
