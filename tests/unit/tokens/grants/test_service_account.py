"""sidecar.tokens.grants.service_account: keys that can be used, and what is said of those that can't."""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.credential_file import FILE_LIMIT, parse, read_text
from sidecar.tokens.fetch.grant import Grant
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.grants.adc import AdcGrant
from sidecar.tokens.grants.service_account import KeyGrant, check_key
from sidecar.tokens.token import TokenKey, read_claims
from tests.support.named_source import NamedSource
from tests.support.raw_endpoint import Behaviour, RawEndpoint, http, jwt

SECRET = "MIIEvQIBADANBgkq-not-for-your-eyes"
KEY: Mapping[str, Any] = {
    "type": "service_account",
    "client_email": "sa@p.iam.gserviceaccount.com",
    "private_key": SECRET,
    "private_key_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in KEY.items() if key != name}


@pytest.mark.parametrize(
    ("info", "says"),
    [
        pytest.param(without("private_key"), "lacks `private_key`", id="no-private-key"),
        pytest.param(without("client_email"), "lacks `client_email`", id="no-email"),
        pytest.param(without("token_uri"), "lacks `token_uri`", id="no-token-uri"),
        pytest.param(
            {"type": "service_account"}, "lacks `client_email`, `private_key`, `token_uri`", id="all"
        ),
        pytest.param({**KEY, "private_key": ""}, "lacks `private_key`", id="empty"),
        pytest.param({**KEY, "private_key": {"x": SECRET}}, "lacks `private_key`", id="not-text"),
        pytest.param({**KEY, "type": "authorized_user"}, "of type authorized_user", id="another-type"),
        pytest.param({**KEY, "type": SECRET}, "of type unknown", id="odd-type"),
        pytest.param({**KEY, "client_email": "sa\r\nX: y@p"}, "not an e-mail address", id="odd-email"),
        pytest.param({**KEY, "token_uri": "http://evil.example/token"}, "not an https URL", id="plain-http"),
        pytest.param({**KEY, "token_uri": "https:///token"}, "not an https URL", id="no-host"),
        pytest.param({**KEY, "token_uri": "http://[::1/token"}, "not an https URL", id="not-a-url"),
        pytest.param({**KEY, "token_uri": "file:///etc/passwd"}, "not an https URL", id="file"),
        pytest.param(
            {**KEY, "token_uri": "http://evil.example\\@localhost/token"}, "not an https URL", id="backslash"
        ),
        pytest.param(
            {**KEY, "token_uri": "https://evil.example\\.googleapis.com/token"},
            "not an https URL",
            id="two-hosts",
        ),
        pytest.param(
            {**KEY, "token_uri": "http://[::ffff:127.0.0.1]/token"}, "not an https URL", id="mapped"
        ),
    ],
)
def test_a_key_that_cannot_be_used(info: Mapping[str, Any], says: str) -> None:
    """CREDENTIAL_INVALID names the place and what is wrong, and shows nothing of the key."""
    with pytest.raises(SidecarError) as caught:
        check_key(info, "/keys/a.json")
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert says in caught.value.detail
    assert "/keys/a.json" in caught.value.detail
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(KEY, id="as-downloaded"),
        pytest.param(without("type"), id="no-type"),
        pytest.param({**KEY, "token_uri": "http://127.0.0.1:9/token"}, id="loopback"),
        pytest.param({**KEY, "token_uri": "http://localhost:9/token"}, id="localhost"),
        pytest.param({**KEY, "token_uri": "http://[::1]:9/token"}, id="loopback-v6"),
    ],
)
def test_a_key_that_can_be_used(info: Mapping[str, Any]) -> None:
    """A key is complete with these fields; its token endpoint is https, or plain http on loopback."""
    check_key(info, "x")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{" + SECRET, id="not-json"),
        pytest.param(f'["{SECRET}"]', id="not-an-object"),
        pytest.param("[" * 100_000, id="too-deep"),
    ],
)
def test_text_that_is_not_a_credential(text: str) -> None:
    """What is not a JSON object is named by its place, with nothing of its contents, not even in the
    context."""
    with pytest.raises(
        SidecarError, match=r"/keys/a\.json cannot be used: it is not a JSON object"
    ) as caught:
        parse(text, "/keys/a.json")
    assert caught.value.__context__ is None
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a directory, a binary file and one that is too large are told apart, each with its path."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    large = tmp_path / "large"
    large.write_text(" " * (FILE_LIMIT + 10))
    missing = tmp_path / "missing.json"
    with pytest.raises(SidecarError, match=f"credential_not_found: There is no file {missing}"):
        read_text(str(missing))
    with pytest.raises(
        SidecarError, match=f"credential_invalid: .*{tmp_path} cannot be used: is a directory"
    ):
        read_text(str(tmp_path))
    with pytest.raises(SidecarError, match=f"{binary} cannot be used: it is not text"):
        read_text(str(binary))
    with pytest.raises(SidecarError, match=f"{large} cannot be used: it is larger than {FILE_LIMIT} bytes"):
        read_text(str(large))


