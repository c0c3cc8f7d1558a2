"""sidecar.net.tcp: a transport over a real socket, on the product's event loop and on asyncio's own"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sidecar.net.event_loop import readiness_of
from sidecar.net.readiness import LoopReadiness, Watcher
from sidecar.net.tcp import TcpTransport
from sidecar.net.transport import Receiver, Transport

pytestmark = pytest.mark.both_loops

LIMIT = 60.0
"""Seconds after which a test that waits fails."""
FAULT = RuntimeError("a bug")
BULK = bytes(range(256)) * 16_384
"""More than two sockets' buffers hold."""


class Contrary(socket.socket):
    """A socket whose calls raise what a test says, one after the other, before they work again."""

    raises: list[BaseException]

    def _maybe(self) -> None:
        if self.raises:
            raise self.raises.pop(0)

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._maybe()
        return super().recv(size, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        self._maybe()
        return super().send(data, flags)

    def sendmsg(self, pieces: Any, *rest: Any) -> int:
        self._maybe()
        return super().sendmsg(pieces, *rest)


class Connection(Receiver):
    """Records what it is told."""

    def __init__(self) -> None:
        self.transport: Transport | None = None
        self.told: list[str] = []
        self.data = b""
        self.keeps = False
        self.on_data: Callable[[], object] = bool
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.on_data()

    def eof_received(self) -> bool | None:
        self.told.append("eof")
        return self.keeps

    def pause_writing(self) -> None:
        self.told.append("full")

    def resume_writing(self) -> None:
        self.told.append("room")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)  # once: a second time raises


class Ends:
    """A transport, its connection, and the peer's socket."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.sock = Contrary(fileno=ours.detach())
        self.sock.raises = []
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.loop = asyncio.get_running_loop()
        self.reported: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.reported.append(context))
        self.connection = Connection()
        self.transport = TcpTransport(self.loop, readiness_of(self.loop), self.sock, self.connection)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn."""
        async with asyncio.timeout(LIMIT):
            while not condition():  # noqa: ASYNC110  # the loop's turns are what it waits for
                await asyncio.sleep(0)

    async def read(self, size: int) -> bytes:
        """What the peer gets: so many bytes, or all to the end."""
        got = bytearray()
        async with asyncio.timeout(LIMIT):
            while len(got) < size and (data := await self.loop.sock_recv(self.peer, size - len(got))):
                got += data
        return bytes(got)

    async def ended(self) -> Exception | None:
        """What it was lost by."""
        async with asyncio.timeout(LIMIT):
            error = await self.connection.lost
        await self.until(lambda: self.sock.fileno() == -1)
        return error


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.transport.abort()
    await made.ended()
    made.peer.close()
    made.loop.set_exception_handler(None)


async def test_bytes_go_both_ways_and_the_end_comes_through(ends: Ends) -> None:
    ends.peer.send(b"ask")
    await ends.until(lambda: ends.connection.data == b"ask")
    ends.transport.write(b"answer")
    ends.transport.write(b"")
    assert await ends.read(6) == b"answer"
    ends.peer.close()
    assert await ends.ended() is None
    assert ends.connection.told == ["eof"]
    assert ends.transport.is_closing()


async def test_what_the_socket_does_not_take_is_kept_in_order(ends: Ends) -> None:
    """And the receiver is told when it is too much, and when it is little again."""
    ends.transport.set_write_buffer_limits(100_000)
    ends.transport.write(BULK)
    ends.transport.write(b"in the ")
    ends.transport.write(b"right order")
    assert ends.connection.told == ["full"]
    assert ends.transport.get_write_buffer_size() > 100_000
    assert await ends.read(len(BULK) + 18) == BULK + b"in the right order"
    await ends.until(lambda: ends.connection.told == ["full", "room"])
    assert ends.transport.get_write_buffer_size() == 0


async def test_reading_is_paused_and_resumed(ends: Ends) -> None:
    """Again is harmless; a pause from within holds from the next read on."""
    ends.connection.on_data = ends.transport.pause_reading
    ends.peer.send(b"a")
    await ends.until(lambda: ends.connection.data)
    assert not ends.transport.is_reading()
    ends.transport.pause_reading()
    ends.peer.send(b"b")
    for _ in range(5):
        await asyncio.sleep(0)
    assert ends.connection.data == b"a"
    ends.transport.resume_reading()
    ends.transport.resume_reading()
    await ends.until(lambda: ends.connection.data == b"ab")


async def test_our_direction_stays_open_where_the_receiver_wants_it(ends: Ends) -> None:
    """And an end is told once, however often reading is resumed."""
    ends.connection.keeps = True
    ends.peer.shutdown(socket.SHUT_WR)
    await ends.until(lambda: ends.connection.told)
    ends.transport.resume_reading()
    for _ in range(5):
        await asyncio.sleep(0)
    assert ends.connection.told == ["eof"]
    ends.transport.write(b"still")
    assert await ends.read(5) == b"still"
    ends.transport.write_eof()
    assert await ends.read(1) == b""
    assert not ends.transport.is_closing()


@pytest.mark.parametrize("way", ["write_eof", "end", "close"])
async def test_an_end_comes_behind_what_is_kept(ends: Ends, way: str) -> None:
    """What is written after it is not sent."""
    ends.transport.write(BULK)
    getattr(ends.transport, way)()
    getattr(ends.transport, way)()
    ends.transport.write(b"too late")
    assert await ends.read(len(BULK) + 1) == BULK
    if way == "close":
        assert await ends.ended() is None


