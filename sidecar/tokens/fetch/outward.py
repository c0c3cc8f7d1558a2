"""How this process reaches token endpoints on the network.

Owns what the environment and the configuration say about it. Made by `sources`, read by the transport for each
exchange. The rule: a proxy that can't be used is an error; it is never bypassed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, final

from sidecar.config.addresses import ListenAddress
from sidecar.config.variables import ProxySetting, proxy_for
from sidecar.grammar.hosts import Url, is_loopback
from sidecar.runtime.trust import Trust


@final
class Outward:
    """The way out, for all credentials. Its text form shows nothing of the environment, which can hold passwords."""

    __slots__ = ("_own", "_proxies", "trust")

    def __init__(self, environ: Mapping[str, str], trust: Trust, own: Collection[ListenAddress] = ()) -> None:
        """`own` is what this sidecar listens on, so that it is not the proxy for its own calls."""
        self._proxies = {name: value for name, value in environ.items() if name.lower().endswith("_proxy")}
        self.trust = trust
        """The trusted CAs."""
        self._own = tuple(own)

    def __repr__(self) -> str:
        return f"<Outward {self.trust}>"

    def proxy_for(self, url: Url) -> ProxySetting | None:
        """The proxy for an endpoint, by HTTPS_PROXY and similar variables; None for loopback. ValueError if it can't
        be used.
        """
        host = url.authority.host
        if is_loopback(host):
            return None
        port = url.authority.port or (443 if url.scheme == "https" else 80)
        return proxy_for(self._proxies, url.scheme, host, port, self._own)


NOTHING_SAID: Final = Outward({}, Trust())
"""No proxy."""
