"""Who may not be served and what may not be dialled.

Owns the refusals that protect the token from a caller that is not the app (a web page in a browser, a
loop) and from an address that is not the upstream (the metadata server, the sidecar itself). Called by
`admission` for every request and by `dial` for every address, after name resolution. Pure.
Rules: Fetch Metadata (Sec-Fetch-Site), RFC 6454 (Origin), RFC 9110 section 7.6.3 (Via), RFC 6890.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping

from sidecar.errors import Reason, SidecarError
from sidecar.hosts import IPAddress

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "fd20:ce::254",  # the same server for IPv6-only instances
        "169.254.169.252",  # GKE's per-node metadata server listens here as well
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def refuse_browser(found: Mapping[bytes, bytes], authority: bytes) -> None:
    """Raise CALLER_REFUSED for a request that a browser made for a page of another site.

    `authority` is the request's Host as it came: a page served through the sidecar may call back to it.
    """
    site = found.get(b"sec-fetch-site")
    if site is not None and site.strip().lower() not in (b"none", b"same-origin"):
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "A browser made this request for a page of another site (Sec-Fetch-Site). "
            "Call from the app itself, or set `allow_cross_site: true` on the route.",
        )
    origin = found.get(b"origin")
    if origin is not None and origin.strip().lower() != b"http://" + authority.lower():
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "The request has an `Origin` that is not this address, as a page of another site would send. "
            "Leave the header out, or set `allow_cross_site: true` on the route.",
        )


def refuse_loop(found: Mapping[bytes, bytes], pseudonym: bytes) -> None:
    """Raise LOOP when `Via` names this very instance; another sidecar's pseudonym is fine."""
    if pseudonym in found.get(b"via", b""):
        raise SidecarError(
            Reason.LOOP,
            "This request has passed through this sidecar before: the route's upstream leads back to it. "
            "Point the route's `upstream` at the service itself.",
        )


def forbidden_address(
    address: str, port: int, *, loopback_named: bool, own: Collection[tuple[str, int]]
) -> str | None:
    """Why this resolved address may not be dialled, or None.

    `loopback_named` says that the route's upstream itself is a loopback literal or a `localhost` name.
    `own` holds the (address, port) pairs that this process listens on.
    """
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if ip in _METADATA:
        return "it is the metadata server, which hands out this machine's identity"
    if ip.is_link_local:
        return "it is a link-local address"
    if ip.is_unspecified:
        return "it is the unspecified address"
    if ip.is_multicast or ip == ipaddress.ip_address("255.255.255.255"):
        return "it is a multicast or broadcast address"
    if (str(ip), port) in own:
        return "it is the sidecar's own listener"
    if ip.is_loopback and not loopback_named:
        return "it is a loopback address, and the route's upstream does not name one"
    return None


def _unwrapped(ip: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv6 one: mapped, 6to4 or NAT64."""
    if isinstance(ip, ipaddress.IPv6Address):
        if (inner := ip.ipv4_mapped or ip.sixtofour) is not None:
            return inner
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip
