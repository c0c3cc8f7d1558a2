"""The admin server: its paths.

Owns the aiohttp application. `service` binds the sockets, passes them to `admin_server` and closes its site last, so
that probes and scrapes see a drain to its end. It knows the sidecar through `AdminView` only, and never touches the
data path. Rules: a request passes the gate of `serving`, then `callers.refusal`. Every answer that is not a success
has the form of `problems`. Nothing is cached or sniffed. Only the status page may have a script, its own.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.admin import control, pages, probes
from sidecar.admin.renderings import Budget, Rendering
from sidecar.admin.view import VIEW, AdminView
from sidecar.runtime.clock import Clock
from sidecar.runtime.loading import loaded
from sidecar.serving import callers, problems
from sidecar.serving.intake import Takes
from sidecar.serving.site import Site, problem

TAKES: Final = Takes("admin server", forms=("/explain",), purpose="explain a request")

_METRICS: web.AppKey[dict[bool, Rendering[bytes]]] = web.AppKey("metrics")
"""True for OpenMetrics."""
_HAS_EXPOSITION: web.AppKey[asyncio.Event] = web.AppKey("exposition")
"""Set by the first scrape, which loads it. Many sidecars are never scraped."""
_STATUS: web.AppKey[Rendering[str]] = web.AppKey("status")

_SLICE: Final = 2000
"""Pieces of JSON per part: a millisecond of work."""


def build_app(view: AdminView, clock: Clock) -> web.Application:
    """The application for `view`."""
    app = web.Application(middlewares=[_guard])
    budget = Budget(clock)
    app[VIEW] = view
    app[_METRICS] = {
        openmetrics: Rendering(budget, partial(_exposition, view, openmetrics=openmetrics), b"".join)
        for openmetrics in (False, True)
    }
    app[_HAS_EXPOSITION] = asyncio.Event()
    app[_STATUS] = Rendering(budget, partial(_document, view), "".join)
    app.on_response_prepare.append(_set_headers)
    pages.prepare(app, view, budget)
    for method, path, handler, _ in PATHS:
        if method == "GET":
            app.router.add_get(path, handler)  # and HEAD
        else:
            app.router.add_route(method, path, handler)
    return app


def admin_server(view: AdminView, sockets: Sequence[socket.socket], clock: Clock) -> Site:
    """The application on its listeners; `sockets` are bound."""
    return Site(build_app(view, clock), sockets, clock, TAKES)


async def _index(request: web.Request) -> web.Response:
    if "text/html" in request.headers.get("Accept", "").lower():
        return await pages.html(request)
    lines = [f"{method:<5}{path:<18}{what}" for method, path, _, what in PATHS]
    return web.Response(text="\n".join(["idtoken-sidecar: admin", "", *lines, ""]))


async def _metrics(request: web.Request) -> web.Response:
    if not request.app[_HAS_EXPOSITION].is_set():
        await loaded(_load_exposition)
        request.app[_HAS_EXPOSITION].set()
    from sidecar.admin import exposition

    content_type = exposition.content_type(",".join(request.headers.getall("Accept", [])))
    rendering = request.app[_METRICS][content_type.startswith(exposition.OPENMETRICS)]
    return web.Response(body=await rendering.get(), headers={"Content-Type": content_type})


async def _status(request: web.Request) -> web.Response:
    return web.Response(text=await request.app[_STATUS].get(), content_type="application/json")


def _load_exposition() -> None:
    import sidecar.admin.exposition  # noqa: F401  # used from then on


async def _exposition(view: AdminView, *, openmetrics: bool) -> AsyncIterator[bytes]:
    from sidecar.admin import exposition

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
    """Refuse callers, and give every refusal the same form."""
    if (reason := callers.refusal(request)) is not None:
        return problem(403, reason)
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        answer = problem(405, f"{request.path} takes {allowed}.")
        answer.headers["Allow"] = allowed
        return answer
    except web.HTTPNotFound as error:
        said = error.text if request.match_info.http_exception is None else None
        return problem(404, said or "There is nothing at this path; / lists what there is.")
    except web.HTTPException as error:
        answer = problem(error.status, error.text or "")
        if "Retry-After" in error.headers:
            answer.headers["Retry-After"] = error.headers["Retry-After"]
        return answer


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
