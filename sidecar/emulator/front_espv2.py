"""The front end of API Gateway and of Cloud Endpoints: ESPv2, which is Envoy 1.30.

Owns its verdict, its answers and the headers that it sets for the app. Called by `checks`; reads headers and the path
only. It judges in Envoy's order: form, issuer, times, audience, signature. Clocks may differ by a minute: the
filter's default, `clock_skew_seconds` in
https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/filters/http/jwt_authn/v3/config.proto, which ESPv2 does
not set. Documentation: https://cloud.google.com/endpoints/docs/openapi/authenticating-users,
https://cloud.google.com/api-gateway/docs/authenticate-service-account, …/grpc-overview. The rest is source code.

In envoyproxy/envoy, below source/extensions/filters/http/jwt_authn: `extractor.cc` has where tokens are looked for.
`authenticator.cc` wants all of them to be good, and judges the last one first. `filter.cc` has statuses and
challenge; a whole challenge is in https://github.com/envoyproxy/envoy/issues/34227. Below source/common/jwt:
`status.cc` has the texts, `jwt.cc` judges form and times, `check_audience.cc` audiences, `verify.cc` keys.

In GoogleCloudPlatform/esp-v2, below src/go: util/util.go and configgenerator/filtergen/jwt_authn.go name the places
of tokens. http_connection_manager.go makes errors JSON, and refuses headers with an underscore; what API Gateway sets
there is not known. What gRPC gets is in tests/integration_test/grpc_integration_test, and in Envoy's `sendLocalReply`
(source/common/http/utility.cc).
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import parse_qs

from aiohttp import web

from sidecar.emulator.asked import Asked
from sidecar.emulator.keys import BadTokenError, SigningKey, UnknownKeyError, encode, read, signing_key
from sidecar.emulator.verdicts import ISSUERS, Admitted, Judge, RefusedError

_MISSING = "Jwt is missing"
_NOT_FOR_US = "Audiences in Jwt are not allowed"
_PREFIX: Final = "Bearer "
"""In this case only; what stands before it does not count."""
_CLOCK_SKEW: Final = 60
"""Seconds by which clocks may differ."""
_GRPC_STATUS: Final = {400: 13, 401: 16, 403: 7}
"""INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED: `httpToGrpcStatus` in Envoy's source/common/grpc/status.cc."""


def check_espv2(asked: Asked, judge: Judge) -> Admitted:
    """The app gets Authorization under another name, and the claims of the token in a header."""
    is_endpoints = judge.settings.kind == "endpoints"
    if is_endpoints and any("_" in name for name in asked.headers):
        raise _refused(asked, 400, "Bad Request")
    try:
        claims, name = _trust(asked, judge)
    except BadTokenError as error:
        raise _refused(asked, 403 if str(error) == _NOT_FOR_US else 401, str(error)) from error
    verified = judge.verified(claims, name)
    told = "X-Endpoint-API-UserInfo" if is_endpoints else "X-Apigateway-Api-Userinfo"
    return Admitted(
        verified,
        # What a caller claims of itself never reaches the app.
        stripped=("x-forwarded-authorization",),
        added=((told, encode(json.dumps(claims, separators=(",", ":")).encode())),),
        moved=("authorization", "X-Forwarded-Authorization"),
    )


def _trust(asked: Asked, judge: Judge) -> tuple[dict[str, Any], str]:
    """The claims of the first token, and its header; each further one must be good too."""
    found = _tokens(asked)
    if not found:
        raise BadTokenError(_MISSING)
    judged = [(_judged(token, judge), name) for name, token in reversed(found)]
    return judged[-1]


def _tokens(asked: Asked) -> list[tuple[str, str]]:
    """Each token with its header, in Envoy's order; a query parameter's has none."""
    found = []
    for value in asked.headers.getall("Authorization", []):
        # Another scheme is no JWT that was sent wrongly, but none.
        if _PREFIX in value:
            token = value[value.index(_PREFIX) + len(_PREFIX) :].lstrip()
            found.append(("Authorization", token or value))
    found += [
        ("X-Goog-Iap-Jwt-Assertion", value) for value in asked.headers.getall("X-Goog-Iap-Jwt-Assertion", [])
    ]
    query = parse_qs(asked.raw_path.partition("?")[2], keep_blank_values=True)
    return found + [("", value) for value in query.get("access_token", [])[:1]]


def _judged(token: str, judge: Judge) -> dict[str, Any]:
    """The claims of a good token; BadTokenError with Envoy's text."""
    try:
        claims = read(token)
    except BadTokenError:
        raise BadTokenError(
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
        ) from None
    key = _key_of(claims.get("iss"), judge)
    # No `exp` at all is no end, to Envoy.
    expires_at, valid_from = claims.get("exp", 0), claims.get("nbf", 0)
    for name, at in (("nbf", valid_from), ("exp", expires_at)):
        if not isinstance(at, int):
            raise BadTokenError(f"Jwt payload [{name}] field is not an integer")
    if valid_from > judge.now + _CLOCK_SKEW:
        raise BadTokenError("Jwt not yet valid")
    if expires_at and judge.now > expires_at + _CLOCK_SKEW:
        raise BadTokenError("Jwt is expired")
    audience = claims.get("aud", [])
    wanted = {_bare(one) for one in (judge.audience, *judge.settings.custom_audiences)}
    if wanted.isdisjoint(_bare(str(one)) for one in (audience if isinstance(audience, list) else [audience])):
        raise BadTokenError(_NOT_FOR_US)
    try:
        # Without a key's id Envoy tries every key of the JWKS.
        return key.verify(token, named=False)
    except UnknownKeyError:
        raise BadTokenError("Jwks doesn't have key to match kid or alg from Jwt") from None
    except BadTokenError:
        raise BadTokenError("Jwt verification fails") from None


def _bare(audience: str) -> str:
    """An audience as Envoy compares it: without its scheme and a slash at its end."""
    for scheme in ("http://", "https://"):
        if audience.startswith(scheme):
            return audience.removeprefix(scheme).removesuffix("/")
    return audience.removesuffix("/")


def _key_of(issuer: object, judge: Judge) -> SigningKey:
    if isinstance(issuer, str):
        if issuer in ISSUERS:
            return judge.key
        if issuer in judge.settings.issuers:
            return signing_key(issuer)
    raise BadTokenError("Jwt issuer is not configured")


def _refused(asked: Asked, status: int, message: str) -> RefusedError:
    """In JSON; to gRPC with status 200, its own status and the JSON as its message."""
    body = json.dumps({"code": status, "message": message}, separators=(",", ":"))
    challenge = {} if status == 400 else {"WWW-Authenticate": _challenge(asked, message)}
    if not asked.headers.get("Content-Type", "").startswith("application/grpc"):
        headers = {"Content-Type": "application/json", **challenge}
        return RefusedError(web.Response(status=status, body=body.encode(), headers=headers))
    headers = {"Content-Type": "application/grpc", **challenge}
    headers |= {"grpc-status": str(_GRPC_STATUS[status]), "grpc-message": body.replace("%", "%25")}
    return RefusedError(web.Response(headers=headers), status)


def _challenge(asked: Asked, message: str) -> str:
    challenge = f'Bearer realm="{asked.scheme}://{asked.host}{asked.path}"'
    return challenge if message == _MISSING else f'{challenge}, error="invalid_token"'
