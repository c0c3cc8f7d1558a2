"""The IAM Credentials API: tokens of a service account for principals that may act as it.

Owns generateIdToken, generateAccessToken, signJwt and signBlob with their permission model: the caller, a chain of
delegates, the target. Composed by `app`. Error texts are Google's own. Sources:
https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts,
https://cloud.google.com/iam/docs/create-short-lived-credentials-delegated. A JWT to be signed lives for 12 hours at
most (https://cloud.google.com/iam/docs/create-short-lived-credentials-direct), an access token for one.

Errors: https://google.aip.dev/193 and what users report. A permission that is missing:
https://github.com/google-github-actions/auth/issues/340. A scope that there is not, or none:
https://github.com/google-github-actions/auth/issues/144 and https://github.com/golang/oauth2/issues/537. An account
that there is not: "Not found; Gaia id not found for email". A life that is too long or too short: the measurements
that `sts` names. A field that the method does not have:
https://github.com/googleapis/google-auth-library-php/pull/580.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, final

from aiohttp import web

from sidecar.emulator.faults import Endpoint, Fault, claims_for
from sidecar.emulator.instance import PROJECT_NUMBER
from sidecar.emulator.keys import BadTokenError, SigningKey, read, signing_key
from sidecar.emulator.metadata import ISSUER
from sidecar.emulator.pages import APIS, application
from sidecar.emulator.principals import AccessToken, Permission, Principals
from sidecar.emulator.scopes import CLOUD_PLATFORM, IAM

SERVICE: Final = "iamcredentials.googleapis.com"
_SCOPES: Final = frozenset({CLOUD_PLATFORM, IAM})
_INVALID: Final = "Request contains an invalid argument."
_TOO_LONG: Final = (
    "can not have lifetimes of more than 1 hour. Use the Org Policy Constraint "
    "constraints/iam.allowServiceAccountCredentialLifetimeExtension to allow up to 12 hours."
)
_RESOURCE: Final = "projects/-/serviceAccounts/"
_LONGEST: Final = 12 * 3600
"""Seconds ahead that a JWT to sign may expire."""


class AskedOfIam(NamedTuple):
    """One request that was granted."""

    method: str
    email: str
    caller: str
    delegates: tuple[str, ...]
    wanted: str
    """Audience, or scopes; empty for signJwt and signBlob."""


class RefusedError(Exception):
    """A call that is refused; the parts of a google.rpc.Status."""

    def __init__(
        self,
        code: int,
        status: str,
        message: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message)
        self.code = code
        self.body = rpc_error(code, status, message, reason, metadata)


def rpc_error(
    code: int, status: str, message: str, reason: str = "", metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Google's error document, with an ErrorInfo where there is a reason."""
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    if reason:
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            # IAM reports permissions, the service's infrastructure the rest (google/api/error_reason.proto).
            "domain": "iam.googleapis.com" if reason == "IAM_PERMISSION_DENIED" else "googleapis.com",
        }
        error["details"] = [{**info, "metadata": dict(metadata or {})}]
    return {"error": error}


def api_disabled(project: str = "123456789012") -> Fault:
    """The API is not enabled in the caller's project."""
    activation = f"https://console.developers.google.com/apis/api/{SERVICE}/overview?project={project}"
    message = (
        f"IAM Service Account Credentials API has not been used in project {project} before or it is disabled. Enable "
        f"it by visiting {activation} then retry. If you enabled this API recently, wait a few minutes for the action "
        "to propagate to our systems and retry."
    )
    metadata = {
        "service": SERVICE,
        "serviceTitle": "IAM Service Account Credentials API",
        "consumer": f"projects/{project}",
        "containerInfo": project,
        "activationUrl": activation,
    }
    return _fault(403, "PERMISSION_DENIED", message, "SERVICE_DISABLED", metadata)


def quota_exhausted() -> Fault:
    """Too many calls."""
    message = (
        "Quota exceeded for quota metric 'Generate credentials' and limit 'Generate credentials per minute' of service "
        f"'{SERVICE}' for consumer 'project_number:{PROJECT_NUMBER}'."
    )
    metadata = {
        "service": SERVICE,
        "consumer": f"projects/{PROJECT_NUMBER}",
        "quota_metric": f"{SERVICE}/generate_credentials",
    }
    return _fault(429, "RESOURCE_EXHAUSTED", message, "RATE_LIMIT_EXCEEDED", metadata)


def quota_project_denied() -> Fault:
    """The caller may not use the project in x-goog-user-project."""
    message = (
        "Caller does not have required permission to use project quota-project. Grant the caller the "
        "roles/serviceusage.serviceUsageConsumer role, or a custom role with the serviceusage.services.use permission."
    )
    metadata = {"service": SERVICE, "consumer": "projects/quota-project"}
    return _fault(403, "PERMISSION_DENIED", message, "USER_PROJECT_DENIED", metadata)


def _fault(
    code: int, status: str, message: str, reason: str = "", metadata: Mapping[str, str] | None = None
) -> Fault:
    body = json.dumps(rpc_error(code, status, message, reason, metadata))
    return Fault("status", code=code, headers={"Content-Type": "application/json"}, body=body)


