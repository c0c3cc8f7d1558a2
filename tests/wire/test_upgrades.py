"""Upgrades: asked for, granted, declined, and the tunnel after a 101."""

from __future__ import annotations

import pytest

from tests.support.wire import GET, OK, End, Wire

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: billing.internal\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: eA==\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ZbX6LUtWYQ7CrIna69ZRTb/V5NM=\r\nX-A: 1\r\n\r\n"
)


async def tunnel(wire: Wire, *, early: bytes = b"", late: bytes = b"") -> tuple[End, End]:
    """An app and an upstream with a tunnel between them."""
    app = await wire.app()
    await app.send(ASK + early)
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
    assert b"Authorization: Bearer " in head
    await upstream.send(SWITCH + late)
    answer = await app.read_head()
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: ")
    assert b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n" in answer
    return app, upstream


async def test_a_tunnel_carries_bytes_both_ways_and_counts_them(wire: Wire) -> None:
    """Also those that came before the 101, and with it."""
    await wire.start()
    app, upstream = await tunnel(wire, early=b"early", late=b"late")
    assert await upstream.read(5) == b"early"
    assert await app.read(4) == b"late"
    await app.send(b"\x00\xff")
    assert await upstream.read(2) == b"\x00\xff"
    await upstream.send(GET)
    assert await app.read(len(GET)) == GET
    await app.close()
    assert await upstream.rest() == b""
    await upstream.close()
    await wire.turn(lambda: wire.stats.in_flight == 0)
    assert wire.stats.requests == {("GET", 101): 1}
    assert (wire.stats.bytes_sent, wire.stats.bytes_received) == (7, 4 + len(GET))
    assert wire.stats.upgrades == 1


async def test_a_proxy_is_asked_for_a_ws_url(wire: Wire) -> None:
    """As aiohttp does: it is the http URL of the handshake. Without an upgrade, and for wss, it is none."""
    await wire.start()
    app = await wire.app()
    await app.send(ASK.replace(b"GET /ws", b"GET WS://billing.internal/ws"))
    upstream = await wire.upstream.accept()
    assert (await upstream.read_head()).startswith(b"GET /ws HTTP/1.1\r\nHost: ")
    await upstream.send(SWITCH)
    assert (await app.read_head()).startswith(b"HTTP/1.1 101 ")
    for refused in (
        GET.replace(b"GET /", b"GET ws://billing.internal/", 1),
        ASK.replace(b"GET /", b"GET wss://billing.internal/"),
    ):
        other = await wire.app()
        await other.send(refused)
        assert (await other.read_head()).startswith(b"HTTP/1.1 400 ")


async def test_each_side_may_end_first(wire: Wire) -> None:
    """An end of file passes through; the other direction stays open until it ends too."""
    await wire.start()
    app, upstream = await tunnel(wire)
    upstream.writer.write_eof()
    assert await app.rest() == b""
    await app.send(b"still here")
    assert await upstream.read(10) == b"still here"
    await app.close()
    assert await upstream.rest() == b""
    app, upstream = await tunnel(wire)
    app.writer.write_eof()
    assert await upstream.rest() == b""
    await upstream.send(b"bye")
    await upstream.close()
    assert await app.rest() == b"bye"
    await wire.turn(lambda: wire.stats.in_flight == 0)


