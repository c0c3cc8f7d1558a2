"""Who gets no token from the servers that give tokens.

Owns the order of the refusals that both servers share. Refused are a browser, from any site; a request that a proxy
forwarded; a Host that is not the server's own (DNS rebinding); another machine; a process of a user that `peers` does
not name. Called for each request before anything else. Rules: the data path's own (`proxy.admission.guard`,
`net.callers`), but stricter: web pages never need these servers, so every header that only browsers send is refused.
"""

from __future__ import annotations

import socket

from sidecar.errors import Reason, SidecarError
from sidecar.net import peer_credentials
from sidecar.net.callers import Callers, peer_refused, peer_unknown
from sidecar.proxy.admission.guard import BROWSER_MARKS
from sidecar.serving import callers
from sidecar.serving.request import WholeRequest

_FORWARDED = ("X-Forwarded-For", "Forwarded", "Via")
"""Headers that only proxies send. Google's metadata servers refuse the first."""


def admit(request: WholeRequest, server: str, *, peers: Callers | None, names: frozenset[str]) -> str:
    """The calling process, if `peers` needs it; raises CALLER_REFUSED. `names` are hosts that the server may be
    called by, beside this machine's own.
    """
    for mark in BROWSER_MARKS:
        if mark in request.fields:
            raise _refused(f"A browser made this request: no page gets a token from the {server}.")
    for name in _FORWARDED:
        if request.headers(name):
            raise _refused(
                f"{name} header is not allowed: the {server} answers no request that a proxy forwarded."
            )
    if (why := callers.refusal(request, server, names)) is not None:
        raise _refused(why)
    if request.socket is None or not callers.is_local(request.peername):
        raise _refused(f"Only a caller on this machine gets a token from the {server}.")
    return "" if peers is None else _judge(request.socket, peers)


def _judge(connection: socket.socket, peers: Callers) -> str:
    if connection.family == socket.AF_UNIX:
        who = peer_credentials.of(connection)
        if who is None:
            raise peer_unknown()
        if not peers.may_connect(who.uid, (who.gid, *who.further_gids)):
            raise peer_refused(who.uid, who.gid)
        return f"uid {who.uid}, pid {who.pid}"
    uid = peer_credentials.user_of(connection)
    if uid is None:
        raise _refused(
            "`peers` names who may ask, and the system does not say which user's process this is: it is refused. "
            "To know takes Linux with sock_diag(7), and the caller in the same network namespace."
        )
    if not peers.may_connect(uid, ()):
        raise _refused(f"This process (uid {uid}) gets no token here: `peers` does not name its user.")
    return f"uid {uid}"


def _refused(detail: str) -> SidecarError:
    return SidecarError(Reason.CALLER_REFUSED, detail)
