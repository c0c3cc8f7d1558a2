"""Google's OAuth token endpoint, for service account keys and for people's logins.

Owns the JWT-bearer grant (RFC 7523) with Google's `target_audience` extension, the refresh token grant (RFC 6749
section 6), and the keys and logins it knows. Composed by `app`; knows no other server. An assertion is really
verified against the key that was handed out. Error texts are Google's own. Source: google-auth's
`oauth2/_client.py`, https://developers.google.com/identity/protocols/oauth2/service-account.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, final

from aiohttp import BasicAuth, web

from sidecar.emulator.accounts import ADC_CLIENT_ID, User, write_private
from sidecar.emulator.faults import Endpoint, Fault, claims_for
from sidecar.emulator.instance import PROJECT
from sidecar.emulator.keys import BadTokenError, SigningKey, read, signing_key
from sidecar.emulator.metadata import ISSUER
from sidecar.emulator.pages import API, application
from sidecar.emulator.principals import Principals

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""What google-auth always writes as the assertion's `aud`, wherever `token_uri` points."""
KEY_EMAIL: Final = f"key-holder@{PROJECT}.iam.gserviceaccount.com"
_SUBJECT: Final = "110412345678901234567"
_SKEW: Final = 300
"""Seconds by which the caller's clock may be off."""


class RefusedGrantError(Exception):
    """A grant that is refused: an OAuth error code and its description."""

    def __init__(self, code: str, description: str, subtype: str = "") -> None:
        super().__init__(code, description)
        self.body = {"error": code, "error_description": description}
        if subtype:
            self.body["error_subtype"] = subtype


