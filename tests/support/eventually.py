"""Waiting for what sends no event when it happens: the one place that asks again and again.

First look for something to wait on: a line of the log, an event, a socket that ends, a process that does.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

LIMIT = 60.0
"""Seconds: far from what a busy machine may need."""
EVERY = 0.02


async def eventually(
    condition: Callable[[], Any], *, why: str, limit: float | None = None, every: float = EVERY
) -> Any:
    """What `condition` gives once that is true, a coroutine's result too; asked `every` so many seconds. `why` says what
    there is nothing to wait on for: it is the message of the AssertionError after `limit`."""
    until = asyncio.get_running_loop().time() + (limit or LIMIT)
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < until, f"in vain: {why}"
        await asyncio.sleep(every)


def eventually_here(condition: Callable[[], Any], *, why: str, limit: float | None = None) -> Any:
    """The same without an event loop."""
    until = time.monotonic() + (limit or LIMIT)  # noqa: TID251
    while not (found := condition()):
        assert time.monotonic() < until, f"in vain: {why}"  # noqa: TID251
        time.sleep(EVERY)
    return found
