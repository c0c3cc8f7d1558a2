"""Tokens that are worth nothing, for code that must not hold real ones.

Owns their two forms and how to recognise one. `handout` gives them (`metadata_server.tokens: placeholder`), and
`proxy.admission` puts a route's own token in the place of one. Pure: time comes in as an argument. The rules: a
placeholder is well formed, so that libraries accept it and renew it in time. It has no valid signature, so that every
verifier rejects it. It contains a mark that is the same for all sidecars, so that its bytes identify it. The mark is
no secret: a request without any token also gets the route's token.
"""

from __future__ import annotations

import base64
import json
from typing import Final

_ISSUER: Final = "https://placeholder.idtoken-sidecar.invalid"
_HEADER: Final = {"alg": "RS256", "kid": "idtoken-sidecar-placeholder", "typ": "JWT"}


def _segment(value: object) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode("ascii")


_JWT: Final = f"{_segment(_HEADER)}."
_OPAQUE: Final = "idtoken-sidecar-placeholder."
_SIGNATURE: Final = (
    base64.urlsafe_b64encode(b"no signature: a placeholder".ljust(256, b"\0")).rstrip(b"=").decode()
)
_JWT_BYTES: Final = _JWT.encode("ascii")
_OPAQUE_BYTES: Final = _OPAQUE.encode("ascii")


def id_token(audience: str, *, now_at: float, expires_at: float) -> str:
    """A placeholder for an ID token. Times are in Unix seconds."""
    claims = {
        "aud": audience,
        "azp": "placeholder",
        "exp": int(expires_at),
        "iat": int(now_at),
        "iss": _ISSUER,
        "sub": "placeholder",
    }
    return f"{_JWT}{_segment(claims)}.{_SIGNATURE}"


def access_token(scopes: str) -> str:
    """A placeholder for an access token."""
    return _OPAQUE + _segment(scopes)


def is_in(text: bytes) -> bool:
    """Whether this contains a placeholder."""
    return _JWT_BYTES in text or _OPAQUE_BYTES in text