def test_a_grant_says_where_its_key_is_and_not_what() -> None:
    """The description names the place only."""
    grant = KeyGrant(lambda: json.dumps(dict(KEY)), "/keys/a.json")
    assert grant.describe() == "service account key in /keys/a.json"
    assert SECRET not in grant.describe() + repr(grant)


AUDIENCE = "https://svc-abc-uc.a.run.app"
RESPONSE_SECRET = "eyJzZWNyZXQiOiAxfQ"


@pytest.fixture(scope="module")
def private_key() -> str:
    """A real key: google-auth signs with it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def source(grant: Grant) -> GoogleSource:
    return GoogleSource(
        "test", grant, SystemClock(asyncio.get_running_loop()), FetchThreads("default"), seconds=60
    )


def usable(raw: RawEndpoint, private_key: str, **changes: str) -> str:
    """A key whose token endpoint is `raw`, as JSON."""
    info = {**KEY, "private_key": private_key, "token_uri": f"http://{raw.origin}/token", **changes}
    return json.dumps(info)


def granted(value: str) -> Behaviour:
    return http(200, json.dumps({"id_token": value}).encode(), content_type="application/json")


def claims(request: str) -> dict[str, Any]:
    """The claims of the assertion in a recorded request."""
    (assertion,) = parse_qs(request.partition("\r\n\r\n")[2])["assertion"]
    payload = assertion.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return found


async def test_a_token_for_a_key(raw: RawEndpoint, private_key: str) -> None:
    """One POST of a signed assertion to the key's own token_uri brings the token."""
    value = jwt(AUDIENCE, issued=0, expires=3600)
    raw.behaviour = granted(value)
    grant = KeyGrant(lambda: usable(raw, private_key), "x")
    token = await source(grant).mint(TokenKey(NamedSource("default"), AUDIENCE))
    assert token.bearer == b"Bearer " + value.encode()
    (request,) = raw.requests
    assert request.startswith("POST /token HTTP/1.1\r\n")
    assert "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer" in request
    sent = claims(request)
    assert (sent["iss"], sent["target_audience"]) == (KEY["client_email"], AUDIENCE)
    assert sent["aud"] == "https://oauth2.googleapis.com/token"


async def test_an_access_token_for_a_key(raw: RawEndpoint, private_key: str) -> None:
    """The assertion asks for the scopes; what comes is sent for as long as the answer says."""
    body = json.dumps({"access_token": "ya29.x", "expires_in": 3599, "token_type": "Bearer"}).encode()
    raw.behaviour = http(200, body, content_type="application/json")
    key = TokenKey(NamedSource("default"), "scope-a scope-b", TokenKind.ACCESS)
    token = await source(KeyGrant(lambda: usable(raw, private_key), "x")).mint(key)
    assert token.bearer == b"Bearer ya29.x"
    assert token.expires_at - token.issued_at == 3599
    assert claims(raw.requests[0])["scope"] == "scope-a scope-b"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param({"access_token": RESPONSE_SECRET}, Reason.TOKEN_NO_EXPIRY, id="no-expiry"),
        pytest.param(
            {"access_token": RESPONSE_SECRET, "expires_in": True}, Reason.TOKEN_INVALID, id="odd-expiry"
        ),
        pytest.param({"access_token": "", "expires_in": 9}, Reason.TOKEN_MALFORMED, id="empty"),
        pytest.param({"access_token": "a\r\nX: y", "expires_in": 9}, Reason.TOKEN_MALFORMED, id="line-break"),
        pytest.param({"access_token": "a" * 40_000, "expires_in": 9}, Reason.TOKEN_MALFORMED, id="too-long"),
        pytest.param([RESPONSE_SECRET], Reason.TOKEN_MALFORMED, id="not-an-object"),
    ],
)
async def test_an_access_token_that_cannot_be_used(
    raw: RawEndpoint, private_key: str, body: object, reason: Reason
) -> None:
    """One that nothing says the end of, or that would break a header, is never sent."""
    raw.behaviour = http(200, json.dumps(body).encode(), content_type="application/json")
    with pytest.raises(SidecarError) as caught:
        await source(KeyGrant(lambda: usable(raw, private_key), "x")).mint(
            TokenKey(NamedSource("default"), "scope", TokenKind.ACCESS)
        )
    assert caught.value.reason is reason
    assert RESPONSE_SECRET not in str(caught.value)


