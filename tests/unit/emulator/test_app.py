"""The whole stand-in: google-auth itself mints from it, and verifies what it signs."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from aiohttp import ClientConnectionError, ClientConnectorError, ClientSession, TCPConnector
from google.auth import compute_engine, exceptions
from google.auth.transport.requests import Request
from google.oauth2 import id_token, service_account

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.metadata import EMAIL
from sidecar.emulator.oauth import KEY_EMAIL
from tests.support.clock import FakeClock
from tests.support.google import signed

AUDIENCE = "https://svc-abc-uc.a.run.app"


@pytest.fixture
def transport() -> Iterator[Request]:
    """google-auth's own transport."""
    with requests.Session() as session:
        session.trust_env = False
        yield Request(session)


def redirected(transport: Request, google: Emulator) -> Callable[..., Any]:
    """The same, with the metadata server's name resolved to the stand-in: google-auth reads the variable
    for it only when it is first imported."""

    def request(url: str, method: str = "GET", **options: Any) -> Any:
        parts = urlsplit(url)
        assert parts.hostname == "metadata.google.internal"
        return transport(urlunsplit(parts._replace(netloc=google.metadata_address)), method=method, **options)

    return request


async def test_google_auth_mints_from_the_metadata_server(google: Emulator, transport: Request) -> None:
    """compute_engine.IDTokenCredentials gets a token that google-auth verifies against the certificates."""
    credentials = compute_engine.IDTokenCredentials(None, AUDIENCE, use_metadata_identity_endpoint=True)
    await asyncio.to_thread(credentials.refresh, redirected(transport, google))
    assert credentials.token is not None
    claims = await asyncio.to_thread(
        id_token.verify_token, credentials.token, transport, AUDIENCE, certs_url=google.certs_url
    )
    assert (claims["email"], claims["aud"]) == (EMAIL, AUDIENCE)
    assert credentials.expiry is not None
    assert credentials.expiry.replace(tzinfo=UTC) == datetime.fromtimestamp(claims["exp"], UTC)


async def test_google_auth_gets_an_access_token(google: Emulator, transport: Request) -> None:
    """compute_engine.Credentials finds the account, its scopes and an access token."""
    credentials = compute_engine.Credentials()
    await asyncio.to_thread(credentials.refresh, redirected(transport, google))
    assert credentials.service_account_email == EMAIL
    issued = google.principals.introspect(credentials.token)
    assert issued is not None
    assert issued.member == f"serviceAccount:{EMAIL}"


async def test_google_auth_mints_with_a_key(google: Emulator, transport: Request, tmp_path: Path) -> None:
    """service_account.IDTokenCredentials takes the key file, and gets a token that verifies."""
    file = google.write_key(tmp_path / "key.json")
    credentials = service_account.IDTokenCredentials.from_service_account_file(file, target_audience=AUDIENCE)
    await asyncio.to_thread(credentials.refresh, transport)
    claims = await asyncio.to_thread(
        id_token.verify_token, credentials.token, transport, AUDIENCE, certs_url=google.certs_url
    )
    assert (claims["email"], claims["azp"], claims["aud"]) == (KEY_EMAIL, KEY_EMAIL, AUDIENCE)


async def test_google_auth_gets_an_access_token_with_a_key(
    google: Emulator, transport: Request, tmp_path: Path
) -> None:
    """service_account.Credentials asks for scopes and gets an access token."""
    file = google.write_key(tmp_path / "key.json")
    credentials = service_account.Credentials.from_service_account_file(file, scopes=["openid", "email"])
    await asyncio.to_thread(credentials.refresh, transport)
    issued = google.principals.introspect(credentials.token)
    assert issued is not None
    assert issued.member == f"serviceAccount:{KEY_EMAIL}"
    assert list(google.oauth.asked) == ["openid email"]


async def test_google_auth_understands_the_errors(
    google: Emulator, transport: Request, tmp_path: Path
) -> None:
    """Google's words come out of google-auth as they do from Google."""
    file = google.write_key(tmp_path / "key.json")
    credentials = service_account.IDTokenCredentials.from_service_account_file(file, target_audience=AUDIENCE)
    google.oauth.revoke_key()
    with pytest.raises(exceptions.RefreshError, match=r"invalid_grant: Invalid JWT Signature\."):
        await asyncio.to_thread(credentials.refresh, transport)
    google.metadata.endpoint.fail(Fault("html"))
    machine = compute_engine.IDTokenCredentials(None, AUDIENCE, use_metadata_identity_endpoint=True)
    with pytest.raises(exceptions.MalformedError, match="Wrong number of segments"):
        await asyncio.to_thread(machine.refresh, redirected(transport, google))


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        pytest.param({"aud": "https://other.example"}, "Token has wrong audience", id="audience"),
        pytest.param({"exp": 1_600_000_000, "iat": 1_599_996_400}, "Token expired", id="expired"),
    ],
)
async def test_google_auth_refuses_what_the_targets_refuse(
    google: Emulator, transport: Request, claims: dict[str, Any], says: str
) -> None:
    """A wrong claim in a rightly signed token doesn't pass google-auth either."""
    now = datetime.now(UTC).timestamp()  # noqa: TID251 - google-auth judges by the real clock
    token = signed(now, **{"aud": AUDIENCE, **claims})
    with pytest.raises(ValueError, match=says):
        await asyncio.to_thread(id_token.verify_token, token, transport, AUDIENCE, certs_url=google.certs_url)


