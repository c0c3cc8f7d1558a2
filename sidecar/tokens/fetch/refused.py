"""What a token endpoint's refusals mean, and what fixes them.

Owns the known failures of each endpoint (metadata server, OAuth, logins, the Security Token Service, IAM
Credentials), each with its reason, a sentence and the command that fixes it. Called by the transport for every status
but 200. Pure. The rule of `endpoint` holds: a body is never quoted. Codes and phrases are compared, and only parts of
a known form (a project, an upper-case code) are repeated. Sources: the texts of Google's endpoints, as users report
them (docs/errors.md).
"""

from __future__ import annotations

from typing import Final

from sidecar.config.credentials import is_email
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.terminal import command as shell
from sidecar.tokens.fetch.endpoint import IMPOSTOR, Answer, Endpoint, Protocol, capital, flavor_hint


def refused(endpoint: Endpoint, answer: Answer) -> SidecarError:
    """Any status but 200."""
    status = answer.status
    if status == 429:
        return _error(endpoint, answer, Reason.TOKEN_RATE_LIMITED, "The sidecar tries again after a pause.")
    if status >= 500 or status == 408:
        # So serverless platforms answer where tokens of the account can't be made, for whatever reason.
        has_failed = endpoint.protocol is Protocol.METADATA and b"Could not fetch URI" in answer.data
        hint = _NOT_FETCHED if has_failed else "The fault is on its side; the sidecar tries again."
        return _error(endpoint, answer, Reason.TOKEN_ENDPOINT_FAILED, hint)
    if status < 400:
        return _error(endpoint, answer, Reason.TOKEN_MALFORMED, f"Redirects are never followed. {IMPOSTOR}")
    match endpoint.protocol:
        case Protocol.METADATA:
            return _refused_by_metadata(endpoint, answer)
        case Protocol.IAM:
            return _refused_by_iam(endpoint, answer)
        case Protocol.SUBJECT:
            return _error(endpoint, answer, Reason.SUBJECT_TOKEN_FAILED, endpoint.denied or _SUBJECT_HINT)
        case _:
            return _refused_by_oauth(endpoint, answer)


_NOT_FETCHED: Final = (
    "It can't make tokens of the attached service account. If that goes on, check that the account is neither deleted "
    "nor disabled; the sidecar tries again."
)


def _refused_by_metadata(endpoint: Endpoint, answer: Answer) -> SidecarError:
    if answer.status == 404 and b"Gaia id not found" in answer.data:
        # GKE's server asks IAM for each token, and repeats what that answers.
        return _error(
            endpoint,
            answer,
            Reason.NO_SERVICE_ACCOUNT,
            "There is no such Google service account: the one in the annotation iam.gke.io/gcp-service-account is "
            "misspelt or deleted (`kubectl get serviceaccount NAME -o yaml`).",
        )
    if answer.status == 404 and endpoint.served:
        return _error(
            endpoint,
            answer,
            Reason.NO_SERVICE_ACCOUNT,
            f"It does not know the {endpoint.subject} any more: check whether it was removed from this instance or "
            f"service, or deleted; on GKE, whether the Kubernetes service account is still bound to it.",
        )
    if answer.status == 404:
        return _error(
            endpoint,
            answer,
            Reason.NO_SERVICE_ACCOUNT,
            f"It has no {endpoint.subject}: attach a service account to this instance or service; on GKE, bind "
            "the Kubernetes service account to a Google one (iam.gke.io/gcp-service-account).",
        )
    if answer.status == 403:
        return _error(
            endpoint,
            answer,
            Reason.TOKEN_DENIED,
            "On GKE, grant the Kubernetes service account roles/iam.workloadIdentityUser on the Google one; "
            "elsewhere, check the rules between this process and the metadata server.",
        )
    return _error(
        endpoint,
        answer,
        Reason.TOKEN_DENIED,
        "Check the route's `audience` or `scopes`: it must be one that Google issues.",
    )


def _refused_by_oauth(endpoint: Endpoint, answer: Answer) -> SidecarError:
    found = answer.oauth_error()
    if found is None:
        if answer.status == 404:
            return _error(
                endpoint,
                answer,
                Reason.TOKEN_ENDPOINT_FAILED,
                "There is nothing there: check `token_uri` in the key.",
            )
        return _error(endpoint, answer, Reason.TOKEN_DENIED, f"It gave no OAuth error. {IMPOSTOR}")
    code, description = found
    if code in {"internal_failure", "server_error", "temporarily_unavailable"}:
        return _error(
            endpoint,
            answer,
            Reason.TOKEN_ENDPOINT_FAILED,
            "The fault is on its side; the sidecar tries again.",
            code,
        )
    if endpoint.protocol is Protocol.LOGIN:
        return _refused_login(endpoint, answer, code)
    if endpoint.protocol is Protocol.STS:
        return _refused_exchange(endpoint, answer, code, description)
    if code == "invalid_grant" and "reasonable timeframe" in description:
        # By how much, `_error` says, where the answer has a date.
        hint = _TIMES_HINT if answer.clock_hint() else f"{_TIMES_HINT} {_CLOCK_HINT}"
        return _error(endpoint, answer, Reason.CLOCK_OFF, hint, code, command=SET_CLOCK)
    command = ""
    if code == "invalid_grant" and "signature" in description and is_email(endpoint.account):
        command = shell(
            *("gcloud", "iam", "service-accounts", "keys", "create", "KEY.json"),
            f"--iam-account={endpoint.account}",
        )
    hint = _oauth_hint(endpoint, code, description)
    return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, code, command=command)


