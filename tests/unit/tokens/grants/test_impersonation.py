"""sidecar.tokens.grants.impersonation and iam_credentials, against the stand-in's IAM: what is asked how often, and of whom"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.config.credentials import (
    Adc,
    Credential,
    Endpoints,
    Impersonate,
    Metadata,
    ServiceAccountKey,
    Static,
    User,
)
from sidecar.config.targets import TokenKind
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.endpoint import Endpoint, Protocol
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.grants.federation import FederationGrant
from sidecar.tokens.grants.iam_credentials import IamCredentials
from sidecar.tokens.sources import build_sources
from sidecar.tokens.token import TokenKey, read_claims
from tests.support.named_source import NamedSource
from tests.support.raw_endpoint import RawEndpoint, http

SA = "acted-as@emulated-project.iam.gserviceaccount.com"
HOP = "hop@emulated-project.iam.gserviceaccount.com"
LAST = "last@emulated-project.iam.gserviceaccount.com"
CREATOR = "roles/iam.serviceAccountTokenCreator"


def source(google: Emulator, credentials: Mapping[str, Credential], *, seconds: float = 60.0) -> GoogleSource:
    """The source of the credential `x`."""
    sources = build_sources(
        credentials,
        clock=SystemClock(asyncio.get_running_loop()),
        environ=google.environment(),
        endpoints=Endpoints(oauth=google.oauth_url, sts=google.sts_url, iam_credentials=google.iam_url),
        seconds=seconds,
    )
    return sources["x"]


@pytest.fixture
def acting(google: Emulator) -> Mapping[str, Credential]:
    """The attached account may act as SA."""
    google.principals.add(SA)
    google.principals.grant(f"serviceAccount:{google.metadata.email}", CREATOR, on=SA)
    return {
        "x": Impersonate(type="impersonate", service_account=SA, source="m"),
        "m": Metadata(type="metadata"),
    }


def key(audience: str = "https://a", kind: TokenKind = TokenKind.ID) -> TokenKey:
    return TokenKey(NamedSource("x"), audience, kind)


async def test_the_sources_access_token_is_kept(google: Emulator, acting: Mapping[str, Credential]) -> None:
    """Tokens for several audiences, and of several kinds, cost one; the e-mail and the universe are asked for once."""
    it = source(google, acting)
    for number in range(3):
        token = await it.mint(key(f"https://{number}"))
        assert (read_claims(token.bearer.decode().split()[1]) or {})["email"] == SA
    await it.mint(key("https://www.googleapis.com/auth/cloud-platform", TokenKind.ACCESS))
    await it.mint(key("https://x", TokenKind.SELF_SIGNED_JWT))
    asked = [path.rpartition("/")[2] for path in google.metadata.counts.elements()]
    assert sorted(asked) == ["email", "token", "universe-domain"]
    assert len(google.iam.asked) == 5


async def test_one_that_iam_does_not_know_any_more_is_fetched_once_more(
    google: Emulator, acting: Mapping[str, Credential]
) -> None:
    """As after a key was rotated: the caller notices nothing. One that has just come is not."""
    it = source(google, acting)
    await it.mint(key())
    google.principals._tokens.clear()
    google.metadata.forget()
    await it.mint(key())
    google.iam.endpoint.fail(Fault("status", code=401))
    with pytest.raises(SidecarError, match="token_denied: The IAM Credentials API"):
        await it.mint(key())
    assert google.iam.endpoint.arrived == 5


async def test_callers_at_once_share_the_sources_fetch(
    google: Emulator, acting: Mapping[str, Credential]
) -> None:
    """Eight threads, one access token."""
    it = source(google, acting)
    await asyncio.gather(*(it.mint(key(f"https://{number}")) for number in range(20)))
    assert google.metadata.counts["/computeMetadata/v1/instance/service-accounts/default/token"] == 1


async def test_a_sources_failure_is_its_own(google: Emulator, acting: Mapping[str, Credential]) -> None:
    """What failed is named, and IAM is not asked."""
    google.metadata.endpoint.fail(Fault("status", code=503))
    with pytest.raises(SidecarError, match="token_endpoint_failed: The metadata server"):
        await source(google, acting).mint(key())
    assert google.iam.endpoint.arrived == 0


async def test_a_source_that_hangs_holds_nobody_beyond_the_deadline(
    google: Emulator, acting: Mapping[str, Credential]
) -> None:
    """Also those who wait for its access token behind others."""
    google.metadata.endpoint.fail(Fault("hang"))
    it = source(google, acting, seconds=0.5)
    outcomes = await asyncio.gather(*(it.mint(key(f"https://{n}")) for n in range(8)), return_exceptions=True)
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, SidecarError)} == {
        Reason.TOKEN_TIMEOUT
    }
    assert len(outcomes) == 8


async def test_the_quota_project_of_a_login_is_told(google: Emulator, tmp_path: Path) -> None:
    """IAM's calls are counted against it."""
    user = google.oauth.add_user("me@example.com")
    file = google.write_login(tmp_path / "login.json", user)
    file.write_text(json.dumps({**json.loads(file.read_text()), "quota_project_id": "my-project"}))
    google.principals.add(SA)
    google.principals.grant(user.member, CREATOR, on=SA)
    it = source(
        google,
        {
            "x": Impersonate(type="impersonate", service_account=SA, source="u"),
            "u": User(type="user", file=str(file)),
        },
    )
    await it.mint(key())
    assert list(google.iam.quota_projects) == ["my-project"]


