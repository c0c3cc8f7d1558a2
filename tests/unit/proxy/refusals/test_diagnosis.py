"""sidecar.proxy.refusals.diagnosis: what a target's own refusal means, on the answers of the real front ends"""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.targets import Target, TokenKind
from sidecar.proxy.refusals.diagnosis import (
    Cause,
    Diagnosis,
    Refused,
    asks_to_sign_in,
    diagnose,
    may_tell,
    not_let_in,
)

NOW = 1_800_000_000.0
RUN_APP = "billing-abc123def4-uc.a.run.app"
AUDIENCE = f"https://{RUN_APP}"
SA = "robot@p.iam.gserviceaccount.com"


def refused(
    target: Target,
    status: int,
    sample: object = "",
    headers: dict[str, str] | None = None,
    *,
    claims: dict[str, Any] | None = None,
    authority: str = RUN_APP,
    kind: TokenKind = TokenKind.ID,
) -> Refused:
    """One answer to a request with a token for AUDIENCE."""
    return Refused(
        target,
        kind,
        "https",
        authority,
        status,
        headers or {},
        sample if isinstance(sample, str) else json.dumps(sample),
        {"aud": AUDIENCE, "email": SA, "exp": NOW + 3600, **(claims or {})},
        NOW,
    )


UNAUTHORIZED = {
    "www-authenticate": 'Bearer error="invalid_token" error_description="The access token could not be verified"'
}
FORBIDDEN = "<h1>Error: Forbidden</h1><h2>Your client does not have permission to get URL <code>/</code> from this server.</h2>"
NOT_FOUND = "<title>404 Page not found</title><h1>Error: Page not found</h1><h2>The requested URL was not found on this server.</h2>"
IAP = {"x-goog-iap-generated-response": "true"}


def info(reason: str) -> dict[str, Any]:
    return {
        "error": {"code": 403, "status": "PERMISSION_DENIED", "details": [{"@type": "x"}, {"reason": reason}]}
    }


