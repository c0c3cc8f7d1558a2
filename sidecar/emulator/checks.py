"""How Google's front ends judge a request.

Owns the verdicts of a Cloud Run service and of Identity-Aware Proxy, with the answers they give. Called by
`targets` for each request. The signature is really verified. Sources: Cloud Run's and IAP's documents on
authenticating programmatic callers, and the texts that users report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from aiohttp import web

from sidecar.emulator.keys import BadTokenError, SigningKey
from sidecar.emulator.metadata import ISSUER

TargetKind = Literal["cloud_run", "iap", "open"]


class Verified(NamedTuple):
    """What a target knows of its caller; never the token."""

    audience: str
    email: str | None
    expires_at: int
    header: str


class RefusedError(Exception):
    """A request that the front end answers itself."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


def check(
    kind: TargetKind, headers: Mapping[str, str], *, audience: str, key: SigningKey, now: float
) -> Verified | None:
    """Who calls; None for an `open` target; raises RefusedError."""
    if kind == "open":
        return None
    return (_cloud_run if kind == "cloud_run" else _iap)(
        headers, audience, lambda token: _trust(token, key, now)
    )


def _cloud_run(headers: Mapping[str, str], audience: str, trust: Callable[[str], dict[str, Any]]) -> Verified:
    name = next((n for n in ("X-Serverless-Authorization", "Authorization") if n in headers), None)
    if name is None:
        raise RefusedError(
            _html(403, "Forbidden", "Your client does not have permission to get URL from this server.")
        )
    try:
        claims = trust(_bearer(headers[name]))
        if claims["aud"].rstrip("/") != audience.rstrip("/"):
            raise BadTokenError("wrong audience")
    except BadTokenError as error:
        raise RefusedError(_cloud_run_401()) from error
    return _verified(claims, name)


def _iap(headers: Mapping[str, str], audience: str, trust: Callable[[str], dict[str, Any]]) -> Verified:
    # With a valid token in Proxy-Authorization the app keeps its own Authorization.
    name = next((n for n in ("Proxy-Authorization", "Authorization") if n in headers), None)
    if name is None:
        raise RefusedError(_iap_401("Invalid IAP credentials: empty token"))
    try:
        claims = trust(_bearer(headers[name]))
    except BadTokenError as error:
        raise RefusedError(_iap_401(f"Invalid IAP credentials: {error}")) from error
    if claims["aud"] != audience:
        wrong = f"('aud' claim ({claims['aud']}) doesn't match expected value ({audience}))"
        raise RefusedError(
            _iap_401(f"Invalid IAP credentials: JWT audience doesn't match this application {wrong}")
        )
    if not isinstance(claims.get("email"), str):
        raise RefusedError(_iap_401("Invalid IAP credentials: JWT 'email' claim isn't a string"))
    return _verified(claims, name)


def _trust(token: str, key: SigningKey, now: float) -> dict[str, Any]:
    claims = key.verify(token)
    if claims.get("iss") not in (ISSUER, ISSUER.removeprefix("https://")):
        raise BadTokenError("JWT issuer is not known")
    if not isinstance(claims.get("aud"), str) or not isinstance(claims.get("exp"), int):
        raise BadTokenError("JWT lacks a claim")
    if claims["exp"] <= now:
        raise BadTokenError("JWT has expired")
    if claims.get("iat", 0) > now + 300:
        raise BadTokenError("JWT was issued in the future")
    return claims


def _bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise BadTokenError("Unable to parse JWT")
    return token.strip()


def _verified(claims: Mapping[str, Any], header: str) -> Verified:
    return Verified(claims["aud"], claims.get("email"), claims["exp"], header)


def _cloud_run_401() -> web.Response:
    response = _html(401, "Unauthorized", "Your client does not have permission to the requested URL.")
    response.headers["WWW-Authenticate"] = (
        'Bearer error="invalid_token" error_description="The access token could not be verified"'
    )
    return response


def _iap_401(text: str) -> web.Response:
    return web.Response(status=401, text=text, headers={"X-Goog-IAP-Generated-Response": "true"})


def _html(status: int, phrase: str, text: str) -> web.Response:
    body = f"<body><h1>Error: {phrase}</h1><h2>{text}</h2></body>"
    page = f"<html><head><title>{status} {phrase}</title></head>{body}</html>"
    return web.Response(status=status, text=page, content_type="text/html")
