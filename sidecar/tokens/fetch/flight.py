"""One fetch, as both of its threads see it.

Owns what a fetch has open: its connections, its child processes, its deadline. The worker thread opens them
through it, the event loop ends them all by `abort`. Made by `GoogleSource` for each fetch. It knows nothing
of tokens. The rule: nothing that a fetch opened outlives it by more than one blocked system call.
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
        """Who is being asked; None before it is known."""
        self._deadline_mono = clock.mono() + seconds
        self._transports: list[GoogleTransport] = []
        self._on_abort: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._aborted = False

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 once it has been given up."""
        return 0.0 if self._aborted else max(0.0, self._deadline_mono - self.clock.mono())

    def open(
        self, endpoint: Endpoint, *, origin: str | None = None, proxies: bool = False
    ) -> GoogleTransport:
        """A transport to one more endpoint; see `GoogleTransport`. In the worker thread."""
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
        """Have `end` called when the fetch is given up; now if it has been already. In the worker thread."""
        with self._lock:
            self._on_abort.append(end)
            aborted = self._aborted
        if aborted:
            end()

    def abort(self) -> None:
        """End it now; in the event loop. Harmless after its end."""
        with self._lock:
            self._aborted = True
            ends = list(self._on_abort)
        for end in ends:
            end()

    def close(self) -> None:
        """Close its connections; in the worker thread."""
        for transport in self._transports:
            transport.close()
