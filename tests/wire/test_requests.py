"""What the app sends, and what of it reaches the upstream."""

from __future__ import annotations

import pytest

from tests.support.wire import BOTH_WAYS, GET, OK, Wire

HOST = b"Host: billing.internal\r\n"


@BOTH_WAYS
async def test_what_is_forwarded_is_rebuilt(wire: Wire, bytewise: bool) -> None:
    """Host is the upstream's, hop-by-hop lines go, order, case and repetition stay, Via and the token come last."""
    await wire.start()
    app = await wire.app()
    await app.send(
        b"GET /a/../b?q=%20 HTTP/1.1\r\nX-One: 1\r\n"
        + HOST
        + b"x-two:  2 \r\nX-One: again\r\nConnection: keep-alive, X-Hop\r\n"
        b"X-Hop: gone\r\nKeep-Alive: timeout=5\r\nProxy-Authorization: Basic eA==\r\nX-Serverless-Authorization: Bearer z\r\n\r\n",
        bytewise=bytewise,
    )
    upstream = await wire.upstream.accept()
    head = (await upstream.read_head()).split(b"\r\n")
    assert head[:5] == [
        b"GET /a/../b?q=%20 HTTP/1.1",
        b"Host: 127.0.0.1:%d" % wire.upstream.port,
        b"X-One: 1",
        b"x-two: 2",
        b"X-One: again",
    ]
    assert head[5] == b"Via: 1.1 sidecar-under-test"
    assert head[6].startswith(b"Authorization: Bearer ey")
    assert head[7:] == [b"", b""]
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"


BODIES = [
    pytest.param(b"Content-Length: 5\r\n\r\nhello", b"Content-Length: 5", b"hello", id="content-length"),
    pytest.param(b"Content-Length: 0\r\n\r\n", b"Content-Length: 0", b"", id="content-length-zero"),
    pytest.param(
        b"Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked",
        b"0\r\n\r\n",
        id="chunked",
    ),
    pytest.param(
        b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 9\r\nHost: evil\r\nAuthorization: x\r\n\r\n",
        b"Transfer-Encoding: chunked",
        b"0\r\nX-Sum: 9\r\n\r\n",
        id="trailers-filtered",
    ),
]


@BOTH_WAYS
@pytest.mark.parametrize(("rest", "framing", "end"), BODIES)
async def test_bodies_keep_their_framing(
    wire: Wire, rest: bytes, framing: bytes, end: bytes, bytewise: bool
) -> None:
    """A body reaches the upstream whole, framed by one header; chunk extensions and odd trailers do not."""
    await wire.start()
    app = await wire.app()
    await app.send(b"POST /x HTTP/1.1\r\n" + HOST + rest, bytewise=bytewise)
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert head.lower().count(b"content-length") + head.lower().count(b"transfer-encoding") == 1
    assert framing in head
    if framing.startswith(b"Transfer"):
        body = await upstream.read_until(end)
        chunks = body[: -len(end)]
        payload = b""
        while chunks:
            size, _, chunks = chunks.partition(b"\r\n")
            payload += chunks[: int(size, 16)]
            chunks = chunks[int(size, 16) + 2 :]
        assert payload == b"hello"
    elif end:
        assert await upstream.read(len(end)) == end
    await upstream.send(OK)
    assert (await app.answer()).status == 200


