"""The metadata server of Compute Engine, as google-auth asks it.

Owns the paths below `/computeMetadata/v1/` that identity needs, its token cache, and what it was asked. Composed by
`app`; signs with the key it is given and knows no other server. Behaves as documented and as seen: wants
`Metadata-Flavor: Google`, refuses `X-Forwarded-For`, hands out the same token until some minutes before it
expires. Sources: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys, google-auth's
`compute_engine/_metadata.py`, and answers that people pasted: a 404 with its headers
https://github.com/googleapis/gcp-metadata/issues/657, an identity for nobody https://github.com/hashicorp/vault/pull/5667.
"""

from __future__ import annotations

import asyncio
import html
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple, final

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.emulator.faults import GARBAGE, Endpoint, Fault, claims_for
from sidecar.emulator.instance import (
    INSTANCE_ID,
    NAME,
    PROJECT,
    PROJECT_NUMBER,
    ZONE,
    Node,
    Platform,
    etag,
    find,
    tree,
    written,
)
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.pages import NAMELESS, Manner, application, not_allowed, not_found, reason, robot
from sidecar.emulator.principals import AccessToken, Principals
from sidecar.emulator.scopes import CLOUD_PLATFORM

EMAIL: Final = f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
ISSUER: Final = "https://accounts.google.com"


class Profile(NamedTuple):
    """In what a platform's metadata server differs from the others'."""

    email: str
    """The e-mail of the attached service account, unless another one is chosen."""
    server: str
    """Its `Server` header."""
    describes_instance: bool = False
    """Whether a full token has the claim `google.compute_engine`."""
    email_always: bool = True
    """Whether a token has the e-mail whatever `format` says; Compute Engine wants `full`."""
    relays_iam: bool = False
    """Whether it asks IAM for each token, and repeats in plain text what that answers (GKE)."""


