"""sidecar.proxy.tls, where OpenSSL or the socket does not do as it is told at once"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.keys import Authority
from sidecar.proxy import tls

LIMIT = 5.0


class Scripted(ssl.SSLSocket):
    """A socket that does what a test says, call by call, and then what sockets do."""

    shakes: list[Exception]
    sends: list[Exception | int]
    """An error, or how many bytes at most are taken."""
    recvs: list[Exception | None]
    unwraps: list[Exception]
    shuts: list[Exception]

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        if self.__dict__.setdefault("shakes", [ssl.SSLWantWriteError()]):
            raise self.shakes.pop(0)
        super().do_handshake(*args, **kwargs)

    def send(self, data: Any, flags: int = 0) -> int:
        step = self.sends.pop(0) if self.__dict__.get("sends") else None
        if isinstance(step, Exception):
            raise step
        return super().send(data[:step], flags)

    def unwrap(self) -> socket.socket:
        if self.__dict__.get("unwraps"):
            raise self.unwraps.pop(0)
        return super().unwrap()

    def shutdown(self, how: int) -> None:
        if self.__dict__.get("shuts"):
            raise self.shuts.pop(0)
        super().shutdown(how)

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        step = self.recvs.pop(0) if self.__dict__.get("recvs") else None
        if step is not None:
            raise step
        return super().recv(size, flags)


class Client(asyncio.Protocol):
    """What a connection is to the transport; it records."""

    def __init__(self) -> None:
        self.data = b""
        self.full = False
        self.changed = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def until(self, size: int) -> bytes:
        async with asyncio.timeout(LIMIT):
            while len(self.data) < size:
                self.changed.clear()
                await self.changed.wait()
        return self.data


class Pair:
    """A transport over a scripted socket, and the other end as asyncio has it."""

    def __init__(self, sock: Scripted, transport: tls.TlsTransport, client: Client) -> None:
        self.sock = sock
        self.transport = transport
        self.client = client
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    authority = Authority()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.sslsocket_class = Scripted
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    (tmp_path / "server.pem").write_bytes(authority.issue(("localhost",)))
    server.load_cert_chain(tmp_path / "server.pem")
    listening = await asyncio.start_server(
        lambda reader, writer: ends.put_nowait((reader, writer)), "127.0.0.1", 0, ssl=server, limit=1 << 24
    )
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, listening.sockets[0].getsockname())
    secured = await tls.handshake(loop, sock, context, "localhost", None)
    assert isinstance(secured, Scripted)
    assert secured.shakes == []
    client = Client()
    made = Pair(secured, tls.TlsTransport(loop, secured, client), client)
    async with asyncio.timeout(LIMIT):
        made.reader, made.writer = await ends.get()
    yield made
    made.transport.abort()
    made.writer.transport.abort()
    listening.close()


async def test_a_handshake_may_want_to_write(pair: Pair) -> None:
    """It goes on once the socket takes bytes, as the fixture has seen."""
    pair.transport.write(b"hello")
    async with asyncio.timeout(LIMIT):
        assert await pair.reader.readexactly(5) == b"hello"


async def test_what_is_taken_in_pieces_arrives_whole(pair: Pair) -> None:
    """However little OpenSSL takes at a time; the protocol is told when too much is kept, and when that is over."""
    body = bytes(range(256)) * 1024
    pair.sock.sends = [ssl.SSLWantWriteError(), 1000, 1, ssl.SSLWantWriteError(), 3000]
    pair.transport.write(body)
    assert pair.client.full
    assert pair.transport.get_write_buffer_size() == len(body)
    async with asyncio.timeout(LIMIT):
        assert await pair.reader.readexactly(len(body)) == body
    assert not pair.client.full
    assert pair.transport.get_write_buffer_size() == 0


async def test_a_write_that_fails_with_nothing_left_to_read(pair: Pair) -> None:
    """The connection ends with the write's own error."""
    pair.sock.sends = [BrokenPipeError(errno.EPIPE, "x")]
    pair.transport.write(b"x")
    assert pair.transport.is_closing()
    async with asyncio.timeout(LIMIT):
        assert isinstance(await pair.client.lost, BrokenPipeError)