REFUSED = [
    pytest.param(b"GET /\r\n\r\n", 400, "malformed_request", id="http-0.9"),
    pytest.param(b"\r\rA", 400, "malformed_request", id="bare-carriage-returns-before"),
    pytest.param(b"\nA", 400, "malformed_request", id="bare-line-feed-before"),
    pytest.param(b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400, "malformed_request", id="http-1.2"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400, "malformed_request", id="broken-http2-preface"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, "bad_host", id="no-host"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400, "bad_host", id="two-hosts"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad_host", id="malformed-host"),
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: u@billing.internal\r\n\r\n", 400, "bad_host", id="userinfo-in-host"
    ),
    pytest.param(
        b"GET http://a.b/ HTTP/1.1\r\n" + HOST + b"\r\n", 404, "no_route", id="another-host-in-the-target"
    ),
    pytest.param(
        b"GET http://billing.internal/ HTTP/1.1\r\n\r\n", 400, "bad_host", id="no-host-beside-a-url"
    ),
    pytest.param(
        b"GET http://billing.internal/ HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        400,
        "bad_host",
        id="two-hosts-beside-a-url",
    ),
    pytest.param(
        b"GET http://billing.internal/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        400,
        "bad_host",
        id="malformed-host-beside-a-url",
    ),
    pytest.param(
        b"GET http://u@billing.internal/ HTTP/1.1\r\n" + HOST + b"\r\n",
        400,
        "bad_host",
        id="userinfo-in-a-url",
    ),
    pytest.param(
        b"GET http://localhost:8787/x HTTP/1.1\r\n" + HOST + b"\r\n", 404, "no_route", id="proxy-of-itself"
    ),
    pytest.param(
        b"GET http://evil.com/ HTTP/1.1\r\n" + HOST + b"Origin: http://billing.internal\r\n\r\n",
        403,
        "caller_refused",
        id="strangers-url-beside-a-routes-host",
    ),
    pytest.param(
        b"GET http://billing.internal/ HTTP/1.1\r\nHost: evil.com\r\nOrigin: http://evil.com\r\n\r\n",
        403,
        "caller_refused",
        id="a-routes-url-beside-a-strangers-host-and-origin",
    ),
    pytest.param(
        b"GET http://billing.internal/ HTTP/1.1\r\nHost: evil.com\r\nSec-Fetch-Site: same-site\r\n\r\n",
        403,
        "caller_refused",
        id="a-routes-url-beside-a-strangers-host-and-site",
    ),
    pytest.param(b"GET /#f HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request", id="fragment"),
    pytest.param(
        b"GET ftp://billing.internal/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request", id="scheme"
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"X : 1\r\n\r\n", 400, "malformed_request", id="space-before-colon"
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n 2\r\n\r\n", 400, "malformed_request", id="obs-fold"
    ),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", 400, "malformed_request", id="nul"),
    pytest.param(b"GET / HTTP/1.1\n" + HOST + b"\n\n", 400, "malformed_request", id="bare-lf"),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed_request",
        id="cl-and-te",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        400,
        "malformed_request",
        id="two-lengths",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc",
        400,
        "malformed_request",
        id="signed-length",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
        "coding_not_carried",
        id="te-gzip-chunked",
    ),
    pytest.param(
        b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed_request",
        id="te-in-http-1.0",
    ),
    pytest.param(b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "method_not_carried", id="lower-case-method"),
    pytest.param(b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "method_not_carried", id="trace"),
    pytest.param(b"DESCRIBE / RTSP/1.0\r\n" + HOST + b"\r\n", 400, "malformed_request", id="rtsp"),
    pytest.param(
        b"CONNECT billing.internal:443 HTTP/1.1\r\nHost: billing.internal:443\r\n\r\n",
        501,
        "method_not_carried",
        id="connect",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + HOST + b"Expect: tea\r\nContent-Length: 1\r\n\r\na",
        417,
        "expectation_failed",
        id="expect",
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        431,
        "head_too_large",
        id="big-head",
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 201 + b"\r\n", 431, "head_too_large", id="many-lines"
    ),
    pytest.param(
        b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target_too_long", id="long-target"
    ),
    pytest.param(b"GET /" + b"a" * 70_000, 414, "target_too_long", id="endless-target"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: other.internal\r\n\r\n", 404, "no_route", id="no-route"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", 404, "no_route", id="dns-rebinding"),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"Origin: http://evil.com\r\n\r\n",
        403,
        "caller_refused",
        id="foreign-origin",
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"Origin: null\r\n\r\n", 403, "caller_refused", id="null-origin"
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"Sec-Fetch-Site: cross-site\r\n\r\n",
        403,
        "caller_refused",
        id="cross-site",
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"Sec-Fetch-Site: same-site\r\n\r\n",
        403,
        "caller_refused",
        id="same-site",
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"Via: 1.1 sidecar-under-test\r\n\r\n", 508, "loop", id="loop"
    ),
    pytest.param(
        b"GET / HTTP/1.1\r\n" + HOST + b"Authorization: Bearer mine\r\n\r\n",
        400,
        "header_conflict",
        id="conflict",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\na",
        400,
        "malformed_request",
        id="upgrade-with-body",
    ),
]