@pytest.mark.parametrize(
    ("answer", "cause", "says", "command"),
    [
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "", UNAUTHORIZED, claims={"aud": "https://custom.example"}),
            Cause.AUDIENCE_REFUSED,
            "The token is for `https://custom.example`, and its host suggests "
            "`https://billing-abc123def4-uc.a.run.app`: set the route's `audience` to that, or add the one that "
            "was sent to the service's custom audiences.",
            "gcloud run services update billing --region=REGION --add-custom-audiences=https://custom.example",
            id="run-audience",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "<h1>Error: Unauthorized</h1>"),
            Cause.TOKEN_REFUSED,
            "The target does not accept the token for `https://billing-abc123def4-uc.a.run.app`: check that this is "
            "exactly its audience (the service's own URL, `https://SERVICE-….run.app` without a path "
            "(also under a traffic tag's URL, behind a load balancer or a domain of its own), or one of its "
            "custom audiences), and that `token` is a kind that it accepts.",
            "",
            id="run-token",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "", {**UNAUTHORIZED, "date": formatdate(NOW + 7200, usegmt=True)}),
            Cause.TOKEN_TOO_OLD,
            "This machine's clock is 7200 s behind the target's: set it right (NTP).",
            "timedatectl set-ntp true",
            id="run-clock",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 403, FORBIDDEN),
            Cause.PERMISSION_MISSING,
            "Cloud Run knows the caller but does not let it in, or saw no token: "
            "serviceAccount:robot@p.iam.gserviceaccount.com needs roles/run.invoker on it: `gcloud run services "
            "add-iam-policy-binding billing --region=REGION "
            "--member=serviceAccount:robot@p.iam.gserviceaccount.com --role=roles/run.invoker`. A new grant "
            "takes some minutes.",
            "gcloud run services add-iam-policy-binding billing --region=REGION "
            "--member=serviceAccount:robot@p.iam.gserviceaccount.com --role=roles/run.invoker",
            id="run-permission",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 403, FORBIDDEN, claims={"email": "me@example.com"}),
            Cause.PERMISSION_MISSING,
            "Cloud Run knows the caller but does not let it in, or saw no token: user:me@example.com needs "
            "roles/run.invoker on it: `gcloud run services add-iam-policy-binding billing --region=REGION "
            "--member=user:me@example.com --role=roles/run.invoker`. A new grant takes some minutes.",
            "gcloud run services add-iam-policy-binding billing --region=REGION --member=user:me@example.com "
            "--role=roles/run.invoker",
            id="run-permission-of-a-person",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 403, FORBIDDEN, claims={"email": "x; rm -rf /"}),
            Cause.PERMISSION_MISSING,
            "Cloud Run knows the caller but does not let it in, or saw no token: MEMBER needs roles/run.invoker "
            "on it: `gcloud run services add-iam-policy-binding billing --region=REGION --member=MEMBER "
            "--role=roles/run.invoker`. A new grant takes some minutes.",
            "gcloud run services add-iam-policy-binding billing --region=REGION --member=MEMBER "
            "--role=roles/run.invoker",
            id="run-permission-of-nonsense",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 404, NOT_FOUND, {"content-type": "text/html; charset=UTF-8"}),
            Cause.HIDDEN,
            "Google's front end answered 404, not the service. Either its ingress settings do not let this network in "
            "(call it from the VPC, or through the load balancer), or VPC Service Controls hide it, or there is no "
            "such service. Or Google keeps the path to itself (such as `/healthz`). "
            "`gcloud run services describe billing --region=REGION "
            "--format='value(metadata.annotations)'` shows the ingress.",
            "gcloud run services describe billing --region=REGION --format='value(metadata.annotations)'",
            id="run-hidden",
        ),
        pytest.param(
            refused(Target.CLOUD_FUNCTIONS, 403, FORBIDDEN, authority="us-central1-p.cloudfunctions.net"),
            Cause.PERMISSION_MISSING,
            "Cloud Run functions knows the caller but does not let it in, or saw no token: "
            "serviceAccount:robot@p.iam.gserviceaccount.com needs roles/run.invoker (1st gen: "
            "roles/cloudfunctions.invoker) on it: `gcloud functions add-invoker-policy-binding FUNCTION "
            "--region=REGION --member=serviceAccount:robot@p.iam.gserviceaccount.com`. A new grant takes some "
            "minutes.",
            "gcloud functions add-invoker-policy-binding FUNCTION --region=REGION "
            "--member=serviceAccount:robot@p.iam.gserviceaccount.com",
            id="function-permission",
        ),
        pytest.param(
            refused(
                Target.IAP,
                401,
                "Invalid IAP credentials: JWT audience doesn't match this application ('aud' claim (x) doesn't match "
                "expected value (1-a.apps.googleusercontent.com))",
                IAP,
            ),
            Cause.AUDIENCE_REFUSED,
            "The token is for `https://billing-abc123def4-uc.a.run.app`; IAP wants "
            "`1-a.apps.googleusercontent.com`: set the route's `audience` to that.",
            "",
            id="iap-audience",
        ),
        pytest.param(
            refused(Target.IAP, 401, "Invalid IAP credentials: JWT 'email' claim isn't a string"),
            Cause.EMAIL_MISSING,
            "IAP requires an e-mail in the token, and this one has none. Tokens that the sidecar fetches have one. "
            "Make those of `file` and `static` with it (`--include-email`, `includeEmail`).",
            "",
            id="iap-email",
        ),
        pytest.param(
            refused(Target.IAP, 401, "Invalid IAP credentials: empty token", IAP),
            Cause.TOKEN_UNSEEN,
            "IAP saw no token: something on the way removes the header. Set the route's `header` to "
            "`proxy-authorization`, or check the proxies in between.",
            "",
            id="iap-empty",
        ),
        pytest.param(
            refused(Target.IAP, 401, "Invalid IAP credentials: JWT has expired", IAP),
            Cause.TOKEN_TOO_OLD,
            "The target says that the token has expired or is not valid yet: `idtoken-sidecar renew` fetches a new one. If "
            "that does not help, check the clocks of both sides.",
            "idtoken-sidecar renew",
            id="iap-expired",
        ),
        pytest.param(
            refused(Target.IAP, 403, "<h1>Error: Forbidden</h1>", IAP),
            Cause.PERMISSION_MISSING,
            "IAP knows the caller but does not let it in: serviceAccount:robot@p.iam.gserviceaccount.com needs "
            "roles/iap.httpsResourceAccessor: `gcloud iap web add-iam-policy-binding "
            "--resource-type=RESOURCE_TYPE --service=SERVICE "
            "--member=serviceAccount:robot@p.iam.gserviceaccount.com --role=roles/iap.httpsResourceAccessor`.",
            "gcloud iap web add-iam-policy-binding --resource-type=RESOURCE_TYPE --service=SERVICE "
            "--member=serviceAccount:robot@p.iam.gserviceaccount.com --role=roles/iap.httpsResourceAccessor",
            id="iap-role",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "Invalid IAP credentials: Unable to parse JWT", IAP),
            Cause.TOKEN_REFUSED,
            "The target does not accept the token for `https://billing-abc123def4-uc.a.run.app`: check that this is "
            "exactly its audience (the service's own URL, `https://SERVICE-….run.app` without a path "
            "(also under a traffic tag's URL, behind a load balancer or a domain of its own), or one of its "
            "custom audiences), and that `token` is a kind that it accepts.",
            "",
            id="iap-before-cloud-run",
        ),
        pytest.param(
            refused(Target.API_GATEWAY, 403, {"code": 403, "message": "Audiences in Jwt are not allowed"}),
            Cause.AUDIENCE_REFUSED,
            "The token is for `https://billing-abc123def4-uc.a.run.app`, which the API does not list. Set the route's "
            "`audience` to one of its `x-google-audiences`; if it has none, to `https://` and the managed service's "
            "name.",
            "gcloud api-gateway apis describe API --format='value(managedService)'",
            id="gateway-audience",
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 401, {"code": 401, "message": "Jwt issuer is not configured"}),
            Cause.ISSUER_REFUSED,
            "The API does not trust the token's issuer: set its `x-google-issuer` to "
            "`https://accounts.google.com`, or the route's `token` to another kind.",
            "",
            id="endpoints-issuer",
        ),
        pytest.param(
            refused(
                Target.ENDPOINTS,
                401,
                {"code": 401, "message": "Jwt issuer is not configured"},
                kind=TokenKind.SELF_SIGNED_JWT,
            ),
            Cause.ISSUER_REFUSED,
            "The API does not trust the token's issuer: set its `x-google-issuer` to the service account's "
            "e-mail, or the route's `token` to another kind.",
            "",
            id="endpoints-issuer-self-signed",
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 401, {"message": "Jwt is expired"}),
            Cause.TOKEN_TOO_OLD,
            "The target says that the token has expired or is not valid yet: `idtoken-sidecar renew` fetches a new one. If "
            "that does not help, check the clocks of both sides.",
            "idtoken-sidecar renew",
            id="jwt-expired",
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 401, {"message": "Jwt is missing"}),
            Cause.TOKEN_UNSEEN,
            "The gateway saw no token: check the route's `header`, and the proxies in between.",
            "",
            id="jwt-missing",
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 401, {"message": "Jwt verification fails"}),
            Cause.TOKEN_REFUSED,
            "The target does not accept the token for `https://billing-abc123def4-uc.a.run.app`: check that this is "
            "exactly its audience (what `x-google-audiences` of the API lists; without that, "
            "`https://` and the service's name), and that `token` is a kind that it accepts.",
            "",
            id="jwt",
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 401, {"message": "Jwks doesn't have key to match kid or alg from Jwt"}),
            Cause.TOKEN_REFUSED,
            "The target does not accept the token for `https://billing-abc123def4-uc.a.run.app`: check that this is "
            "exactly its audience (what `x-google-audiences` of the API lists; without that, "
            "`https://` and the service's name), and that `token` is a kind that it accepts.",
            "",
            id="jwks",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")),
            Cause.SCOPE_MISSING,
            "The access token lacks a scope that this API requires: add it to the route's `scopes`. A Compute Engine "
            "instance gives its own access scopes at most.",
            "",
            id="api-scope",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, info("SERVICE_DISABLED"), authority="storage.googleapis.com"),
            Cause.API_NOT_ENABLED,
            "The API is not enabled in the caller's project: `gcloud services enable storage.googleapis.com "
            "--project=PROJECT`.",
            "gcloud services enable storage.googleapis.com --project=PROJECT",
            id="api-disabled",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, info("IAM_PERMISSION_DENIED")),
            Cause.PERMISSION_MISSING,
            "The caller lacks a role for this API: `gcloud projects add-iam-policy-binding PROJECT "
            "--member=MEMBER --role=ROLE`. The answer's body names the permission.",
            "gcloud projects add-iam-policy-binding PROJECT --member=MEMBER --role=ROLE",
            id="api-role",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 401, {"error": {"code": 401}}),
            Cause.TOKEN_REFUSED,
            "The target does not accept the token for `https://billing-abc123def4-uc.a.run.app`: check that this is "
            "exactly its audience (none for an access token, which has `scopes`; for a self-signed JWT "
            "`https://SERVICE.googleapis.com/`), and that `token` is a kind that it accepts.",
            "",
            id="api",
        ),
        pytest.param(
            refused(Target.OTHER, 403, FORBIDDEN),
            Cause.UNEXPLAINED,
            "The target answered 403, in none of the ways in which Google's front ends refuse a token: it is "
            "most likely the app's own answer. Its body went to the caller.",
            "",
            id="other",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 403, "no!"),
            Cause.UNEXPLAINED,
            "The target answered 403, in none of the ways in which Google's front ends refuse a token: it is "
            "most likely the app's own answer. Its body went to the caller.",
            "",
            id="apps-own",
        ),
    ],
)
def test_what_it_means(answer: Refused, cause: Cause, says: str, command: str) -> None:
    """Its cause, a sentence with what to do, and the command that fixes it with the names that are known."""
    assert diagnose(answer) == Diagnosis(cause, says, command)


