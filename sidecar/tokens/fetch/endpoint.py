"""A token endpoint's answers and faults, and what each of them means.

Owns `Endpoint` (the called server), `Answer` (its answer) and the `SidecarError` for each fault; `refused` has the
meaning of an endpoint's refusals. Called by the transport and the grants; it opens no connection and reads no clock.
The rule: each way to fail has its own reason and says what to do (docs/errors.md), in our own words: a body is never
quoted, because it can hold a token and errors are logged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple, final

from sidecar.config.variables import ProxySetting
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.certificates import Certificate, issuer
from sidecar.grammar.moments import from_http_date

CLOCK_TOLERANCE: Final = 60.0
"""Seconds by which this machine's clock may differ from an answer's `Date` before errors mention it."""

IMPOSTOR: Final = "Check that no captive portal, proxy or other service answers in its place."
NETWORK: Final = "Check the network, DNS and (where one is needed) HTTPS_PROXY of this process."
"""What to do when one of Google's endpoints can't be reached."""

SET_CA: Final = (
    "set `ca_file` at the top level of the configuration, or SSL_CERT_FILE (for upstreams as well) or "
    "REQUESTS_CA_BUNDLE, to a PEM file with its CA."
)
"""What to do about a CA that is not trusted."""

_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
_OAUTH_CODE = re.compile(r"[a-z_]{1,40}")
_RPC_CODE = re.compile(r"[A-Z_]{1,60}")
_PROJECT = re.compile(r"projects/[a-z0-9:.-]{1,60}")


class Protocol(Enum):
    """The endpoint's protocol."""

    METADATA = auto()
    """GET; the answer is the token."""
    OAUTH = auto()
    """POST of a signed assertion (RFC 7523); the answer is JSON."""
    LOGIN = auto()
    """POST of a person's refresh token (RFC 6749 section 6)."""
    STS = auto()
    """POST of another provider's token (RFC 8693)."""
    SUBJECT = auto()
    """The other provider's protocol."""
    IAM = auto()
    """Google's REST: JSON both ways, errors as google.rpc.Status."""
    LOCAL = auto()
    """No network: a signing key, a file, a command."""


class Fault(Enum):
    """How an exchange can fail before there is an answer."""

    REFUSED = "refused the connection"
    RESET = "closed the connection before its answer was complete"
    NO_NAME = "has a name that could not be resolved"
    NO_PATH = "could not be reached"
    TLS = "did not pass the TLS handshake"


class Endpoint(NamedTuple):
    """The server that is asked for a token."""

    name: str
    """Its name in a sentence: "the metadata server at 127.0.0.1:8080"."""
    protocol: Protocol
    subject: str
    """Whose token is requested, worded for a sentence."""
    absent: str
    """What to do when it can't be reached: a sentence or two."""
    account: str = ""
    """IAM, OAUTH: the e-mail of the service account whose token is requested."""
    caller: str = ""
    """IAM: the member that asks (`serviceAccount:E-MAIL`), if known."""
    method: str = ""
    """IAM: the method, such as `generateIdToken`."""
    served: bool = False
    """METADATA: whether it has answered before."""
    denied: str = ""
    """SUBJECT: what to do if it refuses; empty for the usual advice."""
    login: str = ""
    """LOGIN: the command that logs in again. METADATA: the command that makes the metadata server unnecessary, for
    when it does not answer.
    """


