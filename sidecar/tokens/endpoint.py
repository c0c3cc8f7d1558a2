"""A token endpoint's answers and faults, and what each of them means.

Owns `Endpoint` (who is asked), `Answer` (what came back) and the way from either to a `SidecarError`. Called
by the transport and the fetch; it opens no connection and reads no clock. The rule: each way to fail has its
own reason and says what to do (docs/errors.md), in words of ours: nothing of a body is ever quoted, since a
body can hold a token and an error's text ends up in logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, Final, NamedTuple, final

from sidecar.errors import Reason, SidecarError

CLOCK_TOLERANCE: Final = 60.0
"""Seconds that this machine's clock may differ from an answer's `Date` before it is mentioned."""

_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
_OAUTH_CODE = re.compile(r"[a-z_]{1,40}")
_RPC_CODE = re.compile(r"[A-Z_]{1,60}")
_PROJECT = re.compile(r"projects/[a-z0-9:.-]{1,60}")


class Protocol(Enum):
    """What is spoken with the endpoint."""

    METADATA = auto()
    """GET; the answer is the token."""
    OAUTH = auto()
    """POST of a signed assertion (RFC 7523); the answer is JSON."""
    LOGIN = auto()
    """POST of a person's refresh token (RFC 6749 section 6)."""
    STS = auto()
    """POST of another provider's token (RFC 8693)."""
    SUBJECT = auto()
    """Whatever the other provider speaks."""
    IAM = auto()
    """Google's REST: JSON both ways, errors as google.rpc.Status."""
    LOCAL = auto()
    """No network: a key that signs, a file, a command."""


class Fault(Enum):
    """How an exchange can fail before there is an answer."""

    REFUSED = "refused the connection"
    RESET = "closed the connection before its answer was complete"
    NO_NAME = "has a name that could not be resolved"
    NO_PATH = "could not be reached"
    TLS = "did not pass the TLS handshake or the check of its certificate"
    PROXY = "could not be reached through the configured proxy"


class Endpoint(NamedTuple):
    """Who is asked for a token."""

    name: str
    """As it stands in a sentence: "the metadata server at 127.0.0.1:8080"."""
    protocol: Protocol
    subject: str
    """Whose token is asked for, as it stands in a sentence."""
    absent: str
    """What to do when it can't be reached: a sentence or two."""
    account: str = ""
    """IAM: the e-mail of the service account whose token is asked for."""
    caller: str = ""
    """IAM: the member that asks (`serviceAccount:E-MAIL`), where it is known."""
    method: str = ""
    """IAM: what is called, such as `generateIdToken`."""
    login: str = ""
    """LOGIN: the command that logs in again."""


