"""sidecar.tokens.fetch.endpoint: what an endpoint's answers and faults mean."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Reason
from sidecar.tokens.fetch.endpoint import (
    Answer,
    Endpoint,
    Fault,
    Protocol,
    not_a_token,
    not_http,
    too_large,
    too_slow,
    unreachable,
)
from sidecar.tokens.fetch.refused import refused

METADATA = Endpoint("the metadata server at h:80", Protocol.METADATA, "default service account", "Look here.")
OAUTH = Endpoint("the token endpoint at o", Protocol.OAUTH, "service account a@b", "Look there.")
RECEIVED = 1_800_000_000.0
"""Fri, 15 Jan 2027 08:00:00 GMT"""


def answer(status: int, body: object = b"", **headers: str) -> Answer:
    """An answer received at RECEIVED."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(
        status, {key.replace("_", "-"): value for key, value in headers.items()}, data, received_at=RECEIVED
    )


@pytest.mark.parametrize(
    ("status", "reason", "hint"),
    [
        pytest.param(404, Reason.NO_SERVICE_ACCOUNT, "attach a service account", id="404"),
        pytest.param(403, Reason.TOKEN_DENIED, "roles/iam.workloadIdentityUser", id="403"),
        pytest.param(400, Reason.TOKEN_DENIED, "Check the route's `audience` or `scopes`", id="400"),
        pytest.param(429, Reason.TOKEN_RATE_LIMITED, "after a pause", id="429"),
        pytest.param(408, Reason.TOKEN_ENDPOINT_FAILED, "tries again", id="408"),
        pytest.param(500, Reason.TOKEN_ENDPOINT_FAILED, "tries again", id="500"),
        pytest.param(502, Reason.TOKEN_ENDPOINT_FAILED, "tries again", id="502"),
        pytest.param(503, Reason.TOKEN_ENDPOINT_FAILED, "tries again", id="503"),
        pytest.param(504, Reason.TOKEN_ENDPOINT_FAILED, "tries again", id="504"),
        pytest.param(302, Reason.TOKEN_MALFORMED, "never followed", id="redirect"),
        pytest.param(204, Reason.TOKEN_MALFORMED, "captive portal", id="another-success"),
    ],
)
def test_statuses_of_a_metadata_server(status: int, reason: Reason, hint: str) -> None:
    """Each status has its reason and says what to do."""
    error = refused(METADATA, answer(status, b"x", metadata_flavor="Google"))
    assert error.reason is reason
    assert hint in error.detail
    assert str(status) in error.detail
    assert error.detail.startswith("The metadata server at h:80 ")


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refusal_without_a_metadata_servers_mark_says_so(status: int) -> None:
    """What refuses may be something else in its place."""
    assert "`Metadata-Flavor: Google`" in refused(METADATA, answer(status)).detail
    assert "Metadata-Flavor" not in refused(METADATA, answer(status, metadata_flavor="Google")).detail
    assert "Metadata-Flavor" not in refused(OAUTH, answer(status)).detail


