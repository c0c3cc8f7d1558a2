"""Liveness, readiness, startup.

Owns the three probes. Called by kubelet, Cloud Run, load balancers and the commands `wait` and `healthcheck`. They
call nothing outside the process, and none depends on a target: the app sees a target's failure, and restarting or
removing the sidecar would not help. Rules: each probe nudges the token store, because Cloud Run gives an idle
instance CPU for probes only; readiness ends with SIGTERM, liveness and startup do not.
"""

from __future__ import annotations

from aiohttp import web

from sidecar.admin.view import VIEW


async def live(request: web.Request) -> web.Response:
    """200 while the event loop runs."""
    request.app[VIEW].nudge()
    return _answer(request, "live", good=True, reasons=[])


async def ready(request: web.Request) -> web.Response:
    """200 while the sidecar takes traffic; 503 with the reasons. Both say what else is wrong."""
    view = request.app[VIEW]
    view.nudge()
    good, reasons = view.ready_state()
    if view.draining:
        good, reasons = False, ["The sidecar is shutting down.", *reasons]
    return _answer(request, "ready", good=good, reasons=reasons, shortfall=view.shortfall())


async def startup(request: web.Request) -> web.Response:
    """200 once the sidecar has been ready for the first time; 503 with the reasons until then."""
    view = request.app[VIEW]
    view.nudge()
    if view.started:
        return _answer(request, "started", good=True, reasons=[])
    return _answer(request, "started", good=False, reasons=view.ready_state()[1])


def _answer(
    request: web.Request, word: str, *, good: bool, reasons: list[str], shortfall: str = ""
) -> web.Response:
    """`shortfall` is added to the text and does not change the status, because a restart would bring no token."""
    status = 200 if good else 503
    if "application/json" in request.headers.get("Accept", "").lower():
        told = {"shortfall": shortfall} if shortfall else {}
        return web.json_response({word: good, "reasons": reasons, **told}, status=status)
    said = "; ".join([word if good else f"not {word}", *([shortfall] if shortfall else [])])
    lines = [said, *(f"- {reason}" for reason in reasons)]
    return web.Response(text="\n".join(lines) + "\n", status=status)