@final
class IAMCredentialsServer:
    """The application, and what it was asked."""

    def __init__(
        self, key: SigningKey, principals: Principals, now: Callable[[], float], *, token_lifetime: float
    ) -> None:
        """`token_lifetime` in seconds; access tokens live as long as they are asked for."""
        self.endpoint = Endpoint()
        self.token_lifetime = token_lifetime
        self.asked: deque[AskedOfIam] = deque(maxlen=10_000)
        self.quota_projects: deque[str] = deque(maxlen=10_000)
        """Every x-goog-user-project that came."""
        self._key = key
        self._principals = principals
        self._now = now
        self.app = application(APIS)
        self.app.router.add_post("/v1/projects/-/serviceAccounts/{call}", self._call)
        self.app.router.add_get("/service_accounts/v1/jwk/{email}", self._jwks)
        self.app.router.add_get("/service_accounts/v1/metadata/x509/{email}", self._certificates)

    async def _call(self, request: web.Request) -> web.Response:
        answer, fault = await self.endpoint.meet(request)
        if answer is not None:
            return answer
        if "x-goog-user-project" in request.headers:
            self.quota_projects.append(request.headers["x-goog-user-project"])
        email, _, method = request.match_info["call"].rpartition(":")
        try:
            body = await self._body(request)
            caller = self._caller(request)
            _know(method, body)
            found = self._answer(method, email, caller, body, fault)
        except RefusedError as error:
            return web.json_response(error.body, status=error.code)
        return web.json_response(found)

    @staticmethod
    async def _body(request: web.Request) -> Mapping[str, Any]:
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise RefusedError(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unexpected token.")
        return body

    def _caller(self, request: web.Request) -> AccessToken:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = None
        if scheme.lower() == "bearer":
            token = self._principals.introspect(value) or self._self_signed(value)
        if token is None:
            raise RefusedError(401, "UNAUTHENTICATED", *_UNAUTHENTICATED[bool(value)])
        if not _SCOPES & set(token.scopes):
            raise RefusedError(
                403,
                "PERMISSION_DENIED",
                "Request had insufficient authentication scopes.",
                "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                {"service": SERVICE},
            )
        return token

    def _self_signed(self, value: str) -> AccessToken | None:
        """The access token that a service account signed for itself (AIP-4111): a JWT with a scope."""
        try:
            email = read(value).get("iss")
            if not isinstance(email, str) or self._principals.find(email) is None:
                return None
            claims = signing_key(email).verify(value, named=False)
        except BadTokenError:
            return None
        # Go writes an empty audience beside the scope.
        scope, expires_at = claims.get("scope"), claims.get("exp")
        if not isinstance(scope, str) or not isinstance(expires_at, int) or expires_at <= self._now():
            return None
        return AccessToken(value, f"serviceAccount:{email}", tuple(scope.split()), expires_at)

    def _answer(
        self, method: str, email: str, caller: AccessToken, body: Mapping[str, Any], fault: Fault | None
    ) -> dict[str, Any]:
        delegates = _delegates(body)
        match method:
            case "generateIdToken":
                wanted = self._text(body, "audience")
                self._permit(caller.member, delegates, email, "getOpenIdToken")
                found = {"token": self._id_token(email, wanted, body, fault)}
            case "generateAccessToken":
                scopes = body.get("scope")
                if not isinstance(scopes, list) or not scopes or not all(isinstance(s, str) for s in scopes):
                    raise RefusedError(400, "INVALID_ARGUMENT", _INVALID)
                if not self._principals.knows(scopes):
                    raise RefusedError(400, "INVALID_ARGUMENT", _INVALID)
                wanted = " ".join(scopes)
                life = _lifetime(body.get("lifetime", "3600s"))
                self._permit(caller.member, delegates, email, "getAccessToken")
                token = self._principals.issue(f"serviceAccount:{email}", scopes, lifetime=life)
                until = datetime.fromtimestamp(math.floor(token.expires_at), UTC)
                found = {"accessToken": token.value, "expireTime": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
            case "signJwt":
                wanted = ""
                claims = self._payload(body)
                self._permit(caller.member, delegates, email, "signJwt")
                key = signing_key(email)
                found = {"keyId": key.kid, "signedJwt": key.sign(claims_for(claims, fault))}
            case "signBlob":
                wanted = ""
                data = self._blob(body)
                self._permit(caller.member, delegates, email, "signBlob")
                key = signing_key(email)
                found = {"keyId": key.kid, "signedBlob": base64.b64encode(key.sign_bytes(data)).decode()}
            case _:
                raise web.HTTPNotFound  # an API's own 404 has an account's name in it; this one is its front end's
        if fault is not None and fault.kind == "garbage":
            return {"nothing": "of use"}
        self.asked.append(AskedOfIam(method, email, caller.member, delegates, wanted))
        return found

    def _permit(self, member: str, delegates: tuple[str, ...], email: str, permission: Permission) -> None:
        """Each may act as the next; PERMISSION_DENIED or NOT_FOUND as Google words them."""
        for on in delegates:
            self._need(member, "implicitDelegation", on)
            member = f"serviceAccount:{on}"
        self._need(member, permission, email)

    def _need(self, member: str, permission: Permission, on: str) -> None:
        account = self._principals.find(on)
        if account is None:
            raise RefusedError(404, "NOT_FOUND", f"Not found; Gaia id not found for email {on}")
        if account.disabled or not self._principals.may(member, permission, on=on):
            name = f"iam.serviceAccounts.{permission}"
            raise RefusedError(
                403,
                "PERMISSION_DENIED",
                f"Permission '{name}' denied on resource (or it may not exist).",
                "IAM_PERMISSION_DENIED",
                {"permission": name},
            )

    def _id_token(self, email: str, audience: str, body: Mapping[str, Any], fault: Fault | None) -> str:
        account = self._principals.add(email)
        now = self._now()
        claims: dict[str, object] = {
            "aud": audience,
            "azp": email if _is_on(body, "useEmailAzp") else account.unique_id,
            "exp": int(now + self.token_lifetime),
            "iat": int(now),
            "iss": ISSUER,
            "sub": account.unique_id,
        }
        if _is_on(body, "includeEmail"):
            claims |= {"email": email, "email_verified": True}
        return self._key.sign(claims_for(claims, fault))

    def _payload(self, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            claims = json.loads(self._text(body, "payload"))
        except ValueError:
            claims = None
        if not isinstance(claims, dict):
            raise RefusedError(400, "INVALID_ARGUMENT", _INVALID)
        expires_at = claims.get("exp")
        if isinstance(expires_at, int | float) and expires_at > self._now() + _LONGEST:
            raise RefusedError(400, "INVALID_ARGUMENT", _INVALID)
        return claims

    def _blob(self, body: Mapping[str, Any]) -> bytes:
        try:
            return base64.b64decode(self._text(body, "payload"), validate=True)
        except binascii.Error:
            raise RefusedError(400, "INVALID_ARGUMENT", _INVALID) from None

    @staticmethod
    def _text(body: Mapping[str, Any], name: str) -> str:
        found = body.get(name)
        if not isinstance(found, str) or not found:
            raise RefusedError(400, "INVALID_ARGUMENT", _INVALID)
        return found

    # what verifies self-signed JWTs

    async def _jwks(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [signing_key(request.match_info["email"]).jwk()]})

    async def _certificates(self, request: web.Request) -> web.Response:
        key = signing_key(request.match_info["email"])
        return web.json_response({key.kid: key.certificate_pem()})


_EXPECTED: Final = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. See "
    "https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_UNAUTHENTICATED: Final = {
    False: (
        f"Request is missing required authentication credential. {_EXPECTED}",
        "CREDENTIALS_MISSING",
        {"service": SERVICE},
    ),
    True: (
        f"Request had invalid authentication credentials. {_EXPECTED}",
        "ACCESS_TOKEN_EXPIRED",
        {"service": SERVICE},
    ),
}
"""By whether there was a token."""


_FIELDS: Final = {
    "generateIdToken": {"audience", "delegates", "includeEmail", "organizationNumberIncluded", "useEmailAzp"},
    "generateAccessToken": {"delegates", "lifetime", "scope"},
    "signJwt": {"delegates", "payload"},
    "signBlob": {"delegates", "payload"},
}
"""By method, as its reference page has them. They may be written with underscores, too (ProtoJSON)."""


def _know(method: str, body: Mapping[str, Any]) -> None:
    """Refuse fields that the method does not have: a misspelt one is not passed over."""
    known = _FIELDS.get(method)
    if known is None:
        return
    unknown = [name for name in body if name not in known and _camel(name) not in known]
    if unknown:
        words = [
            f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.' for name in unknown
        ]
        error = RefusedError(400, "INVALID_ARGUMENT", "\n".join(words))
        violations = [{"description": said} for said in words]
        error.body["error"]["details"] = [
            {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}
        ]
        raise error


def _camel(name: str) -> str:
    """`include_email` as `includeEmail`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _is_on(body: Mapping[str, Any], name: str) -> bool:
    """JSON's true, or the text: google-auth writes that outside of googleapis.com (`google/oauth2/_client.py`)."""
    return body.get(name) in (True, "true")


def _delegates(body: Mapping[str, Any]) -> tuple[str, ...]:
    found = body.get("delegates") or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise RefusedError(400, "INVALID_ARGUMENT", _INVALID)
    # The API's own form, and the bare e-mails that gcloud sends.
    return tuple(name.removeprefix(_RESOURCE) for name in found)


def _lifetime(text: Any) -> float:
    try:
        seconds = float(str(text).removesuffix("s"))
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise RefusedError(400, "INVALID_ARGUMENT", _INVALID)
    if seconds <= 0:
        raise RefusedError(400, "INVALID_ARGUMENT", "Lifetime of access token must be larger then zero.")
    if seconds > 3600:
        raise RefusedError(400, "INVALID_ARGUMENT", _TOO_LONG)
    return seconds