DATE = {"date": formatdate(NOW, usegmt=True)}
JWT = "Invalid IAP credentials: JWT "


def jwt(message: str) -> dict[str, Any]:
    return {"message": message}


@pytest.mark.parametrize(
    ("answer", "cause", "says"),
    [
        pytest.param(
            refused(Target.CLOUD_RUN, 403, FORBIDDEN, authority="billing-123456789012.us-central1.run.app"),
            Cause.PERMISSION_MISSING,
            "add-iam-policy-binding billing --region=us-central1 --member",
            id="run-permission-with-the-region-of-its-host",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "", UNAUTHORIZED, claims={"aud": AUDIENCE + "/"}),
            Cause.TOKEN_REFUSED,
            f"the token for `{AUDIENCE}/`",
            id="a-slash-at-the-end-is-no-other-audience",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "", UNAUTHORIZED, claims={"aud": "a b"}),
            Cause.AUDIENCE_REFUSED,
            "The token is for its audience, and",
            id="an-audience-of-another-form-is-not-quoted",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "", UNAUTHORIZED, claims={"aud": ["a"]}),
            Cause.TOKEN_REFUSED,
            "the token for its audience:",
            id="an-audience-that-is-no-string",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, "", UNAUTHORIZED, authority="a.example"),
            Cause.TOKEN_REFUSED,
            "does not accept",
            id="a-host-that-suggests-no-audience",
        ),
        pytest.param(refused(Target.CLOUD_RUN, 401, "no!"), Cause.UNEXPLAINED, "answered 401", id="own-401"),
        pytest.param(
            refused(Target.CLOUD_RUN, 403, "", {"www-authenticate": 'Bearer error="insufficient_scope"'}),
            Cause.PERMISSION_MISSING,
            "billing",
            id="run-permission-by-its-challenge",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 403, "", UNAUTHORIZED), Cause.UNEXPLAINED, "403", id="own-challenge"
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 404, "<b>Google</b> NOT FOUND", {"content-type": "text/html"}),
            Cause.HIDDEN,
            "ingress",
            id="hidden-by-google",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 404, "Error: Page not found", {"content-type": "text/html"}),
            Cause.HIDDEN,
            "ingress",
            id="hidden-page",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 404, "/x was not found on this server", {"content-type": "text/html"}),
            Cause.HIDDEN,
            "ingress",
            id="hidden-on-this-server",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, JWT + "expired", {"x-goog-iap-generated-response": "TRUE"}),
            Cause.TOKEN_TOO_OLD,
            "check the clocks",
            id="iap-says-so-in-capitals",
        ),
        pytest.param(
            refused(Target.IAP, 302, "", {**IAP, "location": "https://accounts.google.com/o/oauth2/v2/auth"}),
            Cause.SIGN_IN,
            "answered 302, and not the target: it saw no token that it accepts",
            id="iap-sign-in",
        ),
        pytest.param(
            refused(Target.CLOUD_RUN, 401, JWT + "expired", {"x-goog-iap-generated-response": "no"}),
            Cause.UNEXPLAINED,
            "app's own",
            id="iap-says-no",
        ),
        pytest.param(refused(Target.IAP, 401, "no!"), Cause.UNEXPLAINED, "app's own", id="behind-iap"),
        pytest.param(
            refused(Target.IAP, 401, JWT + "is from the future"),
            Cause.TOKEN_TOO_OLD,
            "not valid yet",
            id="iap-future",
        ),
        pytest.param(
            refused(Target.IAP, 401, JWT + "expired", DATE, claims={"exp": NOW}),
            Cause.TOKEN_TOO_OLD,
            "clock is 0 s behind",
            id="iap-expired-at-that-very-second",
        ),
        pytest.param(
            refused(Target.IAP, 401, JWT + "bad", DATE, claims={"exp": "never"}),
            Cause.TOKEN_REFUSED,
            "does not accept",
            id="iap-right-clock-and-odd-expiry",
        ),
        pytest.param(
            refused(Target.IAP, 401, JWT + "audience doesn't match this application"),
            Cause.AUDIENCE_REFUSED,
            "IAP wants its own OAuth client id:",
            id="iap-audience-not-told",
        ),
        pytest.param(
            refused(
                Target.IAP, 401, "Invalid IAP credentials: Invalid bearer token. Invalid JWT audience.", IAP
            ),
            Cause.AUDIENCE_REFUSED,
            "IAP wants its own OAuth client id:",
            id="iap-audience-in-the-newer-words",
        ),
        pytest.param(
            refused(
                Target.IAP,
                401,
                "Invalid IAP credentials: Audience specified does not match requested endpoint",
                IAP,
                claims={"aud": "https://other.example", "iss": SA},
                kind=TokenKind.SELF_SIGNED_JWT,
            ),
            Cause.AUDIENCE_REFUSED,
            "The token is for `https://other.example`; IAP wants `https://billing-abc123def4-uc.a.run.app/*`: "
            "set the route's `audience` to that.",
            id="iap-audience-of-a-self-signed-token",
        ),
        *(
            pytest.param(
                refused(target, 401, "Invalid JWT audience.", IAP, claims={"aud": "https://other.example"}),
                Cause.AUDIENCE_REFUSED,
                "The token is for `https://other.example`; IAP wants its own OAuth client id: "
                "set the route's `audience` to that.",
                id=f"iap-audience-before-{target}",
            )
            for target in (Target.IAP, Target.CLOUD_RUN, Target.OTHER)
        ),
        pytest.param(
            refused(
                Target.IAP, 403, "", IAP, claims={"email": None, "iss": SA}, kind=TokenKind.SELF_SIGNED_JWT
            ),
            Cause.PERMISSION_MISSING,
            f"serviceAccount:{SA} needs",
            id="iap-role-of-a-self-signed-token",
        ),
        pytest.param(
            refused(Target.IAP, 403, "", IAP, claims={"email": None, "iss": SA}),
            Cause.PERMISSION_MISSING,
            "MEMBER needs",
            id="iap-role-of-a-token-without-an-e-mail",
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 401, jwt("Jwt not yet valid")),
            Cause.TOKEN_TOO_OLD,
            "clocks",
            id="jwt-early",
        ),
        pytest.param(
            refused(
                Target.ENDPOINTS, 401, jwt("Jwt is expired"), {"date": formatdate(NOW - 61, usegmt=True)}
            ),
            Cause.TOKEN_TOO_OLD,
            "clock is 61 s ahead of the target's",
            id="clock-ahead",
        ),
        pytest.param(
            refused(
                Target.ENDPOINTS, 401, jwt("Jwt is expired"), {"date": formatdate(NOW - 60, usegmt=True)}
            ),
            Cause.TOKEN_TOO_OLD,
            "clock is 60 s ahead of the target's",
            id="clock-a-minute-ahead",
        ),
        pytest.param(
            refused(
                Target.ENDPOINTS, 401, jwt("Jwt is expired"), {"date": formatdate(NOW + 59, usegmt=True)}
            ),
            Cause.TOKEN_TOO_OLD,
            "check the clocks of both sides",
            id="clock-within-what-is-borne",
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 403, jwt("no Jwt")), Cause.UNEXPLAINED, "403", id="own-message"
        ),
        pytest.param(
            refused(Target.ENDPOINTS, 403, {"message": 5}), Cause.UNEXPLAINED, "403", id="no-message"
        ),
        pytest.param(refused(Target.ENDPOINTS, 403, "[1]"), Cause.UNEXPLAINED, "403", id="a-list"),
        pytest.param(refused(Target.ENDPOINTS, 403, "{"), Cause.UNEXPLAINED, "403", id="no-json"),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, info("insufficientPermissions")),
            Cause.SCOPE_MISSING,
            "`scopes`",
            id="api-scope-in-the-old-words",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, {"error": {"details": "x"}}),
            Cause.PERMISSION_MISSING,
            "lacks a role",
            id="api-odd-details",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, {"error": {"details": [1, {"reason": 2}]}}),
            Cause.PERMISSION_MISSING,
            "lacks a role",
            id="api-odd-entries",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, {"error": "x"}), Cause.UNEXPLAINED, "403", id="api-odd-error"
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 403, info("SERVICE_DISABLED"), authority="a.googleapis.com:443"),
            Cause.API_NOT_ENABLED,
            "`gcloud services enable a.googleapis.com --project=PROJECT`",
            id="api-disabled-without-its-port",
        ),
        pytest.param(
            refused(Target.GOOGLEAPIS, 401, {"error": {}}, {"date": formatdate(NOW + 90, usegmt=True)}),
            Cause.TOKEN_TOO_OLD,
            "clock is 90 s behind",
            id="api-clock",
        ),
    ],
)
def test_what_tells_one_cause_from_another(answer: Refused, cause: Cause, says: str) -> None:
    """Each mark of a front end counts alone; what only looks like one is the app's own."""
    found = diagnose(answer)
    assert found is not None
    assert (found.cause, says in found.detail) == (cause, True), found.detail


