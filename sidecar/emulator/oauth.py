"""Google's OAuth token endpoint, as far as service account keys need it.

Owns the JWT-bearer grant (RFC 7523) with Google's `target_audience` extension. The assertion is really
verified against the key that was handed out. Error texts are Google's own. Source: google-auth's
`oauth2/_client.py`, https://developers.google.com/identity/protocols/oauth2/service-account.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

from aiohttp import web

from sidecar.emulator.faults import Endpoint, claims_for
from sidecar.emulator.keys import BadTokenError, SigningKey, signing_key
from sidecar.emulator.metadata import ISSUER, PROJECT

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
KEY_EMAIL: Final = f"key-holder@{PROJECT}.iam.gserviceaccount.com"
_SUBJECT: Final = "110412345678901234567"


@final
class OAuthServer:
    """The application, and the accounts whose keys it knows."""

    def __init__(self, key: SigningKey, now: Callable[[], float], *, token_lifetime: float) -> None:
        self.endpoint = Endpoint()
        self.token_lifetime = token_lifetime
        self.asked: deque[str] = deque(maxlen=10_000)
        """Audiences, or scopes, that tokens were granted for."""
        self._key = key
        self._now = now
        self._accounts: dict[str, SigningKey] = {}
        self.app = web.Application()
        self.app.router.add_post("/token", self._grant)

    def write_key(self, path: Path, token_uri: str, *, email: str = KEY_EMAIL) -> Path:
        """Write a key file for `email`, mode 0600, and know its key from now on."""
        key = self._accounts.setdefault(email, signing_key(email))
        info = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": key.kid,
            "private_key": key.private_pem(),
            "client_email": email,
            "client_id": _SUBJECT,
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(info, indent=2), "utf-8")
        return path

    def delete_account(self, email: str = KEY_EMAIL) -> None:
        """Forget an account, as if it had been deleted."""
        self._accounts.pop(email, None)

    async def _grant(self, request: web.Request) -> web.StreamResponse:
        answer, fault = await self.endpoint.meet(request)
        if answer is not None:
            return answer
        form = await request.post()
        if form.get("grant_type") != GRANT:
            return _error("unsupported_grant_type", "Invalid grant_type")
        try:
            claims = self._assertion(str(form.get("assertion", "")))
        except BadTokenError as error:
            return _error("invalid_grant", str(error))
        if fault is not None and fault.kind == "garbage":
            return web.json_response({"id_token": "not-a-token", "access_token": "x", "expires_in": 1})
        now = self._now()
        audience = claims.get("target_audience")
        if audience is None:
            self.asked.append(str(claims.get("scope", "")))
            expires = int(self.token_lifetime) - 1
            return web.json_response(
                {"access_token": "ya29.emulated", "expires_in": expires, "token_type": "Bearer"}
            )
        self.asked.append(str(audience))
        identity: dict[str, object] = {
            "aud": audience,
            "azp": claims["iss"],
            "email": claims["iss"],
            "email_verified": True,
            "exp": int(now + self.token_lifetime),
            "iat": int(now),
            "iss": ISSUER,
            "sub": _SUBJECT,
        }
        return web.json_response({"id_token": self._key.sign(claims_for(identity, fault))})

    def _assertion(self, assertion: str) -> dict[str, Any]:
        """The verified claims of an assertion; BadTokenError with Google's own words otherwise."""
        for email, key in self._accounts.items():
            try:
                claims = key.verify(assertion)
            except BadTokenError:
                continue
            if claims.get("iss") == email:
                break
        else:
            if not self._accounts:
                raise BadTokenError("Invalid grant: account not found")
            raise BadTokenError("Invalid JWT Signature.")
        now = self._now()
        issued, expires = claims.get("iat"), claims.get("exp")
        if (
            not isinstance(issued, int)
            or not isinstance(expires, int)
            or not issued - 300 < now < expires + 300
            or expires - issued > 3600
        ):
            raise BadTokenError(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim."
            )
        if claims.get("aud") != TOKEN_AUDIENCE:
            raise BadTokenError("Invalid JWT: Failed audience check.")
        return claims


def _error(code: str, description: str) -> web.Response:
    return web.json_response({"error": code, "error_description": description}, status=400)
