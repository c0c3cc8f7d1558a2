"""The interface of all kinds of credentials.

Owns `Grant`, which stands between one fetch (`source`) and the ways to get a token (metadata, service_account,
impersonation, …), and the use of google-auth's credentials behind it. Called in worker threads: everything blocks. A
grant may not retry, log or keep an ID token. The rule: a grant returns what an endpoint gave, or raises a
`SidecarError` that says what to do. google-auth's exceptions don't leave this module, because their texts and
tracebacks hold requests and answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from sidecar.config.combinations import ABILITIES, cannot_give
from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.tokens.fetch.endpoint import Answer, Endpoint, not_a_token
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.token import TokenKey, is_life, seconds_in

if TYPE_CHECKING:
    from sidecar.tokens.fetch.transport import GoogleTransport

SELF_SIGNED_LIFE: Final = 3600
"""Seconds that a self-signed JWT lives: the most that Google accepts."""


class Fetched(NamedTuple):
    """A fetched token, whose text form shows nothing of it."""

    value: str
    endpoint: Endpoint
    answer: Answer | None = None
    """None if there was no HTTP: a signing key, a file."""
    expires_in: float | None = None
    """Seconds, for access tokens, which don't contain their expiry."""
    quota_project: str | None = None
    """The project that is charged for calls with this access token."""
    universe: str | None = None
    """The universe domain of this access token, if its endpoint stated it."""

    def __repr__(self) -> str:
        return f"<Fetched from {self.endpoint.name}>"


class Grant:
    """One credential. It raises CREDENTIAL_MISMATCH for kinds of tokens that it can't give."""

    ability = "metadata"
    """Its row in `combinations.ABILITIES`."""

    def describe(self) -> str:
        """What is used, without secrets."""
        raise NotImplementedError

    def resolved(self) -> Grant:
        """The grant that it stands for; only `adc` stands for another. Reads files; raises `SidecarError`."""
        return self

    def known_email(self) -> str | None:
        """Its service account, as far as files and the configuration show it; may raise `SidecarError`."""
        return None

    def check(self) -> None:
        """Raise `SidecarError` for errors that show before the first fetch."""

    def look(self) -> bool:
        """Whether the files it needs exist; raises `SidecarError` if they are wrong. For the command `check`: for a
        running sidecar they may appear later.
        """
        return False

    def email(self, flight: Flight) -> str | None:
        """Its service account, with a request if needed. None: a person, or unknown."""
        del flight
        return self.known_email()

    def known_universe(self) -> str | None:
        """Its universe domain, as far as files and the configuration show it; may raise `SidecarError`. None: unknown
        without a request.
        """
        return None

    def universe(self, flight: Flight) -> str | None:
        """Its universe domain, with a request if needed. None: unknown."""
        del flight
        return self.known_universe()

    def member(self, flight: Flight) -> str | None:
        """Its name as an IAM member, `serviceAccount:E-MAIL`; None if unknown."""
        email = self.email(flight)
        return None if email is None else f"serviceAccount:{email}"

    def project(self, flight: Flight) -> str | None:
        """Its project, with a request if needed. None if unknown."""
        return project_of(self.email(flight) or "")

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        """An ID token for `audience`."""
        self._cannot(TokenKind.ID)

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """An access token with `scopes`."""
        self._cannot(TokenKind.ACCESS)

    def self_signed_jwt(self, flight: Flight, audience: str) -> Fetched:
        """A JWT for `audience`, signed with this account's own key."""
        self._cannot(TokenKind.SELF_SIGNED_JWT)

    def _cannot(self, kind: TokenKind) -> NoReturn:
        raise mismatch(self, cannot_give(self.ability, kind, persons=True) or "it has no such token")