def test_an_audience_with_a_star_is_quoted() -> None:
    """A shell would look for files of that name."""
    found = diagnose(refused(Target.CLOUD_RUN, 401, "", UNAUTHORIZED, claims={"aud": "https://*"}))
    assert found is not None
    assert found.command.endswith(" '--add-custom-audiences=https://*'")


def test_an_odd_audience_is_left_out_of_the_command() -> None:
    """It would be run by a shell."""
    found = diagnose(refused(Target.CLOUD_RUN, 401, "", UNAUTHORIZED, claims={"aud": "x; rm -rf /"}))
    assert found is not None
    assert (
        found.command == "gcloud run services update billing --region=REGION --add-custom-audiences=AUDIENCE"
    )


@pytest.mark.parametrize(
    "answer",
    [
        refused(Target.CLOUD_RUN, 404, '{"detail": "no such invoice"}', {"content-type": "application/json"}),
        refused(Target.CLOUD_RUN, 404, "<h1>Not found</h1> in this shop", {"content-type": "text/html"}),
        refused(Target.CLOUD_RUN, 404, NOT_FOUND, {"content-type": "application/json"}),
        refused(Target.CLOUD_RUN, 404, NOT_FOUND),
        refused(Target.CLOUD_RUN, 404, "<b>Google</b>", {"content-type": "text/html"}),
        refused(Target.OTHER, 404, NOT_FOUND, {"content-type": "text/html"}),
        refused(Target.GOOGLEAPIS, 404, {"error": {"code": 404}}),
    ],
)
def test_an_apps_own_404_means_nothing(answer: Refused) -> None:
    """What is not there is not there."""
    assert diagnose(answer) is None


