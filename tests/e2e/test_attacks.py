"""What somebody on the same machine, or a page in a browser there, may try: a table of attacks on a real sidecar

Each is said to be stopped in SECURITY.md, and has tests of its own where it is; here nothing is made up, so that what holds
in the parts holds in the whole."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from sidecar.emulator.running import EmulatorThread
from sidecar.emulator.targets import Target
from tests.support.process import SidecarProcess
from tests.support.sidecar import LIMIT

CONFIG = """
credentials: {{default: {{type: metadata}}}}
routes:
  - {{name: open, host: open.internal, upstream: '{url}', target: cloud_run, audience: '{url}', path_prefix: /open}}
  - name: shut
    host: shut.internal
    upstream: '{url}'
    target: cloud_run
    audience: '{url}'
    allow: {{methods: [GET, POST], paths: ['/v1/public/*']}}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SidecarProcess, Target]]:
    with EmulatorThread() as thread:
        target = thread.add_target("svc")
        config = CONFIG.format(url=target.url)
        environment = thread.google.environment()
        with SidecarProcess(config, tmp_path_factory.mktemp("attacks"), environment) as sidecar:
            assert sidecar.get("open").status == 200
            yield sidecar, target


def answers(port: int, data: bytes) -> bytes:
    """Everything that comes back until the connection ends; each attack asks for that with its last request."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as app:
        with suppress(OSError):  # a refusal may come, and the connection end, before all is sent
            app.sendall(data)
        found = b""
        with suppress(ConnectionResetError):
            while piece := app.recv(65536):
                found += piece
        return found


def statuses(text: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", text)]


def request(line: str, host: str, *lines: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *lines, "Connection: close", "", ""]).encode(
        "latin-1"
    )


EVIL = "Origin: http://evil.example"
NO_BODY = "Content-Length: 0"
WEBSOCKET = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
REFUSED = [
    # a page
    pytest.param(request("GET /open/x", "localhost", EVIL), [403], id="fetch"),
    pytest.param(request("GET /open/x", "localhost", "Sec-Fetch-Site: cross-site"), [403], id="image"),
    pytest.param(request("POST /open/x", "localhost", "Origin: null", NO_BODY), [403], id="sandboxed-form"),
    pytest.param(request("GET /x", "open.localhost", EVIL, *WEBSOCKET), [403], id="websocket"),
    pytest.param(request("GET /open/x", "localhost", "Sec-Fetch-Site: same-origin", EVIL), [403], id="both"),
    pytest.param(request("GET /open/x", "0.0.0.0"), [404], id="image-by-the-unspecified-address"),
    pytest.param(request("GET /open/x", "[::]"), [404], id="image-by-the-unspecified-address-of-ipv6"),
    pytest.param(request("GET /open/x", "[::ffff:127.0.0.1]"), [404], id="image-by-mapped-loopback"),
    pytest.param(request("GET /open/x", "rebound.example"), [404], id="rebinding"),
    pytest.param(request("GET /open/x", "rebound.example", "Sec-Fetch-Site: none"), [403], id="rebound-page"),
    # a name that leads elsewhere
    pytest.param(
        request("GET http://169.254.169.254/x", "169.254.169.254", "Metadata-Flavor: Google"),
        [404],
        id="metadata",
    ),
    pytest.param(
        request("GET http://shut.internal/v1/public/a", "open.internal", "Host: shut.internal"),
        [400],
        id="two-hosts",
    ),
    pytest.param(
        request("GET http://shut.internal/v1/secret", "open.internal"), [403], id="the-host-of-another-route"
    ),
    pytest.param(request("GET http://rebound.example/x", "open.internal"), [404], id="the-host-of-a-route"),
    pytest.param(
        request("GET http://open.internal/x", "rebound.example", "Origin: http://rebound.example"),
        [403],
        id="the-host-of-a-page",
    ),
    pytest.param(request("GET http://localhost/open/x", "open.internal"), [404], id="a-prefix-by-proxy"),
    pytest.param(request("GET /x", "open.internal@evil.example"), [400], id="userinfo"),
    pytest.param(request("CONNECT open.internal:443", "open.internal:443"), [501], id="tunnel"),
    pytest.param(request("TRACE /x", "open.internal"), [501], id="trace-to-read-the-token"),
    # around `allow`
    pytest.param(request("DELETE /v1/public/a", "shut.internal"), [403], id="method"),
    pytest.param(request("GET /v1/secret", "shut.internal"), [403], id="path"),
    pytest.param(request("GET /v1/public/../secret", "shut.internal"), [400], id="dots"),
    pytest.param(request("GET /v1/public/%2e%2e/secret", "shut.internal"), [400], id="escaped-dots"),
    pytest.param(request("GET /v1/public/..;/secret", "shut.internal"), [400], id="dots-and-parameter"),
    pytest.param(request("GET /v1/public/%252e%252e/secret", "shut.internal"), [400], id="escaped-twice"),
    pytest.param(request("GET //v1/public/a", "shut.internal"), [400], id="empty-segment"),
    pytest.param(request("GET /v1/public/\\..\\secret", "shut.internal"), [400], id="backslash"),
    pytest.param(
        request("POST /v1/public/a", "shut.internal", "X-HTTP-Method-Override: DELETE", NO_BODY),
        [403],
        id="method-by-header",
    ),
    pytest.param(
        request("GET /v1/public/a", "shut.internal", "X-Original-URL: /v1/secret"), [403], id="path-by-header"
    ),
    # smuggling
    pytest.param(
        request("POST /x", "open.internal", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        [400],
        id="length-and-chunks",
    ),
    pytest.param(
        request("GET /x", "open.internal").replace(b"Connection: close", b"Connection: upgrade")[:-2]
        + b"Upgrade: websocket\r\nContent-Length: 4\r\n\r\nGET ",
        [400],
        id="upgrade-with-a-body",
    ),
    pytest.param(
        request("GET /v1/public/\xc0\xae\xc0\xae/secret", "shut.internal"), [400], id="dots-in-raw-bytes"
    ),
    pytest.param(b"GET /x HTTP/1.1\nHost: open.internal\n\n", [400], id="bare-line-feeds"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", [400], id="broken-http2"),
    # too large
    pytest.param(request("GET /" + "a" * 20_000, "open.internal"), [414], id="target"),
    pytest.param(request("GET /x", "open.internal", "X-A: " + "a" * 70_000), [431], id="header"),
    pytest.param(request("GET /x", "open.internal", *["X-A: a"] * 300), [431], id="headers"),
    pytest.param(request("POST /x", "open.internal", "Content-Length: " + "9" * 30), [400], id="length"),
]


@pytest.mark.parametrize(("data", "expected"), REFUSED)
def test_nothing_of_it_is_sent(
    running: tuple[SidecarProcess, Target], data: bytes, expected: list[int]
) -> None:
    """One answer, of the sidecar's own, without a token in it; the upstream hears of nothing."""
    sidecar, target = running
    before = len(target.requests)
    found = answers(sidecar.port, data)
    assert statuses(found) == expected
    assert b"Proxy-Status: idtoken-sidecar" in found
    assert b"eyJ" not in found
    assert len(target.requests) == before