@pytest.mark.parametrize(
    "caller",
    [
        "principalSet://iam.googleapis.com/x/*",
        "serviceAccount:$(id)@x",
        "user:$HOME@x",
        "user:a;b@c",
        "user:a'b@c",
    ],
)
def test_what_stands_in_a_command_is_quoted_for_the_shell(caller: str) -> None:
    """Wherever it came from: a file, a metadata server."""
    command = refused(IAM._replace(caller=caller), answer(403, rpc("PERMISSION_DENIED"))).command
    words = command.removeprefix("gcloud ")
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {words}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[4:5] == [f"--member={caller}"], done
    assert len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize(
    ("status", "body", "reason", "hint"),
    [
        pytest.param(
            400,
            {
                "error": "invalid_grant",
                "error_description": "Invalid JWT: Token must be a short-lived token (60 minutes) and in a "
                "reasonable timeframe. Check your iat and exp values in the JWT claim.",
            },
            Reason.CLOCK_OFF,
            "clock is off",
            id="clock",
        ),
        pytest.param(
            400,
            {"error": "invalid_grant", "error_description": "Invalid JWT Signature."},
            Reason.TOKEN_DENIED,
            "The key of service account a@b was deleted or disabled",
            id="key-deleted",
        ),
        pytest.param(
            400,
            {"error": "invalid_grant", "error_description": "Invalid grant: account not found"},
            Reason.TOKEN_DENIED,
            "There is no service account a@b",
            id="account-not-found",
        ),
        pytest.param(
            401,
            {"error": "invalid_grant", "error_description": "The account has been disabled."},
            Reason.TOKEN_DENIED,
            "Service account a@b is disabled",
            id="account-disabled",
        ),
        pytest.param(
            400, {"error": "invalid_grant"}, Reason.TOKEN_DENIED, "see that key and account", id="bare"
        ),
        pytest.param(
            401,
            {"error": "invalid_client"},
            Reason.TOKEN_DENIED,
            "does not know service account a@b",
            id="client",
        ),
        pytest.param(
            403,
            {"error": "unauthorized_client"},
            Reason.TOKEN_DENIED,
            "may have ID tokens",
            id="unauthorized",
        ),
        pytest.param(400, {"error": "invalid_request"}, Reason.TOKEN_DENIED, "`token_uri`", id="request"),
        pytest.param(
            400,
            {
                "error": "invalid_scope",
                "error_description": "Invalid OAuth scope or ID token audience provided.",
            },
            Reason.TOKEN_DENIED,
            "check the route's `scopes` or `audience`",
            id="scope-or-audience",
        ),
        pytest.param(
            400, {"error": "some_new_code"}, Reason.TOKEN_DENIED, "some_new_code", id="unknown-code"
        ),
        pytest.param(
            400, {"error": "server_error"}, Reason.TOKEN_ENDPOINT_FAILED, "tries again", id="server-error"
        ),
        pytest.param(
            400,
            {"error": "temporarily_unavailable"},
            Reason.TOKEN_ENDPOINT_FAILED,
            "tries again",
            id="unavailable",
        ),
        pytest.param(400, b"<html>", Reason.TOKEN_DENIED, "no OAuth error", id="html"),
        pytest.param(400, ["invalid_grant"], Reason.TOKEN_DENIED, "no OAuth error", id="not-an-object"),
        pytest.param(400, {"error": {"code": 400}}, Reason.TOKEN_DENIED, "no OAuth error", id="not-a-code"),
        pytest.param(404, b"<html>", Reason.TOKEN_ENDPOINT_FAILED, "check `token_uri`", id="nothing-there"),
        pytest.param(503, {"error": "invalid_grant"}, Reason.TOKEN_ENDPOINT_FAILED, "tries again", id="503"),
        pytest.param(429, b"", Reason.TOKEN_RATE_LIMITED, "after a pause", id="429"),
    ],
)
def test_errors_of_a_token_endpoint(status: int, body: object, reason: Reason, hint: str) -> None:
    """OAuth errors are told apart by code, and `invalid_grant` by what Google says beside it."""
    error = refused(OAUTH, answer(status, body))
    assert error.reason is reason
    assert hint in error.detail


def test_a_clock_that_is_off_is_told_once() -> None:
    """With the answer's Date, by how much; else that it is."""
    body = {"error": "invalid_grant", "error_description": "Invalid JWT: … in a reasonable timeframe."}
    early = Answer(
        400,
        {"content-type": "application/json", "date": "Thu, 01 Jan 1970 00:00:00 GMT"},
        json.dumps(body).encode(),
        received_at=600.0,
    )
    error = refused(OAUTH, early)
    assert error.reason is Reason.CLOCK_OFF
    assert error.detail.endswith(
        "The signed assertion is too old or too new for it. This machine's clock is 600 s ahead of the endpoint's: set "
        "it right (NTP)."
    )


LOGIN = Endpoint(
    "the token endpoint at o",
    Protocol.LOGIN,
    "the login in f",
    "Look.",
    login="gcloud auth application-default login",
)
STS = Endpoint("the Security Token Service at s", Protocol.STS, "the identity in f", "Look.")
SUBJECT = Endpoint("the source of subject tokens at u", Protocol.SUBJECT, "the identity in f", "Look.")
IAM = Endpoint(
    "the IAM Credentials API at i",
    Protocol.IAM,
    "service account a@b",
    "Look.",
    account="a@b",
    caller="user:me@example.com",
    method="generateIdToken",
)


