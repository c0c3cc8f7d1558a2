"""Connections: reuse, retry, limits in time, ends, backpressure."""

from __future__ import annotations

import logging
import select

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.net.backoff import LONGEST_PAUSE
from tests.support.wire import GET, OK, End, Wire


async def served(wire: Wire) -> tuple[End, End]:
    """An app and an upstream with one request behind them, both connections idle."""
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    await app.answer()
    return app, upstream


REPLAYED = [
    pytest.param(b"GET /x HTTP/1.1\r\nHost: billing.internal\r\n\r\n", id="get"),
    pytest.param(
        b"PUT /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 4\r\n\r\nbody", id="put-with-held-body"
    ),
]


@pytest.mark.parametrize("request_", REPLAYED)
async def test_a_stale_connection_is_replaced_once(wire: Wire, request_: bytes) -> None:
    """An idempotent request on a connection that dies unheard goes out again on a new one, body and all."""
    await wire.start()
    app, upstream = await served(wire)
    await app.send(request_)
    first = await upstream.read_head()
    upstream.reset()
    second = await wire.upstream.accept()
    assert await second.read_head() == first
    if b"body" in request_:
        assert await second.read(4) == b"body"
    await second.send(OK)
    assert (await app.answer()).body == b"ok"
    assert wire.stats.retries == 1


async def test_a_retry_is_not_retried(wire: Wire) -> None:
    """Twice unheard is the upstream's fault."""
    await wire.start()
    app, upstream = await served(wire)
    await app.send(GET)
    await upstream.read_head()
    upstream.reset()
    second = await wire.upstream.accept()
    await second.read_head()
    second.reset()
    assert (await app.answer()).reason == "upstream_closed"
    assert wire.upstream.waiting == 0


