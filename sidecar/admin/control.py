"""What the admin server lets be done: quit.

Owns the one request that changes anything. Called by `idtoken-sidecar quit`, a Job's last step or a
container's preStop hook. It may not stop anything itself: it asks, and the answer goes out before the
listeners close. Rule: only POST, and only from this machine, whatever address the admin server listens
on; containers of one pod or instance share its loopback.
"""

from __future__ import annotations

from aiohttp import web

from sidecar.admin.callers import is_local
from sidecar.admin.view import VIEW


async def quit_sidecar(request: web.Request) -> web.Response:
    """202, and the sidecar begins to drain; 403 for a peer on another machine."""
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    if not is_local(peer):
        raise web.HTTPForbidden(text="Only a caller on this machine may ask the sidecar to quit.")
    request.app[VIEW].request_quit()
    return web.json_response({"quitting": True}, status=202)
