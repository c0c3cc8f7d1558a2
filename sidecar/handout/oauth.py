"""A token endpoint for programs that know only OAuth.

Owns its one path and the forms of its answers. Served by a `Site` on listeners that `service` binds. It does not
decide who gets what (`guard`, `offer`) and fetches nothing (`desk`). Rules: RFC 6749 sections 2.3.1 (client
authentication, either way, never both), 3.2 (a parameter stands once, and in the body), 4.4 (client credentials),
5.1, 5.2 (answers); RFC 8707 section 2 (`resource`, `invalid_target`). A caller without the secret learns nothing
about the lists.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping
from typing import Final, NamedTuple, final
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.config.handouts import TokenEndpoint
from sidecar.errors import Reason, SidecarError
from sidecar.handout import guard
from sidecar.handout.desk import TRANSIENT, Desk
from sidecar.handout.offer import Offer
from sidecar.net.callers import Callers
from sidecar.serving import problems
from sidecar.serving.intake import Takes
from sidecar.tokens.token import TokenKey

PATH: Final = "/oauth2/token"
TAKES: Final = Takes("token endpoint", form=PATH, purpose="give it a token")

_IGNORED_SCOPES: Final = frozenset({"openid", "email", "profile"})
"""Scopes that an ID token has anyway, and that clients of OpenID providers always request."""
_PARAMETERS: Final = 50
_NOT_IN_DESCRIPTIONS: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
"""RFC 6749 section 5.2."""


class _RefusedError(Exception):
    """An error of RFC 6749."""

    def __init__(self, error: str, detail: str, *, status: int = 400, reason: Reason) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.status = status
        self.reason = reason
        self.retry_after: float | None = None


class _Client(NamedTuple):
    """What a client says about itself; its text form shows no secret."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"<_Client {self.id}>"


@final
class TokenApp:
    """The application; `adopt` when the configuration changes."""

    offer: Offer
    config: TokenEndpoint

    def __init__(self, desk: Desk) -> None:
        """Call `adopt` before it serves."""
        self.desk = desk
        self.app = web.Application(middlewares=[self._guard])
        self.app.on_response_prepare.append(_set_headers)
        self.app.router.add_post(PATH, self._give)

    def adopt(self, offer: Offer, config: TokenEndpoint, peers: Callers | None) -> None:
        """Use this configuration from now on; `offer` and `peers` come from it."""
        self.offer = offer
        self.config = config
        self.peers = peers

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request["caller"] = guard.admit(request, TAKES.server, peers=self.peers, names=frozenset())
            return await handler(request)
        except _RefusedError as error:
            refused = error
        except SidecarError as error:
            refused = _said(error)
        except web.HTTPMethodNotAllowed:
            return _json(
                {"error": "invalid_request", "error_description": "Tokens are asked for by POST."}, 405
            )
        except web.HTTPNotFound:
            detail = f"There is nothing at this path: POST {PATH} gives tokens."
            return _json({"error": "invalid_request", "error_description": detail}, 404)
        self.desk.refused(refused.reason, refused.detail, caller=request.get("caller", ""))
        return _answer(refused)

    async def _give(self, request: web.Request) -> web.StreamResponse:
        if request.query_string:
            raise _invalid("Parameters belong into the body of the request, where no log has them.")
        form = _form(await request.read())
        client = self._authenticated(request, form)
        if form.get("grant_type") != "client_credentials":
            missing = "grant_type" not in form
            raise _RefusedError(
                "invalid_request" if missing else "unsupported_grant_type",
                "The grant_type of this endpoint is client_credentials.",
                reason=Reason.MALFORMED_REQUEST,
            )
        if unknown := set(form.get("scope", "").split()) - _IGNORED_SCOPES:
            raise _RefusedError(
                "invalid_scope",
                f"An ID token has an audience and no scopes: leave {min(unknown)[:80]} out.",
                reason=Reason.NOT_ALLOWED,
            )
        given = await self.desk.give(self._key(client, form), caller=request["caller"])
        return _json(
            {"access_token": given.value, "token_type": "Bearer", "expires_in": given.expires_in}, 200
        )

    def _authenticated(self, request: web.Request, form: Mapping[str, str]) -> _Client:
        """The authenticated client; raises for a caller without the secret."""
        sent = request.headers.getall("Authorization", [])
        if sent and "client_secret" in form:
            raise _invalid("The client says who it is twice: in Authorization and in the body.")
        if sent:
            client = _from_basic(sent[0]) if len(sent) == 1 else None
        else:
            client = _Client(form.get("client_id", ""), form.get("client_secret", ""))
        known = self.config.secret.get_secret_value().encode("ascii")
        # What is absent is compared as well: how long it takes tells nothing.
        right = hmac.compare_digest(b"" if client is None else client.secret.encode(), known)
        if client is None or not right:
            raise _RefusedError(
                "invalid_client",
                "The client_secret is not the one of token_endpoint.secret.",
                status=401,
                reason=Reason.CALLER_REFUSED,
            )
        if form.get("client_id", client.id) != client.id:
            raise _invalid("The client has two names: in Authorization and in client_id.")
        return client

    def _key(self, client: _Client, form: Mapping[str, str]) -> TokenKey:
        wanted = {form[name] for name in ("audience", "resource") if form.get(name)}
        if len(wanted) > 1:
            raise _invalid("audience and resource differ, and a token has one audience.")
        try:
            if wanted:
                return self.offer.id_key(wanted.pop())
        except SidecarError as error:
            raise _RefusedError("invalid_target", error.detail, reason=error.reason) from None
        if (key := self.offer.route_key(client.id)) is not None:
            return key
        raise _RefusedError(
            "invalid_target",
            "The request names no audience, and its client_id is not the name of a route with a fixed upstream: send "
            "audience (Prometheus: endpoint_params), or the name of such a route as client_id.",
            reason=Reason.NOT_ALLOWED,
        )


