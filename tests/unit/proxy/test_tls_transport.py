"""sidecar.net.tls, where OpenSSL or the socket does not do as it is told at once"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import ssl
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.keys import Authority
from sidecar.net import tls, tls_handshake
from sidecar.net.event_loop import readiness_of
from sidecar.net.transport import Receiver, Transport
from tests.support.closing import abort

LIMIT = 60.0


class Holding(ssl.SSLWantWriteError):
    """OpenSSL has taken bytes from the socket, and wants to write before it gives them: no selector knows of them."""


class Scripted(ssl.SSLSocket):
    """A socket that does what a test says, call by call, and then what sockets do."""

    shakes: list[Exception]
    sends: list[Exception | int]
    """An error, or how many bytes at most are taken."""
    recvs: list[Exception | bytes | None]
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
        if isinstance(step, Holding):
            self.__dict__["held"] = super().recv(size, flags)
        if isinstance(step, Exception):
            raise step
        return step or self.__dict__.pop("held", b"") or super().recv(size, flags)


class Client(Receiver):
    """What a connection is to the transport; it records."""

    def __init__(self) -> None:
        self.data = b""
        self.full = False
        self.resumed: list[int] = []
        """How much was kept whenever it was told to go on."""
        self.fault: Exception | None = None
        """What it raises when it is given bytes."""
        self.changed = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        self.data += data
        self.changed.set()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.resumed.append(self.transport.get_write_buffer_size())

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
    secured = await tls_handshake.handshake(loop, sock, context, "localhost", None)
    assert isinstance(secured, Scripted)
    assert secured.shakes == []
    client = Client()
    made = Pair(secured, tls.TlsTransport(loop, readiness_of(loop), secured, client), client)
    async with asyncio.timeout(LIMIT):
        made.reader, made.writer = await ends.get()
    yield made
    made.transport.abort()
    abort(made.writer)
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


@pytest.mark.parametrize("where", ["read", "protocol", "write"])
async def test_a_fault_that_is_not_the_connections(pair: Pair, where: str) -> None:
    """No memory to read or write into: this connection ends, and the event loop's handler, which logs, is told."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    fault = MemoryError()
    if where == "protocol":
        pair.client.fault = fault
        pair.writer.write(b"x")
    elif where == "read":
        pair.sock.recvs = [fault]
        pair.writer.write(b"x")
    else:
        pair.sock.sends = [ssl.SSLWantWriteError(), fault]
        pair.transport.write(b"x")
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is fault
    message = "Fatal error on a TLS connection."
    assert told == [{"message": message, "exception": fault, "transport": pair.transport}]


async def settled(pair: Pair) -> None:
    """Let all pass that a handshake leaves behind, such as tickets; the client has had two bytes then."""
    pair.writer.write(b"hi")
    await pair.client.until(2)


async def test_a_read_that_wants_to_write_goes_on_by_itself(pair: Pair) -> None:
    """What OpenSSL holds is handed on, though nothing more comes."""
    await settled(pair)
    pair.sock.recvs = [Holding()]
    pair.writer.write(b"x")
    assert await pair.client.until(3) == b"hix"


async def test_what_is_held_behind_a_full_record_is_handed_on(pair: Pair) -> None:
    """The same within a large body."""
    await settled(pair)
    pair.transport.pause_reading()
    pair.writer.write(bytes(16 * 1024))
    pair.writer.write(b"more")
    pair.sock.recvs = [None, Holding()]
    pair.transport.resume_reading()
    assert await pair.client.until(16 * 1024 + 6) == b"hi" + bytes(16 * 1024) + b"more"


@pytest.mark.parametrize("paused", [None, "before", "meanwhile"])
async def test_a_write_that_wants_to_read_waits_for_bytes(pair: Pair, paused: str | None) -> None:
    """And for nothing else; whether bytes are handed on is as it was before, and so are later writes."""
    await settled(pair)
    if paused == "before":
        pair.transport.pause_reading()
    pair.sock.sends = [ssl.SSLWantReadError()]
    pair.transport.write(b"a")
    if paused == "meanwhile":
        pair.transport.pause_reading()
    for _ in range(5):
        await asyncio.sleep(0)
    assert pair.transport.get_write_buffer_size() == 1
    pair.writer.write(b"x")
    async with asyncio.timeout(LIMIT):
        assert await pair.reader.readexactly(1) == b"a"
    pair.sock.sends = [ssl.SSLWantWriteError()]
    pair.transport.write(b"b")
    async with asyncio.timeout(LIMIT):
        assert await pair.reader.readexactly(1) == b"b"
    pair.writer.write(b"y")
    if paused is not None:
        assert pair.client.data == b"hi"
        pair.transport.resume_reading()
    assert await pair.client.until(4) == b"hixy"


