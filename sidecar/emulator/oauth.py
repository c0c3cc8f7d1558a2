"""Google's OAuth token endpoint, for service account keys and for people's logins.

Owns the JWT-bearer grant (RFC 7523) with Google's `target_audience` extension, the refresh token grant (RFC 6749
section 6), and the keys and logins it knows. Composed by `app`; knows no other server. An assertion is really
verified against the key that was handed out. Error texts are Google's own. Sources: google-auth's
`oauth2/_client.py`, https://developers.google.com/identity/protocols/oauth2/service-account;
https://developers.google.com/identity/protocols/oauth2/production-readiness and the texts that users report:
`unauthorized_client` and "Invalid email or User ID" for domain-wide delegation, 401 `invalid_client`,
"Invalid OAuth scope or ID token audience provided." (https://github.com/googleapis/google-oauth-java-client/issues/602),
"Invalid JWT: Token must be a short-lived token…" (https://github.com/googleapis/google-api-php-client/issues/1429),
"The OAuth client was not found." (https://github.com/simonrob/email-oauth2-proxy/issues/362).
npm's gtoken, gcloud-aio-auth and Ruby's googleauth write no `kid` into an assertion; Go and Java sign for the
`token_uri` of the key file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, final

from aiohttp import BasicAuth, web

from sidecar.emulator.accounts import ADC_CLIENT_ID, User, write_private
from sidecar.emulator.faults import Endpoint, Fault, claims_for
from sidecar.emulator.forms import form
from sidecar.emulator.instance import PROJECT
from sidecar.emulator.keys import BadTokenError, SigningKey, read, signing_key
from sidecar.emulator.metadata import ISSUER
from sidecar.emulator.pages import TOKENS, application
from sidecar.emulator.principals import Principals

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""What google-auth always writes as the assertion's `aud`, wherever `token_uri` points."""
KEY_EMAIL: Final = f"key-holder@{PROJECT}.iam.gserviceaccount.com"
AUDIENCES: Final = (
    TOKEN_AUDIENCE,
    "https://www.googleapis.com/oauth2/v4/token",
    "https://www.googleapis.com/oauth2/v3/token",
    "https://accounts.google.com/o/oauth2/token",
)
"""What an assertion may be for: each was the `token_uri` of key files once. Beside them, the URL that it is sent to."""
_SKEW: Final = 300
"""Seconds by which the caller's clock may be off."""