NOT_REPLAYED = [
    pytest.param(b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 0\r\n\r\n", id="post"),
    pytest.param(
        b"PUT /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 70000\r\n\r\n" + b"a" * 70_000,
        id="body-too-large",
    ),
]


@pytest.mark.parametrize("request_", NOT_REPLAYED)
async def test_what_may_have_been_done_is_not_sent_twice(wire: Wire, request_: bytes) -> None:
    """A POST, and a body that is no longer held, end in a 502."""
    await wire.start()
    app, upstream = await served(wire)
    await app.send(request_)
    await upstream.read_head()
    if b"70000" in request_:
        await upstream.read(70_000)
    upstream.reset()
    assert (await app.answer()).reason == "upstream_closed"
    assert wire.upstream.waiting == 0


async def test_a_first_use_is_not_retried(wire: Wire) -> None:
    """A fresh connection that dies is no stale one."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    upstream.reset()
    assert (await app.answer()).reason == "upstream_closed"


async def test_an_idle_connection_that_closes_is_forgotten(wire: Wire) -> None:
    """An end of file is noticed at once, so the next request never meets it."""
    await wire.start()
    app, upstream = await served(wire)
    await upstream.close()
    await wire.turn(lambda: wire.stats.connections_idle == 0)
    await app.send(GET)
    second = await wire.upstream.accept()
    await second.read_head()
    await second.send(OK)
    assert (await app.answer()).body == b"ok"
    assert wire.stats.retries == 0


async def test_refused_connections_are_a_502(wire: Wire) -> None:
    """Nothing listens at the upstream's port."""
    await wire.start()
    await wire.upstream.stop()
    app = await wire.app()
    await app.send(GET)
    assert (await app.answer()).reason == "connect_refused"


async def test_the_sidecars_own_address_is_never_dialled(wire: Wire) -> None:
    """A route that leads to the sidecar itself is refused at the dial, Via or not."""
    await wire.start(top="via: off")
    wire.own_addresses.add(("127.0.0.1", wire.upstream.port))
    app = await wire.app()
    await app.send(GET)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (502, "address_forbidden")
    assert wire.upstream.waiting == 0


async def test_an_app_that_leaves_cancels_its_request(wire: Wire) -> None:
    """The upstream sees the end of its connection; the request is counted as 499."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await app.close()
    assert await upstream.rest() == b""
    assert wire.stats.requests == {("GET", 499): 1}
    assert wire.stats.in_flight == 0


SLOW = [
    pytest.param(b"GET /x HT", 10.0, "head_timeout", 408, id="half-a-head"),
    pytest.param(
        b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 9\r\n\r\nab",
        300.0,
        "body_timeout",
        408,
        id="body",
    ),
    pytest.param(GET, 300.0, "response_timeout", 504, id="no-answer"),
]


@pytest.mark.parametrize(("sent", "seconds", "reason", "status"), SLOW)
async def test_what_takes_too_long_is_answered_with_the_reason(
    wire: Wire, sent: bytes, seconds: float, reason: str, status: int
) -> None:
    """Each phase has its limit; not a moment before."""
    await wire.start()
    app = await wire.app()
    await app.send(sent)
    if reason == "head_timeout":
        await wire.turn(lambda: any(connection.reader.in_message for connection in wire.proxy.serving))
    else:
        upstream = await wire.upstream.accept()
        await upstream.read_head()
    wire.clock.advance(1.0)
    wire.clock.advance(seconds - 2.0)
    assert wire.proxy.connections == 1
    wire.clock.advance(4.0)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)


async def test_a_silent_stream_ends_at_the_idle_timeout(wire: Wire) -> None:
    """Progress counts, not age: a byte in time resets the clock."""
    await wire.start("timeouts: {idle: 60s}")
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na")
    await app.read_until(b"a")
    wire.clock.advance(50.0)
    await upstream.send(b"b")
    await app.read(1)
    wire.clock.advance(50.0)
    await upstream.send(b"c")
    assert await app.read(1) == b"c"
    wire.clock.advance(65.0)
    assert await app.rest() == b""


async def test_an_idle_app_is_let_go(wire: Wire) -> None:
    """After limits.keep_alive, politely."""
    await wire.start()
    app, _ = await served(wire)
    wire.clock.advance(74.0)
    assert wire.proxy.connections == 1
    wire.clock.advance(3.0)
    assert await app.rest() == b""


async def test_an_idle_upstream_connection_is_let_go(wire: Wire) -> None:
    """After pool.idle; the sweep that sees to it stops when there is nothing left."""
    await wire.start()
    app, upstream = await served(wire)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    wire.clock.advance(59.0)
    assert wire.stats.connections_idle == 1
    wire.clock.advance(6.0)
    assert await upstream.rest() == b""
    await wire.turn(lambda: wire.stats.connections_idle == 0)
    wire.clock.advance(5.0)
    assert wire.clock.pending == [pytest.approx(delay) for delay in wire.clock.pending if delay > 60]


async def test_with_nobody_connected_sweeps_are_rare_until_somebody_is(wire: Wire) -> None:
    """Idle connections to targets alone wake the process up every four seconds; the first app makes that every one."""
    await wire.start("pool: {idle: 60s}")
    app, _ = await served(wire)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    wire.clock.advance(1.0)
    assert wire.clock.pending[0] == 4.0 - wire.clock.mono() % 4.0
    await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    assert wire.clock.pending[0] == 1.0


async def test_the_first_app_after_a_quiet_time_gets_no_connection_that_idled_too_long(wire: Wire) -> None:
    """Sweeps are rare then: what the next one would close is closed before a request is sent on it."""
    await wire.start("pool: {idle: 58s}")
    app, upstream = await served(wire)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    wire.clock.advance(59.0)
    assert wire.stats.connections_idle == 1
    await wire.app()
    assert await upstream.rest() == b""
    await wire.turn(lambda: wire.stats.connections_idle == 0)


async def test_draining_closes_idle_connections_and_finishes_others(wire: Wire) -> None:
    """The last answers say Connection: close; a late request on an idle connection gets one of them."""
    await wire.start()
    idle, upstream = await served(wire)
    late = await wire.app()
    await late.send(GET)
    await upstream.read_head()
    await upstream.send(OK)
    await late.answer()
    busy = await wire.app()
    await busy.send(GET)
    await upstream.read_head()
    wire.proxy.stop_accepting()
    wire.proxy.begin_drain()
    wire.clock.advance(0.9)
    assert wire.proxy.connections == 3
    await late.send(GET)
    last = await wire.upstream.accept()
    await last.read_head()
    wire.clock.advance(0.2)
    assert await idle.rest() == b""
    for app, end in ((busy, upstream), (late, last)):
        await end.send(OK)
        answer = await app.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await app.rest() == b""
    await wire.proxy.drained()


async def test_once_the_end_is_announced_each_answer_says_so(wire: Wire) -> None:
    """While new connections are accepted and idle ones stay open, however long that goes on."""
    await wire.start()
    old, upstream = await served(wire)
    wire.proxy.announce_end()
    wire.clock.advance(5.0)
    for app in (old, await wire.app()):
        await app.send(GET)
        await upstream.read_head()
        await upstream.send(OK)
        assert (await app.answer()).headers["connection"] == "close"
        assert await app.rest() == b""


async def test_one_that_was_told_to_stay_open_has_a_request_to_spare(wire: Wire) -> None:
    """The head of its answer had gone before the end was announced: its client may send another request."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    await app.read_until(b"\r\n\r\na")
    wire.proxy.begin_drain()
    await upstream.send(b"b")
    await app.read_until(b"b")
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).headers["connection"] == "close"
    await wire.proxy.drained()