async def test_a_declined_upgrade_is_an_ordinary_request(wire: Wire) -> None:
    """What followed it is parsed as HTTP again."""
    await wire.start()
    app = await wire.app()
    await app.send(ASK + GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
    assert (await app.answer()).status == 426
    assert (await upstream.read_head()).startswith(b"GET /x ")
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"


async def test_an_upgrade_waits_for_its_turn(wire: Wire) -> None:
    """Pipelined behind a request, it is asked for after that is answered; its bytes stay its own."""
    await wire.start()
    app = await wire.app()
    await app.send(GET + ASK + b"frame")
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"
    assert (await upstream.read_head()).startswith(b"GET /ws ")
    await upstream.send(SWITCH)
    await app.read_head()
    assert await upstream.read(5) == b"frame"


@pytest.mark.parametrize("protocol", [pytest.param(b"h2c", id="h2c"), pytest.param(b"foo", id="another")])
async def test_only_what_was_asked_for_is_switched_to(wire: Wire, protocol: bytes) -> None:
    """A 101 for another protocol is an error, and nothing passes."""
    await wire.start()
    app = await wire.app()
    await app.send(ASK)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(SWITCH.replace(b"WebSocket", protocol) + b"secret")
    answer = await app.answer()
    assert (answer.status, answer.reason) == (502, "upgrade_failed")
    assert wire.upstream.waiting == 0


ACCEPT = SWITCH[SWITCH.index(b"Sec-") : SWITCH.index(b"X-A")]
"""For the key in ASK."""

WRONG = {
    "http-1.0": (SWITCH.replace(b"HTTP/1.1", b"HTTP/1.0"), "upstream_malformed"),
    "no-connection": (SWITCH.replace(b"Connection: Upgrade\r\n", b""), "upstream_malformed"),
    "connection-close": (SWITCH.replace(b"Connection: Upgrade", b"Connection: close"), "upstream_malformed"),
    "no-accept": (SWITCH.replace(b"Sec-WebSocket-Accept", b"X-Accept"), "upgrade_failed"),
    "another-accept": (SWITCH.replace(b"Accept: ", b"Accept: A"), "upgrade_failed"),
    "two-accepts": (SWITCH.replace(b"X-A: 1", b"Sec-WebSocket-Accept: x"), "upgrade_failed"),
    "another-protocol-too": (SWITCH.replace(b"WebSocket\r\n", b"WebSocket, x\r\n", 1), "upgrade_failed"),
    "after-100-in-1.0": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCH.replace(b"1.1", b"1.0"),
        "upstream_malformed",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_101_that_is_not_beyond_doubt_makes_no_tunnel(wire: Wire, case: str) -> None:
    """A caller that can have an upstream say 101, and no more, would pass by all checks of a request."""
    switch, reason = WRONG[case]
    await wire.start("allow: {paths: [/ws]}")
    app = await wire.app()
    await app.send(ASK + GET.replace(b"/x", b"/admin"))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(switch + OK)
    answer = await app.answer()
    while answer.status == 100:
        answer = await app.answer()
    assert (answer.status, answer.reason) == (502, reason)
    # What came behind the request is another request, and judged as one.
    assert (await app.answer()).reason == "not_allowed"
    assert await upstream.rest() == b""
    assert (wire.stats.tunnels, len(wire.proxy.context.tunnels), wire.stats.in_flight) == (0, 0, 0)


async def test_other_protocols_have_no_key(wire: Wire) -> None:
    """Kubernetes' SPDY, Docker's tcp: the protocol, and the `Connection` that goes with it, is all that can be looked at."""
    await wire.start("upgrades: [websocket, SPDY/3.1]")
    app = await wire.app()
    await app.send(ASK.replace(b"websocket", b"SPDY/3.1"))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(
        b"HTTP/1.1 101 Switching\r\nConnection: keep-alive, UPGRADE\r\nupgrade: spdy/3.1\r\n\r\nhi"
    )
    await app.read_head()
    assert await app.read(2) == b"hi"


def wish(protocols: bytes, *, body: bytes = b"", chunked: bool = False) -> bytes:
    """A request that would like another protocol, with a body or without."""
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return (
        b"POST /w HTTP/1.1\r\nHost: billing.internal\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nUpgrade: "
        + protocols
        + b"\r\nX-End: 1\r\n"
        + framing
        + b"\r\n\r\n"
        + body
    )


@pytest.mark.parametrize(
    ("protocols", "keys"),
    [
        pytest.param(b"TLS/1.2", "", id="of-apache-httpclient"),
        pytest.param(b"h2c", "", id="of-java"),
        pytest.param(b"TLS/1.2, HTTP/1.1", "", id="two"),
        pytest.param(b"SPDY/3.1", "", id="not-listed"),
        pytest.param(b"websocket/13", "", id="of-a-version"),
        pytest.param(b"SPDY/3", "upgrades: [SPDY/3.1]", id="of-another-version"),
        pytest.param(b"websocket", "upgrades: []", id="none-is-listed"),
        pytest.param(b"websocket", "upgrades: [SPDY/3.1]", id="another-is-listed"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_wish_for_what_is_not_carried_is_dropped(
    wire: Wire, protocols: bytes, keys: str, chunked: bool
) -> None:
    """With its token in `Connection`; what follows the head is its body, as its own framing says, and no request."""
    await wire.start(keys)
    app = await wire.app()
    await app.send(wish(protocols, body=GET, chunked=chunked) + GET)
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert b"pgrade" not in head
    assert b"X-Hop" not in head
    assert b"X-End: 1\r\n" in head
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GET), GET) if chunked else GET
    assert await upstream.read(len(body)) == body
    await upstream.send(OK)
    assert (await upstream.read_head()).startswith(b"GET /x ")
    await upstream.send(OK)
    assert [(await app.answer()).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("protocols", "sent"),
    [
        pytest.param(b"h2c, websocket", b"websocket", id="behind"),
        pytest.param(b"WebSocket , TLS/1.2", b"WebSocket", id="before"),
        pytest.param(b"h2c, spdy/3.1, websocket", b"spdy/3.1, websocket", id="two-of-three"),
    ],
)
async def test_of_several_protocols_those_that_are_carried_are_asked_for(
    wire: Wire, protocols: bytes, sent: bytes
) -> None:
    """And no other can be switched to."""
    await wire.start("upgrades: [websocket, SPDY/3.1]")
    for answered, status in ((b"h2c", 502), (sent.split(b", ")[0], 101)):
        app = await wire.app()
        await app.send(ASK.replace(b"Upgrade: websocket", b"Upgrade: " + protocols))
        upstream = await wire.upstream.accept()
        assert b"\r\nConnection: Upgrade\r\nUpgrade: " + sent + b"\r\n" in await upstream.read_head()
        await upstream.send(SWITCH.replace(b"WebSocket", answered, 1))
        assert (await app.read_head()).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("protocols", [b"websocket", b"TLS/1.2, WEBSOCKET"])
async def test_one_that_is_carried_has_no_body(wire: Wire, protocols: bytes, chunked: bool) -> None:
    """Granted, nobody could say where the body ends and the tunnel begins."""
    await wire.start()
    app = await wire.app()
    await app.send(wish(protocols, body=b"hello", chunked=chunked))
    answer = await app.answer()
    assert (answer.status, answer.reason) == (400, "malformed_request")
    assert wire.upstream.waiting == 0


async def test_a_dropped_wish_lets_nobody_past_the_rules(wire: Wire) -> None:
    """What is left is judged like any request: no route, a path that is not allowed, a page of another site."""
    await wire.start("allow: {paths: [/ok]}")
    asked = wish(b"TLS/1.2")
    app = await wire.app()
    for request, status in (
        (asked, 403),
        (asked.replace(b"billing.internal", b"nobody.internal"), 404),
        (asked.replace(b"X-End: 1", b"Origin: http://evil.example"), 403),
    ):
        await app.send(request)
        assert (await app.answer()).status == status
    assert wire.upstream.waiting == 0


async def test_a_failed_token_fails_the_upgrade(wire: Wire) -> None:
    """The connection then speaks HTTP on."""
    await wire.start("on_conflict: reject")
    app = await wire.app()
    await app.send(ASK.replace(b"\r\n\r\n", b"\r\nAuthorization: mine\r\n\r\n"))
    assert (await app.answer()).reason == "header_conflict"


async def upgrading(wire: Wire) -> tuple[End, End]:
    """An app that has asked for a tunnel, and the upstream that it asked."""
    app = await wire.app()
    await app.send(ASK)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    return app, upstream


async def test_tunnels_are_bounded_before_anything_is_sent(wire: Wire) -> None:
    """Requests for one count too, so that many at once can't exceed it; the app's connection speaks HTTP on."""
    await wire.start(top="limits: {tunnels: 2}")
    await tunnel(wire)
    await upgrading(wire)
    late = await wire.app()
    await late.send(ASK + GET)
    answer = await late.answer()
    assert (answer.status, answer.reason, answer.headers["retry-after"]) == (503, "tunnel_limit", "10")
    assert answer.headers["proxy-status"].startswith("idtoken-sidecar; error=connection_limit_reached;")
    upstream = await wire.upstream.accept()
    assert (await upstream.read_head()).startswith(b"GET /x ")
    await upstream.send(OK)
    assert (await late.answer()).status == 200
    assert wire.stats.refused == {"tunnel_limit": 1}
    assert (wire.stats.tunnels, len(wire.proxy.context.tunnels)) == (1, 2)


async def test_a_pipelined_request_for_a_tunnel_is_counted_in_its_turn(wire: Wire) -> None:
    """It takes its place when it is about to be sent, not while it waits behind others."""
    await wire.start(top="limits: {tunnels: 1}")
    app = await wire.app()
    await app.send(GET + ASK)
    first = await wire.upstream.accept()
    await first.read_head()
    other, far = await tunnel(wire)
    await first.send(OK)
    assert (await app.answer()).status == 200
    assert (await app.answer()).reason == "tunnel_limit"
    await other.close()
    await far.close()
    await wire.turn(lambda: not wire.proxy.context.tunnels)


ENDS = [
    "app",
    "upstream",
    "app-resets",
    "upstream-resets",
    "declined",
    "refused",
    "lost",
    "app-leaves",
    "idle",
    "abort",
]


@pytest.mark.parametrize("end", ENDS)
async def test_each_end_frees_the_place_once(wire: Wire, end: str) -> None:
    """However a tunnel or the request for one ends, the next is served, and the gauge is back at nothing."""
    await wire.start(top="limits: {tunnels: 1}")
    asks_only = end in ("declined", "refused", "lost", "app-leaves")
    app, upstream = await upgrading(wire) if asks_only else await tunnel(wire)
    assert (wire.stats.tunnels, len(wire.proxy.context.tunnels)) == (0 if asks_only else 1, 1)
    if end == "app-leaves":
        await app.close()
    elif end == "app":
        await app.close()
        await upstream.close()
    elif end == "app-resets":
        app.reset()
    elif end == "upstream":
        await upstream.close()
        await app.close()
    elif end in ("upstream-resets", "lost"):
        upstream.reset()
    elif end == "declined":
        await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot yet")
        await app.read_until(b"not yet")
    elif end == "refused":
        await upstream.send(SWITCH.replace(b"WebSocket", b"other"))
    elif end == "idle":
        wire.clock.advance(1.0)
        wire.clock.advance(4000.0)
    else:
        wire.proxy.abort()
    await wire.turn(lambda: not wire.proxy.context.tunnels)
    assert wire.stats.tunnels == 0
    if end == "abort":
        return
    await tunnel(wire)
    assert (wire.stats.tunnels, len(wire.proxy.context.tunnels)) == (1, 1)
