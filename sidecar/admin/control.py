"""What the admin server lets be done: quit, reload, and renew tokens.

Owns the requests that change anything. Called by `idtoken-sidecar quit`, `reload` and `renew`, a Job's last step or a
container's preStop hook. It may not stop anything itself: it asks, and the answer goes out before the
listeners close. Rule: only POST, and only from this machine, whatever address the admin server listens
on; containers of one pod or instance share its loopback.
"""

from __future__ import annotations

from math import ceil
from typing import cast, get_args

from aiohttp import web

from sidecar.admin.view import VIEW
from sidecar.observe.logs import Level, redact
from sidecar.serving.callers import refuse_strangers
from sidecar.tokens.renewals import TooSoonError


async def quit_sidecar(request: web.Request) -> web.Response:
    """202, and the sidecar begins to drain; 403 for a peer on another machine."""
    refuse_strangers(request, "quit")
    request.app[VIEW].request_quit()
    return web.json_response({"quitting": True}, status=202)


async def reload_configuration(request: web.Request) -> web.Response:
    """200 once the new configuration is in force, or is the old one; 422 where it can't be used, with every reason."""
    refuse_strangers(request, "reload")
    result, detail = await request.app[VIEW].reload()
    return web.json_response(
        {"result": result, "detail": redact(detail)}, status=422 if result == "error" else 200
    )


async def renew_tokens(request: web.Request) -> web.Response:
    """200 once the tokens of `?route=NAME`, or of all routes, have been fetched anew; 502 where one could not be.

    404 for a route that there is not; 429 with Retry-After where it was asked for just now.
    """
    refuse_strangers(request, "renew its tokens")
    route = request.query.get("route")
    try:
        renewals = await request.app[VIEW].renew(route)
    except KeyError:
        raise web.HTTPNotFound(text="There is no such route; /status.json has their names.") from None
    except TooSoonError as error:
        raise web.HTTPTooManyRequests(
            text="This was asked for just now: try again in some seconds.",
            headers={"Retry-After": str(ceil(error.left))},
        ) from None
    tokens = [
        {
            "route": it.route,
            "credential": it.key.credential,
            "audience": it.key.audience,
            "result": "ok" if it.error is None else "error",
            "reason": None if it.error is None else str(it.error.reason),
            "detail": None if it.error is None else redact(it.error.detail),
            "command": (it.error and redact(it.error.command)) or None,
        }
        for it in renewals
    ]
    good = all(token["result"] == "ok" for token in tokens)
    return web.json_response(
        {"result": "ok" if good else "error", "tokens": tokens}, status=200 if good else 502
    )


async def set_log_level(request: web.Request) -> web.Response:
    """`?level=debug`; without one it goes to `debug` and back."""
    refuse_strangers(request, "change its log level")
    asked = request.query.get("level")
    if asked is not None and asked not in get_args(Level):
        raise web.HTTPBadRequest(text=f"`level` is one of {', '.join(get_args(Level))}.")
    level = request.app[VIEW].set_log_level(cast("Level | None", asked))
    return web.json_response({"level": level})
