"""sidecar.proxy.tls and sidecar.proxy.dial, against real TLS servers"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sidecar.config.load import load
from sidecar.emulator.keys import Authority
from sidecar.errors import Reason, SidecarError
from sidecar.proxy import tls
from sidecar.proxy.dial import Dialer
from sidecar.routes import Destination, RouteTable

LIMIT = 5.0
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client(asyncio.Protocol):
    """What an upstream connection is to the transport; it records."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.data = bytearray()
        self.got: asyncio.Event = asyncio.Event()
        self.ended = False
        self.full = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # it is one

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.got.set()

    def eof_received(self) -> None:
        self.ended = True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def until(self, size: int) -> bytes:
        async with asyncio.timeout(LIMIT):
            while len(self.data) < size:
                self.got.clear()
                await self.got.wait()
        return bytes(self.data)


class Servers:
    """TLS servers under a CA of their own, and a dialer that trusts it."""

    def __init__(self, directory: Path) -> None:
        self._authority = Authority()
        self._directory = directory
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(self._authority.pem)
        self._servers: list[asyncio.Server] = []
        self.dialer = Dialer(asyncio.get_running_loop(), ())

    async def start(
        self, serve: Serve, *, names: tuple[str, ...] = ("localhost",), plain: bool = False
    ) -> int:
        context = None
        if not plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            file = self._directory / "server.pem"
            file.write_bytes(self._authority.issue(names))
            context.load_cert_chain(file)
            context.set_alpn_protocols(["h2", "http/1.1"])
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def destination(self, port: int, route: str = "") -> Destination:
        text = f"routes: [{{name: a, upstream: 'https://localhost:{port}', tls: {{ca_file: '{self.ca_file}'}}{route}}}]"
        fixed = RouteTable.compile(load(text, environ={}).config).routes[0].fixed()
        assert fixed is not None
        return fixed

    async def connect(self, port: int) -> Client:
        return await self.dialer.connect(self.destination(port), Client, None)

    def close(self) -> None:
        for server in self._servers:
            server.close()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_megabytes_go_both_ways_at_once(servers: Servers) -> None:
    """Reads and writes interleave; backpressure is signalled and taken back."""
    client = await servers.connect(await servers.start(echo))
    sent = bytes(range(256)) * 4096 * 8
    was_full = False
    for start in range(0, len(sent), 100_000):
        client.transport.write(sent[start : start + 100_000])
        was_full = was_full or client.full
        while client.full:  # noqa: ASYNC110  # as a protocol would: by its callbacks
            await asyncio.sleep(0)
    assert await client.until(len(sent)) == sent
    assert was_full
    assert client.transport.get_write_buffer_size() == 0
    client.transport.close()
    assert await client.lost is None


async def test_http_11_is_agreed_on(servers: Servers) -> None:
    """ALPN: a server that prefers h2 must not speak it here; TLS 1.2 at least."""
    client = await servers.connect(await servers.start(echo))
    sock = client.transport.get_extra_info("socket")
    assert sock.selected_alpn_protocol() == "http/1.1"
    assert sock.version() in ("TLSv1.2", "TLSv1.3")
    client.transport.abort()
    await client.lost


async def test_sessions_are_resumed(servers: Servers) -> None:
    """The second handshake to a destination is the short one."""
    destination = servers.destination(await servers.start(echo))
    first = await servers.dialer.connect(destination, Client, None)
    first.transport.write(b"x")
    await first.until(1)
    session = tls.session_of(first.transport)
    first.transport.close()
    await first.lost
    second = await servers.dialer.connect(destination, Client, session)
    second.transport.write(b"y")
    assert await second.until(1) == b"y"
    assert second.transport.get_extra_info("socket").session_reused
    second.transport.close()
    await second.lost


async def test_a_polite_end_is_an_end_and_a_cut_is_an_error(servers: Servers) -> None:
    """Without close_notify an attacker may have cut the answer short."""

    async def polite(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"whole")
        writer.close()

    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"part")
        await writer.drain()
        writer.transport.abort()

    client = await servers.connect(await servers.start(polite))
    async with asyncio.timeout(LIMIT):
        assert await client.lost is None
    assert (bytes(client.data), client.ended) == (b"whole", True)
    client = await servers.connect(await servers.start(cut))
    async with asyncio.timeout(LIMIT):
        assert await client.lost is not None
    assert (bytes(client.data), client.ended) == (b"part", False)


async def test_paused_reading_takes_nothing(servers: Servers) -> None:
    """What comes meanwhile is there after resuming, also what OpenSSL holds already."""

    async def burst(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(1_000_000))
        await writer.drain()
        writer.close()

    client = await servers.connect(await servers.start(burst))
    client.transport.pause_reading()
    before = len(client.data)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(client.data) == before
    client.transport.resume_reading()
    assert len(await client.until(1_000_000)) == 1_000_000
    await client.lost


async def test_closing_sends_what_is_kept(servers: Servers) -> None:
    """And nothing is written after it."""
    received = bytearray()
    done = asyncio.Event()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            received.extend(data)
        writer.close()
        done.set()

    client = await servers.connect(await servers.start(sink))
    client.transport.write(bytes(8_000_000))
    client.transport.close()
    client.transport.write(b"too late")
    async with asyncio.timeout(LIMIT):
        await done.wait()
        assert await client.lost is None
    assert len(received) == 8_000_000


async def refused(servers: Servers, port: int, route: str = "") -> SidecarError:
    with pytest.raises(SidecarError) as caught:
        await servers.dialer.connect(servers.destination(port, route), Client, None)
    return caught.value


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def closing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_every_failed_handshake_has_its_reason(servers: Servers, tmp_path: Path) -> None:
    """Another name, another CA, no TLS at all, silence."""
    wrong_name = await refused(servers, await servers.start(echo, names=("other.example",)))
    assert (wrong_name.reason, "`tls.server_name`" in wrong_name.detail) == (Reason.TLS_CERTIFICATE, True)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    elsewhere = Servers(stranger)
    unknown_ca = await refused(servers, await elsewhere.start(echo))
    assert (unknown_ca.reason, "`tls.ca_file`" in unknown_ca.detail) == (Reason.TLS_CERTIFICATE, True)
    elsewhere.close()
    closed = await refused(servers, await servers.start(closing, plain=True))
    assert closed.reason is Reason.TLS_FAILED
    late = await refused(servers, await servers.start(silent, plain=True), ", timeouts: {connect: 50ms}")
    assert (late.reason, "TLS handshake" in late.detail) == (Reason.CONNECT_TIMEOUT, True)


async def test_a_name_that_does_not_exist(servers: Servers) -> None:
    """Says so, with what to check."""
    text = "routes: [{name: a, upstream: 'https://nowhere.invalid'}]"
    nowhere = RouteTable.compile(load(text, environ={}).config).routes[0].fixed()
    assert nowhere is not None
    with pytest.raises(SidecarError) as caught:
        await servers.dialer.connect(nowhere, Client, None)
    assert caught.value.reason is Reason.DNS_FAILED