@pytest.mark.parametrize(
    ("status", "tells"), [(200, False), (302, False), (401, True), (403, True), (404, True), (500, False)]
)
def test_which_answers_are_looked_at(status: int, tells: bool) -> None:
    """Those by which front ends refuse."""
    assert may_tell(status) is tells


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["error", "details", "reason", "message", "x"]), inner)
    ),
    max_leaves=10,
)


@given(
    target=st.sampled_from(Target),
    status=st.sampled_from([401, 403, 404]),
    body=st.text() | ANY.map(json.dumps),
    claims=st.dictionaries(st.sampled_from(["aud", "email", "exp", "iss"]), ANY),
    headers=st.dictionaries(
        st.sampled_from(["www-authenticate", "date", "content-type", "x-goog-iap-generated-response"]),
        st.text(),
    ),
)
def test_nothing_that_a_target_sends_breaks_it(
    target: Target, status: int, body: str, claims: dict[str, Any], headers: dict[str, str]
) -> None:
    """Whatever comes, there is a diagnosis or none; a command is one printable line."""
    found = diagnose(Refused(target, TokenKind.ID, "https", RUN_APP, status, headers, body, claims, NOW))
    if found is not None:
        assert found.command.isprintable()
        assert ";" not in found.command


OUR_TYPE = '{"type": "tag:idtoken-sidecar,2026:draining"'
PROBLEM = {"content-type": "application/problem+json; charset=utf-8"}


