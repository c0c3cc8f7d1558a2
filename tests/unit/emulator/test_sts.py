"""sidecar.emulator.sts, with google-auth itself as the client, and the logins of people"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote

import pytest
from aiohttp import ClientSession
from google.auth import aws, exceptions, identity_pool
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials as UserCredentials

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import read
from sidecar.emulator.sts import (
    ACCESS_TOKEN,
    AWS_KEY_ID,
    AWS_SECRET,
    AWS_TYPE,
    GRANT,
    JWT_TYPES,
    Provider,
    signing_key,
)
from tests.support.clock import FakeClock

SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@pytest.fixture
def provider(google: Emulator) -> Provider:
    """One that is trusted."""
    return google.sts.add_provider()


async def refreshed(file: Path, kind: Any) -> Any:
    """google-auth's credentials from a file, refreshed."""
    credentials = kind.from_file(str(file), scopes=[SCOPE])
    await asyncio.to_thread(credentials.refresh, Request())
    return credentials


def member(google: Emulator, credentials: Any) -> str:
    token = google.principals.introspect(credentials.token)
    assert token is not None
    assert token.scopes == (SCOPE,)
    return token.member


@pytest.mark.parametrize("source", ["file", "text-url", "json-url"])
async def test_google_auth_exchanges_a_subject_token(
    google: Emulator, provider: Provider, tmp_path: Path, source: str
) -> None:
    """From a file, or a URL as text or JSON; the access token is the pool's identity's."""
    (tmp_path / "subject").write_text(google.sts.subject_token(provider))
    sources: dict[str, dict[str, Any]] = {
        "file": {"file": str(tmp_path / "subject")},
        "text-url": google.url_source(provider),
        "json-url": google.url_source(provider, json=True),
    }
    file = google.write_federation(tmp_path / "wif.json", provider, sources[source])
    credentials = await refreshed(file, identity_pool.Credentials)
    assert member(google, credentials) == provider.principal("workload")
    assert google.sts.asked[-1].scope == SCOPE


async def test_google_auth_exchanges_a_signed_aws_request(
    google: Emulator, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keys from the metadata service; the signature is really computed again."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    file = google.write_federation(
        tmp_path / "wif.json", provider, google.aws_source(), subject_token_type=AWS_TYPE
    )
    credentials = await refreshed(file, aws.Credentials)
    assert "assumed-role" in member(google, credentials)


