"""sidecar.tokens.fetch.transport: one exchange with a token endpoint, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import logging
import traceback
from pathlib import Path

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.endpoint import Answer, Endpoint, Protocol
from sidecar.tokens.fetch.transport import BODY_LIMIT, GoogleTransport
from tests.support import openssl
from tests.support.openssl import Issued, authority, issue
from tests.support.raw_endpoint import Behaviour, RawEndpoint, answer, drip, hang, http, reset

ENDPOINT = Endpoint("the endpoint", Protocol.METADATA, "account", "Look here.")
BOMB = gzip.compress(gzip.compress(bytes(50_000_000)))
SECRET = "assertion-that-nobody-may-see"


def transport(
    *, seconds: float = 60.0, origin: str | None = None, proxies: bool = False, endpoint: Endpoint = ENDPOINT
) -> GoogleTransport:
    clock = SystemClock(asyncio.get_running_loop())
    return GoogleTransport(
        endpoint,
        clock=clock,
        seconds=seconds,
        deadline_mono=clock.mono() + seconds,
        origin=origin,
        proxies=proxies,
    )


async def call(it: GoogleTransport, url: str, **kwargs: object) -> Answer:
    """Use the transport as google-auth does: in a thread."""
    try:
        return await asyncio.to_thread(it, url, **kwargs)  # type: ignore[arg-type]
    finally:
        it.close()


async def test_what_google_auth_needs_of_an_answer(raw: RawEndpoint) -> None:
    """Status, headers without regard to case, and the body as bytes."""
    raw.behaviour = http(200, b"body", content_type="application/json; charset=utf-8")
    it = transport()
    got = await call(
        it, f"http://{raw.origin}/a?b=c", method="POST", body=b"x=y", headers={"X-One": "1"}, timeout=120
    )
    assert (got.status, got.headers["content-type"], got.data) == (
        200,
        "application/json; charset=utf-8",
        b"body",
    )
    assert it.answer is got
    head, _, body = raw.requests[0].partition("\r\n\r\n")
    assert head.startswith("POST /a?b=c HTTP/1.1\r\n")
    assert "\r\nX-One: 1" in head
    assert body == "x=y"


@pytest.mark.parametrize(
    ("behaviour", "reason", "says"),
    [
        pytest.param(http(404), Reason.NO_SERVICE_ACCOUNT, "answered 404", id="404"),
        pytest.param(
            http(429, headers={"Retry-After": "7"}), Reason.TOKEN_RATE_LIMITED, "answered 429", id="429"
        ),
        pytest.param(http(500), Reason.TOKEN_ENDPOINT_FAILED, "answered 500", id="500"),
        pytest.param(http(503), Reason.TOKEN_ENDPOINT_FAILED, "answered 503", id="503"),
        pytest.param(
            http(302, headers={"Location": "http://127.0.0.1:1/"}),
            Reason.TOKEN_MALFORMED,
            "answered 302",
            id="redirect",
        ),
        pytest.param(reset, Reason.TOKEN_ENDPOINT_UNREACHABLE, "closed the connection", id="reset"),
        pytest.param(answer(b""), Reason.TOKEN_ENDPOINT_UNREACHABLE, "closed the connection", id="closed"),
        pytest.param(
            answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
            Reason.TOKEN_ENDPOINT_UNREACHABLE,
            "closed the connection",
            id="cut-off",
        ),
        pytest.param(answer(b"SSH-2.0-x\r\n"), Reason.TOKEN_MALFORMED, "not HTTP", id="not-http"),
        pytest.param(http(200, b"a" * BODY_LIMIT), None, "", id="at-the-limit"),
        pytest.param(
            http(200, b"a" * (BODY_LIMIT + 1)),
            Reason.TOKEN_MALFORMED,
            f"more than {BODY_LIMIT}",
            id="over-the-limit",
        ),
        pytest.param(
            http(200, gzip.compress(b"token"), headers={"Content-Encoding": "gzip"}),
            Reason.TOKEN_MALFORMED,
            "compressed",
            id="compressed",
        ),
        pytest.param(
            http(500, BOMB, headers={"Content-Encoding": "gzip, gzip"}),
            Reason.TOKEN_MALFORMED,
            "compressed",
            id="compressed-twice",
        ),
        pytest.param(
            answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 200_000),
            Reason.TOKEN_ENDPOINT_UNREACHABLE,
            "could not be reached",
            id="endless-chunk-size",
        ),
        pytest.param(hang, Reason.TOKEN_TIMEOUT, "within 0.2 s", id="hang"),
    ],
)
async def test_faults(raw: RawEndpoint, behaviour: Behaviour, reason: Reason | None, says: str) -> None:
    """Every fault and every status but 200 is our own error, after one try, and nothing of the request is in
    it."""
    raw.behaviour = behaviour
    it = transport(seconds=0.2) if reason is Reason.TOKEN_TIMEOUT else transport()
    if reason is None:
        assert len((await call(it, f"http://{raw.origin}/")).data) == BODY_LIMIT
        return
    with pytest.raises(SidecarError) as caught:
        await call(it, f"http://{raw.origin}/", method="POST", body=SECRET.encode(), headers={"x": SECRET})
    assert caught.value.reason is reason
    assert says in caught.value.detail
    assert caught.value.retry_after == (7.0 if reason is Reason.TOKEN_RATE_LIMITED else None)
    # On a busy machine the deadline may pass before anything is sent.
    assert len(raw.requests) == 1 or (reason is Reason.TOKEN_TIMEOUT and not raw.requests)
    assert it.answer is None
    assert caught.value.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_a_refused_connection_and_an_unknown_name(unused_tcp_port: int) -> None:
    """Nobody listening, and a name that is not there, are told apart."""
    with pytest.raises(SidecarError, match="refused the connection"):
        await call(transport(), f"http://127.0.0.1:{unused_tcp_port}/")
    with pytest.raises(SidecarError, match="name that could not be resolved"):
        await call(transport(), "http://nobody.invalid/")


async def test_an_address_that_there_is_no_way_to() -> None:
    """What the system refuses for any other reason is told as such: here a link-local address without its link."""
    it = transport(origin="[fe80::1]:80")
    with pytest.raises(SidecarError, match=r"token_endpoint_unreachable: .* could not be reached") as caught:
        await asyncio.to_thread(it, "http://metadata.google.internal/x")
    assert caught.value.__context__ is None


ROOT = authority("root")
BARE, MIDDLE = authority("as openssl req -x509 makes it", usage=False), authority("middle", ROOT)


@pytest.mark.parametrize(
    "ca", [pytest.param(BARE, id="no-key-usage"), pytest.param(MIDDLE, id="an-intermediate")]
)
async def test_which_certificates_are_good_depends_on_no_version_of_python(
    tmp_path: Path, ca: Issued
) -> None:
    """urllib3 has other flags from 3.13 on."""
    file = openssl.write(tmp_path / "ca.pem", ca.pem)
    endpoint = ENDPOINT._replace(protocol=Protocol.OAUTH)  # of whose answers no Metadata-Flavor is asked
    async with openssl.s_server(tmp_path, issue(ca)) as server:
        it = transport(endpoint=endpoint)
        it.session.verify = str(file)
        assert (await call(it, f"https://localhost:{server.port}/")).status == 200


async def test_a_certificate_of_a_strangers_ca_is_refused(tmp_path: Path) -> None:
    """And one for another name."""
    file = openssl.write(tmp_path / "ca.pem", ROOT.pem)
    for shown in (issue(BARE), issue(ROOT, ("other.example",))):
        async with openssl.s_server(tmp_path, shown) as server:
            it = transport()
            it.session.verify = str(file)
            with pytest.raises(SidecarError, match="TLS handshake"):
                await call(it, f"https://localhost:{server.port}/")


async def test_tls_to_what_does_not_speak_it(raw: RawEndpoint) -> None:
    """A failed handshake is named as such."""
    raw.behaviour = hang
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(SidecarError, match=r"TLS handshake|closed the connection"):
        await call(transport(), f"https://127.0.0.1:{port}/")
    server.close()


async def test_an_abort_ends_a_read_at_once(raw: RawEndpoint) -> None:
    """An answer that drips for ever is ended from outside, with its connection."""
    raw.behaviour = drip
    it = transport()
    exchange = asyncio.gather(call(it, f"http://{raw.origin}/"), return_exceptions=True)
    await asyncio.wait_for(raw.asked.wait(), 60)
    it.abort()
    (outcome,) = await asyncio.wait_for(exchange, 60)
    assert isinstance(outcome, SidecarError)
    assert outcome.reason is Reason.TOKEN_TIMEOUT
    await asyncio.wait_for(raw.gone.wait(), 60)
    with pytest.raises(SidecarError, match="token_timeout"):
        await call(it, f"http://{raw.origin}/")
    assert len(raw.requests) == 1


async def test_one_deadline_for_all_exchanges(raw: RawEndpoint) -> None:
    """What the first exchange used up is not there for the second, whatever timeout google-auth asks for."""
    clock = SystemClock(asyncio.get_running_loop())
    it = GoogleTransport(ENDPOINT, clock=clock, seconds=8, deadline_mono=clock.mono() - 1)
    with pytest.raises(SidecarError, match="within 8 s"):
        await call(it, f"http://{raw.origin}/", timeout=120)
    assert raw.requests == []


async def test_the_given_origin_takes_the_place_of_the_host(raw: RawEndpoint) -> None:
    """A plain http URL goes to the metadata server that the environment names, whatever google-auth has
    read."""
    raw.behaviour = http(200, b"x")
    await call(transport(origin=raw.origin), "http://metadata.google.internal/computeMetadata/v1/x?y=z")
    assert raw.requests[0].startswith(f"GET /computeMetadata/v1/x?y=z HTTP/1.1\r\nHost: {raw.origin}\r\n")


@pytest.mark.parametrize(
    ("url", "proxies", "goes"),
    [
        pytest.param("http://token.example/x", True, True, id="proxy-for-an-endpoint"),
        pytest.param("http://token.example/x", False, False, id="none-for-a-metadata-server"),
        pytest.param("http://127.0.0.1:{dead}/x", True, False, id="none-for-loopback"),
        pytest.param("http://localhost:{dead}/x", True, False, id="none-for-localhost"),
    ],
)
async def test_proxies(
    raw: RawEndpoint,
    unused_tcp_port: int,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    proxies: bool,
    goes: bool,
) -> None:
    """HTTP_PROXY counts for endpoints on the network, and never for a metadata server or loopback."""
    monkeypatch.setenv("http_proxy", f"http://{raw.origin}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    raw.behaviour = http(200, b"from the proxy")
    it = transport(proxies=proxies)
    if goes:
        assert (await call(it, url)).data == b"from the proxy"
        assert raw.requests[0].startswith("GET http://token.example/x HTTP/1.1")
    else:
        with pytest.raises(SidecarError):
            await call(it, url.format(dead=unused_tcp_port))
        assert raw.requests == []


async def test_nothing_is_sent_from_netrc(
    raw: RawEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A password that ~/.netrc has for the endpoint's host stays there."""
    file = tmp_path_factory.mktemp("home") / "netrc"
    file.write_text(f"machine token.example login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setenv("http_proxy", f"http://{raw.origin}")
    raw.behaviour = http(200, b"x")
    await call(transport(proxies=True), "http://token.example/")
    assert "authorization" not in raw.requests[0].lower()


async def test_nothing_is_logged_of_an_exchange(raw: RawEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    """Even at DEBUG no assertion, token or header reaches the log."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "google")
    raw.behaviour = http(200, SECRET.encode())
    await call(
        transport(), f"http://{raw.origin}/", method="POST", body=SECRET.encode(), headers={"a": SECRET}
    )
    assert SECRET not in caplog.text
