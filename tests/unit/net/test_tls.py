"""sidecar.net.tls and sidecar.net.dial, against real TLS servers"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import load
from sidecar.emulator.keys import Authority
from sidecar.errors import Reason, SidecarError
from sidecar.net import tls, tls_handshake
from sidecar.net.dial import Dialer
from sidecar.net.event_loop import readiness_of
from sidecar.net.transport import Receiver, Transport
from sidecar.observe.metrics import RouteStats
from sidecar.routing.routes import Destination, RouteTable
from tests.support.clock import FakeClock
from tests.support.eventually import eventually

LIMIT = 60.0
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client(Receiver):
    """What an upstream connection is to the transport; it records."""

    transport: Transport

    def __init__(self) -> None:
        self.data = bytearray()
        self.got: asyncio.Event = asyncio.Event()
        self.ended = False
        self.full = False
        self.pause_at_once = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport  # type: ignore[assignment]  # it is one

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.pause_at_once:
            self.transport.pause_reading()
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


def new_client(http2: bool) -> Client:
    """What a dial makes."""
    assert not http2
    return Client()


class Servers:
    """TLS servers under a CA of their own, and a dialer that trusts it."""

    def __init__(self, directory: Path) -> None:
        self._authority = Authority()
        self._directory = directory
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(self._authority.pem)
        self._servers: list[asyncio.Server] = []
        self.dialer = Dialer(asyncio.get_running_loop(), (), FakeClock(), jitter=lambda: 0.5)

    def context(self, names: tuple[str, ...] = ("localhost",)) -> ssl.SSLContext:
        """A server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = self._directory / "server.pem"
        file.write_bytes(self._authority.issue(names))
        context.load_cert_chain(file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    async def start(self, serve: Serve, *, plain: bool = False) -> int:
        context = None if plain else self.context()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def destination(self, port: int, route: str = "") -> Destination:
        text = f"routes: [{{name: a, upstream: 'https://localhost:{port}', tls: {{ca_file: '{self.ca_file}'}}{route}}}]"
        fixed = RouteTable.compile(load(text, environ={}).config).routes[0].fixed()
        assert fixed is not None
        return fixed

    async def connect(self, port: int) -> Client:
        return await self.dialer.connect(self.destination(port), new_client, None, RouteStats())

    def close(self) -> None:
        for server in self._servers:
            server.close()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of Python's own, before 3.12
async def test_a_reset_before_the_handshake_is_the_upstreams() -> None:
    """One that accepts and resets at once is told as one that closed in the handshake, and is no fault."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sock = socket.socket()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, listening.getsockname())
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        descriptor = sock.fileno()
        with pytest.raises(tls_handshake.HandshakeError) as failed:
            await tls_handshake.handshake(loop, sock, ssl.create_default_context(), "localhost", None)
    assert isinstance(failed.value.error, ConnectionResetError)
    assert failed.value.chain == ()
    assert failed.value.agreed is False
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


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
    sock = client.transport.get_socket()
    assert sock.selected_alpn_protocol() == "http/1.1"
    assert sock.version() in ("TLSv1.2", "TLSv1.3")
    client.transport.abort()
    await client.lost


async def test_sessions_are_resumed(servers: Servers) -> None:
    """The second handshake to a destination is the short one; but not with files that have changed in between."""
    destination = servers.destination(await servers.start(echo))
    first = await servers.dialer.connect(destination, new_client, None, RouteStats())
    first.transport.write(b"x")
    await first.until(1)
    session = tls.session_of(first.transport)
    first.transport.close()
    await first.lost
    second = await servers.dialer.connect(destination, new_client, session, RouteStats())
    second.transport.write(b"y")
    assert await second.until(1) == b"y"
    assert second.transport.get_socket().session_reused
    second.transport.close()
    await second.lost
    stranger = tls.Session(ssl.create_default_context(), session.session) if session else None
    third = await servers.dialer.connect(destination, new_client, stranger, RouteStats())
    assert not third.transport.get_socket().session_reused
    third.transport.close()
    await third.lost


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
        await servers.dialer.connect(servers.destination(port, route), Client, None, RouteStats())
    return caught.value


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_a_handshake_that_never_ends_has_its_reason(servers: Servers) -> None:
    """Not that of a connection that can't be made; wire/test_tls.py has the other ways to fail."""
    late = await refused(servers, await servers.start(silent, plain=True), ", timeouts: {tls: 50ms}")
    assert (late.reason, "TLS handshake" in late.detail) == (Reason.TLS_TIMEOUT, True)


class Raw:
    """A TLS server whose bytes the test makes, and sends when it likes: on memory BIOs, in a thread of its own."""

    def __init__(self, servers: Servers) -> None:
        self.context = servers.context()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT)
        self.port = int(self._listener.getsockname()[1])

    def handshake(self) -> None:
        """Accept one connection and do the server's part."""
        self.sock, _ = self._listener.accept()
        self.sock.settimeout(LIMIT)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.sock.recv(1 << 16))
            else:
                self.flush()
                return

    def flush(self) -> None:
        """Send what there is, in one piece."""
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def offend(self) -> None:
        """Take something that is no record, to which the answer is a fatal alert."""
        self.incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError):
            self.tls.read(1)

    def close(self) -> None:
        self.sock.close()
        self._listener.close()


