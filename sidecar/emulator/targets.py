"""Target services: a Google front end with an app behind it.

Owns one service's life as its callers see it: each request is judged by `checks`, recorded, and refused or
passed to `backend`. Made by `app.Emulator.add_target`. A record says what was verified; it never holds a token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple, final

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.emulator.backend import ADMITTED, Backend
from sidecar.emulator.checks import check
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.kinds import Settings
from sidecar.emulator.pages import API, FRONT_END, not_found, serves_as
from sidecar.emulator.principals import Principals
from sidecar.emulator.verdicts import Judge, RefusedError, Verified


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
        self.app = web.Application(client_max_size=1 << 50, middlewares=[self._front_end])
        self._backend.add_routes(self.app.router)
        if settings.kind != "open":
            named = serves_as(API if settings.kind == "googleapis" else FRONT_END)
            self.app.on_response_prepare.append(named)
        if settings.kind == "googleapis" and settings.service is None:
            settings.service = f"{name}.googleapis.com"

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

    @web.middleware
    async def _front_end(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.settings.kind != "open" and not self._is_called(request.host):
            self._record(request, None, 404)
            headers = {"Content-Type": "text/html; charset=UTF-8"}
            return web.Response(status=404, body=not_found(request.path).encode(), headers=headers)
        judge = Judge(self.settings, self.url, self.audience, self._key, self._now(), self._principals)
        try:
            admitted = check(request, judge)
        except RefusedError as error:
            self._record(request, None, error.response.status)
            return error.response
        self._record(request, admitted.verified, 0)
        request[ADMITTED] = admitted
        return await handler(request)

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

    def _record(self, request: web.Request, verified: Verified | None, refused: int) -> None:
        self.requests.append(Received(request.method, request.raw_path, request.host, verified, refused))
