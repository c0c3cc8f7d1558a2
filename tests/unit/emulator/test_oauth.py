"""The token endpoint: an assertion is judged in full, and refused in Google's words."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.keys import SigningKey, encode, read, signing_key
from sidecar.emulator.oauth import GRANT, KEY_EMAIL, TOKEN_AUDIENCE
from sidecar.emulator.scopes import CLOUD_PLATFORM
from tests.support.clock import FakeClock

SHORT_LIVED = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)
NOW = 1_800_000_000
DRIVE = "https://www.googleapis.com/auth/drive"


@pytest.fixture
def key(tmp_path: Path, fixed: Emulator) -> SigningKey:
    """The key of an account whose file was written."""
    fixed.write_key(tmp_path / "key.json")
    return signing_key(KEY_EMAIL)


@pytest.fixture
async def fixed() -> Any:
    """A stand-in whose clock stands at NOW."""
    async with Emulator(now=FakeClock(wall=NOW).wall) as google:
        yield google


def assertion(key: SigningKey, **claims: object) -> str:
    whole = {
        "iss": KEY_EMAIL,
        "aud": TOKEN_AUDIENCE,
        "iat": NOW,
        "exp": NOW + 3600,
        "target_audience": "https://billing.example",
        **claims,
    }
    return key.sign({name: value for name, value in whole.items() if value is not None})


async def grant(
    session: ClientSession, google: Emulator, signed: str, grant_type: str = GRANT
) -> tuple[int, dict[str, Any]]:
    form = {"grant_type": grant_type, "assertion": signed}
    async with session.post(google.oauth_url, data=form) as answer:
        return answer.status, await answer.json()


async def test_a_grant_type_that_is_missing_is_called_nothing(
    google: Emulator, session: ClientSession
) -> None:
    """Neither the sender's wish nor a word of Python's."""
    for data, said in (({}, ""), ({"grant_type": "password"}, "password")):
        async with session.post(google.oauth_url, data=data) as answer:
            found = await answer.json()
            assert (answer.status, found["error"]) == (400, "unsupported_grant_type")
            assert found["error_description"] == f"Invalid grant_type: {said}"
            # As pull request 2 of blobfile on GitHub has them, of a refusal.
            expected = {
                "Cache-Control": "no-cache, no-store, max-age=0, must-revalidate",
                "Pragma": "no-cache",
                "Expires": "Mon, 01 Jan 1990 00:00:00 GMT",
                "Content-Type": "application/json; charset=utf-8",
                "Server": "scaffolding on HTTPServer2",
                "X-XSS-Protection": "0",
                "X-Frame-Options": "SAMEORIGIN",
                "X-Content-Type-Options": "nosniff",
            }
            assert expected.items() <= answer.headers.items()


async def test_a_key_file_is_complete_and_private(fixed: Emulator, tmp_path: Path) -> None:
    """The file has what google-auth needs, points here, and is its owner's alone, even where one lay open."""
    path = tmp_path / "key.json"
    path.touch(mode=0o644)
    assert fixed.write_key(path, email="a@example.com") == path
    info = json.loads(path.read_text("utf-8"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert info["type"] == "service_account"
    assert (info["client_email"], info["token_uri"]) == ("a@example.com", fixed.oauth_url)
    assert info["private_key"].startswith("-----BEGIN PRIVATE KEY-----")
    assert info["private_key_id"] == signing_key("a@example.com").kid


async def test_a_target_audience_gets_an_id_token(
    session: ClientSession, fixed: Emulator, key: SigningKey
) -> None:
    """The answer is an ID token for the audience, with the account as `azp` and `email`."""
    status, body = await grant(session, fixed, assertion(key))
    claims = signing_key("google").verify(body["id_token"])
    assert (status, set(body)) == (200, {"id_token"})
    assert claims["aud"] == "https://billing.example"
    assert claims["azp"] == claims["email"] == KEY_EMAIL
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 3600)
    assert list(fixed.oauth.asked) == ["https://billing.example"]


async def test_a_scope_gets_an_access_token(session: ClientSession, fixed: Emulator, key: SigningKey) -> None:
    """Without a target audience the scope decides, and the answer is an access token."""
    status, body = await grant(session, fixed, assertion(key, target_audience=None, scope="openid email"))
    assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 3599)
    assert list(fixed.oauth.asked) == ["openid email"]