async def test_a_self_signed_jwt_makes_no_network_calls(raw: RawEndpoint, private_key: str) -> None:
    """The key signs for the audience, for an hour; an audience is not a scope."""
    it = source(KeyGrant(lambda: usable(raw, private_key), "x"))
    token = await it.mint(TokenKey(NamedSource("default"), AUDIENCE, TokenKind.SELF_SIGNED_JWT))
    found = read_claims(token.bearer.decode().split()[1]) or {}
    assert (found["iss"], found["sub"], found["aud"]) == (KEY["client_email"], KEY["client_email"], AUDIENCE)
    assert found["exp"] - found["iat"] == 3600
    assert "scope" not in found
    assert raw.requests == []


async def test_a_self_signed_jwt_needs_a_key_that_signs(raw: RawEndpoint) -> None:
    """A private key that is none is named by its place, and never shown."""
    it = source(KeyGrant(lambda: usable(raw, SECRET), "/keys/a.json"))
    with pytest.raises(SidecarError, match="not an RSA key in PEM form") as caught:
        await it.mint(TokenKey(NamedSource("default"), AUDIENCE, TokenKind.SELF_SIGNED_JWT))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_whose_key_it_is() -> None:
    """Known without asking: nobody may impersonate itself."""
    assert KeyGrant(lambda: json.dumps(dict(KEY)), "x").known_email() == KEY["client_email"]


async def test_a_changed_file_counts_from_the_next_fetch_on(
    raw: RawEndpoint, private_key: str, tmp_path: Path
) -> None:
    """A key that is replaced, broken or repaired is used, named or used by the next fetch."""
    raw.behaviour = granted(jwt(AUDIENCE, issued=0, expires=3600))
    file = tmp_path / "key.json"
    file.write_text(usable(raw, private_key))
    it = source(KeyGrant(lambda: read_text(str(file)), str(file)))
    await it.mint(TokenKey(NamedSource("default"), AUDIENCE))
    file.write_text("{")
    with pytest.raises(SidecarError, match="credential_invalid"):
        await it.mint(TokenKey(NamedSource("default"), AUDIENCE))
    file.write_text(usable(raw, private_key, client_email="new@p.iam.gserviceaccount.com"))
    await it.mint(TokenKey(NamedSource("default"), AUDIENCE))
    assert [claims(request)["iss"] for request in raw.requests] == [
        "sa@p.iam.gserviceaccount.com",
        "new@p.iam.gserviceaccount.com",
    ]


async def test_adc_uses_a_key_that_it_finds(raw: RawEndpoint, private_key: str, tmp_path: Path) -> None:
    """Application Default Credentials that are a service account key are used as one."""
    value = jwt(AUDIENCE, issued=0, expires=3600)
    raw.behaviour = granted(value)
    file = tmp_path / "key.json"
    file.write_text(usable(raw, private_key))
    token = await source(AdcGrant({"GOOGLE_APPLICATION_CREDENTIALS": str(file)})).mint(
        TokenKey(NamedSource("default"), AUDIENCE)
    )
    assert token.bearer == b"Bearer " + value.encode()