def test_a_pipelined_request_is_judged_for_itself(running: tuple[SidecarProcess, Target]) -> None:
    """Behind a good one, on the same connection: another route's rules hold."""
    sidecar, target = running
    before = len(target.requests)
    good = request("GET /x", "open.internal").replace(b"Connection: close\r\n", b"")
    found = answers(sidecar.port, good + request("GET /v1/secret", "shut.internal"))
    assert statuses(found) == [200, 403]
    assert [received.path for received in list(target.requests)[before:]] == ["/x"]


TOKEN_GAMES = [
    pytest.param(["Connection: authorization"], id="authorization-as-a-hop"),
    pytest.param(["Keep-Alive: authorization", "Proxy-Connection: authorization"], id="older-hops"),
    pytest.param(["X-Serverless-Authorization: Bearer evil"], id="the-other-header"),
    pytest.param(["Authorization: Bearer evil"], id="the-apps-own"),
    pytest.param(
        ["Authorization: Bearer evil", "Connection: x-serverless-authorization"], id="the-other-one-as-a-hop"
    ),
    pytest.param(["Authorization:"], id="an-empty-one"),
    pytest.param(["Authorization: Bearer evil", "Authorization: Bearer worse"], id="two"),
    pytest.param(
        ["X-Serverless-Authorization: Bearer evil", "X-Serverless-Authorization: Bearer worse"],
        id="the-other-one-twice",
    ),
]


