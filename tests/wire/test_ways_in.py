"""Which route takes a request: what nobody wrote gives way to what somebody did, and `explain` says what happens"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from sidecar.config.addresses import ListenAddress, parse_listen
from sidecar.grammar.hosts import ip_literal, is_loopback
from sidecar.net import listeners
from sidecar.proxy.explain import explain
from sidecar.routing.routes import request_host
from tests.support.closing import close_server
from tests.support.wire import Answer, End, Wire


class Echo:
    """An upstream that answers with the audience of the token that it was sent."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        token = head.partition("Bearer ")[2].split("\r\n")[0]
        payload = token.split(".")[1]
        audience = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["aud"]
        self.asked.append(head.split(" ")[1])
        body = audience.encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    async def stop(self) -> None:
        await close_server(self._server)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    await made.start()
    yield made
    await made.stop()


def nowhere(host: str, *more: Any, **further: Any) -> list[Any]:
    """A resolver that knows addresses and no names: no test asks the network."""
    if ip_literal(host) is None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return socket.getaddrinfo(host, *more, **further)


class Asked(NamedTuple):
    """A request, as an app would make it."""

    host: str
    path: str = "/x"
    proxy: bool = False
    """In absolute form: the app uses the sidecar as its HTTP proxy."""
    own: bool = False
    """To the route's own listener."""

    def head(self) -> bytes:
        target = f"http://{self.host}{self.path}" if self.proxy else self.path
        return f"GET {target} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()


async def own_port(wire: Wire) -> int:
    """The port of the listener of the route `written`."""
    (route,) = [route for route in wire.table.routes if route.name == "written"]
    (listener,) = listeners.bind(parse_listen("127.0.0.1:0"))
    await wire.proxy.serve(listener, route)
    return int(listener.socket.getsockname()[1])


async def answered(wire: Wire, asked: Asked, port: int) -> Answer:
    """What the data path makes of it."""
    app = End(*await asyncio.open_connection("127.0.0.1", port if asked.own else wire.port))
    await app.send(asked.head())
    answer = await app.answer()
    await app.close()
    return answer


def explained(wire: Wire, asked: Asked, port: int) -> dict[str, Any]:
    """What `explain` makes of it."""
    places = [(ListenAddress("127.0.0.1", wire.port), None), (ListenAddress("127.0.0.1", port), "written")]
    if asked.proxy:
        return explain(wire.config, f"http://{asked.host}{asked.path}", [], places=places)
    url = f"http://127.0.0.1:{port if asked.own else wire.port}{asked.path}"
    return explain(wire.config, url, [f"Host: {asked.host}"], places=places)


DEFAULTS = [
    pytest.param("http://localhost:7001", id="localhost"),
    pytest.param("http://127.0.0.1:7001", id="loopback"),
    pytest.param("http://127.9.9.9:7001", id="another-loopback"),
    pytest.param("http://[::1]:7001", id="loopback-of-ipv6"),
    pytest.param("http://app.localhost:7001", id="a-name-of-loopback"),
    pytest.param("http://written.localhost:7001", id="the-others-name"),
    pytest.param("http://10.0.0.1", id="an-address"),
    pytest.param("http://u.shop.example", id="a-name"),
]
"""Upstreams of the route that wrote no way in."""

WRITTEN = [
    pytest.param("host: written.internal", Asked("written.internal"), id="host"),
    pytest.param("host: localhost", Asked("localhost"), id="host-that-is-localhost"),
    pytest.param("host: 127.0.0.1", Asked("127.0.0.1"), id="host-that-is-loopback"),
    pytest.param("host: app.localhost", Asked("app.localhost"), id="host-that-is-a-name-of-loopback"),
    pytest.param("host: '*.shop.example'", Asked("u.shop.example"), id="wildcard"),
    pytest.param("host: '*.shop.example'", Asked("u.shop.example", proxy=True), id="wildcard-by-proxy"),
    pytest.param("host: written.internal", Asked("written.internal", proxy=True), id="proxy"),
    pytest.param("", Asked("written.localhost"), id="name"),
    pytest.param("path_prefix: /w", Asked("localhost", "/w/x"), id="prefix"),
    pytest.param("path_prefix: /w", Asked("127.0.0.1", "/w/x"), id="prefix-by-loopback"),
    pytest.param("path_prefix: /w", Asked("127.9.9.9", "/w/x"), id="prefix-by-another-loopback"),
    pytest.param("path_prefix: /w", Asked("[::1]", "/w/x"), id="prefix-by-loopback-of-ipv6"),
    pytest.param("path_prefix: /w", Asked("app.localhost", "/w/x"), id="prefix-by-a-name-of-loopback"),
    pytest.param("path_prefix: /w", Asked("10.0.0.1", "/w/x"), id="prefix-by-an-address"),
    pytest.param("path_prefix: /", Asked("localhost"), id="root"),
    pytest.param("path_prefix: /", Asked("10.0.0.1"), id="root-by-an-address"),
    pytest.param("", Asked("localhost", own=True), id="own-listener"),
    pytest.param("", Asked("127.0.0.1", own=True), id="own-listener-by-loopback"),
    pytest.param("", Asked("10.0.0.1", own=True), id="own-listener-by-an-address"),
]


@pytest.mark.parametrize(("keys", "asked"), WRITTEN)
@pytest.mark.parametrize("upstream", DEFAULTS)
async def test_a_default_takes_nothing_that_another_route_wrote_down(
    wire: Wire, echo: Echo, upstream: str, keys: str, asked: Asked
) -> None:
    """The token is the one of the route that wrote the way in, and `explain` says so."""
    wire.lookup = nowhere
    await wire.start(
        more=f"""
- {{name: default, upstream: '{upstream}', audience: 'https://default.example', allow_plaintext: true}}
- name: written
  upstream: http://127.0.0.1:{echo.port}
  audience: https://written.example
  {keys}
"""
    )
    port = await own_port(wire)
    answer = await answered(wire, asked, port)
    assert (answer.status, answer.body) == (200, b"https://written.example")
    found = explained(wire, asked, port)
    assert (found.get("route"), found.get("audience")) == ("written", "https://written.example")


