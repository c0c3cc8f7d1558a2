"""How an app on this machine calls the sidecar: its base URLs, and the variables that tell the app.

Called by `exec` for the addresses that were bound, and for manifests by those of a configuration.
"""

from __future__ import annotations

from typing import Final

from sidecar.config.addresses import ListenAddress

VARIABLE: Final = "IDTOKEN_SIDECAR_URL"
"""Holds the base URL of the shared listener."""

_BY_NAME: Final = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")  # what is called by `localhost`


def variable(route: str) -> str:
    """The variable that holds a route's base URL."""
    return f"{VARIABLE}_{route.upper().replace('-', '_')}"


def base_url(address: ListenAddress, scheme: str) -> str | None:
    """The base URL of a listener; None for a Unix socket, which has none."""
    if address.path is not None:
        return None
    host = "localhost" if address.host in _BY_NAME else address.host
    return f"{scheme}://{ListenAddress(host, address.port)}"