@pytest.fixture
async def raw(servers: Servers) -> AsyncIterator[Raw]:
    made = Raw(servers)
    yield made
    made.close()


async def connected(servers: Servers, raw: Raw) -> Client:
    """A client of the raw server, after the handshake."""
    client, _ = await asyncio.gather(servers.connect(raw.port), asyncio.to_thread(raw.handshake))
    return client


@pytest.mark.parametrize("size", [5, 16 * 1024, 40_000], ids=["short", "one-full-record", "several"])
async def test_an_alert_behind_a_body_is_no_end(servers: Servers, raw: Raw, size: int) -> None:
    """OpenSSL tells of it once and then calls the connection properly ended; it must not pass for a whole answer."""
    client = await connected(servers, raw)
    raw.tls.write(bytes(size))
    raw.offend()
    raw.flush()
    async with asyncio.timeout(LIMIT):
        lost = await client.lost
    assert (len(client.data), client.ended) == (size, False)
    assert isinstance(lost, ssl.SSLError)
    assert tls_handshake.mnemonic(lost) == "SSLV3_ALERT_BAD_RECORD_MAC"


@pytest.mark.parametrize("size", [5, 16 * 1024, 40_000], ids=["short", "one-full-record", "several"])
async def test_close_notify_ends_without_the_end_of_tcp(servers: Servers, raw: Raw, size: int) -> None:
    """It comes up even where OpenSSL has read it already, and no selector reports anything more."""
    client = await connected(servers, raw)
    raw.tls.write(bytes(size))
    with pytest.raises(ssl.SSLWantReadError):
        raw.tls.unwrap()
    raw.flush()
    async with asyncio.timeout(LIMIT):
        assert await client.lost is None
    assert (len(client.data), client.ended) == (size, True)


