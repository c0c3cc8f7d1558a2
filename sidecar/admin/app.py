"""The admin server: its paths.

Owns their table and their guard. `service` binds the sockets, passes them to `admin_server` and closes its site last,
so that probes and scrapes see a drain to its end. It knows the sidecar through `AdminView` only, and never touches the
data path. Rules: a request passes the gate of `serving`, then `callers.refusal`. Every answer that is not a success
has the form of `problems`. Nothing is cached or sniffed. Only the status page may have a script, its own.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final, final

from sidecar.admin.control import Control
from sidecar.admin.pages import Pages, script, style
from sidecar.admin.probes import Probes
from sidecar.admin.renderings import Budget, Rendering
from sidecar.admin.view import AdminView
from sidecar.runtime.clock import Clock
from sidecar.runtime.loading import loaded
from sidecar.serving import callers
from sidecar.serving.application import Application, Handler, Paths
from sidecar.serving.intake import Takes
from sidecar.serving.problems import RefusedError
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response
from sidecar.serving.site import Site

TAKES: Final = Takes("admin server", forms=("/explain",), purpose="explain a request")

_SLICE: Final = 2000
"""Pieces of JSON per part: a millisecond of work."""


def admin_server(view: AdminView, sockets: Sequence[socket.socket], clock: Clock) -> Site:
    """The server of `view`; `sockets` are bound."""
    admin = Admin(view, clock)
    return Site(Application(TAKES.server, admin.answer, closing=admin.closing), sockets, clock, TAKES)


@final
class Admin:
    """What it answers."""

    def __init__(self, view: AdminView, clock: Clock) -> None:
        budget = Budget(clock)
        self._metrics_pages = {
            openmetrics: Rendering(budget, partial(_exposition, view, openmetrics=openmetrics), b"".join)
            for openmetrics in (False, True)
        }
        self._has_exposition = False
        """The first scrape loads it. Many sidecars are never scraped."""
        self._document = Rendering(budget, partial(_document, view), "".join)
        self._pages = pages = Pages(view, budget)
        self.closing = pages.closing
        probes, control = Probes(view), Control(view)
        self.paths: Final[tuple[tuple[str, str, Handler, str], ...]] = (
            ("GET", "/", self._index, "this list; for a browser, the status page"),
            ("GET", "/page.css", style, "of the status page"),
            ("GET", "/page.js", script, "of the status page"),
            ("GET", "/events", pages.events, "the status page's changes, as server-sent events"),
            ("POST", "/explain", pages.explain, "test a request; from this machine only"),
            ("GET", "/healthz/live", probes.live, "200 while the process can answer"),
            ("GET", "/healthz/ready", probes.ready, "200 while traffic may come, else 503 with the reasons"),
            ("GET", "/healthz/startup", probes.startup, "200 once it has been ready"),
            ("GET", "/metrics", self._metrics, "Prometheus text, or OpenMetrics by Accept"),
            ("GET", "/status.json", self._status, "routes, the ways in, and tokens without the tokens"),
            (
                "POST",
                "/reload",
                control.reload_configuration,
                "read the configuration again; from this machine only",
            ),
            ("POST", "/renew", control.renew_tokens, "?route=NAME: fetch tokens now; from this machine only"),
            (
                "POST",
                "/log-level",
                control.set_log_level,
                "?level=debug|info|warning|error; from this machine only",
            ),
            ("POST", "/quit", control.quit_sidecar, "drain and exit; from this machine only"),
        )
        """Method, path, handler, what it is for."""
        nothing = "There is nothing at this path; / lists what there is."
        self._served = Paths((row[:3] for row in self.paths), nothing)

    async def answer(self, request: WholeRequest) -> Response:
        """Its answer; raises RefusedError, for pages of other sites before anything else."""
        if (reason := callers.refusal(request)) is not None:
            raise RefusedError(403, reason)
        return await self._served.answer(request)

    async def _index(self, request: WholeRequest) -> Response:
        if "text/html" in request.header("Accept").lower():
            return await self._pages.html(request)
        lines = [f"{method:<5}{path:<18}{what}" for method, path, _, what in self.paths]
        return Response.of_text("\n".join(["idtoken-sidecar: admin", "", *lines, ""]))

    async def _metrics(self, request: WholeRequest) -> Response:
        if not self._has_exposition:
            await loaded(_load_exposition)
            self._has_exposition = True
        from sidecar.admin import exposition

        content_type = exposition.content_type(",".join(request.headers("Accept")))
        rendering = self._metrics_pages[content_type.startswith(exposition.OPENMETRICS)]
        return Response(body=await rendering.get(), headers={"Content-Type": content_type})

    async def _status(self, _: WholeRequest) -> Response:
        return Response.of_text(await self._document.get(), "application/json")


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