@final
class Answer:
    """An HTTP answer in the shape that google-auth expects; its text form shows nothing of the body."""

    __slots__ = ("data", "headers", "received_at", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], data: bytes, *, received_at: float = 0.0
    ) -> None:
        self.status = status
        self.headers = headers
        """Looked up without regard to case."""
        self.data = data
        self.received_at = received_at
        """Unix seconds."""

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.media_type} {len(self.data)} bytes>"

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, or what to say in its place."""
        found = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not found:
            return "no Content-Type"
        return found if _MEDIA_TYPE.fullmatch(found) else "an odd Content-Type"

    @property
    def retry_after(self) -> float | None:
        """Seconds that the endpoint asks to be left alone (RFC 9110 section 10.2.3)."""
        value = self.headers.get("retry-after", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", value):
            return float(value)
        at = _http_date(value)
        return None if at is None else max(at - (self._date_at or self.received_at), 0.0)

    @property
    def clock_ahead(self) -> float | None:
        """How far (seconds) this machine's clock is ahead of the endpoint's, by its `Date`."""
        at = self._date_at
        return None if at is None else self.received_at - at

    @property
    def _date_at(self) -> float | None:
        return _http_date(self.headers.get("date", ""))

    def clock_hint(self) -> str:
        """A sentence about the clock where it is off, else nothing."""
        ahead = self.clock_ahead
        if ahead is None or abs(ahead) < CLOCK_TOLERANCE:
            return ""
        side = "ahead of" if ahead > 0 else "behind"
        return f" This machine's clock is {abs(ahead):.0f} s {side} the endpoint's: set it right (NTP)."

    def oauth_error(self) -> tuple[str, str] | None:
        """Code and description of an OAuth error (RFC 6749 section 5.2); not for quoting."""
        body = self._json()
        code = body.get("error")
        if not isinstance(code, str) or not _OAUTH_CODE.fullmatch(code):
            return None
        description = body.get("error_description")
        return code, description.lower() if isinstance(description, str) else ""

    def oauth_subtype(self) -> str:
        """Google's `error_subtype` of an OAuth error, or nothing."""
        found = self._json().get("error_subtype")
        return found if isinstance(found, str) else ""

    def rpc_error(self) -> tuple[str, str, str, str]:
        """Of a google.rpc.Status: its status, its message in lower case (not for quoting), and of its ErrorInfo the
        reason and the project that is meant; each empty where there is none."""
        error = self._json().get("error")
        if not isinstance(error, dict):
            return "", "", "", ""
        details = error.get("details")
        entries = [entry for entry in details if isinstance(entry, dict)] if isinstance(details, list) else []
        info = next((entry for entry in entries if "reason" in entry), {})
        metadata = info.get("metadata")
        consumer = metadata.get("consumer") if isinstance(metadata, dict) else None
        message = error.get("message")
        return (
            _word(error.get("status")),
            message.lower() if isinstance(message, str) else "",
            _word(info.get("reason")),
            consumer.removeprefix("projects/")
            if isinstance(consumer, str) and _PROJECT.fullmatch(consumer)
            else "",
        )

    def _json(self) -> Mapping[str, Any]:
        try:
            body = json.loads(self.data)
        except (ValueError, RecursionError):
            return {}
        return body if isinstance(body, dict) else {}


def unreachable(endpoint: Endpoint, fault: Fault) -> SidecarError:
    """No answer at all."""
    return SidecarError(
        Reason.TOKEN_ENDPOINT_UNREACHABLE,
        f"{_capital(endpoint.name)} {fault.value}. {endpoint.absent}",
    )


def too_slow(endpoint: Endpoint, seconds: float) -> SidecarError:
    """No complete answer within the deadline."""
    return SidecarError(
        Reason.TOKEN_TIMEOUT,
        f"{_capital(endpoint.name)} gave no complete answer within {seconds:g} s. {endpoint.absent}",
    )


def too_large(endpoint: Endpoint, limit: int) -> SidecarError:
    """More than any token needs."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{_capital(endpoint.name)} answered with more than {limit} bytes, so not with a token. {_IMPOSTOR}",
    )


def not_http(endpoint: Endpoint) -> SidecarError:
    """Something came back that no HTTP parser understands."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{_capital(endpoint.name)} gave an answer that is not HTTP. {_IMPOSTOR}",
    )


