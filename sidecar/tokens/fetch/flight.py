"""One fetch, shared by its two threads.

Owns its connections, its child processes and its deadline. The worker thread opens them through it, the event loop
ends them all with `abort`. Made by `GoogleSource` for each fetch. It knows nothing of tokens. The rule: what a fetch
opened ends with it, at most one blocked system call later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from sidecar.runtime.clock import Clock
from sidecar.tokens.fetch.endpoint import Endpoint
from sidecar.tokens.fetch.outward import NOTHING_SAID, Outward

if TYPE_CHECKING:
    from sidecar.tokens.fetch.transport import GoogleTransport


@final
class Flight:
    """One fetch; `seconds` is the time for all of it."""

    def __init__(self, clock: Clock, seconds: float, outward: Outward = NOTHING_SAID) -> None:
        self.clock = clock
        self._outward = outward
        self.seconds = seconds
        self.endpoint: Endpoint | None = None
        """The server being asked; None until it is known."""
        self._deadline_mono = clock.mono() + seconds
        self._transports: list[GoogleTransport] = []
        self._on_abort: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._aborted = False

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 after the fetch was given up."""
        return 0.0 if self._aborted else max(0.0, self._deadline_mono - self.clock.mono())

    def open(
        self, endpoint: Endpoint, *, origin: str | None = None, proxies: bool = False
    ) -> GoogleTransport:
        """A transport to one more endpoint; see `GoogleTransport`. For the worker thread."""
        from sidecar.tokens.fetch.transport import GoogleTransport

        self.endpoint = endpoint
        transport = GoogleTransport(
            endpoint,
            clock=self.clock,
            seconds=self.seconds,
            deadline_mono=self._deadline_mono,
            origin=origin,
            outward=self._outward,
            proxies=proxies,
        )
        self._transports.append(transport)
        self.on_abort(transport.abort)
        return transport

    def on_abort(self, end: Callable[[], None]) -> None:
        """Have `end` called when the fetch is given up, or now if it was already. For the worker thread."""
        with self._lock:
            self._on_abort.append(end)
            aborted = self._aborted
        if aborted:
            end()

    def abort(self) -> None:
        """End it now. For the event loop. Harmless after its end."""
        with self._lock:
            self._aborted = True
            ends = list(self._on_abort)
        for end in ends:
            end()

    def close(self) -> None:
        """Close its connections. For the worker thread."""
        for transport in self._transports:
            transport.close()