class RefusedGrantError(Exception):
    """A grant that is refused: an OAuth error code and its description."""

    def __init__(self, code: str, description: str, subtype: str = "", *, status: int = 400) -> None:
        super().__init__(code, description)
        self.status = status
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
        self._delegated: dict[str, frozenset[str]] = {}
        """Scopes that accounts may have as any user of their organisation, by e-mail."""
        self.app = application(TOKENS)
        for path in ("/token", "/oauth2/v4/token", "/o/oauth2/token"):
            self.app.router.add_post(path, self._token)

    def write_key(self, path: Path, token_uri: str, *, email: str = KEY_EMAIL) -> Path:
        """Write a key file for `email`, mode 0600, and know its key from now on."""
        key = self._accounts[email] = self._accounts.get(email) or signing_key(email)
        info = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": key.kid,
            "private_key": key.private_pem(),
            "client_email": email,
            "client_id": self._principals.add(email).unique_id,
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }
        return write_private(path, info)

    def add_user(self, email: str, *, client_id: str = ADC_CLIENT_ID) -> User:
        """A person who has logged in just now."""
        user = User(email, client_id)
        self._users[user.refresh_token] = user
        return user

    def delegate(self, scopes: Iterable[str], *, email: str = KEY_EMAIL) -> None:
        """Domain-wide delegation: from now on the account gets tokens of these scopes as any user that there is."""
        self._delegated[email] = frozenset(scopes)

    def delete_account(self, email: str = KEY_EMAIL) -> None:
        """Forget an account, as if it had been deleted."""
        self._accounts.pop(email, None)
        self._principals.remove(email)

    def revoke_key(self, email: str = KEY_EMAIL) -> None:
        """Forget an account's key, as if it had been deleted or disabled; `write_key` brings it back."""
        self._accounts[email] = None

    async def _token(self, request: web.Request) -> web.Response:
        answer, fault = await self.endpoint.meet(request)
        if answer is not None:
            return answer
        asked = await form(request)
        try:
            if asked.get("grant_type") == "refresh_token":
                return _json(self._refreshed({**_basic(request), **asked}, fault))
            claims = self._assertion(asked, f"{request.scheme}://{request.host}{request.path}")
            if fault is not None and fault.kind == "garbage":
                # An access token is opaque: whatever stood there would be one.
                return _json({"id_token": "not-a-token", "token_type": "Bearer"})
            granted, audience = self._grant(claims)
        except RefusedGrantError as error:
            return _json(error.body, status=error.status)
        if granted is None:
            return _json(self._access_token(self._member(claims), audience.split()))
        self.asked.append(audience)
        return _json({"id_token": self._key.sign(claims_for(granted, fault))})

    def _access_token(self, member: str, scopes: Iterable[str]) -> dict[str, Any]:
        token = self._principals.issue(member, scopes, lifetime=self.token_lifetime)
        expires_in = int(self.token_lifetime) - 1
        return {"access_token": token.value, "expires_in": expires_in, "token_type": "Bearer"}

    def _refreshed(self, form: Mapping[str, object], fault: Fault | None) -> dict[str, Any]:
        user = self._users.get(str(form.get("refresh_token", "")))
        if user is None:
            raise RefusedGrantError("invalid_grant", "Bad Request")
        if form.get("client_id") != user.client_id:
            raise RefusedGrantError("invalid_client", "The OAuth client was not found.", status=401)
        if form.get("client_secret") != user.client_secret:
            raise RefusedGrantError("invalid_client", "The provided client secret is invalid.", status=401)
        if user.revoked:
            raise RefusedGrantError("invalid_grant", "Token has been expired or revoked.")
        if user.session_ended:
            raise RefusedGrantError("invalid_grant", "reauth related error (invalid_rapt)", "invalid_rapt")
        if fault is not None and fault.kind == "garbage":
            return {"token_type": "Bearer"}
        # Fewer may be asked for than were consented to, never others.
        scopes = tuple(str(form.get("scope", "")).split()) or user.scopes
        if not set(scopes) <= set(user.scopes):
            raise RefusedGrantError("invalid_scope", "Bad Request")
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
        answer = self._access_token(user.member, scopes) | {"scope": " ".join(scopes)}
        if "openid" in scopes:
            answer["id_token"] = self._key.sign(claims_for(claims, fault))
        self.asked.append(user.email)
        return answer

    def _grant(self, claims: Mapping[str, Any]) -> tuple[dict[str, object] | None, str]:
        """The claims of the ID token and its audience, or None for an access token."""
        audience, scope = claims.get("target_audience"), claims.get("scope")
        wanted = scope if audience is None else audience
        if not isinstance(wanted, str) or not wanted:
            raise RefusedGrantError("invalid_scope", _NO_SCOPE)
        self._permit_subject(claims, scope)
        if audience is None:
            if not self._principals.knows(wanted.split()):
                raise RefusedGrantError("invalid_scope", _NO_SCOPE)
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
            "sub": self._principals.add(claims["iss"]).unique_id,
        }, wanted

    def _permit_subject(self, claims: Mapping[str, Any], scope: object) -> None:
        """An assertion with the `sub` of somebody else is domain-wide delegation, and wants to be allowed."""
        subject = claims.get("sub", claims["iss"])
        if subject == claims["iss"]:
            return
        allowed = self._delegated.get(claims["iss"], frozenset())
        if not isinstance(scope, str) or not allowed.issuperset(scope.split()) or not allowed:
            raise RefusedGrantError(
                "unauthorized_client",
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any "
                "of the scopes requested.",
                status=401,
            )
        if subject not in {user.email for user in self._users.values()}:
            raise RefusedGrantError("invalid_grant", "Invalid email or User ID")

    @staticmethod
    def _member(claims: Mapping[str, Any]) -> str:
        subject = claims.get("sub", claims["iss"])
        return f"serviceAccount:{subject}" if subject == claims["iss"] else f"user:{subject}"

    def _assertion(self, form: Mapping[str, object], here: str) -> dict[str, Any]:
        """The verified claims of an assertion; RefusedGrantError with Google's own words otherwise."""
        if form.get("grant_type") != GRANT:
            raise RefusedGrantError(
                "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}"
            )
        assertion = str(form.get("assertion", ""))
        try:
            email = read(assertion).get("iss")
        except BadTokenError:
            raise RefusedGrantError("invalid_grant", "Bad Request") from None
        account = self._principals.find(email) if isinstance(email, str) else None
        if account is None or account.disabled:
            raise RefusedGrantError("invalid_grant", "Invalid grant: account not found")
        # Every account has a key that Google keeps, with which IAM's signBlob signs.
        key = self._accounts.get(account.email, signing_key(account.email))
        try:
            if key is None:
                raise BadTokenError("no key")
            claims = key.verify(assertion, named=False)
        except BadTokenError:
            raise RefusedGrantError("invalid_grant", "Invalid JWT Signature.") from None
        if not self._is_short_lived(claims.get("iat"), claims.get("exp")):
            raise RefusedGrantError(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim.",
            )
        if claims.get("aud") not in (*AUDIENCES, here):
            raise RefusedGrantError("invalid_grant", "Invalid JWT: Failed audience check.")
        return claims

    def _is_short_lived(self, issued_at: object, expires_at: object) -> bool:
        if not isinstance(issued_at, int) or not isinstance(expires_at, int):
            return False
        return issued_at - _SKEW <= self._now() < expires_at + _SKEW and 0 < expires_at - issued_at <= 3600


_NO_SCOPE: Final = "Invalid OAuth scope or ID token audience provided."


_HEADERS: Final = {
    "Cache-Control": "no-cache, no-store, max-age=0, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "Mon, 01 Jan 1990 00:00:00 GMT",
    "X-XSS-Protection": "0",
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer has: pull request 2 of blobfile on GitHub has a whole one (`invalid_rapt`)."""


def _basic(request: web.Request) -> dict[str, object]:
    """Client id and secret from HTTP Basic, which workforce logins use (RFC 6749 section 2.3.1)."""
    try:
        found = BasicAuth.decode(request.headers.get("Authorization", ""))
    except ValueError:
        return {}
    return {"client_id": found.login, "client_secret": found.password}


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, headers=_HEADERS)
