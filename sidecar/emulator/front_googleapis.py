"""The front end of Google's own APIs.

Owns their verdict on access tokens and on self-signed JWTs, and their errors. Called by `checks`; reads headers and
the path only. Sources: https://cloud.google.com/docs/authentication/token-types,
https://google.aip.dev/auth/4111 (self-signed JWTs), golang.org/x/oauth2/google `JWTAccessTokenSourceWithScope` (a scope
and an empty audience), https://google.aip.dev/193 and
https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto (errors), whole answers in
https://github.com/reactmore/morelab/issues/17 (a token that is missing) and
https://github.com/googleapis/google-api-php-client/issues/1528 (its text). An `errors` list, which older APIs add, and
the name of the method are left out.
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from sidecar.emulator.asked import Asked
from sidecar.emulator.instance import PROJECT_NUMBER
from sidecar.emulator.keys import BadTokenError
from sidecar.emulator.scopes import of_api
from sidecar.emulator.verdicts import Admitted, Judge, RefusedError, Verified, bearer

_CHALLENGE = 'Bearer realm="https://accounts.google.com/"'
_EXPECTED = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


def check_googleapis(asked: Asked, judge: Judge) -> Admitted:
    """An access token of the right scope, or a JWT that a service account signed for this API."""
    service = judge.settings.service or ""
    value = asked.headers.get("Authorization")
    if value is None:
        message = f"Request is missing required authentication credential. {_EXPECTED}"
        raise RefusedError(_answer_401(service, message, "CREDENTIALS_MISSING", _CHALLENGE))
    try:
        verified, scopes = _trust(bearer(value), judge)
    except BadTokenError as error:
        message = f"Request had invalid authentication credentials. {_EXPECTED}"
        challenge = f'{_CHALLENGE}, error="invalid_token"'
        refusal = _answer_401(service, message, "ACCESS_TOKEN_TYPE_UNSUPPORTED", challenge)
        raise RefusedError(refusal) from error
    accepted = of_api(service) if judge.settings.scopes is None else judge.settings.scopes
    if scopes is not None and not set(scopes) & set(accepted):
        message = "Request had insufficient authentication scopes."
        refusal = _answer_403(service, message, "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
        wanted = " ".join(accepted)
        refusal.headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="insufficient_scope", scope="{wanted}"'
        raise RefusedError(refusal)
    if not judge.settings.enabled:
        message = (
            f"{service} has not been used in project {PROJECT_NUMBER} before or it is disabled. Enable it by visiting "
            f"https://console.developers.google.com/apis/api/{service}/overview?project={PROJECT_NUMBER} then retry. "
            "If you enabled this API recently, wait a few minutes for the action to propagate to our systems and retry."
        )
        raise RefusedError(_answer_403(service, message, "SERVICE_DISABLED"))
    if not judge.permits(verified.email, verified.principal):
        raise RefusedError(
            _answer_403(service, "The caller does not have permission", "IAM_PERMISSION_DENIED")
        )
    return Admitted(verified)


def _trust(token: str, judge: Judge) -> tuple[Verified, Collection[str] | None]:
    """Who calls, and with which scopes; None: a JWT for the API itself, which needs none."""
    granted = judge.principals.introspect(token)
    if granted is not None:
        kind, _, email = granted.member.partition(":")
        known = email if kind in ("serviceAccount", "user") else None
        expires_at = int(granted.expires_at)
        verified = Verified(None, known, expires_at, "Authorization", granted.member, "access_token")
        return verified, granted.scopes
    claims = judge.trust_self_signed(token)
    verified = judge.verified(claims, "Authorization")
    audience, scope = claims.get("aud"), claims.get("scope")
    # Go's library writes an empty audience beside the scope.
    if not audience and isinstance(scope, str):
        return verified, scope.split()
    if audience != f"https://{judge.settings.service}/":
        raise BadTokenError("wrong audience")
    return verified, None


def _answer_401(service: str, message: str, reason: str, challenge: str) -> web.Response:
    response = _answer(401, "UNAUTHENTICATED", message, reason, {"service": service})
    response.headers["WWW-Authenticate"] = challenge
    return response


def _answer_403(service: str, message: str, reason: str) -> web.Response:
    metadata = {"service": service}
    if reason == "SERVICE_DISABLED":
        metadata["consumer"] = f"projects/{PROJECT_NUMBER}"
    return _answer(403, "PERMISSION_DENIED", message, reason, metadata)


def _answer(status: int, code: str, message: str, reason: str, metadata: dict[str, str]) -> web.Response:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "iam.googleapis.com" if reason == "IAM_PERMISSION_DENIED" else "googleapis.com",
        "metadata": metadata,
    }
    error = {"code": status, "message": message, "status": code, "details": [info]}
    return web.json_response({"error": error}, status=status)