REMAINING = [
    pytest.param("", Asked("written.localhost"), "its name under .localhost", id="name"),
    pytest.param("path_prefix: /w", Asked("localhost", "/w/x"), "path_prefix /w", id="prefix"),
    pytest.param("path_prefix: /", Asked("localhost"), "path_prefix /", id="root"),
    pytest.param("", Asked("localhost", own=True), "the route's own listener", id="own-listener"),
]


@pytest.mark.parametrize(("keys", "asked", "way"), REMAINING)
async def test_a_loopback_upstream_is_reached_by_what_is_written(
    wire: Wire, echo: Echo, keys: str, asked: Asked, way: str
) -> None:
    """Its name is, too."""
    await wire.start(
        more=f"""
- name: written
  upstream: http://127.0.0.1:{echo.port}
  audience: https://written.example
  {keys}
"""
    )
    port = await own_port(wire)
    assert (await answered(wire, asked, port)).body == b"https://written.example"
    assert explained(wire, asked, port)["way_in"] == way


async def test_a_loopback_upstream_does_not_take_what_its_host_is_called_by(wire: Wire, echo: Echo) -> None:
    """Not past another route's `allow`, nor where no route has the path."""
    await wire.start(
        more=f"""
- {{name: local, upstream: 'http://localhost:{echo.port}', audience: 'https://local.example'}}
- {{name: narrow, upstream: 'http://127.0.0.1:{echo.port}', audience: 'https://narrow.example', path_prefix: /narrow,
   allow: {{paths: [/public]}}}}
"""
    )
    for asked, status, reason in (
        (Asked(f"localhost:{wire.port}", "/narrow/secret"), 403, "not_allowed"),
        (Asked(f"localhost:{wire.port}", "/other"), 404, "no_route"),
        (Asked(f"localhost:{echo.port}", "/other", proxy=True), 404, "no_route"),
    ):
        answer = await answered(wire, asked, 0)
        assert (answer.status, answer.reason) == (status, reason)
    assert echo.asked == []


HOSTS = (
    *(
        "localhost",
        "LOCALHOST.:1",
        "127.0.0.1",
        "[::1]:8787",
        "10.0.0.1",
        "10.0.0.2",
        "0.0.0.0",
        "x.localhost",
    ),
    *(
        "local.localhost",
        "deep.localhost",
        "any.localhost",
        "u.shop.example",
        "v.shop.example",
        "shop.example",
    ),
    *(
        "exact.shop.example",
        "a.deep.shop.example",
        "plain.example",
        "twin.example",
        "evil.example",
        "a b",
        "",
    ),
)
PATHS = ("/", "/p", "/p/q/r", "/pq", "/other?x=/p", "/p/../../x", "/p/%2e%2e/%2e%2e/x")


async def test_explain_says_what_the_data_path_does(wire: Wire, echo: Echo) -> None:
    """For every spelling of host and path, by Host and as a proxy: the same token, or the same refusal."""
    wire.lookup = nowhere
    at = f"http://127.0.0.1:{echo.port}"
    await wire.start(
        more=f"""
- {{name: local, upstream: 'http://localhost:7001', audience: 'https://local'}}
- {{name: literal, upstream: 'http://10.0.0.1', audience: 'https://literal', allow_plaintext: true}}
- {{name: plain, upstream: 'http://plain.example', audience: 'https://plain', allow_plaintext: true}}
- {{name: covered, upstream: 'http://u.shop.example', audience: 'https://covered', allow_plaintext: true}}
- {{name: twin-a, host: a.internal, upstream: 'http://twin.example', audience: 'https://a', allow_plaintext: true}}
- {{name: twin-b, host: b.internal, upstream: 'http://twin.example', audience: 'https://b', allow_plaintext: true}}
- {{name: written, host: '*.shop.example', upstream: '{at}', audience: 'https://written'}}
- {{name: exact, host: exact.shop.example, upstream: '{at}', audience: 'https://exact'}}
- {{name: any, host: '*.deep.shop.example', upstream: 'https://{{host}}'}}
- {{name: p, upstream: '{at}', audience: 'https://p', path_prefix: /p}}
- {{name: q, upstream: '{at}', audience: 'https://q', path_prefix: /p/q, allow: {{methods: [POST]}}}}
"""
    )
    for route in wire.table.routes:
        if (fixed := route.fixed()) is not None:
            fixed.host, fixed.port = "127.0.0.1", echo.port
    port = await own_port(wire)
    ways = set()
    for host, path, form in itertools.product(HOSTS, PATHS, ({}, {"proxy": True}, {"own": True})):
        asked = Asked(host, path, **form)
        if asked.proxy and (host in ("", "a b") or is_loopback(request_host(host.encode()))):
            continue  # no URL; or, to `explain`, one that is called directly
        answer = await answered(wire, asked, port)
        found = explained(wire, asked, port)
        happened = answer.body.decode() if answer.status == 200 else answer.reason
        if happened in ("dns_failed", "connect_failed"):
            happened = "https://" + asked.host
        assert happened == (found["audience"] if found["taken"] else found["reason"]), asked
        ways.add(found.get("way_in", found.get("reason")))
    assert {"no_route", "not_allowed", "bad_host", "caller_refused", "malformed_request"} < ways
    assert {"path_prefix /p", "its name under .localhost", "the route's own listener"} < ways
