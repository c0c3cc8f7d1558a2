"""Loads modules while the event loop goes on.

Owns how what is needed later is imported: in a thread, so that requests are served meanwhile. Called by `service` for
what only the servers of the control plane need. The rule: an import lets go of the interpreter's lock at once. By
default it would keep it for 5 ms at a time, and a request takes the lock a dozen times.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

_INTERVAL: Final = 0.0005
"""Seconds after which the thread has to let another one run, if one wants to."""
_USUAL: Final = 0.005
"""Python's own; what was set before may be another call's."""


async def loaded(load: Callable[[], T]) -> T:
    """What `load` returns, which imports and does nothing else; raises what it raises."""
    sys.setswitchinterval(_INTERVAL)
    executor = ThreadPoolExecutor(1, "loading")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, load)
    finally:
        executor.shutdown(wait=False)
        sys.setswitchinterval(_USUAL)
