"""The admin server: its paths and its listeners.

Owns the aiohttp application and the sites it is served on. `service` binds the sockets, hands them to
`AdminServer` and closes it last of all, so that probes and scrapes see a drain to its end. It may not
touch the data path: it knows the sidecar through `AdminView` alone. Rules: what comes in passes `gate`, then
`callers.refusal`; every answer that is not a success has the form of `problems`; nothing is cached or sniffed, and the
status page alone may have a script, its own. aiohttp parses one head a connection, gets a body only where it is whole,
and never decompresses.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final, cast, final

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from sidecar.admin import callers, control, exposition, intake, pages, probes, problems
from sidecar.admin.gate import Gates
from sidecar.admin.renderings import Budget, Rendering
from sidecar.admin.view import VIEW, AdminView
from sidecar.runtime.clock import Clock

_log = logging.getLogger(__name__)

_BACKLOG: Final = 128

_CLOSE_WAIT: Final = 1.0
"""Seconds that answers under way get when the server closes."""

_METRICS: web.AppKey[dict[bool, Rendering[bytes]]] = web.AppKey("metrics")
"""By whether it is OpenMetrics."""
_STATUS: web.AppKey[Rendering[str]] = web.AppKey("status")

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

_SLICE: Final = 2000
"""Pieces of JSON a part: a millisecond of work."""


def build_app(view: AdminView, clock: Clock) -> web.Application:
    """The application for `view`."""
    app = web.Application(middlewares=[_guard])
    budget = Budget(clock)
    app[VIEW] = view
    app[_METRICS] = {
        openmetrics: Rendering(budget, partial(_exposition, view, openmetrics=openmetrics), b"".join)
        for openmetrics in (False, True)
    }
    app[_STATUS] = Rendering(budget, partial(_document, view), "".join)
    app.on_response_prepare.append(_set_headers)
    pages.prepare(app, view, budget)
    for method, path, handler, _ in PATHS:
        if method == "GET":
            app.router.add_get(path, handler)  # and HEAD
        else:
            app.router.add_route(method, path, handler)
    return app


@final
class AdminServer:
    """The application on its listeners.

    `sockets` are bound; they listen from `start` on and are closed by `close`. At the limit of connections the oldest
    one that has not asked makes room: who asks as soon as it is connected, as probes do, is served however many others
    say nothing.
    """

    def __init__(self, view: AdminView, sockets: Sequence[socket.socket], clock: Clock) -> None:
        self._sockets = tuple(sockets)
        self._servers: list[asyncio.Server] = []
        self._runner = web.AppRunner(build_app(view, clock), access_log=None, shutdown_timeout=_CLOSE_WAIT)
        self._gates = Gates(asyncio.get_running_loop(), clock, self._handler)

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
            cast(web.Server, self._runner.server),
            loop=asyncio.get_running_loop(),
            **_AIOHTTP,
        )


@final
class _RequestHandler(web.RequestHandler):
    """aiohttp's side of one connection, with one request."""

    __slots__ = ()

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
        """See aiohttp, whose pages say what was received and what the server is made of: these say neither."""
        if isinstance(exc, HttpProcessingError):
            answer = _problem(400, "This request can't be read.")
            # aiohttp would name itself, and answer as to HTTP/1.0: no signal is sent for these.
            answer.headers.update(problems.HEADERS, Server="idtoken-sidecar", Connection="close")
            return answer
        self.logger.error("fault in the admin server", exc_info=exc)
        if request.writer.output_size:
            raise ConnectionError("the answer has begun")
        return _problem(status, "The sidecar has an internal fault; its log says which.")


async def _index(request: web.Request) -> web.Response:
    if "text/html" in request.headers.get("Accept", "").lower():
        return await pages.html(request)
    lines = [f"{method:<5}{path:<18}{what}" for method, path, _, what in PATHS]
    return web.Response(text="\n".join(["idtoken-sidecar: admin", "", *lines, ""]))


async def _metrics(request: web.Request) -> web.Response:
    content_type = exposition.content_type(",".join(request.headers.getall("Accept", [])))
    rendering = request.app[_METRICS][content_type.startswith(exposition.OPENMETRICS)]
    return web.Response(body=await rendering.get(), headers={"Content-Type": content_type})


async def _status(request: web.Request) -> web.Response:
    return web.Response(text=await request.app[_STATUS].get(), content_type="application/json")


async def _exposition(view: AdminView, *, openmetrics: bool) -> AsyncIterator[bytes]:
    for part in exposition.parts(view.registry, openmetrics=openmetrics):
        yield part


async def _document(view: AdminView) -> AsyncIterator[str]:
    pieces = []
    for piece in json.JSONEncoder(indent=2).iterencode(view.status()):
        pieces.append(piece)
        if len(pieces) == _SLICE:
            yield "".join(pieces)
            pieces = []
    yield "".join([*pieces, "\n"])


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse callers, and give every refusal one form."""
    if (reason := callers.refusal(request)) is not None:
        return _problem(403, reason)
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        answer = _problem(405, f"{request.path} takes {allowed}.")
        answer.headers["Allow"] = allowed
        return answer
    except web.HTTPNotFound as error:
        said = error.text if request.match_info.http_exception is None else None
        return _problem(404, said or "There is nothing at this path; / lists what there is.")
    except web.HTTPException as error:
        answer = _problem(error.status, error.text or "")
        if "Retry-After" in error.headers:
            answer.headers["Retry-After"] = error.headers["Retry-After"]
        return answer


def _problem(status: int, detail: str) -> web.Response:
    return web.Response(text=problems.document(status, detail), status=status, content_type=problems.TYPE)


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in problems.HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)  # names and versions of what we are made of


PATHS: Final[tuple[tuple[str, str, Handler, str], ...]] = (
    ("GET", "/", _index, "this list; for a browser, the status page"),
    ("GET", "/page.css", pages.style, "of the status page"),
    ("GET", "/page.js", pages.script, "of the status page"),
    ("GET", "/events", pages.events, "the status page's changes, as server-sent events"),
    ("POST", "/explain", pages.explain, "test a request; from this machine only"),
    ("GET", "/healthz/live", probes.live, "200 while the process can answer"),
    ("GET", "/healthz/ready", probes.ready, "200 while traffic may come, else 503 with the reasons"),
    ("GET", "/healthz/startup", probes.startup, "200 once it has been ready"),
    ("GET", "/metrics", _metrics, "Prometheus text, or OpenMetrics by Accept"),
    ("GET", "/status.json", _status, "routes, the ways in, and tokens without the tokens"),
    ("POST", "/reload", control.reload_configuration, "read the configuration again; from this machine only"),
    ("POST", "/renew", control.renew_tokens, "?route=NAME: fetch tokens now; from this machine only"),
    ("POST", "/log-level", control.set_log_level, "?level=debug|info|warning|error; from this machine only"),
    ("POST", "/quit", control.quit_sidecar, "drain and exit; from this machine only"),
)
"""Method, path, handler, what it is for."""
