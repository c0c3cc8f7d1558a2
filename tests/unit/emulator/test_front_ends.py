"""The front ends of every kind of target: which token each lets in, and the answers of the real ones"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientSession
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2 import id_token
from multidict import CIMultiDict

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import decode, encode, read, signing_key
from sidecar.emulator.kinds import GCLOUD_CLIENTS, Settings, TargetKind
from sidecar.emulator.targets import Target
from tests.support.clock import FakeClock
from tests.support.google import signed

NOW = 1_800_000_000
SA = "robot@emulated-project.iam.gserviceaccount.com"
IAP_CLIENT = "1-a.apps.googleusercontent.com"
AUDIENCE = "/projects/123456789012/locations/us-central1/services/reports"
SCOPE = "https://www.googleapis.com/auth/"
CLOUD_PLATFORM = f"{SCOPE}cloud-platform"
NOT_HERE = "Audience specified does not match requested endpoint"


class Answer(NamedTuple):
    status: int
    headers: Any
    text: str
    body: Any


@pytest.fixture
async def google() -> Any:
    """A stand-in whose clock stands still, with one service account."""
    async with Emulator(now=FakeClock(wall=NOW).wall) as emulator:
        emulator.principals.add(SA)
        yield emulator


async def call(session: ClientSession, target: Target, *headers: tuple[str, str], path: str = "/x") -> Answer:
    async with session.get(target.url + path, headers=CIMultiDict(headers), allow_redirects=False) as answer:
        text = await answer.text()
        body = await answer.json() if answer.content_type == "application/json" else None
        return Answer(answer.status, answer.headers, text, body)


def bearer(token: str, header: str = "Authorization") -> tuple[str, str]:
    return header, f"Bearer {token}"


def self_signed(audience: str | None, *, email: str = SA, key: str = SA, **claims: Any) -> str:
    """A JWT that a service account signed for itself; a claim given as None is left out."""
    whole = {"iss": email, "sub": email, "aud": audience, "iat": NOW, "exp": NOW + 3600, **claims}
    return signing_key(key).sign({name: value for name, value in whole.items() if value is not None})


def unnamed(token: str) -> str:
    """The same JWT without the key's id."""
    claims = token.split(".")[1]
    signed = f"{encode(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{claims}"
    return f"{signed}.{encode(signing_key(SA).sign_bytes(signed.encode()))}"


# What a front end lets nobody do


