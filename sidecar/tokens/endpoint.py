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
from typing import Final, NamedTuple, final

from sidecar.errors import Reason, SidecarError

CLOCK_TOLERANCE: Final = 60.0
"""Seconds that this machine's clock may differ from an answer's `Date` before it is mentioned."""

_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
_OAUTH_CODE = re.compile(r"[a-z_]{1,40}")


class Protocol(Enum):
    """What is spoken with the endpoint."""

    METADATA = auto()
    """GET; the answer is the token."""
    OAUTH = auto()
    """POST of a grant (RFC 7523); the answer is JSON."""


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
        try:
            body = json.loads(self.data)
        except (ValueError, RecursionError):
            return None
        code = body.get("error") if isinstance(body, dict) else None
        if not isinstance(code, str) or not _OAUTH_CODE.fullmatch(code):
            return None
        description = body.get("error_description")
        return code, description.lower() if isinstance(description, str) else ""


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
    if endpoint.protocol is Protocol.METADATA:
        return _refused_by_metadata(endpoint, answer)
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
    return _error(endpoint, answer, Reason.TOKEN_DENIED, _oauth_hint(endpoint, code, description), code)


def _oauth_hint(endpoint: Endpoint, code: str, description: str) -> str:
    """What to do about an OAuth error; Google says most of it in the description only."""
    if code == "invalid_grant":
        for phrase, hint in _GRANT_HINTS:
            if phrase in description:
                return hint.format(subject=endpoint.subject)
    return _OAUTH_HINTS.get(code, _OAUTH_HINTS["invalid_grant"]).format(subject=endpoint.subject)


_GRANT_HINTS: Final = (
    (
        "reasonable timeframe",
        "The signed assertion is too old or too new for it: this machine's clock is off; set it right (NTP).",
    ),
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


def _error(endpoint: Endpoint, answer: Answer, reason: Reason, hint: str, code: str = "") -> SidecarError:
    said = f"answered {answer.status}" + (f" {code}" if code else "")
    return SidecarError(
        reason,
        f"{_capital(endpoint.name)} {said}. {_capital(hint)}{answer.clock_hint()}",
        retry_after=answer.retry_after,
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _http_date(value: str) -> float | None:
    """An HTTP-date (RFC 9110 section 5.6.7) in Unix seconds."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