def not_a_token(endpoint: Endpoint, answer: Answer) -> SidecarError:
    """Status 200, and no token in it."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{_capital(endpoint.name)} answered 200 with {answer.media_type} ({len(answer.data)} bytes) "
        f"and not with a token. {_IMPOSTOR}",
    )


def refused(endpoint: Endpoint, answer: Answer) -> SidecarError:
    """Any status but 200."""
    status = answer.status
    if status == 429:
        return _error(endpoint, answer, Reason.TOKEN_RATE_LIMITED, "It is asked again after a pause.")
    if status >= 500 or status == 408:
        return _error(
            endpoint, answer, Reason.TOKEN_ENDPOINT_FAILED, "That is a fault of its own: it is asked again."
        )
    if status < 400:
        return _error(endpoint, answer, Reason.TOKEN_MALFORMED, f"Redirects are never followed. {_IMPOSTOR}")
    match endpoint.protocol:
        case Protocol.METADATA:
            return _refused_by_metadata(endpoint, answer)
        case Protocol.IAM:
            return _refused_by_iam(endpoint, answer)
        case Protocol.SUBJECT:
            return _error(endpoint, answer, Reason.SUBJECT_TOKEN_FAILED, _SUBJECT_HINT)
        case _:
            return _refused_by_oauth(endpoint, answer)


_IMPOSTOR: Final = "Check that no captive portal, proxy or other service answers in its place."


def _refused_by_metadata(endpoint: Endpoint, answer: Answer) -> SidecarError:
    if answer.status == 404:
        return _error(
            endpoint,
            answer,
            Reason.NO_SERVICE_ACCOUNT,
            f"It knows no {endpoint.subject}: attach a service account to this instance or service; on GKE, bind "
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
        "Check the route's `audience`: it must be one that Google issues.",
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
        return _error(endpoint, answer, Reason.TOKEN_DENIED, f"It gave no OAuth error. {_IMPOSTOR}")
    code, description = found
    if code in {"internal_failure", "server_error", "temporarily_unavailable"}:
        return _error(
            endpoint,
            answer,
            Reason.TOKEN_ENDPOINT_FAILED,
            "That is a fault of its own: it is asked again.",
            code,
        )
    if endpoint.protocol is Protocol.LOGIN:
        return _refused_login(endpoint, answer, code)
    if endpoint.protocol is Protocol.STS:
        return _refused_exchange(endpoint, answer, code, description)
    if code == "invalid_grant" and "reasonable timeframe" in description:
        return _error(endpoint, answer, Reason.CLOCK_OFF, _CLOCK_HINT, code, command=SET_CLOCK)
    return _error(endpoint, answer, Reason.TOKEN_DENIED, _oauth_hint(endpoint, code, description), code)


def _oauth_hint(endpoint: Endpoint, code: str, description: str) -> str:
    """What to do about an OAuth error; Google says most of it in the description only."""
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
    for phrase, hint in _EXCHANGE_HINTS:
        if phrase in description:
            return _error(endpoint, answer, Reason.SUBJECT_TOKEN_FAILED, hint, code)
    hint = (
        "It does not accept the subject token: see that issuer, audience and attribute mapping of the provider fit "
        "it (`gcloud iam workload-identity-pools providers describe PROVIDER --workload-identity-pool=POOL "
        "--location=global`), and that it has not expired."
    )
    return _error(endpoint, answer, Reason.SUBJECT_TOKEN_FAILED, hint, code)


_EXCHANGE_HINTS: Final = (
    (
        'value for "audience"',
        "The `audience` in the file is not the full name of a provider: write the file again with `gcloud iam "
        "workload-identity-pools create-cred-config`.",
    ),
    (
        "stale to sign-in",
        "The subject token was issued too long ago: see that whoever writes it writes it anew, and that this "
        "machine's clock is right.",
    ),
    (
        "attribute condition",
        "The provider's attribute condition rejects this identity: change the condition, or use an identity that "
        "meets it.",
    ),
)
"""By a phrase of the STS's error_description, lower case; the first that fits."""