@pytest.mark.parametrize(
    ("body", "reason", "hint"),
    [
        pytest.param(
            {"error": "invalid_grant", "error_description": "Token has been expired or revoked."},
            Reason.REAUTHENTICATION_NEEDED,
            "it was revoked, its password changed",
            id="revoked",
        ),
        *(
            pytest.param(
                {"error": "invalid_grant", "error_subtype": subtype},
                Reason.REAUTHENTICATION_NEEDED,
                "The organisation limits how long a login lasts",
                id=subtype,
            )
            for subtype in ("invalid_rapt", "rapt_required")
        ),
        pytest.param(
            {"error": "invalid_grant", "error_subtype": ["invalid_rapt"]},
            Reason.REAUTHENTICATION_NEEDED,
            "it was revoked",
            id="odd-subtype",
        ),
        pytest.param(
            {"error": "invalid_client"},
            Reason.TOKEN_DENIED,
            "does not accept the login's client",
            id="client",
        ),
    ],
)
def test_refusals_of_a_login(body: object, reason: Reason, hint: str) -> None:
    """Each says how to log in again, as a command too."""
    error = refused(LOGIN, answer(400, body))
    assert (error.reason, error.command) == (reason, LOGIN.login)
    assert hint in error.detail
    assert f"`{LOGIN.login}`" in error.detail


@pytest.mark.parametrize(
    ("code", "description", "hint"),
    [
        pytest.param(
            "invalid_target",
            'The target service indicated by the "audience" parameters is invalid. This might either be because the '
            "pool or provider is disabled or deleted or because it doesn't exist.",
            "The pool or the provider that the file names is disabled or deleted, or there is none with that name",
            id="no-provider",
        ),
        pytest.param("invalid_target", "", "The pool or the provider", id="no-provider-in-other-words"),
        pytest.param(
            "invalid_request",
            'Invalid value for "audience".',
            "not the full name of a provider",
            id="audience",
        ),
        pytest.param("invalid_scope", "Invalid OAuth scope", "check the route's `scopes`", id="scope"),
    ],
)
def test_an_exchange_that_is_refused_for_no_fault_of_the_subject_token(
    code: str, description: str, hint: str
) -> None:
    """Does not blame it: the token's issuer and audience would be looked at in vain."""
    error = refused(STS, answer(400, {"error": code, "error_description": description}))
    assert error.reason is Reason.TOKEN_DENIED
    assert hint in error.detail
    assert "subject token" not in error.detail


@pytest.mark.parametrize(
    ("description", "hint"),
    [
        pytest.param("ID Token issued at 1 is stale to sign-in.", "token has expired", id="stale"),
        pytest.param(
            "The issuer in ID Token https://a does not match the expected one in config: https://b.",
            "is another issuer's than the provider's",
            id="issuer",
        ),
        pytest.param(
            "The audience in ID Token [x] does not match the expected audience.",
            "is for another audience",
            id="audience",
        ),
        pytest.param("Error connecting to the given credential's issuer.", "does not know the key", id="key"),
        pytest.param("Unable to parse the ID Token.", "is no JWT", id="no-jwt"),
        pytest.param(
            "The given credential is rejected by the attribute condition.",
            "change the condition",
            id="condition",
        ),
        pytest.param("Invalid issuer.", "issuer, audience and attribute mapping", id="anything-else"),
    ],
)
def test_refusals_of_an_exchange(description: str, hint: str) -> None:
    """Told apart by what the Security Token Service says; none of it is quoted."""
    error = refused(STS, answer(400, {"error": "invalid_grant", "error_description": description}))
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert hint in error.detail
    assert description not in error.detail


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (
            b"Could not fetch URI /computeMetadata/v1/instance/service-accounts/default/token\n",
            "neither deleted",
        ),
        (b"Internal Server Error\n", "The fault is on its side"),
    ],
)
def test_a_platform_that_can_make_no_tokens_of_the_account(body: bytes, hint: str) -> None:
    """https://github.com/google/clusterfuzz/issues/2557: 500, which is tried again, and yet may be for good."""
    error = refused(METADATA, answer(500, body))
    assert error.reason is Reason.TOKEN_ENDPOINT_FAILED
    assert hint in error.detail


def test_a_refusal_by_another_providers_source() -> None:
    """Whatever it speaks: the place to look is the file's `credential_source`."""
    error = refused(SUBJECT, answer(403, b"who are you?"))
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert "answered 403. The identity provider" in error.detail
    assert "`credential_source`" in error.detail


@pytest.mark.parametrize("kind", ["access", "identity"])
def test_gkes_server_repeats_that_there_is_no_such_account(kind: str) -> None:
    """Then no account is missing here, but the one that is named is misspelt."""
    body = f"Unable to generate {kind} token; IAM returned 404 Not Found: Not found; Gaia id not found for email a@b\n"
    error = refused(METADATA, answer(404, body.encode(), metadata_flavor="Google"))
    assert error.reason is Reason.NO_SERVICE_ACCOUNT
    assert "the one in the annotation iam.gke.io/gcp-service-account is misspelt or deleted" in error.detail
    assert "attach a service account" not in error.detail


