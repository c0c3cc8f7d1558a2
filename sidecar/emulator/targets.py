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

from sidecar.emulator.backend import ADMITTED, Admitted, Backend
from sidecar.emulator.checks import Judge, RefusedError, TargetKind, Verified, check
from sidecar.emulator.keys import SigningKey


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
        kind: TargetKind,
        key: SigningKey,
        now: Callable[[], float],
        *,
        audience: str | None = None,
        callers: Collection[str] | None = None,
    ) -> None:
        """`callers`: the e-mails of those who have permission; None: everyone whose token is good."""
        self.name = name
        self.kind = kind
        self.port = 0
        self.callers = callers
        self.requests: deque[Received] = deque(maxlen=10_000)
        self._audience = audience
        self._key = key
        self._now = now
        self._backend = Backend(name)
        self.app = web.Application(client_max_size=1 << 50, middlewares=[self._front_end])
        self._backend.add_routes(self.app.router)

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return self._backend.url

    @property
    def audience(self) -> str:
        """The audience it wants: its own URL unless told otherwise."""
        return self._audience or self.url

    def listens_at(self, scheme: str, authority: str, port: int) -> None:
        """Told by the emulator once the socket is bound."""
        self.port = port
        self._backend.url = f"{scheme}://{authority}:{port}"

    def release(self, count: int = 1) -> None:
        """Let this many more events of /sse out."""
        self._backend.release(count)

    @web.middleware
    async def _front_end(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        verified, refused = None, None
        try:
            verified = check(self.kind, request, Judge(self.audience, self._key, self._now(), self.callers))
        except RefusedError as error:
            refused = error.response
        status = refused.status if refused is not None else 0
        self.requests.append(Received(request.method, request.raw_path, request.host, verified, status))
        if refused is not None:
            return refused
        # IAP takes off a Proxy-Authorization that held no valid token.
        by_fallback = self.kind == "iap" and verified is not None and verified.header == "Authorization"
        request[ADMITTED] = Admitted(verified, ("proxy-authorization",) if by_fallback else ())
        return await handler(request)
