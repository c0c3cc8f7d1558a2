"""CONNECT: the tunnels that apps ask their proxy for, and what is judged of what is inside."""

from __future__ import annotations

import pytest

from sidecar.net.listeners import PLAIN
from tests.support.tunnels import INSIDE, open_tunnel, serve_one, speak_http2, wish
from tests.support.wire import BOTH_WAYS, GET, OK, End, Wire

CONNECT = wish(80)


async def tunnel(wire: Wire, ask: bytes = CONNECT) -> End:
    """An app with an open tunnel."""
    return await open_tunnel(wire, ask)


@BOTH_WAYS
async def test_what_is_inside_is_read_as_requests(wire: Wire, bytewise: bool) -> None:
    """Each gets its token; the connection stays open between them, and counts as one."""
    await wire.start()
    app = await wire.app()
    await app.send(CONNECT, bytewise=bytewise)
    assert await app.read_head() == b"HTTP/1.1 200 OK\r\n\r\n"
    for _ in range(2):
        await app.send(GET, bytewise=bytewise)
        if not wire.stats.requests:
            upstream = await wire.upstream.accept()
        head = await upstream.read_head()
        assert head.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1")
        assert b"Authorization: Bearer ey" in head
        await upstream.send(OK)
        assert (await app.answer()).body == b"ok"
    assert wire.stats.requests == {("GET", 200): 2}
    acceptors = wire.proxy.acceptors
    assert (wire.proxy.connections, acceptors.open, acceptors.owner(wire.bound).open) == (1, 1, 1)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    assert acceptors.owner(wire.bound).open == 0


@BOTH_WAYS
async def test_requests_may_come_with_the_wish_for_a_tunnel(wire: Wire, bytewise: bool) -> None:
    """Before it is answered, and several at once."""
    await wire.start()
    app = await wire.app()
    await app.send(CONNECT + GET + GET, bytewise=bytewise)
    assert await app.read_head() == b"HTTP/1.1 200 OK\r\n\r\n"
    upstream = await wire.upstream.accept()
    for _ in range(2):
        await upstream.read_head()
        await upstream.send(OK)
        assert (await app.answer()).body == b"ok"


async def test_http2_is_spoken_inside_too(wire: Wire) -> None:
    """By prior knowledge, as gRPC's clients do it without TLS."""
    await wire.start()
    await speak_http2(wire, await tunnel(wire), b"http")


async def test_a_websocket_is_opened_inside(wire: Wire) -> None:
    """As `ws://` by a proxy: an upgrade in a tunnel."""
    await wire.start()
    app = await tunnel(wire)
    await app.send(
        b"GET /ws HTTP/1.1\r\nHost: billing.internal:80\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: eA==\r\n\r\n"
    )
    upstream = await wire.upstream.accept()
    assert b"Authorization: Bearer ey" in await upstream.read_head()
    await upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: ZbX6LUtWYQ7CrIna69ZRTb/V5NM=\r\n\r\n"
    )
    assert (await app.read_head()).startswith(b"HTTP/1.1 101 ")
    await app.send(b"\x00\xff")
    assert await upstream.read(2) == b"\x00\xff"


NAMES = [
    pytest.param(b"billing.internal:80", b"billing.internal", id="as-written"),
    pytest.param(b"BILLING.internal.:80", b"Billing.INTERNAL:80", id="in-other-spellings"),
    pytest.param(b"billing.localhost:80", b"billing.localhost", id="by-the-routes-name"),
]


@pytest.mark.parametrize(("target", "host"), NAMES)
async def test_a_name_has_one_meaning_outside_and_inside(wire: Wire, target: bytes, host: bytes) -> None:
    """Hosts are compared in their normal form, ports by what the scheme means."""
    await wire.start()
    app = await tunnel(wire, b"CONNECT %b HTTP/1.1\r\nHost: proxy\r\n\r\n" % target)
    await serve_one(wire, app, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)