@pytest.mark.parametrize("lines", TOKEN_GAMES)
def test_the_token_is_the_sidecars(running: tuple[SidecarProcess, Target], lines: list[str]) -> None:
    """The upstream verifies it in the one header that speaks for the caller; the app's own is beside it at most."""
    sidecar, target = running
    found = answers(sidecar.port, request("GET /x", "open.internal", *lines))
    assert statuses(found) == [200]
    echo: dict[str, Any] = json.loads(found.partition(b"\r\n\r\n")[2])
    assert echo["verified"]["audience"] == target.url
    sent = [(name.lower(), value) for name, value in echo["headers"]]
    tokens = [name for name, value in sent if value.startswith("Bearer eyJ")]
    own = any(line.startswith("Authorization") for line in lines)
    assert tokens == ["x-serverless-authorization" if own else "authorization"]
    assert [
        value for name, value in sent if name == "x-serverless-authorization" and "eyJ" not in value
    ] == []


LOCAL = "localhost"
ADMIN = [
    pytest.param(request("GET /quit", LOCAL), 405, id="quit-by-get"),
    pytest.param(request("POST /quit", LOCAL, EVIL, NO_BODY), 403, id="quit-by-a-page"),
    pytest.param(request("POST /quit", LOCAL, "Origin: null", NO_BODY), 403, id="quit-by-a-sandboxed-page"),
    pytest.param(
        request("POST /quit", LOCAL, "Origin: http://localhost:3000", NO_BODY), 403, id="quit-by-another-port"
    ),
    pytest.param(request("POST /quit", "rebound.example", NO_BODY), 403, id="quit-by-rebinding"),
    pytest.param(request("POST /quit", "0.0.0.0", NO_BODY), 403, id="quit-by-the-unspecified-address"),
    pytest.param(request("POST /quit", "[::ffff:127.0.0.1]", NO_BODY), 403, id="quit-by-mapped-loopback"),
    pytest.param(request("GET /quit", LOCAL, "X-HTTP-Method-Override: POST"), 405, id="quit-by-override"),
    pytest.param(request("GET /status.json", "rebound.example"), 403, id="status-by-rebinding"),
    pytest.param(request("TRACE /", LOCAL), 405, id="trace"),
    pytest.param(request("GET /../../etc/passwd", LOCAL), 404, id="a-file"),
]


@pytest.mark.parametrize(("data", "expected"), ADMIN)
def test_the_admin_server_is_no_way_in(
    running: tuple[SidecarProcess, Target], data: bytes, expected: int
) -> None:
    """Refused, and the sidecar goes on."""
    sidecar, _ = running
    assert statuses(answers(sidecar.admin_port, data))[:1] == [expected]
    assert sidecar.admin("/healthz/live").status == 200


def test_the_admin_server_is_no_upstream(running: tuple[SidecarProcess, Target]) -> None:
    """Nor is it reached through the sidecar as a proxy."""
    sidecar, _ = running
    host = f"localhost:{sidecar.admin_port}"
    assert statuses(answers(sidecar.port, request(f"POST http://{host}/quit", host, NO_BODY))) == [404]
    assert sidecar.admin("/healthz/live").status == 200
