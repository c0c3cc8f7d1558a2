"""Liveness, readiness, startup.

Owns the three probes. Called by kubelet, Cloud Run, load balancers and the commands `wait` and `healthcheck`. They
call nothing outside the process, and none depends on a target: the app sees a target's failure, and restarting or
removing the sidecar would not help. Rules: each probe nudges the token store, because Cloud Run gives an idle
instance CPU for probes only; readiness ends with SIGTERM, liveness and startup do not.
"""

from __future__ import annotations

from typing import final

from sidecar.admin.view import AdminView
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response


@final
class Probes:
    """Their handlers."""

    def __init__(self, view: AdminView) -> None:
        self._view = view

    async def live(self, request: WholeRequest) -> Response:
        """200 while the event loop runs."""
        self._view.nudge()
        return _answer(request, "live", good=True, reasons=[])

    async def ready(self, request: WholeRequest) -> Response:
        """200 while the sidecar takes traffic; 503 with the reasons. Both say what else is wrong."""
        view = self._view
        view.nudge()
        good, reasons = view.ready_state()
        if view.draining:
            good, reasons = False, ["The sidecar is shutting down.", *reasons]
        return _answer(request, "ready", good=good, reasons=reasons, shortfall=view.shortfall())

    async def startup(self, request: WholeRequest) -> Response:
        """200 once the sidecar has been ready for the first time; 503 with the reasons until then."""
        view = self._view
        view.nudge()
        if view.started:
            return _answer(request, "started", good=True, reasons=[])
        return _answer(request, "started", good=False, reasons=view.ready_state()[1])


def _answer(
    request: WholeRequest, word: str, *, good: bool, reasons: list[str], shortfall: str = ""
) -> Response:
    """`shortfall` is added to the text and does not change the status, because a restart would bring no token."""
    status = 200 if good else 503
    if "application/json" in request.header("Accept").lower():
        told = {"shortfall": shortfall} if shortfall else {}
        return Response.of_json({word: good, "reasons": reasons, **told}, status=status)
    said = "; ".join([word if good else f"not {word}", *([shortfall] if shortfall else [])])
    lines = [said, *(f"- {reason}" for reason in reasons)]
    return Response.of_text("\n".join(lines) + "\n", status=status)