@pytest.mark.parametrize(("request_", "status", "reason"), REFUSED)
async def test_refused_requests_never_reach_the_upstream(
    wire: Wire, request_: bytes, status: int, reason: str
) -> None:
    """What may not pass is answered with its reason, and no connection to the upstream is made for it."""
    await wire.start()
    app = await wire.app()
    await app.send(request_)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert answer.headers["proxy-status"].startswith("idtoken-sidecar; error=")
    assert wire.upstream.waiting == 0
    assert wire.stats.in_flight == 0
    assert wire.stats.requests == {}
    assert wire.proxy.ledger.unrouted.refused == {reason: 1}


@pytest.mark.parametrize(
    "preface",
    [b"PRI * HTTP/2.0\r\n\r\nXX", b"PRI * HTTP/2.0\r\nX", b"PRI / HTTP/1.1\r\n\r\n", b"PRI *  "],
)
async def test_a_broken_preface_is_named(wire: Wire, preface: bytes) -> None:
    """A client that begins as HTTP/2 does and goes on otherwise is told so, by whatever its first bytes are."""
    await wire.start()
    app = await wire.app()
    await app.send(preface)
    assert b"It begins as HTTP/2 does" in (await app.answer()).body


SHORT = [case for case in REFUSED if len(case.values[0]) < 1000]


@pytest.mark.parametrize(("request_", "status", "reason"), SHORT)
async def test_a_refusal_does_not_depend_on_how_bytes_arrive(
    wire: Wire, request_: bytes, status: int, reason: str
) -> None:
    """Byte by byte, the verdict is the same."""
    await wire.start()
    app = await wire.app()
    await app.send(request_, bytewise=True)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert wire.upstream.waiting == 0


PASSED = [
    pytest.param(b"Via: 1.1 idtoken-sidecar-0123456789ab\r\n", id="another-sidecars-via"),
    pytest.param(b"Sec-Fetch-Site: none\r\n", id="typed-address"),
    pytest.param(b"Sec-Fetch-Site: same-origin\r\nOrigin: http://billing.internal\r\n", id="own-page"),
    pytest.param(b"Connection: authorization, content-length, via\r\n", id="connection-names-what-is-set"),
]


@pytest.mark.parametrize("lines", PASSED)
async def test_what_looks_odd_but_is_fine_passes_with_its_token(wire: Wire, lines: bytes) -> None:
    """Other sidecars, one's own pages, and a Connection that names what the sidecar sets."""
    await wire.start()
    app = await wire.app()
    await app.send(b"POST / HTTP/1.1\r\n" + HOST + lines + b"Content-Length: 2\r\n\r\nhi")
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert head.count(b"Authorization: Bearer ") == 1
    assert b"Content-Length: 2\r\n" in head
    assert await upstream.read(2) == b"hi"