async def test_an_end_behind_paused_reading_is_kept(servers: Servers, raw: Raw) -> None:
    """Bytes first, then pause in the same turn: the end comes up after resuming."""
    client = await connected(servers, raw)
    client.pause_at_once = True
    raw.tls.write(bytes(16 * 1024))
    with pytest.raises(ssl.SSLWantReadError):
        raw.tls.unwrap()
    raw.flush()
    await client.until(16 * 1024)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not client.ended
    client.transport.resume_reading()
    async with asyncio.timeout(LIMIT):
        assert await client.lost is None
    assert client.ended


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "paused"])
async def test_a_failed_write_does_not_hide_what_was_said_before(
    servers: Servers, raw: Raw, *, reading: bool
) -> None:
    """The alert that tells why is read before the connection is given up; a reader that has paused does not hang."""
    client = await connected(servers, raw)
    if not reading:
        client.transport.pause_reading()
    raw.tls.write(b"why")
    raw.offend()
    raw.flush()
    raw.sock.close()
    for _ in range(1000):  # without a turn of the loop: nothing is read between
        client.transport.write(bytes(100))
        if client.transport.is_closing():
            break
    assert client.transport.is_closing()
    assert client.transport.get_write_buffer_size() == 0
    async with asyncio.timeout(LIMIT):
        lost = await client.lost
    if reading:
        assert isinstance(lost, ssl.SSLError)
        assert (bytes(client.data), tls_handshake.mnemonic(lost)) == (b"why", "SSLV3_ALERT_BAD_RECORD_MAC")
    else:
        assert isinstance(lost, OSError)


class Contrary:
    """A socket that now and then wants the other direction first, as OpenSSL may."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self.send_wants: list[Exception] = []
        self.recv_wants: list[Exception] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: Any) -> int:
        if self.send_wants:
            raise self.send_wants.pop()
        return self._sock.send(data)

    def recv(self, size: int) -> bytes:
        if self.recv_wants:
            raise self.recv_wants.pop()
        return self._sock.recv(size)


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
async def test_a_write_may_want_to_read(servers: Servers, raw: Raw, *, paused: bool) -> None:
    """SSL_get_error(3): it is tried again once bytes have come, whether they are wanted otherwise or not."""
    client = await connected(servers, raw)
    sock = Contrary(client.transport.get_socket())
    client.transport._secured = sock  # type: ignore[attr-defined]
    if paused:
        client.transport.pause_reading()
    sock.send_wants = [ssl.SSLWantReadError(), ssl.SSLWantReadError()]
    for word in (b"first ", b"second"):
        client.transport.write(word)
    for _ in range(2):
        raw.tls.write(b"x")
        raw.flush()
    received = b""
    while received != b"first second":
        try:
            received += raw.tls.read(100)
        except ssl.SSLWantReadError:
            async with asyncio.timeout(LIMIT):
                data = await asyncio.get_running_loop().sock_recv(unblocked(raw.sock), 1 << 16)
            raw.incoming.write(data)
    assert client.transport.is_reading() is not paused
    assert not sock.send_wants
    client.transport.resume_reading()
    assert await client.until(2) == b"xx"


async def test_a_read_may_want_to_write(servers: Servers, raw: Raw) -> None:
    """It is tried again once the socket takes bytes."""
    client = await connected(servers, raw)
    sock = Contrary(client.transport.get_socket())
    client.transport._secured = sock  # type: ignore[attr-defined]
    sock.recv_wants = [ssl.SSLWantWriteError()]
    raw.tls.write(b"x")
    raw.flush()
    assert await client.until(1) == b"x"
    assert not sock.recv_wants


async def test_a_read_of_several_records_may_want_to_write(servers: Servers, raw: Raw) -> None:
    """What came before is handed on, and the rest is read afterwards."""
    client = await connected(servers, raw)
    real = client.transport.get_socket()
    sock = Contrary(real)
    client.transport._secured = sock  # type: ignore[attr-defined]
    first = real.recv

    def recv(size: int) -> bytes:
        sock.recv = Contrary.recv.__get__(sock)  # type: ignore[method-assign]
        sock.recv_wants = [ssl.SSLWantWriteError()]
        return bytes(first(size))

    sock.recv = recv  # type: ignore[method-assign]
    raw.tls.write(bytes(40_000))
    raw.flush()
    assert len(await client.until(40_000)) == 40_000
    assert not sock.recv_wants


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "paused"])
async def test_a_write_that_fails_later_ends_the_connection(
    servers: Servers, raw: Raw, *, reading: bool
) -> None:
    """The other side is gone in the middle of an upload: what is kept is dropped, and nobody waits for room."""
    client = await connected(servers, raw)
    if not reading:
        client.transport.pause_reading()
    client.transport.write(bytes(16_000_000))
    assert client.full
    raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.sock.close()
    async with asyncio.timeout(LIMIT):
        assert isinstance(await client.lost, OSError)
    assert client.transport.get_write_buffer_size() == 0
    assert client.transport.is_closing()
    client.transport.write(b"too late")
    client.transport.close()
    client.transport.resume_reading()
    assert not client.transport.is_reading()


async def test_a_failed_write_with_nothing_to_read_ends_it(servers: Servers, raw: Raw) -> None:
    """A fault of OpenSSL's own leaves the socket as it is: no selector would report an end."""
    client = await connected(servers, raw)
    sock = Contrary(client.transport.get_socket())
    client.transport._secured = sock  # type: ignore[attr-defined]
    fault = ssl.SSLError(1, "[SSL] internal error (_ssl.c:1)")
    sock.send_wants = [fault]
    client.transport.write(b"x")
    assert client.transport.is_closing()
    async with asyncio.timeout(LIMIT):
        assert await client.lost is fault


