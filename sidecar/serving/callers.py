"""Who may call the servers of the control plane.

Owns the refusals: a web page of another site (by `Origin`, by `Sec-Fetch-Site`, or by a name of its own
that it had resolve to this address: DNS rebinding) and, for what only this machine may ask, everybody
else. Called for each request by the applications that are served. Does no I/O and keeps no state. Rules: the data
path's own, from `proxy.admission.guard`. An IP literal is a good Host: kubelet and Prometheus come by the pod's
address, and no page can rebind one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

from sidecar.grammar import hosts
from sidecar.proxy.admission.guard import mark_of_another_site
from sidecar.serving.problems import RefusedError
from sidecar.serving.request import WholeRequest


def refusal(request: WholeRequest, server: str = "admin server", names: Collection[str] = ()) -> str | None:
    """Why this request to the `server` is not served, as a sentence; None if it is. `names` are further hosts that it
    may be called by."""
    named = request.headers("Host")
    # HTTP/1.0 may leave it out; every browser sends it.
    if len(named) > 1 or (named and not _is_own_name(named[0], names)):
        return (
            f"The Host of this request is not one of the {server}'s: "
            "call it by localhost, a name below .localhost, or an IP address."
        )
    found = {
        name: b", ".join(values)
        for name in (b"sec-fetch-site", b"origin")
        if (values := request.fields.get(name))
    }
    match mark_of_another_site(found, (named[0] if named else "").encode("latin-1")):
        case None:
            return None
        case "Sec-Fetch-Site":
            return "A browser made this request for a page of another site (Sec-Fetch-Site)."
        case _:
            return (
                f"This request has an Origin that is not the {server}'s own, as a page of another site sends."
            )


def refuse_strangers(request: WholeRequest, what: str) -> None:
    """Raise RefusedError for a caller on another machine, which may only read."""
    if not is_local(request.peername):
        raise RefusedError(403, f"Only a caller on this machine may ask the sidecar to {what}.")


def is_local(peer: Any) -> bool:
    """Whether a transport's `peername` is on this machine: loopback, or the other end of a Unix socket."""
    if not isinstance(peer, tuple):
        return isinstance(peer, (str, bytes))
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    return hosts.is_loopback_address(hosts.mapped(address) or address)


def _is_own_name(authority: str, names: Collection[str]) -> bool:
    try:
        host = hosts.parse_authority(authority.strip()).host
    except ValueError:
        return False
    return hosts.is_loopback(host) or hosts.is_own_address(host) or host in names