@pytest.mark.parametrize(
    ("found", "environ", "told"),
    [
        pytest.param("login", {}, ["of-file"], id="login"),
        pytest.param("login", {"GOOGLE_CLOUD_QUOTA_PROJECT": "of-env"}, ["of-env"], id="login-and-variable"),
        pytest.param("key", {"GOOGLE_CLOUD_QUOTA_PROJECT": "of-env"}, ["of-env"], id="key-and-variable"),
        pytest.param(
            "metadata", {"GOOGLE_CLOUD_QUOTA_PROJECT": "of-env"}, ["of-env"], id="metadata-and-variable"
        ),
        pytest.param("metadata", {"GOOGLE_CLOUD_QUOTA_PROJECT": ""}, [], id="empty-variable"),
        # What is inside counts for the first call, what is around it for the second.
        pytest.param("impersonated", {}, ["of-file", "of-outer"], id="impersonated"),
        pytest.param(
            "impersonated",
            {"GOOGLE_CLOUD_QUOTA_PROJECT": "of-env"},
            ["of-file", "of-env"],
            id="impersonated-and-variable",
        ),
    ],
)
async def test_the_quota_project_of_application_default_credentials(
    google: Emulator, tmp_path: Path, found: str, environ: Mapping[str, str], told: list[str]
) -> None:
    """The variable counts before the file's own, for the credential that `adc` is, as in `google.auth.default()`."""
    user = google.oauth.add_user("me@example.com")
    login = {**user.adc(), "quota_project_id": "of-file"}
    outer = {
        "type": "impersonated_service_account",
        "service_account_impersonation_url": f"{google.iam_url}/v1/projects/-/serviceAccounts/{HOP}:generateAccessToken",
        "source_credentials": login,
        "quota_project_id": "of-outer",
    }
    file = tmp_path / "adc.json"
    if found == "key":
        google.write_key(file)
    elif found != "metadata":
        file.write_text(json.dumps(login if found == "login" else outer))
    for account in (SA, HOP):
        google.principals.add(account)
    for member in (user.member, f"serviceAccount:{google.metadata.email}", f"serviceAccount:{KEY_EMAIL}"):
        google.principals.grant(member, CREATOR, on=SA)
    google.principals.grant(user.member, CREATOR, on=HOP)
    google.principals.grant(f"serviceAccount:{HOP}", CREATOR, on=SA)
    named = {} if found == "metadata" else {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    it = build_sources(
        {
            "x": Impersonate(type="impersonate", service_account=SA, source="default"),
            "default": Adc(type="adc"),
        },
        clock=SystemClock(asyncio.get_running_loop()),
        environ={"CLOUDSDK_CONFIG": str(tmp_path / "none"), **google.environment(), **named, **environ},
        endpoints=Endpoints(oauth=google.oauth_url, iam_credentials=google.iam_url),
        seconds=60,
    )["x"]
    await it.mint(key())
    assert list(google.iam.quota_projects) == told


@pytest.mark.parametrize("value", ["a b", "x\r\nHost: evil", "My Project", "projekt-ä", "x" * 200])
async def test_a_quota_project_that_is_none(google: Emulator, tmp_path: Path, value: str) -> None:
    """The variable is named, and what is in it goes into no request."""
    it = build_sources(
        {"x": Adc(type="adc")},
        clock=SystemClock(asyncio.get_running_loop()),
        environ={
            "CLOUDSDK_CONFIG": str(tmp_path),
            **google.environment(),
            "GOOGLE_CLOUD_QUOTA_PROJECT": value,
        },
    )["x"]
    with pytest.raises(SidecarError, match="credential_invalid: GOOGLE_CLOUD_QUOTA_PROJECT is not") as caught:
        await it.mint(key())
    assert value not in caught.value.detail


async def test_a_dead_login_in_an_impersonated_file_is_renewed_as_one(
    google: Emulator, tmp_path: Path
) -> None:
    """A plain login would write another type of file in its place, and act as a person from then on."""
    user = google.oauth.add_user("me@example.com")
    file = tmp_path / "adc.json"
    file.write_text(
        json.dumps(
            {
                "type": "impersonated_service_account",
                "service_account_impersonation_url": f"{google.iam_url}/v1/projects/-/serviceAccounts/{SA}"
                ":generateAccessToken",
                "delegates": [f"projects/-/serviceAccounts/{HOP}"],
                "source_credentials": {**user.adc(), "refresh_token": "revoked"},
            }
        )
    )
    it = build_sources(
        {"x": Adc(type="adc")},
        clock=SystemClock(asyncio.get_running_loop()),
        environ={"GOOGLE_APPLICATION_CREDENTIALS": str(file)},
        endpoints=Endpoints(oauth=google.oauth_url, iam_credentials=google.iam_url),
    )["x"]
    with pytest.raises(SidecarError) as caught:
        await it.mint(key())
    command = f"gcloud auth application-default login --impersonate-service-account={HOP},{SA}"
    assert (caught.value.reason, caught.value.command) == (Reason.REAUTHENTICATION_NEEDED, command)
    assert f"`{command}`" in caught.value.detail


async def test_a_key_of_another_universe_asks_iam_with_a_jwt_of_its_own(
    google: Emulator, tmp_path: Path
) -> None:
    """There, the OAuth token endpoint has no ID tokens; access tokens are self-signed too."""
    file = google.write_key(tmp_path / "key.json")
    info = {**json.loads(file.read_text()), "universe_domain": "emulated.example"}
    file.write_text(json.dumps(info))
    google.principals.grant(f"serviceAccount:{KEY_EMAIL}", CREATOR, on=KEY_EMAIL)
    it = source(google, {"x": ServiceAccountKey(type="service_account_key", file=str(file))})
    token = await it.mint(key())
    assert (read_claims(token.bearer.decode().split()[1]) or {})["email"] == KEY_EMAIL
    access = await it.mint(key("https://www.googleapis.com/auth/cloud-platform", TokenKind.ACCESS))
    assert (read_claims(access.bearer.decode().split()[1]) or {})["iss"] == KEY_EMAIL
    assert google.oauth.endpoint.arrived == 0


def test_the_public_address_follows_the_universe() -> None:
    """Unless an endpoint is configured."""
    assert IamCredentials().base("googleapis.com") == "https://iamcredentials.googleapis.com"
    assert IamCredentials().base("emulated.example") == "https://iamcredentials.emulated.example"
    assert IamCredentials("https://iam.internal").base("x.y") == "https://iam.internal"


@pytest.mark.parametrize("kind", ["html", "huge", "garbage", "wrong_audience", "no_exp", "expired", "reset"])
@pytest.mark.parametrize("what", [TokenKind.ID, TokenKind.ACCESS, TokenKind.SELF_SIGNED_JWT])
async def test_an_iam_that_misbehaves(
    google: Emulator, acting: Mapping[str, Credential], kind: str, what: TokenKind
) -> None:
    """Every fault is an error of its own reason, or is none for this kind of token."""
    google.iam.endpoint.fail(Fault(kind))  # type: ignore[arg-type]
    reasons = {
        "html": Reason.TOKEN_MALFORMED,
        "huge": Reason.TOKEN_MALFORMED,
        "garbage": Reason.TOKEN_MALFORMED,
        "wrong_audience": Reason.TOKEN_WRONG_AUDIENCE,
        "no_exp": Reason.TOKEN_NO_EXPIRY,
        "expired": Reason.TOKEN_EXPIRED,
        "reset": Reason.TOKEN_ENDPOINT_UNREACHABLE,
    }
    if what is TokenKind.ACCESS and kind in ("wrong_audience", "no_exp", "expired"):
        await source(google, acting).mint(key("email", what))
        return
    with pytest.raises(SidecarError) as caught:
        await source(google, acting).mint(key("email" if what is TokenKind.ACCESS else "https://a", what))
    assert caught.value.reason is reasons[kind]
    assert caught.value.__context__ is None


async def test_a_literal_token_expires_honestly(google: Emulator) -> None:
    """Its own `exp` counts, and nobody can renew it."""
    now = int(google._now())
    for exp, reason in ((now + 60, None), (now - 1, Reason.TOKEN_EXPIRED)):
        text = google.oauth._key.sign({"aud": "https://a", "iat": now - 10, "exp": exp})
        it = source(google, {"x": Static(type="static", token=SecretStr(text))})
        if reason is None:
            assert (await it.mint(key())).expires_at == exp
            continue
        with pytest.raises(SidecarError) as caught:
            await it.mint(key())
        assert caught.value.reason is reason


async def test_nobody_acts_as_itself(google: Emulator) -> None:
    """Not even where it shows only when the metadata server has said whose it is: IAM is not asked, and a token that
    leaked can't renew itself forever."""
    email = str(google.metadata.email)
    google.principals.grant(f"serviceAccount:{email}", CREATOR, on=email)
    it = source(
        google,
        {
            "x": Impersonate(type="impersonate", service_account=email, source="m"),
            "m": Metadata(type="metadata"),
        },
    )
    it.grant.check()
    with pytest.raises(SidecarError, match="self_impersonation: "):
        await it.mint(key())
    assert google.iam.endpoint.arrived == 0


async def test_a_source_that_cannot_act_says_why(google: Emulator) -> None:
    """A token that comes ready is sent as it is, and gives no access token to act with."""
    it = source(
        google,
        {
            "x": Impersonate(type="impersonate", service_account=SA, source="s"),
            "s": Static(type="static", token=SecretStr("very-secret")),
        },
    )
    with pytest.raises(
        SidecarError, match=r"credential_mismatch: .*an access token does not say when it expires"
    ):
        await it.mint(key())
    assert google.iam.endpoint.arrived == 0


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        pytest.param(lambda grant: grant.id_token(None, "https://a"), "has no ID token of Google's", id="id"),
        pytest.param(lambda grant: grant.self_signed_jwt(None, "https://a"), "has no key", id="self-signed"),
    ],
)
async def test_what_a_grant_cannot_do_it_says_itself(
    ask: Callable[[FederationGrant], Fetched], says: str
) -> None:
    """A call past the look at the table gets the same error."""
    with pytest.raises(SidecarError, match=f"credential_mismatch: .*{says}"):
        ask(FederationGrant(lambda: "{}", "x"))