def rpc(status: str, message: str = "", reason: str = "", consumer: object = None) -> dict[str, object]:
    """A google.rpc.Status as Google's REST gives it."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "metadata": {"consumer": consumer},
    }
    return {
        "error": {"status": status, "message": message, "details": [{"@type": "x"}, info] if reason else []}
    }


@pytest.mark.parametrize(
    ("status", "body", "reason", "hint", "command"),
    [
        pytest.param(
            401,
            rpc("UNAUTHENTICATED"),
            Reason.TOKEN_DENIED,
            "does not accept the access token of user:me@example.com",
            "",
            id="bearer",
        ),
        pytest.param(
            404,
            rpc("NOT_FOUND", "Not found; Gaia id not found for email a@b"),
            Reason.IMPERSONATION_DENIED,
            "There is no account a@b: it was deleted",
            "",
            id="no-account",
        ),
        pytest.param(
            403,
            rpc("PERMISSION_DENIED", reason="SERVICE_DISABLED", consumer="projects/my-project"),
            Reason.API_DISABLED,
            "The API is not enabled",
            "gcloud services enable iamcredentials.googleapis.com --project=my-project",
            id="disabled",
        ),
        pytest.param(
            403,
            rpc("PERMISSION_DENIED", reason="SERVICE_DISABLED", consumer="projects/; rm -rf ~"),
            Reason.API_DISABLED,
            "The API is not enabled",
            "gcloud services enable iamcredentials.googleapis.com --project=PROJECT",
            id="disabled-in-an-odd-project",
        ),
        pytest.param(
            403,
            rpc("PERMISSION_DENIED", reason="SERVICE_DISABLED", consumer=7),
            Reason.API_DISABLED,
            "The API is not enabled",
            "gcloud services enable iamcredentials.googleapis.com --project=PROJECT",
            id="disabled-in-no-project",
        ),
        pytest.param(
            403,
            rpc("PERMISSION_DENIED", reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
            Reason.SCOPE_INSUFFICIENT,
            "lacks the scope cloud-platform",
            "gcloud compute instances set-service-account INSTANCE --scopes=cloud-platform",
            id="scopes",
        ),
        *(
            pytest.param(
                403,
                body,
                Reason.QUOTA_PROJECT_DENIED,
                "may not use its quota project",
                "gcloud auth application-default set-quota-project PROJECT",
                id=id,
            )
            for id, body in (
                ("quota-by-reason", rpc("PERMISSION_DENIED", reason="USER_PROJECT_DENIED")),
                ("quota-by-message", rpc("PERMISSION_DENIED", "Grant serviceusage.services.use on it")),
            )
        ),
        *(
            pytest.param(
                status,
                body,
                Reason.IMPERSONATION_DENIED,
                "The caller user:me@example.com may not act as a@b, or there is no such account",
                "gcloud iam service-accounts add-iam-policy-binding a@b --member=user:me@example.com "
                "--role=roles/iam.serviceAccountOpenIdTokenCreator",
                id=id,
            )
            for id, status, body in (
                ("denied", 403, rpc("PERMISSION_DENIED", reason="IAM_PERMISSION_DENIED")),
                ("no-such-account", 404, rpc("NOT_FOUND")),
                ("denied-in-html", 403, b"<html>"),
            )
        ),
        pytest.param(
            400,
            rpc("INVALID_ARGUMENT"),
            Reason.TOKEN_DENIED,
            "check the route's audience or scopes",
            "",
            id="400",
        ),
        pytest.param(
            400,
            {"error": {"status": 7, "details": 7}},
            Reason.TOKEN_DENIED,
            "answered 400.",
            "",
            id="odd-status",
        ),
    ],
)
def test_refusals_of_iam(status: int, body: object, reason: Reason, hint: str, command: str) -> None:
    """Each has the command that fixes it, with the caller, the account and the project filled in where they are known;
    a project that is none is not repeated into a command."""
    error = refused(IAM, answer(status, body))
    assert (error.reason, error.command) == (reason, command)
    assert hint in error.detail
    assert command in error.detail


def test_delegates_are_named_where_there_are_any() -> None:
    """The role on the account is the last delegate's then, and the caller's is on the first."""
    denied, missing = (
        answer(403, rpc("PERMISSION_DENIED")),
        answer(404, rpc("NOT_FOUND", "Gaia id not found")),
    )
    chained = IAM._replace(delegates=("c@d", "e@f"))
    assert "elegate" not in refused(IAM, denied).detail
    error = refused(chained, denied)
    assert "--member=serviceAccount:e@f " in error.command
    assert "Its delegates are c@d, e@f: the caller needs" in error.detail
    assert "There is no account a@b or one of its delegates (c@d, e@f): " in refused(chained, missing).detail


def test_an_access_token_needs_the_larger_role() -> None:
    """`OpenIdTokenCreator` is enough for ID tokens only; who is not known is named so."""
    error = refused(
        IAM._replace(method="generateAccessToken", caller=""), answer(403, rpc("PERMISSION_DENIED"))
    )
    assert error.command.endswith("--member=MEMBER --role=roles/iam.serviceAccountTokenCreator")
    assert "The source may not act as" in error.detail


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("7", 7.0, id="seconds"),
        pytest.param(" 120 ", 120.0, id="spaces"),
        pytest.param("Fri, 15 Jan 2027 08:00:30 GMT", 30.0, id="date"),
        pytest.param("Fri, 15 Jan 2027 07:00:00 GMT", 0.0, id="date-gone-by"),
        pytest.param("soon", None, id="word"),
        pytest.param("-5", None, id="negative"),
        pytest.param("1.5", None, id="fraction"),
        pytest.param("9" * 400, None, id="digits-without-end"),
        pytest.param("", None, id="empty"),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Retry-After is seconds or a date, and anything else is none."""
    assert refused(METADATA, answer(429, retry_after=value)).retry_after == seconds


