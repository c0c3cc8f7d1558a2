"""The metadata server of Compute Engine, as google-auth asks it.

Owns the paths below `/computeMetadata/v1/` that identity needs, its token cache, and what it was asked. Composed by
`app`; signs with the key it is given and knows no other server. Behaves as documented and as seen: wants
`Metadata-Flavor: Google`, refuses `X-Forwarded-For`, hands out the same token until some minutes before it
expires. Source: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys and google-auth's
`compute_engine/_metadata.py`.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, final

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.emulator.faults import GARBAGE, Endpoint, Fault, claims_for
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.principals import Principals

PROJECT: Final = "emulated-project"
PROJECT_NUMBER: Final = 123456789012
EMAIL: Final = f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
SUBJECT: Final = "107517467455664443766"
ISSUER: Final = "https://accounts.google.com"
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"

Platform = Literal[
    "compute_engine",
    "gke",
    "cloud_run",
    "cloud_functions",
    "app_engine",
    "app_engine_flexible",
    "cloud_build",
]


class Profile(NamedTuple):
    """In what a platform's metadata server differs from the others'."""

    email: str
    """Of the service account that is attached unless another one is chosen."""
    server: str
    """Its `Server` header."""
    describes_instance: bool = False
    """Whether a full token has the claim `google.compute_engine`."""
    email_always: bool = True
    """Whether a token has the e-mail whatever `format` says; Compute Engine wants `full`."""
    aliases: tuple[str, ...] = ("default",)


PROFILES: Final[dict[Platform, Profile]] = {
    "compute_engine": Profile(EMAIL, "Metadata Server for VM", describes_instance=True, email_always=False),
    "gke": Profile(f"workload@{PROJECT}.iam.gserviceaccount.com", "GKE Metadata Server"),
    "cloud_run": Profile(EMAIL, "Metadata Server for Serverless"),
    "cloud_functions": Profile(f"{PROJECT}@appspot.gserviceaccount.com", "Metadata Server for Serverless"),
    "app_engine": Profile(f"{PROJECT}@appspot.gserviceaccount.com", "Metadata Server for Serverless"),
    "app_engine_flexible": Profile(
        f"{PROJECT}@appspot.gserviceaccount.com",
        "Metadata Server for VM",
        describes_instance=True,
        email_always=False,
    ),
    "cloud_build": Profile(
        f"{PROJECT_NUMBER}@cloudbuild.gserviceaccount.com", "Metadata Server for Cloud Build"
    ),
}
"""By what is documented and reported; what is not known is as on Compute Engine."""

_ROOT: Final = "/computeMetadata/v1"
_ACCOUNTS: Final = f"{_ROOT}/instance/service-accounts"
_COMPUTE_ENGINE: Final = {
    "instance_confidentiality": 0,
    "instance_creation_timestamp": 1_700_000_000,
    "instance_id": "1234567890123456789",
    "instance_name": "emulated",
    "project_id": PROJECT,
    "project_number": PROJECT_NUMBER,
    "zone": "us-central1-a",
}
_LICENSES: Final = ["1000205"]


class Asked(NamedTuple):
    """One identity request, as it came."""

    audience: str
    account: str
    format: str


class Seen(NamedTuple):
    """One request of any kind, the refused ones included."""

    path: str
    audience: str | None
    headers: Mapping[str, str]
    """Any case finds them."""


@final
class MetadataServer:
    """The application, its token cache, and what it was asked."""

    def __init__(
        self,
        key: SigningKey,
        principals: Principals,
        now: Callable[[], float],
        *,
        token_lifetime: float,
        cache_margin: float | None = None,
        platform: Platform = "compute_engine",
    ) -> None:
        """Durations in seconds. `cache_margin` is 240 on the real server; short lives get 30 % of theirs, so that
        what renews at three quarters of a short life finds a new token, as it would in earnest.
        """
        self.endpoint = Endpoint()
        self.profile = PROFILES[platform]
        self.email: str | None = self.profile.email
        """Of the default account. None: no service account is attached (404)."""
        self.others: list[str] = []
        """E-mails of further attached accounts, each to be asked for by its name."""
        self.bound = True
        """GKE: whether the Kubernetes account may act as the Google one; otherwise tokens are refused (403)."""
        self.scopes: tuple[str, ...] = (SCOPE,)
        """The access scopes of the instance: no access token has others."""
        self.universe: str | None = "googleapis.com"
        """None: a server that does not know the question yet (404)."""
        self.token_lifetime = token_lifetime
        self.cache_margin = min(240.0, token_lifetime * 0.3) if cache_margin is None else cache_margin
        self.asked: deque[Asked] = deque(maxlen=10_000)
        self.requests: deque[Seen] = deque(maxlen=10_000)
        self.counts: Counter[str] = Counter()
        """Requests by path."""
        self._key = key
        self._principals = principals
        self._now = now
        self._cache: dict[tuple[str, str, str, bool], tuple[str, float]] = {}
        self.app = web.Application(middlewares=[self._guard])
        routes = self.app.router
        routes.add_get("/", self._ping)
        routes.add_get(f"{_ROOT}/project/project-id", self._project)
        routes.add_get(f"{_ROOT}/project/numeric-project-id", self._project_number)
        routes.add_get(f"{_ROOT}/universe/universe-domain", self._universe)
        routes.add_get(f"{_ACCOUNTS}/", self._accounts)
        routes.add_get(f"{_ACCOUNTS}/{{account}}/", self._account)
        routes.add_get(f"{_ACCOUNTS}/{{account}}/email", self._email)
        routes.add_get(f"{_ACCOUNTS}/{{account}}/identity", self._identity)
        routes.add_get(f"{_ACCOUNTS}/{{account}}/token", self._token)
        routes.add_get("/{path:.*}", self._unknown)

    def forget(self) -> None:
        """Drop the cached tokens, as the real server does around their expiry."""
        self._cache.clear()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.counts[request.path] += 1
        self.requests.append(Seen(request.path, request.query.get("audience"), request.headers))
        if "X-Forwarded-For" in request.headers:
            return _text("X-Forwarded-For header is not allowed.\n", status=403)
        # The ping alone is answered without: it is how clients find out whom they are talking to.
        if request.path != "/" and request.headers.get("Metadata-Flavor") != "Google":
            return _text("Missing Metadata-Flavor:Google header.\n", status=403)
        if request.path.endswith(("/identity", "/token")):
            answer = await handler(request)
        else:
            answer = await self.endpoint.pass_by(request) or await handler(request)
        if answer.headers.get("Server") == _SERVER:
            answer.headers["Server"] = self.profile.server
        return answer

    async def _ping(self, _: web.Request) -> web.Response:
        return _text("computeMetadata/\n")

    async def _project(self, _: web.Request) -> web.Response:
        return _text(PROJECT)

    async def _project_number(self, _: web.Request) -> web.Response:
        return _text(str(PROJECT_NUMBER))

    async def _universe(self, _: web.Request) -> web.Response:
        return _not_found() if self.universe is None else _text(self.universe)

    async def _unknown(self, _: web.Request) -> web.Response:
        return _not_found()

    def _known(self, request: web.Request) -> str | None:
        account = request.match_info["account"]
        if account in ("default", self.email):
            return self.email
        return account if account in self.others else None

    async def _accounts(self, _: web.Request) -> web.Response:
        emails = [] if self.email is None else ["default", self.email]
        return _text("".join(f"{name}/\n" for name in [*emails, *self.others]))

    async def _account(self, request: web.Request) -> web.Response:
        if (email := self._known(request)) is None:
            return _not_found()
        if request.query.get("recursive", "").lower() != "true":
            return _text("aliases\nemail\nidentity\nscopes\ntoken\n")
        return _json({"aliases": ["default"], "email": email, "scopes": [SCOPE]})

    async def _email(self, request: web.Request) -> web.Response:
        email = self._known(request)
        return _not_found() if email is None else _text(email)

    async def _meet(self, request: web.Request) -> tuple[web.Response | None, Fault | None]:
        answer, fault = await self.endpoint.meet(request)
        if answer is not None and answer.status != 200:
            # An error is the server's own; a page with status 200 is somebody else's, who has no flavor.
            answer.headers["Metadata-Flavor"] = "Google"
        return answer, fault

    async def _token(self, request: web.Request) -> web.Response:
        answer, fault = await self._meet(request)
        if answer is not None:
            return answer
        if (email := self._known(request)) is None:
            return _not_found()
        if fault is not None and fault.kind == "garbage":
            return _json({"token_type": "Bearer"})
        if not self.bound:
            return _unbound(email)
        wanted = [scope for scope in request.query.get("scopes", "").split(",") if scope] or self.scopes
        scopes = [scope for scope in wanted if scope in self.scopes or SCOPE in self.scopes]
        self._principals.add(email)
        token = self._principals.issue(f"serviceAccount:{email}", scopes, lifetime=self.token_lifetime)
        expires = int(self.token_lifetime) - 1
        return _json({"access_token": token.value, "expires_in": expires, "token_type": "Bearer"})

    async def _identity(self, request: web.Request) -> web.Response:
        query = request.query
        audience = query.get("audience", "")
        form = query.get("format", "standard")
        licenses = form == "full" and query.get("licenses", "").upper() == "TRUE"
        self.asked.append(Asked(audience, request.match_info["account"], form))
        answer, fault = await self._meet(request)
        if answer is not None:
            return answer
        if (email := self._known(request)) is None:
            return _not_found()
        if not self.bound:
            return _unbound(email)
        if not audience:
            return _text("non-empty audience parameter required\n", status=400)
        if fault is not None and fault.kind == "garbage":
            return _jwt(GARBAGE)
        now = self._now()
        if fault is not None:
            return _jwt(self._key.sign(claims_for(self._claims(audience, email, form, licenses, now), fault)))
        held = (email, audience, form, licenses)
        token, expires_at = self._cache.get(held, ("", 0.0))
        if expires_at - now <= self.cache_margin:
            token = self._key.sign(self._claims(audience, email, form, licenses, now))
            self._cache[held] = (token, now + self.token_lifetime)
        return _jwt(token)

    def _claims(self, audience: str, email: str, form: str, licenses: bool, now: float) -> dict[str, object]:
        claims: dict[str, object] = {
            "aud": audience,
            "azp": SUBJECT,
            "exp": int(now + self.token_lifetime),
            "iat": int(now),
            "iss": ISSUER,
            "sub": SUBJECT,
        }
        if form == "full" or self.profile.email_always:
            claims |= {"email": email, "email_verified": True}
        if form == "full" and self.profile.describes_instance:
            instance = _COMPUTE_ENGINE | ({"license_id": _LICENSES} if licenses else {})
            claims["google"] = {"compute_engine": instance}
        return claims


_SERVER: Final = "Metadata Server for VM"


def _unbound(email: str) -> web.Response:
    return _text(f"Unable to generate access token; IAM returned 403 Forbidden: {email}\n", status=403)


def _answer(body: str, content_type: str, status: int = 200) -> web.Response:
    """The real server's headers, and no charset: google-auth reads JSON for exactly `application/json`."""
    headers = {
        "Content-Type": content_type,
        "Metadata-Flavor": "Google",
        "Server": _SERVER,
        "X-XSS-Protection": "0",
        "X-Frame-Options": "SAMEORIGIN",
    }
    return web.Response(status=status, body=body.encode(), headers=headers)


def _text(text: str, *, status: int = 200) -> web.Response:
    return _answer(text, "application/text" if status == 200 else "text/html; charset=UTF-8", status)


def _json(value: object) -> web.Response:
    return _answer(json.dumps(value), "application/json")


def _jwt(token: str) -> web.Response:
    return _answer(token, "text/html")


def _not_found() -> web.Response:
    return _text("<title>Error 404 (Not Found)!!1</title>\n", status=404)