PROFILES: Final[dict[Platform, Profile]] = {
    "compute_engine": Profile(EMAIL, "Metadata Server for VM", describes_instance=True, email_always=False),
    "gke": Profile(f"workload@{PROJECT}.iam.gserviceaccount.com", "GKE Metadata Server", relays_iam=True),
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
_COMPUTE_ENGINE: Final = {
    "instance_confidentiality": 0,
    "instance_creation_timestamp": 1_700_000_000,
    "instance_id": str(INSTANCE_ID),
    "instance_name": NAME,
    "project_id": PROJECT,
    "project_number": PROJECT_NUMBER,
    "zone": ZONE,
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
        """The e-mail of the default account. None: no service account is attached (404)."""
        self.others: list[str] = []
        """E-mails of further attached accounts, each to be asked for by its name."""
        self.bound = True
        """GKE: whether the Kubernetes account may act as the Google one; otherwise tokens are refused (403)."""
        self.scopes: tuple[str, ...] = (CLOUD_PLATFORM,)
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
        self._ids: dict[tuple[str, str, str, bool], tuple[str, float]] = {}
        self._access: dict[tuple[str, tuple[str, ...]], AccessToken] = {}
        self._seen: set[str] = set()
        """E-mails that were put into the directory; one that is missing there now was deleted."""
        self._attributes: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._platform = platform
        self.app = application(_manner(self.profile), middlewares=[self._guard])
        routes = self.app.router
        routes.add_get("/", self._ping)
        accounts = f"{_ROOT}/instance/service-accounts"
        routes.add_get(f"{accounts}/{{account}}/identity", self._identity)
        routes.add_get(f"{accounts}/{{account}}/token", self._token)
        routes.add_route("*", "/{path:.*}", self._entry)

    def forget(self) -> None:
        """Drop the cached tokens, as the real server does around their expiry."""
        self._ids.clear()
        self._access.clear()

    def set_attribute(self, name: str, value: str) -> None:
        """Set one of the instance's own attributes; requests that wait for a change are answered."""
        self._attributes[name] = value
        self._changed.set()
        self._changed = asyncio.Event()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.counts[request.path] += 1
        self.requests.append(Seen(request.path, request.query.get("audience"), request.headers))
        if "X-Forwarded-For" in request.headers:
            return _forbidden(request, "X-Forwarded-For header is not allowed.")
        # The ping alone is answered without: it is how clients find out whom they are talking to.
        if request.path != "/" and request.headers.get("Metadata-Flavor") != "Google":
            if self.profile.relays_iam:
                return _go_unasked()
            return _forbidden(request, "Missing Metadata-Flavor:Google header.")
        if request.path.endswith(("/identity", "/token")):
            return await handler(request)
        return await self.endpoint.pass_by(request) or await handler(request)

    async def _ping(self, _: web.Request) -> web.Response:
        return _text("computeMetadata/\n")

    async def _entry(self, request: web.Request) -> web.Response:
        """Whatever is not a token: a value, or a directory, whose address ends in a slash."""
        if request.method not in ("GET", "HEAD"):
            return _html(not_allowed(request.method, request.path), 405)
        try:
            node = find(self._root(), request.path)
        except KeyError:
            return _html(not_found(request.path), 404)
        if isinstance(node, Mapping) and not request.path.endswith("/"):
            query = f"?{request.query_string}" if request.query_string else ""
            answer = _html("", 301)
            answer.headers["Location"] = f"http://{request.host}{request.path}/{query}"
            return answer
        return await self._value(request)

    async def _value(self, request: web.Request) -> web.Response:
        query = request.query
        recursive = query.get("recursive", "").lower() == "true"

        def now() -> tuple[str, bool]:
            return written(self._root(), request.path, recursive=recursive, alt=query.get("alt", "").lower())

        text, is_json = now()
        if query.get("wait_for_change", "").lower() == "true":
            known = query.get("last_etag") or etag(text)
            try:
                seconds = float(query.get("timeout_sec", "inf"))
            except ValueError:
                seconds = math.nan
            if math.isnan(seconds):
                return _refusal(400, request.method, request.path)
            try:
                async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                    while etag(text) == known:
                        await self._changed.wait()
                        text, is_json = now()
            except TimeoutError:
                pass  # then the value is given as it is
        answer = _answer(text, "application/json" if is_json else "application/text")
        answer.headers["ETag"] = etag(text)
        return answer

    def _root(self) -> Mapping[str, Node]:
        accounts = [] if self.email is None else ["default", self.email]
        scopes: dict[str, Sequence[str]] = {name: self.scopes for name in (*accounts, *self.others)}
        return {"computeMetadata": {"v1": tree(self._platform, scopes, self._attributes, self.universe)}}

    def _known(self, request: web.Request) -> str | None:
        """The e-mail of the account that was asked for; None where there is none."""
        account = request.match_info["account"]
        if account in ("default", self.email):
            return self.email
        return account if account in self.others else None

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
            return _html(not_found(request.path), 404)
        if fault is not None and fault.kind == "garbage":
            return _json({"token_type": "Bearer"})
        if (refused := self._relayed(request, email, "access", "getAccessToken")) is not None:
            return refused
        wanted = [scope for scope in request.query.get("scopes", "").split(",") if scope] or self.scopes
        if not self._principals.knows(wanted):
            return self._no_scope()
        scopes = tuple(scope for scope in wanted if scope in self.scopes or CLOUD_PLATFORM in self.scopes)
        now = self._now()
        token = self._access.get((email, scopes))
        if token is None or token.expires_at - now <= self.cache_margin:
            token = self._principals.issue(f"serviceAccount:{email}", scopes, lifetime=self.token_lifetime)
            self._access[email, scopes] = token
        # The whole life is told as a second less: 3599.
        left = max(0, min(math.ceil(token.expires_at - now), int(self.token_lifetime)) - 1)
        return _json({"access_token": token.value, "expires_in": left, "token_type": "Bearer"})

    def _no_scope(self) -> web.Response:
        """For a scope that there is not. On Cloud Run 500: https://github.com/googleapis/google-auth-library-ruby/pull/277
        (several scopes in one word); GKE has IAM's words; elsewhere the token endpoint's, which nobody has published.
        """
        if self.profile.relays_iam:
            words = "IAM returned 400 Bad Request: Request contains an invalid argument."
            return _plain(f"Unable to generate access token; {words}\n", 400)
        if self.profile.server == _SERVERLESS:
            return _plain("Internal Server Error\n", 500)
        return _json(
            {
                "error": "invalid_scope",
                "error_description": "Invalid OAuth scope or ID token audience provided.",
            },
            400,
        )

    def _relayed(self, request: web.Request, email: str, kind: str, permission: str) -> web.Response | None:
        """The refusal where the account was deleted, or, on GKE, may not be acted as. GKE has these texts:
        https://github.com/camunda/camunda/issues/31106 (403); a misspelt account, "IAM returned 404 Not Found: Not
        found; Gaia id not found for email", in the troubleshooting pages of several public repositories. Serverless
        platforms answer 500 where tokens of the account can't be made, while its other entries are there:
        https://github.com/google/clusterfuzz/issues/2557, https://github.com/googleapis/gcp-metadata/issues/436.
        """
        if email not in self._seen:
            self._seen.add(email)
            self._principals.add(email)
        is_there = self._principals.find(email) is not None
        if not is_there and self.profile.server == _SERVERLESS:
            return _plain(f"Could not fetch URI {request.raw_path}\n", 500)
        if not is_there and not self.profile.relays_iam:
            return _html(not_found(request.path), 404)
        if not is_there:
            words = f"404 Not Found: Not found; Gaia id not found for email {email}\n"
        elif not self.bound:
            words = (
                f"403 Forbidden: Permission 'iam.serviceAccounts.{permission}' denied on resource (or it may not "
                "exist).\nThis error could be caused by a missing IAM policy binding on the target IAM service account."
                "\nFor more information, refer to the Workload Identity documentation:\n\thttps://cloud.google.com/"
                "kubernetes-engine/docs/how-to/workload-identity#authenticating_to\n\n"
            )
        else:
            return None
        return _plain(f"Unable to generate {kind} token; IAM returned {words}", int(words[:3]))

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
            return _html(not_found(request.path), 404)
        if (refused := self._relayed(request, email, "identity", "getOpenIdToken")) is not None:
            return refused
        if not audience:
            return _html("non-empty audience parameter required\n", 400)
        if fault is not None and fault.kind == "garbage":
            return _jwt(GARBAGE)
        now = self._now()
        if fault is not None:
            return _jwt(self._key.sign(claims_for(self._claims(audience, email, form, licenses, now), fault)))
        held = (email, audience, form, licenses)
        token, expires_at = self._ids.get(held, ("", 0.0))
        if expires_at - now <= self.cache_margin:
            token = self._key.sign(self._claims(audience, email, form, licenses, now))
            self._ids[held] = (token, now + self.token_lifetime)
        return _jwt(token)

    def _claims(self, audience: str, email: str, form: str, licenses: bool, now: float) -> dict[str, object]:
        subject = self._principals.add(email).unique_id
        claims: dict[str, object] = {
            "aud": audience,
            "azp": subject,
            "exp": int(now + self.token_lifetime),
            "iat": int(now),
            "iss": ISSUER,
            "sub": subject,
        }
        if form == "full" or self.profile.email_always:
            claims |= {"email": email, "email_verified": True}
        if form == "full" and self.profile.describes_instance:
            instance = _COMPUTE_ENGINE | ({"license_id": _LICENSES} if licenses else {})
            claims["google"] = {"compute_engine": instance}
        return claims


_SERVERLESS: Final = "Metadata Server for Serverless"


def _answer(body: str, content_type: str, status: int = 200) -> web.Response:
    """The real server's headers, and no charset: google-auth reads JSON for exactly `application/json`."""
    headers = {
        "Content-Type": content_type,
        "Metadata-Flavor": "Google",
        "X-XSS-Protection": "0",
        "X-Frame-Options": "SAMEORIGIN",
    }
    return web.Response(status=status, body=body.encode(), headers=headers)


def _text(text: str) -> web.Response:
    return _answer(text, "application/text")


def _html(text: str, status: int) -> web.Response:
    return _answer(text, "text/html; charset=UTF-8", status)


def _plain(text: str, status: int) -> web.Response:
    """As GKE's server, which is written in Go, puts its errors."""
    return _answer(text, "text/plain; charset=utf-8", status)


def _go_unasked() -> web.Response:
    """What GKE's server says without the flavor, nameless: https://github.com/googleapis/google-api-dotnet-client/issues/1409"""
    text = 'GKE Metadata Server encountered an error: Missing required header "Metadata-Flavor": "Google"\n'
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
    answer = web.Response(status=403, body=text.encode(), headers=headers)
    answer[NAMELESS] = True
    return answer


def _forbidden(request: web.Request, why: str) -> web.Response:
    code = f"<code>{html.escape(request.path)}</code>"
    return _html(
        robot(403, f"Your client does not have permission to get URL {code} from this server. {why}"), 403
    )


def _manner(profile: Profile) -> Manner:
    if profile.relays_iam:
        return Manner(profile.server, _go_refusal)
    unread = {"Server": profile.server, "Connection": "close"}
    return Manner(profile.server, _refusal, unread=unread)


def _refusal(status: int, method: str, path: str) -> web.Response:
    """To what no handler takes: no published answer is known, and this is as the server's others are."""
    return _html(robot(status, reason(status, method, path)), status)


def _go_refusal(status: int, method: str, path: str) -> web.Response:
    """The same of GKE's server, which is written in Go: https://go.dev/src/net/http/server.go, `conn.serve`."""
    del method, path
    code = HTTPStatus(431 if status in (413, 414) else status)
    return _plain(f"{code.value} {code.phrase}", code)


def _json(value: object, status: int = 200) -> web.Response:
    return _answer(json.dumps(value, separators=(",", ":")), "application/json", status)


def _jwt(token: str) -> web.Response:
    return _answer(token, "text/html")
