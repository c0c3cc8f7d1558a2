"""Notices that a token's file has changed.

Checks the files of `file` credentials every few seconds. Made by the service; tells the store which credential's file
has changed. It reads no file. The rule: inode, size and modification time of the path's file are compared, so that a
replaced file counts, and Kubernetes' swap of a symbolic link too. A missing file is no change; one that comes back
is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final, final

from sidecar.runtime.clock import Clock, TimerHandle, until_next

EVERY: Final = 2.0
"""Seconds between two checks: one stat each, a few microseconds."""

Stamp = tuple[int, int, int]
"""What tells a file from another one, or from itself after a change."""


@final
class FileWatch:
    """The files at `paths`, by credential; `changed` is called with the credential's name."""

    def __init__(self, paths: Mapping[str, str], clock: Clock, changed: Callable[[str], None]) -> None:
        self._paths = dict(paths)
        self._clock = clock
        self._changed = changed
        self._stamps: dict[str, Stamp | None] = {}
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Take the current files as known, and begin to watch."""
        self._stamps = {name: stamp(path) for name, path in self._paths.items()}
        self._arm()

    def watch(self, paths: Mapping[str, str], read: Mapping[str, Stamp | None] | None = None) -> None:
        """Watch these instead. For those that are new, what `read` says was there when they were read is known, else
        what is there now."""
        self.stop()
        self._paths = dict(paths)
        known = {**(read or {}), **self._stamps}
        self._stamps = {name: known[name] if name in known else stamp(path) for name, path in paths.items()}
        self._arm()

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Check now. Health probes call this too, because timers can be late."""
        for name, path in self._paths.items():
            found = stamp(path)
            if found is not None and found != self._stamps.get(name):
                self._stamps[name] = found
                self._changed(name)

    def _arm(self) -> None:
        if self._paths:
            pause = until_next(EVERY, self._clock.mono())
            self._timer = self._clock.call_later(pause, self._tick)

    def _tick(self) -> None:
        self.look()
        self._arm()


def stamp(path: str) -> Stamp | None:
    """What `path` leads to now; None where that is nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
