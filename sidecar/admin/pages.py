"""Serves the status page, its style, its script, and its changes.

Owns how the page gets to a browser. Called by `app`. `page` owns what is on it. Rules: the page's
Content-Security-Policy permits this server's files only; a feed sends a section only when it has changed, and ends
when the server closes; all feeds share one rendering.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import Any, Final

from aiohttp import web

from sidecar.admin.page import page, sections
from sidecar.admin.renderings import Budget, Rendering
from sidecar.admin.view import VIEW, AdminView
from sidecar.serving.callers import refuse_strangers

_CLOSING: web.AppKey[asyncio.Event] = web.AppKey("closing", asyncio.Event)

_EVERY: Final = 1.0
"""Seconds between two checks for changes."""
_MAX_FEEDS: Final = 20
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Feeds:
    """The number of pages that are kept up to date."""

    def __init__(self) -> None:
        self.open = 0


_FEEDS: web.AppKey[Feeds] = web.AppKey("feeds", Feeds)
_PAGE: web.AppKey[Rendering[str]] = web.AppKey("page")
_SECTIONS: web.AppKey[Rendering[dict[str, str]]] = web.AppKey("sections")
_EXPLAINING: web.AppKey[asyncio.Lock] = web.AppKey("explaining", asyncio.Lock)


def prepare(app: web.Application, view: AdminView, budget: Budget) -> None:
    """Give the application what the handlers here need."""

    def whole(parts: list[Any]) -> str:
        status, configuration = parts
        return page(status, configuration, view.fault)

    def in_sections(parts: list[Any]) -> dict[str, str]:
        status, configuration = parts
        return sections(status, configuration, view.fault)

    async def read() -> AsyncIterator[Any]:
        yield view.status()
        yield await view.configuration()

    app[_PAGE] = Rendering(budget, read, whole)
    app[_SECTIONS] = Rendering(budget, read, in_sections)
    app[_CLOSING] = asyncio.Event()
    app[_FEEDS] = Feeds()
    app[_EXPLAINING] = asyncio.Lock()
    app.on_shutdown.append(close)


async def html(request: web.Request) -> web.Response:
    """The current page."""
    return _html(await request.app[_PAGE].get())


async def explain(request: web.Request) -> web.Response:
    """The page, with the result of the test that its form describes.

    For this machine only, like every POST: the answer is no secret, but it costs more than other pages. One at a
    time.
    """
    refuse_strangers(request, "explain a request")
    form = await request.post()
    url, headers = str(form.get("url", "")), str(form.get("headers", ""))
    lines = [line for line in headers.splitlines() if line.strip()]
    view = request.app[VIEW]
    async with request.app[_EXPLAINING]:
        try:
            said = await view.explain(url, lines)
        except ValueError as error:
            said = {"taken": False, "says": str(error)}
        asked = {"url": url, "headers": headers}
        return _html(page(view.status(), await view.configuration(), view.fault, asked=asked, said=said))


def _html(text: str) -> web.Response:
    # With no-referrer, a browser would send the form with `Origin: null`.
    headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin", "Vary": "Accept"}
    return web.Response(text=text, content_type="text/html", headers=headers)


async def events(request: web.Request) -> web.StreamResponse:
    """`section` events: an element's id and its new content, whenever that has changed."""
    closing, feeds = request.app[_CLOSING], request.app[_FEEDS]
    if feeds.open >= _MAX_FEEDS:
        raise web.HTTPServiceUnavailable(text="Too many status pages are open.")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    feeds.open += 1
    # Everything at first: it may have changed since the page was made.
    sent: dict[str, str] = {}
    try:
        while not closing.is_set():
            now = await request.app[_SECTIONS].get(age=_EVERY)
            for name, text in now.items():
                if sent.get(name) != text:
                    data = json.dumps({"id": name, "html": text})
                    await response.write(f"event: section\ndata: {data}\n\n".encode())
            sent = now
            with suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), _EVERY)
    except ConnectionResetError:
        pass  # the page was closed
    finally:
        feeds.open -= 1
    return response


async def close(app: web.Application) -> None:
    """End every feed."""
    app[_CLOSING].set()


async def style(_: web.Request) -> web.Response:
    """The style sheet."""
    return web.Response(text=_asset("page.css"), content_type="text/css")


async def script(_: web.Request) -> web.Response:
    """The script."""
    return web.Response(text=_asset("page.js"), content_type="text/javascript")


@cache
def _asset(name: str) -> str:
    return (resources.files("sidecar.admin") / "static" / name).read_text("utf-8")
