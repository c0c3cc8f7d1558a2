"""The shared part of all front ends: what they check, and what they answer.

Owns the check of a token, the two ways to trust one, what the app behind learns, and the exception for an answer of
the front end. Called by the front ends; reads no request, and time is an argument. Signatures are really verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from aiohttp import web

from sidecar.emulator.keys import BadTokenError, SigningKey, read, signing_key
from sidecar.emulator.kinds import Settings
from sidecar.emulator.metadata import ISSUER
from sidecar.emulator.principals import Principals

ISSUERS: Final = (ISSUER, ISSUER.removeprefix("https://"))
"""Google's two spellings of itself."""
_SKEW: Final = 300
"""Seconds by which a token may be from the future."""
_LONGEST: Final = 3600
"""Seconds that a service account may sign for itself."""


class Verified(NamedTuple):
    """What a target knows of its caller; never the token."""

    audience: str | None
    """None for an access token."""
    email: str | None
    expires_at: int
    """Zero: never."""
    header: str
    """Empty where the token was in the query."""
    principal: str | None
    """The caller's name in IAM: `serviceAccount:EMAIL`, `user:EMAIL`, `principal://…`; None where it isn't told."""
    credential: Literal["id_token", "self_signed", "access_token"]


class Admitted(NamedTuple):
    """What the front end tells the app of a request that it let through."""

    verified: Verified | None
    """None behind an `open` target."""
    stripped: tuple[str, ...] = ()
    """Headers that it took off, in lower case."""
    added: tuple[tuple[str, str], ...] = ()
    """Headers that it set, instead of any of the same name."""
    moved: tuple[str, str] | None = None
    """The header that it renamed, in lower case, and the new name."""


class RefusedError(Exception):
    """A request that the front end answers itself."""

    def __init__(self, response: web.Response, status: int | None = None) -> None:
        """`status` is what it amounts to where the answer's own is another: one of gRPC's is always 200."""
        super().__init__(response.status)
        self.response = response
        self.status = response.status if status is None else status


class Judge(NamedTuple):
    """Checks tokens for one target."""

    settings: Settings
    url: str
    """The target's own."""
    audience: str
    key: SigningKey
    """Google's."""
    now: float
    principals: Principals

    def trust(self, value: str) -> dict[str, Any]:
        """The claims of Google's ID token in a header's value; BadTokenError with what is wrong.

        No audience is judged.
        """
        claims = self.key.verify(bearer(value))
        if claims.get("iss") not in ISSUERS:
            raise BadTokenError("JWT issuer is not known")
        self._judge_times(claims)
        return claims

    def trust_self_signed(self, token: str) -> dict[str, Any]:
        """The claims of a JWT that a service account signed, or had signed with `signJwt`; else BadTokenError.

        No audience is judged, and there may be none.
        """
        email = read(token).get("iss")
        account = self.principals.find(email) if isinstance(email, str) else None
        if account is None or account.disabled:
            raise BadTokenError("JWT issuer is not known")
        # Ruby's googleauth names no key; the account's published keys are tried.
        claims = signing_key(account.email).verify(token, named=False)
        if claims.get("sub") != email:
            raise BadTokenError("JWT 'sub' claim isn't the issuer")
        # Some lack an audience: Google's APIs take a scope instead.
        self._judge_times({"aud": "", **claims})
        if claims["exp"] - claims["iat"] > _LONGEST:
            raise BadTokenError("JWT lives for over an hour")
        return claims

    def permits(self, email: str | None, principal: str | None) -> bool:
        """Whether the caller has the target's role."""
        callers = self.settings.callers
        return callers is None or email in callers or principal in callers

    def verified(self, claims: Mapping[str, Any], header: str) -> Verified:
        """The record of a JWT that was trusted."""
        # ESPv2 takes lists, too, and tokens without an end.
        audience, expires_at = claims.get("aud"), claims.get("exp", 0)
        if isinstance(audience, list):
            audience = " ".join(str(one) for one in audience)
        if claims["iss"] in ISSUERS:
            email = claims.get("email")
            principal = self._member(email) if isinstance(email, str) else None
            return Verified(audience, email, expires_at, header, principal, "id_token")
        email = claims["iss"]
        principal = f"serviceAccount:{email}"
        return Verified(audience, email, expires_at, header, principal, "self_signed")

    def _member(self, email: str) -> str:
        is_service = email.endswith(".gserviceaccount.com") or self.principals.find(email) is not None
        return f"{'serviceAccount' if is_service else 'user'}:{email}"

    def _judge_times(self, claims: Mapping[str, Any]) -> None:
        times = (claims.get("exp"), claims.get("iat"))
        if not isinstance(claims.get("aud"), str) or not all(isinstance(at, int) for at in times):
            raise BadTokenError("JWT lacks a claim")
        if claims["exp"] <= self.now:
            raise BadTokenError("JWT has expired")
        if claims["iat"] > self.now + _SKEW:
            raise BadTokenError("JWT was issued in the future")


def bearer(value: str) -> str:
    """The token in a header's value; BadTokenError where there is none."""
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer":
        raise BadTokenError("Unable to parse JWT")
    if not token.strip():
        raise BadTokenError("empty token")
    return token.strip()
