"""Tasks with names and owners.

Owns every asyncio task of the process: bare `create_task` is banned (ruff TID251, and a test that greps
for `loop.create_task`). A task is named, kept from the garbage collector, and its crash is logged; the
owner ends all of its tasks with `close()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, final

_log = logging.getLogger(__name__)


@final
class Tasks:
    """The tasks of one owner."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        ended: Callable[[], None] | None = None,
        crashed: Callable[[BaseException], None] | None = None,
    ) -> None:
        """`ended` is called when one has; `crashed` with what it raised, instead of a line in the log."""
        self._loop = loop
        self._ended = ended
        self._crashed = crashed
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `coroutine` as a task called `name`; a crash is logged with its traceback."""
        task = self._loop.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """Cancel what still runs; it ends in the loop's next turns."""
        for task in list(self._running):
            task.cancel()

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        self.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if self._crashed is None:
                name = task.get_name()
                _log.error(f"task `{name}` crashed", exc_info=error, extra={"fields": {"task": name}})
            else:
                self._crashed(error)
        if self._ended is not None:
            self._ended()