async def test_an_upstreams_own_port_is_what_it_is_there(wire: Wire) -> None:
    """An app that calls `http://billing.internal:8080` asks for a tunnel to that port; the Host inside must have it."""
    await wire.start()
    port = wire.upstream.port
    app = await tunnel(wire, b"CONNECT billing.internal:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port)
    await serve_one(wire, app, b"GET / HTTP/1.1\r\nHost: billing.internal:%d\r\n\r\n" % port)
    await app.send(GET)
    assert (await app.answer()).reason == "bad_host"


async def test_http10_may_leave_its_host_out(wire: Wire) -> None:
    """As Python's http.client did to 3.11."""
    await wire.start()
    await tunnel(wire, b"CONNECT billing.internal:80 HTTP/1.0\r\n\r\n")


def connect(target: bytes, lines: bytes = b"") -> bytes:
    """A wish for a tunnel."""
    return b"CONNECT %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (target, lines)


REFUSED = [
    pytest.param(connect(b"evil.com:80"), 404, "no_route", id="no-route"),
    pytest.param(connect(b"localhost:80"), 404, "no_route", id="the-sidecar-itself"),
    pytest.param(connect(b"evil.com:443"), 501, "method_not_carried", id="no-route-by-https"),
    pytest.param(connect(b"billing.internal:443"), 501, "method_not_carried", id="https"),
    pytest.param(connect(b"billing.internal:22"), 501, "method_not_carried", id="another-port"),
    pytest.param(connect(b"billing.internal"), 400, "malformed_request", id="no-port"),
    pytest.param(connect(b"billing.internal:"), 400, "malformed_request", id="an-empty-port"),
    pytest.param(connect(b"billing.internal:65536"), 400, "malformed_request", id="no-such-port"),
    pytest.param(connect(b"u:s3cret@billing.internal:80"), 400, "malformed_request", id="a-password"),
    pytest.param(b"CONNECT billing.internal:80 HTTP/1.1\r\n\r\n", 400, "bad_host", id="no-host-in-http-1.1"),
    pytest.param(
        b"CONNECT billing.internal:80 HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad_host", id="a-malformed-host"
    ),
    pytest.param(
        b"CONNECT billing.internal:80 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_host", id="two-hosts"
    ),
    pytest.param(
        connect(b"billing.internal:80", b"Content-Length: 1\r\n"), 400, "malformed_request", id="a-body"
    ),
    pytest.param(
        connect(b"billing.internal:80", b"Transfer-Encoding: chunked\r\n"),
        400,
        "malformed_request",
        id="a-chunked-body",
    ),
    pytest.param(
        connect(b"billing.internal:80", b"Content_Length: 1\r\n"), 400, "malformed_request", id="a-twin"
    ),
    pytest.param(
        connect(b"billing.internal:80", b"Origin: https://evil.com\r\n"), 403, "caller_refused", id="a-page"
    ),
    pytest.param(
        connect(b"evil.com:80", b"Sec-Fetch-Site: none\r\n"), 403, "caller_refused", id="a-page-elsewhere"
    ),
]


@BOTH_WAYS
@pytest.mark.parametrize(("sent", "status", "reason"), REFUSED)
async def test_no_other_tunnel_is_opened(
    wire: Wire, sent: bytes, status: int, reason: str, bytewise: bool
) -> None:
    """One answer and the end of the connection, whatever comes behind; nobody is asked for anything."""
    await wire.start()
    app = await wire.app()
    await app.send(sent, bytewise=bytewise)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert b"s3cret" not in answer.body
    assert await app.rest() == b""
    assert (wire.upstream.waiting, wire.stats.requests) == (0, {})


async def test_what_comes_behind_a_refusal_is_nobodys(wire: Wire) -> None:
    """What a client sends into a tunnel that it was not given is no request."""
    await wire.start()
    app = await wire.app()
    await app.send(connect(b"evil.com:80") + GET)
    assert (await app.answer()).status == 404
    assert await app.rest() == b""
    assert wire.upstream.waiting == 0


ONLY_HERE = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: billing.localhost\r\n\r\n", 400, "bad_host", id="another-name"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, "bad_host", id="no-host"),
    pytest.param(
        b"GET http://billing.internal/ HTTP/1.1\r\nHost: billing.internal\r\n\r\n",
        400,
        "malformed_request",
        id="a-whole-url",
    ),
    pytest.param(
        GET[:-2] + b"Via: 1.1 sidecar-under-test\r\n\r\n", 508, "loop", id="what-has-been-here-before"
    ),
    pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, "malformed_request", id="tls"),
]


