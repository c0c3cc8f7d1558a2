"""Who may use the stand-in's switches.

Owns the refusals of the control application. Called by `control` for each request. It is for shells and tests.
A page in a browser shows itself by `Origin` or `Sec-Fetch-Site`, or by a name of its own that it had resolve to this
machine (DNS rebinding). A call to a target, which goes to any URL from here and shows the answer, is for this machine.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from aiohttp import web

_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
"""Written down: what `ipaddress` calls loopback differs by Python's version."""


def refuse_pages(request: web.Request) -> None:
    """Raise HTTPForbidden for what a browser sends."""
    for name in ("Origin", "Sec-Fetch-Site"):
        if name in request.headers:
            raise web.HTTPForbidden(text=f"this is not for pages in a browser ({name})\n")
    if _is_local(request) and not _is_own_name(request.headers.getall("Host", [])):
        raise web.HTTPForbidden(text="call this by localhost or an IP address (Host)\n")


def refuse_other_machines(request: web.Request) -> None:
    """Raise HTTPForbidden for a caller that is not on this machine."""
    if not _is_local(request):
        raise web.HTTPForbidden(
            text="only a caller on the stand-in's own machine may have it call a target\n"
        )


def _is_local(request: web.Request) -> bool:
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return isinstance(peer, tuple) and _is_loopback(str(peer[0]).partition("%")[0])


def _is_own_name(named: list[str]) -> bool:
    if len(named) != 1:
        return not named
    host = named[0].lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return host == "localhost" or host.endswith(".localhost") or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _LOOPBACK)
