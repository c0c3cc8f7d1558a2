"""Who may call the admin server.

Owns the refusals: a web page of another site (by `Origin`, by `Sec-Fetch-Site`, or by a name of its own
that it had resolve to this address: DNS rebinding) and, for what only this machine may ask, everybody
else. Called by `app` for each request. Does no I/O and keeps no state. Rules: design.md, "Security
stance"; Fetch Metadata; RFC 6454. An IP literal is a good Host: kubelet and Prometheus come by the pod's
address, and no page can rebind one.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from aiohttp import web

from sidecar import hosts


def refusal(request: web.BaseRequest) -> str | None:
    """Why this request is not served, as a sentence; None if it is."""
    headers = request.headers
    named = headers.getall("Host", [])
    # HTTP/1.0 may leave it out; every browser sends it.
    if len(named) > 1 or (named and not _is_own_name(named[0])):
        return (
            "The Host of this request is not one of the admin server's: "
            "call it by localhost, a name below .localhost, or an IP address."
        )
    site = headers.get("Sec-Fetch-Site", "none").strip().lower()
    if site not in ("none", "same-origin"):
        return "A browser made this request for a page of another site (Sec-Fetch-Site)."
    same = f"http://{named[0]}".lower() if named else None
    if any(origin.strip().lower() != same for origin in headers.getall("Origin", [])):
        return (
            "This request has an Origin that is not the admin server's own, as a page of another site sends."
        )
    return None


def is_local(peer: Any) -> bool:
    """Whether a transport's `peername` is on this machine: loopback, or the other end of a Unix socket."""
    if not isinstance(peer, tuple):
        return isinstance(peer, (str, bytes))
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _is_own_name(authority: str) -> bool:
    try:
        host = hosts.parse_authority(authority.strip()).host
    except ValueError:
        return False
    return hosts.is_loopback(host) or hosts.ip_literal(host) is not None
