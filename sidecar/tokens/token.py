"""A token, its key, and the facts read from it.

Owns `TokenSource` (the seam between the store and the credentials), `TokenKey`, `Token` and the reading of a JWT's
claims. Called by the route table (which makes keys), the sources (which make tokens), the store (which keeps them)
and the data path (which takes `Token.bearer`). Pure: no I/O, no clock, no randomness; time comes in as an argument.
It does not verify signatures: the token came from the issuer, and the target verifies. The rules: `exp` always comes
from the token (docs/architecture.md, "One token"). A token's text form has only its audience and expiry. What the
data path gets is safe in a header line (RFC 6750 section 2.1, RFC 7515 section 3.1: three base64url parts).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn, Protocol, Self, final

from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.moments import rfc3339
from sidecar.tokens import placeholder

MAX_JWT: Final = 16 * 1024
"""Bytes. Google's are about 1 KiB; nginx and Node refuse header lines over 8 to 16 KiB."""

MAX_LIFE: Final = 10 * 366 * 86400.0
"""Seconds: the longest whole life, and the longest time since a token's end. Google's tokens live for one to twelve
hours, ready-made ones of other issuers for months. A token with a longer life would never be renewed.
"""

MAX_AHEAD: Final = 86400.0
"""Seconds by which a token's beginning may lie ahead. With a clock that is further behind, certificates would not be
accepted either.
"""

_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_OPAQUE: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 section 2.1."""


class TokenSource(Protocol):
    """One credential of the configuration. Its meaning never changes: if the credential comes to mean another
    identity, it is another source. Two sources are the same only if they are the same object.
    """

    @property
    def name(self) -> str:
        """The credential's name in the configuration, for people: logs, metrics, pages."""
        ...

    async def mint(self, key: TokenKey) -> Token:
        """Fetch a token. Ends within the source's own deadline; raises `SidecarError` only."""
        ...

    def describe(self) -> str:
        """What was found, in a few words without secrets, for logs and the status page."""
        ...


class TokenKey(NamedTuple):
    """What makes two tokens the same for the cache.

    It holds the source itself, not its name: after a reload another identity may have the same name, and a request
    admitted before must not get that one's token.
    """

    source: TokenSource
    audience: str
    """What the token is for: its `aud`, or the scopes of an access token, separated by spaces."""
    kind: TokenKind = TokenKind.ID
    persons: bool = False
    """Whether a person's ID token will do, whose `aud` is gcloud's client id."""

    @property
    def credential(self) -> str:
        """The credential's name, for messages."""
        return self.source.name

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of an access token."""
        return tuple(self.audience.split(" ")) if self.kind is TokenKind.ACCESS else ()


@final
class Token:
    """One bearer token. Only `bearer` shows its text."""

    __slots__ = ("audience", "bearer", "expires_at", "issued_at")

    def __init__(self, value: str, *, audience: str, issued_at: float, expires_at: float) -> None:
        self.audience = audience
        self.issued_at = issued_at
        """Unix seconds: the token's `iat`, or when it was received if it has none."""
        self.expires_at = expires_at
        """Unix seconds: the token's `exp`."""
        self.bearer = b"Bearer " + value.encode("ascii")
        """The header value, ready for use."""

    @classmethod
    def from_jwt(cls, value: str, *, received_at: float) -> Self:
        """Read audience and life from the token itself; `received_at` (Unix seconds) stands in for a missing
        `iat`.

        Raises `SidecarError`: TOKEN_MALFORMED unless it is a JWT with one audience, TOKEN_NO_EXPIRY without `exp`,
        TOKEN_INVALID for impossible times. The errors quote nothing but these times.
        """
        _refuse_placeholder(value)
        claims = read_claims(value)
        if claims is None:
            _malformed("The token endpoint answered with something that is not a JWT.")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) == 1:
            audience = audience[0]
        if not isinstance(audience, str):
            _malformed("The token that came names no audience, or several.")
        if claims.get("exp") is None:
            raise SidecarError(
                Reason.TOKEN_NO_EXPIRY,
                "The token has no `exp`, so the sidecar can't know how long it is valid; Google's tokens always "
                "have one: check what answers at the token endpoint.",
            )
        issued_at, expires_at = _life(claims.get("iat"), claims["exp"], received_at)
        return cls(value, audience=audience, issued_at=issued_at, expires_at=expires_at)

    @classmethod
    def opaque(cls, value: str, *, scopes: str, received_at: float, expires_at: float) -> Self:
        """An access token, whose life was stated beside it. Times are in Unix seconds. Raises TOKEN_MALFORMED if it
        can't be a bearer token, TOKEN_INVALID for an impossible end.
        """
        if len(value) > MAX_JWT or _OPAQUE.fullmatch(value) is None:
            _malformed("The token endpoint answered with something that is not a bearer token.")
        _refuse_placeholder(value)
        _life(None, expires_at, received_at)
        return cls(value, audience=scopes, issued_at=received_at, expires_at=expires_at)

    def __repr__(self) -> str:
        return f"<Token audience={self.audience!r} expires_at={self.expires_at:.0f}>"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Token is a secret: it can be neither pickled nor copied")


def _refuse_placeholder(value: str) -> None:
    if placeholder.is_in(value.encode("utf-8", "replace")):
        raise SidecarError(
            Reason.TOKEN_INVALID,
            "What came is the placeholder of a sidecar, which is worth nothing: its `metadata_server` has `tokens: "
            "placeholder`, or it has `google_token_endpoints`. Get tokens elsewhere, or send the requests through that "
            "sidecar.",
        )


def _malformed(detail: str) -> NoReturn:
    raise SidecarError(
        Reason.TOKEN_MALFORMED, detail + " Check that no captive portal or proxy answers in its place."
    )


def _life(iat: object, exp: object, received_at: float) -> tuple[float, float]:
    """When a token's life begins and ends. Raises TOKEN_INVALID for times that can't be planned with or shown."""
    expires_at = seconds_in(exp)
    issued_at = received_at if iat is None else seconds_in(iat)
    if (
        issued_at is not None
        and expires_at is not None
        and issued_at - received_at <= MAX_AHEAD
        and abs(expires_at - issued_at) <= MAX_LIFE
        and (iat is None or issued_at < expires_at)
        and received_at - expires_at <= MAX_LIFE
    ):
        return issued_at, expires_at
    said = ["no time" if moment is None else rfc3339(moment) for moment in (issued_at, expires_at)]
    raise SidecarError(
        Reason.TOKEN_INVALID,
        f"The token says that it is valid from {said[0]} to {said[1]}, which can't be right; this machine's clock "
        f"says {rfc3339(received_at)}. Check that clock, then what answers at the token endpoint or made the token.",
    )


def is_life(seconds: float) -> bool:
    """Whether a token may have this long to live, in seconds; or, if negative, be over for this long."""
    return abs(seconds) <= MAX_LIFE


def read_claims(value: str) -> Mapping[str, Any] | None:
    """The payload of a JWT, unverified, or None. Never raises, because `json`'s errors contain the text."""
    if len(value) > MAX_JWT or _JWT.fullmatch(value) is None:
        return None
    payload = value.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def seconds_in(claim: object) -> float | None:
    """A number of seconds in JSON, such as a NumericDate (RFC 7519 section 2); None for anything else, and for NaN."""
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        return None
    try:
        seconds = float(claim)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None
