"""How this process reaches token endpoints on the network.

Owns what the environment and the configuration say of it. Made by `sources`, read by the transport for each exchange.
The rule: a proxy that can't be used is an error, and never another way round it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from sidecar.config.addresses import ListenAddress
from sidecar.config.variables import ProxySetting, proxy_for
from sidecar.grammar.hosts import Url, is_loopback
from sidecar.runtime.trust import Trust


class Outward(NamedTuple):
    """The way out, for all credentials."""

    environ: Mapping[str, str] = MappingProxyType({})
    trust: Trust = Trust()
    """Whose certificates are good there."""
    own: tuple[ListenAddress, ...] = ()
    """What this sidecar listens on: it is no proxy for its own calls."""

    def proxy_for(self, url: Url) -> ProxySetting | None:
        """The proxy for an endpoint, by HTTPS_PROXY and its kin; None for loopback. ValueError for one that can't be
        used."""
        host = url.authority.host
        if is_loopback(host):
            return None
        port = url.authority.port or (443 if url.scheme == "https" else 80)
        return proxy_for(self.environ, url.scheme, host, port, self.own)


NOTHING_SAID = Outward()
"""Directly."""
