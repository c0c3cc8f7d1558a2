"""sidecar.emulator.iam: who may act as whom, what is handed out, and Google's own words for a refusal"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientSession
from google.auth import compute_engine
from google.auth.transport.requests import Request

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.iam import SERVICE, api_disabled, quota_exhausted, quota_project_denied
from sidecar.emulator.keys import BadTokenError, read, signing_key
from sidecar.emulator.scopes import CLOUD_PLATFORM

CALLER = "caller@p.iam.gserviceaccount.com"
HOP = "hop@p.iam.gserviceaccount.com"
TARGET = "target@p.iam.gserviceaccount.com"
AUDIENCE = "https://svc-abc-uc.a.run.app"
CREATOR = "roles/iam.serviceAccountTokenCreator"
ID_CREATOR = "roles/iam.serviceAccountOpenIdTokenCreator"


@pytest.fixture
def directory(google: Emulator) -> Emulator:
    """Caller, hop and target, and nobody may do anything."""
    for email in (CALLER, HOP, TARGET):
        google.principals.add(email)
    return google


async def call(
    session: ClientSession,
    google: Emulator,
    method: str,
    body: Any,
    *,
    member: str = f"serviceAccount:{CALLER}",
    scopes: tuple[str, ...] = (CLOUD_PLATFORM,),
    email: str = TARGET,
    bearer: str | None = None,
) -> tuple[int, dict[str, Any]]:
    """One call with a token of `member`'s: status and JSON."""
    value = google.principals.issue(member, scopes, lifetime=60).value if bearer is None else bearer
    url = f"{google.iam_url}/v1/projects/-/serviceAccounts/{email}:{method}"
    data = body if isinstance(body, str) else json.dumps(body)
    headers = {"Authorization": f"Bearer {value}"} if value else {}
    async with session.post(url, data=data, headers=headers) as answer:
        return answer.status, await answer.json()


BODIES: dict[str, dict[str, Any]] = {
    "generateIdToken": {"audience": AUDIENCE, "includeEmail": True},
    "generateAccessToken": {"scope": [CLOUD_PLATFORM], "lifetime": "600s"},
    "signJwt": {"payload": "{}"},
    "signBlob": {"payload": "YWJj"},
}


@pytest.mark.parametrize(
    ("role", "allowed"), [(ID_CREATOR, {"generateIdToken"}), (CREATOR, set(BODIES)), ("", set())]
)
@pytest.mark.parametrize("method", BODIES)
async def test_a_role_on_the_target_is_what_it_takes(
    session: ClientSession, directory: Emulator, method: str, role: str, allowed: set[str]
) -> None:
    """The right one for the call; a refusal names the permission, as Google does."""
    if role:
        directory.principals.grant(f"serviceAccount:{CALLER}", role, on=TARGET)
    status, body = await call(session, directory, method, BODIES[method])
    assert status == (200 if method in allowed else 403)
    if status == 403:
        (info,) = body["error"]["details"]
        assert body["error"]["status"] == "PERMISSION_DENIED"
        assert info["reason"] == "IAM_PERMISSION_DENIED"
        assert "denied on resource (or it may not exist)." in body["error"]["message"]
        assert not directory.iam.asked
    else:
        assert directory.iam.asked[-1][:3] == (method, TARGET, f"serviceAccount:{CALLER}")


async def test_an_id_token_has_its_email_on_request(session: ClientSession, directory: Emulator) -> None:
    """And is Google's own, for the audience."""
    directory.principals.grant(f"serviceAccount:{CALLER}", ID_CREATOR, on=TARGET)
    _, with_email = await call(
        session, directory, "generateIdToken", {"audience": AUDIENCE, "includeEmail": True}
    )
    _, without = await call(
        session, directory, "generateIdToken", {"audience": AUDIENCE, "useEmailAzp": True}
    )
    claims = signing_key("google").verify(with_email["token"])
    assert (claims["aud"], claims["email"], claims["email_verified"]) == (AUDIENCE, TARGET, True)
    assert "email" not in read(without["token"])
    assert read(without["token"])["azp"] == TARGET


async def test_switches_may_be_text(session: ClientSession, directory: Emulator) -> None:
    """google-auth's call outside of googleapis.com writes `"true"` (google/oauth2/_client.py), and is answered alike."""
    directory.principals.grant(f"serviceAccount:{CALLER}", ID_CREATOR, on=TARGET)
    body = {"audience": AUDIENCE, "includeEmail": "true", "useEmailAzp": "true"}
    claims = read((await call(session, directory, "generateIdToken", body))[1]["token"])
    assert (claims["email"], claims["azp"]) == (TARGET, TARGET)


async def test_an_access_token_is_the_targets(session: ClientSession, directory: Emulator) -> None:
    """With the scopes and the life that were asked for."""
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    _, body = await call(
        session, directory, "generateAccessToken", {"scope": ["openid", "email"], "lifetime": "10s"}
    )
    token = directory.principals.introspect(body["accessToken"])
    assert token is not None
    assert (token.member, token.scopes) == (f"serviceAccount:{TARGET}", ("openid", "email"))
    assert body["expireTime"].endswith("Z")
    assert "." not in body["expireTime"]


