"""`allow` on the wire: what was judged is what is sent, and what is refused is not sent"""

from __future__ import annotations

import pytest

from tests.support.wire import OK, Wire

ALLOW = "allow: {methods: [GET, PUT], paths: [/public/*]}"


def request(line: str, *lines: str, host: str = "billing.internal", body: str = "") -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *lines, "", body]).encode()


@pytest.mark.parametrize(
    "target",
    ["/public/a", "/public/%61%2db?x=%2e%2e/../y", "/public/caf%c3%a9", "/public/a;b=c", "/public/"],
)
async def test_what_was_judged_is_sent_byte_for_byte(wire: Wire, target: str) -> None:
    """The normal form is for the comparison; the target stays as it came."""
    await wire.start(ALLOW)
    app = await wire.app()
    await app.send(request(f"GET {target}"))
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert head.split(b" ")[1] == target.encode()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        pytest.param("/public/café?ä".encode(), b"/public/caf%C3%A9?%C3%A4", id="allowed"),
        pytest.param("/private/é".encode(), 403, id="not-allowed"),
        pytest.param(b"/public/\xff", 400, id="no-utf-8"),
        pytest.param(b"/public/\xc0\xae\xc0\xae/private", 400, id="overlong-dots"),
        pytest.param("/public/\uff0e\uff0e/private".encode(), 400, id="what-is-folded-into-dots"),
        pytest.param("/public\uff0fa".encode(), 400, id="what-is-folded-into-a-slash"),
    ],
)
async def test_bytes_that_are_no_ascii_are_judged_as_their_escapes(
    wire: Wire, target: bytes, sent: bytes | int
) -> None:
    """And are sent so."""
    await wire.start(ALLOW)
    app = await wire.app()
    await app.send(b"GET " + target + b" HTTP/1.1\r\nHost: billing.internal\r\n\r\n")
    if isinstance(sent, bytes):
        assert (await (await wire.upstream.accept()).read_head()).split(b" ")[1] == sent
    else:
        assert (await app.answer()).status == sent
        assert wire.upstream.waiting == 0


@pytest.mark.parametrize(
    ("line", "lines", "status", "reason"),
    [
        pytest.param("GET /private", (), 403, "not_allowed", id="path"),
        pytest.param("POST /public/a", (), 403, "not_allowed", id="method"),
        pytest.param("GET /public/%2e%2e/private", (), 400, "path_ambiguous", id="ambiguous"),
        pytest.param("GET /public/a", ("X-HTTP-Method-Override: DELETE",), 403, "not_allowed", id="override"),
        pytest.param(
            "GET /private",
            ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            403,
            "not_allowed",
            id="upgrade",
        ),
        pytest.param("GET http://billing.internal/private", (), 403, "not_allowed", id="absolute-form"),
        pytest.param("GET http://billing.internal", (), 403, "not_allowed", id="absolute-form-without-path"),
        pytest.param("PUT /private", ("Content-Length: 2",), 403, "not_allowed", id="with-a-body"),
    ],
)
async def test_what_is_refused_is_not_sent(
    wire: Wire, line: str, lines: tuple[str, ...], status: int, reason: str
) -> None:
    """No connection is made for it."""
    await wire.start(ALLOW)
    app = await wire.app()
    await app.send(request(line, *lines))
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert b"oute `billing`" in answer.body
    assert wire.upstream.waiting == 0
    assert sum(wire.proxy.ledger.unrouted.refused.values()) == 1


async def test_a_refusal_costs_only_its_own_request(wire: Wire) -> None:
    """The connection goes on."""
    await wire.start(ALLOW)
    app = await wire.app()
    await app.send(request("GET /private") + request("GET /public/a"))
    assert (await app.answer()).status == 403
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_the_path_is_judged_without_its_prefix(wire: Wire) -> None:
    """As it is sent."""
    await wire.start("path_prefix: /b\n" + ALLOW)
    app = await wire.app()
    await app.send(request("GET /b/private", host="localhost"))
    assert (await app.answer()).reason == "not_allowed"
    await app.send(request("GET /b/public/x", host="localhost"))
    upstream = await wire.upstream.accept()
    assert (await upstream.read_head()).split(b" ")[1] == b"/public/x"
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_without_allow_everything_is_forwarded_as_it_came(wire: Wire) -> None:
    """Ambiguous or not; only what no path can be is refused (tests/conformance)."""
    await wire.start()
    app = await wire.app()
    target = b"/public/%2e%2e//x\\y;z/%c0%af"
    await app.send(b"GET %b HTTP/1.1\r\nHost: billing.internal\r\n\r\n" % target)
    upstream = await wire.upstream.accept()
    assert (await upstream.read_head()).split(b" ")[1] == target
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_no_trailer_says_that_it_was_another_request(wire: Wire) -> None:
    """What merges trailers into the header section would act on them, behind the judgement."""
    await wire.start(ALLOW)
    app = await wire.app()
    trailers = (
        b"X-HTTP-Method-Override: DELETE\r\nX_Original_URL: /private\r\nX-Forwarded-For: 1.2.3.4\r\n"
        b"If-Match: *\r\nRange: bytes=0-1\r\nSum: 1\r\n"
    )
    await app.send(
        b"PUT /public/x HTTP/1.1\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhi\r\n0\r\n%b\r\n" % trailers
    )
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    assert await upstream.read_until(b"\r\n\r\n") == b"2\r\nhi\r\n0\r\nSum: 1\r\n\r\n"
    await upstream.send(OK)
    assert (await app.answer()).status == 200