async def test_limits_of_what_is_kept_can_be_set(servers: Servers, raw: Raw) -> None:
    """As asyncio.WriteTransport says; and there is no half-close in TLS that peers agree on."""
    client = await connected(servers, raw)
    client.transport.set_write_buffer_limits(1_000_000_000)
    client.transport.write(bytes(16_000_000))
    assert not client.full
    client.transport.set_write_buffer_limits(65_536)
    client.transport.write(b"x")
    assert client.full
    assert not client.transport.can_write_eof()
    assert " open unsent=" in repr(client.transport)
    client.transport.abort()
    assert "lost unsent=0" in repr(client.transport)


def unblocked(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


async def test_a_name_that_does_not_exist(servers: Servers) -> None:
    """Says so, with what to check."""
    text = "routes: [{name: a, upstream: 'https://nowhere.invalid'}]"
    nowhere = RouteTable.compile(load(text, environ={}).config).routes[0].fixed()
    assert nowhere is not None
    with pytest.raises(SidecarError) as caught:
        await servers.dialer.connect(nowhere, new_client, None, RouteStats())
    assert caught.value.reason is Reason.DNS_FAILED


async def test_a_server_that_resets_right_after_the_handshake(servers: Servers) -> None:
    """Its connection is made and lost, as any that is cut off; it is no fault of ours."""

    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", await servers.start(reset)))
    context = ssl.create_default_context(cafile=str(servers.ca_file))
    secured = await tls_handshake.handshake(loop, sock, context, "localhost", None)
    await eventually(lambda: not _is_connected(secured), why="the kernel sends no event for a reset")
    client = Client()
    tls.TlsTransport(loop, readiness_of(loop), secured, client)
    async with asyncio.timeout(LIMIT):
        assert isinstance(await client.lost, OSError)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


class ResettingLoop:
    """The event loop, but each connection to `listening` is reset as soon as it is made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        self._loop = loop
        self._listening = listening

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        await self._loop.sock_connect(sock, address)
        peer, _ = self._listening.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await eventually(lambda: not _is_connected(sock), why="the kernel sends no event for a reset")


async def test_a_server_that_resets_while_it_is_connected_to(servers: Servers) -> None:
    """A reset before the first look at the connection is the upstream's failure, not a fault of ours."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        loop: Any = ResettingLoop(asyncio.get_running_loop(), listening)
        destination = servers.destination(listening.getsockname()[1])
        dialer = Dialer(loop, (), FakeClock(), jitter=lambda: 0.5)
        with pytest.raises(SidecarError) as caught:
            await dialer.connect(destination, new_client, None, RouteStats())
    assert caught.value.reason is Reason.CONNECT_FAILED
