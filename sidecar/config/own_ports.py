"""Gives each route a port of its own, for `auto` in a `listen`.

Owns the rule which routes get one, and which number. Called by `load` for `listen: auto`, and by `exec`, whose routes
all get one. Not every resolver knows `NAME.localhost` (glibc alone doesn't); every client can call `localhost:PORT`.
Pure: whether a port is free is found out when it is bound, and another is taken then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from sidecar.config.addresses import AUTO, ListenAddress
from sidecar.config.listeners import ListenerConfig
from sidecar.config.models import RouteConfig

FIRST_PORT: Final = 8801
"""The first route's port; each further route has the next number."""

_LAST_PORT: Final = 65535


def why_none(shared: Sequence[ListenerConfig]) -> str | None:
    """Why routes can't have ports beside these shared listeners; None where they can."""
    if any(listener.peers is not None for listener in shared):
        return "`peers` tells processes apart by their Unix socket, and on a port of `auto` anyone could call"
    if any(listener.tls is not None and listener.tls.client_ca_file is not None for listener in shared):
        return "`client_ca_file` asks for certificates, and on a port of `auto` anyone could call without one"
    return None


def with_own(routes: Iterable[RouteConfig], shared: Sequence[ListenerConfig]) -> list[RouteConfig]:
    """The same routes, with `auto` for each that has no port, unless its upstream follows the request's host.

    Such a port asks for the same header as the shared listener does.
    """
    asked = next((listener.require_header for listener in shared if listener.require_header), None)
    port = ListenerConfig(address=AUTO).model_copy(update={"require_header": asked})
    return [
        route
        if route.is_dynamic or any(it.address.path is None and not it.intercept for it in route.listen)
        else route.model_copy(update={"listen": (*route.listen, port)})
        for route in routes
    ]


def numbered(routes: Sequence[RouteConfig], taken: Iterable[ListenAddress]) -> list[RouteConfig]:
    """The same routes with a number for each `auto`, in their order. Numbers that an address of the configuration has
    are skipped.
    """
    written = [*taken, *(it.address for route in routes for it in route.listen)]
    avoided = {address.port for address in written if not address.auto}
    ports = (port for port in range(FIRST_PORT, _LAST_PORT + 1) if port not in avoided)

    def with_port(listener: ListenerConfig) -> ListenerConfig:
        if not listener.address.auto:
            return listener
        return listener.model_copy(update={"address": replace(AUTO, port=next(ports, 0))})

    return [
        route.model_copy(update={"listen": tuple(map(with_port, route.listen))})
        if any(it.address.auto for it in route.listen)
        else route
        for route in routes
    ]
