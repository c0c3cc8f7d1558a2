"""The event loop of this process.

asyncio's own, with a selector that calls the proxy's transports itself (`readiness`) where the system has epoll.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Iterator, Mapping
from typing import Any, cast, final

from sidecar.net.readiness import LoopReadiness, Selector, SocketReadiness, number


@final
class _ByFile(Mapping[Any, selectors.SelectorKey]):
    """What is registered, by descriptor or by the object that has one."""

    def __init__(self, keys: Mapping[int, selectors.SelectorKey]) -> None:
        self._keys = keys

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[number(fileobj)]

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@final
class EventLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop, which knows the second half of its selector."""

    def __init__(self) -> None:
        self.readiness = Selector(self._watcher_failed, _ByFile)
        super().__init__(cast(selectors.BaseSelector, self.readiness))

    def _watcher_failed(self, error: BaseException) -> None:
        self.call_exception_handler({"message": "Fault in a callback of a transport.", "exception": error})


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop for `serve` and similar commands. It is not set as this thread's loop."""
    return EventLoop() if hasattr(select, "epoll") else asyncio.new_event_loop()


def readiness_of(loop: asyncio.AbstractEventLoop) -> SocketReadiness:
    """How a transport on this loop waits for its socket."""
    return loop.readiness if isinstance(loop, EventLoop) else LoopReadiness(loop)
