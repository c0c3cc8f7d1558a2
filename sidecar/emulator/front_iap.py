"""The front end of Identity-Aware Proxy.

Owns its verdict and its answers. Called by `checks`; reads method, headers and path only. Sources:
https://cloud.google.com/iap/docs/authentication-howto, …/identity-howto (headers for the app), …/sessions-howto (401
for requests of a page's script), and answers of 2026 that people measured and published. Without a token a GET is 302
with a cookie `GCP_IAP_XSRF_NONCE_…=1` and the body "Invalid IAP credentials: empty token". A wrong token is 401
"Unable to parse JWT", "JWT signature is invalid", "Invalid bearer token. Invalid JWT audience.". All of them are
`text/html`, though they are one line of text.

The app gets a signed assertion: https://cloud.google.com/iap/docs/signed-headers-howto has its keys, claims and life,
https://github.com/Multitec-UA/mt-private-portal/blob/main/docs/multitec/reports/0001-iap-probe.md a service account's
as it came: 600 s, no `hd`. Headers `x-goog-*` that a caller sends are taken off: the same page says so, and the same
report has tried it with forged ones. It also has the words for a self-signed JWT of another audience.

On Cloud Run the app gets a further token, by which IAP is let in to the service; an app that passes it on is refused
by the next service: https://cloud.google.com/iap/docs/enabling-cloud-run, "Known limitations".
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from sidecar.emulator.asked import Asked
from sidecar.emulator.instance import PROJECT_NUMBER
from sidecar.emulator.keys import BadTokenError, assertion_key, read
from sidecar.emulator.pages import robot
from sidecar.emulator.verdicts import ISSUERS, Admitted, Judge, RefusedError, Verified, bearer

ISSUER: Final = "https://cloud.google.com/iap"
"""Of assertions."""
_ASSERTION_SECONDS: Final = 600


def check_iap(asked: Asked, judge: Judge) -> Admitted:
    """A valid token in Proxy-Authorization leaves the app its Authorization; else Authorization is judged."""
    headers = asked.headers
    names = [name for name in ("Proxy-Authorization", "Authorization") if name in headers]
    wrong = "empty token"
    for name in names:
        try:
            claims = _trust(headers[name], asked, judge)
        except BadTokenError as error:
            wrong = str(error)
            continue
        verified = judge.verified(claims, name)
        if not judge.permits(verified.email, verified.principal):
            raise RefusedError(_answer(403, robot(403, _NO_ACCESS)))
        # A Proxy-Authorization that held no valid token isn't for the app.
        stripped = ["proxy-authorization"] if name == "Authorization" else []
        stripped += [sent.lower() for sent in headers if sent.lower().startswith("x-goog-")]
        return Admitted(verified, tuple(stripped), _told(claims, verified, judge))
    text = f"Invalid IAP credentials: {wrong}"
    if not names and asked.method in ("GET", "HEAD") and headers.get("X-Requested-With") != "XMLHttpRequest":
        raise RefusedError(_sign_in(asked, judge, text))
    raise RefusedError(_answer(401, text))


def _told(claims: Mapping[str, Any], verified: Verified, judge: Judge) -> tuple[tuple[str, str], ...]:
    """The headers that tell the app who calls."""
    email = verified.email or ""
    number = (
        judge.principals.add(email).unique_id
        if verified.credential == "self_signed"
        else claims.get("sub", "")
    )
    subject = f"accounts.google.com:{number}"
    audience, now = judge.settings.assertion_audience, int(judge.now)
    assertion: dict[str, object] = {
        "aud": audience,
        "azp": audience,
        "email": email,
        "exp": now + _ASSERTION_SECONDS,
        "iat": now,
        "identity_source": "GOOGLE",
        "iss": ISSUER,
        "sub": subject,
    }
    # People in an organisation have one, service accounts have none.
    if isinstance(domain := claims.get("hd"), str):
        assertion["hd"] = domain
    return (
        *_own_token(judge),
        ("X-Goog-Authenticated-User-Email", f"accounts.google.com:{email}"),
        ("X-Goog-Authenticated-User-ID", subject),
        ("X-Goog-IAP-JWT-Assertion", assertion_key().sign(assertion)),
    )


_AGENT: Final = f"service-{PROJECT_NUMBER}@gcp-sa-iap.iam.gserviceaccount.com"
"""The account of IAP's own, which has the role run.invoker on the service."""


def _own_token(judge: Judge) -> tuple[tuple[str, str], ...]:
    """The header by which IAP is let in on Cloud Run, as that passes it on: without its signature."""
    if not judge.settings.is_on_run:
        return ()
    number, now = judge.principals.add(_AGENT).unique_id, int(judge.now)
    claims: dict[str, object] = {
        "aud": judge.url,
        "azp": number,
        "email": _AGENT,
        "email_verified": True,
        "exp": now + 3600,
        "iat": now,
        "iss": ISSUERS[0],
        "sub": number,
    }
    token = judge.key.sign(claims).rpartition(".")[0]
    return (("X-Serverless-Authorization", f"Bearer {token}.SIGNATURE_REMOVED_BY_GOOGLE"),)


def _trust(value: str, asked: Asked, judge: Judge) -> dict[str, Any]:
    token = bearer(value)
    if _is_self_signed(token, judge):
        claims = judge.trust_self_signed(token)
        origin = (judge.settings.resource or judge.url).removesuffix("/")
        wanted = [f"{origin}/*", f"{origin}{asked.path}"]
    else:
        claims = judge.trust(value)
        wanted = [judge.audience]
    if claims.get("aud") not in wanted:
        is_google = claims["iss"] in ISSUERS
        raise BadTokenError(
            "Invalid bearer token. Invalid JWT audience."
            if is_google
            else "Audience specified does not match requested endpoint"
        )
    if claims["iss"] in ISSUERS and not isinstance(claims.get("email"), str):
        raise BadTokenError("JWT 'email' claim isn't a string")
    return claims


def _is_self_signed(token: str, judge: Judge) -> bool:
    """By who it says it is from: an account that there is."""
    issuer = read(token).get("iss")
    return isinstance(issuer, str) and judge.principals.find(issuer) is not None


_NO_ACCESS = "You don't have access."
_NONCE_SECONDS = 600
"""The cookie's attributes, as a published answer of a load balancer has them."""


def _sign_in(asked: Asked, judge: Judge, text: str) -> web.Response:
    query = urlencode(
        {
            "client_id": judge.audience,
            "response_type": "code",
            "scope": "openid email",
            "access_type": "online",
            "redirect_uri": f"https://iap.googleapis.com/v1/oauth/clientIds/{judge.audience}:handleRedirect",
            "state": asked.url,
        }
    )
    response = _answer(302, text)
    response.headers["Location"] = f"https://accounts.google.com/o/oauth2/v2/auth?{query}"
    nonce = base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
    until = formatdate(judge.now + _NONCE_SECONDS, usegmt=True)
    cookie = f"GCP_IAP_XSRF_NONCE_{nonce}=1; expires={until}; path=/; Secure; HttpOnly"
    response.headers["Set-Cookie"] = cookie
    return response


def _answer(status: int, text: str) -> web.Response:
    headers = {"Content-Type": "text/html; charset=utf-8", "X-Goog-IAP-Generated-Response": "true"}
    return web.Response(status=status, body=text.encode(), headers=headers)