@pytest.mark.parametrize(
    ("behaviour", "reason", "says"),
    [
        pytest.param(
            http(
                400,
                json.dumps(
                    {
                        "error": "invalid_grant",
                        "error_description": f"Invalid JWT Signature. {RESPONSE_SECRET}",
                    }
                ).encode(),
                content_type="application/json",
            ),
            Reason.TOKEN_DENIED,
            "The key of service account sa@p.iam.gserviceaccount.com was deleted",
            id="key-deleted",
        ),
        pytest.param(
            http(
                400,
                b'{"error": "invalid_grant", "error_description": "Invalid JWT: Token must be a short-lived token '
                b'(60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."}',
            ),
            Reason.CLOCK_OFF,
            "clock is off",
            id="clock",
        ),
        pytest.param(
            http(200, f"<html>{RESPONSE_SECRET}".encode()), Reason.TOKEN_MALFORMED, "text/html", id="html"
        ),
        pytest.param(
            http(200, json.dumps({"access_token": RESPONSE_SECRET}).encode()),
            Reason.TOKEN_MALFORMED,
            "not with a token",
            id="another-token",
        ),
        pytest.param(granted(RESPONSE_SECRET), Reason.TOKEN_MALFORMED, "not with a token", id="not-a-jwt"),
        pytest.param(
            http(200, b'["id_token"]'), Reason.TOKEN_MALFORMED, "not with a token", id="not-an-object"
        ),
        pytest.param(
            http(200, b'{"id_token": 7}'), Reason.TOKEN_MALFORMED, "not with a token", id="not-text"
        ),
        pytest.param(granted(jwt(AUDIENCE, issued=0)), Reason.TOKEN_NO_EXPIRY, "no `exp`", id="no-exp"),
        pytest.param(
            granted(jwt("https://other", issued=0, expires=9)),
            Reason.TOKEN_WRONG_AUDIENCE,
            "other",
            id="audience",
        ),
        pytest.param(
            granted(jwt(AUDIENCE, issued=-3700, expires=-100)),
            Reason.TOKEN_EXPIRED,
            "expired ",
            id="expired",
        ),
        pytest.param(http(500), Reason.TOKEN_ENDPOINT_FAILED, "answered 500", id="500"),
        pytest.param(http(502), Reason.TOKEN_ENDPOINT_FAILED, "answered 502", id="502"),
        pytest.param(http(503), Reason.TOKEN_ENDPOINT_FAILED, "answered 503", id="503"),
        pytest.param(http(404), Reason.TOKEN_ENDPOINT_FAILED, "`token_uri`", id="404"),
        pytest.param(
            http(429, headers={"Retry-After": "3"}), Reason.TOKEN_RATE_LIMITED, "answered 429", id="429"
        ),
    ],
)
async def test_faults(
    raw: RawEndpoint, private_key: str, behaviour: Behaviour, reason: Reason, says: str
) -> None:
    """Every fault ends the fetch after one request, with its reason, and without the assertion or the
    answer."""
    raw.behaviour = behaviour
    it = source(KeyGrant(lambda: usable(raw, private_key), "x"))
    with pytest.raises(SidecarError) as caught:
        await asyncio.wait_for(it.mint(TokenKey(NamedSource("default"), AUDIENCE)), 60)
    assert caught.value.reason is reason
    assert says in caught.value.detail
    assert len(raw.requests) == 1
    assert RESPONSE_SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(lambda pem: pem.replace("\n", "\\n"), "`\\n` as two characters", id="escaped-twice"),
        pytest.param(
            lambda pem: pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "is encrypted", id="encrypted"
        ),
        pytest.param(lambda pem: pem[200:], "is not an RSA key in PEM form", id="half"),
    ],
)
async def test_a_private_key_that_was_spoilt_on_its_way(
    private_key: str, spoil: Callable[[str], str], says: str
) -> None:
    """Says what has happened to it; nobody is asked."""
    info = {**KEY, "private_key": spoil(private_key)}
    with pytest.raises(SidecarError) as caught:
        await source(KeyGrant(lambda: json.dumps(info), "x")).mint(TokenKey(NamedSource("default"), AUDIENCE))
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert says in caught.value.detail
    assert not any(word in caught.value.detail for word in private_key.split("\n")[1:-2])
