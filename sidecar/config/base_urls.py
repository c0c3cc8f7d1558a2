"""How an app on this machine calls the sidecar: its base URLs, and the variables that tell the app.

Owns the one rule by which a route's URL is chosen. Called by `exec` and the service with the addresses that were bound,
and by manifests and `explain` with those of a configuration. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sidecar.config.addresses import ListenAddress
from sidecar.config.listeners import ListenerConfig
from sidecar.config.models import Config, RouteConfig

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


def only_route(routes: Sequence[RouteConfig]) -> RouteConfig | None:
    """The route that gets all that an app asks of the shared listener by `localhost` or by its address.

    That is a configuration's only route. None where its upstream follows the request's host, or where it has a
    `path_prefix`, which says what is to reach it.
    """
    if len(routes) != 1 or routes[0].is_dynamic or routes[0].path_prefix is not None:
        return None
    return routes[0]


def urls(routes: Sequence[RouteConfig], *, shared: str | None, own: Mapping[str, str]) -> dict[str, str]:
    """The base URL of each route that has one, by name: its own listener's, else one by way of the shared listener.

    `shared` is the shared listener's base URL, `own` those of routes' own listeners. A route whose upstream follows the
    request's host has none: it is called by Host, or as HTTP proxy.
    """
    found = {}
    for route in routes:
        url = own.get(route.name)
        if url is None and shared is not None and not route.is_dynamic:
            url = _by_shared(route, shared, alone=only_route(routes) is route)
        if url is not None and not route.is_dynamic:
            found[route.name] = url
    return found


def configured_urls(config: Config) -> dict[str, str]:
    """The same by the addresses that a configuration writes down."""
    own = {route.name: url for route in config.routes if (url := first_url(route.listen)) is not None}
    return urls(config.routes, shared=first_url(config.listen), own=own)


def first_url(listeners: Sequence[ListenerConfig]) -> str | None:
    """The base URL of the first listener that has a port by now."""
    usual = (it for it in listeners if it.address.port and not it.intercept)
    return next((base_url(it.address, it.scheme) for it in usual), None)


def _by_shared(route: RouteConfig, shared: str, *, alone: bool) -> str:
    if alone:
        return shared
    if route.path_prefix is not None:
        return shared + route.path_prefix.rstrip("/")
    return f"{shared.partition('://')[0]}://{route.name}.localhost:{shared.rpartition(':')[2]}"