def _form(body: bytes) -> dict[str, str]:
    """The parameters; raises unless the body is a form (RFC 6749 appendix B: UTF-8)."""
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_PARAMETERS,
            separator="&",
        )
    except ValueError:
        raise _invalid("The body is not a form.") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        # RFC 8707 lets `resource` stand several times, for one token for several places: there is none here.
        raise _invalid("A parameter stands there twice.")
    return form


def _from_basic(value: str) -> _Client | None:
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    # RFC 6749 section 2.3.1: each part is form-encoded first.
    name, separator, secret = text.partition(":")
    return _Client(unquote_plus(name), unquote_plus(secret)) if separator else None


def _invalid(detail: str) -> _RefusedError:
    return _RefusedError("invalid_request", detail, reason=Reason.MALFORMED_REQUEST)


def _said(error: SidecarError) -> _RefusedError:
    """An error of the sidecar in the terms of RFC 6749 (or of its section 4.1.2.1 if there is none)."""
    if error.reason is Reason.CALLER_REFUSED:
        return _RefusedError("access_denied", error.detail, status=403, reason=error.reason)
    transient = error.reason in TRANSIENT
    refused = _RefusedError(
        "temporarily_unavailable" if transient else "server_error",
        f"{error.reason}: {error.detail}",
        status=503 if transient else 500,
        reason=error.reason,
    )
    refused.retry_after = error.retry_after if transient else None
    return refused


def _answer(refused: _RefusedError) -> web.Response:
    description = _NOT_IN_DESCRIPTIONS.sub("'", refused.detail)
    answer = _json({"error": refused.error, "error_description": description}, refused.status)
    if refused.status == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="token endpoint"'
    if refused.retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, round(refused.retry_after)))
    return answer


def _json(value: Mapping[str, object], status: int) -> web.Response:
    return web.Response(status=status, text=json.dumps(value), content_type="application/json")


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in problems.HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Pragma"] = "no-cache"  # RFC 6749 section 5.1
    response.headers.pop("Server", None)
