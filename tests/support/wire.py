"""The wire on both sides: a real proxy between an app and an upstream that a test plays byte by byte.

Real sockets, the real token store, a fake clock for every timeout. Each read has a limit, so that nothing
hangs; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.addresses import ListenAddress
from sidecar.config.load import load
from sidecar.emulator.keys import Authority
from sidecar.errors import SidecarError
from sidecar.net import listeners
from sidecar.net.dial import Dialer
from sidecar.net.resolver import Lookup
from sidecar.observe.logs import AccessLog
from sidecar.observe.metrics import TokenStatsTable
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.pool.pools import Pools
from sidecar.proxy.server import Proxy, make_link
from sidecar.routing.routes import RouteTable
from sidecar.runtime.tasks import Tasks
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import TokenKey
from tests.support.clock import FakeClock
from tests.support.closing import abort, close_server
from tests.support.source import LIMIT, Source

BOTH_WAYS = pytest.mark.parametrize(
    "bytewise", [pytest.param(False, id="whole"), pytest.param(True, id="bytewise")]
)
"""Sent in one piece, and byte by byte."""


class End:
    """One end of a connection that the test holds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes, *, bytewise: bool = False) -> None:
        """Write, in one piece or in as many as there are bytes."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
            self.writer.write(piece)
            await self.writer.drain()
            if bytewise:
                # Give the proxy's loop turn after turn, so that it reads piece by piece.
                for _ in range(3):
                    await asyncio.sleep(0)

    async def read_until(self, end: bytes) -> bytes:
        """Everything up to and with `end`."""
        async with asyncio.timeout(LIMIT):
            return await self.reader.readuntil(end)

    async def read_head(self) -> bytes:
        """A message's head."""
        return await self.read_until(b"\r\n\r\n")

    async def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        async with asyncio.timeout(LIMIT):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything until the other side has closed; ConnectionResetError if it reset."""
        async with asyncio.timeout(LIMIT):
            return await self.reader.read()

    @property
    def has_ended(self) -> bool:
        """Whether the other side has closed, or reset, and everything was read that came before."""
        return self.reader.at_eof() or self.reader.exception() is not None

    async def answer(self, method: str = "GET") -> Answer:
        """A whole answer, framed as its head says."""
        head = await self.read_head()
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        fields = [tuple(line.split(": ", 1)) for line in lines]
        headers = {name.lower(): value for name, value in fields}
        status = int(first.split(" ")[1])
        body = b""
        if method == "HEAD" or status < 200 or status in (204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while (size := int((await self.read_until(b"\r\n")).split(b";")[0], 16)) > 0:
                body += await self.read(size)
                await self.read(2)
            headers["trailers"] = (await self._trailers()).decode("latin-1")
        elif "content-length" in headers:
            body = await self.read(int(headers["content-length"]))
        else:
            body = await self.rest()
        return Answer(status, first, fields, headers, body)

    async def _trailers(self) -> bytes:
        lines = b""
        while (line := await self.read_until(b"\r\n")) != b"\r\n":
            lines += line
        return lines

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        abort(self.writer)

    async def close(self) -> None:
        """Close politely."""
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


class Answer:
    """An answer as the app sees it."""

    def __init__(
        self, status: int, first: str, fields: list[Any], headers: Mapping[str, str], body: bytes
    ) -> None:
        self.status = status
        self.first = first
        self.fields = fields
        self.headers = headers
        self.body = body

    @property
    def reason(self) -> str:
        """The reason of an answer that the sidecar made itself."""
        return str(json.loads(self.body)["reason"])


class Upstream:
    """A listening socket whose connections the test plays."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[End] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._ends: list[End] = []
        self.port = 0

    async def start(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            end = End(reader, writer)
            self._ends.append(end)
            self._accepted.put_nowait(end)

        self._server = await asyncio.start_server(connected, "127.0.0.1", port, limit=1 << 20, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def accept(self) -> End:
        """The next connection that the proxy makes."""
        async with asyncio.timeout(LIMIT):
            return await self._accepted.get()

    @property
    def waiting(self) -> int:
        """Connections that were made and not yet taken by the test."""
        return self._accepted.qsize()

    async def stop(self) -> None:
        """Refuse further connections."""
        if self._server is not None:
            server, self._server = self._server, None
            await close_server(server)

    async def close(self) -> None:
        await self.stop()
        for end in self._ends:
            abort(end.writer)


class Wire:
    """The proxy, with `upstream` behind it and as many apps before it as a test opens."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = FakeClock()
        self.upstream = Upstream()
        self.source = Source(self.clock)
        self.sources: dict[str, Source] = {"default": self.source}
        """By the names of the configuration's credentials."""
        self.own_addresses: set[tuple[str, int]] = set()
        self.lookup: Lookup = socket.getaddrinfo
        """The resolver; another one is set before the start."""
        self._apps: list[End] = []
        self._tasks = Tasks(self.loop)

    async def start(
        self,
        route: str = "",
        *,
        more: str = "",
        top: str = "",
        prefetch: bool = True,
        upstream_port: int | None = None,
        upstream: str | None = None,
        secure: Path | None = None,
    ) -> Wire:
        """One route `billing` to the scripted upstream, with further keys in `route` and routes in `more`.

        `upstream_port`, or the whole URL `upstream`, is of another one, which the test started itself. With a directory
        for its files in `secure`, the scripted one speaks TLS.
        """
        if upstream_port is None and upstream is None:
            await self.upstream.start(tls=None if secure is None else _server_side(secure))
        origin = "http://127.0.0.1" if secure is None else "https://localhost"
        if secure is not None:
            route += f"\ntls: {{ca_file: '{secure / 'ca.pem'}'}}"
        text = f"""
routes:
  - name: billing
    host: billing.internal
    upstream: {upstream or f"{origin}:{upstream_port or self.upstream.port}"}
    audience: https://billing.example
{_indented(route, 4)}
{_indented(more, 2)}
{top}
"""
        await self.start_with(text)
        if prefetch:
            await self.token("https://billing.example")
        return self

    async def start_with(self, text: str) -> None:
        """The proxy with this whole configuration, and no token yet."""
        config = self.config = load(text, environ={}).config
        table = RouteTable.compile(config, self.sources)
        self.tokens = TokenStore(
            self.sources.values(),
            self.clock,
            self._tasks,
            TokenStatsTable(100).record,
            jitter=lambda: 0.5,
            wait=config.token_wait,
            size=10,
        )
        self.pools = Pools(
            Dialer(self.loop, self.own_addresses, self.clock, jitter=lambda: 0.5, lookup=self.lookup),
            make_link,
            self.clock,
            self._tasks,
            settings=config.pool,
            limits=config.limits,
        )
        self.proxy = Proxy(
            self.loop,
            self.clock,
            admission=Admission(table, pseudonym=b"sidecar-under-test" if config.via else None),
            tokens=self.tokens,
            pools=self.pools,
            limits=config.limits,
            access_log=AccessLog("off"),
        )
        self.table = table
        (listener,) = listeners.bind(ListenAddress("127.0.0.1", 0))
        self.port = listener.socket.getsockname()[1]
        self.bound = listener
        self.listener = listener.socket
        await self.proxy.serve(listener, None, listeners.settings_of(config.listen[0], None))
        for entry in table.routes:
            if (fixed := entry.fixed()) is not None:
                self.tokens.pin(fixed.token_key())

    def switch(self, text: str, sources: dict[str, Source] | None = None) -> None:
        """Serve by another configuration from now on, as a reload does once everything is there."""
        config = self.config = load(text, environ={}).config
        self.sources = sources or self.sources
        self.table = RouteTable.compile(config, self.sources, self.table.routes)
        keys = [fixed.token_key() for route in self.table.routes if (fixed := route.fixed()) is not None]
        self.tokens.switch(self.sources.values(), keys)
        self.proxy.switch(
            Admission(self.table, pseudonym=b"sidecar-under-test" if config.via else None),
            limits=config.limits,
            pool=config.pool,
            access_log=AccessLog("off"),
        )
        for key in keys:
            self.tokens.pin(key)

    async def token(self, audience: str) -> None:
        """Wait until there is a token for `audience`."""
        key = TokenKey(self.source, audience)
        done: asyncio.Future[SidecarError | None] = self.loop.create_future()
        if self.tokens.bearer(key) is None:
            self.tokens.join(key, done.set_result)
            async with asyncio.timeout(LIMIT):
                await done

    async def app(self, *, narrow: bool = False) -> End:
        """A new connection from the app; a `narrow` one takes next to nothing that the test does not read."""
        sock = socket.socket()
        sock.setblocking(False)
        if narrow:
            # Both kernels' buffers as small as they get: what is not read is soon the proxy's to keep.
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await self.loop.sock_connect(sock, ("127.0.0.1", self.port))
        return await self.adopt(sock, limit=1 if narrow else 1 << 20)

    async def adopt(self, sock: socket.socket, *, limit: int = 1 << 20) -> End:
        """The app's end of a connection that the test made itself."""
        return self._owned(*await asyncio.open_connection(sock=sock, limit=limit))

    async def connect(self, to: int | str, *, tls: ssl.SSLContext | None = None) -> End:
        """A new connection from the app to some listener: a port of loopback, or the path of a Unix socket.

        As all of the app's it ends with the wire. One that a failing test leaves open is reported as `unclosed transport`
        by whichever test runs when Python finds it.
        """
        if isinstance(to, str):
            return self._owned(*await asyncio.open_unix_connection(to))
        name = None if tls is None else "localhost"
        return self._owned(*await asyncio.open_connection("127.0.0.1", to, ssl=tls, server_hostname=name))

    def _owned(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> End:
        end = End(reader, writer)
        self._apps.append(end)
        return end

    async def turn(self, condition: Any) -> None:
        """Let the loop run until `condition()` holds."""
        async with asyncio.timeout(LIMIT):
            while not condition():  # noqa: ASYNC110  # the proxy has no events for tests
                await asyncio.sleep(0)

    async def yield_(self) -> None:
        """One turn of the loop, waiting for sockets if nothing else is due."""
        await asyncio.sleep(0.001)

    @staticmethod
    def untaken(end: End) -> int:
        """Bytes that an end has written and the proxy has not taken."""
        transport = end.writer.transport
        under = getattr(transport, "_ssl_protocol", None)
        below = 0 if under is None else under._transport.get_write_buffer_size()
        return int(transport.get_write_buffer_size() + below)

    @property
    def stats(self) -> Any:
        """The counters of the route `billing`."""
        return self.proxy.stats[self.table.routes[0].name]

    async def close(self) -> None:
        if not hasattr(self, "proxy"):
            await self.upstream.close()  # the test was skipped before it started anything
            return
        for app in self._apps:
            # Not politely: what was not read by then would be waited for.
            abort(app.writer)
        self.proxy.stop_accepting()
        self.proxy.abort()
        self.pools.close()
        await self.tokens.close()
        await self._tasks.close()
        await self.upstream.close()
        with suppress(TimeoutError):
            await self.turn(lambda: not self.proxy.connections and not self.held())
        assert not self.proxy.connections
        assert self.held() == {}

    def held(self) -> dict[str, tuple[int, ...]]:
        """What each route says that it holds now: nothing, once all connections are closed."""
        routes = [*self.proxy.stats.values(), self.proxy.ledger.unrouted]
        held = {
            gauge: tuple(getattr(stats, gauge) for stats in routes)
            for gauge in ("in_flight", "queued", "connections_active", "connections_idle", "tunnels")
        }
        acceptors = self.proxy.acceptors
        held["accepted"] = (acceptors.open, acceptors.arriving)
        return {gauge: counts for gauge, counts in held.items() if any(counts)}


def _server_side(directory: Path) -> ssl.SSLContext:
    authority = Authority()
    (directory / "ca.pem").write_bytes(authority.pem)
    (directory / "server.pem").write_bytes(authority.issue(("localhost",)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


def _indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.strip("\n").splitlines())


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A wire that the test starts with the route it wants."""
    made = Wire()
    yield made
    await made.close()


GET = b"GET /x HTTP/1.1\r\nHost: billing.internal\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