def _oauth_hint(endpoint: Endpoint, code: str, description: str) -> str:
    """What to do about an OAuth error. Google says most of it in the description only."""
    if code == "invalid_grant":
        for phrase, hint in _GRANT_HINTS:
            if phrase in description:
                return hint.format(subject=endpoint.subject)
    return _OAUTH_HINTS.get(code, _OAUTH_HINTS["invalid_grant"]).format(subject=endpoint.subject)


def _refused_login(endpoint: Endpoint, answer: Answer, code: str) -> SidecarError:
    if code != "invalid_grant":
        hint = f"It does not accept the login's client: log in again with `{endpoint.login}`."
        return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, code, command=endpoint.login)
    if answer.oauth_subtype() in ("invalid_rapt", "rapt_required"):
        hint = (
            "The organisation limits how long a login lasts, and this one has ended: log in again with "
            f"`{endpoint.login}`, or use a service account, which has no such limit."
        )
    else:
        hint = (
            "The login has ended: it was revoked, its password changed, or it was not used for six months. Log in "
            f"again with `{endpoint.login}`."
        )
    return _error(endpoint, answer, Reason.REAUTHENTICATION_NEEDED, hint, code, command=endpoint.login)


def _refused_exchange(endpoint: Endpoint, answer: Answer, code: str, description: str) -> SidecarError:
    if code == "invalid_target":
        return _error(endpoint, answer, Reason.TOKEN_DENIED, _NO_PROVIDER, code, command=_PROVIDERS)
    if code == "invalid_scope":
        hint = "It does not know such a scope: check the route's `scopes`."
        return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, code)
    if 'value for "audience"' in description:
        hint = (
            "The `audience` in the file is not the full name of a provider: write the file again with `gcloud iam "
            "workload-identity-pools create-cred-config`."
        )
        return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, code)
    for phrase, hint in _EXCHANGE_HINTS:
        if phrase in description:
            return _error(endpoint, answer, Reason.SUBJECT_TOKEN_FAILED, hint, code)
    hint = (
        "It does not accept the subject token: check that issuer, audience and attribute mapping of the provider fit "
        f"it (`{_PROVIDER}`), and that it has not expired."
    )
    return _error(endpoint, answer, Reason.SUBJECT_TOKEN_FAILED, hint, code)


_PROVIDERS: Final = shell(
    *("gcloud", "iam", "workload-identity-pools", "providers", "list"),
    *("--workload-identity-pool=POOL", "--location=global", "--show-deleted"),
)
_PROVIDER: Final = shell(
    *("gcloud", "iam", "workload-identity-pools", "providers", "describe", "PROVIDER"),
    *("--workload-identity-pool=POOL", "--location=global"),
)
_NO_PROVIDER: Final = (
    "The pool or the provider that the file names is disabled or deleted, or there is none with that name: "
    f"`{_PROVIDERS}` shows which. Enable it, bring it back with `undelete`, or write the file again."
)

_EXCHANGE_HINTS: Final = (
    (
        "stale to sign-in",
        "The subject token has expired: check that the program that writes it renews it, and that this machine's "
        "clock is right.",
    ),
    (
        "the issuer in id token",
        "The subject token is another issuer's than the provider's: compare its `iss` with the provider's issuer "
        f"(`{_PROVIDER}`), up to the slash at its end.",
    ),
    (
        "the audience in id token",
        "The subject token is for another audience: have it issued for one that the provider allows "
        f"(`{_PROVIDER}`; if it names none, for the file's `audience` with `https:` before it).",
    ),
    (
        "connecting to the given credential's issuer",
        "The provider does not know the key that signed the subject token: Google can't reach the issuer for its keys, "
        "or the JWKS that was uploaded to the provider is out of date.",
    ),
    (
        "unable to parse the id token",
        "The subject token is no JWT: check the file's `credential_source`, its `format` above all.",
    ),
    (
        "attribute condition",
        "The provider's attribute condition rejects this identity: change the condition, or use an identity that "
        "meets it.",
    ),
)
"""By a phrase of the STS's error_description, in lower case. The first match counts."""


