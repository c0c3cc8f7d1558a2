"""One client of the soak at a time: its connection, its randomness, and the names of its requests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from tests.soak.client import Client, Outcome, Route, Way, connected
from tests.soak.http2 import Http2

HANG = 45.0
"""Seconds after which a request has hung; what the configured timeouts allow together is less."""
FRESH = 0.8
"""Seconds for which a connection is used again; the sidecar's own limit is 10 s."""
Tell = Callable[[str, str, str, float, float, Outcome], None]
"""Takes operation, route, way, the monotonic moments of beginning and end, and what became of it."""


class Worker:
    """One client at a time."""

    def __init__(
        self,
        number: int,
        seed: Any,
        routes: Mapping[str, Sequence[Route]],
        ways: Mapping[Way, ssl.SSLContext | None],
        tell: Tell,
    ) -> None:
        """`routes` by name, a wildcard's with each of its hosts; `tell` is told what became of each request."""
        self.number = number
        self.seed = seed
        self.random = Random(f"{seed}/{number}")  # noqa: S311
        self._routes = list(routes.values())
        self._ways = ways
        self._tell = tell
        self.count = 0
        self.way = ""
        """By which the last connection came."""
        self.client: Client | None = None
        self.http2: Http2 | None = None
        self.required: str | None = None
        """A header line that each request on the connection of HTTP/2 must have."""
        self._reading: asyncio.Task[None] | None = None

    def route(self) -> Route:
        """Any route, at any of its hosts."""
        return self.random.choice(self.random.choice(self._routes))

    def identity(self) -> str:
        """A name for the next request that nobody else has."""
        self.count += 1
        return f"{self.seed}-{self.number}-{self.count}"

    async def connect(self, *, narrow: bool = False, guarded: bool = False) -> Client:
        """A new connection, by any way, that the caller closes; `guarded`: by one that requires a header."""
        way = self.random.choice([way for way in self._ways if way.required is not None or not guarded])
        self.way = way.name
        return await Client.connect(way, self._ways[way], narrow=narrow)

    async def connection(self) -> Client:
        """The one of the last request if it is still good, else a new one."""
        now = asyncio.get_running_loop().time()
        if self.client is None or not self.client.open or now - self.client.used_mono > FRESH:
            self.leave()
            self.client = await self.connect()
        self.client.used_mono = now
        return self.client

    async def http2_connection(self) -> Http2:
        """The one of HTTP/2 if it takes another request, else a new one."""
        if self.http2 is None or self.http2.leaving:
            way = self.random.choice(list(self._ways))
            context = None
            if way.ca_file is not None:
                context = ssl.create_default_context(cafile=way.ca_file)
                context.set_alpn_protocols(["h2"])
            made = Http2(*await connected(way, context))
            if self.http2 is not None and not self.http2.leaving:
                made.writer.transport.abort()  # another request has made one meanwhile
                return self.http2
            self.way, self.required, self.http2 = way.name, way.required, made
            self._reading = asyncio.create_task(made.run())  # noqa: TID251
        return self.http2

    def leave(self) -> None:
        """Close the connections, if there are any."""
        if self.http2 is not None:
            self.http2.leaving = True
            self.http2.writer.transport.abort()
            self.http2 = None
        if self.client is not None:
            self.client.close()
            self.client = None

    def target(self, size: int, framing: str | None = None) -> str:
        """What to ask for to be answered with so many bytes."""
        framing = framing or self.random.choice(["length", "length", "chunked", "close"])
        return f"/echo?size={size}&framing={framing}"

    def tell(self, operation: str, route: Route, began: float, outcome: Outcome) -> None:
        """What became of a request that began at the monotonic moment `began`."""
        self._tell(operation, route.name, self.way, began, asyncio.get_running_loop().time(), outcome)