@pytest.mark.parametrize(
    ("headers", "body", "poses"),
    [
        pytest.param({"proxy-status": "IDTOKEN-sidecar; error=x"}, "", True, id="proxy-status"),
        pytest.param({"proxy-status": "cdn"}, "", False, id="proxy-status-of-another"),
        pytest.param({}, OUR_TYPE, True, id="type"),
        pytest.param(PROBLEM, '{"reason": "draining"}', True, id="reason"),
        pytest.param({}, '{"reason": "draining"}', False, id="reason-in-an-apps-own-form"),
        pytest.param(PROBLEM, '{"reason": "sold out"}', False, id="an-apps-own-reason"),
        pytest.param(PROBLEM, '{"reason": ["draining"]}', False, id="no-text"),
        pytest.param(PROBLEM, '["reason"]', False, id="list"),
    ],
)
def test_an_answer_in_the_sidecars_form(headers: dict[str, str], body: str, poses: bool) -> None:
    """Is another's: this one does not ask what its own mean. Its words and its command are not repeated."""
    body = body[:-1] + ', "command": "rm -rf /", "detail": "All is well."}' if body else body
    found = diagnose(refused(Target.CLOUD_RUN, 403, body, headers))
    assert found is not None
    assert (found.cause is Cause.ANOTHER_SIDECAR) == poses
    assert found.command == ""
    assert "All is well" not in found.detail
    online = not_let_in(503, headers, body, "svc.localhost")
    assert (online is not None) == poses
    assert not_let_in(200, headers, body, "svc.localhost") is None


