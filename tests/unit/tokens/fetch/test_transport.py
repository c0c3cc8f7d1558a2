"""sidecar.tokens.fetch.transport: one exchange with a token endpoint, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.trust import for_token_endpoints
from sidecar.tokens.fetch.endpoint import Answer, Endpoint, Protocol
from sidecar.tokens.fetch.outward import Outward
from sidecar.tokens.fetch.transport import BODY_LIMIT, GoogleTransport
from tests.support import openssl
from tests.support.closing import close_server
from tests.support.openssl import Issued, authority, issue
from tests.support.raw_endpoint import Behaviour, RawEndpoint, answer, drip, hang, http, reset

ENDPOINT = Endpoint("the endpoint", Protocol.METADATA, "account", "Look here.")
BOMB = gzip.compress(gzip.compress(bytes(50_000_000)))
SECRET = "assertion-that-nobody-may-see"


def transport(
    *,
    seconds: float = 60.0,
    origin: str | None = None,
    proxies: bool = False,
    endpoint: Endpoint = ENDPOINT,
    environ: Mapping[str, str] | None = None,
    ca_file: Path | None = None,
    own: tuple[str, ...] = (),
) -> GoogleTransport:
    trust = for_token_endpoints(environ or {}, None if ca_file is None else str(ca_file))
    clock = SystemClock(asyncio.get_running_loop())
    return GoogleTransport(
        endpoint,
        clock=clock,
        seconds=seconds,
        deadline_mono=clock.mono() + seconds,
        outward=Outward(environ or {}, trust, tuple(parse_listen(text) for text in own)),
        origin=origin,
        proxies=proxies,
    )


@pytest.fixture(params=["requests", "http.client"])
def origin(raw: RawEndpoint, request: pytest.FixtureRequest) -> str | None:
    """For either way to ask: a metadata server is asked without requests."""
    return raw.origin if request.param == "http.client" else None


async def call(it: GoogleTransport, url: str, **kwargs: object) -> Answer:
    """Use the transport as google-auth does: in a thread."""
    try:
        return await asyncio.to_thread(it, url, **kwargs)  # type: ignore[arg-type]
    finally:
        it.close()


async def test_what_google_auth_needs_of_an_answer(raw: RawEndpoint, origin: str | None) -> None:
    """Status, headers without regard to case, and the body as bytes."""
    raw.behaviour = http(200, b"body", content_type="application/json; charset=utf-8")
    it = transport(origin=origin)
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
            answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
            Reason.TOKEN_ENDPOINT_UNREACHABLE,
            "closed the connection",
            id="cut-off-in-a-chunk",
        ),
        pytest.param(
            answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n"),
            Reason.TOKEN_ENDPOINT_UNREACHABLE,
            "closed the connection",
            id="no-chunk-size",
        ),
        pytest.param(
            answer(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n"),
            Reason.TOKEN_MALFORMED,
            "not HTTP",
            id="too-many-lines",
        ),
        pytest.param(hang, Reason.TOKEN_TIMEOUT, "within 0.2 s", id="hang"),
    ],
)
async def test_faults(
    raw: RawEndpoint, origin: str | None, behaviour: Behaviour, reason: Reason | None, says: str
) -> None:
    """Every fault and every status but 200 is our own error, after one try, and nothing of the request is in
    it."""
    raw.behaviour = behaviour
    it = transport(seconds=0.2 if reason is Reason.TOKEN_TIMEOUT else 60.0, origin=origin)
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


async def test_a_chunk_size_without_end(raw: RawEndpoint, origin: str | None) -> None:
    """Is not read to its end; urllib3 has no name for what is wrong with it."""
    raw.behaviour = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 200_000)
    with pytest.raises(SidecarError, match="could not be reached" if origin is None else "not HTTP"):
        await call(transport(origin=origin), f"http://{raw.origin}/")


async def test_a_refused_connection_and_an_unknown_name(unused_tcp_port: int) -> None:
    """Nobody listening, and a name that is not there, are told apart."""
    for origins in ((None, None), (f"127.0.0.1:{unused_tcp_port}", "nobody.invalid")):
        with pytest.raises(SidecarError, match="refused the connection"):
            await call(transport(origin=origins[0]), f"http://127.0.0.1:{unused_tcp_port}/")
        with pytest.raises(SidecarError, match="name that could not be resolved"):
            await call(transport(origin=origins[1]), "http://nobody.invalid/")


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
        it = transport(endpoint=endpoint, ca_file=file)
        assert (await call(it, f"https://localhost:{server.port}/")).status == 200


async def test_a_certificate_of_a_strangers_ca_is_refused(tmp_path: Path) -> None:
    """And one for another name."""
    file = openssl.write(tmp_path / "ca.pem", ROOT.pem)
    for shown, says in (
        (issue(BARE), "The CA `as openssl req -x509 makes it` is not trusted"),
        (
            issue(ROOT, ("other.example",)),
            "The certificate of the endpoint was not accepted (Hostname mismatch",
        ),
    ):
        async with openssl.s_server(tmp_path, shown) as server:
            with pytest.raises(SidecarError) as caught:
                await call(transport(ca_file=file), f"https://localhost:{server.port}/")
            assert caught.value.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
            assert caught.value.detail.startswith(says)
            assert caught.value.__context__ is None


async def test_tls_to_what_does_not_speak_it(raw: RawEndpoint) -> None:
    """A failed handshake is named as such."""
    raw.behaviour = hang
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(SidecarError, match=r"TLS handshake|closed the connection"):
        await call(transport(), f"https://127.0.0.1:{port}/")
    await close_server(server)


async def test_an_abort_ends_a_read_at_once(raw: RawEndpoint, origin: str | None) -> None:
    """An answer that drips forever is ended from outside, with its connection."""
    raw.behaviour = drip
    it = transport(origin=origin)
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
    url: str,
    proxies: bool,
    goes: bool,
) -> None:
    """HTTP_PROXY counts for endpoints on the network, and never for a metadata server or loopback."""
    raw.behaviour = http(200, b"from the proxy")
    it = transport(proxies=proxies, environ={"http_proxy": f"http://{raw.origin}"})
    if goes:
        assert (await call(it, url)).data == b"from the proxy"
        assert raw.requests[0].startswith("GET http://token.example/x HTTP/1.1")
    else:
        with pytest.raises(SidecarError):
            await call(it, url.format(dead=unused_tcp_port))
        assert raw.requests == []


@pytest.mark.parametrize(
    ("environ", "goes"),
    [
        pytest.param({"HTTP_PROXY": "http://{proxy}"}, True, id="capitals"),
        pytest.param({"HTTP_PROXY": "http://{dead}", "http_proxy": "http://{proxy}"}, True, id="small-first"),
        pytest.param({"HTTP_PROXY": "http://{proxy}", "http_proxy": ""}, False, id="small-and-empty-is-none"),
        pytest.param({"ALL_PROXY": "{proxy}"}, True, id="all-without-a-scheme"),
        pytest.param({"HTTPS_PROXY": "http://{proxy}"}, False, id="another-scheme's"),
        pytest.param({"ALL_PROXY": "http://{proxy}", "NO_PROXY": "x, .invalid"}, False, id="excepted"),
        pytest.param(
            {"ALL_PROXY": "http://{proxy}", "no_proxy": "other.example"}, True, id="another-excepted"
        ),
    ],
)
async def test_which_variable_counts(
    raw: RawEndpoint, unused_tcp_port: int, environ: dict[str, str], goes: bool
) -> None:
    """As requests and curl read them: what is set for this process and no other's."""
    raw.behaviour = http(200, b"from the proxy")
    given = {
        name: text.format(proxy=raw.origin, dead=f"127.0.0.1:{unused_tcp_port}")
        for name, text in environ.items()
    }
    it = transport(proxies=True, environ=given)
    if goes:
        assert (await call(it, "http://token.invalid/")).data == b"from the proxy"
        return
    with pytest.raises(SidecarError, match="name that could not be resolved"):
        await call(it, "http://token.invalid/")
    assert raw.requests == []


