"""Which sockets can be read or written now.

Owns the event loop's selector, and how a transport waits for its socket. asyncio makes a handle for each callback,
queues it and runs it in a context of its own. That costs 4.5 µs for a small request, which costs some 20 µs
otherwise. Here `select` calls the transports itself, and returns to asyncio only asyncio's own events.

    Watcher (a transport) ◀── SocketReadiness ◀─┬─ Selector, where Linux's epoll is: made by `event_loop`
                                                └─ LoopReadiness, on every other event loop: `add_reader` and the like
"""

from __future__ import annotations

import asyncio
import math
import select
import selectors
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from mypy_extensions import trait

_AT_ONCE: Final = 256
"""How many sockets are served before the event loop's other callbacks run."""

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE
_IN: Final = getattr(select, "EPOLLIN", 1)
_OUT: Final = getattr(select, "EPOLLOUT", 4)


@trait
class Watcher:
    """An object that waits for a socket. Both methods may be called once more than requested, and on an error of the
    socket.
    """

    __slots__ = ()

    def on_readable(self) -> None:
        """There are bytes to read, or the end."""
        raise NotImplementedError

    def on_writable(self) -> None:
        """There is room to write, or an error."""
        raise NotImplementedError


class SocketReadiness:
    """Where a watcher says what it waits for; saying the same again does nothing."""

    __slots__ = ()

    def read(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        """Start or stop calling when there is something to read. Raises OSError (ENOMEM, ENOSPC) if the kernel has no
        room for one more socket.
        """
        raise NotImplementedError

    def write(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        """The same for writing."""
        raise NotImplementedError

    def leave(self, fd: int) -> None:
        """Stop waiting; call it before the socket is closed."""
        raise NotImplementedError


@final
class LoopReadiness(SocketReadiness):
    """The same through an event loop's own methods."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def read(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        if wanted:
            self._loop.add_reader(fd, watcher.on_readable)
        else:
            self._loop.remove_reader(fd)

    def write(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        if wanted:
            self._loop.add_writer(fd, watcher.on_writable)
        else:
            self._loop.remove_writer(fd)

    def leave(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)


@final
class Selector(SocketReadiness):
    """An epoll selector for asyncio.SelectorEventLoop, which calls watchers itself.

    To asyncio it is what selectors.EpollSelector is (Lib/selectors.py): `register` and the rest are asyncio's half,
    `read`, `write` and `leave` the watchers'. A descriptor belongs to one half at a time.
    """

    __slots__ = ("_by_file", "_epoll", "_failed", "_keys", "_masks", "_watchers")

    def __init__(
        self,
        failed: Callable[[BaseException], None],
        by_file: Callable[[Mapping[int, selectors.SelectorKey]], Mapping[Any, selectors.SelectorKey]],
    ) -> None:
        """`failed` gets what a watcher raises; that ends nothing else. `by_file` makes a mapping by file object from
        one by descriptor.
        """
        self._epoll = select.epoll()
        self._failed = failed
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._by_file = by_file(self._keys)
        self._watchers: dict[int, Watcher] = {}
        self._masks: dict[int, int] = {}

    # the watchers' half

    def read(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        self._want(fd, watcher, _IN, wanted)

    def write(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        self._want(fd, watcher, _OUT, wanted)

    def _want(self, fd: int, watcher: Watcher, event: int, wanted: bool) -> None:
        known = self._masks.get(fd, 0)
        mask = known | event if wanted else known & ~event
        if mask == known:
            return
        if not mask:
            self.leave(fd)
            return
        if known:
            self._epoll.modify(fd, mask)
        else:
            if fd in self._keys:
                raise KeyError(f"{fd} is watched by the event loop already")
            self._epoll.register(fd, mask)
            self._watchers[fd] = watcher
        self._masks[fd] = mask

    def leave(self, fd: int) -> None:
        if self._masks.pop(fd, 0):
            del self._watchers[fd]
            # Not read at all from now on: a mask of 0 would still report HUP, again and again.
            self._forget(fd)

    def _forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # it was closed without a word, and the kernel has forgotten it by itself

    # asyncio's half

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        fd = number(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        if fd in self._masks:
            raise KeyError(f"{fd} is watched by {self._watchers[fd]!r} already")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._epoll.register(fd, _mask(events))
        self._keys[fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        fd = number(fileobj)
        key = self._keys.pop(fd)
        self._forget(fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        fd = number(fileobj)
        known = self._keys[fd]
        if events != known.events:
            self._epoll.modify(fd, _mask(events))
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._keys[fd] = key
        return key

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """See selectors.BaseSelector; KeyError for a descriptor that is not asyncio's."""
        return self._keys[number(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See selectors.BaseSelector."""
        return self._by_file

    def close(self) -> None:
        """See selectors.BaseSelector."""
        self._epoll.close()
        self._keys.clear()
        self._watchers.clear()
        self._masks.clear()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Call the watchers whose sockets are ready, and return asyncio's own events. The timeout is in seconds; None
        waits without limit.
        """
        wait = -1.0
        if timeout is not None:
            # Rounded up to milliseconds, as selectors does: less would be no wait at all, again and again.
            wait = math.ceil(timeout * 1000.0) * 0.001 if timeout > 0 else 0.0
        found: list[tuple[selectors.SelectorKey, int]] = []
        keys = self._keys
        ready = self._epoll.poll(wait, _AT_ONCE)
        for fd, event in ready:
            watcher = self._watchers.get(fd)
            if watcher is None:
                key = keys.get(fd)
                if key is not None:
                    events = (_WRITE if event & ~_IN else 0) | (_READ if event & ~_OUT else 0)
                    if events & key.events:
                        found.append((key, events & key.events))
                continue
            try:
                if event & ~_OUT:
                    watcher.on_readable()
                if event & ~_IN:
                    watcher.on_writable()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001  # told to whom it concerns, as asyncio does with a callback
                self._failed(error)
        return found


def number(fileobj: Any) -> int:
    """The descriptor of a file object, or of itself."""
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


def _mask(events: int) -> int:
    return (_IN if events & _READ else 0) | (_OUT if events & _WRITE else 0)