async def test_a_bodyless_refusal_keeps_the_connection(wire: Wire) -> None:
    """404 and the like are no reason to make the app connect again."""
    await wire.start()
    app = await wire.app()
    for _ in range(2):
        await app.send(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n")
        assert (await app.answer()).reason == "no_route"
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"


async def test_a_refused_body_is_drained_not_reset(wire: Wire) -> None:
    """The answer to a request with a large body arrives although the body is not wanted."""
    await wire.start()
    app = await wire.app()
    await app.send(b"POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 3000000\r\n\r\n" + b"a" * 3_000_000)
    answer = await app.answer()
    assert (answer.reason, answer.headers["connection"]) == ("no_route", "close")
    assert await app.rest() == b""


async def test_a_head_refusal_has_no_body(wire: Wire) -> None:
    """The answer to HEAD ends with its head, the sidecar's own too."""
    await wire.start()
    app = await wire.app()
    await app.send(b"HEAD / HTTP/1.1\r\nHost: other\r\n\r\n" + GET)
    assert (await app.answer("HEAD")).status == 404
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"


async def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    """Also with a refused one in between, and one that closes at the end."""
    await wire.start()
    app = await wire.app()
    await app.send(
        GET
        + b"GET / HTTP/1.1\r\nHost: other\r\n\r\n"
        + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    upstream = await wire.upstream.accept()
    for body in (b"1", b"2"):
        await upstream.read_head()
        await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + body)
    assert (await app.answer()).body == b"1"
    assert (await app.answer()).reason == "no_route"
    last = await app.answer()
    assert (last.body, last.headers["connection"]) == (b"2", "close")
    assert await app.rest() == b""


async def test_thousands_of_pipelined_requests_are_held_back_and_all_answered(wire: Wire) -> None:
    """More than is parsed at once: reading stops until the queue is worked off."""
    await wire.start()
    app = await wire.app()
    count = 5000
    app.writer.write(GET * count)
    upstream = await wire.upstream.accept()
    for number in range(count):
        await upstream.read_head()
        upstream.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n%04d" % number)
    for number in range(count):
        assert (await app.answer()).body == b"%04d" % number
    assert wire.stats.requests == {("GET", 200): count}


async def test_absolute_form_is_a_way_in(wire: Wire) -> None:
    """An app that uses the sidecar as its HTTP proxy; the port of the URL does not matter."""
    await wire.start()
    app = await wire.app()
    await app.send(b"GET http://billing.internal:80?q=1 HTTP/1.1\r\nHost: billing.internal:80\r\n\r\n")
    upstream = await wire.upstream.accept()
    assert (await upstream.read_head()).startswith(b"GET /?q=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("authority", "rest"),
    [
        pytest.param(b"billing.internal:80", b" HTTP/1.1\r\n" + HOST, id="of-java"),
        pytest.param(b"billing.internal", b" HTTP/1.1\r\nHost: billing.internal:80\r\n", id="the-reverse"),
        pytest.param(b"billing.internal.", b" HTTP/1.1\r\n" + HOST, id="dot-at-end"),
        pytest.param(b"billing.internal", b" HTTP/1.1\r\nHost: billing.internal.\r\n", id="dot-in-the-host"),
        pytest.param(b"billing.internal", b" HTTP/1.1\r\nHost: localhost:8787\r\n", id="of-node"),
        pytest.param(b"billing.internal", b" HTTP/1.1\r\nHost: proxy.internal\r\n", id="the-proxys-name"),
        pytest.param(b"billing.internal", b" HTTP/1.0\r\n", id="http-1.0-without-a-host"),
        pytest.param(b"BILLING.internal:8080", b" HTTP/1.0\r\nHost: [::1]\r\n", id="http-1.0"),
    ],
)
@pytest.mark.parametrize("host", ["upstream", "keep"])
async def test_a_proxy_goes_by_the_url_and_not_by_the_host(
    wire: Wire, authority: bytes, rest: bytes, host: str
) -> None:
    """RFC 9112 section 3.2.2; what is sent on as Host follows from the route or the URL, never from the Host that came."""
    await wire.start(f"upstream_host: {host}")
    app = await wire.app()
    await app.send(b"GET http://" + authority + b"/x?y" + rest + b"\r\n")
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    sent = b"127.0.0.1:%d" % wire.upstream.port if host == "upstream" else authority
    assert head.startswith(b"GET /x?y HTTP/1.1\r\nHost: " + sent + b"\r\n")
    assert head.lower().count(b"\r\nhost:") == 1
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        pytest.param("/ä/x?q=ö&r=%20%zz".encode(), b"/%C3%A4/x?q=%C3%B6&r=%20%zz", id="utf-8"),
        pytest.param(b"/x?\x80\xff\xa0", b"/x?%80%FF%A0", id="no-text"),
        pytest.param("http://billing.internal/ä?ö".encode(), b"/%C3%A4?%C3%B6", id="url"),
        pytest.param(b"http://billing.internal?\xe4/y", b"/?%E4/y", id="url-without-a-path"),
        pytest.param(b"/" + b"\xe4" * 2000, b"/" + b"%E4" * 2000, id="many"),
    ],
)
async def test_bytes_above_ascii_are_escaped(
    wire: Wire, sent: bytes, forwarded: bytes, bytewise: bool
) -> None:
    """Go sends them as they are: every one of them arrives, and the requests around it too, with their bodies."""
    await wire.start()
    app = await wire.app()
    post = b"POST " + sent + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"
    await app.send(b"\r\n" + post + post + GET, bytewise=bytewise)
    upstream = await wire.upstream.accept()
    for _ in range(2):
        head = await upstream.read_head()
        assert head.startswith(b"POST " + forwarded + b" HTTP/1.1\r\nHost: 127.0.0.1")
        assert await upstream.read(2) == b"hi"
        await upstream.send(OK)
    assert (await upstream.read_head()).startswith(b"GET /x ")
    await upstream.send(OK)
    assert [(await app.answer()).body for _ in range(3)] == [b"ok"] * 3


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        pytest.param(b"GET /\xe4/../../x HTTP/1.1", 400, "malformed_request", id="out-of-the-root"),
        pytest.param(b"GET /\xe4%zz HTTP/1.1", 400, "malformed_request", id="broken-escape"),
        pytest.param(b"GET /\xe4 x HTTP/1.1", 400, "malformed_request", id="blank"),
        pytest.param(b"GET /\xe4\x01 HTTP/1.1", 400, "malformed_request", id="control"),
        pytest.param(b"GET /\xe4", 400, "malformed_request", id="http-0.9"),
        pytest.param(b"GET /\xe4 HTTP/1.\xe4", 400, "malformed_request", id="version"),
        pytest.param(b"GET \xe4/x HTTP/1.1", 400, "malformed_request", id="no-path"),
        pytest.param(b"GET http://b\xe4/x HTTP/1.1", 400, "malformed_request", id="host"),
        pytest.param(b"GET http://b\xe4/x\xe4 HTTP/1.1", 400, "malformed_request", id="host-and-path"),
        pytest.param(b"GET /" + b"\xe4" * 5500 + b" HTTP/1.1", 414, "target_too_long", id="long-by-escapes"),
        pytest.param(b"GET /" + b"\xe4" * 70_000 + b" HTTP/1.1", 414, "target_too_long", id="long"),
    ],
)
async def test_bytes_above_ascii_excuse_nothing_else(
    wire: Wire, line: bytes, status: int, reason: str
) -> None:
    """What is wrong with the rest still is; `limits.target` counts the escapes."""
    await wire.start()
    app = await wire.app()
    await app.send(line + b"\r\n" + HOST + b"\r\n")
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert wire.upstream.waiting == 0