@final
class Answer:
    """An HTTP answer in the shape that google-auth expects; its text form shows nothing of the body."""

    __slots__ = ("data", "headers", "received_at", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], data: bytes, *, received_at: float = 0.0
    ) -> None:
        self.status = status
        self.headers = headers
        """By lower-case name."""
        self.data = data
        self.received_at = received_at
        """Unix seconds."""

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.media_type} {len(self.data)} bytes>"

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, or a phrase if there is none."""
        found = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not found:
            return "no Content-Type"
        return found if _MEDIA_TYPE.fullmatch(found) else "an odd Content-Type"

    @property
    def retry_after(self) -> float | None:
        """For how many seconds the endpoint asks for no calls (RFC 9110 section 10.2.3)."""
        value = self.headers.get("retry-after", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", value):
            return float(value)
        at = from_http_date(value)
        return None if at is None else max(at - (self._date_at or self.received_at), 0.0)

    @property
    def clock_ahead(self) -> float | None:
        """How many seconds this machine's clock is ahead of the endpoint's, by its `Date`."""
        at = self._date_at
        return None if at is None else self.received_at - at

    @property
    def _date_at(self) -> float | None:
        return from_http_date(self.headers.get("date", ""))

    def clock_hint(self) -> str:
        """A sentence about the clock if it is off, else empty."""
        ahead = self.clock_ahead
        if ahead is None or abs(ahead) < CLOCK_TOLERANCE:
            return ""
        side = "ahead of" if ahead > 0 else "behind"
        return f" This machine's clock is {abs(ahead):.0f} s {side} the endpoint's: set it right (NTP)."

    def oauth_error(self) -> tuple[str, str] | None:
        """Code and description of an OAuth error (RFC 6749 section 5.2). Don't quote them."""
        body = self._json()
        code = body.get("error")
        if not isinstance(code, str) or not _OAUTH_CODE.fullmatch(code):
            return None
        description = body.get("error_description")
        return code, description.lower() if isinstance(description, str) else ""

    def oauth_subtype(self) -> str:
        """Google's `error_subtype` of an OAuth error, or empty."""
        found = self._json().get("error_subtype")
        return found if isinstance(found, str) else ""

    def rpc_error(self) -> tuple[str, str, str, str]:
        """From a google.rpc.Status: its status, its message in lower case (don't quote it), and from its ErrorInfo
        the reason and the project. Each is empty if missing.
        """
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


_FLAVOR: Final = "Google"


def has_flavor(endpoint: Endpoint, answer: Answer) -> bool:
    """Whether the answer comes from a metadata server, if one was asked. Each of its answers has `Metadata-Flavor:
    Google`, by which Google's libraries recognise it
    (https://cloud.google.com/compute/docs/metadata/querying-metadata).
    """
    return endpoint.protocol is not Protocol.METADATA or answer.headers.get("metadata-flavor") == _FLAVOR


def no_flavor(endpoint: Endpoint, answer: Answer) -> SidecarError:
    """Status 200 without the sign of a metadata server: the answer is not used."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{capital(endpoint.name)} answered {answer.status} with {answer.media_type} and without "
        f"`Metadata-Flavor: {_FLAVOR}`, so what answers there is not a metadata server. {IMPOSTOR}",
    )


def flavor_hint(endpoint: Endpoint, answer: Answer) -> str:
    """A sentence for a refusal that may not come from the metadata server, else empty."""
    if has_flavor(endpoint, answer):
        return ""
    return f" The answer has no `Metadata-Flavor: {_FLAVOR}`, so it may come from something else. {IMPOSTOR}"


def unreachable(endpoint: Endpoint, fault: Fault) -> SidecarError:
    """There was no answer."""
    return SidecarError(
        Reason.TOKEN_ENDPOINT_UNREACHABLE,
        f"{capital(endpoint.name)} {fault.value}. {endpoint.absent}",
        command=_instead(endpoint),
    )


def untrusted(endpoint: Endpoint, trust: str, chain: Sequence[Certificate]) -> SidecarError:
    """The endpoint's certificate has no trusted CA above it. `trust` names the trusted CAs, `chain` is what the
    server sent.
    """
    ca = issuer(chain) or "of its certificate"
    return SidecarError(
        Reason.TOKEN_ENDPOINT_UNREACHABLE,
        f"The CA {ca} is not trusted, so {endpoint.name} was sent nothing: certificates are judged by {trust}. If a "
        f"proxy on the way opens TLS, {SET_CA} Verification can't be switched off.",
    )


def bad_certificate(endpoint: Endpoint, message: str) -> SidecarError:
    """The certificate was refused for another reason, given by OpenSSL's `message`."""
    return SidecarError(
        Reason.TOKEN_ENDPOINT_UNREACHABLE,
        f"The certificate of {endpoint.name} was not accepted ({message}). Check this machine's clock, and that no "
        "proxy or captive portal answers in its place. Verification can't be switched off.",
    )


