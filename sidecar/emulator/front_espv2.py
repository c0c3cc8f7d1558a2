"""The front end of API Gateway and of Cloud Endpoints: ESPv2, which is Envoy.

Owns its verdict, its answers and the headers that it sets for the app. Called by `checks`; reads headers only. It
judges in Envoy's order: form, issuer, times, audience, signature. Clocks may differ by a minute: the filter's default,
`clock_skew_seconds` in https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/filters/http/jwt_authn/v3/config.proto,
which ESPv2 does not set (src/go/configgenerator/filtergen/jwt_authn.go of GoogleCloudPlatform/esp-v2); the order of the
two times is that of `verifyTimeConstraint` in jwt_verify_lib. Sources:
https://cloud.google.com/endpoints/docs/openapi/authenticating-users,
https://cloud.google.com/api-gateway/docs/authenticate-service-account, Envoy's `jwt_authn` filter: its texts are those
of https://github.com/google/jwt_verify_lib/blob/master/src/status.cc, its challenge is in
https://github.com/envoyproxy/envoy/issues/34227.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from sidecar.emulator.asked import Asked
from sidecar.emulator.keys import BadTokenError, SigningKey, encode, read, signing_key
from sidecar.emulator.verdicts import ISSUERS, Admitted, Judge, RefusedError

_MISSING = "Jwt is missing"
_NOT_FOR_US = "Audiences in Jwt are not allowed"
_CLOCK_SKEW: Final = 60
"""Seconds by which clocks may differ."""


def check_espv2(asked: Asked, judge: Judge) -> Admitted:
    """Only Authorization is read; the app gets it under another name, and the claims in a header."""
    try:
        claims = _trust(asked.headers.get("Authorization", ""), judge)
    except BadTokenError as error:
        raise RefusedError(_answer(asked, str(error))) from error
    verified = judge.verified(claims, "Authorization")
    told = "X-Endpoint-API-UserInfo" if judge.settings.kind == "endpoints" else "X-Apigateway-Api-Userinfo"
    return Admitted(
        verified,
        # What a caller claims of itself never reaches the app.
        stripped=("x-forwarded-authorization",),
        added=((told, encode(json.dumps(claims, separators=(",", ":")).encode())),),
        moved=("authorization", "X-Forwarded-Authorization"),
    )


def _trust(value: str, judge: Judge) -> dict[str, Any]:
    scheme, _, token = value.partition(" ")
    # Another scheme is no JWT that was sent wrongly, but none.
    if scheme.lower() != "bearer" or not token.strip():
        raise BadTokenError(_MISSING)
    token = token.strip()
    try:
        claims = read(token)
    except BadTokenError:
        raise BadTokenError(
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
        ) from None
    key = _key_of(claims.get("iss"), judge)
    expires_at, valid_from = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(valid_from, int) or valid_from > judge.now + _CLOCK_SKEW:
        raise BadTokenError("Jwt not yet valid")
    if not isinstance(expires_at, int) or judge.now > expires_at + _CLOCK_SKEW:
        raise BadTokenError("Jwt is expired")
    audiences = claims.get("aud")
    if not isinstance(audiences, str) or audiences not in (judge.audience, *judge.settings.custom_audiences):
        raise BadTokenError(_NOT_FOR_US)
    try:
        # Without a key's id Envoy tries every key of the JWKS.
        return key.verify(token, named=False)
    except BadTokenError:
        raise BadTokenError("Jwt verification fails") from None


def _key_of(issuer: object, judge: Judge) -> SigningKey:
    if isinstance(issuer, str):
        if issuer in ISSUERS:
            return judge.key
        if issuer in judge.settings.issuers:
            return signing_key(issuer)
    raise BadTokenError("Jwt issuer is not configured")


def _answer(asked: Asked, message: str) -> web.Response:
    status = 403 if message == _NOT_FOR_US else 401
    challenge = f'Bearer realm="{asked.scheme}://{asked.host}{asked.path}"'
    if message != _MISSING:
        challenge += ', error="invalid_token"'
    return web.Response(
        status=status,
        text=json.dumps({"code": status, "message": message}, separators=(",", ":")),
        content_type="application/json",
        headers={"WWW-Authenticate": challenge},
    )
