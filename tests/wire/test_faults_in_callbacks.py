"""Faults of the sidecar's own in what asyncio calls, and in the ending of what a fault has hit already"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from sidecar.config.addresses import ListenAddress
from sidecar.net import listeners
from sidecar.proxy import acceptor
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.http1.downstream import DownstreamConnection
from tests.support.source import LIMIT
from tests.support.wire import GET, OK, End, Wire

pytestmark = pytest.mark.interpreted


def fault(*_: object, **__: object) -> Any:
    raise RuntimeError("a bug")


async def all_is_well(wire: Wire) -> End:
    """What was held is given back, the fault is counted, and the next connection is served; by this upstream."""
    await wire.turn(lambda: not wire.proxy.connections)
    assert (wire.stats.in_flight, wire.stats.tunnels, len(wire.proxy.context.tunnels)) == (0, 0, 0)
    assert wire.proxy.faults.count > 0
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    return upstream


async def ended(app: End) -> bytes:
    """What came before the end, or the reset."""
    try:
        return await app.rest()
    except ConnectionResetError:
        return b""


async def test_when_a_connection_is_made(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed at once."""
    await wire.start()
    with monkeypatch.context() as patch:
        patch.setattr(wire.proxy, "opened", fault)
        app = await wire.app()
        assert await ended(app) == b""
    await all_is_well(wire)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError()], ids=["fault", "memory"])
@pytest.mark.parametrize(
    "top", ["", "listen: {address: 'localhost:0', connections: 1}"], ids=["usual", "limited"]
)
async def test_when_no_connection_object_can_be_made(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, error: Exception, top: str
) -> None:
    """Its socket is closed at once, the fault is counted, and the next caller is served."""
    await wire.start(top=top)

    def make(*_: object) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(wire.proxy.acceptors, "make", make)
        app = await wire.app()
        assert await ended(app) == b""
    assert wire.proxy.faults.count == 1
    await all_is_well(wire)


async def test_when_a_listener_cannot_be_read(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are, and this one is tried again: not at once, for a fault that stays would be all that the loop does."""
    await wire.start()
    (other,) = listeners.bind(ListenAddress("127.0.0.1", 0))
    await wire.proxy.serve(other, None)
    acceptors = wire.proxy.acceptors
    add_reader = wire.loop.add_reader

    def refuse(fd: int, *more: Any) -> None:
        if fd == wire.listener.fileno():
            fault()
        add_reader(fd, *more)

    with monkeypatch.context() as patch:
        patch.setattr(acceptors, "room", fault)
        waiting = await wire.app()
        await wire.turn(lambda: acceptors.is_short)
    assert wire.proxy.faults.count == 1
    with monkeypatch.context() as patch:
        patch.setattr(wire.loop, "add_reader", refuse)
        wire.clock.advance(0.3)
        assert (wire.proxy.faults.count, acceptors.is_short) == (2, False)
        port, wire.port = wire.port, other.socket.getsockname()[1]
        upstream = await all_is_well(wire)
        wire.port = port
    wire.clock.advance(0.3)
    await waiting.send(GET)
    await upstream.read_head()
    await upstream.send(OK)
    assert (await waiting.answer()).status == 200


@pytest.mark.parametrize("method", ["upstream_full", "upstream_writable"])
async def test_when_the_upstream_is_slow(wire: Wire, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Told that it is full, or that it is not any more: the request ends."""
    await wire.start()
    size = 32 * 1024 * 1024
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, method, fault)
        app = await wire.app()
        head = b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n" % size
        app.writer.write(head + bytes(size))
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        if method == "upstream_writable":
            await wire.turn(lambda: any(one.is_blocked for one in wire.proxy.serving))
            while not wire.proxy.faults.count:
                async with asyncio.timeout(LIMIT):
                    if not await upstream.reader.read(1 << 16):
                        break
        await wire.turn(lambda: wire.proxy.faults.count)
        app.writer.transport.abort()
    await upstream.close()
    await all_is_well(wire)


@pytest.mark.parametrize("yes", [False, True], ids=["full", "writable"])
async def test_when_the_app_is_slow(wire: Wire, monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    """The same for the app's side."""
    await wire.start()
    writable = Exchange.app_writable
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "app_writable", lambda it, on: fault() if on is yes else writable(it, on))
        app = await wire.app(narrow=True)
        await app.send(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        size = 8 * 1024 * 1024
        upstream.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        if yes:
            await wire.turn(lambda: any(one.is_full for one in wire.proxy.serving))
            app.reader._limit = 1 << 20
            assert len(await ended(app)) < size
        await wire.turn(lambda: wire.proxy.faults.count)
        app.writer.transport.abort()
    await upstream.close()
    await all_is_well(wire)


async def test_when_no_dial_can_be_started(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is free again: a route of one connection serves on."""
    await wire.start(top="pool: {connections: 1}")

    def spawn(coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        coroutine.close()
        fault()

    with monkeypatch.context() as patch:
        patch.setattr(wire.pools.tasks, "spawn", spawn)
        app = await wire.app()
        await app.send(GET)
        assert (await app.answer()).reason == "internal"
        await app.close()
    await all_is_well(wire)


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        pytest.param(Exchange, "_fail", id="no-answer-can-be-given"),
        pytest.param(Exchange, "_finish", id="it-can-t-be-counted"),
        pytest.param(DownstreamConnection, "_linger", id="the-connection-can-t-be-ended-well"),
    ],
)
async def test_when_ending_after_a_fault(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """What can be ended is, and all that was held is given back once."""
    await wire.start()
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, fault)
        patch.setattr("sidecar.proxy.http1.heads.request_head", fault)
        app = await wire.app()
        await app.send(GET)
        await ended(app)
        await app.close()
        await wire.turn(lambda: not wire.proxy.connections)
    (await wire.upstream.accept()).reset()
    await all_is_well(wire)


async def test_when_ending_a_tunnel_after_a_fault(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place among the tunnels is given back, once."""
    await wire.start()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "from_app", fault)
        patch.setattr(Exchange, "_finish", fault)
        app = await wire.app()
        await app.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        await upstream.send(b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await app.read_head()
        assert wire.stats.tunnels == 1
        await app.send(b"hello")
        await ended(app)
    await all_is_well(wire)


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("a bug")], ids=["gone", "fault"])
async def test_when_an_accepted_connection_cannot_be_made(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its caller is gone, or meets a fault: it is closed, and the listener's one place is free again."""
    await wire.start(top="listen: {address: 'localhost:0', connections: 1}")

    def unmade(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(acceptor, "attach", unmade)
        app = await wire.app()
        assert await ended(app) == b""
    await wire.turn(lambda: not wire.proxy.acceptors.arriving)
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