async def test_a_slow_reader_holds_the_upstream_back(wire: Wire) -> None:
    """What the app does not read is not taken from the upstream."""
    await wire.start()
    app = await wire.app()
    app.reader._limit = 1  # the test's own reader: stop reading after the first bytes
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    size = 64 * 1024 * 1024
    upstream.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    before = -1
    while before != wire.untaken(upstream):
        before = wire.untaken(upstream)
        for _ in range(50):
            await wire.yield_()
    assert before > size // 2
    app.reader._limit = 1 << 20
    await app.read_head()
    got = 0
    while got < size:
        got += len(await app.read(min(size - got, 1 << 20)))
    assert wire.untaken(upstream) == 0


async def test_a_slow_upstream_holds_the_app_back(wire: Wire) -> None:
    """What the upstream does not read is not taken from the app."""
    await wire.start()
    app = await wire.app()
    size = 64 * 1024 * 1024
    app.writer.write(
        b"POST / HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    )
    upstream = await wire.upstream.accept()
    upstream.reader._limit = 1
    before = -1
    while before != wire.untaken(app):
        before = wire.untaken(app)
        for _ in range(50):
            await wire.yield_()
    assert before > size // 2
    upstream.reader._limit = 1 << 20
    await upstream.read_head()
    got = 0
    while got < size:
        got += len(await upstream.read(min(size - got, 1 << 20)))
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    assert wire.stats.bytes_sent == size


async def test_a_second_answer_waits_for_a_slow_reader_too(wire: Wire) -> None:
    """The app's full buffer holds back the answer to the next pipelined request as well."""
    await wire.start()
    app = await wire.app(narrow=True)
    await app.send(GET + GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    first, second = 80 * 1024, 64 * 1024 * 1024
    upstream.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % first + bytes(first))
    head = await upstream.read_head()
    assert head.startswith(b"GET /x ")
    upstream.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % second + bytes(second))
    before = -1
    while before != wire.untaken(upstream):
        before = wire.untaken(upstream)
        for _ in range(50):
            await wire.yield_()
    assert before > second // 2
    app.reader._limit = 1 << 20
    for size in (first, second):
        await app.read_head()
        got = 0
        while got < size:
            got += len(await app.read(min(size - got, 1 << 20)))


async def test_a_refused_body_of_any_size_is_read_so_that_the_answer_is(wire: Wire) -> None:
    """Though its beginning came with the head: an app that writes all of it before it reads is not stuck."""
    await wire.start()
    app = await wire.app()
    size = 32 * 1024 * 1024
    head = b"POST / HTTP/1.1\r\nHost: nowhere.internal\r\nContent-Length: %d\r\n\r\n" % size
    app.writer.write(head + bytes(size))
    await wire.turn(lambda: not wire.untaken(app))
    assert (await app.answer()).reason == "no_route"


async def test_a_pipelined_request_that_breaks_is_counted_once(wire: Wire) -> None:
    """In its turn, as its route's."""
    await wire.start()
    app = await wire.app()
    broken = b"POST / HTTP/1.1\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    await app.send(GET + broken)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    assert (await app.answer()).reason == "malformed_request"
    assert wire.stats.requests == {("GET", 200): 1, ("POST", 400): 1}
    assert wire.stats.refused == {"malformed_request": 1}
    assert (wire.proxy.ledger.unrouted.requests, wire.proxy.ledger.unrouted.refused) == ({}, {})
    assert wire.upstream.waiting == 0


async def test_a_failed_dial_fails_one_and_leaves_the_others(wire: Wire) -> None:
    """With two waiting and the upstream gone, each gets its own answer, and the places are free again; it is dialled
    again after a pause."""
    await wire.start(top="pool: {connections: 2}")
    await wire.upstream.stop()
    apps = [await wire.app() for _ in range(6)]
    for app in apps:
        await app.send(GET)
    assert [(await app.answer()).reason for app in apps] == ["connect_refused"] * 6
    await wire.upstream.start(wire.upstream.port)
    wire.clock.advance(LONGEST_PAUSE)
    await apps[0].send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await apps[0].answer()).status == 200
    assert wire.stats.connections_idle == 1


