"""What is kept of bytes that the other side does not take: bounded in each direction, whatever carries them."""

from __future__ import annotations

import socket
from pathlib import Path
from sys import getsizeof

import pytest

from sidecar.errors import Reason, SidecarError
from tests.support.wire import GET, OK, End, Wire
from tests.wire.test_upgrades import ACCEPT, ASK, tunnel

pytestmark = pytest.mark.slow

BUFFER = 32 * 1024
READ = 17 * 16 * 1024
"""What one read may bring: 256 KiB of plain TCP, 17 records of TLS."""

BULK = 64 * 1024 * 1024
TOP = f"limits: {{buffer: {BUFFER}B}}"

LEGS = pytest.mark.parametrize("secure", [pytest.param(False, id="plain"), pytest.param(True, id="tls")])


def kept(wire: Wire) -> int:
    """Bytes that wait in the sidecar, in both directions together."""
    total = 0
    for connection in wire.proxy.serving:
        total += connection.transport.get_write_buffer_size() + len(connection.rest)
        if (exchange := connection.current) is not None and exchange.side is not None:
            total += exchange.side.transport.get_write_buffer_size()
            total += sum(map(len, exchange.held.pieces)) if exchange.held is not None else 0
    return total


async def still(wire: Wire, sender: End) -> int:
    """Let it run until the sender gets rid of nothing more; the most that was kept meanwhile."""
    before, most = -1, 0
    while before != wire.untaken(sender):
        before = wire.untaken(sender)
        for _ in range(50):
            await wire.yield_()
            most = max(most, kept(wire))
    return most


async def drained(receiver: End, size: int) -> None:
    receiver.reader._limit = 1 << 20
    while size > 0:
        size -= len(await receiver.read(min(size, 1 << 20)))


@LEGS
@pytest.mark.parametrize("reader", ["app", "upstream"])
async def test_a_tunnel_whose_reader_stops_keeps_little(
    wire: Wire, tmp_path: Path, reader: str, secure: bool
) -> None:
    """One buffer and one read, and not a byte is lost when it reads on."""
    await wire.start(top=TOP, secure=tmp_path if secure else None)
    app, upstream = await tunnel(wire)
    receiver, sender = (app, upstream) if reader == "app" else (upstream, app)
    receiver.reader._limit = 1
    sender.writer.write(bytes(BULK))
    most = await still(wire, sender)
    assert wire.untaken(sender) > BULK // 2
    assert BUFFER < most <= BUFFER + READ
    # The other way is still open.
    receiver.writer.write(b"still here")
    assert await sender.read(10) == b"still here"
    await drained(receiver, BULK)


@LEGS
async def test_bytes_before_the_101_are_bounded_too(wire: Wire, tmp_path: Path, secure: bool) -> None:
    """What the app sends ahead of the answer waits, and the upstream that does not read it stays bounded."""
    await wire.start(top=TOP, secure=tmp_path if secure else None)
    app = await wire.app()
    app.writer.write(ASK + bytes(BULK))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    assert await still(wire, app) <= 2 * READ
    # Both kernels' buffers as small as they get, so that what has gathered is too much for them.
    (connection,) = wire.proxy.serving
    assert connection.current is not None
    assert connection.current.side is not None
    sock = connection.current.side.transport.get_socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    upstream.reader._limit = 1
    await upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%b\r\n" % ACCEPT
    )
    await app.read_head()
    assert await still(wire, app) <= BUFFER + READ
    assert wire.untaken(app) > BULK // 2


@LEGS
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_that_is_not_read_keeps_little(
    wire: Wire, tmp_path: Path, framing: str, secure: bool
) -> None:
    """One buffer, one read, and what frames it."""
    await wire.start(top=TOP, secure=tmp_path if secure else None)
    app = await wire.app()
    app.reader._limit = 1
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    if framing == "length":
        upstream.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BULK + bytes(BULK))
    else:
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        upstream.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * (BULK >> 16))
    most = await still(wire, upstream)
    assert wire.untaken(upstream) > BULK // 2
    assert BUFFER < most <= BUFFER + READ + 4096


@LEGS
async def test_a_body_that_is_not_read_keeps_little(wire: Wire, tmp_path: Path, secure: bool) -> None:
    """One read, one buffer that was unsent before it, and one that is held for a second try."""
    await wire.start(top=TOP, secure=tmp_path if secure else None)
    app = await wire.app()
    app.writer.write(
        b"POST / HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n" % BULK + bytes(BULK)
    )
    upstream = await wire.upstream.accept()
    upstream.reader._limit = 1
    most = await still(wire, app)
    assert wire.untaken(app) > BULK // 2
    assert BUFFER < most <= 2 * BUFFER + READ


async def test_a_body_is_held_for_a_second_try_up_to_the_buffer(wire: Wire) -> None:
    """One byte more, and the request is not sent twice."""
    await wire.start(top=TOP)
    for size, again in ((BUFFER, True), (BUFFER + 1, False)):
        app = await wire.app()
        await app.send(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        await upstream.send(OK)
        await app.answer()
        await app.send(
            b"PUT /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        )
        await upstream.read_head()
        await upstream.read(size)
        upstream.reset()
        if again:
            second = await wire.upstream.accept()
            await second.read_head()
            await second.read(size)
            await second.send(OK)
            assert (await app.answer()).status == 200
            second.reset()
            await wire.turn(lambda: wire.stats.connections_idle == 0)
        else:
            assert (await app.answer()).reason == "upstream_closed"


async def test_a_body_of_single_bytes_is_held_by_the_memory_that_it_takes(wire: Wire) -> None:
    """Each is an object of its own, of fifty times its size."""
    await wire.start(top=TOP, prefetch=False)
    wire.source.gate.clear()
    app = await wire.app()
    app.writer.write(
        b"POST / HTTP/1.1\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\na\r\n" * 4_000_000
    )
    await still(wire, app)
    assert wire.untaken(app) > 10_000_000
    (connection,) = wire.proxy.serving
    assert connection.current is not None
    assert 0 < sum(map(getsizeof, connection.current.held.pieces)) < 3 * BUFFER


UNREAD = [
    pytest.param(GET.replace(b"billing", b"nowhere"), "no_route", id="refused"),
    pytest.param(GET, "token_denied", id="no-token"),
]


@pytest.mark.parametrize(("request_", "reason"), UNREAD)
async def test_an_app_that_reads_no_answers_is_not_heard_further(
    wire: Wire, request_: bytes, reason: str
) -> None:
    """The sidecar's own answers are kept as any: while the app does not take them, no request of it is read."""
    await wire.start(top=TOP, prefetch=False)
    if reason == "token_denied":
        wire.source.error = SidecarError(Reason.TOKEN_DENIED, "The key was deleted.")
    app = await wire.app(narrow=True)
    count = 200_000
    app.writer.write(request_ * count)
    most = await still(wire, app)
    assert wire.untaken(app) > len(request_) * count // 2
    assert most <= BUFFER + 2 * READ
    app.reader._limit = 1 << 20
    for _ in range(2_000):
        assert (await app.answer()).reason == reason