async def test_after_our_end_bytes_still_come(ends: Ends) -> None:
    """`end` reads on though reading was paused: closing with bytes unread would reset."""
    ends.transport.pause_reading()
    ends.transport.end()
    assert await ends.read(1) == b""
    ends.peer.send(b"more")
    await ends.until(lambda: ends.connection.data == b"more")


async def test_abort_drops_what_is_kept(ends: Ends) -> None:
    ends.transport.write(BULK)
    ends.transport.abort()
    ends.transport.abort()
    ends.transport.close()
    ends.transport.resume_reading()
    assert await ends.ended() is None
    assert len(await ends.read(len(BULK))) < len(BULK)
    assert "lost unsent=0" in repr(ends.transport)


@pytest.mark.parametrize("busy", [False, True], ids=["reading", "writing"])
async def test_a_reset_ends_it_with_the_error(*, busy: bool) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        peer, _ = listening.accept()
    ours.setblocking(False)
    connection = Connection()
    transport = TcpTransport(loop, readiness_of(loop), ours, connection)
    if busy:
        transport.pause_reading()
        while not transport.get_write_buffer_size():
            transport.write(BULK)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    async with asyncio.timeout(LIMIT):
        assert isinstance(await connection.lost, ConnectionResetError | BrokenPipeError)


@pytest.mark.parametrize("call", ["read", "write", "kept"])
@pytest.mark.parametrize("error", [InterruptedError(), BlockingIOError()], ids=["EINTR", "EAGAIN"])
async def test_a_call_that_is_interrupted_is_made_again(ends: Ends, call: str, error: OSError) -> None:
    expected = b"x" * 100_000
    if call == "kept":
        expected = BULK
        ends.transport.write(BULK)
    ends.sock.raises = [error]
    if call == "write":
        ends.transport.write(expected)
    elif call == "read":
        ends.peer.send(b"x")
        await ends.until(lambda: ends.connection.data == b"x")
        return
    assert await ends.read(len(expected)) == expected


@pytest.mark.parametrize("call", ["read", "write", "kept"])
async def test_a_call_that_fails_ends_the_connection(ends: Ends, call: str) -> None:
    error = OSError(errno.ENOBUFS, "no buffers")
    if call == "kept":
        ends.transport.write(BULK)
    ends.sock.raises = [error]
    if call == "write":
        ends.transport.write(b"x")
    elif call == "read":
        ends.peer.send(b"x")
    else:
        ends.peer.recv(1 << 20)
    assert await ends.ended() is error
    assert not ends.reported


async def test_a_fault_ends_the_connection_and_is_told_to_the_loop(ends: Ends) -> None:
    """No memory to read into is one: what is lost is not the peer's doing."""
    ends.sock.raises = [MemoryError()]
    ends.peer.send(b"x")
    assert isinstance(await ends.ended(), MemoryError)
    assert isinstance(ends.reported[0]["exception"], MemoryError)


@pytest.mark.parametrize("callback", ["data_received", "eof_received", "resume_writing"])
async def test_a_fault_in_a_callback(ends: Ends, monkeypatch: pytest.MonkeyPatch, callback: str) -> None:
    def breaks(*_: object) -> None:
        raise FAULT

    monkeypatch.setattr(Connection, callback, breaks)
    if callback == "data_received":
        ends.peer.send(b"x")
    elif callback == "eof_received":
        ends.peer.shutdown(socket.SHUT_WR)
    else:
        ends.transport.write(BULK)
        await ends.read(len(BULK))
    assert await ends.ended() is FAULT
    assert ends.reported[0]["exception"] is FAULT


async def test_another_receiver_takes_its_place(ends: Ends) -> None:
    heir = Connection()
    ends.transport.set_protocol(heir)
    ends.peer.send(b"x")
    await ends.until(lambda: heir.data == b"x")
    ends.transport.set_protocol(ends.connection)


class Full(LoopReadiness):
    """A kernel that has no room for one more."""

    def __init__(self, which: str) -> None:
        self.which = which

    def _raise(self, which: str, wanted: bool) -> None:
        if wanted and which == self.which:
            raise OSError(errno.ENOSPC, "no watches")

    def read(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        self._raise("read", wanted)

    def write(self, fd: int, watcher: Watcher, wanted: bool) -> None:
        self._raise("write", wanted)

    def leave(self, fd: int) -> None:
        pass


@pytest.mark.parametrize("which", ["read", "write"])
async def test_a_socket_that_cannot_be_waited_for_ends(which: str) -> None:
    """epoll_ctl(2): ENOSPC and ENOMEM."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    connection = Connection()
    with peer:
        transport = TcpTransport(asyncio.get_running_loop(), Full(which), ours, connection)
        transport.write(BULK)
        async with asyncio.timeout(LIMIT):
            error = await connection.lost
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC


async def test_a_number_that_the_kernel_gives_again_is_another_connection(ends: Ends) -> None:
    """Nothing of a closed socket is left behind in the selector."""
    for _ in range(3):
        another = Ends()
        number = another.sock.fileno()
        another.peer.send(b"x")
        await another.until(lambda another=another: another.connection.data)
        another.transport.abort()
        await another.ended()
        another.peer.close()
        assert number > 0
