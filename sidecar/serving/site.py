"""An aiohttp application on its own listeners, behind the gate.

Owns how the servers of the control plane listen and answer: the admin server, and those that give tokens. `service`
binds the sockets, starts each `Site` and closes it. It knows no paths. Rules: connections pass `gate`, each has one
request, and errors inside get the form of `problems`. aiohttp parses one head a connection, gets a body only where it
is whole, and never decompresses.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any, Final, cast, final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from sidecar.runtime.clock import Clock
from sidecar.serving import intake, problems
from sidecar.serving.gate import Gate, Gates

_log = logging.getLogger(__name__)

_BACKLOG: Final = 128

_CLOSE_WAIT: Final = 1.0
"""Seconds that answers under way get when the server closes."""

_AIOHTTP: Final[dict[str, Any]] = {
    "logger": _log,
    "access_log": None,
    "auto_decompress": False,
    "max_line_size": intake.HEAD,
    "max_field_size": intake.HEAD,
    "max_headers": intake.LINES,
    # It has one request, which is whole: what it would wait for does not come.
    "keepalive_timeout": 0,
    "lingering_time": 0,
}


@final
class Site:
    """One application on its listeners.

    `sockets` are bound; they listen from `start` on and are closed by `close`. At the limit of connections the oldest
    one that has not asked makes room: who asks as soon as it is connected, as probes do, is served however many others
    say nothing.
    """

    def __init__(
        self, app: web.Application, sockets: Sequence[socket.socket], clock: Clock, takes: intake.Takes
    ) -> None:
        self._sockets = tuple(sockets)
        self._server = takes.server
        self._servers: list[asyncio.Server] = []
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_WAIT)
        self._gates = Gates(asyncio.get_running_loop(), clock, self._handler, takes)

    def gate(self) -> Gate:
        """A gate for a connection that did not come through a socket of the site."""
        return self._gates()

    async def start(self) -> None:
        """Accept connections on every socket."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            # asyncio accepts up to `backlog` connections before anything else gets its turn, and goes on when
            # the descriptor table is full: it would log a line for each, once a second.
            self._servers.append(await loop.create_server(self._gates, sock=sock, backlog=1))
            sock.listen(_BACKLOG)

    async def close(self) -> None:
        """Close the listeners at once, and the connections after at most a second."""
        for server in self._servers:
            server.close()
        await self._runner.cleanup()
        self._gates.close()

    def _handler(self) -> asyncio.Protocol:
        return _RequestHandler(
            cast(web.Server, self._runner.server), self._server, loop=asyncio.get_running_loop(), **_AIOHTTP
        )


@final
class _RequestHandler(web.RequestHandler):
    """aiohttp's side of one connection, with one request."""

    __slots__ = ("_name",)

    def __init__(self, manager: web.Server, name: str, **options: Any) -> None:
        super().__init__(manager, **options)
        self._name = name

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """See aiohttp: the connection ends behind the answer."""
        resp.force_close()
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp. Its own error pages repeat the request and name its parts; these don't."""
        if isinstance(exc, HttpProcessingError):
            answer = problem(400, "This request can't be read.")
            # aiohttp would name itself, and answer as to HTTP/1.0: no signal is sent for these.
            answer.headers.update(problems.HEADERS, Server="idtoken-sidecar", Connection="close")
            return answer
        self.logger.error(f"fault in the {self._name}", exc_info=exc)
        if request.writer.output_size:
            raise ConnectionError("the answer has begun")
        return problem(status, "The sidecar has an internal fault; its log says which.")


def problem(status: int, detail: str) -> web.Response:
    """A refusal in the form of `problems`."""
    return web.Response(text=problems.document(status, detail), status=status, content_type=problems.TYPE)
