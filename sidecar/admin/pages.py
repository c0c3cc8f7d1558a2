"""Serves the status page, its style, its script, and its changes.

Owns how the page gets to a browser. Called by `app`. `page` owns what is on it. Rules: the page's
Content-Security-Policy permits this server's files only; a feed sends a section only when it has changed, and ends
when the server closes; all feeds share one rendering.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import Any, Final, final

from sidecar.admin.page import page, sections
from sidecar.admin.renderings import Budget, Rendering
from sidecar.admin.view import AdminView
from sidecar.serving.callers import refuse_strangers
from sidecar.serving.problems import RefusedError
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response

_EVERY: Final = 1.0
"""Seconds between two checks for changes."""
_MAX_FEEDS: Final = 20
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@final
class Pages:
    """Their handlers."""

    def __init__(self, view: AdminView, budget: Budget) -> None:
        self._view = view
        self._page = Rendering(budget, self._read, lambda it: page(it[0], it[1], view.fault))
        self._sections = Rendering(budget, self._read, lambda it: sections(it[0], it[1], view.fault))
        self._explaining = asyncio.Lock()
        self._feeds = 0
        """How many pages are kept up to date."""
        self.closing = asyncio.Event()
        """To be set when the server closes: every feed then ends."""

    async def html(self, _: WholeRequest) -> Response:
        """The current page."""
        return _html(await self._page.get())

    async def explain(self, request: WholeRequest) -> Response:
        """The page, with the result of the test that its form describes.

        For this machine only, like every POST: the answer is no secret, but it costs more than other pages. One at a
        time.
        """
        refuse_strangers(request, "explain a request")
        form = request.form()
        url, headers = form.get("url", ""), form.get("headers", "")
        lines = [line for line in headers.splitlines() if line.strip()]
        view = self._view
        async with self._explaining:
            try:
                said = await view.explain(url, lines)
            except ValueError as error:
                said = {"taken": False, "says": str(error)}
            asked = {"url": url, "headers": headers}
            return _html(page(view.status(), await view.configuration(), view.fault, asked=asked, said=said))

    async def events(self, _: WholeRequest) -> Response:
        """`section` events: an element's id and its new content, whenever that has changed."""
        if self._feeds >= _MAX_FEEDS:
            raise RefusedError(503, "Too many status pages are open.")
        return Response(headers={"Content-Type": "text/event-stream"}, parts=self._feed())

    async def _feed(self) -> AsyncGenerator[bytes, None]:
        self._feeds += 1
        # Everything at first: it may have changed since the page was made.
        sent: dict[str, str] = {}
        try:
            while not self.closing.is_set():
                now = await self._sections.get(age=_EVERY)
                for name, text in now.items():
                    if sent.get(name) != text:
                        data = json.dumps({"id": name, "html": text})
                        yield f"event: section\ndata: {data}\n\n".encode()
                sent = now
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.closing.wait(), _EVERY)
        finally:
            self._feeds -= 1

    async def _read(self) -> AsyncIterator[Any]:
        yield self._view.status()
        yield await self._view.configuration()


def _html(text: str) -> Response:
    # With no-referrer, a browser would send the form with `Origin: null`.
    headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin", "Vary": "Accept"}
    return Response.of_text(text, "text/html", headers=headers)


async def style(_: WholeRequest) -> Response:
    """The style sheet."""
    return Response.of_text(_asset("page.css"), "text/css")


async def script(_: WholeRequest) -> Response:
    """The script."""
    return Response.of_text(_asset("page.js"), "text/javascript")


@cache
def _asset(name: str) -> str:
    return (resources.files("sidecar.admin") / "static" / name).read_text("utf-8")
