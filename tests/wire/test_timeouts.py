"""Every phase of a request has its limit in time, its own reason, and ends on both sides."""

from __future__ import annotations

import pytest

from tests.support.wire import GET, OK, End, Wire
from tests.wire.test_upgrades import tunnel

BULK = 32 * 1024 * 1024
"""More than the kernels on the way hold."""

POST = b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


async def stuck(wire: Wire, sender: End) -> None:
    """Until nothing more is taken from the sender."""
    before = -1
    while before != wire.untaken(sender):
        before = wire.untaken(sender)
        for _ in range(30):
            await wire.yield_()
    assert before
    wire.clock.advance(1.0)  # a sweep that sees how things stand


async def gone(wire: Wire) -> None:
    """Both sides are closed, and nothing is held for them."""
    await wire.turn(lambda: not wire.proxy.connections and not wire.stats.connections_active)
    assert wire.stats.in_flight == 0
    await wire.turn(lambda: all(not pool.open for pool in wire.pools))


async def asked(wire: Wire, request: bytes = GET) -> tuple[End, End]:
    app = await wire.app()
    await app.send(request)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    return app, upstream


async def test_an_upstream_that_takes_no_more_of_a_body(wire: Wire) -> None:
    """504 `send_timeout`, `timeouts.send` after the last byte that it took."""
    await wire.start("timeouts: {send: 60s, response: 30s}")
    app = await wire.app()
    app.writer.write(POST % BULK + bytes(BULK))
    upstream = await wire.upstream.accept()
    upstream.reader._limit = 1
    await stuck(wire, app)
    wire.clock.advance(50.0)
    # It takes some: the time begins again.
    upstream.reader._limit = 1 << 20
    await upstream.read(BULK // 4)
    upstream.reader._limit = 1
    await stuck(wire, app)
    wire.clock.advance(58.0)
    assert wire.stats.in_flight == 1
    wire.clock.advance(3.0)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (504, "send_timeout")
    assert answer.headers["connection"] == "close"
    app.writer.transport.abort()
    await gone(wire)


async def test_an_app_that_takes_no_more_of_its_answer(wire: Wire) -> None:
    """`client_stalled`: its connection is broken off with what it did not take, and so is the upstream's."""
    await wire.start("timeouts: {idle: 10s}", top="limits: {send_timeout: 60s}")
    app, upstream = await asked(wire)
    app.reader._limit = 1
    upstream.writer.write(HEAD % BULK + bytes(BULK))
    await stuck(wire, upstream)
    wire.clock.advance(50.0)
    app.reader._limit = 1 << 20
    await app.read_head()
    await app.read(BULK // 4)
    app.reader._limit = 1
    await stuck(wire, upstream)
    wire.clock.advance(58.0)
    assert wire.stats.in_flight == 1
    wire.clock.advance(3.0)
    await gone(wire)
    assert wire.stats.cut == {"client_stalled": 1}
    assert wire.stats.requests == {("GET", 200): 1}


async def test_an_app_that_takes_no_more_before_its_next_answer(wire: Wire) -> None:
    """`client_stalled`, however short `response` is: the upstream, whose answer nobody reads, is not to blame."""
    await wire.start("timeouts: {response: 10s}", top="limits: {send_timeout: 60s}")
    app = await wire.app(narrow=True)
    await app.send(GET + GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    upstream.writer.write(HEAD % (80 * 1024) + bytes(80 * 1024))
    await upstream.read_head()
    wire.clock.advance(1.0)
    wire.clock.advance(58.0)
    assert wire.stats.in_flight == 1
    wire.clock.advance(3.0)
    await gone(wire)
    assert wire.stats.cut == {"client_stalled": 1}
    assert wire.stats.requests == {("GET", 200): 1, ("GET", 499): 1}
    assert wire.stats.refused == {}


async def test_an_answer_that_stops(wire: Wire) -> None:
    """`idle_timeout` is for bytes that don't come; it is counted, and both sides end."""
    await wire.start("timeouts: {idle: 20s}")
    app, upstream = await asked(wire)
    await upstream.send(HEAD % 9 + b"a")
    await app.read_until(b"a")
    wire.clock.advance(1.0)
    wire.clock.advance(18.0)
    assert wire.stats.in_flight == 1
    wire.clock.advance(3.0)
    assert await app.rest() == b""
    await gone(wire)
    assert wire.stats.cut == {"idle_timeout": 1}


@pytest.mark.parametrize("side", ["app", "upstream", "both"])
async def test_a_tunnel_that_stands_still(wire: Wire, side: str) -> None:
    """Each with its reason: the app that takes nothing, the upstream that takes nothing, and silence on both sides."""
    await wire.start(
        "timeouts: {idle: 5s, response: 5s, send: 40s, tunnel_idle: 80s}", top="limits: {send_timeout: 40s}"
    )
    app, upstream = await tunnel(wire)
    if side == "both":
        wire.clock.advance(1.0)
        limit, reason = 80.0, "tunnel_idle"
    else:
        receiver, sender = (app, upstream) if side == "app" else (upstream, app)
        receiver.reader._limit = 1
        sender.writer.write(bytes(BULK))
        await stuck(wire, sender)
        limit, reason = 40.0, {"app": "client_stalled", "upstream": "send_timeout"}[side]
    wire.clock.advance(limit - 2.0)
    assert wire.stats.tunnels == 1
    wire.clock.advance(3.0)
    assert wire.stats.cut == {reason: 1}
    assert wire.stats.tunnels == 0
    await gone(wire)


async def test_a_tunnel_with_traffic_lives_on(wire: Wire) -> None:
    """Neither `idle` nor `total` is for it."""
    await wire.start("timeouts: {idle: 5s, total: 30s, tunnel_idle: 80s}")
    app, upstream = await tunnel(wire)
    for _ in range(5):
        wire.clock.advance(70.0)
        await app.send(b"ping")
        assert await upstream.read(4) == b"ping"
    assert wire.stats.tunnels == 1


PHASES = ["token", "queue", "upstream", "body", "answer"]


@pytest.mark.parametrize("phase", PHASES)
async def test_the_whole_has_a_limit_whatever_it_waits_for(wire: Wire, phase: str) -> None:
    """`timeouts.total` ends it in each phase, though bytes go on moving: 504 `total_timeout`, or a broken-off answer."""
    top = "token_wait: 1h\npool: {connections: 1, queue_wait: 1h}"
    await wire.start("timeouts: {total: 30s}", top=top, prefetch=phase != "token")
    wire.source.gate.clear()
    app = await wire.app()
    upstream: End | None = None
    before = 0
    if phase == "queue":
        await tunnel(wire)  # holds the only place, and is not bound by the total itself
        before = 1
    await app.send(POST % 100 if phase == "body" else GET)
    await wire.turn(lambda: wire.stats.in_flight == before + 1)
    if phase in ("upstream", "body", "answer"):
        upstream = await wire.upstream.accept()
        await upstream.read_head()
    if phase == "answer":
        assert upstream is not None
        await upstream.send(HEAD % 100)
        await app.read_head()
    for _ in range(14):
        wire.clock.advance(2.0)
        assert wire.stats.in_flight == before + 1
        if phase == "body":
            await app.send(b"a")
            assert upstream is not None
            await upstream.read(1)
        elif phase == "answer":
            assert upstream is not None
            await upstream.send(b"a")
            await app.read(1)
    wire.clock.advance(3.0)
    if phase == "answer":
        assert await app.rest() == b""
        assert wire.stats.cut == {"total_timeout": 1}
    else:
        answer = await app.answer()
        assert (answer.status, answer.reason) == (504, "total_timeout")
    if upstream is not None:
        assert await upstream.rest() == b""
    assert wire.stats.in_flight == before


async def test_last_bytes_that_are_not_taken_have_their_time_too(wire: Wire) -> None:
    """A connection that only waits for the app to take its last answer is not kept forever."""
    await wire.start(top="limits: {send_timeout: 60s}")
    app = await wire.app(narrow=True)
    await app.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(HEAD % 60_000 + bytes(60_000))
    await wire.turn(lambda: wire.stats.requests)
    wire.clock.advance(1.0)
    wire.clock.advance(58.0)
    assert wire.proxy.connections == 1
    wire.clock.advance(3.0)
    await wire.turn(lambda: not wire.proxy.connections)


async def test_a_slow_reader_gets_all_of_its_last_answer(wire: Wire) -> None:
    """The moment of lingering begins when it is sent, not when it is written."""
    await wire.start()
    app = await wire.app(narrow=True)
    await app.send(POST % 100)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000))
    await wire.turn(lambda: wire.stats.requests)
    for _ in range(5):
        wire.clock.advance(2.0)
        await wire.yield_()
    app.reader._limit = 1 << 20
    assert len((await app.answer()).body) == 60_000


async def test_a_tunnels_last_bytes_have_their_time_too(wire: Wire) -> None:
    """An upstream that never takes what the app left for it does not keep its place in the pool."""
    await wire.start("timeouts: {send: 60s}")
    app, upstream = await tunnel(wire)
    upstream.reader._limit = 1
    (exchange,) = wire.proxy.context.tunnels
    while not exchange.side.unsent():
        await app.send(bytes(16 * 1024))
        await wire.yield_()
    app.reset()
    await wire.turn(lambda: not wire.proxy.connections)
    wire.clock.advance(58.0)
    assert [pool.open for pool in wire.pools] == [1]
    wire.clock.advance(3.0)
    await gone(wire)


async def test_an_early_answer_ends_a_body_that_is_not_taken(wire: Wire) -> None:
    """The upstream's place is free at once: nobody waits for it to take the rest."""
    await wire.start()
    app = await wire.app()
    app.writer.write(POST % BULK + bytes(BULK))
    upstream = await wire.upstream.accept()
    upstream.reader._limit = 1
    await stuck(wire, app)
    await upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert (await app.answer()).status == 413
    await wire.turn(lambda: all(not pool.open for pool in wire.pools))


async def test_what_has_no_status_is_counted(wire: Wire) -> None:
    """Idle connections that are closed, and reading that stops at `limits.pipelined`."""
    await wire.start(top="limits: {pipelined: 2}")
    app = await wire.app()
    await app.send(GET * 9)
    upstream = await wire.upstream.accept()
    for _ in range(9):
        await upstream.read_head()
        await upstream.send(OK)
        assert (await app.answer()).status == 200
    assert wire.proxy.ledger.unrouted.pipelining_stopped > 0
    wire.clock.advance(1.0)
    wire.clock.advance(80.0)
    assert await app.rest() == b""
    assert wire.proxy.ledger.unrouted.idle_closed == 1
