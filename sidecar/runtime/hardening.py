"""The restrictions that the process puts on itself, because it holds tokens and keys.

Owns its limits: no core dump, no debugger of the same user (Linux), as many descriptors as the system lets it have.
Called by the commands that get tokens (`run`, `exec`, `check`, `token`) before they read anything, and by `child`,
whose command is to find the limits as they were. A debugger or a dump of this memory has every token in it;
`core_dumps: true` allows both.
"""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

_log = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4
"""From linux/prctl.h. Off, it also keeps processes of the same user from attaching (ptrace) and from reading
/proc/PID/mem and environ. A program that is executed has it on again."""

_LIMITS: Final = {"core": resource.RLIMIT_CORE, "files": resource.RLIMIT_NOFILE}
_Pair = tuple[int, int]


@final
class Process:
    """The limits of this process: as it found them, and as it made them."""

    def __init__(self) -> None:
        """Forbid dumps from now on, until `settle` says otherwise, and raise the limit of descriptors."""
        self._core = resource.getrlimit(resource.RLIMIT_CORE)
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._notes: dict[str, object] = {}
        # The hard limit stays for now: a process that lowers it can't raise it again.
        self._set("core", (0, self._core[1]))
        self._set_dumpable(False)
        self._set("files", (self._files[1], self._files[1]))

    def settle(self, *, core_dumps: bool, passes_on: bool) -> None:
        """What the configuration wants; `passes_on` says that another program is to find the limits as they were."""
        if core_dumps:
            self._set("core", self._core)
            self._set_dumpable(True)
            _log.warning("core dumps and debuggers are allowed, and show every token and key (`core_dumps`)")
        elif not passes_on:
            self._set("core", (0, 0))
        self._notes["core"] = resource.getrlimit(resource.RLIMIT_CORE)
        self._notes["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = ", ".join(f"{name} {value}" for name, value in self._notes.items())
        _log.debug(f"process limits: {limits}", extra={"fields": self._notes})

    @contextmanager
    def as_found(self) -> Iterator[None]:
        """The limits as they were, for a program that is started meanwhile. It is short: dumps stay off otherwise."""
        kept = resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)
        self._set("core", self._core)
        self._set("files", self._files)
        try:
            yield
        finally:
            self._set("core", kept[0])
            self._set("files", kept[1])

    def _set(self, limit: str, pair: _Pair) -> None:
        try:
            resource.setrlimit(_LIMITS[limit], pair)
        except (ValueError, OSError) as error:
            # macOS has no infinite number of descriptors, though it says so.
            self._notes[f"{limit}_error"] = str(error)

    def _set_dumpable(self, on: bool) -> None:
        if sys.platform != "linux":
            self._notes["dumpable"] = "not known on this system"
            return
        try:
            import ctypes  # not in every Python
        except ImportError as error:
            self._notes["dumpable"] = str(error)
            return
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0) != 0:
            self._notes["dumpable"] = f"errno {ctypes.get_errno()}"
        else:
            self._notes["dumpable"] = on
