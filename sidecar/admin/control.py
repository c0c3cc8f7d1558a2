"""The admin server's actions: quit, reload, and renew tokens.

Owns the requests that change something. Called by `idtoken-sidecar quit`, `reload` and `renew`, a Job's last step or
a container's preStop hook. It stops nothing itself: it requests the stop, and the answer is sent before the listeners
close. Rule: only POST, and only from this machine, whatever address the admin server listens on; containers of one
pod or instance share its loopback.
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
    """202, and the sidecar begins to drain; 403 for a caller on another machine."""
    refuse_strangers(request, "quit")
    request.app[VIEW].request_quit()
    return web.json_response({"quitting": True}, status=202)


async def reload_configuration(request: web.Request) -> web.Response:
    """200 when the new configuration is in force, or is the same; 422 with all problems if it can't be used."""
    refuse_strangers(request, "reload")
    result, detail = await request.app[VIEW].reload()
    return web.json_response(
        {"result": result, "detail": redact(detail)}, status=422 if result == "error" else 200
    )


async def renew_tokens(request: web.Request) -> web.Response:
    """200 when the tokens of `?route=NAME`, or of all routes, were fetched anew; 502 if one could not be.

    404 for an unknown route; 429 with Retry-After if this was done a moment ago.
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
    """`?level=debug`; without a level it switches to `debug` and back."""
    refuse_strangers(request, "change its log level")
    asked = request.query.get("level")
    if asked is not None and asked not in get_args(Level):
        raise web.HTTPBadRequest(text=f"`level` is one of {', '.join(get_args(Level))}.")
    level = request.app[VIEW].set_log_level(cast("Level | None", asked))
    return web.json_response({"level": level})
