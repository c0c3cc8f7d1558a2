"""A small HTTP proxy: it makes tunnels where a test says, or fails as it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from tests.support.closing import close_server

LIMIT = 60.0


class TunnelProxy:
    """Takes CONNECT, keeps what it was asked, and leads each host to a port of this machine."""

    def __init__(self, leads_to: Mapping[str, int]) -> None:
        self.leads_to = dict(leads_to)
        """Ports, by `host:port`."""
        self.answer: bytes | None = None
        """Said instead of making a tunnel; empty: nothing is said, and the connection ended."""
        self.silent = False
        self.heads: list[str] = []
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def asked(self) -> list[str]:
        """What tunnels were asked for to."""
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
            self.heads.append(head)
            if self.silent:
                await reader.read()
            elif self.answer is not None:
                writer.write(self.answer)
            else:
                await self._tunnel(head.split(" ")[1], reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _tunnel(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.leads_to[name])
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 small\r\n\r\n")
        async with asyncio.TaskGroup() as both:
            both.create_task(self._copy(reader, back))
            both.create_task(self._copy(there, writer))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    def drop(self) -> None:
        """End every connection."""
        for writer in self._open:
            writer.transport.abort()


@asynccontextmanager
async def tunnel_proxy(leads_to: Mapping[str, int]) -> AsyncIterator[TunnelProxy]:
    """One that listens on a port of its own."""
    proxy = TunnelProxy(leads_to)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await close_server(server)
        proxy.drop()
