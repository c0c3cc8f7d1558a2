"""Both sides of a pool, played by the test: requests that ask for a connection, and dials that end when it says so."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sidecar.errors import SidecarError
from sidecar.proxy.pool import Pool
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.tasks import Tasks


class Asker:
    """What the pool knows of an exchange."""

    def __init__(self, pool: Pool, number: int, *, again: bool) -> None:
        self.pool = pool
        self.number = number
        self.had_its_turn = again
        self.outcomes: list[UpstreamConnection | SidecarError] = []

    def connected(self, connection: UpstreamConnection) -> None:
        assert connection._pool is self.pool  # a connection to another host would carry the request astray
        self.outcomes.append(connection)

    def not_connected(self, error: SidecarError) -> None:
        self.outcomes.append(error)


class Transport(asyncio.Transport):
    """Says that it was closed."""

    closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is written."""

    def abort(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Dials(Tasks):
    """Dials that end when the test says so; the dialler and its tasks in one."""

    def __init__(self) -> None:
        self.under_way: list[Coroutine[Any, Any, None]] = []
        self.outcome: SidecarError | None = None

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> Any:
        self.under_way.append(coroutine)

    async def connect(self, destination: object, make: Any, *_: object) -> UpstreamConnection:
        if self.outcome is not None:
            raise self.outcome
        connection: UpstreamConnection = make()
        connection.connection_made(Transport())
        return connection

    def look(self) -> list[Any]:
        """No files."""
        return []

    def end(self, index: int, outcome: SidecarError | None) -> None:
        """One dial is over."""
        self.outcome = outcome
        try:
            self.under_way.pop(index % len(self.under_way)).send(None)
        except StopIteration:
            return
        raise AssertionError("a dial waited")