async def test_a_kept_write_that_fails(pair: Pair) -> None:
    """The same: what was kept is dropped, and what is written afterwards is, too."""
    pair.sock.sends = [ssl.SSLWantWriteError(), ConnectionResetError(errno.ECONNRESET, "x")]
    pair.transport.write(b"x")
    async with asyncio.timeout(LIMIT):
        assert isinstance(await pair.client.lost, ConnectionResetError)
    pair.transport.write(b"y")
    assert pair.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("step", [ssl.SSLWantReadError(), ssl.SSLWantWriteError()], ids=["read", "write"])
async def test_a_full_record_with_nothing_behind_it_yet(pair: Pair, step: Exception) -> None:
    """It is handed on, and what comes later is, whatever OpenSSL wants before."""
    pair.sock.recvs = [None, step]
    pair.writer.write(bytes(16 * 1024))
    assert await pair.client.until(16 * 1024) == bytes(16 * 1024)
    pair.writer.write(b"more")
    assert (await pair.client.until(16 * 1024 + 4))[-4:] == b"more"


async def test_closing_while_nobody_reads(pair: Pair) -> None:
    """Says close_notify: the other side sees an end, not a cut; once is enough."""
    pair.transport.pause_reading()
    pair.transport.close()
    pair.transport.close()
    async with asyncio.timeout(LIMIT):
        assert await pair.reader.read() == b""
        assert await pair.client.lost is None
    pair.transport.abort()
    assert "lost" in repr(pair.transport)


async def test_an_abort_of_what_wants_to_read_first(pair: Pair) -> None:
    """What is kept is lost, and a turn of the loop that was due does nothing any more."""
    pair.sock.sends = [ssl.SSLWantReadError()]
    pair.transport.write(b"x")
    assert not pair.transport.can_write_eof()
    pair.writer.write(b"y")
    pair.transport.abort()
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None
    assert pair.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("where", ["read", "write"])
async def test_a_fault_that_is_not_the_connections(pair: Pair, where: str) -> None:
    """No memory to read or write into: this connection ends, and the event loop's handler, which logs, is told."""
    told: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    fault = MemoryError()
    if where == "read":
        pair.sock.recvs = [fault]
        pair.writer.write(b"x")
    else:
        pair.sock.sends = [ssl.SSLWantWriteError(), fault]
        pair.transport.write(b"x")
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is fault
    assert told == [fault]


# our end first, and the peer's later


async def rest(pair: Pair) -> bytes:
    async with asyncio.timeout(LIMIT):
        return await pair.reader.read()


@pytest.mark.parametrize("late", [False, True], ids=["at-once", "when-there-is-room"])
async def test_an_end_is_said_behind_what_is_kept(pair: Pair, late: bool) -> None:
    """close_notify after the last byte; nothing is written behind it, least of all in plain text."""
    pair.sock.sends = [ssl.SSLWantWriteError()]
    pair.sock.unwraps = [ssl.SSLWantWriteError()] if late else []
    pair.transport.write(b"the answer")
    pair.transport.end()
    pair.transport.end()
    assert await rest(pair) == b"the answer"
    pair.transport.write(b"more")
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None
    assert pair.sock.sends == []


async def test_what_comes_after_our_end_is_dropped(pair: Pair) -> None:
    """It is taken, so that nothing is reset, and not decrypted; the peer's end is the end."""
    pair.transport.pause_reading()
    pair.writer.write(bytes(1_000_000))
    pair.transport.end()
    assert not pair.client.lost.done()
    assert await rest(pair) == b""
    pair.writer.close()
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None
    assert pair.client.data == b""


async def test_an_abort_after_our_end(pair: Pair) -> None:
    """For a peer that does not leave."""
    pair.transport.end()
    pair.transport.abort()
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None


@pytest.mark.parametrize(
    ("where", "error"),
    [
        pytest.param("shuts", OSError("gone"), id="gone-meanwhile"),
        pytest.param("recvs", ConnectionResetError("reset"), id="reset-later"),
        pytest.param("recvs", MemoryError(), id="a-fault"),
    ],
)
async def test_an_end_that_fails_is_told(pair: Pair, where: str, error: Exception) -> None:
    """Once, and the connection is gone."""
    if isinstance(error, MemoryError):
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    setattr(pair.sock, where, [error])
    pair.transport.end()
    pair.writer.write(b"wake")
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is error
    assert pair.transport.is_closing()


async def test_a_fault_in_saying_the_end_later(pair: Pair) -> None:
    """Called by the event loop, it ends this connection."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    pair.sock.sends = [ssl.SSLWantWriteError()]
    fault = MemoryError()
    pair.sock.unwraps = [fault]
    pair.transport.write(b"x")
    pair.transport.end()
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is fault