async def test_http_10_gets_http_10_manners(wire: Wire) -> None:
    """No chunks, no interim answers; kept alive only when asked."""
    await wire.start()
    app = await wire.app()
    await app.send(b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n")
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert b" HTTP/1.1\r\n" in head
    assert b"Via: 1.0 sidecar-under-test" in head
    await upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    answer = await app.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")
    await app.send(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    answer = await app.answer()
    assert "transfer-encoding" not in answer.headers
    assert (answer.body, answer.headers["connection"]) == (b"abc", "close")


async def test_expect_100_continue_passes_both_ways(wire: Wire) -> None:
    """The upstream decides; its 100 reaches the app before the body is sent."""
    await wire.start()
    app = await wire.app()
    await app.send(b"PUT / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    upstream = await wire.upstream.accept()
    assert b"Expect: 100-continue" in await upstream.read_head()
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert await app.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await app.send(b"hi")
    assert await upstream.read(2) == b"hi"
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_a_head_request_that_makes_no_sense_is_answered_without_a_body(wire: Wire) -> None:
    """The method was read before the rest turned out to be none."""
    await wire.start()
    for data in (b"HEAD x HTTP/1.1\r\n" + HOST + b"\r\n", b"HEAD / HTTP/1.1\r\nbad line\r\n\r\n"):
        app = await wire.app()
        await app.send(data)
        answer = await app.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.partition(b"\r\n\r\n")[2] == b""


@pytest.mark.parametrize("body", [pytest.param(b"", id="bodyless"), pytest.param(b"hello", id="with-body")])
async def test_h2c_is_ignored_and_the_body_is_no_request(wire: Wire, body: bytes) -> None:
    """Java's client asks for h2c on every request; what follows its head is its body, framed as it says."""
    await wire.start()
    app = await wire.app()
    await app.send(
        b"POST /1 HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
        + b"GET /2 HTTP/1.1\r\n"
        + HOST
        + b"\r\n"
    )
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert head.startswith(b"POST /1 ")
    assert b"pgrade" not in head
    assert b"ettings" not in head
    assert await upstream.read(len(body)) == body
    await upstream.send(OK)
    assert (await upstream.read_head()).startswith(b"GET /2 ")
    await upstream.send(OK)
    assert [(await app.answer()).status for _ in range(2)] == [200, 200]


async def test_via_can_be_left_out(wire: Wire) -> None:
    """Some servers stop compressing when they see one."""
    await wire.start(top="via: off")
    app = await wire.app()
    await app.send(GET.replace(b"\r\n\r\n", b"\r\nVia: 1.0 fred\r\n\r\n"))
    head = await (await wire.upstream.accept()).read_head()
    assert [line for line in head.split(b"\r\n") if line.lower().startswith(b"via")] == [b"Via: 1.0 fred"]


async def test_a_path_that_leads_out_of_its_prefix_goes_nowhere(wire: Wire) -> None:
    """`/b/../x` would be `/../x` at the target, which no request could ask for under the route's name."""
    await wire.start("path_prefix: /b")
    app = await wire.app()
    await app.send(b"GET /b/../x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await app.answer()
    assert (answer.status, answer.reason, answer.headers["connection"]) == (400, "malformed_request", "close")
    assert not wire.upstream.waiting


@pytest.mark.parametrize(
    ("method", "sent", "forwarded"),
    [
        pytest.param(b"OPTIONS", b"10", b"9", id="one-less"),
        pytest.param(b"OPTIONS", b"1", b"0", id="the-last-but-one"),
        pytest.param(b"OPTIONS", b"007", b"6", id="zeros-before-it"),
        pytest.param(b"OPTIONS", b"999999999", b"999999998", id="the-largest"),
        pytest.param(b"GET", b"0", b"0", id="of-another-method"),
    ],
)
async def test_hops_are_counted(wire: Wire, method: bytes, sent: bytes, forwarded: bytes) -> None:
    """Of OPTIONS, as every intermediary must (RFC 9110 section 7.6.2)."""
    await wire.start()
    app = await wire.app()
    await app.send(b"%b /x HTTP/1.1\r\nHost: billing.internal\r\nMax-Forwards: %b\r\n\r\n" % (method, sent))
    upstream = await wire.upstream.accept()
    assert b"\r\nMax-Forwards: %b\r\n" % forwarded in await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


@pytest.mark.parametrize(
    ("lines", "status", "reason"),
    [
        pytest.param(b"max-forwards: 0\r\n", 501, "method_not_carried", id="no-hop-is-left"),
        pytest.param(b"Max-Forwards: -1\r\n", 400, "malformed_request", id="a-sign"),
        pytest.param(b"Max-Forwards:\r\n", 400, "malformed_request", id="empty"),
        pytest.param(b"Max-Forwards: 5\r\nMax-Forwards: 0\r\n", 400, "malformed_request", id="two"),
        pytest.param(b"Max-Forwards: 1000000000\r\n", 400, "malformed_request", id="too-large"),
    ],
)
async def test_the_last_hop_is_forwarded_nowhere(wire: Wire, lines: bytes, status: int, reason: str) -> None:
    """It asks the sidecar itself; and what is no number of hops might be none."""
    await wire.start()
    app = await wire.app()
    await app.send(b"OPTIONS * HTTP/1.1\r\nHost: billing.internal\r\n%b\r\n" % lines)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert not wire.upstream.waiting
