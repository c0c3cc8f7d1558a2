"""Google's token endpoints, answered with placeholders: for a library that holds a dummy key file.

Owns what oauth2.googleapis.com, sts.googleapis.com and iamcredentials.googleapis.com are asked for tokens with, and the
forms of the answers. Served by a `Site` whose connections are tunnels: `net.interception` has shown the app a
certificate for the host. It may not decide who gets what (`guard`, `offer`), nor give a real token: what it gives is
made by `tokens.placeholder`. Rules: a signature, a refresh token or a subject token is not looked at, since what it
earns is worth nothing; all the rest is read strictly; what is refused is refused in Google's forms. Sources:
https://developers.google.com/identity/protocols/oauth2/service-account,
https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token,
https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts, https://google.aip.dev/193.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, final

from sidecar.config.targets import CLOUD_PLATFORM, TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.handout import guard
from sidecar.handout.desk import TRANSIENT, Desk, HandedOut
from sidecar.handout.offer import Offer
from sidecar.handout.rfc6749 import HEADERS, OAuthRefusedError, answer_to, form_of, invalid, refusal_of
from sidecar.net.callers import Callers
from sidecar.runtime.clock import Clock
from sidecar.serving.application import Application
from sidecar.serving.intake import Takes
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response
from sidecar.tokens.token import TokenKey

_OAUTH: Final = ("oauth2.googleapis.com", "/token")
_STS: Final = ("sts.googleapis.com", "/v1/token")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
_IAM: Final = "iamcredentials.googleapis.com"
_METHOD: Final = re.compile(r"/v1/projects/[^/]+/serviceAccounts/[^/:]+:([A-Za-z]+)")

TAKES: Final = Takes(
    "token endpoint",
    forms=(_OAUTH[1], _STS[1]),
    purpose="give it a token",
    json=re.compile(_METHOD.pattern.encode("ascii")),
)

_ASSERTION: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
_IAM_SCOPES: Final = frozenset({CLOUD_PLATFORM, "https://www.googleapis.com/auth/iam"})
"""With a token of one of these, libraries ask iamcredentials for another."""

_FIELDS: Final[Mapping[str, Mapping[str, type]]] = {
    "generateIdToken": {
        "audience": str,
        "delegates": list,
        "includeEmail": bool,
        "organizationNumberIncluded": bool,
        "useEmailAzp": bool,
    },
    "generateAccessToken": {"delegates": list, "lifetime": str, "scope": list},
}
"""What a call may hold, by its method."""
_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
"""Of google.rpc.Code."""


class _RefusedCallError(Exception):
    """A call of iamcredentials that is refused."""

    def __init__(self, code: int, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.retry_after: float | None = None


@final
class GoogleApp:
    """The application; `adopt` when the configuration changes."""

    offer: Offer

    def __init__(self, desk: Desk, clock: Clock) -> None:
        """`adopt` is to be called before it serves."""
        self.desk = desk
        self._clock = clock
        self.app = Application(TAKES.server, self._answer, headers=HEADERS)

    def adopt(self, offer: Offer, peers: Callers | None) -> None:
        """Go by this from now on: what may be given, and to whose processes."""
        self.offer = offer
        self.peers = peers

    async def _answer(self, request: WholeRequest) -> Response:
        origin = None if request.owner is None else request.owner.origin
        host, caller = "" if origin is None else origin.host, ""
        try:
            caller = guard.admit(request, TAKES.server, peers=self.peers, names=frozenset({host}))
            if origin is not None:
                origin.check(request.header("Host").encode("latin-1"), absolute=False)
            return await self._give(request, host, caller)
        except _RefusedCallError as error:
            return self._call_refused(error, caller)
        except SidecarError as error:
            if host == _IAM:
                return self._call_refused(_as_call(error), caller)
            refused = refusal_of(error)
        except OAuthRefusedError as error:
            refused = error
        self.desk.refused(refused.reason, refused.detail, caller=caller)
        return answer_to(refused)

    def _call_refused(self, refused: _RefusedCallError, caller: str) -> Response:
        self.desk.refused(refused.reason, refused.message, caller=caller)
        return _rpc_error(refused)

    async def _give(self, request: WholeRequest, host: str, caller: str) -> Response:
        path = request.path
        method = _METHOD.fullmatch(path) if host == _IAM else None
        if method is None and (host, path) not in (_OAUTH, _STS):
            raise _nothing_there(host)
        if request.method != "POST":
            raise _wrong(host, "Tokens are asked for by POST.")
        if method is not None:
            return await self._called(request, method[1], caller)
        form = form_of(request.body)
        if (host, path) == _STS:
            return Response.of_json(await self._exchanged(form, caller))
        match form.get("grant_type"):
            case "refresh_token":
                if not form.get("refresh_token"):
                    raise invalid("Missing required parameter: refresh_token")
                wanted = form.get("scope", "").split()
                given = await self._access(wanted, caller)
                more = {"scope": " ".join(sorted({*wanted}))} if wanted else {}
                return Response.of_json({**_bearer(given), **more})
            case grant if grant == _ASSERTION:
                return Response.of_json(await self._granted(_claims(form.get("assertion", "")), caller))
        raise _unsupported(form)

    async def _granted(self, claims: Mapping[str, Any], caller: str) -> dict[str, object]:
        """What an assertion gets: an ID token, or an access token."""
        audience, scope = claims.get("target_audience"), claims.get("scope", "")
        if not isinstance(scope, str) or (audience is None) is not bool(scope.split()):
            raise _no_such_scope("Invalid OAuth scope or ID token audience provided.")
        if audience is None:
            return _bearer(await self._access(scope.split(), caller))
        if not isinstance(audience, str) or not audience:
            raise _no_such_scope("Invalid OAuth scope or ID token audience provided.")
        try:
            key = self.offer.id_key(audience)
        except SidecarError as error:
            raise _no_such_scope(error.detail, error.reason) from None
        given = await self.desk.give(key, caller=caller, worthless=True)
        return {"id_token": given.value}

    async def _exchanged(self, form: Mapping[str, str], caller: str) -> dict[str, object]:
        """What a subject token gets (RFC 8693)."""
        if form.get("grant_type") != _EXCHANGE:
            raise _unsupported(form)
        for name in ("audience", "subject_token", "subject_token_type"):
            if not form.get(name):
                raise invalid(f"Missing required parameter: {name}")
        if form.get("requested_token_type", _ACCESS_TOKEN) != _ACCESS_TOKEN:
            raise invalid("Invalid requested_token_type: access tokens are given here.")
        given = await self._access(form.get("scope", "").split(), caller)
        return {**_bearer(given), "issued_token_type": _ACCESS_TOKEN}

    async def _access(self, wanted: Sequence[str], caller: str) -> HandedOut:
        """A placeholder of an access token, of scopes that are listed. Where none are, of those that a library asks
        iamcredentials with: it would come no further else, and gets there what is listed."""
        if not self.offer.scopes and _IAM_SCOPES.issuperset(wanted):
            return self.desk.stand_in(
                TokenKey(self.offer.source, " ".join(sorted({*wanted})), TokenKind.ACCESS), caller=caller
            )
        try:
            key = self.offer.access_key(wanted)
        except SidecarError as error:
            raise _no_such_scope(error.detail, error.reason) from None
        return await self.desk.give(key, caller=caller, worthless=True)

    # iamcredentials

    async def _called(self, request: WholeRequest, method: str, caller: str) -> Response:
        scheme, _, token = request.header("Authorization").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _RefusedCallError(
                401,
                "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or "
                "other valid authentication credential.",
                Reason.CALLER_REFUSED,
            )
        known = _FIELDS.get(method)
        if known is None:
            raise _RefusedCallError(
                403,
                "The sidecar gives placeholders of tokens here and nothing else: generateIdToken, generateAccessToken.",
                Reason.NOT_ALLOWED,
            )
        asked = _asked(request.body, known)
        if method == "generateIdToken":
            audience = asked.get("audience")
            if not audience:
                raise _unreadable("Request contains an invalid argument.")
            given = await self.desk.give(self.offer.id_key(audience), caller=caller, worthless=True)
            return Response.of_json({"token": given.value})
        scopes = asked.get("scope", [])
        if not scopes or not all(isinstance(scope, str) for scope in scopes):
            raise _unreadable("Request contains an invalid argument.")
        given = await self.desk.give(self.offer.access_key(scopes), caller=caller, worthless=True)
        expires_at = datetime.fromtimestamp(int(self._clock.wall()) + given.expires_in, UTC)
        return Response.of_json(
            {"accessToken": given.value, "expireTime": f"{expires_at:%Y-%m-%dT%H:%M:%SZ}"}
        )


def _bearer(given: HandedOut) -> dict[str, object]:
    return {"access_token": given.value, "expires_in": given.expires_in, "token_type": "Bearer"}


def _claims(assertion: str) -> dict[str, Any]:
    """What an assertion says, whatever its signature; raises for what is no JWT (RFC 7519 section 7.2)."""
    parts = assertion.split(".")
    try:
        header, claims = (_object(_decoded(part)) for part in parts[:2])
        _decoded(parts[2])
    except (ValueError, IndexError):
        header, claims = {}, {}
    if len(parts) != 3 or "alg" not in header or not claims:
        raise OAuthRefusedError("invalid_grant", "Invalid JWT.", reason=Reason.MALFORMED_REQUEST)
    return claims


def _decoded(segment: str) -> bytes:
    if not _BASE64URL.fullmatch(segment):
        raise ValueError("no base64url")
    try:
        return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_")
    except binascii.Error as error:
        raise ValueError("no base64url") from error


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object, each name once; ValueError for anything else."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _asked(body: bytes, known: Mapping[str, type]) -> dict[str, Any]:
    """What a call of iamcredentials holds."""
    try:
        asked = _object(body)
    except ValueError:
        raise _unreadable("Invalid JSON payload received.") from None
    for name, value in asked.items():
        if name not in known:
            raise _unreadable(f"Invalid JSON payload received. Unknown name; known are {', '.join(known)}.")
        # ProtoJSON: null is what a field has that is not there. google-auth sends such `delegates`.
        if value is not None and not isinstance(value, known[name]):
            raise _unreadable(f"Invalid value at '{name}'.")
    return {name: value for name, value in asked.items() if value is not None}


def _no_such_scope(detail: str, reason: Reason = Reason.MALFORMED_REQUEST) -> OAuthRefusedError:
    return OAuthRefusedError("invalid_scope", detail, reason=reason)


def _unsupported(form: Mapping[str, str]) -> OAuthRefusedError:
    # Not quoted: what stands in a wrong place may be a secret.
    missing = "grant_type" not in form
    detail = "Missing required parameter: grant_type" if missing else "Invalid grant_type."
    return OAuthRefusedError("unsupported_grant_type", detail, reason=Reason.MALFORMED_REQUEST)


def _unreadable(message: str) -> _RefusedCallError:
    return _RefusedCallError(400, message, Reason.MALFORMED_REQUEST)


def _wrong(host: str, message: str) -> Exception:
    return _unreadable(message) if host == _IAM else invalid(message)


def _nothing_there(host: str) -> Exception:
    """Another path than those for tokens."""
    message = (
        "Here the sidecar answers what libraries ask for tokens (`google_token_endpoints`), and nothing else."
    )
    if host == _IAM:
        return _RefusedCallError(404, message, Reason.MALFORMED_REQUEST)
    return OAuthRefusedError("invalid_request", message, status=404, reason=Reason.MALFORMED_REQUEST)


def _as_call(error: SidecarError) -> _RefusedCallError:
    """An error of the sidecar as iamcredentials would say it."""
    if error.reason in (Reason.CALLER_REFUSED, Reason.NOT_ALLOWED):
        return _RefusedCallError(403, error.detail, error.reason)
    if error.reason is Reason.BAD_HOST:
        return _RefusedCallError(400, error.detail, error.reason)
    found = _RefusedCallError(503 if error.reason in TRANSIENT else 500, error.detail, error.reason)
    found.retry_after = error.retry_after if found.code == 503 else None
    return found


def _rpc_error(refused: _RefusedCallError) -> Response:
    """AIP-193, with an ErrorInfo."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": refused.reason.value.upper(),
        "domain": "idtoken-sidecar",
    }
    error = {
        "code": refused.code,
        "message": refused.message,
        "status": _STATUS[refused.code],
        "details": [info],
    }
    answer = Response.of_json({"error": error}, status=refused.code)
    if refused.retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, round(refused.retry_after)))
    return answer
