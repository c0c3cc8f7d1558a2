"""A wall clock that a test can step under a real process, while its monotonic clock runs on.

What `date -s` would do, without touching the machine's clock: time namespaces have none of their own for the wall clock.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_suffix(".c")


class SteppedClock:
    """Of all processes that are started with its environment."""

    def __init__(self, directory: Path, library: Path) -> None:
        file = directory / "wall-clock-offset"
        file.write_bytes(struct.pack("d", 0.0))
        with file.open("r+b") as opened:
            self._offset = mmap.mmap(opened.fileno(), 0)
        self.environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(file)}

    def step_to(self, seconds: float) -> None:
        """From now on it is so many seconds ahead of the true time; a negative number is behind."""
        self._offset[:] = struct.pack("d", seconds)


@pytest.fixture(scope="session")
def stepped_clock_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What goes between a process and the C library's clock."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip(
            "a process's clock can be stepped on Linux and with a C compiler (Debian: apt-get install gcc)"
        )
    library = tmp_path_factory.mktemp("stepped_clock") / "stepped_clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, _SOURCE], check=True)
    return library


@pytest.fixture
def stepped_clock(tmp_path: Path, stepped_clock_library: Path) -> SteppedClock:
    """A clock that is right until it is stepped."""
    return SteppedClock(tmp_path, stepped_clock_library)