def _refused_by_iam(endpoint: Endpoint, answer: Answer) -> SidecarError:
    status, message, reason, consumer = answer.rpc_error()
    if answer.status == 401:
        hint = f"It does not accept the access token of {endpoint.caller or 'the source'}: see that it still exists."
        return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, status)
    if reason == "SERVICE_DISABLED":
        command = f"gcloud services enable iamcredentials.googleapis.com --project={consumer or 'PROJECT'}"
        hint = f"The API is not enabled in the project of the caller: `{command}`, and wait some minutes."
        return _error(endpoint, answer, Reason.API_DISABLED, hint, reason, command=command)
    if reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        command = "gcloud compute instances set-service-account INSTANCE --scopes=cloud-platform"
        hint = (
            f"The access token of {endpoint.caller or 'the source'} lacks the scope cloud-platform. A Compute Engine "
            f"instance is stopped and given it with `{command}`; GKE: the node pool's scopes."
        )
        return _error(endpoint, answer, Reason.SCOPE_INSUFFICIENT, hint, reason, command=command)
    if reason == "USER_PROJECT_DENIED" or "serviceusage.services.use" in message:
        command = "gcloud auth application-default set-quota-project PROJECT"
        hint = (
            "The quota project of the login may not be used by it: grant roles/serviceusage.serviceUsageConsumer on "
            f"it, or choose another with `{command}`."
        )
        return _error(endpoint, answer, Reason.QUOTA_PROJECT_DENIED, hint, status, command=command)
    if answer.status in (403, 404):
        return _impersonation_denied(endpoint, answer, reason or status)
    hint = (
        "It does not understand the request: check the route's audience or scopes, and the e-mails of "
        f"{endpoint.subject} and its delegates."
    )
    return _error(endpoint, answer, Reason.TOKEN_DENIED, hint, status)


def _impersonation_denied(endpoint: Endpoint, answer: Answer, code: str) -> SidecarError:
    role = "OpenIdTokenCreator" if endpoint.method == "generateIdToken" else "TokenCreator"
    role = f"roles/iam.serviceAccount{role}"
    command = (
        f"gcloud iam service-accounts add-iam-policy-binding {endpoint.account} "
        f"--member={endpoint.caller or 'MEMBER'} --role={role}"
    )
    hint = (
        f"{endpoint.caller or 'The source'} may not act as {endpoint.account}, or there is no such account: check the "
        f"e-mail, then grant {role} on it with `{command}` (with delegates, "
        "roles/iam.serviceAccountTokenCreator from each to the next). A new grant takes some minutes."
    )
    return _error(endpoint, answer, Reason.IMPERSONATION_DENIED, hint, code, command=command)


_SUBJECT_HINT: Final = (
    "The identity provider of this machine gave no subject token: check `credential_source` in the file, its headers "
    "and that this workload may ask there."
)

SET_CLOCK: Final = "timedatectl set-ntp true"
_CLOCK_HINT: Final = (
    "The signed assertion is too old or too new for it: this machine's clock is off; set it right (NTP)."
)


_GRANT_HINTS: Final = (
    (
        "signature",
        "The key of {subject} was deleted or disabled, or belongs to another account: make a new key.",
    ),
    (
        "account not found",
        "There is no {subject}: it was deleted, or `client_email` is mistyped.",
    ),
    ("disabled", "{subject} is disabled: enable it, or use another one."),
)
"""By a phrase of Google's error_description, lower case; the first that fits."""

_OAUTH_HINTS: Final = {
    "invalid_grant": "It does not accept the key of {subject}: see that key and account exist and are enabled, "
    "and that this machine's clock is right.",
    "invalid_client": "It does not know {subject}: see that the account exists.",
    "unauthorized_client": "{subject} may not ask for this: see that the account may have ID tokens.",
    "invalid_scope": "It does not accept the audience: check the route's `audience`.",
    "invalid_request": "It does not understand the request: check `token_uri` in the key and the route's "
    "`audience`.",
}


def _error(
    endpoint: Endpoint, answer: Answer, reason: Reason, hint: str, code: str = "", *, command: str = ""
) -> SidecarError:
    said = f"answered {answer.status}" + (f" {code}" if code else "")
    return SidecarError(
        reason,
        f"{_capital(endpoint.name)} {said}. {_capital(hint)}{answer.clock_hint()}",
        retry_after=answer.retry_after,
        command=command,
    )


def _word(found: object) -> str:
    """An upper-case code of Google's, or nothing."""
    return found if isinstance(found, str) and _RPC_CODE.fullmatch(found) else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _http_date(value: str) -> float | None:
    """An HTTP-date (RFC 9110 section 5.6.7) in Unix seconds."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