async def test_a_signed_jwt_verifies_against_the_accounts_own_key(
    session: ClientSession, directory: Emulator
) -> None:
    """Which is served next to it; Google's key does not verify it."""
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    _, body = await call(
        session, directory, "signJwt", {"payload": json.dumps({"iss": TARGET, "aud": AUDIENCE})}
    )
    assert signing_key(TARGET).verify(body["signedJwt"]) == {"iss": TARGET, "aud": AUDIENCE}
    with pytest.raises(BadTokenError):
        signing_key("google").verify(body["signedJwt"])
    async with session.get(f"{directory.iam_url}/service_accounts/v1/jwk/{TARGET}") as answer:
        assert [key["kid"] for key in (await answer.json())["keys"]] == [body["keyId"]]


@pytest.mark.parametrize(
    ("grants", "status"),
    [
        pytest.param([(CALLER, CREATOR, HOP), (HOP, CREATOR, TARGET)], 200, id="whole-chain"),
        pytest.param([(CALLER, CREATOR, HOP)], 403, id="last-link-missing"),
        pytest.param([(HOP, CREATOR, TARGET)], 403, id="first-link-missing"),
        pytest.param([(CALLER, ID_CREATOR, HOP), (HOP, CREATOR, TARGET)], 403, id="first-link-too-weak"),
        pytest.param([(CALLER, CREATOR, TARGET)], 403, id="not-round-the-delegate"),
    ],
)
async def test_delegates_are_a_chain(
    session: ClientSession, directory: Emulator, grants: list[tuple[str, str, str]], status: int
) -> None:
    """Each may act as the next."""
    for member, role, on in grants:
        directory.principals.grant(f"serviceAccount:{member}", role, on=on)
    body = BODIES["generateIdToken"] | {"delegates": [f"projects/-/serviceAccounts/{HOP}"]}
    assert (await call(session, directory, "generateIdToken", body))[0] == status


async def test_all_of_a_pool_may_be_granted_a_role(session: ClientSession, directory: Emulator) -> None:
    """A principalSet stands for each of its subjects, and for no other pool's."""
    pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools"
    directory.principals.grant(f"principalSet:{pool}/a/*", "roles/iam.workloadIdentityUser", on=TARGET)
    for name, expected in (("a", 200), ("b", 403)):
        member = f"principal:{pool}/{name}/subject/x"
        found = await call(session, directory, "generateIdToken", BODIES["generateIdToken"], member=member)
        assert found[0] == expected


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("generateIdToken", {}),
        ("generateIdToken", "{"),
        ("generateIdToken", {"audience": AUDIENCE, "delegates": "x"}),
        ("generateAccessToken", {"scope": []}),
        ("generateAccessToken", {"scope": ["email"], "lifetime": "3601s"}),
        ("generateAccessToken", {"scope": ["email"], "lifetime": "soon"}),
        ("signJwt", {"payload": "[]"}),
        ("signJwt", {"payload": '{"exp": 9999999999999}'}),
        ("generateAccessToken", {"scope": ["https://www.googleapis.com/auth/cloud-platfrom"]}),
        ("generateAccessToken", {"scope": ["https://svc-abc-uc.a.run.app"]}),
        ("signBlob", {"payload": "x"}),
        ("signBlob", {}),
    ],
)
async def test_what_makes_no_sense_is_an_invalid_argument(
    session: ClientSession, directory: Emulator, method: str, body: Any
) -> None:
    """Before anything is handed out."""
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    status, answer = await call(session, directory, method, body)
    assert status == 400
    assert answer["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("lifetime", "status", "says"),
    [
        ("1s", 200, ""),
        ("0s", 400, "Lifetime of access token must be larger then zero."),
        ("3600s", 200, ""),
        ("3601s", 400, "can not have lifetimes of more than 1 hour. Use the Org Policy Constraint"),
    ],
)
async def test_how_long_an_access_token_may_live(
    session: ClientSession, directory: Emulator, lifetime: str, status: int, says: str
) -> None:
    """As it was measured; the words are Google's."""
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    body = {"scope": [CLOUD_PLATFORM], "lifetime": lifetime}
    found, answer = await call(session, directory, "generateAccessToken", body)
    assert found == status
    if says:
        assert answer["error"]["message"].startswith(says)


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("generateIdToken", "include_e_mail"),
        ("generateIdToken", "audiences"),
        ("generateAccessToken", "audience"),
        ("signJwt", "bytesToSign"),
    ],
)
async def test_a_field_that_the_method_does_not_have_is_refused(
    session: ClientSession, directory: Emulator, method: str, field: str
) -> None:
    """https://github.com/googleapis/google-auth-library-php/pull/580: an audience for an access token. A field that it
    has may be written with underscores."""
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    status, answer = await call(session, directory, method, {**BODIES[method], field: "x"})
    said = f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.'
    assert (status, answer["error"]["status"], answer["error"]["message"]) == (400, "INVALID_ARGUMENT", said)
    assert answer["error"]["details"][0]["fieldViolations"] == [{"description": said}]
    assert (await call(session, directory, method, BODIES[method]))[0] == 200
    body = {"audience": AUDIENCE, "include_email": True}
    assert (await call(session, directory, "generateIdToken", body))[0] == 200