@final
class OAuthServer:
    """The application, and the accounts whose keys and logins it knows."""

    def __init__(
        self, key: SigningKey, principals: Principals, now: Callable[[], float], *, token_lifetime: float
    ) -> None:
        """`token_lifetime` in seconds."""
        self.endpoint = Endpoint()
        self.token_lifetime = token_lifetime
        self.asked: deque[str] = deque(maxlen=10_000)
        """Audiences, or scopes, that tokens were granted for."""
        self._key = key
        self._principals = principals
        self._now = now
        self._users: dict[str, User] = {}
        """By refresh token."""
        self._accounts: dict[str, SigningKey | None] = {}
        """None: the account is there, its key is not."""
        self.app = application(API)
        self.app.router.add_post("/token", self._token)

    def write_key(self, path: Path, token_uri: str, *, email: str = KEY_EMAIL) -> Path:
        """Write a key file for `email`, mode 0600, and know its key from now on."""
        key = self._accounts[email] = self._accounts.get(email) or signing_key(email)
        info = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": key.kid,
            "private_key": key.private_pem(),
            "client_email": email,
            "client_id": _SUBJECT,
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }
        self._principals.add(email)
        return write_private(path, info)

    def add_user(self, email: str, *, client_id: str = ADC_CLIENT_ID) -> User:
        """A person who has logged in just now."""
        user = User(email, client_id)
        self._users[user.refresh_token] = user
        return user

    def delete_account(self, email: str = KEY_EMAIL) -> None:
        """Forget an account, as if it had been deleted."""
        self._accounts.pop(email, None)

    def revoke_key(self, email: str = KEY_EMAIL) -> None:
        """Forget an account's key, as if it had been deleted or disabled; `write_key` brings it back."""
        self._accounts[email] = None

    async def _token(self, request: web.Request) -> web.Response:
        answer, fault = await self.endpoint.meet(request)
        if answer is not None:
            return answer
        form = await request.post()
        try:
            if form.get("grant_type") == "refresh_token":
                return _json(self._refreshed({**_basic(request), **form}, fault))
            claims = self._assertion(form)
            if fault is not None and fault.kind == "garbage":
                # An access token is opaque: whatever stood there would be one.
                return _json({"id_token": "not-a-token", "token_type": "Bearer"})
            granted, audience = self._grant(claims)
        except RefusedGrantError as error:
            return _json(error.body, status=400)
        if granted is None:
            return _json(self._access_token(f"serviceAccount:{claims['iss']}", audience.split()))
        self.asked.append(audience)
        return _json({"id_token": self._key.sign(claims_for(granted, fault))})

    def _access_token(self, member: str, scopes: Iterable[str]) -> dict[str, Any]:
        token = self._principals.issue(member, scopes, lifetime=self.token_lifetime)
        expires_in = int(self.token_lifetime) - 1
        return {"access_token": token.value, "expires_in": expires_in, "token_type": "Bearer"}

    def _refreshed(self, form: Mapping[str, object], fault: Fault | None) -> dict[str, Any]:
        user = self._users.get(str(form.get("refresh_token", "")))
        if user is None or user.revoked:
            raise RefusedGrantError("invalid_grant", "Token has been expired or revoked.")
        if form.get("client_id") != user.client_id or form.get("client_secret") != user.client_secret:
            raise RefusedGrantError("invalid_client", "The provided client secret is invalid.")
        if user.session_ended:
            raise RefusedGrantError("invalid_grant", "reauth related error (invalid_rapt)", "invalid_rapt")
        if fault is not None and fault.kind == "garbage":
            return {"token_type": "Bearer"}
        now = self._now()
        claims: dict[str, object] = {
            "aud": user.client_id,
            "azp": user.client_id,
            "email": user.email,
            "email_verified": True,
            "exp": int(now + self.token_lifetime),
            "hd": user.email.partition("@")[2],
            "iat": int(now),
            "iss": ISSUER,
            "sub": user.subject,
        }
        answer = self._access_token(user.member, user.scopes) | {"scope": " ".join(user.scopes)}
        if "openid" in user.scopes:
            answer["id_token"] = self._key.sign(claims_for(claims, fault))
        self.asked.append(user.email)
        return answer

    def _grant(self, claims: Mapping[str, Any]) -> tuple[dict[str, object] | None, str]:
        """The claims of the ID token and its audience, or None for an access token."""
        audience, scope = claims.get("target_audience"), claims.get("scope")
        wanted = scope if audience is None else audience
        if not isinstance(wanted, str) or not wanted:
            raise RefusedGrantError("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        if audience is None:
            self.asked.append(wanted)
            return None, wanted
        now = self._now()
        return {
            "aud": wanted,
            "azp": claims["iss"],
            "email": claims["iss"],
            "email_verified": True,
            "exp": int(now + self.token_lifetime),
            "iat": int(now),
            "iss": ISSUER,
            "sub": _SUBJECT,
        }, wanted

    def _assertion(self, form: Mapping[str, object]) -> dict[str, Any]:
        """The verified claims of an assertion; RefusedGrantError with Google's own words otherwise."""
        if form.get("grant_type") != GRANT:
            raise RefusedGrantError("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
        assertion = str(form.get("assertion", ""))
        try:
            email = read(assertion).get("iss")
        except BadTokenError:
            raise RefusedGrantError("invalid_grant", "Bad Request") from None
        if not isinstance(email, str) or email not in self._accounts:
            raise RefusedGrantError("invalid_grant", "Invalid grant: account not found")
        account = self._principals.find(email)
        if account is None or account.disabled:
            raise RefusedGrantError("invalid_grant", "Invalid grant: account not found")
        key = self._accounts[email]
        try:
            if key is None:
                raise BadTokenError("no key")
            claims = key.verify(assertion)
        except BadTokenError:
            raise RefusedGrantError("invalid_grant", "Invalid JWT Signature.") from None
        if not self._is_short_lived(claims.get("iat"), claims.get("exp")):
            raise RefusedGrantError(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim.",
            )
        if claims.get("aud") != TOKEN_AUDIENCE:
            raise RefusedGrantError("invalid_grant", "Invalid JWT: Failed audience check.")
        return claims

    def _is_short_lived(self, issued_at: object, expires_at: object) -> bool:
        if not isinstance(issued_at, int) or not isinstance(expires_at, int):
            return False
        return issued_at - _SKEW <= self._now() < expires_at + _SKEW and 0 < expires_at - issued_at <= 3600


def _basic(request: web.Request) -> dict[str, object]:
    """Client id and secret from HTTP Basic, which workforce logins use (RFC 6749 section 2.3.1)."""
    try:
        found = BasicAuth.decode(request.headers.get("Authorization", ""))
    except ValueError:
        return {}
    return {"client_id": found.login, "client_secret": found.password}


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, headers={"Cache-Control": "no-store"})