async def test_nothing_is_sent_behind_what_failed(pair: Pair) -> None:
    """Else the other side would take the rest for the whole."""
    pair.sock.sends = [BrokenPipeError(errno.EPIPE, "x")]
    pair.transport.write(b"x")
    pair.transport.write(b"y")
    async with asyncio.timeout(LIMIT):
        assert isinstance(await pair.client.lost, BrokenPipeError)
        assert await pair.reader.read() == b""


async def test_no_bytes_are_no_write(pair: Pair) -> None:
    """OpenSSL does not say what becomes of one (SSL_write(3))."""
    pair.sock.sends = [BrokenPipeError(errno.EPIPE, "x")]
    pair.transport.write(b"")
    assert not pair.transport.is_closing()


async def test_how_much_is_too_much(pair: Pair) -> None:
    """More than the upper mark; it is told again each time, and taken back at the lower one, a quarter of that."""
    pair.transport.set_write_buffer_limits(high=4)
    for _ in range(2):
        pair.sock.sends = [ssl.SSLWantWriteError(), 4, ssl.SSLWantWriteError()]
        pair.transport.write(b"abcd")
        assert not pair.client.full
        pair.transport.write(b"e")
        assert pair.client.full
        async with asyncio.timeout(LIMIT):
            assert await pair.reader.readexactly(5) == b"abcde"
    assert pair.client.resumed == [1, 1]


async def test_closing_with_bytes_that_are_kept(pair: Pair) -> None:
    """They are sent; nothing is read any more, even if it is asked for."""
    pair.sock.sends = [ssl.SSLWantWriteError()]
    pair.transport.write(b"kept")
    pair.transport.close()
    assert (pair.transport.is_closing(), pair.transport.is_reading()) == (True, False)
    pair.transport.resume_reading()
    assert not pair.transport.is_reading()
    assert await rest(pair) == b"kept"
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        pytest.param(b"G", True, id="a-letter"),
        pytest.param(b"M-SEARCH * HTTP/1.1", True, id="a-method-of-few-letters"),
        pytest.param(b"\x16\x03\x01", False, id="tls"),
        pytest.param(b"", False, id="an-end"),
    ],
)
async def test_a_letter_at_the_beginning_is_plain_http(sent: bytes, plain: bool) -> None:
    """One is enough to tell, and it is not taken."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        assert await tls_handshake.speaks_plainly(asyncio.get_running_loop(), ours) is plain
        assert ours.recv(100) == sent


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


async def test_what_is_dropped_is_no_end(pair: Pair) -> None:
    """Nor is that nothing was there to take."""
    pair.transport.end()
    pair.sock.recvs = [InterruptedError(), BlockingIOError(), b"dropped", b"dropped"]
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None
    assert (pair.sock.recvs, pair.client.data) == ([], b"")


async def test_an_end_is_not_cut_by_a_close(pair: Pair) -> None:
    """Nothing is read by then: closing would reset."""
    pair.transport.end()
    pair.transport.close()
    assert "closing" in repr(pair.transport)
    assert await rest(pair) == b""
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None


async def test_an_end_while_a_read_wants_to_write(pair: Pair) -> None:
    """That there is room again is not the end: the peer's is waited for."""
    await settled(pair)
    pair.sock.recvs = [ssl.SSLWantWriteError()]
    pair.writer.write(b"x")
    while pair.sock.recvs:  # noqa: ASYNC110  # the transport sends no event
        await asyncio.sleep(0)
    pair.transport.end()
    pair.sock.recvs = [b"dropped", b"dropped"]
    async with asyncio.timeout(LIMIT):
        assert await pair.client.lost is None
    assert (pair.sock.recvs, pair.client.data) == ([], b"hi")


async def test_small_records_are_handed_on_together_where_they_may_be_of_many_streams(pair: Pair) -> None:
    """As many as are there; where there was nothing behind one, the next ones are handed on by themselves."""
    pair.transport.read_ahead()
    pair.transport.pause_reading()
    pieces: list[int] = []
    received = pair.client.data_received
    pair.client.data_received = lambda data: (pieces.append(len(data)), received(data))[1]  # type: ignore[method-assign]
    for _ in range(5):
        pair.writer.write(bytes(100))
        await pair.writer.drain()
    await until_there(pair, 5 * 100)
    pair.transport.resume_reading()
    await pair.client.until(500)
    assert pieces == [500]
    for number in range(1, 4):
        pair.writer.write(bytes(10))
        await pair.client.until(500 + number * 10)
    assert pieces[1:] == [10, 10, 10]


async def until_there(pair: Pair, size: int) -> None:
    """Wait until so many bytes, in records, are in the kernel's buffer of the transport's socket."""
    async with asyncio.timeout(LIMIT):
        while int.from_bytes(fcntl.ioctl(pair.sock, termios.FIONREAD, bytes(4)), "little") < size:  # noqa: ASYNC110  # the kernel has no event for it
            await asyncio.sleep(0)