async def test_a_method_that_there_is_not_has_googles_page(
    session: ClientSession, directory: Emulator
) -> None:
    """Its address is none of the API's."""
    path = f"/v1/projects/-/serviceAccounts/{TARGET}:signRock"
    token = directory.principals.issue(f"serviceAccount:{CALLER}", [CLOUD_PLATFORM], lifetime=60).value
    async with session.post(
        directory.iam_url + path, json={"payload": "x"}, headers={"Authorization": f"Bearer {token}"}
    ) as answer:
        assert (answer.status, answer.headers["Server"]) == (404, "ESF")
        assert f"The requested URL <code>{path}</code> was not found" in await answer.text()


async def test_an_account_that_there_is_not_is_not_found(session: ClientSession, directory: Emulator) -> None:
    """By the name that was sent; so is a delegate."""
    nobody = "typo@p.iam.gserviceaccount.com"
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    said = {"code": 404, "message": f"Not found; Gaia id not found for email {nobody}", "status": "NOT_FOUND"}
    for method, body in BODIES.items():
        assert await call(session, directory, method, body, email=nobody) == (404, {"error": said})
        hop = {"delegates": [f"projects/-/serviceAccounts/{nobody}"]}
        assert await call(session, directory, method, body | hop) == (404, {"error": said})


@pytest.mark.parametrize(
    ("fault", "reason", "metadata"),
    [
        (api_disabled("1"), "SERVICE_DISABLED", {"consumer": "projects/1", "service": SERVICE}),
        (quota_exhausted(), "RATE_LIMIT_EXCEEDED", {"service": SERVICE}),
        (quota_project_denied(), "USER_PROJECT_DENIED", {"service": SERVICE}),
    ],
)
async def test_what_the_infrastructure_refuses_has_its_domain(
    session: ClientSession, directory: Emulator, fault: Fault, reason: str, metadata: dict[str, str]
) -> None:
    """AIP-193: reason and domain say who speaks, the metadata of what; only permissions are IAM's own."""
    directory.iam.endpoint.fail(fault)
    _, body = await call(session, directory, "generateIdToken", BODIES["generateIdToken"])
    (info,) = body["error"]["details"]
    assert (info["reason"], info["domain"]) == (reason, "googleapis.com")
    assert metadata.items() <= info["metadata"].items()


async def test_google_auths_older_way_to_an_id_token_signs_a_blob(google: Emulator) -> None:
    """Its default on Compute Engine: an assertion that IAM signs, which names no key, for the older token address."""
    email = str(google.metadata.email)
    google.principals.add(email)
    google.principals.grant(f"serviceAccount:{email}", CREATOR, on=email)

    def ask() -> str:
        send = Request()

        def elsewhere(url: str, *args: Any, **kwargs: Any) -> Any:
            url = url.replace(f"https://{SERVICE}", google.iam_url)
            url = url.replace("https://www.googleapis.com", google.oauth_url.removesuffix("/token"))
            return send(url, *args, **kwargs)

        credentials = compute_engine.IDTokenCredentials(
            elsewhere, AUDIENCE, service_account_email=email, use_metadata_identity_endpoint=False
        )
        with pytest.MonkeyPatch.context() as patch:
            metadata = "google.auth.compute_engine._metadata"
            patch.setattr(f"{metadata}._GCE_METADATA_HOST", google.metadata_address)
            credentials.refresh(elsewhere)
        return str(credentials.token)

    claims = signing_key("google").verify(await asyncio.to_thread(ask))
    assert (claims["aud"], claims["email"]) == (AUDIENCE, email)
    assert google.iam.asked[-1].method == "signBlob"


async def test_who_calls_needs_a_token_with_the_scope(session: ClientSession, directory: Emulator) -> None:
    """401 for none or an unknown one; 403 with its reason for too narrow a scope."""
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    for bearer in ("", "ya29.unknown"):
        status, body = await call(
            session, directory, "generateIdToken", BODIES["generateIdToken"], bearer=bearer
        )
        assert (status, body["error"]["status"]) == (401, "UNAUTHENTICATED")
    status, body = await call(
        session, directory, "generateIdToken", BODIES["generateIdToken"], scopes=("email",)
    )
    assert (status, body["error"]["details"][0]["reason"]) == (403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        (api_disabled(), 403, "SERVICE_DISABLED"),
        (quota_exhausted(), 429, "RESOURCE_EXHAUSTED"),
        (quota_project_denied(), 403, "serviceusage.services.use"),
        (Fault("garbage"), 200, "nothing"),
    ],
)
async def test_faults_that_can_be_switched_on(
    session: ClientSession, directory: Emulator, fault: Fault, status: int, says: str
) -> None:
    """In the words of the real one."""
    directory.principals.grant(f"serviceAccount:{CALLER}", CREATOR, on=TARGET)
    directory.iam.endpoint.fail(fault)
    found, body = await call(session, directory, "generateIdToken", BODIES["generateIdToken"])
    assert found == status
    assert says in json.dumps(body)