@pytest.mark.parametrize(
    "ambient",
    [
        pytest.param({}, id="nothing-else"),
        pytest.param({"NO_GCE_CHECK": "true"}, id="not-on-google-cloud"),
        pytest.param({"GCE_METADATA_MTLS_MODE": "strict"}, id="mutual-tls"),
        pytest.param({"GCE_METADATA_HOST": "h.invalid", "GCE_METADATA_IP": "h.invalid"}, id="another-server"),
    ],
)
async def test_the_environment_is_enough(google: Emulator, ambient: dict[str, str]) -> None:
    """A process with these variables is on Google Cloud, as far as google-auth can tell, whatever was set before."""
    code = (
        "import google.auth, google.auth.transport.requests as r\n"
        "credentials, project = google.auth.default()\n"
        "credentials.refresh(r.Request())\n"
        "print(project, credentials.service_account_email)"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        env={**ambient, **google.environment()},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert out.decode().split() == ["emulated-project", EMAIL]


async def test_gclouds_and_nodes_names_for_it_are_there_too(google: Emulator) -> None:
    """gcloud reads GCE_METADATA_ROOT, npm's gcp-metadata whether to look at all."""
    environment = google.environment()
    assert environment["GCE_METADATA_ROOT"] == google.metadata_address
    assert environment["METADATA_SERVER_DETECTION"] == "assume-present"


async def test_what_others_verify_with(google: Emulator, session: ClientSession) -> None:
    """Discovery leads to the JWKS, whose key is the certificate's; all may be cached."""
    origin = google.oauth_url.removesuffix("/token")
    async with session.get(f"{origin}/.well-known/openid-configuration") as answer:
        discovery = await answer.json()
    assert (discovery["issuer"], discovery["token_endpoint"]) == (
        "https://accounts.google.com",
        google.oauth_url,
    )
    async with session.get(discovery["jwks_uri"]) as answer:
        (jwk,) = (await answer.json())["keys"]
        assert "max-age" in answer.headers["Cache-Control"]
    async with session.get(google.certs_url) as answer:
        assert list(await answer.json()) == [jwk["kid"]]


# TLS


def trusting(google: Emulator) -> TCPConnector:
    """What a client connects with that trusts the stand-in's CA."""
    return TCPConnector(ssl=ssl.create_default_context(cafile=google.ca_file))


async def test_tls_targets_are_verified_with_the_ca_file(google: Emulator) -> None:
    """A client that trusts `ca_file`, and only such a one, reaches a TLS target by each of its names."""
    target = await google.add_target("secure", kind="open", tls=True, names=("svc.example",))
    assert target.url == f"https://localhost:{target.port}"
    address = f"https://127.0.0.1:{target.port}"
    async with ClientSession(connector=trusting(google)) as client:
        for name in (None, "localhost", "secure.localhost", "svc.example"):
            async with client.get(address, server_hostname=name) as answer:
                assert answer.status == 200
        with pytest.raises(ClientConnectorError, match="Hostname mismatch"):
            await client.get(address, server_hostname="other.example")
    async with ClientSession() as client:
        with pytest.raises(ClientConnectorError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(address)


async def test_nobody_else_gets_the_port_of_what_is_stopped(google: Emulator, session: ClientSession) -> None:
    """Else it could not be started again; connections are refused meanwhile."""
    target = await google.add_target("billing", kind="open")
    await google.stop(target.app)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", target.port))
    with pytest.raises(ClientConnectorError):
        await session.get(target.url)
    await google.start(target.app)
    async with session.get(target.url) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("turns", range(6))
async def test_what_is_stopped_has_no_connection(google: Emulator, turns: int) -> None:
    """Not even one that comes in the same moment, however far the loop has got with it."""
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", int(google.metadata_address.rpartition(":")[2]))) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await google.stop(google.metadata.app)
        client.setblocking(False)
        async with asyncio.timeout(60):
            try:
                assert await loop.sock_recv(client, 1) == b""
            except ConnectionResetError:
                pass  # it was never accepted


async def test_a_tls_target_stays_one_when_it_is_started_again(google: Emulator) -> None:
    """Stopped and started, it speaks TLS on the same port."""
    target = await google.add_target("secure", kind="open", tls=True)
    await google.stop(target.app)
    await google.start(target.app)
    async with ClientSession(connector=trusting(google)) as client, client.get(target.url) as answer:
        assert answer.status == 200


async def test_alpn(google: Emulator) -> None:
    """A TLS target agrees on http/1.1, and leaves no key file behind."""
    target = await google.add_target("secure", kind="open", tls=True)
    context = ssl.create_default_context(cafile=google.ca_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(
        "127.0.0.1", target.port, ssl=context, server_hostname="localhost"
    )
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.close()
    await writer.wait_closed()
    assert [file.name for file in google.ca_file.parent.iterdir()] == ["ca.pem"]


# its life


async def test_it_leaves_nothing_behind(session: ClientSession) -> None:
    """At the end every listener is closed, hanging requests included, and its files are gone."""
    async with Emulator() as google:
        target = await google.add_target("billing", kind="open")
        google.metadata.endpoint.fail(Fault("hang"))
        url = f"http://{google.metadata_address}/computeMetadata/v1/instance/service-accounts/default/token"
        headers = {"Metadata-Flavor": "Google"}
        hanging = asyncio.ensure_future(session.get(url, headers=headers))  # noqa: TID251 - the test owns it
        await google.metadata.endpoint.wait_for(1)
        folder = google.ca_file.parent
        urls = (url, google.oauth_url, google.control_url, target.url)
    assert not folder.exists()
    with pytest.raises(ClientConnectionError):
        await hanging
    for url in urls:
        with pytest.raises(ClientConnectorError):
            await session.get(url)


def test_made_and_never_entered() -> None:
    """A stand-in that was only made has opened nothing: nothing warns when it goes."""
    Emulator()


async def test_on_ipv6(session: ClientSession) -> None:
    """Every address is bracketed where `host` is IPv6, and answers."""
    async with Emulator(host="::1") as google:
        target = await google.add_target("billing", kind="open")
        assert google.metadata_address.startswith("[::1]:")
        for url in (f"http://{google.metadata_address}/", google.certs_url, target.url):
            async with session.get(url) as answer:
                assert answer.status == 200


async def test_a_target_keeps_no_token(google: Emulator, session: ClientSession) -> None:
    """Nothing that a target keeps or tells back holds a usable token."""
    target = await google.add_target("billing", audience=AUDIENCE)
    now = datetime.now(UTC).timestamp()  # noqa: TID251 - the stand-in of this test has the real clock
    token = signed(now, aud=AUDIENCE)
    async with session.get(target.url, headers={"Authorization": f"Bearer {token}"}) as answer:
        told = json.dumps(await answer.json())
    signature = token.rpartition(".")[2]
    assert target.requests[0].verified is not None
    assert signature not in told + repr(target.requests) + repr(target) + repr(google.metadata)


async def test_time_comes_from_now(session: ClientSession) -> None:
    """A token dies when the stand-in's clock says so."""
    clock = FakeClock()
    async with Emulator(now=clock.wall) as google:
        target = await google.add_target("billing", audience=AUDIENCE)
        headers = {"Authorization": f"Bearer {signed(clock.wall(), aud=AUDIENCE)}"}
        for advance, status in ((3599.0, 200), (1.0, 401)):
            clock.advance(advance)
            async with session.get(target.url, headers=headers) as answer:
                assert answer.status == status


@pytest.mark.parametrize("path", ["/nothing", "/token", "/v1/token"])
async def test_no_server_says_that_it_is_aiohttp(session: ClientSession, google: Emulator, path: str) -> None:
    """Whatever is asked: each has the name of the real one, and its page for what there is not."""
    await google.add_target("run")
    await google.add_target("api", kind="googleapis")
    for url in (
        f"http://{google.metadata_address}",
        google.oauth_url.removesuffix("/token"),
        google.sts_url.removesuffix("/v1/token"),
        google.iam_url,
        *(target.url for target in google.targets.values()),
    ):
        for method in ("GET", "POST", "PATCH"):
            async with session.request(method, url + path) as answer:
                assert "Python" not in answer.headers["Server"], url
                assert "404: Not Found" not in await answer.text()
                assert "405: Method Not Allowed" not in await answer.text()


async def test_its_answers_have_the_date_of_its_clock() -> None:
    """From every server, refusals too: a client tells from it whose clock is off."""
    async with Emulator(now=FakeClock(wall=1_700_000_000.0).wall) as google, ClientSession() as session:
        billing = await google.add_target("billing")
        for url in (f"http://{google.metadata_address}/", google.certs_url, google.oauth_url, billing.url):
            async with session.get(url) as answer:
                assert answer.headers.getall("Date") == ["Tue, 14 Nov 2023 22:13:20 GMT"], url