async def test_a_signed_aws_request_is_form_encoded_by_go(
    google: Emulator,
    provider: Provider,
    session: ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plus for a space, too: golang.org/x/oauth2 writes the request by `url.QueryEscape`."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", AWS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    file = google.write_federation(
        tmp_path / "wif.json", provider, google.aws_source(), subject_token_type=AWS_TYPE
    )
    signer = aws.Credentials.from_file(str(file), scopes=[SCOPE])
    token = await asyncio.to_thread(signer.retrieve_subject_token, Request())
    form = {
        "grant_type": GRANT,
        "audience": provider.audience,
        "requested_token_type": ACCESS_TOKEN,
        "subject_token_type": AWS_TYPE,
        "subject_token": quote_plus(unquote(token)),
        "scope": SCOPE,
    }
    status, answer = await exchange(session, google, form)
    assert (status, "access_token" in answer) == (200, True), answer


async def test_a_signature_with_another_secret_is_refused(
    google: Emulator, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the key id is a known one."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEMULATED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    file = google.write_federation(
        tmp_path / "wif.json", provider, google.aws_source(), subject_token_type=AWS_TYPE
    )
    with pytest.raises(exceptions.OAuthError, match="The AWS signature is invalid"):
        await refreshed(file, aws.Credentials)


async def exchange(
    session: ClientSession, google: Emulator, form: Mapping[str, str]
) -> tuple[int, dict[str, Any]]:
    async with session.post(google.sts_url, data=dict(form)) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("body", ["json", "data"])
async def test_fields_have_the_names_of_the_rest_reference_too(
    google: Emulator, provider: Provider, session: ClientSession, body: str
) -> None:
    """In JSON, as the action google-github-actions/auth sends them, and in a form, as R's gargle does."""
    fields = {
        "grantType": GRANT,
        "audience": provider.audience,
        "requestedTokenType": ACCESS_TOKEN,
        "subjectTokenType": JWT_TYPES[0],
        "subjectToken": google.sts.subject_token(provider),
        "scope": SCOPE,
    }
    async with session.post(google.sts_url, **{body: fields}) as answer:  # type: ignore[arg-type]
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["issued_token_type"] == ACCESS_TOKEN


@pytest.mark.parametrize("body", ["[]", "{", '{"grantType": 1}', "\xff"])
async def test_a_body_that_is_no_request_has_no_grant_type(
    google: Emulator, session: ClientSession, body: str
) -> None:
    """What is no object, and what is no text in it, counts as nothing."""
    headers = {"Content-Type": "application/json"}
    async with session.post(google.sts_url, data=body.encode("latin-1"), headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    ("claims", "form", "code", "says"),
    [
        ({}, {"grant_type": "password"}, "unsupported_grant_type", "grant_type"),
        ({}, {"requested_token_type": "x"}, "invalid_request", "requested_token_type"),
        ({}, {"audience": "//iam.googleapis.com/x"}, "invalid_request", "full resource name"),
        (
            {},
            {"audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p"},
            "invalid_request",
            "full",
        ),
        (
            {},
            {
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x"
            },
            "invalid_target",
            "might either be because the pool or provider is disabled or deleted or because it doesn't exist.",
        ),
        (
            {},
            {"scope": "https://www.googleapis.com/auth/cloud-platfrom"},
            "invalid_scope",
            "Invalid OAuth scope",
        ),
        ({}, {"subject_token_type": "x"}, "invalid_request", "subject_token_type"),
        ({}, {"subject_token": "x.y.z"}, "invalid_grant", "Unable to parse the ID Token."),
        (
            {"iss": "https://other/"},
            {},
            "invalid_grant",
            "The issuer in ID Token https://other does not match the expected one in config: "
            "https://idp.emulated.example.",
        ),
        (
            {"iss": None},
            {},
            "invalid_grant",
            "The issuer in ID Token null does not match the expected one in",
        ),
        (
            {"aud": "other"},
            {},
            "invalid_grant",
            "The audience in ID Token [other] does not match the expected audience.",
        ),
        ({"aud": None}, {}, "invalid_grant", "The audience in ID Token [] does not match"),
        (
            {"iat": 1600000000, "exp": 1600003600},
            {},
            "invalid_grant",
            "Token issued at 1600000000 is stale to",
        ),
        ({"iat": None}, {}, "invalid_grant", "ID Token issued at null is stale to sign-in."),
        ({"exp": None}, {}, "invalid_grant", "is stale to sign-in."),
        ({"sub": "nobody"}, {}, "unauthorized_client", "rejected by the attribute condition"),
    ],
)
async def test_what_is_refused(
    session: ClientSession,
    google: Emulator,
    provider: Provider,
    claims: dict[str, Any],
    form: dict[str, str],
    code: str,
    says: str,
) -> None:
    """In the words of the real one; the same request without the fault is granted."""
    provider.condition = lambda found: found["sub"] == "workload"
    whole = {
        "grant_type": GRANT,
        "requested_token_type": ACCESS_TOKEN,
        "audience": provider.audience,
        "subject_token_type": JWT_TYPES[0],
        "subject_token": google.sts.subject_token(provider),
    }
    assert (await exchange(session, google, whole))[0] == 200
    if claims:
        form = {"subject_token": google.sts.subject_token(provider, **claims)}
    status, body = await exchange(session, google, whole | form)
    assert (status, body["error"]) == (400, code)
    assert says in body["error_description"]


@pytest.mark.parametrize(
    ("issued", "ends", "status", "expires_in"),
    [
        pytest.param(-7200, 600, 200, 599, id="old-and-alive"),
        pytest.param(0, 30, 200, 29, id="short"),
        pytest.param(0, 7200, 200, 3599, id="long"),
        pytest.param(-3600, -59, 200, 58, id="just-over"),
        pytest.param(-3600, -61, 400, None, id="over"),
        pytest.param(60, 3600, 200, 3599, id="clock-is-a-minute-ahead"),
        pytest.param(119, 3600, 400, None, id="of-the-future"),
    ],
)
async def test_how_long_a_subject_token_is_good(
    session: ClientSession, issued: int, ends: int, status: int, expires_in: int | None
) -> None:
    """By its `exp` alone, however old it is; and the access token ends with it, at the latest. As it was measured."""
    async with Emulator(now=FakeClock(wall=1_800_000_000).wall) as google:
        provider = google.sts.add_provider()
        times = {"iat": 1_800_000_000 + issued, "exp": 1_800_000_000 + ends}
        form = {
            "grant_type": GRANT,
            "requested_token_type": ACCESS_TOKEN,
            "audience": provider.audience,
            "subject_token_type": JWT_TYPES[0],
            "subject_token": google.sts.subject_token(provider, **times),
        }
        found, answer = await exchange(session, google, form)
    assert (found, answer.get("expires_in")) == (status, expires_in)


@pytest.mark.parametrize(
    ("token", "says"),
    [
        pytest.param(
            lambda good: f"{good[:-8]}AAAAAAAA", "Unable to verify the ID Token signature.", id="signature"
        ),
        pytest.param(
            lambda good: signing_key("https://another").sign(read(good)),
            "Error connecting to the given credential's issuer.",
            id="a-key-that-is-not-known",
        ),
    ],
)
async def test_a_subject_token_that_somebody_else_signed(
    session: ClientSession, google: Emulator, provider: Provider, token: Any, says: str
) -> None:
    """A key that the provider does not have is looked for at the issuer, and is not found there."""
    form = {
        "grant_type": GRANT,
        "requested_token_type": ACCESS_TOKEN,
        "audience": provider.audience,
        "subject_token_type": JWT_TYPES[0],
        "subject_token": token(google.sts.subject_token(provider)),
    }
    assert await exchange(session, google, form) == (
        400,
        {"error": "invalid_grant", "error_description": says},
    )


@pytest.mark.parametrize("how", ["disabled", "deleted"])
async def test_a_provider_that_is_no_more_is_the_wrong_target(
    google: Emulator, provider: Provider, tmp_path: Path, how: str
) -> None:
    """As google-auth tells it."""
    file = google.write_federation(tmp_path / "wif.json", provider, google.url_source(provider))
    await refreshed(file, identity_pool.Credentials)
    if how == "disabled":
        provider.disabled = True
    else:
        google.sts.remove_provider(provider)
    with pytest.raises(
        exceptions.OAuthError, match='Error code invalid_target: The target service indicated by the "aud'
    ):
        await refreshed(file, identity_pool.Credentials)


async def test_google_auth_refreshes_a_login(google: Emulator, tmp_path: Path) -> None:
    """The ID token is for the client that logged in, the access token the person's."""
    user = google.oauth.add_user("me@example.com")
    info = json.loads(google.write_login(tmp_path / "adc.json", user).read_text())
    credentials = UserCredentials.from_authorized_user_info(info).with_token_uri(google.oauth_url)
    await asyncio.to_thread(credentials.refresh, Request())
    claims = signing_key("google").verify(credentials.id_token)
    assert (claims["aud"], claims["email"]) == (user.client_id, "me@example.com")
    token = google.principals.introspect(credentials.token)
    assert token is not None
    assert token.member == "user:me@example.com"
    assert read(credentials.id_token)["sub"] == user.subject
    assert user.refresh_token not in repr(user)
    assert user.client_secret not in repr(user)


@pytest.mark.parametrize(
    ("switch", "error", "says"),
    [
        ({"revoked": True}, {"error": "invalid_grant"}, "expired or revoked"),
        (
            {"session_ended": True},
            {"error": "invalid_grant", "error_subtype": "invalid_rapt"},
            "invalid_rapt",
        ),
        ({"client_secret": "another"}, {"error": "invalid_client"}, "client secret"),
        ({"client_id": "another"}, {"error": "invalid_client"}, "client was not found"),
    ],
)
async def test_logins_that_have_ended(
    session: ClientSession, google: Emulator, switch: dict[str, Any], error: dict[str, str], says: str
) -> None:
    """In Google's words, subtype included."""
    user = google.oauth.add_user("me@example.com")
    form = {
        "grant_type": "refresh_token",
        "client_id": user.client_id,
        "client_secret": user.client_secret,
        "refresh_token": user.refresh_token,
    }
    for name, value in switch.items():
        setattr(user, name, value)
    async with session.post(google.oauth_url, data=form) as answer:
        body = await answer.json()
        assert answer.status == (401 if error["error"] == "invalid_client" else 400)
    assert error.items() <= body.items()
    assert says in body["error_description"]