class IndirectGrant(Grant):
    """A grant that stands for another one, which does its work."""

    def resolved(self) -> Grant:
        """See `Grant.resolved`."""
        raise NotImplementedError

    def known_email(self) -> str | None:
        """See `Grant.known_email`."""
        return self.resolved().known_email()

    def check(self) -> None:
        """See `Grant.check`."""
        self.resolved().check()

    def look(self) -> bool:
        """See `Grant.look`."""
        return self.resolved().look()

    def email(self, flight: Flight) -> str | None:
        """See `Grant.email`."""
        return self.resolved().email(flight)

    def known_universe(self) -> str | None:
        """See `Grant.known_universe`."""
        return self.resolved().known_universe()

    def universe(self, flight: Flight) -> str | None:
        """See `Grant.universe`."""
        return self.resolved().universe(flight)

    def member(self, flight: Flight) -> str | None:
        """See `Grant.member`."""
        return self.resolved().member(flight)

    def project(self, flight: Flight) -> str | None:
        """See `Grant.project`."""
        return self.resolved().project(flight)

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`. `ask` sends requests for other kinds to the grant that it stands for."""
        return self.resolved().access_token(flight, scopes)


def project_of(email: str) -> str | None:
    """The project that a service account's e-mail names
    (https://cloud.google.com/iam/docs/service-account-types); None where it names none."""
    name, _, domain = email.partition("@")
    if domain == "appspot.gserviceaccount.com":
        return name
    project = domain.removesuffix(".iam.gserviceaccount.com")
    return project if project != domain and project and "." not in project else None


def ask(grant: Grant, flight: Flight, key: TokenKey) -> Fetched:
    """Ask `grant` for the kind of token that `key` names; raises `SidecarError`."""
    grant = grant.resolved()
    if (why := cannot_give(grant.ability, key.kind, persons=key.persons)) is not None:
        raise mismatch(grant, why)
    match key.kind:
        case TokenKind.ID:
            return grant.id_token(flight, key.audience)
        case TokenKind.ACCESS:
            return grant.access_token(flight, key.scopes)
        case TokenKind.SELF_SIGNED_JWT:
            return grant.self_signed_jwt(flight, key.audience)


def mismatch(grant: Grant, why: str) -> SidecarError:
    """The credential can't give this kind of token."""
    title = ABILITIES[grant.ability].title
    return SidecarError(
        Reason.CREDENTIAL_MISMATCH,
        f"The credential ({title}: {grant.describe()}) cannot give this token: {why}.",
    )


def self_signed_claims(email: str, audience: str, now_at: float) -> dict[str, object]:
    """The claims of a self-signed JWT (AIP-4111, https://cloud.google.com/iap/docs/authentication-howto)."""
    issued_at = int(now_at)
    return {
        "iss": email,
        "sub": email,
        "aud": audience,
        "iat": issued_at,
        "exp": issued_at + SELF_SIGNED_LIFE,
    }


def refresh(credentials: Any, transport: GoogleTransport, endpoint: Endpoint) -> Answer:
    """Have google-auth's `credentials` make their request on `transport`, and return the answer with status 200.

    The caller reads its contents, because google-auth refuses some whose fault we can name better. Raises
    `SidecarError`: what the transport raised, or CREDENTIAL_INVALID if they failed before asking.
    """
    try:
        credentials.refresh(transport)
    except SidecarError:
        raise
    except Exception:  # noqa: BLE001,S110 - its text may quote what was sent; what came is read by the caller
        pass
    answer = transport.answer
    if answer is None:
        raise SidecarError(
            Reason.CREDENTIAL_INVALID,
            f"google-auth could not use the credential for {endpoint.name} and sent nothing. Check the "
            "credential and the GOOGLE_* and GCE_* environment variables.",
        )
    return answer


def id_token_in(answer: Answer, endpoint: Endpoint, field: str = "id_token") -> Fetched:
    """The ID token in an answer's JSON; raises TOKEN_MALFORMED."""
    found = json_object(answer).get(field)
    if not isinstance(found, str):
        raise not_a_token(endpoint, answer)
    return Fetched(found, endpoint, answer)


def access_token_in(answer: Answer, endpoint: Endpoint, *, quota_project: str | None = None) -> Fetched:
    """The access token in an answer's JSON (RFC 6749 section 5.1); raises TOKEN_MALFORMED, TOKEN_NO_EXPIRY,
    TOKEN_INVALID."""
    body = json_object(answer)
    found, said = body.get("access_token"), body.get("expires_in")
    if not isinstance(found, str) or not found:
        raise not_a_token(endpoint, answer)
    seconds = life_said(endpoint, "expires_in", said, seconds_in(said))
    return Fetched(found, endpoint, answer, seconds, quota_project)


def life_said(endpoint: Endpoint, name: str, said: object, seconds: float | None) -> float:
    """The `seconds` that an access token has to live, as read from what an answer `said` in its field `name`.

    Raises TOKEN_NO_EXPIRY if it says nothing, TOKEN_INVALID for an impossible life.
    """
    if seconds is not None and is_life(seconds):
        return seconds
    if said is not None:
        raise SidecarError(
            Reason.TOKEN_INVALID,
            f"The access token that came from {endpoint.name} has an `{name}` that is not the life of a token: check "
            "what answers there, and this machine's clock.",
        )
    raise SidecarError(
        Reason.TOKEN_NO_EXPIRY,
        f"The access token that came from {endpoint.name} has no `{name}`, so nothing says how long it may be used; "
        "Google's always have one: check what answers there.",
    )


def json_object(answer: Answer) -> Mapping[str, Any]:
    """The JSON object in an answer; empty if there is none."""
    try:
        body = json.loads(answer.data)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
