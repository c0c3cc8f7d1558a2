"""How Google's front ends judge a request.

Owns the verdicts of a Cloud Run service and of Identity-Aware Proxy, with the answers they give. Called by
`targets` for each request; reads headers only, and the time comes in as an argument. The signature is really
verified. Sources: Cloud Run's and IAP's documents on authenticating programmatic callers, and the texts that
users report.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, NamedTuple

from aiohttp import web

from sidecar.emulator.keys import BadTokenError, SigningKey
from sidecar.emulator.metadata import ISSUER

TargetKind = Literal["cloud_run", "iap", "open"]

_SKEW: Final = 300
"""Seconds by which a token may be from the future."""


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


class Judge(NamedTuple):
    """What one target holds a token against."""

    audience: str
    key: SigningKey
    now: float
    callers: Collection[str] | None
    """E-mails of those who have permission; None: everyone."""

    def trust(self, value: str) -> dict[str, Any]:
        """The claims of the token in a header's value; BadTokenError with what is wrong. No audience is judged."""
        scheme, _, token = value.partition(" ")
        if scheme.lower() != "bearer":
            raise BadTokenError("Unable to parse JWT")
        if not token.strip():
            raise BadTokenError("empty token")
        claims = self.key.verify(token.strip())
        if claims.get("iss") not in (ISSUER, ISSUER.removeprefix("https://")):
            raise BadTokenError("JWT issuer is not known")
        times = (claims.get("exp"), claims.get("iat"))
        if not isinstance(claims.get("aud"), str) or not all(isinstance(at, int) for at in times):
            raise BadTokenError("JWT lacks a claim")
        if claims["exp"] <= self.now:
            raise BadTokenError("JWT has expired")
        if claims["iat"] > self.now + _SKEW:
            raise BadTokenError("JWT was issued in the future")
        return claims

    def permits(self, claims: Mapping[str, Any]) -> bool:
        """Whether the caller has the target's role."""
        return self.callers is None or claims.get("email") in self.callers


def check(kind: TargetKind, request: web.Request, judge: Judge) -> Verified | None:
    """Who calls; None for an `open` target; raises RefusedError."""
    match kind:
        case "cloud_run":
            return _cloud_run(request, judge)
        case "iap":
            return _iap(request, judge)
        case "open":
            return None


def _cloud_run(request: web.Request, judge: Judge) -> Verified:
    """With both headers only X-Serverless-Authorization counts; one header several times is refused."""
    headers = request.headers
    name = next((n for n in ("X-Serverless-Authorization", "Authorization") if n in headers), None)
    if name is None:
        raise RefusedError(_cloud_run_403(request))
    try:
        if len(headers.getall(name)) > 1:
            raise BadTokenError("several tokens")
        claims = judge.trust(headers[name])
        wanted = judge.audience.removesuffix("/")
        if claims["aud"] not in (wanted, f"{wanted}/"):
            raise BadTokenError("wrong audience")
    except BadTokenError as error:
        raise RefusedError(_cloud_run_401()) from error
    if not judge.permits(claims):
        raise RefusedError(_cloud_run_403(request))
    return _verified(claims, name)


def _iap(request: web.Request, judge: Judge) -> Verified:
    """A valid token in Proxy-Authorization leaves the app its Authorization; else Authorization is judged."""
    headers = request.headers
    names = [name for name in ("Proxy-Authorization", "Authorization") if name in headers]
    wrong = "empty token"
    for name in names:
        try:
            claims = judge.trust(headers[name])
            if claims["aud"] != judge.audience:
                raise BadTokenError(
                    "JWT audience doesn't match this application "
                    f"('aud' claim ({claims['aud']}) doesn't match expected value ({judge.audience}))"
                )
            if not isinstance(claims.get("email"), str):
                raise BadTokenError("JWT 'email' claim isn't a string")
        except BadTokenError as error:
            wrong = str(error)
            continue
        if not judge.permits(claims):
            raise RefusedError(_iap_answer(_page(403, "Forbidden", "You don't have access")))
        return _verified(claims, name)
    raise RefusedError(_iap_answer(web.Response(status=401, text=f"Invalid IAP credentials: {wrong}")))


def _verified(claims: Mapping[str, Any], header: str) -> Verified:
    return Verified(claims["aud"], claims.get("email"), claims["exp"], header)


def _cloud_run_401() -> web.Response:
    response = _page(401, "Unauthorized", "Your client does not have permission to the requested URL.")
    response.headers["WWW-Authenticate"] = (
        'Bearer error="invalid_token" error_description="The access token could not be verified"'
    )
    return response


def _cloud_run_403(request: web.Request) -> web.Response:
    url = f"<code>{html.escape(request.path)}</code>"
    return _page(403, "Forbidden", f"Your client does not have permission to get URL {url} from this server.")


def _iap_answer(response: web.Response) -> web.Response:
    response.headers["X-Goog-IAP-Generated-Response"] = "true"
    return response


def _page(status: int, phrase: str, text: str) -> web.Response:
    body = f"<body><h1>Error: {phrase}</h1><h2>{text}</h2></body>"
    page = f"<html><head><title>{status} {phrase}</title></head>{body}</html>"
    return web.Response(status=status, text=page, content_type="text/html")
