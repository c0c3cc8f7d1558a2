"""The metadata server of Compute Engine, as google-auth asks it.

Owns the paths below `/computeMetadata/v1/` that identity needs. Behaves as documented and as seen: wants
`Metadata-Flavor: Google`, refuses `X-Forwarded-For`, hands out the same token until some minutes before it
expires. Source: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys and google-auth's
`compute_engine/_metadata.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, final

from aiohttp import web

from sidecar.emulator.faults import Endpoint, claims_for
from sidecar.emulator.keys import SigningKey

PROJECT: Final = "emulated-project"
PROJECT_NUMBER: Final = 123456789012
EMAIL: Final = f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
SUBJECT: Final = "107517467455664443766"
ISSUER: Final = "https://accounts.google.com"

_FLAVOR: Final = {"Metadata-Flavor": "Google"}
_ACCOUNTS: Final = "/computeMetadata/v1/instance/service-accounts"


class Asked(NamedTuple):
    """One identity request, as it came."""

    audience: str
    account: str
    format: str


@final
class MetadataServer:
    """The application, its token cache, and what it was asked."""

    def __init__(
        self,
        key: SigningKey,
        now: Callable[[], float],
        *,
        token_lifetime: float,
        cache_margin: float | None = None,
    ) -> None:
        """Durations in seconds. `cache_margin` is 240 on the real server; short lives get 30 % of theirs, so that
        what renews at three quarters of a short life finds a new token, as it would in earnest.
        """
        self.endpoint = Endpoint()
        self.email: str | None = EMAIL
        """None: no service account is attached (404)."""
        self.token_lifetime = token_lifetime
        self.cache_margin = min(240.0, token_lifetime * 0.3) if cache_margin is None else cache_margin
        self.asked: deque[Asked] = deque(maxlen=10_000)
        self._key = key
        self._now = now
        self._cache: dict[tuple[str, str], tuple[str, float]] = {}
        self.app = web.Application(middlewares=[self._guard])
        routes = self.app.router
        routes.add_get("/", self._ping)
        routes.add_get("/computeMetadata/v1/project/project-id", self._project)
        routes.add_get("/computeMetadata/v1/project/numeric-project-id", self._project_number)
        routes.add_get("/computeMetadata/v1/universe/universe-domain", self._universe)
        routes.add_get(_ACCOUNTS + "/{account}/", self._account)
        routes.add_get(_ACCOUNTS + "/{account}/email", self._email)
        routes.add_get(_ACCOUNTS + "/{account}/identity", self._identity)
        routes.add_get(_ACCOUNTS + "/{account}/token", self._token)

    def forget(self) -> None:
        """Drop the cached tokens, as the real server does around their expiry."""
        self._cache.clear()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        if request.path != "/":
            if request.headers.get("Metadata-Flavor") != "Google":
                return web.Response(
                    status=403, text="Missing Metadata-Flavor:Google header.", headers=_FLAVOR
                )
            if "X-Forwarded-For" in request.headers:
                return web.Response(
                    status=403, text="X-Forwarded-For header is not allowed.", headers=_FLAVOR
                )
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.headers["Metadata-Flavor"] = "Google"
        return response

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="computeMetadata/\n", content_type="application/text")

    async def _project(self, _: web.Request) -> web.Response:
        return web.Response(text=PROJECT, content_type="application/text")

    async def _project_number(self, _: web.Request) -> web.Response:
        return web.Response(text=str(PROJECT_NUMBER), content_type="application/text")

    async def _universe(self, _: web.Request) -> web.Response:
        return web.Response(text="googleapis.com", content_type="application/text")

    def _known(self, request: web.Request) -> str | None:
        return self.email if request.match_info["account"] in ("default", self.email) else None

    async def _account(self, request: web.Request) -> web.Response:
        if (email := self._known(request)) is None:
            return _not_found()
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        return web.json_response({"aliases": ["default"], "email": email, "scopes": scopes})

    async def _email(self, request: web.Request) -> web.Response:
        email = self._known(request)
        return _not_found() if email is None else web.Response(text=email, content_type="application/text")

    async def _token(self, request: web.Request) -> web.Response:
        if self._known(request) is None:
            return _not_found()
        expires = int(self.token_lifetime) - 1
        return web.json_response(
            {"access_token": "ya29.emulated", "expires_in": expires, "token_type": "Bearer"}
        )

    async def _identity(self, request: web.Request) -> web.StreamResponse:
        audience = request.query.get("audience", "")
        asked = Asked(audience, request.match_info["account"], request.query.get("format", "standard"))
        self.asked.append(asked)
        answer, fault = await self.endpoint.meet(request)
        if answer is not None:
            return answer
        if (email := self._known(request)) is None:
            return _not_found()
        if not audience:
            return web.Response(status=400, text="non-empty audience parameter required", headers=_FLAVOR)
        if fault is not None and fault.kind == "garbage":
            return web.Response(text="eyJhbGciOiJub25lIn0.bm90LWpzb24.AAAA", content_type="text/html")
        now = self._now()
        token, expires_at = self._cache.get((audience, asked.format), ("", 0.0))
        if fault is not None or expires_at - now <= self.cache_margin:
            claims = claims_for(self._claims(audience, email, asked.format, now), fault)
            token = self._key.sign(claims)
            if fault is None:
                self._cache[audience, asked.format] = (token, now + self.token_lifetime)
        return web.Response(text=token, content_type="text/html")

    def _claims(self, audience: str, email: str, form: str, now: float) -> dict[str, object]:
        claims: dict[str, object] = {
            "aud": audience,
            "azp": SUBJECT,
            "exp": int(now + self.token_lifetime),
            "iat": int(now),
            "iss": ISSUER,
            "sub": SUBJECT,
        }
        if form == "full":
            claims |= {
                "email": email,
                "email_verified": True,
                "google": {
                    "compute_engine": {
                        "instance_creation_timestamp": 1_700_000_000,
                        "instance_id": "1234567890123456789",
                        "instance_name": "emulated",
                        "project_id": PROJECT,
                        "project_number": PROJECT_NUMBER,
                        "zone": "us-central1-a",
                    }
                },
            }
        return claims


def _not_found() -> web.Response:
    return web.Response(status=404, text="Not Found", headers=_FLAVOR)
