"""What a process has spent, to compare an attack with honest work in the same process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

from tests.support.sidecar import cpu_of

HONEST: float = 10_000
"""Honest requests that an attack may cost as much CPU as."""
MEMORY: int = 32 << 20
"""Bytes of resident memory that it may add."""


class Spent(NamedTuple):
    """So far."""

    cpu: float
    """Seconds."""
    peak: int
    """Bytes, since `begin`."""

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read from /proc."""
        return cls(cpu_of(pid), _field(pid, "VmHWM"))

    @classmethod
    def begin(cls, pid: int) -> Self:
        """With a new peak, at what is resident now."""
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        return cls(cpu_of(pid), _field(pid, "VmRSS"))


def _field(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