@pytest.mark.parametrize(
    ("claims", "code", "description"),
    [
        pytest.param({"aud": "https://x"}, "invalid_grant", "Invalid JWT: Failed audience check.", id="aud"),
        pytest.param({"iat": NOW + 301}, "invalid_grant", SHORT_LIVED, id="clock-ahead"),
        pytest.param({"iat": NOW - 3901, "exp": NOW - 301}, "invalid_grant", SHORT_LIVED, id="clock-behind"),
        pytest.param({"exp": NOW + 3601}, "invalid_grant", SHORT_LIVED, id="too-long"),
        pytest.param({"exp": NOW}, "invalid_grant", SHORT_LIVED, id="no-life"),
        pytest.param({"exp": None}, "invalid_grant", SHORT_LIVED, id="no-exp"),
        pytest.param({"iat": None}, "invalid_grant", SHORT_LIVED, id="no-iat"),
        pytest.param({"exp": "soon"}, "invalid_grant", SHORT_LIVED, id="exp-no-number"),
        pytest.param(
            {"target_audience": None},
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
            id="nothing-asked",
        ),
        pytest.param(
            {"target_audience": ""},
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
            id="empty-audience",
        ),
        pytest.param(
            {"target_audience": ["a", "b"]},
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
            id="two-audiences",
        ),
        pytest.param(
            {"target_audience": None, "scope": "https://www.googleapis.com/auth/cloud-platfrom"},
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
            id="misspelt-scope",
        ),
        pytest.param(
            {"iss": "x@example.com"}, "invalid_grant", "Invalid grant: account not found", id="another-name"
        ),
        pytest.param({"iss": ["x"]}, "invalid_grant", "Invalid grant: account not found", id="no-name"),
    ],
)
async def test_what_is_wrong_with_the_claims_is_said(
    session: ClientSession,
    fixed: Emulator,
    key: SigningKey,
    claims: dict[str, object],
    code: str,
    description: str,
) -> None:
    """A signed assertion with a wrong claim is refused in Google's words."""
    status, body = await grant(session, fixed, assertion(key, **claims))
    assert (status, body) == (400, {"error": code, "error_description": description})


@pytest.mark.parametrize(
    "audience",
    [
        pytest.param("https://www.googleapis.com/oauth2/v4/token", id="older"),
        pytest.param("https://accounts.google.com/o/oauth2/token", id="oldest"),
        pytest.param(None, id="where-it-is-sent"),
    ],
)
@pytest.mark.parametrize("path", ["/token", "/oauth2/v4/token", "/o/oauth2/token"])
async def test_an_assertion_may_be_for_any_of_the_addresses(
    session: ClientSession, fixed: Emulator, key: SigningKey, audience: str | None, path: str
) -> None:
    """Of the token endpoint: Go and Java sign for the key file's `token_uri`; the older paths answer, too."""
    url = fixed.oauth_url.removesuffix("/token") + path
    form = {"grant_type": GRANT, "assertion": assertion(key, aud=audience or url)}
    async with session.post(url, data=form) as answer:
        assert (answer.status, set(await answer.json())) == (200, {"id_token"})


@pytest.mark.parametrize(
    ("kid", "status"), [pytest.param(None, 200, id="none"), pytest.param("x" * 40, 400, id="another's")]
)
async def test_an_assertion_needs_no_key_id(
    session: ClientSession, fixed: Emulator, key: SigningKey, kid: str | None, status: int
) -> None:
    """npm's gtoken, gcloud-aio-auth and Ruby's googleauth send none; a wrong one is a wrong signature."""
    header = {"alg": "RS256", "typ": "JWT"} | ({"kid": kid} if kid else {})
    claims = assertion(key).split(".")[1]
    signed = f"{encode(json.dumps(header).encode())}.{claims}"
    signature = encode(key.sign_bytes(signed.encode()))
    found, body = await grant(session, fixed, f"{signed}.{signature}")
    assert found == status
    if status == 400:
        assert body == {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}


async def test_acting_as_a_user_wants_to_be_allowed(google: Emulator, tmp_path: Path) -> None:
    """Domain-wide delegation, by google-auth: for no account, another scope, or nobody, there is no token."""
    google.oauth.add_user("boss@example.com")
    credentials = service_account.Credentials.from_service_account_file(
        str(google.write_key(tmp_path / "key.json")), scopes=[DRIVE]
    )

    async def ask(subject: str, scope: str = DRIVE) -> str:
        asking = credentials.with_subject(subject).with_scopes([scope])
        await asyncio.to_thread(asking.refresh, Request())
        return str(asking.token)

    with pytest.raises(RefreshError, match="unauthorized_client: Client is unauthorized to retrieve"):
        await ask("boss@example.com")
    google.oauth.delegate([DRIVE])
    token = google.principals.introspect(await ask("boss@example.com"))
    assert token is not None
    assert (token.member, token.scopes) == ("user:boss@example.com", (DRIVE,))
    with pytest.raises(RefreshError, match="unauthorized_client"):
        await ask("boss@example.com", CLOUD_PLATFORM)
    with pytest.raises(RefreshError, match="invalid_grant: Invalid email or User ID"):
        await ask("nobody@example.com")


