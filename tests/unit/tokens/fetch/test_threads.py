"""sidecar.tokens.fetch.threads: threads for calls that block, bounded and forgettable."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from sidecar.tokens.fetch.threads import FetchThreads


async def test_results_and_errors_come_back() -> None:
    """What the call returns or raises is the caller's; the thread bears the source's name and is a daemon."""
    threads = FetchThreads("default")
    thread = await threads.run(threading.current_thread)
    assert (thread.name, thread.daemon) == ("token fetch default", True)
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    assert (threads.running, threads.abandoned) == (0, 0)


async def test_threads_are_bounded() -> None:
    """No more calls run at once than the limit; the others wait for their turn."""
    threads = FetchThreads("default", limit=2)
    gate, started = threading.Event(), threading.Semaphore(0)

    def work() -> int:
        started.release()
        gate.wait(10)
        return threads.running

    calls = [asyncio.ensure_future(threads.run(work)) for _ in range(5)]  # noqa: TID251 - a test has no owner
    await asyncio.to_thread(lambda: [started.acquire(timeout=10) for _ in range(2)])
    assert threads.running == 2
    assert not started.acquire(blocking=False)
    gate.set()
    assert max(await asyncio.gather(*calls)) == 2


async def test_a_caller_that_gives_up_leaves_its_thread_and_its_slot() -> None:
    """A thread that hangs is counted as abandoned and keeps its slot until it comes back."""
    threads = FetchThreads("default", limit=1)
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(threads.run(lambda: gate.wait(10)), 0.01)
    assert (threads.running, threads.abandoned) == (1, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(threads.run(lambda: 1), 0.01)
    assert (threads.running, threads.abandoned) == (1, 1)
    gate.set()
    assert await asyncio.wait_for(threads.run(lambda: 7), 10) == 7
    assert (threads.running, threads.abandoned) == (0, 0)


def test_a_hanging_thread_does_not_hold_up_the_end_of_the_process() -> None:
    """A process whose fetch hangs forever ends at once, quietly."""
    program = """
import asyncio, threading
from sidecar.tokens.fetch.threads import FetchThreads

async def main():
    try:
        await asyncio.wait_for(FetchThreads("x").run(threading.Event().wait), 0.01)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


def test_a_thread_that_comes_back_after_its_loop_was_closed_is_quiet() -> None:
    """An abandoned thread that ends when its event loop is gone makes no noise."""
    gate, ended = threading.Event(), threading.Event()
    noise: list[object] = []

    def work() -> None:
        gate.wait(10)

    async def main() -> None:
        threads = FetchThreads("x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads.run(work), 0.01)

    hook, threading.excepthook = threading.excepthook, noise.append
    try:
        asyncio.run(main())
        gate.set()
        for thread in threading.enumerate():
            if thread.name == "token fetch x":
                thread.join(10)
        ended.set()
    finally:
        threading.excepthook = hook
    assert noise == []
