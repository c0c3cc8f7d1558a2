"""What a browser can be made to ask is refused before anything is sent, and the refusal lets no page read it"""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.net import listeners
from tests.support.wire import OK, End, Wire

EVIL = "Origin: https://evil.example"


def request(method: str, host: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} /x HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


PREFLIGHT = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: eA==",
)
ATTACKS = [
    pytest.param(
        "GET", "billing.localhost", ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), id="image"
    ),
    pytest.param("GET", "billing.localhost", (EVIL, "Sec-Fetch-Site: cross-site"), id="fetch"),
    pytest.param("GET", "billing.internal", (EVIL,), id="fetch-by-an-old-browser"),
    pytest.param("POST", "billing.localhost", (EVIL, "Content-Length: 0"), id="form"),
    pytest.param("POST", "billing.localhost", ("Origin: null", "Content-Length: 0"), id="form-in-a-sandbox"),
    pytest.param(
        "GET", "billing.localhost", ("Sec-Fetch-Site: same-site",), id="another-name-under-localhost"
    ),
    pytest.param("OPTIONS", "billing.localhost", (EVIL, *PREFLIGHT), id="preflight"),
    pytest.param(
        "OPTIONS",
        "127.0.0.1:8787",
        (EVIL, *PREFLIGHT, "Access-Control-Request-Private-Network: true"),
        id="private-network-preflight",
    ),
    pytest.param(
        "OPTIONS",
        "billing.internal",
        (EVIL, *PREFLIGHT, "Access-Control-Request-Local-Network: true"),
        id="local-network-preflight",
    ),
    pytest.param("GET", "billing.localhost", (EVIL, *WEBSOCKET), id="websocket"),
    pytest.param(
        "GET", "billing.localhost", ("Sec-Fetch-Site: cross-site", *WEBSOCKET), id="websocket-without-origin"
    ),
    pytest.param("GET", "evil.example:8787", ("Origin: http://evil.example:8787",), id="rebinding"),
    pytest.param("GET", "evil.example:8787", ("Sec-Fetch-Site: same-origin",), id="rebinding-same-origin"),
    pytest.param("GET", "localhost", (EVIL,), id="no-route"),
]


async def refused(app: End, wire: Wire) -> None:
    answer = await app.answer()
    assert (answer.status, answer.reason) == (403, "caller_refused")
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert wire.upstream.waiting == 0


@pytest.mark.parametrize(("method", "host", "lines"), ATTACKS)
async def test_a_page_of_another_site_gets_nothing(
    wire: Wire, method: str, host: str, lines: tuple[str, ...]
) -> None:
    """403 without a word that would let the page read it, whatever the upstream would have allowed."""
    await wire.start()
    app = await wire.app()
    await app.send(request(method, host, *lines))
    await refused(app, wire)


@pytest.mark.parametrize(
    "lines", [(EVIL,), ("Sec-Fetch-Site: cross-site",), (EVIL, *PREFLIGHT), (EVIL, *WEBSOCKET)]
)
async def test_a_route_may_serve_them(wire: Wire, lines: tuple[str, ...]) -> None:
    """`allow_cross_site` passes all of it on, and the upstream answers for itself."""
    await wire.start("allow_cross_site: true")
    app = await wire.app()
    await app.send(request("OPTIONS", "billing.internal", *lines))
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert all(line.encode() in head for line in lines if "Connection" not in line and "Upgrade" not in line)
    await upstream.send(OK.replace(b"\r\n\r\n", b"\r\nAccess-Control-Allow-Origin: *\r\n\r\n"))
    assert (await app.answer()).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("host", "lines", "status"),
    [
        pytest.param("evil.example", (), 403, id="stranger"),
        pytest.param("evil.example", ("Sec-Fetch-Site: same-origin",), 403, id="rebound"),
        pytest.param("127.0.0.1", ("Sec-Fetch-Site: cross-site",), 403, id="page"),
        # An image of any page: such an address leads to loopback, and browsers send no Sec-Fetch-Site to it.
        pytest.param("0.0.0.0:8787", (), 403, id="page-by-the-unspecified-address"),
        pytest.param("[::]:8787", (), 403, id="page-by-the-unspecified-address-of-ipv6"),
        pytest.param("[::ffff:127.0.0.1]:8787", (), 403, id="page-by-loopback-in-disguise"),
    ],
)
async def test_a_routes_own_listener_is_no_way_round(
    wire: Wire, host: str, lines: tuple[str, ...], status: int
) -> None:
    """Everything that arrives there is the route's, but not for a name that is none of its."""
    await wire.start()
    (listener,) = listeners.bind(parse_listen("127.0.0.1:0"))
    await wire.proxy.serve(listener, wire.table.routes[0])
    port = listener.socket.getsockname()[1]
    app = await wire.connect(port)
    await app.send(request("GET", host, *lines))
    assert (await app.answer()).status == status
    await app.close()


async def test_an_app_that_misses_a_route_is_told_the_nearest(wire: Wire) -> None:
    """404, also for Node's `fetch`, which sends one of the browsers' headers."""
    await wire.start()
    app = await wire.app()
    await app.send(request("GET", "biling.internal", "Sec-Fetch-Mode: cors", "User-Agent: node"))
    answer = await app.answer()
    assert (answer.status, answer.reason) == (404, "no_route")
    assert "billing" in answer.body.decode()


async def test_a_unix_socket_takes_any_name_but_no_page(wire: Wire, tmp_path: Path) -> None:
    """No browser can be led there, but what a browser made may be passed on to it."""
    await wire.start()
    (listener,) = listeners.bind(parse_listen(f"unix:{tmp_path}/proxy.sock"))
    await wire.proxy.serve(listener, wire.table.routes[0])
    app = await wire.connect(str(tmp_path / "proxy.sock"))
    app.writer.write(request("GET", "anything.example", EVIL))
    await refused(app, wire)
    await app.close()
