"""The front end of Identity-Aware Proxy.

Owns its verdict and its answers. Called by `checks`; reads headers and the path only. Sources:
https://cloud.google.com/iap/docs/authentication-howto and the texts that users report.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from sidecar.emulator.keys import BadTokenError, read
from sidecar.emulator.verdicts import ISSUERS, Admitted, Judge, RefusedError, bearer, page


def check_iap(request: web.Request, judge: Judge) -> Admitted:
    """A valid token in Proxy-Authorization leaves the app its Authorization; else Authorization is judged."""
    headers = request.headers
    names = [name for name in ("Proxy-Authorization", "Authorization") if name in headers]
    if not names and "text/html" in headers.get("Accept", ""):
        raise RefusedError(_marked(_sign_in(request, judge)))
    wrong = "empty token"
    for name in names:
        try:
            claims = _trust(headers[name], request, judge)
        except BadTokenError as error:
            wrong = str(error)
            continue
        verified = judge.verified(claims, name)
        if not judge.permits(verified.email, verified.principal):
            raise RefusedError(_marked(page(403, "Forbidden", "You don't have access")))
        # A Proxy-Authorization that held no valid token isn't for the app.
        return Admitted(verified, ("proxy-authorization",) if name == "Authorization" else ())
    raise RefusedError(_marked(web.Response(status=401, text=f"Invalid IAP credentials: {wrong}")))


def _trust(value: str, request: web.Request, judge: Judge) -> dict[str, Any]:
    token = bearer(value)
    if _is_self_signed(token, judge):
        claims = judge.trust_self_signed(token)
        origin = (judge.settings.resource or judge.url).removesuffix("/")
        wanted = [f"{origin}/*", f"{origin}{request.path}"]
    else:
        claims = judge.trust(value)
        wanted = [judge.audience]
    if claims.get("aud") not in wanted:
        raise BadTokenError(
            "JWT audience doesn't match this application "
            f"('aud' claim ({claims.get('aud')}) doesn't match expected value ({wanted[0]}))"
        )
    if claims["iss"] in ISSUERS and not isinstance(claims.get("email"), str):
        raise BadTokenError("JWT 'email' claim isn't a string")
    return claims


def _is_self_signed(token: str, judge: Judge) -> bool:
    """By who it says it is from: an account that there is."""
    issuer = read(token).get("iss")
    return isinstance(issuer, str) and judge.principals.find(issuer) is not None


def _sign_in(request: web.Request, judge: Judge) -> web.Response:
    query = urlencode(
        {
            "client_id": judge.audience,
            "response_type": "code",
            "scope": "openid email",
            "access_type": "online",
            "redirect_uri": f"https://iap.googleapis.com/v1/oauth/clientIds/{judge.audience}:handleRedirect",
            "state": str(request.url),
        }
    )
    location = f"https://accounts.google.com/o/oauth2/v2/auth?{query}"
    return web.Response(status=302, headers={"Location": location})


def _marked(response: web.Response) -> web.Response:
    response.headers["X-Goog-IAP-Generated-Response"] = "true"
    return response