@pytest.mark.parametrize(
    ("kind", "status", "page"),
    [
        pytest.param("cloud_run", 400, "<h1>Error: Bad Request</h1>", id="cloud-run"),
        pytest.param("cloud_functions", 400, "<h1>Error: Bad Request</h1>", id="function"),
        pytest.param("iap", 400, "<h1>Error: Bad Request</h1>", id="iap"),
        pytest.param("googleapis", 400, "<b>400.</b> <ins>That’s an error.</ins>", id="api"),
        pytest.param("open", 200, "", id="no-front-end"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_get_has_no_body(
    google: Emulator, session: ClientSession, kind: TargetKind, status: int, page: str, method: str
) -> None:
    """https://github.com/meilisearch/meilisearch-python/issues/762 (a load balancer, `body_not_allowed`),
    https://github.com/firebase/firebase-functions/issues/1417; with the robot
    https://github.com/nodevault/node-vault/pull/101."""
    target = await google.add_target("t", kind=kind)
    token = signed(NOW, aud=target.audience)
    for body, wanted in ((b"{}", status), (b"", 401 if kind == "googleapis" else 200)):
        async with session.request(
            method, target.url, data=body, headers={"Authorization": f"Bearer {token}"}
        ) as answer:
            assert answer.status == wanted
            if body and method == "GET":
                assert page in await answer.text()


@pytest.mark.parametrize(
    ("kind", "options", "is_kept"),
    [
        pytest.param("cloud_run", {}, True, id="cloud-run"),
        pytest.param("iap", {}, True, id="iap-on-cloud-run"),
        pytest.param("iap", {"assertion_audience": "/projects/1/global/backendServices/2"}, False, id="iap"),
        pytest.param("endpoints", {}, False, id="endpoints"),
        pytest.param("open", {}, False, id="open"),
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/eventlog", "/_ah/warmup"])
async def test_google_keeps_some_paths_of_cloud_run_to_itself(
    google: Emulator,
    session: ClientSession,
    kind: TargetKind,
    options: dict[str, str],
    is_kept: bool,
    path: str,
) -> None:
    """https://cloud.google.com/run/docs/known-issues; tried, with a good token and with none, in
    https://github.com/Multitec-UA/mt-private-portal/blob/main/docs/multitec/reports/0001-iap-probe.md (3b)."""
    target = await google.add_target("t", kind=kind, **options)
    token = bearer(signed(NOW, aud=target.audience))
    answer = await call(session, target, token, path=path)
    assert answer.status == (404 if is_kept else 200)
    if is_kept:
        assert f"The requested URL <code>{path}</code> was not found on this server." in answer.text
        assert (await call(session, target, path=path)).status == 404
    assert (await call(session, target, token, path=f"{path}/x".replace("/_ah", "/ah"))).status == 200


# How a front end finds the service


@pytest.mark.parametrize(
    "kind", ["cloud_run", "cloud_functions", "iap", "api_gateway", "endpoints", "googleapis"]
)
async def test_a_service_is_found_by_its_host(
    google: Emulator, session: ClientSession, kind: TargetKind
) -> None:
    """Another Host is 404 with Google's page, however good the token; the port counts; `hosts` adds to it."""
    target = await google.add_target("t", kind=kind)
    if kind == "googleapis":
        token = google.principals.issue(f"serviceAccount:{SA}", [CLOUD_PLATFORM], lifetime=60).value
    else:
        token = signed(NOW, aud=target.audience)
    for host, status in (
        (f"127.0.0.1:{target.port}", 200),
        (f"LOCALHOST:{target.port}", 200),
        (f"t.localhost:{target.port}", 200),
        ("billing.internal", 404),
        (f"billing.internal:{target.port}", 404),
        ("localhost", 404),
        ("localhost:8787", 404),
    ):
        answer = await call(session, target, ("Host", host), bearer(token))
        assert (host, answer.status) == (host, status)
        if status == 404:
            assert "<title>Error 404 (Not Found)!!1</title>" in answer.text
            assert target.requests[-1].refused == 404
    target.settings.hosts = ["billing.internal"]
    assert (await call(session, target, ("Host", "billing.internal"), bearer(token))).status == 200


async def test_what_listens_everywhere_is_called_by_any_name(session: ClientSession) -> None:
    """Nobody can know the names that other machines have for it."""
    async with Emulator(host="0.0.0.0", now=FakeClock(wall=NOW).wall) as emulator:
        target = await emulator.add_target("t")
        url = f"http://127.0.0.1:{target.port}/"
        headers = {"Host": f"google:{target.port}", "Authorization": f"Bearer {signed(NOW, aud=target.url)}"}
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 200


# Cloud Run and functions


@pytest.mark.parametrize("client", sorted(GCLOUD_CLIENTS))
@pytest.mark.parametrize(
    ("kind", "accepted"), [("cloud_run", True), ("cloud_functions", True), ("iap", False)]
)
async def test_a_persons_token(
    google: Emulator, session: ClientSession, kind: TargetKind, accepted: bool, client: str
) -> None:
    """Is for gcloud's client id, which Cloud Run and functions take, and IAP does not."""
    target = await google.add_target("t", kind=kind)
    status = (await call(session, target, bearer(signed(NOW, aud=client)))).status
    assert (status == 200) is accepted
    if accepted:
        target.settings.user_tokens = False
        assert (await call(session, target, bearer(signed(NOW, aud=client)))).status == 401


async def test_custom_audiences_are_exact(google: Emulator, session: ClientSession) -> None:
    """Without the leeway of a slash that the service's own URL has."""
    target = await google.add_target("t", custom_audiences=["https://api.example"])
    assert (await call(session, target, bearer(signed(NOW, aud="https://api.example")))).status == 200
    assert (await call(session, target, bearer(signed(NOW, aud="https://api.example/")))).status == 401


async def test_a_service_that_is_hidden_is_not_found(google: Emulator, session: ClientSession) -> None:
    """By Google's page, whatever the token."""
    target = await google.add_target("t", ingress="internal")
    answer = await call(session, target, bearer(signed(NOW, aud=target.url)))
    assert answer.status == 404
    assert "was not found on this server" in answer.text


async def test_a_traffic_tag_is_the_same_service(google: Emulator, session: ClientSession) -> None:
    """With the service's own audience; a tag that there is not is not found."""
    target = await google.add_target("t", tags=["canary"])
    for tag, status in (("canary", 200), ("other", 404)):
        host = ("Host", f"{tag}---t.localhost:{target.port}")
        assert (await call(session, target, host, bearer(signed(NOW, aud=target.url)))).status == status


@pytest.mark.parametrize(("generation", "bare"), [(1, 401), (2, 200)])
async def test_a_functions_audience_has_its_name(
    google: Emulator, session: ClientSession, generation: int, bare: int
) -> None:
    """The first generation takes nothing else."""
    target = await google.add_target("hello", kind="cloud_functions", generation=generation)
    assert target.audience == f"{target.url}/hello"
    assert (await call(session, target, bearer(signed(NOW, aud=target.audience)))).status == 200
    assert (await call(session, target, bearer(signed(NOW, aud=target.url)))).status == bare


# Identity-Aware Proxy


@pytest.mark.parametrize(
    ("token", "status", "says"),
    [
        pytest.param(lambda url: signed(NOW, aud=IAP_CLIENT), 200, "", id="id-token"),
        pytest.param(lambda url: self_signed(f"{url}/*"), 200, "", id="self-signed-for-all-paths"),
        pytest.param(lambda url: self_signed(f"{url}/x"), 200, "", id="self-signed-for-this-path"),
        pytest.param(lambda url: self_signed(f"{url}/y"), 401, NOT_HERE, id="for-another-path"),
        pytest.param(lambda url: self_signed(url), 401, NOT_HERE, id="for-the-origin"),
        pytest.param(lambda url: self_signed(f"{url}/*", key="other"), 401, "signature", id="another-key"),
        pytest.param(lambda url: self_signed(f"{url}/*", sub="x"), 401, "isn't the issuer", id="for-another"),
        pytest.param(lambda url: self_signed(f"{url}/*", exp=NOW + 3601), 401, "over an hour", id="too-long"),
        pytest.param(
            lambda url: signed(NOW, aud="https://x"), 401, "Invalid JWT audience", id="wrong-audience"
        ),
        pytest.param(
            lambda url: signed(NOW, aud=IAP_CLIENT, email=None), 401, "'email' claim", id="no-email"
        ),
        pytest.param(lambda url: "ya29.x", 401, "Unable to parse JWT", id="access-token"),
    ],
)
async def test_iap(google: Emulator, session: ClientSession, token: Any, status: int, says: str) -> None:
    """Takes an ID token for its client with an e-mail, or a self-signed JWT for the resource; marks its answers."""
    target = await google.add_target("t", kind="iap", audience=IAP_CLIENT)
    answer = await call(session, target, bearer(token(target.url)))
    assert answer.status == status
    if status != 200:
        assert answer.text.startswith("Invalid IAP credentials: ")
        assert answer.headers["X-Goog-IAP-Generated-Response"] == "true"
    assert says in answer.text


@pytest.mark.parametrize("accept", ["text/html", "*/*", "application/json", None])
@pytest.mark.parametrize(
    ("method", "extra", "status"),
    [
        pytest.param("GET", {}, 302, id="get"),
        pytest.param("HEAD", {}, 302, id="head"),
        pytest.param("POST", {}, 401, id="post"),
        pytest.param("GET", {"X-Requested-With": "XMLHttpRequest"}, 401, id="script-of-a-page"),
        pytest.param("GET", {"Authorization": "Bearer nonsense"}, 401, id="bad-token"),
    ],
)
async def test_iap_without_a_token_leads_to_the_sign_in(
    google: Emulator,
    session: ClientSession,
    method: str,
    extra: dict[str, str],
    status: int,
    accept: str | None,
) -> None:
    """Whatever is accepted: with a cookie, and a body that says why; what can't follow a redirect is told so."""
    target = await google.add_target("t", kind="iap", audience=IAP_CLIENT)
    headers = extra if accept is None else {**extra, "Accept": accept}
    skipped = ["Accept"] if accept is None else []
    async with session.request(
        method, target.url, headers=headers, allow_redirects=False, skip_auto_headers=skipped
    ) as answer:
        assert answer.status == status
        assert answer.headers["X-Goog-IAP-Generated-Response"] == "true"
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.headers["Server"] == "Google Frontend"
        wrong = "Unable to parse JWT" if "Authorization" in extra else "empty token"
        assert await answer.text() == ("" if method == "HEAD" else f"Invalid IAP credentials: {wrong}")
        assert answer.headers.get("Location", "").startswith(
            "https://accounts.google.com/o/oauth2/v2/auth?" if status == 302 else ""
        )
        cookies = answer.headers.getall("Set-Cookie", [])
        assert [cookie.startswith("GCP_IAP_XSRF_NONCE_") for cookie in cookies] == [True] * (status == 302)


async def test_iap_tells_the_app_who_calls(google: Emulator, session: ClientSession) -> None:
    """In headers of its own (https://cloud.google.com/iap/docs/identity-howto); what a caller claims is replaced."""
    target = await google.add_target("t", kind="iap", audience=IAP_CLIENT)
    number = google.principals.add(SA).unique_id
    for token, email, subject in (
        (signed(NOW, aud=IAP_CLIENT, sub="42"), "caller@example.com", "42"),
        (self_signed(f"{target.url}/*"), SA, number),
    ):
        forged = ("x-goog-authenticated-user-email", "accounts.google.com:boss@example.com")
        answer = await call(session, target, bearer(token), forged, ("X-Goog-Authenticated-User-ID", "1"))
        told = [line for line in answer.body["headers"] if "authenticated" in line[0].lower()]
        assert told == [
            ["X-Goog-Authenticated-User-Email", f"accounts.google.com:{email}"],
            ["X-Goog-Authenticated-User-ID", f"accounts.google.com:{subject}"],
        ]


def assertion_of(answer: Answer) -> str:
    """The one that the app got."""
    (assertion,) = [value for name, value in answer.body["headers"] if name.lower() == IAP_HEADER]
    return str(assertion)


IAP_HEADER = "x-goog-iap-jwt-assertion"


@pytest.mark.parametrize("form", ["", "-jwk"])
async def test_google_auth_verifies_the_assertion_of_iap(session: ClientSession, form: str) -> None:
    """As https://cloud.google.com/iap/docs/signed-headers-howto has an app do it, with either form of the keys; the
    app gets the claims of a published one, and nothing of those that a caller forged."""
    async with Emulator() as google:  # google-auth reads the real clock
        google.principals.add(SA)
        target = await google.add_target("reports", kind="iap", audience=IAP_CLIENT)
        now = datetime.now(UTC).timestamp()  # noqa: TID251
        forged = signed(now, aud=AUDIENCE, iss="https://cloud.google.com/iap", email="boss@example.com")
        answer = await call(
            session,
            target,
            bearer(signed(now, aud=IAP_CLIENT, email=SA, sub="42")),
            ("X-Goog-IAP-JWT-Assertion", forged),
            ("x-goog-anything", "forged"),
        )
        assertion = assertion_of(answer)
        claims = await asyncio.to_thread(
            id_token.verify_token, assertion, Request(), AUDIENCE, certs_url=google.iap_keys_url + form
        )
    assert json.loads(decode(assertion.partition(".")[0])).keys() == {"alg", "kid", "typ"}
    assert claims["exp"] - claims["iat"] == 600
    assert {name: value for name, value in claims.items() if name not in ("exp", "iat")} == {
        "aud": AUDIENCE,
        "azp": AUDIENCE,
        "email": SA,
        "identity_source": "GOOGLE",
        "iss": "https://cloud.google.com/iap",
        "sub": "accounts.google.com:42",
    }
    assert "x-goog-anything" not in {name.lower() for name, _ in answer.body["headers"]}


@pytest.mark.parametrize("spoilt", [0, 1, 2])
async def test_google_auth_refuses_another_assertion(session: ClientSession, spoilt: int) -> None:
    """One that was changed in any of its parts, or is for another service."""
    async with Emulator() as google:
        target = await google.add_target("reports", kind="iap", audience=IAP_CLIENT)
        now = datetime.now(UTC).timestamp()  # noqa: TID251
        parts = assertion_of(await call(session, target, bearer(signed(now, aud=IAP_CLIENT)))).split(".")
        whole = ".".join(parts)
        changed = {0: b'{"alg":"ES256","kid":"other0"}', 1: b'{"aud":"x"}', 2: bytes(64)}[spoilt]
        parts[spoilt] = encode(changed)
        for token, audience in ((".".join(parts), AUDIENCE), (whole, "/projects/1/apps/x")):
            with pytest.raises((ValueError, GoogleAuthError)):
                await asyncio.to_thread(
                    id_token.verify_token, token, Request(), audience, certs_url=google.iap_keys_url
                )


async def test_the_audience_of_the_assertion_is_what_guards_the_app(
    google: Emulator, session: ClientSession
) -> None:
    """A load balancer's backend service has another one than Cloud Run; a person has a domain."""
    backend = "/projects/123456789012/global/backendServices/42"
    target = await google.add_target("t", kind="iap", audience=IAP_CLIENT, assertion_audience=backend)
    answer = await call(session, target, bearer(signed(NOW, aud=IAP_CLIENT, hd="example.com")))
    claims = read(assertion_of(answer))
    assert (claims["aud"], claims["hd"], claims["iat"]) == (backend, "example.com", NOW)


async def test_on_cloud_run_the_app_gets_the_token_of_iap_too(
    google: Emulator, session: ClientSession
) -> None:
    """Without its signature: an app that passes it on is refused by the next service
    (https://cloud.google.com/iap/docs/enabling-cloud-run, "Known limitations")."""
    target = await google.add_target("t", kind="iap", audience=IAP_CLIENT)
    forged = ("X-Serverless-Authorization", f"Bearer {signed(NOW, aud=target.url)}")
    answer = await call(session, target, bearer(signed(NOW, aud=IAP_CLIENT)), forged)
    (passed,) = [value for name, value in answer.body["headers"] if name == forged[0]]
    claims = json.loads(decode(passed.split(".")[1]))
    assert claims["email"] == "service-123456789012@gcp-sa-iap.iam.gserviceaccount.com"
    assert claims["aud"] == target.url
    assert passed.endswith(".SIGNATURE_REMOVED_BY_GOOGLE")
    run = await google.add_target("next", audience=target.url)
    good = bearer(signed(NOW, aud=target.url))
    assert (await call(session, run, good)).status == 200
    assert (await call(session, run, good, (forged[0], passed))).status == 401
    target.settings.assertion_audience = "/projects/123456789012/global/backendServices/42"
    answer = await call(session, target, bearer(signed(NOW, aud=IAP_CLIENT)))
    assert forged[0] not in {name for name, _ in answer.body["headers"]}


# ESPv2


@pytest.mark.parametrize("kind", ["api_gateway", "endpoints"])
@pytest.mark.parametrize(
    ("token", "status", "message"),
    [
        pytest.param(lambda url: signed(NOW, aud=url), 200, "", id="id-token"),
        pytest.param(lambda url: self_signed(url), 200, "", id="self-signed"),
        pytest.param(
            lambda url: signed(NOW, aud="https://x"), 403, "Audiences in Jwt are not allowed", id="audience"
        ),
        # Clocks may differ by a minute.
        pytest.param(lambda url: signed(NOW, aud=url, exp=NOW - 60), 200, "", id="just-expired"),
        pytest.param(lambda url: signed(NOW, aud=url, exp=NOW - 61), 401, "Jwt is expired", id="expired"),
        pytest.param(lambda url: signed(NOW, aud=url, nbf=NOW + 60), 200, "", id="soon"),
        pytest.param(lambda url: signed(NOW, aud=url, nbf=NOW + 61), 401, "Jwt not yet valid", id="not-yet"),
        pytest.param(
            lambda url: signed(NOW, aud=url, nbf=NOW + 61, exp=NOW - 61),
            401,
            "Jwt not yet valid",
            id="neither",
        ),
        pytest.param(
            lambda url: self_signed(url, email="x@p.iam.gserviceaccount.com"),
            401,
            "Jwt issuer is not configured",
            id="issuer",
        ),
        pytest.param(
            lambda url: self_signed(url, key="other"),
            401,
            "Jwks doesn't have key to match kid or alg from Jwt",
            id="key",
        ),
        pytest.param(
            lambda url: f"{self_signed(url)[:-8]}AAAAAAAA", 401, "Jwt verification fails", id="signature"
        ),
        pytest.param(lambda url: self_signed(url, exp=None), 200, "", id="no-end"),
        pytest.param(lambda url: signed(NOW, aud=["https://x", url]), 200, "", id="one-of-several-audiences"),
        pytest.param(
            lambda url: signed(NOW, aud=f"{url}/".replace("http:", "https:")), 200, "", id="scheme-and-slash"
        ),
        pytest.param(
            lambda url: signed(NOW, aud=url, exp="soon"),
            401,
            "Jwt payload [exp] field is not an integer",
            id="exp-is-text",
        ),
        pytest.param(lambda url: "ya29.x", 401, "Jwt is not in the form", id="access-token"),
        pytest.param(lambda url: "", 401, "Jwt is missing", id="none"),
    ],
)
async def test_espv2(
    google: Emulator, session: ClientSession, kind: TargetKind, token: Any, status: int, message: str
) -> None:
    """Answers in Envoy's words; the app gets the claims in a header and no signature."""
    target = await google.add_target("t", kind=kind, issuers={SA})
    answer = await call(session, target, bearer(token(target.url)), ("X-Forwarded-Authorization", "forged"))
    assert answer.status == status
    if status != 200:
        assert answer.body["code"] == status
        assert answer.body["message"].startswith(message)
        return
    headers = {name: value for name, value in answer.body["headers"]}
    told = headers["X-Endpoint-API-UserInfo" if kind == "endpoints" else "X-Apigateway-Api-Userinfo"]
    assert target.url.partition("//")[2].encode() in decode(told)
    assert headers["X-Forwarded-Authorization"].endswith(".SIGNATURE_REMOVED_BY_GOOGLE")
    assert "Authorization" not in headers


@pytest.mark.parametrize("kind", ["api_gateway", "endpoints"])
@pytest.mark.parametrize(
    ("headers", "query", "message"),
    [
        pytest.param(
            lambda good: [("Authorization", f"bearer {good}")], "", "Jwt is missing", id="lower-case"
        ),
        pytest.param(lambda good: [("Authorization", good)], "", "Jwt is missing", id="no-scheme"),
        pytest.param(lambda good: [("Authorization", f"Bearer   {good}")], "", "", id="spaces"),
        pytest.param(lambda good: [("X-Goog-IAP-JWT-Assertion", good)], "", "", id="another-header"),
        pytest.param(lambda good: [], "?access_token={good}", "", id="query"),
        pytest.param(
            lambda good: [bearer(good)], "?access_token=app", "Jwt is not in the form", id="good-and-bad"
        ),
        pytest.param(
            lambda good: [bearer(good), bearer("x")], "", "Jwt is not in the form", id="twice-one-bad"
        ),
        pytest.param(lambda good: [bearer(good), bearer(good)], "", "", id="twice"),
    ],
)
async def test_where_espv2_looks_for_tokens(
    google: Emulator, session: ClientSession, kind: TargetKind, headers: Any, query: str, message: str
) -> None:
    """In two headers and the query, and all of them must be good (Envoy's `extractor.cc` and `authenticator.cc`, with
    ESPv2's `defaultJwtLocations`); a record has none of them."""
    target = await google.add_target("t", kind=kind)
    good = signed(NOW, aud=target.url)
    path = f"/x{query.format(good=good)}"
    answer = await call(session, target, *headers(good), path=path)
    if message:
        assert (answer.status, answer.body["message"][: len(message)]) == (401, message)
    else:
        assert answer.status == 200, answer.text
        assert good not in answer.text
    assert good not in str(target.requests)


@pytest.mark.parametrize(("kind", "status"), [("endpoints", 400), ("api_gateway", 200), ("cloud_run", 200)])
async def test_endpoints_refuse_a_header_with_an_underscore(
    google: Emulator, session: ClientSession, kind: TargetKind, status: int
) -> None:
    """ESPv2 sets `headersWithUnderscoresAction: REJECT_REQUEST`, unless it is started with another flag."""
    target = await google.add_target("t", kind=kind)
    answer = await call(session, target, bearer(signed(NOW, aud=target.url)), ("X_Trace", "1"))
    assert answer.status == status
    if status == 400:
        assert answer.body == {"code": 400, "message": "Bad Request"}


# Google's own APIs


@pytest.mark.parametrize(
    ("scopes", "switches", "status", "reason"),
    [
        ((CLOUD_PLATFORM,), {}, 200, ""),
        ((f"{SCOPE}devstorage.read_only",), {}, 200, ""),
        (
            (f"{SCOPE}devstorage.read_only",),
            {"scopes": [CLOUD_PLATFORM]},
            403,
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        ),
        (
            (f"{SCOPE}devstorage.read_only",),
            {"service": "pubsub.googleapis.com"},
            403,
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        ),
        ((f"{SCOPE}pubsub",), {"service": "pubsub.googleapis.com"}, 200, ""),
        ((f"{SCOPE}drive",), {"scopes": [f"{SCOPE}drive"]}, 200, ""),
        (("email",), {}, 403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
        ((CLOUD_PLATFORM,), {"enabled": False}, 403, "SERVICE_DISABLED"),
        ((CLOUD_PLATFORM,), {"callers": ["other@example.com"]}, 403, "IAM_PERMISSION_DENIED"),
        ((CLOUD_PLATFORM,), {"callers": [f"serviceAccount:{SA}"]}, 200, ""),
    ],
)
async def test_googleapis_take_access_tokens(
    google: Emulator,
    session: ClientSession,
    scopes: tuple[str, ...],
    switches: dict[str, Any],
    status: int,
    reason: str,
) -> None:
    """With the scope, the API enabled and the permission; each failure is Google's own document."""
    target = await google.add_target("storage", kind="googleapis", **switches)
    token = google.principals.issue(f"serviceAccount:{SA}", scopes, lifetime=60).value
    answer = await call(session, target, bearer(token))
    assert answer.status == status
    if reason:
        assert answer.body["error"]["details"][0]["reason"] == reason
    else:
        assert answer.body["verified"]["principal"] == f"serviceAccount:{SA}"
        assert token not in answer.text


@pytest.mark.parametrize(
    ("token", "status"),
    [
        pytest.param(lambda: self_signed("https://storage.googleapis.com/"), 200, id="self-signed"),
        pytest.param(lambda: self_signed(None, scope=CLOUD_PLATFORM), 200, id="self-signed-with-scope"),
        pytest.param(lambda: self_signed("", scope=CLOUD_PLATFORM), 200, id="self-signed-as-go-does"),
        pytest.param(lambda: self_signed(""), 401, id="self-signed-for-nothing"),
        pytest.param(
            lambda: unnamed(self_signed("https://storage.googleapis.com/")),
            200,
            id="self-signed-as-ruby-does",
        ),
        pytest.param(lambda: self_signed("https://pubsub.googleapis.com/"), 401, id="for-another-api"),
        pytest.param(lambda: self_signed(None, scope="email"), 403, id="too-narrow"),
        pytest.param(lambda: signed(NOW), 401, id="id-token"),
        pytest.param(lambda: "ya29.unknown", 401, id="unknown"),
    ],
)
async def test_googleapis_take_self_signed_jwts(
    google: Emulator, session: ClientSession, token: Any, status: int
) -> None:
    """For the API itself, or with a scope; no ID tokens."""
    target = await google.add_target("storage", kind="googleapis")
    answer = await call(session, target, bearer(token()))
    assert answer.status == status
    if status == 401:
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_options_belong_to_kinds() -> None:
    """Another kind's option, or none's, is an error that lists what there is."""
    with pytest.raises(ValueError, match="has no option 'issuers'; there are audience, callers"):
        Settings.of("cloud_run", issuers=[])
    with pytest.raises(ValueError, match="no kind of target is called 'x'"):
        Settings.of("x")  # type: ignore[arg-type]
