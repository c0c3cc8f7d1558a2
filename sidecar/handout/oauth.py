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
from collections.abc import Mapping
from typing import Final, NamedTuple, final
from urllib.parse import unquote_plus

from sidecar.config.handouts import TokenEndpoint
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import quoted
from sidecar.handout import guard
from sidecar.handout.desk import Desk
from sidecar.handout.offer import Offer
from sidecar.handout.rfc6749 import HEADERS, OAuthRefusedError, answer_to, form_of, invalid, refusal_of
from sidecar.net.callers import Callers
from sidecar.serving.application import Application
from sidecar.serving.intake import Takes
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response
from sidecar.tokens.token import TokenKey

PATH: Final = "/oauth2/token"
TAKES: Final = Takes("token endpoint", forms=(PATH,), purpose="give it a token")

_IGNORED_SCOPES: Final = frozenset({"openid", "email", "profile"})
"""Scopes that an ID token has anyway, and that clients of OpenID providers always request."""


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
        self.app = Application(TAKES.server, self._answer, headers=HEADERS)

    def adopt(self, offer: Offer, config: TokenEndpoint, peers: Callers | None) -> None:
        """Use this configuration from now on; `offer` and `peers` come from it."""
        self.offer = offer
        self.config = config
        self.peers = peers

    async def _answer(self, request: WholeRequest) -> Response:
        caller = ""
        try:
            caller = guard.admit(request, TAKES.server, peers=self.peers, names=frozenset())
            if request.path != PATH:
                return _nothing(404, f"There is nothing at this path: POST {PATH} gives tokens.")
            if request.method != "POST":
                return _nothing(405, "Tokens are asked for by POST.")
            return await self._give(request, caller)
        except OAuthRefusedError as error:
            refused = error
        except SidecarError as error:
            refused = refusal_of(error)
        self.desk.refused(refused.reason, refused.detail, caller=caller)
        return answer_to(refused)

    async def _give(self, request: WholeRequest, caller: str) -> Response:
        if request.query:
            raise invalid("Parameters belong into the body of the request, where no log has them.")
        form = form_of(request.body)
        client = self._authenticated(request, form)
        if form.get("grant_type") != "client_credentials":
            missing = "grant_type" not in form
            raise OAuthRefusedError(
                "invalid_request" if missing else "unsupported_grant_type",
                "The grant_type of this endpoint is client_credentials.",
                reason=Reason.MALFORMED_REQUEST,
            )
        if unknown := set(form.get("scope", "").split()) - _IGNORED_SCOPES:
            raise OAuthRefusedError(
                "invalid_scope",
                f"An ID token has an audience and no scopes: leave {quoted(min(unknown))} out.",
                reason=Reason.NOT_ALLOWED,
            )
        given = await self.desk.give(self._key(client, form), caller=caller)
        return Response.of_json(
            {"access_token": given.value, "token_type": "Bearer", "expires_in": given.expires_in}
        )

    def _authenticated(self, request: WholeRequest, form: Mapping[str, str]) -> _Client:
        """The authenticated client; raises for a caller without the secret."""
        sent = request.headers("Authorization")
        if sent and "client_secret" in form:
            raise invalid("The client says who it is twice: in Authorization and in the body.")
        if sent:
            client = _from_basic(sent[0]) if len(sent) == 1 else None
        else:
            client = _Client(form.get("client_id", ""), form.get("client_secret", ""))
        known = self.config.secret.get_secret_value().encode("ascii")
        # What is absent is compared as well: how long it takes tells nothing.
        right = hmac.compare_digest(b"" if client is None else client.secret.encode(), known)
        if client is None or not right:
            raise OAuthRefusedError(
                "invalid_client",
                "The client_secret is not the one of token_endpoint.secret.",
                status=401,
                reason=Reason.CALLER_REFUSED,
            )
        if form.get("client_id", client.id) != client.id:
            raise invalid("The client has two names: in Authorization and in client_id.")
        return client

    def _key(self, client: _Client, form: Mapping[str, str]) -> TokenKey:
        wanted = {form[name] for name in ("audience", "resource") if form.get(name)}
        if len(wanted) > 1:
            raise invalid("audience and resource differ, and a token has one audience.")
        try:
            if wanted:
                return self.offer.id_key(wanted.pop())
        except SidecarError as error:
            raise OAuthRefusedError("invalid_target", error.detail, reason=error.reason) from None
        if (key := self.offer.route_key(client.id)) is not None:
            return key
        raise OAuthRefusedError(
            "invalid_target",
            "The request names no audience, and its client_id is not the name of a route with a fixed upstream: send "
            "audience (Prometheus: endpoint_params), or the name of such a route as client_id.",
            reason=Reason.NOT_ALLOWED,
        )


def _nothing(status: int, detail: str) -> Response:
    return Response.of_json({"error": "invalid_request", "error_description": detail}, status=status)


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