PASSWORD = "s3cretWord"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(f"socks5://me:{PASSWORD}@127.0.0.1:1080", "SOCKS is not supported", id="socks"),
        pytest.param("ftp://proxy.example", "not with another scheme", id="ftp"),
        pytest.param(f"http://me:{PASSWORD}#x@proxy.example:1", "write `#` as `%23`", id="hash"),
        pytest.param("http://proxy.example:port", "not a proxy's URL", id="no-url"),
        pytest.param("http://localhost:8787", "leads to this sidecar, which listens on", id="own"),
        pytest.param("127.0.0.1:8787/", "leads to this sidecar, which listens on", id="own-address"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
async def test_a_proxy_that_cannot_be_used_is_named_with_why(variable: str, text: str, says: str) -> None:
    """By its variable, without its password; and the endpoint is not asked without it."""
    it = transport(proxies=True, environ={variable: text}, own=("localhost:8787",))
    with pytest.raises(SidecarError) as caught:
        await call(it, "https://token.invalid/")
    assert caught.value.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
    assert f"The environment variable {variable} can't be followed: " in caught.value.detail
    assert says in caught.value.detail
    assert PASSWORD[:4] not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("status", "says"),
    [
        pytest.param(407, "wants other credentials (status 407)", id="407"),
        pytest.param(401, "wants other credentials (status 401)", id="401"),
        pytest.param(403, "refused the way there (status 403)", id="403"),
        pytest.param(502, "did not reach it (status 502)", id="502"),
    ],
)
async def test_what_a_proxy_says_is_told(raw: RawEndpoint, status: int, says: str) -> None:
    """With its address and the variable that names it, and without the password."""
    raw.behaviour = http(status)
    it = transport(proxies=True, environ={"HTTPS_PROXY": f"http://me:{PASSWORD}%23@{raw.origin}"})
    with pytest.raises(SidecarError) as caught:
        await call(it, "https://token.invalid/")
    assert f"the proxy http://********@{raw.origin}, which HTTPS_PROXY names, {says}" in caught.value.detail
    assert PASSWORD[:4] not in "".join(traceback.format_exception(caught.value))
    sent = base64.b64encode(f"me:{PASSWORD}#".encode()).decode()
    assert f"\r\nProxy-Authorization: Basic {sent}\r\n" in raw.requests[0] + "\r\n"