async def test_a_login_gives_no_more_than_was_consented_to(fixed: Emulator, session: ClientSession) -> None:
    """A refresh may ask for fewer scopes, and for no others."""
    user = fixed.oauth.add_user("me@example.com")
    form = {
        "grant_type": "refresh_token",
        "client_id": user.client_id,
        "client_secret": user.client_secret,
        "refresh_token": user.refresh_token,
    }
    for scope, status in ((CLOUD_PLATFORM, 200), (DRIVE, 400), (f"{CLOUD_PLATFORM} {DRIVE}", 400)):
        async with session.post(fixed.oauth_url, data=form | {"scope": scope}) as answer:
            body = await answer.json()
            assert answer.status == status
        if status == 200:
            assert (body["scope"], "id_token" in body) == (CLOUD_PLATFORM, False)
        else:
            assert body == {"error": "invalid_scope", "error_description": "Bad Request"}


@pytest.mark.parametrize("offset", [pytest.param(300, id="ahead"), pytest.param(-3899, id="behind")])
async def test_a_clock_a_little_off_is_forgiven(
    session: ClientSession, fixed: Emulator, key: SigningKey, offset: int
) -> None:
    """Five minutes either way are allowed."""
    signed = assertion(key, iat=NOW + offset, exp=NOW + offset + 3600)
    assert (await grant(session, fixed, signed))[0] == 200


async def test_the_signature_is_verified(session: ClientSession, fixed: Emulator, key: SigningKey) -> None:
    """An assertion of another key in the account's name is refused, and so is one that was changed."""
    other = assertion(signing_key("other@example.com"))
    good = assertion(key)
    for signed in (other, good[:-8] + "AAAAAAAA"):
        status, body = await grant(session, fixed, signed)
        assert (status, body["error_description"]) == (400, "Invalid JWT Signature.")


async def test_revoked_key_and_deleted_account(
    session: ClientSession, fixed: Emulator, key: SigningKey, tmp_path: Path
) -> None:
    """A revoked key has no valid signature until it is written again; a deleted account isn't found."""
    fixed.oauth.revoke_key()
    assert (await grant(session, fixed, assertion(key)))[1]["error_description"] == "Invalid JWT Signature."
    fixed.write_key(tmp_path / "again.json")
    assert (await grant(session, fixed, assertion(key)))[0] == 200
    fixed.oauth.delete_account()
    _, body = await grant(session, fixed, assertion(key))
    assert body == {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}


@pytest.mark.parametrize(
    ("grant_type", "signed", "error"),
    [
        pytest.param("password", "x", "unsupported_grant_type", id="another-grant"),
        pytest.param(GRANT, "x", "invalid_grant", id="no-jwt"),
        pytest.param(GRANT, "", "invalid_grant", id="no-assertion"),
    ],
)
async def test_what_is_no_grant_is_refused(
    session: ClientSession, fixed: Emulator, key: SigningKey, grant_type: str, signed: str, error: str
) -> None:
    """Another grant, or an assertion that is no JWT, is an OAuth error."""
    status, body = await grant(session, fixed, signed, grant_type)
    assert (status, body["error"]) == (400, error)


@pytest.mark.parametrize(
    ("kind", "shows"),
    [
        pytest.param("wrong_audience", lambda c: c["aud"] == "https://somebody-else.example", id="audience"),
        pytest.param("no_exp", lambda c: "exp" not in c, id="no-exp"),
        pytest.param("expired", lambda c: c["exp"] < NOW, id="expired"),
    ],
)
async def test_faults_of_the_token(
    session: ClientSession, fixed: Emulator, key: SigningKey, kind: Any, shows: Any
) -> None:
    """A fault of the token shows in the token, once where it is for one request."""
    fixed.oauth.endpoint.fail(Fault(kind), times=1)
    _, faulty = await grant(session, fixed, assertion(key))
    _, good = await grant(session, fixed, assertion(key))
    assert shows(read(faulty["id_token"]))
    assert read(good["id_token"])["exp"] == NOW + 3600


async def test_garbage_for_a_token(session: ClientSession, fixed: Emulator, key: SigningKey) -> None:
    """The fault `garbage` answers 200 with something that is no JWT, and with no access token: any text could be one."""
    fixed.oauth.endpoint.fail(Fault("garbage"))
    status, body = await grant(session, fixed, assertion(key))
    assert (status, body["id_token"]) == (200, "not-a-token")
    assert "access_token" not in body
