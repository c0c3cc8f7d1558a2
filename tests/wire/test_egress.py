"""Upstreams behind an HTTP proxy: one tunnel for each connection, and every way in which the proxy can fail"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.keys import Authority
from sidecar.grammar.proxies import parse_proxy
from tests.support.proxies import TunnelProxy, tunnel_proxy
from tests.support.sidecar import free_port
from tests.support.wire import GET, OK, Answer, Wire

NAME = "billing.invalid"
PASSWORD = "s3cret#Word"
ESCAPED = "s3cret%23Word"


@pytest.fixture
async def proxy() -> AsyncIterator[TunnelProxy]:
    async with tunnel_proxy({}) as made:
        yield made


def shown(directory: Path, name: str = NAME) -> ssl.SSLContext:
    """The server's side, with a certificate of the CA in `ca.pem`."""
    authority = Authority()
    (directory / "ca.pem").write_bytes(authority.pem)
    (directory / "server.pem").write_bytes(authority.issue((name,)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


async def begun(
    wire: Wire,
    proxy: TunnelProxy,
    directory: Path | None = None,
    *,
    route: str = "",
    top: str = "",
    **more: Any,
) -> None:
    """A route whose upstream nobody but the proxy can resolve, over TLS with files in `directory`, else plain."""
    await wire.upstream.start(tls=None if directory is None else shown(directory))
    secure = directory is not None
    proxy.leads_to[f"{NAME}:{443 if secure else 80}"] = wire.upstream.port
    keys = f"tls: {{ca_file: '{directory}/ca.pem'}}" if secure else "allow_plaintext: true"
    await wire.start(
        f"{keys}\n{route}",
        upstream=f"{'https' if secure else 'http'}://{NAME}",
        top=top or f"egress_proxy: http://127.0.0.1:{proxy.port}",
        **more,
    )


async def asked(wire: Wire) -> Answer:
    app = await wire.app()
    await app.send(GET)
    return await app.answer()


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
async def test_requests_go_through_one_tunnel_for_a_connection(
    wire: Wire, proxy: TunnelProxy, tmp_path: Path, secure: bool
) -> None:
    """The upstream's name is the proxy's to look up; the token is inside, and the proxy learns nothing else."""
    await begun(wire, proxy, tmp_path if secure else None)
    app = await wire.app()
    upstream = None
    for _ in range(2):
        await app.send(GET)
        upstream = upstream or await wire.upstream.accept()
        head = await upstream.read_head()
        assert head.startswith(b"GET /x HTTP/1.1\r\n")
        assert b"\r\nHost: billing.invalid\r\n" in head
        assert b"\r\nAuthorization: Bearer " in head
        assert b"roxy" not in head
        await upstream.send(OK)
        assert (await app.answer()).status == 200
    port = 443 if secure else 80
    assert proxy.heads == [
        f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\nUser-Agent: idtoken-sidecar\r\n\r\n"
    ]
    assert wire.stats.connect_failures == {}


async def test_credentials_go_to_the_proxy_alone(wire: Wire, proxy: TunnelProxy, tmp_path: Path) -> None:
    """Basic (RFC 7617), with their escapes undone; the upstream sees none of them."""
    top = f"egress_proxy: {{url: 'http://me:{ESCAPED}@127.0.0.1:{proxy.port}'}}"
    await begun(wire, proxy, tmp_path, top=top)
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    await upstream.send(OK)
    await app.answer()
    sent = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert f"\r\nProxy-Authorization: Basic {sent}\r\n" in proxy.heads[0]
    assert sent.encode() not in head


@pytest.mark.parametrize(
    ("top", "route", "goes"),
    [
        pytest.param("'{url}'", "", False, id="loopback-is-direct"),
        pytest.param("'{url}'", "egress_proxy: '{url}'", True, id="loopback-where-the-route-says-so"),
        pytest.param("none", "egress_proxy: {{url: '{url}', except: [127.0.0.0/8]}}", False, id="excepted"),
        pytest.param(
            "none", "egress_proxy: {{url: '{url}', except: 10.0.0.0/8}}", True, id="another-excepted"
        ),
        pytest.param("none", "egress_proxy: none", False, id="none"),
    ],
)
async def test_what_goes_past_the_proxy(
    wire: Wire, proxy: TunnelProxy, top: str, route: str, goes: bool
) -> None:
    """Loopback, unless the route itself names a proxy; what is excepted."""
    url = f"http://127.0.0.1:{proxy.port}"
    await wire.upstream.start()
    proxy.leads_to[f"127.0.0.1:{wire.upstream.port}"] = wire.upstream.port
    await wire.start(
        route.format(url=url),
        upstream=f"http://127.0.0.1:{wire.upstream.port}",
        top=f"egress_proxy: {top.format(url=url)}",
    )
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    assert bool(proxy.heads) is goes


ANSWERS: dict[str, tuple[bytes, str, str]] = {
    "407": (
        b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic\r\n\r\n",
        "egress_proxy_authentication",
        "escaped; only Basic",
    ),
    "401": (b"HTTP/1.0 401 X\r\n\r\n", "egress_proxy_authentication", "(status 401)"),
    "403": (
        b"HTTP/1.1 403 X\r\nContent-Length: 2\r\n\r\nno",
        "egress_proxy_denied",
        "(status 403). Have it allow CONNECT",
    ),
    "404": (b"HTTP/1.0 404 X\r\n\r\n", "egress_proxy_denied", "(status 404)"),
    "302": (b"HTTP/1.1 302 X\r\nLocation: /\r\n\r\n", "egress_proxy_denied", "(status 302)"),
    "502": (
        b"HTTP/1.1 502 X\r\n\r\n",
        "egress_proxy_failed",
        "did not reach `billing.invalid:443` (status 502)",
    ),
    "503": (b"HTTP/1.1 503\r\n\r\n", "egress_proxy_failed", "(status 503)"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n", "egress_proxy_malformed", "something else than HTTP"),
    "another-protocol": (b"SSH-2.0-x\r\n\r\n", "egress_proxy_malformed", "something else than HTTP"),
    "no-status": (b"HTTP/1.1 2000 X\r\n\r\n", "egress_proxy_malformed", "something else than HTTP"),
    "http-2": (b"HTTP/2 200\r\n\r\n", "egress_proxy_malformed", "something else than HTTP"),
    "cut-off": (b"HTTP/1.1 200 X\r\nVia: x", "egress_proxy_malformed", "closed the connection"),
    "nothing": (b"", "egress_proxy_malformed", "closed the connection"),
    "bytes-behind": (
        b"HTTP/1.1 200 X\r\n\r\n\x16\x03\x03",
        "egress_proxy_malformed",
        "sent bytes before the tunnel",
    ),
    "answer-behind": (
        b"HTTP/1.1 200 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "egress_proxy_malformed",
        "sent bytes before the tunnel",
    ),
    "endless": (
        b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 10_000,
        "egress_proxy_malformed",
        "something else than HTTP",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_a_proxy_answers(wire: Wire, proxy: TunnelProxy, tmp_path: Path, case: str) -> None:
    """Each has its reason and says what to do; nothing of the request, and no password, is in it."""
    said, reason, says = ANSWERS[case]
    proxy.answer = said
    top = f"egress_proxy: http://me:{ESCAPED}@127.0.0.1:{proxy.port}"
    await begun(wire, proxy, tmp_path, top=top)
    answer = await asked(wire)
    assert (answer.status, answer.reason) == (502, reason)
    assert says in answer.body.decode()
    assert f"The proxy `http://********@127.0.0.1:{proxy.port}`" in answer.body.decode()
    assert "s3cret" not in answer.body.decode()
    assert all("Bearer" not in head for head in proxy.heads)
    assert wire.upstream.waiting == 0


async def test_credentials_that_are_asked_for(wire: Wire, proxy: TunnelProxy, tmp_path: Path) -> None:
    """Where there are none it is told as that."""
    proxy.answer = b"HTTP/1.1 407 X\r\n\r\n"
    await begun(wire, proxy, tmp_path)
    assert b"wants a user name and password in the route's `egress_proxy`" in (await asked(wire)).body


async def test_a_proxy_that_is_not_there(wire: Wire, proxy: TunnelProxy, tmp_path: Path) -> None:
    """Is not taken for the upstream."""
    await begun(wire, proxy, tmp_path, top=f"egress_proxy: http://127.0.0.1:{free_port()}")
    answer = await asked(wire)
    assert (answer.status, answer.reason) == (502, "egress_proxy_unreachable")
    assert (
        b"connection refused). Check that the proxy is up and that the route's `egress_proxy` names"
        in answer.body
    )


async def test_a_proxy_whose_name_is_none(wire: Wire, proxy: TunnelProxy, tmp_path: Path) -> None:
    """Nor is its name."""
    await begun(wire, proxy, tmp_path, top="egress_proxy: http://proxy.invalid:3128")
    answer = await asked(wire)
    assert (answer.status, answer.reason) == (502, "egress_proxy_unreachable")
    assert b"`proxy.invalid` could not be resolved" in answer.body
    assert b"Check the route's `egress_proxy`" in answer.body


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1"])
async def test_a_name_of_a_proxy_that_leads_to_what_is_never_dialled(
    wire: Wire, proxy: TunnelProxy, tmp_path: Path, address: str
) -> None:
    """A metadata server, or loopback behind a name of the network's."""
    wire.lookup = lambda *_, **__: [(2, 1, 6, "", (address, proxy.port))]
    await begun(wire, proxy, tmp_path, top=f"egress_proxy: http://proxy.invalid:{proxy.port}")
    answer = await asked(wire)
    assert (answer.status, answer.reason) == (502, "egress_proxy_unreachable")
    assert b"`proxy.invalid` resolves to an address that is never dialled" in answer.body
    assert proxy.heads == []


async def test_a_proxy_that_is_the_sidecar(wire: Wire, proxy: TunnelProxy, tmp_path: Path) -> None:
    """Found at start where its address is written down, and when it is dialled where it is not."""
    wire.own_addresses.add(("127.0.0.1", proxy.port))
    await begun(wire, proxy, tmp_path)
    answer = await asked(wire)
    assert (answer.reason, b"the sidecar's own listener" in answer.body) == ("egress_proxy_unreachable", True)


async def test_the_time_for_connecting_is_for_the_proxy_too(
    wire: Wire, proxy: TunnelProxy, tmp_path: Path
) -> None:
    """One that takes the connection and says nothing."""
    proxy.silent = True
    await begun(wire, proxy, tmp_path, route="timeouts: {connect: 100ms}")
    answer = await asked(wire)
    assert (answer.status, answer.reason) == (504, "egress_proxy_timeout")
    assert b"for the way to `billing.invalid:443` had not finished" in answer.body


@pytest.mark.parametrize(
    ("upstream", "host"),
    [
        pytest.param("https://{host}", "metadata.google.internal", id="metadata-by-name"),
        pytest.param("https://{host}", "x.metadata.goog", id="another-name-is-the-proxys-affair"),
        pytest.param("http://2852039166", "n.internal", id="a-number"),
        pytest.param("http://0xa9fe.0xa9fe", "n.internal", id="hexadecimal"),
        pytest.param("http://169.254.43518", "n.internal", id="three-parts"),
    ],
)
async def test_what_no_tunnel_is_asked_for_to(
    wire: Wire, proxy: TunnelProxy, upstream: str, host: str
) -> None:
    """A metadata server by its name, and names that resolvers read as addresses: no proxy is asked."""
    proxy.answer = b"HTTP/1.1 502 X\r\n\r\n"
    hosts = "['*.google.internal', '*.metadata.goog']" if "{host}" in upstream else host
    await wire.start_with(
        f"egress_proxy: http://127.0.0.1:{proxy.port}\nroutes:\n- name: a\n  host: {hosts}\n"
        f"  upstream: '{upstream}'\n  allow_plaintext: true\n"
    )
    app = await wire.app()
    await app.send(GET.replace(b"billing.internal", host.encode()))
    answer = await app.answer()
    if host == "x.metadata.goog":
        assert (answer.reason, proxy.asked) == ("egress_proxy_failed", [f"{host}:443"])
    else:
        assert (answer.status, answer.reason, proxy.heads) == (502, "address_forbidden", [])


async def test_a_proxy_that_opens_tls_is_named(wire: Wire, proxy: TunnelProxy, tmp_path: Path) -> None:
    """Its CA is not trusted, and the sentence says by which proxy it came."""
    other = tmp_path / "other"
    other.mkdir()
    await begun(wire, proxy, tmp_path, prefetch=True, top=f"egress_proxy: http://127.0.0.1:{proxy.port}")
    shown(other)
    wire.switch(
        f"egress_proxy: http://127.0.0.1:{proxy.port}\nroutes:\n- {{name: billing, host: billing.internal, "
        f"upstream: 'https://{NAME}', audience: 'https://billing.example', tls: {{ca_file: '{other}/ca.pem'}}}}\n"
    )
    answer = await asked(wire)
    assert answer.reason == "tls_unknown_ca"
    assert f"of `{NAME}:443` (through the proxy `http://127.0.0.1:{proxy.port}`)" in answer.body.decode()


async def test_an_upstream_that_the_proxy_does_not_reach_is_not_asked_for_in_a_storm(
    wire: Wire, proxy: TunnelProxy, tmp_path: Path
) -> None:
    """As without a proxy: some tunnels are asked for, the others are told what the last one was told."""
    proxy.answer = b"HTTP/1.1 503 X\r\n\r\n"
    await begun(wire, proxy, tmp_path)
    for _ in range(20):
        answer = await asked(wire)
        assert (answer.status, answer.reason) == (502, "egress_proxy_failed")
    assert 2 < len(proxy.heads) < 8
    assert b"after several failures in a row" in answer.body
    proxy.answer = None
    wire.clock.advance(1.0)
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_another_proxy_comes_with_a_reload(wire: Wire, proxy: TunnelProxy, tmp_path: Path) -> None:
    """At the top level too: connections through the old one serve no more requests."""
    await begun(wire, proxy, tmp_path)
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    await app.answer()
    async with tunnel_proxy(proxy.leads_to) as other:
        wire.switch(
            f"egress_proxy: http://127.0.0.1:{other.port}\nroutes:\n- {{name: billing, host: billing.internal, "
            f"upstream: 'https://{NAME}', audience: 'https://billing.example', tls: {{ca_file: '{tmp_path}/ca.pem'}}}}\n"
        )
        await app.send(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        await upstream.send(OK)
        assert (await app.answer()).status == 200
        assert (len(proxy.heads), len(other.heads)) == (1, 1)


def test_no_text_form_of_a_destination_has_the_password() -> None:
    """What a traceback or a log line could show."""
    assert "s3cret" not in f"{parse_proxy(f'http://me:{ESCAPED}@proxy')!r}"
