"""The admin server's actions: quit, reload, and renew tokens.

Owns the requests that change something. Called by `idtoken-sidecar quit`, `reload` and `renew`, a Job's last step or
a container's preStop hook. It stops nothing itself: it requests the stop, and the answer is sent before the listeners
close. Rule: only POST, and only from this machine, whatever address the admin server listens on; containers of one
pod or instance share its loopback.
"""

from __future__ import annotations

from math import ceil
from typing import cast, final, get_args

from sidecar.admin.view import AdminView
from sidecar.observe.logs import Level, redact
from sidecar.serving.callers import refuse_strangers
from sidecar.serving.problems import RefusedError
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response
from sidecar.tokens.renewals import TooSoonError


@final
class Control:
    """Their handlers."""

    def __init__(self, view: AdminView) -> None:
        self._view = view

    async def quit_sidecar(self, request: WholeRequest) -> Response:
        """202, and the sidecar begins to drain; 403 for a caller on another machine."""
        refuse_strangers(request, "quit")
        self._view.request_quit()
        return Response.of_json({"quitting": True}, status=202)

    async def reload_configuration(self, request: WholeRequest) -> Response:
        """200 when the new configuration is in force, or is the same; 422 with all problems if it can't be used."""
        refuse_strangers(request, "reload")
        result, detail = await self._view.reload()
        status = 422 if result == "error" else 200
        return Response.of_json({"result": result, "detail": redact(detail)}, status=status)

    async def renew_tokens(self, request: WholeRequest) -> Response:
        """200 when the tokens of `?route=NAME`, or of all routes, were fetched anew; 502 if one could not be.

        404 for an unknown route; 429 with Retry-After if this was done a moment ago.
        """
        refuse_strangers(request, "renew its tokens")
        try:
            renewals = await self._view.renew(request.parameter("route"))
        except KeyError:
            raise RefusedError(404, "There is no such route; /status.json has their names.") from None
        except TooSoonError as error:
            raise RefusedError(
                429,
                "This was asked for just now: try again in some seconds.",
                {"Retry-After": str(ceil(error.left))},
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
        return Response.of_json(
            {"result": "ok" if good else "error", "tokens": tokens}, status=200 if good else 502
        )

    async def set_log_level(self, request: WholeRequest) -> Response:
        """`?level=debug`; without a level it switches to `debug` and back."""
        refuse_strangers(request, "change its log level")
        asked = request.parameter("level")
        if asked is not None and asked not in get_args(Level):
            raise RefusedError(400, f"`level` is one of {', '.join(get_args(Level))}.")
        return Response.of_json({"level": self._view.set_log_level(cast("Level | None", asked))})