def test_a_retry_date_is_read_by_the_endpoints_own_clock() -> None:
    """A Retry-After date counts from the answer's Date, so that our clock may be off."""
    found = answer(503, retry_after="Fri, 15 Jan 2027 09:00:30 GMT", date="Fri, 15 Jan 2027 09:00:00 GMT")
    assert found.retry_after == 30.0


@pytest.mark.parametrize(
    ("date", "hint"),
    [
        pytest.param(
            "Fri, 15 Jan 2027 07:00:00 GMT",
            "This machine's clock is 3600 s ahead of the endpoint's",
            id="ahead",
        ),
        pytest.param(
            "Fri, 15 Jan 2027 09:00:00 GMT",
            "This machine's clock is 3600 s behind the endpoint's",
            id="behind",
        ),
        pytest.param("Fri, 15 Jan 2027 08:00:30 GMT", "", id="near-enough"),
        pytest.param("yesterday", "", id="no-date"),
    ],
)
def test_a_clock_that_is_off_is_named(date: str, hint: str) -> None:
    """A difference of a minute and more between our clock and the answer's Date is part of the error."""
    error = refused(OAUTH, answer(400, {"error": "invalid_grant"}, date=date))
    assert hint in error.detail
    assert ("This machine's clock is 3" in error.detail) is bool(hint)


def test_faults_before_an_answer() -> None:
    """Each fault says who, what and what to do."""
    assert [unreachable(METADATA, fault).reason for fault in Fault] == [
        Reason.TOKEN_ENDPOINT_UNREACHABLE
    ] * len(Fault)
    assert (
        unreachable(METADATA, Fault.REFUSED).detail
        == "The metadata server at h:80 refused the connection. Look here."
    )
    assert too_slow(OAUTH, 8.0).reason is Reason.TOKEN_TIMEOUT
    assert (
        too_slow(OAUTH, 8.0).detail
        == "The token endpoint at o gave no complete answer within 8 s. Look there."
    )
    assert too_large(OAUTH, 10).reason is not_http(OAUTH).reason is Reason.TOKEN_MALFORMED
    assert (
        "text/html (5 bytes)"
        in not_a_token(METADATA, answer(200, b"<html", content_type="Text/HTML; x=y")).detail
    )


SECRET = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0LWJvZHk.c2VjcmV0"


@given(
    st.integers(200, 599),
    st.sampled_from(["error", "error_description", "id_token", "text"]),
    st.sampled_from([METADATA, OAUTH, LOGIN, STS, SUBJECT, IAM]),
)
def test_nothing_of_an_answer_is_quoted(status: int, place: str, endpoint: Endpoint) -> None:
    """Whatever the status and wherever a token stands in an answer, no error or text form shows it."""
    body = SECRET.encode() if place == "text" else {"error": "invalid_grant", place: SECRET}
    found = answer(status, body, content_type=SECRET, retry_after=SECRET, date=SECRET)
    for text in (str(refused(endpoint, found)), str(not_a_token(endpoint, found)), repr(found)):
        assert not any(part in text for part in SECRET.split("."))
