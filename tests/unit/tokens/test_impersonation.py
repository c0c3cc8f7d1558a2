"""sidecar.tokens.impersonation and iam_credentials, against the stand-in's IAM: what is asked how often, and of whom"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.clock import SystemClock
from sidecar.config.credentials import (
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
from sidecar.tokens.google_source import GoogleSource
from sidecar.tokens.iam_credentials import IamCredentials
from sidecar.tokens.sources import build_sources
from sidecar.tokens.token import TokenKey, read_claims

SA = "acted-as@emulated-project.iam.gserviceaccount.com"
CREATOR = "roles/iam.serviceAccountTokenCreator"


def source(google: Emulator, credentials: Mapping[str, Credential]) -> GoogleSource:
    """The source of the credential `x`."""
    sources = build_sources(
        credentials,
        clock=SystemClock(asyncio.get_running_loop()),
        environ=google.environment(),
        endpoints=Endpoints(oauth=google.oauth_url, sts=google.sts_url, iam_credentials=google.iam_url),
        seconds=3,
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
    return TokenKey("x", audience, kind)


async def test_the_sources_access_token_is_kept(google: Emulator, acting: Mapping[str, Credential]) -> None:
    """Tokens for several audiences, and of several kinds, cost one; the e-mail is asked for once."""
    it = source(google, acting)
    for number in range(3):
        token = await it.mint(key(f"https://{number}"))
        assert (read_claims(token.bearer.decode().split()[1]) or {})["email"] == SA
    await it.mint(key("https://www.googleapis.com/auth/cloud-platform", TokenKind.ACCESS))
    await it.mint(key("https://x", TokenKind.SELF_SIGNED_JWT))
    asked = [path.rpartition("/")[2] for path in google.metadata.counts.elements()]
    assert sorted(asked) == ["email", "token"]
    assert len(google.iam.asked) == 5


async def test_one_that_iam_does_not_know_any_more_is_fetched_once_more(
    google: Emulator, acting: Mapping[str, Credential]
) -> None:
    """As after a key was rotated: the caller notices nothing. One that has just come is not."""
    it = source(google, acting)
    await it.mint(key())
    google.principals._tokens.clear()
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
    it = source(google, acting)
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
    assert IamCredentials()._base == "https://iamcredentials.googleapis.com"
    assert IamCredentials(universe="emulated.example")._base == "https://iamcredentials.emulated.example"
    assert IamCredentials("https://iam.internal", universe="x.y")._base == "https://iam.internal"


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
        await source(google, acting).mint(key("scope", what))
        return
    with pytest.raises(SidecarError) as caught:
        await source(google, acting).mint(key("https://a", what))
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