async def test_quiet_before_a_request_does_not_count_against_it(wire: Wire) -> None:
    """A connection that idled longer than the response timeout serves its next request all the same."""
    await wire.start("timeouts: {response: 30s}")
    app = await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    wire.clock.advance(60.0)
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    wire.clock.advance(25.0)
    assert wire.stats.in_flight == 1
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_pipelined_requests_behind_the_last_answer_are_let_go(wire: Wire) -> None:
    """When the answer before them ends the connection they are over, and counted."""
    await wire.start()
    app = await wire.app()
    await app.send(GET + GET + GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await wire.turn(lambda: wire.stats.in_flight == 3)
    wire.proxy.begin_drain()
    await upstream.send(OK)
    assert (await app.answer()).headers["connection"] == "close"
    assert await app.rest() == b""
    assert wire.stats.in_flight == 0
    assert wire.stats.requests == {("GET", 200): 1, ("GET", 499): 2}


@pytest.mark.interpreted
@pytest.mark.parametrize("where", ["request", "answer"])
async def test_a_fault_of_ours_is_a_500_and_ends_there(
    wire: Wire, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a 400 or a 502 that blames others; the next connection is served."""
    await wire.start()

    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    app = await wire.app()
    with monkeypatch.context() as patch:
        if where == "request":
            patch.setattr(wire.proxy.context.admission, "admit", fault)
        else:
            patch.setattr("sidecar.proxy.http1.heads.answer_head", fault)
        await app.send(GET)
        if where == "answer":
            upstream = await wire.upstream.accept()
            await upstream.read_head()
            await upstream.send(OK)
            assert await app.rest() == b""
        else:
            answer = await app.answer()
            assert (answer.status, answer.reason) == (500, "internal")
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    assert wire.stats.in_flight == 0


async def test_a_pool_outlives_the_wait_of_its_first_request(wire: Wire) -> None:
    """Its connections are looked after, and let go, although it held nothing while the token was fetched."""
    await wire.start(prefetch=False)
    wire.source.gate.clear()
    app = await wire.app()
    await app.send(GET)
    await wire.turn(lambda: wire.stats.in_flight == 1)
    wire.clock.advance(3.0)
    wire.source.gate.set()
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    await app.answer()
    wire.clock.advance(61.0)
    assert await upstream.rest() == b""


async def test_an_app_that_is_gone_when_it_is_refused(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """An app that closed unnoticed, since its body is held back, takes nothing with it but its connection."""
    caplog.set_level(logging.WARNING)
    await wire.start(prefetch=False)
    wire.source.gate.clear()
    app = await wire.app()
    await app.send(
        b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 900000\r\n\r\n" + bytes(100_000)
    )
    await wire.turn(lambda: wire.source.minted)
    await wire.turn(lambda: any(connection.is_blocked for connection in wire.proxy.serving))
    app.writer.transport.abort()
    await wire.yield_()
    wire.source.error = SidecarError(Reason.TOKEN_ENDPOINT_FAILED, "The test said so.")
    wire.source.gate.set()
    await wire.turn(lambda: not wire.proxy.connections)
    assert wire.stats.in_flight == 0
    assert [record.message for record in caplog.records if record.exc_info] == []


LEAVING = [
    pytest.param(b"Content-Length: 9000000\r\n", False, True, id="in-the-middle-of-its-body"),
    pytest.param(b"Content-Length: 9000000\r\n", True, True, id="by-reset"),
    pytest.param(
        b"Content-Length: 200000\r\n", False, False, id="behind-a-whole-body-it-may-wait-for-the-answer"
    ),
    pytest.param(b"Transfer-Encoding: chunked\r\n", False, False, id="where-its-length-is-not-known"),
    pytest.param(b"Transfer-Encoding: chunked\r\n", True, True, id="by-reset-where-its-length-is-not-known"),
]


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells")
@pytest.mark.parametrize(("framing", "reset", "noticed"), LEAVING)
async def test_an_app_that_leaves_while_it_is_not_read_is_noticed(
    wire: Wire, framing: bytes, reset: bool, noticed: bool
) -> None:
    """By the next sweep, where it is sure: its request waits for a place no longer, and holds nothing."""
    await wire.start(top="pool: {connections: 1, queue_wait: 1h}")
    first = await wire.app()
    await first.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    app = await wire.app()
    body = b"30d40\r\n" + bytes(200_000) + b"\r\n0\r\n\r\n" if b"chunked" in framing else bytes(200_000)
    await app.send(b"POST /x HTTP/1.1\r\nHost: billing.internal\r\n%b\r\n" % framing + body)
    await wire.turn(lambda: any(one.is_blocked for one in wire.proxy.serving))
    if reset:
        app.reset()
    else:
        app.writer.write_eof()
    for _ in range(200 if noticed else 3):  # the kernel may take some time to deliver it
        await wire.yield_()
        wire.clock.advance(1.1)
        if wire.proxy.connections == 1:
            break
    left = 1 if noticed else 2
    assert (wire.proxy.connections, wire.stats.in_flight) == (left, left)
    await upstream.send(OK)
    assert (await first.answer()).status == 200
