"""sidecar.proxy.handover: a connection of the data path's, served by a protocol of asyncio's"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from sidecar.net.event_loop import readiness_of
from sidecar.net.listeners import Owner
from sidecar.net.tcp import attach
from sidecar.proxy.connections import Connection, Connections
from sidecar.proxy.handover import Handover


class Recorder(asyncio.Protocol):
    """Notes what it is told, and does what a test wants on the first bytes."""

    def __init__(self, on_data: Callable[[asyncio.Transport, bytes], None]) -> None:
        self.told: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()
        self._on_data = on_data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, object)
        self.transport: Any = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.told.append("data")
        self._on_data(self.transport, data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


class Counted(Connections):
    """Those that are open, as the proxy knows them."""

    def __init__(self) -> None:
        self.open: list[Connection] = []

    def opened(self, connection: Connection) -> None:
        self.open.append(connection)

    def closed(self, connection: Connection) -> None:
        self.open.remove(connection)


OWNER = Owner(None, is_unix=False)


async def handed_over(
    on_data: Callable[[asyncio.Transport, bytes], None], connections: Connections | None = None
) -> tuple[Recorder, socket.socket]:
    """A protocol on one end of a connection, and the other end."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    protocol = Recorder(on_data)
    attach(loop, readiness_of(loop), ours, Handover(loop, protocol, OWNER, connections or Counted()))
    return protocol, theirs


async def test_bytes_go_both_ways() -> None:
    """In order, whatever they are written by; then the end."""

    def answer(transport: asyncio.Transport, data: bytes) -> None:
        transport.write(data.upper())
        transport.writelines([b"1", bytearray(b"2"), memoryview(b"3")])
        transport.close()
        assert transport.is_closing()

    protocol, theirs = await handed_over(answer)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(theirs, b"abc")
    assert await loop.sock_recv(theirs, 100) == b"ABC123"
    assert await loop.sock_recv(theirs, 100) == b""
    assert await protocol.lost is None
    assert protocol.told == ["made", "data", "lost"]
    theirs.close()


async def test_what_it_says_of_itself() -> None:
    """The socket, its peer, whose listener it came in by; nothing of what it does not know."""
    protocol, theirs = await handed_over(lambda *_: None)
    transport = protocol.transport
    assert transport.get_extra_info("owner") is OWNER
    assert transport.get_extra_info("socket").fileno() > 0
    assert transport.get_extra_info("peername") == theirs.getsockname()
    assert transport.get_extra_info("sslcontext", 5) == 5
    assert (transport.get_write_buffer_size(), transport.is_reading(), transport.can_write_eof()) == (
        0,
        True,
        True,
    )
    transport.pause_reading()
    assert not transport.is_reading()
    transport.resume_reading()
    assert transport.is_reading()
    transport.abort()
    await protocol.lost
    theirs.close()


async def test_the_end_of_the_peer_is_told() -> None:
    """The protocol says whether it has more to say: this one has not."""
    protocol, theirs = await handed_over(lambda *_: None)
    theirs.shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.told == ["made", "eof", "lost"]
    theirs.close()


async def test_a_fault_ends_the_connection_alone() -> None:
    """The event loop's handler gets it, which logs and counts."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail(transport: asyncio.Transport, data: bytes) -> None:
        raise LookupError("a fault")

    protocol, theirs = await handed_over(fail)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(theirs, b"abc")
    await protocol.lost
    assert [type(it["exception"]) for it in told] == [LookupError]
    theirs.close()


async def test_one_that_has_asked_for_nothing_ends_at_once() -> None:
    """Where the proxy closes what is idle, as a reload does; it is counted until then."""
    connections = Counted()
    protocol, theirs = await handed_over(lambda *_: None, connections)
    (connection,) = connections.open
    connection.close_if_idle()
    await protocol.lost
    assert connections.open == []
    theirs.close()


async def test_one_with_an_answer_under_way_gets_a_second() -> None:
    """From when the end was announced; then it is closed."""
    connections = Counted()
    came = asyncio.Event()
    protocol, theirs = await handed_over(lambda *_: came.set(), connections)
    (connection,) = connections.open
    await asyncio.get_running_loop().sock_sendall(theirs, b"x")
    await came.wait()
    connection.close_if_idle()
    connection.sweep(10.0)
    connection.drain(100.0)
    connection.sweep(100.9)
    assert connections.open == [connection]
    connection.sweep(101.0)
    await protocol.lost
    assert connections.open == []
    theirs.close()
