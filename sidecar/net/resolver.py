"""Resolves names to addresses.

Owns the look-ups in progress and their threads: the system's resolver blocks a thread for each, for up to half a
minute. Called by `dial`. The rule: one look-up for a name at a time, shared by all who wait for it, and many threads
of its own. asyncio's executor has five threads on one CPU, so five names with silent servers would hold up all
others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, final

from sidecar.runtime import descriptors

AT_ONCE: Final = 64
"""Names that are looked up at a time; a thread for each is made when it is needed."""

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it: family, kind, protocol, canonical name, socket address."""

Lookup = Callable[..., Sequence[AddressInfo]]


def system_lookup(host: str, port: int, **hints: int) -> Sequence[AddressInfo]:
    """`socket.getaddrinfo` for a host in normal form. For text it would load a codec for names that are not ASCII: 7 ms
    and 1.8 MiB, for nothing.
    """
    return socket.getaddrinfo(host.encode("ascii"), port, **hints)


@final
class Resolver:
    """The system's resolver, or whatever `lookup` is: called in a thread as `system_lookup` is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lookup: Lookup = system_lookup) -> None:
        self._loop = loop
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look-up")
        self._flights: dict[tuple[str, int], asyncio.Future[Sequence[AddressInfo]]] = {}

    async def addresses(self, host: str, port: int) -> Sequence[AddressInfo]:
        """The addresses of a name, at least one; raises OSError.

        If a caller is cancelled, the look-up goes on for the others, or for the next caller.
        """
        flight = self._flights.get((host, port))
        # From Python 3.14 on, one that was quick has ended before its callback could take it out.
        if flight is None or flight.done():
            flight = self._loop.run_in_executor(self._threads, self._look_up, host, port)
            self._flights[host, port] = flight
            flight.add_done_callback(partial(self._landed, (host, port)))
        return await asyncio.shield(flight)

    def _look_up(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Runs in a thread. Raises OSError, with an error of `descriptors.EXHAUSTED` if that is the cause."""
        try:
            return self._lookup(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except OSError as error:
            if (shortage := descriptors.shortage()) is not None:
                raise shortage from error
            raise

    def _landed(self, key: tuple[str, int], flight: asyncio.Future[Sequence[AddressInfo]]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, even where no caller waits any more
