"""What a socket is connected to: the upstream, or the egress proxy in front of it.

Owns which of the two a destination is dialled at, under which rules for its addresses, and what it is called in errors.
Called by `dial`; pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.errors import Reason, SidecarError
from sidecar.grammar import networks
from sidecar.routing.routes import Destination


class Hop(NamedTuple):
    """What a socket is connected to: the upstream, or the proxy in front of it."""

    host: str
    port: int
    rules: networks.Rules
    name: str
    what: str
    """Its name in a sentence: "the service"."""
    key: str
    """The key of the route that names it."""

    def reason(self, reason: Reason) -> Reason:
        """The reason of a failure of this hop: a proxy's failures have reasons of their own."""
        return reason if self.key == "upstream" else _OF_PROXY.get(reason, reason)

    def not_dialled(self, destination: Destination, why: str) -> SidecarError:
        """The error if every address is forbidden."""
        if self.key == "upstream":
            return not_dialled(destination, why)
        return SidecarError(
            Reason.EGRESS_PROXY_UNREACHABLE,
            f"Route `{destination.route.name}`: `{self.host}` resolves to an address that is never dialled ({why}). "
            "Check its `egress_proxy`.",
        )


_OF_PROXY: Final = {
    Reason.DNS_TIMEOUT: Reason.EGRESS_PROXY_TIMEOUT,
    Reason.CONNECT_TIMEOUT: Reason.EGRESS_PROXY_TIMEOUT,
    Reason.DNS_FAILED: Reason.EGRESS_PROXY_UNREACHABLE,
    Reason.CONNECT_REFUSED: Reason.EGRESS_PROXY_UNREACHABLE,
    Reason.CONNECT_FAILED: Reason.EGRESS_PROXY_UNREACHABLE,
}


def first_hop(destination: Destination) -> Hop:
    proxy = destination.proxy
    if proxy is None:
        rules = networks.rules_for(destination.host, allow_private=destination.route.config.allow_private)
        return Hop(destination.host, destination.port, rules, name_of(destination), "the service", "upstream")
    # Proxies have private addresses as a rule, and some stand on this machine.
    rules = networks.rules_for(proxy.host, allow_private=True)
    return Hop(proxy.host, proxy.port, rules, f"`{proxy}`", "the proxy", "egress_proxy")


def not_dialled(destination: Destination, why: str) -> SidecarError:
    return SidecarError(
        Reason.ADDRESS_FORBIDDEN,
        f"Route `{destination.route.name}`: `{destination.host}` resolves to an address that is never dialled ({why}). "
        "Check the route's `upstream` and what DNS says of it.",
    )


def name_of(destination: Destination) -> str:
    return f"`{destination.host}:{destination.port}`"