def no_cas(endpoint: Endpoint, why: str) -> SidecarError:
    """The named CAs can't be used, for the reason in `why`. The endpoint was not called."""
    return SidecarError(
        Reason.TOKEN_ENDPOINT_UNREACHABLE,
        f"{capital(endpoint.name)} was not asked, since there is no CA to judge it by: {why}. Fix that file, or unset "
        "what names it.",
    )


def proxy_unusable(endpoint: Endpoint, why: str) -> SidecarError:
    """The environment names a proxy that can't be used, for the reason in `why`. The proxy was not called."""
    return SidecarError(Reason.TOKEN_ENDPOINT_UNREACHABLE, f"{capital(endpoint.name)} was not asked. {why}.")


def proxy_failed(endpoint: Endpoint, setting: ProxySetting, status: int | None) -> SidecarError:
    """The proxy was not reached, or answered `status` and made no tunnel."""
    match status:
        case None:
            what = "could not be reached. Check that it runs, and its host and port"
        case 401 | 407:  # 401 is tinyproxy's for credentials that it does not take
            what = f"wants other credentials (status {status}). Write a user name and password into its URL, escaped"
        case _ if status < 500:
            what = f"refused the way there (status {status}). Have it allow CONNECT to that host"
        case _:
            what = f"did not reach it (status {status}). See whether the proxy can resolve that host"
    return SidecarError(
        Reason.TOKEN_ENDPOINT_UNREACHABLE,
        f"{capital(endpoint.name)} was not asked: the proxy {setting.proxy}, which {setting.variable} names, {what}, "
        "or add it to NO_PROXY if it needs no proxy.",
    )


def too_slow(endpoint: Endpoint, seconds: float) -> SidecarError:
    """There was no complete answer within the deadline."""
    return SidecarError(
        Reason.TOKEN_TIMEOUT,
        f"{capital(endpoint.name)} gave no complete answer within {seconds:g} s. {endpoint.absent}",
        command=_instead(endpoint),
    )


def too_large(endpoint: Endpoint, limit: int) -> SidecarError:
    """The answer is larger than any token needs."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{capital(endpoint.name)} answered with more than {limit} bytes, so not with a token. {IMPOSTOR}",
    )


def compressed(endpoint: Endpoint) -> SidecarError:
    """The answer has a content coding, although the request said `Accept-Encoding: identity`."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{capital(endpoint.name)} gave a compressed answer, which was not asked for. {IMPOSTOR}",
    )


def not_http(endpoint: Endpoint) -> SidecarError:
    """The answer is not HTTP."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{capital(endpoint.name)} gave an answer that is not HTTP. {IMPOSTOR}",
    )


def not_a_token(endpoint: Endpoint, answer: Answer) -> SidecarError:
    """Status 200 without a token."""
    return SidecarError(
        Reason.TOKEN_MALFORMED,
        f"{capital(endpoint.name)} answered 200 with {answer.media_type} ({len(answer.data)} bytes) "
        f"and not with a token. {IMPOSTOR}",
    )


def _instead(endpoint: Endpoint) -> str:
    return endpoint.login if endpoint.protocol is Protocol.METADATA else ""


def _word(found: object) -> str:
    """One of Google's upper-case codes, or empty."""
    return found if isinstance(found, str) and _RPC_CODE.fullmatch(found) else ""


def capital(text: str) -> str:
    """`text` with a capital, for the beginning of a sentence."""
    return text[:1].upper() + text[1:]
