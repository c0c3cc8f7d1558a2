"""Names to addresses.

Owns the look-ups that are under way. Called by `dial`. The rule: one look-up for a name at a time, which all who want
it wait for. The system's resolver blocks a thread for each, of which there are few: a name whose server does not answer
holds one, and not all of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

from sidecar import descriptors

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it: family, kind, protocol, canonical name, socket address."""

Lookup = Callable[..., Sequence[AddressInfo]]


@final
class Resolver:
    """The system's resolver, or whatever `lookup` is: called in a thread as `socket.getaddrinfo` is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lookup: Lookup = socket.getaddrinfo) -> None:
        self._loop = loop
        self._lookup = lookup
        self._flights: dict[tuple[str, int], asyncio.Future[Sequence[AddressInfo]]] = {}

    async def addresses(self, host: str, port: int) -> Sequence[AddressInfo]:
        """The addresses of a name, of which there is one at least; raises OSError.

        Who is cancelled leaves the look-up to the others, or to whoever asks next.
        """
        flight = self._flights.get((host, port))
        if flight is None:
            flight = self._loop.run_in_executor(None, self._look_up, host, port)
            self._flights[host, port] = flight
            flight.add_done_callback(partial(self._landed, (host, port)))
        return await asyncio.shield(flight)

    def _look_up(self, host: str, port: int) -> Sequence[AddressInfo]:
        """In a thread; raises OSError, of `descriptors.EXHAUSTED` where that is why."""
        try:
            return self._lookup(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except OSError as error:
            if (shortage := descriptors.shortage()) is not None:
                raise shortage from error
            raise

    def _landed(self, key: tuple[str, int], flight: asyncio.Future[Sequence[AddressInfo]]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, even where nobody waits any more