def _refused_by_iam(endpoint: Endpoint, answer: Answer) -> SidecarError:
    status, message, reason, consumer = answer.rpc_error()
    if answer.status == 401:
        hint = (
            f"It does not accept the access token of {endpoint.caller or 'the source'}: check that it still "
            "exists."
        )
        return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, status)
    if reason == "SERVICE_DISABLED":
        project = f"--project={consumer or 'PROJECT'}"
        command = shell("gcloud", "services", "enable", "iamcredentials.googleapis.com", project)
        hint = f"The API is not enabled in the project of the caller: `{command}`, and wait some minutes."
        return _error(endpoint, answer, Reason.API_DISABLED, hint, reason, command=command)
    if reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        command = "gcloud compute instances set-service-account INSTANCE --scopes=cloud-platform"
        hint = (
            f"The access token of {endpoint.caller or 'the source'} lacks the scope cloud-platform. A Compute Engine "
            f"instance must be stopped, then run `{command}`; on GKE set the node pool's scopes."
        )
        return _error(endpoint, answer, Reason.SCOPE_INSUFFICIENT, hint, reason, command=command)
    if reason == "USER_PROJECT_DENIED" or "serviceusage.services.use" in message:
        command = "gcloud auth application-default set-quota-project PROJECT"
        hint = (
            "The login may not use its quota project: grant roles/serviceusage.serviceUsageConsumer on "
            f"it, or choose another with `{command}` (with `adc`, GOOGLE_CLOUD_QUOTA_PROJECT counts before that)."
        )
        return _error(endpoint, answer, Reason.QUOTA_PROJECT_DENIED, hint, status, command=command)
    if "gaia id not found" in message:
        hint = (
            f"There is no account {endpoint.account}{_or_delegates(endpoint)}: it was deleted, or the e-mail is "
            "mistyped."
        )
        return _error(endpoint, answer, Reason.IMPERSONATION_DENIED, hint, status)
    if answer.status in (403, 404):
        return _impersonation_denied(endpoint, answer, reason or status)
    hint = (
        "It does not accept the request: check the route's audience or scopes, and the e-mail of "
        f"{endpoint.subject}{_or_delegates(endpoint)}."
    )
    return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, status)


def _impersonation_denied(endpoint: Endpoint, answer: Answer, code: str) -> SidecarError:
    role = "OpenIdTokenCreator" if endpoint.method == "generateIdToken" else "TokenCreator"
    role = f"roles/iam.serviceAccount{role}"
    member, chain = endpoint.caller or "MEMBER", ""
    if endpoint.delegates:
        member = f"serviceAccount:{endpoint.delegates[-1]}"
        chain = (
            f" Its delegates are {', '.join(endpoint.delegates)}: the caller needs "
            "roles/iam.serviceAccountTokenCreator on the first, and each of them on the next."
        )
    command = shell(
        *("gcloud", "iam", "service-accounts", "add-iam-policy-binding", endpoint.account),
        *(f"--member={member}", f"--role={role}"),
    )
    who = f"The caller {endpoint.caller}" if endpoint.caller else "The source"
    hint = (
        f"{who} may not act as {endpoint.account}, or there is no such account: check the "
        f"e-mail, then grant {role} on it with `{command}`.{chain} A new grant takes some minutes."
    )
    return _error(endpoint, answer, Reason.IMPERSONATION_DENIED, hint, code, command=command)


def _or_delegates(endpoint: Endpoint) -> str:
    return f" or one of its delegates ({', '.join(endpoint.delegates)})" if endpoint.delegates else ""


_SUBJECT_HINT: Final = (
    "The identity provider of this machine gave no subject token: check `credential_source` in the file, its headers "
    "and that this workload may ask there."
)

SET_CLOCK: Final = "timedatectl set-ntp true"
_TIMES_HINT: Final = "The signed assertion is too old or too new for it."
_CLOCK_HINT: Final = "This machine's clock is off; set it right (NTP)."


_GRANT_HINTS: Final = (
    (
        "signature",
        "The key of {subject} was deleted or disabled, or belongs to another account: make a new key, "
        "and put it in the place of the old one.",
    ),
    (
        "account not found",
        "There is no {subject}: it was deleted, or `client_email` is mistyped.",
    ),
    ("disabled", "{subject} is disabled: enable it, or use another one."),
)
"""By a phrase of Google's error_description, in lower case. The first match counts."""

_OAUTH_HINTS: Final = {
    "invalid_grant": "It does not accept the key of {subject}: see that key and account exist and are enabled, "
    "and that this machine's clock is right.",
    "invalid_client": "It does not know {subject}: see that the account exists.",
    "unauthorized_client": "{subject} may not ask for this: see that the account may have ID tokens.",
    "invalid_scope": "It knows no such scope, or does not accept the audience: check the route's `scopes` or "
    "`audience`.",
    "invalid_request": "It does not accept the request: check `token_uri` in the key and the route's "
    "`audience`.",
}


def _error(
    endpoint: Endpoint, answer: Answer, reason: Reason, hint: str, code: str = "", *, command: str = ""
) -> SidecarError:
    said = f"answered {answer.status}" + (f" {code}" if code else "")
    return SidecarError(
        reason,
        f"{capital(endpoint.name)} {said}. {capital(hint)}{answer.clock_hint()}"
        f"{flavor_hint(endpoint, answer)}",
        retry_after=answer.retry_after,
        command=command,
    )
