"""TLS sessions with an upstream: resumed on its next connections, and read no oftener than Python can bear."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import pytest

from sidecar.proxy.pool.pool import sessions_to_read
from tests.support.openssl import authority, issue, write
from tests.support.wire import GET, Wire

CA = authority("a CA")


class Upstream:
    """Says of each connection whether its session was resumed; answers two requests at a time, so that each needs a
    connection of its own."""

    def __init__(self, directory: Path) -> None:
        shown = issue(CA)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(write(directory / "server.pem", shown.pem, shown.key_pem))
        self.resumed: list[bool] = []
        self.hold = False
        self._held = 0
        self._released = asyncio.Event()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        return int(self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.resumed.append(writer.get_extra_info("ssl_object").session_reused)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                if self.hold:
                    self._held += 1
                    if self._held == 2:
                        self._released.set()
                    await self._released.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.close()


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Upstream]:
    made = Upstream(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("left", "resumed"), [(1, True), (0, False)], ids=["one may be read", "none may be read"]
)
async def test_a_second_connection_resumes_the_session(
    wire: Wire, tmp_path: Path, upstream: Upstream, left: int, resumed: bool
) -> None:
    """Of the first one, if that was read; where no more may be, it makes a whole handshake and serves as well."""
    port = await upstream.start()
    await wire.start(
        f"tls: {{ca_file: {write(tmp_path / 'ca.pem', CA.pem)}}}", upstream=f"https://localhost:{port}"
    )
    wire.pools.sessions_to_read = left
    apps = [await wire.app() for _ in range(2)]
    await apps[0].send(GET)
    assert (await apps[0].answer()).status == 200
    assert wire.pools.sessions_to_read == 0
    upstream.hold = True
    for app in apps:
        await app.send(GET)
    assert [(await app.answer()).status for app in apps] == [200, 200]
    assert upstream.resumed == [False, resumed]


@pytest.mark.parametrize(
    ("python", "most"),
    [
        ((3, 11, 9), 500),
        ((3, 12, 7), 500),
        ((3, 12, 8), inf),
        ((3, 13, 0), 500),
        ((3, 13, 1), inf),
        ((3, 14, 0), inf),
    ],
)
def test_where_a_reading_loses_memory_there_are_not_many(python: tuple[int, ...], most: float) -> None:
    """By the versions in which CPython fixed it (issue 116810)."""
    assert sessions_to_read(python) == most
