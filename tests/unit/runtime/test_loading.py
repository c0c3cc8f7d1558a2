"""Loading modules while the event loop goes on."""

from __future__ import annotations

import asyncio
import sys
import threading

from sidecar.runtime.loading import loaded


async def test_the_loop_goes_on_meanwhile() -> None:
    """It is another thread that loads, and what it gives comes back."""
    go_on = threading.Event()

    def load() -> int:
        assert go_on.wait(60)
        return threading.get_ident()

    async with asyncio.TaskGroup() as group:
        loading = group.create_task(loaded(load))
        await asyncio.sleep(0)
        go_on.set()
    assert loading.result() != threading.get_ident()


async def test_threads_switch_as_before_when_all_is_loaded() -> None:
    """Also where two load at once, and where one fails."""
    before = sys.getswitchinterval()
    first, second = threading.Event(), threading.Event()
    intervals = []

    def load() -> None:
        intervals.append(sys.getswitchinterval())
        second.set()
        assert first.wait(60)

    def fail() -> None:
        assert second.wait(60)
        first.set()
        raise ImportError("no such module")

    _, failed = await asyncio.gather(loaded(load), loaded(fail), return_exceptions=True)
    assert isinstance(failed, ImportError)
    assert intervals[0] < before
    assert sys.getswitchinterval() == before
