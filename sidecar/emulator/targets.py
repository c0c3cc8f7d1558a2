"""Target services: a Google front end with an app behind it.

Owns one service's life as its callers see it: each request is judged by `checks`, recorded, and refused or
passed to `backend`, or to `grpc_app` where the service speaks gRPC. Made by `app.Emulator.add_target`. A record says
what was verified; it never holds a token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple, final

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.emulator.asked import Asked, without_token
from sidecar.emulator.backend import ADMITTED, Backend
from sidecar.emulator.checks import check
from sidecar.emulator.grpc_app import GrpcApp, ServingStatus
from sidecar.emulator.grpc_server import GrpcServer
from sidecar.emulator.instance import PROJECT_NUMBER, REGION
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.kinds import Settings
from sidecar.emulator.pages import APIS, FRONT_END, NOBODY, Manner, application, not_found
from sidecar.emulator.principals import Principals
from sidecar.emulator.verdicts import Admitted, Judge, RefusedError, Verified


class Received(NamedTuple):
    """One request as a target saw it."""

    method: str
    path: str
    host: str
    verified: Verified | None
    refused: int
    """The front end's status where it refused, else 0."""


@final
class Target:
    """One service. `url` and `port` are set once it listens."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        key: SigningKey,
        now: Callable[[], float],
        principals: Principals,
    ) -> None:
        self.name = name
        self.settings = settings
        """Switches too: a change holds from the next request on."""
        self.port = 0
        self.requests: deque[Received] = deque(maxlen=10_000)
        self._key = key
        self._now = now
        self._principals = principals
        self._backend = Backend(name)
        self._names: frozenset[str] | None = frozenset()
        self._grpc = GrpcApp(settings) if settings.grpc else None
        self.app: web.Application | GrpcServer = (
            self._http() if self._grpc is None else self._http2(self._grpc)
        )
        """What listens."""
        if settings.kind == "googleapis" and settings.service is None:
            settings.service = f"{name}.googleapis.com"
        if settings.kind == "iap" and settings.assertion_audience is None:
            settings.assertion_audience = f"/projects/{PROJECT_NUMBER}/locations/{REGION}/services/{name}"

    @property
    def _manner(self) -> Manner:
        if self.settings.kind == "open":
            return NOBODY
        return APIS if self.settings.kind == "googleapis" else FRONT_END

    def _http(self) -> web.Application:
        app = application(self._manner, middlewares=[self._front_end], client_max_size=1 << 50)
        self._backend.add_routes(app.router)
        return app

    def _http2(self, app: GrpcApp) -> GrpcServer:
        return GrpcServer(app, self._admit, self._now, self._manner.server)

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return self._backend.url

    @property
    def audience(self) -> str:
        """The audience it wants: its own URL unless told otherwise, a function's with its name as the path."""
        own = f"{self.url}/{self.name}" if self.settings.kind == "cloud_functions" else self.url
        return self.settings.audience or own

    def listens_at(self, scheme: str, authority: str, port: int, names: Collection[str] | None) -> None:
        """Told by the emulator once the socket is bound; `names` are what it is called, in lower case, without the
        port. None: anything, where other machines reach it by names that nobody can know here.
        """
        self.port = port
        self._names = None if names is None else frozenset(names)
        self._backend.url = f"{scheme}://{authority}:{port}"

    def release(self, count: int = 1) -> None:
        """Let this many more events of /sse out."""
        self._backend.release(count)

    def set_health(self, status: ServingStatus, service: str = "") -> None:
        """What the gRPC service says of its health from now on, to those who watch it, too; the empty name is its
        whole. ValueError for a target of HTTP, and for a status that there is not.
        """
        if self._grpc is None:
            raise ValueError(f"{self.name} speaks HTTP, and has no health service of gRPC's")
        self._grpc.set_health(status, service)

    @web.middleware
    async def _front_end(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[ADMITTED] = self._admit(Asked.of_request(request))
        except RefusedError as error:
            return error.response
        return await handler(request)

    def _admit(self, asked: Asked) -> Admitted:
        """Judge a request, and record it; RefusedError with the front end's answer."""
        judge = Judge(self.settings, self.url, self.audience, self._key, self._now(), self._principals)
        try:
            is_called = self.settings.kind == "open" or self._is_called(asked.host)
            if not is_called or self._is_kept(asked.path):
                headers = {"Content-Type": "text/html; charset=UTF-8"}
                page = not_found(asked.path).encode()
                raise RefusedError(web.Response(status=404, body=page, headers=headers))
            admitted = check(asked, judge)
        except RefusedError as error:
            self._record(asked, None, error.status)
            raise
        self._record(asked, admitted.verified, 0)
        return admitted

    def _is_called(self, authority: str) -> bool:
        """Whether a request's Host is one of this service's, with its port. Google's front ends find the service by the
        Host alone, and answer 404 where it is none that they know
        (https://cloud.google.com/run/docs/mapping-custom-domains: a domain that is not mapped is not found).
        """
        authority = authority.lower()
        if authority in self.settings.hosts:
            return True
        name, colon, port = authority.rpartition(":")
        if not colon or port != str(self.port):
            return False
        tag, dashes, rest = name.partition("---")
        if dashes and tag in self.settings.tags:
            name = rest
        return self._names is None or name in self._names

    def _is_kept(self, path: str) -> bool:
        """Whether Google keeps the path to itself: "Reserved URL paths" in https://cloud.google.com/run/docs/known-issues,
        which adds "some paths ending with z", of which `/healthz` has been tried, behind IAP too (see `front_iap`).
        """
        return self.settings.is_on_run and (path in ("/healthz", "/eventlog") or path.startswith("/_ah/"))

    def _record(self, asked: Asked, verified: Verified | None, refused: int) -> None:
        path = (
            without_token(asked.raw_path)
            if self.settings.kind in ("api_gateway", "endpoints")
            else asked.raw_path
        )
        self.requests.append(Received(asked.method, path, asked.host, verified, refused))
