"""The admin server: its paths and its listeners.

Owns the aiohttp application and the sites it is served on. `service` binds the sockets, hands them to
`AdminServer` and closes it last of all, so that probes and scrapes see a drain to its end. It may not
touch the data path: it knows the sidecar through `AdminView` alone. Rules: every request passes
`callers.refusal`; every answer that is not a success is RFC 9457 problem+json, but for those to what aiohttp could not
read as a request; nothing is cached or sniffed, and the status page alone may have a script, its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Sequence
from typing import Final, cast, final

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from sidecar.admin import callers, control, exposition, pages, probes
from sidecar.admin.view import VIEW, AdminView

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_log = logging.getLogger(__name__)

_KEEP_ALIVE: Final = 75.0
"""Seconds; longer than the usual scrape interval of 15 to 60, aiohttp's own default is an hour."""

_CONNECTIONS: Final = 100
"""Open at once; `proxy.descriptors` counts on it. Probes, scrapers and the pages' feeds are some dozens at most."""

_BACKLOG: Final = 128

_CLOSE_WAIT: Final = 1.0
"""Seconds that answers under way get when the server closes."""


def build_app(view: AdminView) -> web.Application:
    """The application for `view`."""
    app = web.Application(middlewares=[_guard])
    app[VIEW] = view
    app.on_response_prepare.append(_set_headers)
    app[pages.CLOSING] = asyncio.Event()
    app[pages.FEEDS] = pages.Feeds()
    app.on_shutdown.append(pages.close)
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
    one makes room: who asks as soon as it is connected, as probes do, is served however many others say nothing.
    """

    def __init__(self, view: AdminView, sockets: Sequence[socket.socket]) -> None:
        self._sockets = tuple(sockets)
        self._servers: list[asyncio.Server] = []
        _log.addFilter(_is_fault)
        self._runner = web.AppRunner(
            build_app(view),
            access_log=None,
            logger=_log,
            keepalive_timeout=_KEEP_ALIVE,
            shutdown_timeout=_CLOSE_WAIT,
        )

    async def start(self) -> None:
        """Accept connections on every socket."""
        await self._runner.setup()
        loop, handlers = asyncio.get_running_loop(), cast(web.Server, self._runner.server)
        for sock in self._sockets:
            # asyncio accepts up to `backlog` connections at a time, and goes on when the descriptor table is full: it
            # would log a line for each, once a second.
            self._servers.append(
                await loop.create_server(lambda: _connection(handlers), sock=sock, backlog=1)
            )
            sock.listen(_BACKLOG)

    async def close(self) -> None:
        """Close the listeners at once, and the connections after at most a second."""
        for server in self._servers:
            server.close()
        await self._runner.cleanup()


def _connection(handlers: web.Server) -> asyncio.Protocol:
    """The handler of one more connection, for which the oldest one goes at the limit."""
    connections = handlers.connections
    if (over := len(connections) - _CONNECTIONS) >= 0:
        # Those before it are closing already.
        connections[over].force_close()
    return handlers()


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp's is about us: bytes that are no HTTP are the port scanner's own fault."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _index(request: web.Request) -> web.Response:
    if "text/html" in request.headers.get("Accept", "").lower():
        return pages.html(request)
    lines = [f"{method:<5}{path:<18}{what}" for method, path, _, what in PATHS]
    return web.Response(text="\n".join(["idtoken-sidecar: admin", "", *lines, ""]))


async def _metrics(request: web.Request) -> web.Response:
    accept = ",".join(request.headers.getall("Accept", []))
    content_type, parts = exposition.exposition(request.app[VIEW].registry, accept)
    page = []
    for part in parts:
        page.append(part)
        # Lets requests of the data path through between two parts.
        await asyncio.sleep(0)
    return web.Response(body=b"".join(page), headers={"Content-Type": content_type})


async def _status(request: web.Request) -> web.Response:
    text = json.dumps(request.app[VIEW].status(), indent=2) + "\n"
    return web.Response(text=text, content_type="application/json")


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse callers, and give every refusal one form."""
    if (reason := callers.refusal(request)) is not None:
        return _problem(403, "Forbidden", reason)
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.path} takes {allowed}."
        return _problem(405, error.reason, detail, allow=allowed)
    except web.HTTPNotFound as error:
        return _problem(404, error.reason, "There is nothing at this path; / lists what there is.")
    except (web.HTTPForbidden, web.HTTPBadRequest, web.HTTPServiceUnavailable) as error:
        return _problem(error.status, error.reason, error.text or "")


def _problem(status: int, title: str, detail: str, *, allow: str | None = None) -> web.Response:
    body = json.dumps({"title": title, "status": status, "detail": detail}) + "\n"
    headers = {} if allow is None else {"Allow": allow}
    return web.Response(text=body, status=status, content_type="application/problem+json", headers=headers)


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)  # names and versions of what we are made of


PATHS: Final[tuple[tuple[str, str, Handler, str], ...]] = (
    ("GET", "/", _index, "this list; for a browser, the status page"),
    ("GET", "/page.css", pages.style, "of the status page"),
    ("GET", "/page.js", pages.script, "of the status page"),
    ("GET", "/events", pages.events, "the status page's changes, as server-sent events"),
    ("POST", "/explain", pages.explain, "what would become of a request; from this machine only"),
    ("GET", "/healthz/live", probes.live, "200 while the process can answer"),
    ("GET", "/healthz/ready", probes.ready, "200 while traffic may come, else 503 with the reasons"),
    ("GET", "/healthz/startup", probes.startup, "200 once it has been ready"),
    ("GET", "/metrics", _metrics, "Prometheus text, or OpenMetrics by Accept"),
    ("GET", "/status.json", _status, "routes, the ways in, and tokens without the tokens"),
    ("POST", "/reload", control.reload_configuration, "read the configuration again; from this machine only"),
    ("POST", "/log-level", control.set_log_level, "?level=debug|info|warning|error; from this machine only"),
    ("POST", "/quit", control.quit_sidecar, "drain and exit; from this machine only"),
)
"""Method, path, handler, what it is for."""