async def test_a_proxy_that_is_not_there(unused_tcp_port: int) -> None:
    """Is named as such."""
    it = transport(proxies=True, environ={"HTTPS_PROXY": f"http://127.0.0.1:{unused_tcp_port}"})
    with pytest.raises(SidecarError, match="which HTTPS_PROXY names, could not be reached"):
        await call(it, "https://token.invalid/")


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
async def test_whose_certificates_are_good(tmp_path: Path, variable: str) -> None:
    """What the environment names, and no CA beside it that came with requests; `ca_file` goes before it."""
    ours = openssl.write(tmp_path / "ours.pem", ROOT.pem)
    other = openssl.write(tmp_path / "other.pem", BARE.pem)
    endpoint = ENDPOINT._replace(protocol=Protocol.OAUTH)
    async with openssl.s_server(tmp_path, issue(ROOT)) as server:
        url = f"https://localhost:{server.port}/"
        it = transport(endpoint=endpoint, environ={variable: str(ours)})
        assert (await call(it, url)).status == 200
        it = transport(endpoint=endpoint, environ={variable: str(other)}, ca_file=ours)
        assert (await call(it, url)).status == 200
        with pytest.raises(SidecarError) as caught:
            await call(transport(environ={variable: str(other)}), url)
    assert caught.value.detail.startswith("The CA `root` is not trusted")
    assert f"judged by {variable} ({other})" in caught.value.detail
    assert "set `ca_file` at the top level" in caught.value.detail


async def test_cas_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    """By variable and path; nothing is asked without them."""
    for environ, says in (
        ({"REQUESTS_CA_BUNDLE": f"{tmp_path}/gone.pem"}, "REQUESTS_CA_BUNDLE cannot be used"),
        ({"SSL_CERT_DIR": f"{tmp_path}"}, "SSL_CERT_DIR cannot be used"),
    ):
        with pytest.raises(SidecarError, match=says) as caught:
            await call(transport(environ=environ), "https://127.0.0.1:1/")
        assert caught.value.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
        assert str(tmp_path) in caught.value.detail


async def test_nothing_is_sent_from_netrc(
    raw: RawEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A password that ~/.netrc has for the endpoint's host stays there."""
    file = tmp_path_factory.mktemp("home") / "netrc"
    file.write_text(f"machine token.example login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(file))
    raw.behaviour = http(200, b"x")
    await call(
        transport(proxies=True, environ={"http_proxy": f"http://{raw.origin}"}), "http://token.example/"
    )
    assert "authorization" not in raw.requests[0].lower()


async def test_nothing_is_logged_of_an_exchange(
    raw: RawEndpoint, origin: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Even at DEBUG no assertion, token or header reaches the log."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "google")
    raw.behaviour = http(200, SECRET.encode())
    await call(
        transport(origin=origin),
        f"http://{raw.origin}/",
        method="POST",
        body=SECRET.encode(),
        headers={"a": SECRET},
    )
    assert SECRET not in caplog.text
