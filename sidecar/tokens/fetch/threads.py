"""Worker threads for calls that block.

Owns the threads that google-auth runs in. Called by the sources, each with an instance of its own, so that one whose
endpoint hangs can't take the threads of another. It knows nothing of tokens. The rule: the number of threads is
limited, including those that were given up and still hang, and none of them delays the end of the process. The
standard library's executors join their threads at exit, so these are daemon threads, one for each call: calls are
minutes apart, and starting a thread takes 0.1 ms.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar, final

T = TypeVar("T")

DEFAULT_LIMIT: Final = 8
"""Threads at once for one source. A metadata server answers in about 10 ms, so eight threads fetch 800 tokens a
second.
"""


@final
class FetchThreads:
    """The threads of one source."""

    def __init__(self, name: str, *, limit: int = DEFAULT_LIMIT) -> None:
        self._name = name
        self._slots = asyncio.Semaphore(limit)
        self.running = 0
        self.given_up = 0
        """Fetches that their caller gave up so far."""
        self.abandoned = 0
        """Threads that were given up and have not returned. They keep their slot until they do."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread, waiting for a free one. If the caller is cancelled, the thread is left behind."""
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(set_outcome: Callable[[], None]) -> None:
            self.running -= 1
            self._slots.release()
            if future.cancelled():
                self.abandoned -= 1
            else:
                set_outcome()

        def target() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                fault = error
                outcome = lambda: future.set_exception(fault)  # noqa: E731
            else:
                outcome = lambda: future.set_result(result)  # noqa: E731
            # The loop may be closed by the time an abandoned thread comes back.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, outcome)

        self.running += 1
        threading.Thread(target=target, name=f"token fetch {self._name}", daemon=True).start()
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self.abandoned += 1
                self.given_up += 1
            raise
