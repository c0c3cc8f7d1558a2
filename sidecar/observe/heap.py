"""Returns memory to the system that malloc keeps and nothing uses.

Checks the heap every ten seconds on the event loop. Made and ended by the service. glibc gives memory back by itself
only from the end of its heap: one small piece there, and all that large bodies needed before it stays resident, with
more gaps each time (docs/memory.md has the curves). `malloc_trim` gives back every page that is wholly free. It locks
the heap meanwhile, for 0.1 ms a MiB or more, so it is called only if enough can be gained. Other C libraries (musl,
macOS) have no such call, and this does nothing there.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol, final

from sidecar.runtime.clock import Clock, TimerHandle, until_next

LOOK: Final = 10.0
"""Seconds between two checks, each of some 20 µs."""
WORTH: Final = 8 << 20
"""Bytes from which a trim is worth its time: some 1 ms of work, a tenth of an idle process's memory."""

_log = logging.getLogger(__name__)


class Heap(Protocol):
    """A process's memory."""

    def idle(self) -> int:
        """Bytes that are resident and not in use by malloc's callers: its gaps, and memory that is not malloc's
        (code, stacks, Python's small objects). OSError if that can't be read now.
        """
        ...

    def trim(self) -> None:
        """Return the gaps."""
        ...


@final
class Glibc:
    """glibc's malloc, from version 2.33 on (mallinfo(3), malloc_trim(3))."""

    def __init__(self) -> None:
        """Raises OSError for another C library, or an older version."""
        try:
            import ctypes  # not in every Python

            class Mallinfo2(ctypes.Structure):
                _fields_ = (
                    *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
                    *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
                    ("keepcost", ctypes.c_size_t),
                )

            library = ctypes.CDLL(None)
            self._mallinfo2: Callable[[], Any] = library.mallinfo2
            library.mallinfo2.restype = Mallinfo2
            self._malloc_trim: Callable[[int], int] = library.malloc_trim
        except (ImportError, AttributeError) as error:
            raise OSError(str(error)) from error
        self._page = os.sysconf("SC_PAGE_SIZE")

    def idle(self) -> int:
        """See `Heap`."""
        found = self._mallinfo2()
        # proc_pid_statm(5): all, resident, …, in pages.
        with open("/proc/self/statm", "rb") as statm:
            resident = int(statm.read().split()[1]) * self._page
        return int(resident - found.uordblks - found.hblkhd)

    def trim(self) -> None:
        """See `Heap`."""
        self._malloc_trim(0)


def own_heap() -> Heap | None:
    """This process's heap, if it can be trimmed."""
    if sys.platform != "linux":
        return None
    try:
        return Glibc()
    except OSError as error:
        _log.debug("memory is not given back: not glibc", extra={"fields": {"error": str(error)}})
        return None


@final
class Trimming:
    """See the module's docstring."""

    def __init__(self, clock: Clock, heap: Heap | None) -> None:
        self._clock = clock
        self._heap = heap
        self._timer: TimerHandle | None = None
        self._least: int | None = None
        """The lowest idle value since the last trim: the part that no trim can return. None before the first check."""

    def start(self) -> None:
        """Begin."""
        if self._heap is not None:
            self._look(self._heap)

    def stop(self) -> None:
        """End; harmless before `start`."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, heap: Heap) -> None:
        # Not possible while there is no descriptor left; there will be.
        with suppress(OSError):
            self._trim_if_worth_while(heap)
        pause = until_next(LOOK, self._clock.mono())
        self._timer = self._clock.call_later(pause, self._look, heap)

    def _trim_if_worth_while(self, heap: Heap) -> None:
        idle = heap.idle()
        if self._least is None or idle < self._least:
            self._least = idle
        if idle - self._least < WORTH:
            return
        began_mono = self._clock.mono()
        heap.trim()
        self._least = heap.idle()
        fields = {"bytes": idle - self._least, "seconds": round(self._clock.mono() - began_mono, 4)}
        _log.debug("memory given back", extra={"fields": fields})