async def test_an_account_behind_adc_acts_through_a_chain(google: Emulator, tmp_path: Path) -> None:
    """What `adc` finds acts as the first account, and that one as the second; who may do what is asked of IAM with the
    account's own name, delegates named in full."""
    file = google.write_key(tmp_path / "key.json")
    for account in (SA, HOP, LAST):
        google.principals.add(account)
    google.principals.grant(f"serviceAccount:{KEY_EMAIL}", CREATOR, on=HOP)
    google.principals.grant(f"serviceAccount:{HOP}", CREATOR, on=SA)
    google.principals.grant(f"serviceAccount:{SA}", CREATOR, on=LAST)
    credentials: Mapping[str, Credential] = {
        "default": Adc(type="adc"),
        "y": Impersonate(type="impersonate", service_account=SA, source="default", delegates=(HOP,)),
        "x": Impersonate(type="impersonate", service_account=LAST, source="y"),
    }
    it = build_sources(
        credentials,
        clock=SystemClock(asyncio.get_running_loop()),
        environ={"GOOGLE_APPLICATION_CREDENTIALS": str(file)},
        endpoints=Endpoints(iam_credentials=google.iam_url),
        seconds=60,
    )["x"]
    it.grant.check()
    token = await it.mint(key())
    assert (read_claims(token.bearer.decode().split()[1]) or {})["email"] == LAST
    assert [asked[:4] for asked in google.iam.asked] == [
        ("generateAccessToken", SA, f"serviceAccount:{KEY_EMAIL}", (HOP,)),
        ("generateIdToken", LAST, f"serviceAccount:{SA}", ()),
    ]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="none"),
        pytest.param({"expireTime": None}, id="null"),
        pytest.param({"expireTime": "soon"}, id="word"),
        pytest.param({"expireTime": 3600}, id="number"),
        pytest.param({"expireTime": "2027-01-15T08:00:00"}, id="no-zone"),
        pytest.param({"expireTime": "9999-12-31T23:59:59Z"}, id="last-of-all"),
        pytest.param({"expireTime": "0001-01-01T00:00:00Z"}, id="first-of-all"),
    ],
)
async def test_an_access_token_of_iam_without_its_end_is_not_used(
    raw: RawEndpoint, body: dict[str, object]
) -> None:
    """Nothing else says how long it may be used, or kept as what another token is asked for with."""
    reason = "token_no_expiry" if body.get("expireTime") is None else "token_invalid"
    body = {"accessToken": "ya29.x", **body}
    raw.behaviour = http(200, json.dumps(body).encode(), content_type="application/json")
    flight = Flight(SystemClock(asyncio.get_running_loop()), 60)
    bearer = Fetched("b", Endpoint("the source", Protocol.LOCAL, "x", ""))
    iam = IamCredentials(f"http://{raw.origin}")
    with pytest.raises(SidecarError, match=rf"{reason}: .* an? .*`expireTime`|{reason}: .* no `expireTime`"):
        await asyncio.to_thread(
            iam.generate_access_token, flight, bearer, SA, ["scope"], universe="googleapis.com"
        )
    flight.close()


async def test_an_answer_of_iam_without_an_access_token(raw: RawEndpoint) -> None:
    """Is not one."""
    raw.behaviour = http(200, b'{"accessToken": ""}', content_type="application/json")
    flight = Flight(SystemClock(asyncio.get_running_loop()), 60)
    bearer = Fetched("b", Endpoint("the source", Protocol.LOCAL, "x", ""))
    iam = IamCredentials(f"http://{raw.origin}")
    with pytest.raises(SidecarError, match="token_malformed: "):
        await asyncio.to_thread(
            iam.generate_access_token, flight, bearer, SA, ["scope"], universe="googleapis.com"
        )
    flight.close()
    assert (repr(bearer), bearer.value) == ("<Fetched from the source>", "b")