HOST = "svc.localhost:8787"


@pytest.mark.parametrize(
    ("status", "headers", "cause", "says"),
    [
        pytest.param(200, {}, None, "", id="good"),
        pytest.param(404, {}, None, "", id="not-there"),
        pytest.param(302, {}, None, "", id="nowhere"),
        pytest.param(302, {"location": "/x"}, None, "", id="path"),
        pytest.param(302, {"location": "?x=//y"}, None, "", id="query"),
        pytest.param(302, {"location": f"http://{HOST.upper()}/x"}, None, "", id="same-host"),
        pytest.param(
            201, {"location": "http://other.example/x"}, None, "", id="location-that-is-no-redirect"
        ),
        pytest.param(
            300, {"location": "http://svc.localhost/x"}, Cause.REDIRECTED, "`svc.localhost`", id="port"
        ),
        pytest.param(
            399, {"location": "//a.example:80/x"}, Cause.REDIRECTED, "`a.example:80`", id="no-scheme"
        ),
        pytest.param(302, {"location": "\\\\a.example"}, Cause.REDIRECTED, "`a.example`", id="backslashes"),
        pytest.param(302, {"location": "http://`rm`/x"}, Cause.REDIRECTED, "another host", id="odd-host"),
        pytest.param(302, {"location": "http://[x"}, Cause.REDIRECTED, "another host", id="no-url"),
        pytest.param(
            303,
            {"location": "https://Accounts.google.com/x"},
            Cause.SIGN_IN,
            "accounts.google.com",
            id="google",
        ),
        pytest.param(
            200, {"x-goog-iap-generated-response": "True"}, Cause.SIGN_IN, "Identity-Aware", id="iap"
        ),
        pytest.param(407, {}, Cause.UNEXPLAINED, "407", id="proxy"),
        pytest.param(511, {}, Cause.SIGN_IN, "511", id="portal"),
    ],
)
def test_what_was_not_let_in(status: int, headers: dict[str, str], cause: Cause | None, says: str) -> None:
    """Though its status is none by which a token is refused."""
    found = not_let_in(status, headers, "", HOST)
    assert (found and found.cause) == cause
    assert found is None or says in found.detail


@pytest.mark.parametrize(
    ("page", "asks"),
    [
        ("<input type=password>", True),
        ("<INPUT TYPE = 'Password' >", True),
        ('<meta http-equiv="refresh" content="0">', True),
        ('<a href="https://accounts.google.com/o/oauth2">', True),
        ("<input type=text> forgot your password?", False),
        ("<h1>Welcome</h1>", False),
    ],
)
def test_a_page_to_sign_in_at(page: str, asks: bool) -> None:
    """By its form, or where it leads."""
    assert asks_to_sign_in(page) is asks