@BOTH_WAYS
@pytest.mark.parametrize(("sent", "status", "reason"), [*INSIDE, *ONLY_HERE])
async def test_what_is_inside_is_judged_like_everything(
    wire: Wire, sent: bytes, status: int, reason: str, bytewise: bool
) -> None:
    """And must be for what the tunnel was asked for."""
    other = (
        "- {name: other, host: other.internal, upstream: 'http://127.0.0.1:9', audience: https://o.example}"
    )
    await wire.start(more=other)
    app = await tunnel(wire)
    await app.send(sent, bytewise=bytewise)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert wire.upstream.waiting == 0


async def test_a_tunnel_waits_for_no_earlier_answer(wire: Wire) -> None:
    """Behind a request that is under way it is refused in its turn."""
    await wire.start()
    app = await wire.app()
    await app.send(GET + CONNECT)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    assert (await app.answer()).reason == "malformed_request"
    assert await app.rest() == b""


async def test_behind_an_answer_that_was_read_it_is_opened(wire: Wire) -> None:
    """A client's connection to its proxy may carry requests first."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    await app.send(CONNECT)
    assert await app.read_head() == b"HTTP/1.1 200 OK\r\n\r\n"
    await app.send(GET)
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_a_listeners_secret_is_asked_for_outside_and_goes_no_further(wire: Wire) -> None:
    """What the app sends inside has no need of it; where it brings it all the same, it is dropped."""
    await wire.start(top="listen: {address: 'localhost:0', require_header: {X-Local-Caller: s3cret-s3cret}}")
    stranger = await wire.app()
    await stranger.send(CONNECT)
    assert (await stranger.answer()).reason == "caller_refused"
    app = await tunnel(wire, CONNECT[:-2] + b"X-Local-Caller: s3cret-s3cret\r\n\r\n")
    await app.send(GET[:-2] + b"X-Local-Caller: s3cret-s3cret\r\n\r\n")
    upstream = await wire.upstream.accept()
    assert b"s3cret" not in await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_a_routes_own_listener_opens_tunnels_to_that_route_only(wire: Wire) -> None:
    """The host of another route is refused there."""
    other = (
        "- {name: other, host: other.internal, upstream: 'http://127.0.0.1:9', audience: https://o.example}"
    )
    await wire.start(more=other)
    wire.proxy.reassign(wire.bound, wire.table.routes[0], PLAIN)
    await tunnel(wire)
    app = await wire.app()
    await app.send(connect(b"other.internal:80"))
    assert (await app.answer()).reason == "caller_refused"


async def test_another_configuration_ends_tunnels_after_their_answers(wire: Wire) -> None:
    """What they may ask for was settled by the one before."""
    await wire.start()
    idle, busy = await tunnel(wire), await tunnel(wire)
    for app in (idle, busy):
        await app.send(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        if app is idle:
            await upstream.send(OK)
            assert (await app.answer()).status == 200
            upstream.writer.close()
    wire.proxy.switch(
        wire.proxy.context.admission,
        limits=wire.config.limits,
        pool=wire.config.pool,
        access_log=wire.proxy.ledger.access_log,
    )
    assert await idle.rest() == b""
    await upstream.send(OK)
    answer = await busy.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await busy.rest() == b""


async def test_a_listener_that_goes_takes_its_tunnels_along(wire: Wire) -> None:
    """As it does its other connections: each with its current answer."""
    await wire.start()
    app = await tunnel(wire)
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    wire.proxy.stop_serving(wire.bound)
    await upstream.send(OK)
    assert (await app.answer()).headers["connection"] == "close"
    assert await app.rest() == b""


async def test_a_tunnel_in_which_nothing_comes_is_closed(wire: Wire) -> None:
    """After `limits.keep_alive`, as every connection."""
    await wire.start()
    app = await tunnel(wire)
    wire.clock.advance(wire.config.limits.keep_alive + 2)
    assert await app.rest() == b""


async def test_a_wish_to_upgrade_beside_it_is_passed_over(wire: Wire) -> None:
    """CONNECT says already what the connection is to become (RFC 9110 section 7.8: a server may ignore it)."""
    await wire.start()
    app = await tunnel(wire, CONNECT[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_an_app_that_leaves_at_once_leaves_nothing_behind(wire: Wire) -> None:
    """Before its tunnel is opened."""
    await wire.start()
    app = await wire.app()
    app.writer.write(CONNECT)
    app.reset()
    await wire.turn(lambda: not wire.proxy.connections)
    assert wire.proxy.acceptors.open == 0
