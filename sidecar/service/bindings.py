"""The process's listeners.

Owns every listening socket, its purpose and its certificate, and the list of the sidecar's own addresses. Called by
the service. A new configuration is first planned, which binds the missing listeners and leaves the others alone, then
adopted or dropped.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, final

from sidecar.config.addresses import ListenAddress, parse_listen
from sidecar.config.base_urls import base_url, urls
from sidecar.config.listeners import ListenerConfig, ListenerTls
from sidecar.config.models import Config, RouteConfig
from sidecar.net import bind_faults, certificates, listeners
from sidecar.net.certificates import Certificate, Certificates
from sidecar.net.listeners import Listener, Settings
from sidecar.routing.routes import Route, RouteTable
from sidecar.runtime.clock import Clock
from sidecar.service.start_error import EXIT_BIND, EXIT_CONFIG, StartError

_log = logging.getLogger(__name__)


_TOLD: Final = 10
"""How many routes' URLs the log line at start has."""


class Use(NamedTuple):
    """A listener and its purpose."""

    listener: Listener
    route: Route | None
    """None for the shared listener."""
    settings: Settings


class ListenPlan(NamedTuple):
    """The listeners of a new configuration."""

    stay: list[Use]
    """The listeners that exist already, each with its purpose from then on."""
    bound: list[Use]
    """The listeners that were bound for it."""
    certificates: Mapping[ListenerTls, Certificate]
    handouts: dict[str, list[Listener]]
    """The listeners of servers that give tokens to programs, by the server's key in the configuration."""
    fresh: list[Listener]
    """The ones among them that were bound for it."""

    def drop(self) -> None:
        """Close the newly bound listeners: the configuration will not be used."""
        for listener in [*self.fresh, *(use.listener for use in self.bound)]:
            listeners.close(listener)


@final
class Bindings:
    """The listening sockets of one process."""

    def __init__(self, clock: Clock, inherited: Iterable[socket.socket]) -> None:
        """`inherited`: sockets that listen already, for addresses of the configuration (socket activation)."""
        self.uses: list[Use] = []
        self.admin: list[Listener] = []
        self.handouts: dict[str, list[Listener]] = {}
        """The listeners of servers that give tokens to programs, by the server's key in the configuration."""
        self.own_addresses: set[tuple[str, int]] = set()
        """Host and port of every listener: no route may lead there."""
        self.certificates = Certificates(clock)
        self._inherited = [listeners.inherited(sock) for sock in inherited]

    def bind(self, config: Config, table: RouteTable) -> None:
        """Listen on all that the first configuration names; raises StartError, and `close` is to be called then."""
        found = self._read_certificates(config, table)
        for it, route in _asked(config, table):
            settings = _settings(it, route, found)
            bound = _bound(it.address, _what(route), self._inherited)
            self.uses += [Use(listener, route, settings) for listener in bound]
        for address in config.admin:
            self.admin += _bound(address, "admin", self._inherited)
        for key, handout in config.handouts.items():
            self.handouts[key] = _bound_all(key, handout.listen, self._inherited)
        if self._inherited:
            names = ", ".join(map(str, self._inherited))
            raise StartError(
                f"the socket unit listens on {names}, which no `listen` and no `admin` of the configuration names: "
                "write the same addresses in both",
                EXIT_BIND,
            )
        for listener in self._all():
            self.own_addresses.update(_own_addresses(listener))
        self.certificates.adopt(found)

    def plan(self, config: Config, table: RouteTable) -> ListenPlan:
        """Bind the listeners that a new configuration needs; raises StartError and changes nothing."""
        plan = ListenPlan([], [], self._read_certificates(config, table), {}, [])
        kept = self._kept_ports(table)
        free: dict[ListenAddress, list[list[Listener]]] = {}
        for group in _groups(self.uses):
            if group not in kept.values():
                free.setdefault(group[0].address, []).append(group)
        missing: list[tuple[ListenAddress, Route | None, Settings]] = []
        for it, route in _asked(config, table):
            settings = _settings(it, route, plan.certificates)
            if it.address.auto and route is not None and (own := kept.pop(route.name, None)) is not None:
                plan.stay.extend(
                    Use(listener._replace(address=it.address), route, settings) for listener in own
                )
            elif groups := free.get(it.address):
                plan.stay.extend(Use(listener, route, settings) for listener in groups.pop(0))
            else:
                missing.append((it.address, route, settings))
        # `localhost:8787` may be written for `127.0.0.1:8787` now: half of what it means listens already.
        left = [listener for groups in free.values() for group in groups for listener in group]
        old = {use.listener.socket for use in self.uses}
        try:
            for address, route, settings in missing:
                for listener in self._bound_beside(address, _what(route), left):
                    uses = plan.stay if listener.socket in old else plan.bound
                    uses.append(Use(listener, route, settings))
            for key, handout in config.handouts.items():
                here = self.handouts.get(key, [])
                if list(dict.fromkeys(listener.address for listener in here)) != list(handout.listen):
                    here = _bound_all(key, handout.listen, [])
                    plan.fresh.extend(here)
                plan.handouts[key] = here
        except StartError:
            plan.drop()
            raise
        return plan

    def _all(self) -> list[Listener]:
        handouts = (listener for group in self.handouts.values() for listener in group)
        return [*self.admin, *handouts, *(use.listener for use in self.uses)]

    def _kept_ports(self, table: RouteTable) -> dict[str, list[Listener]]:
        """By route, the listeners of the port that `auto` gave it, so that its callers can go on."""
        asked = {route.name for route in table.routes if any(it.address.auto for it in route.config.listen)}
        names = {use.listener.socket: use.route.name for use in self.uses if use.route is not None}
        groups = (group for group in _groups(self.uses) if group[0].address.auto)
        by_name = ((names.get(group[0].socket, ""), group) for group in groups)
        return {name: group for name, group in by_name if name in asked}

    def _bound_beside(self, address: ListenAddress, what: str, left: list[Listener]) -> Sequence[Listener]:
        """The listeners of an address: those `left` of the old configuration, or new ones beside them."""
        try:
            return _bound(address, what, left)
        except StartError as error:
            for listener in left:
                if address.clashes(listener.address) and not _is_of(listener, address):
                    raise StartError(
                        f"{what}: {address} cannot be listened on while this sidecar listens on {listener}: restart "
                        "it, or give another port",
                        EXIT_BIND,
                    ) from error
            raise

    def adopt(self, plan: ListenPlan) -> list[Listener]:
        """Use it from now on. Returns the listeners of apps that are not in it, for the caller to close. The servers
        that give tokens close their own (`handouts`).
        """
        kept = {use.listener.socket for use in plan.stay}
        surplus = [use.listener for use in self.uses if use.listener.socket not in kept]
        for listener in surplus:
            self.own_addresses.difference_update(_own_addresses(listener))
        for use in plan.bound:
            self.own_addresses.update(_own_addresses(use.listener))
        kept_handouts = [listener for group in plan.handouts.values() for listener in group]
        for listener in (listener for group in self.handouts.values() for listener in group):
            if listener not in kept_handouts:
                self.own_addresses.difference_update(_own_addresses(listener))
        for listener in plan.fresh:
            self.own_addresses.update(_own_addresses(listener))
        self.handouts = plan.handouts
        self.uses = [*plan.stay, *plan.bound]
        self.certificates.adopt(plan.certificates)
        return surplus

    def close(self) -> None:
        """Stop listening."""
        self.certificates.stop()
        for listener in self._all():
            listeners.close(listener)

    # the addresses, as bound

    def shared(self) -> list[str]:
        """The shared listener's."""
        return [str(use.listener) for use in self.uses if use.route is None]

    def of_route(self, name: str) -> list[str]:
        """The listeners of a route's own."""
        return [str(use.listener) for use in self.uses if use.route is not None and use.route.name == name]

    def secure(self) -> set[str]:
        """All listeners that serve https."""
        secure = {str(use.listener) for use in self.uses if use.settings.certificate is not None}
        return secure | self.intercepting()

    def intercepting(self) -> set[str]:
        """All listeners that take https for intercepted hosts."""
        return {str(use.listener) for use in self.uses if use.settings.intercepts}

    def metadata_address(self) -> str | None:
        """Host and port of the metadata server; None where it is off, or on a Unix socket alone."""
        listeners = self.handouts.get("metadata_server", [])
        return next((str(listener) for listener in listeners if not listener.is_unix), None)

    def url(self, route: str | None = None) -> str | None:
        """The base URL of a route's own listener, or of the shared one; None where no TCP port is."""
        secure = self.secure()
        found = (use for use in self.uses if (None if use.route is None else use.route.name) == route)
        # What intercepts is called by the names of routes' hosts.
        bound = (str(use.listener) for use in found if not use.settings.intercepts)
        urls = (base_url(parse_listen(it), "https" if it in secure else "http") for it in bound)
        return next((url for url in urls if url is not None), None)

    def urls(self, routes: Sequence[RouteConfig]) -> dict[str, str]:
        """The base URL to call each route by, by name; see `base_urls.urls`."""
        own = {route.name: url for route in routes if (url := self.url(route.name)) is not None}
        return urls(routes, shared=self.url(), own=own)

    def tell(self, routes: Sequence[str], version: str, urls: Mapping[str, str]) -> None:
        """Log where the sidecar can be reached, and which listeners other machines can reach."""
        for listener, _, _ in self.uses:
            if listener.address.is_remote:
                _log.warning(
                    f"the listener {listener} is reachable from other machines: "
                    "all callers there use this identity",
                    extra={"fields": {"listen": str(listener)}},
                )
        for listener in self.admin:
            if listener.address.is_remote:
                # Not refused: kubelet and Prometheus come by the pod's address, no page shows a token, and what
                # changes anything is for callers of this machine only.
                _log.warning(
                    f"the admin server {listener} is reachable from other machines: they can read metrics and status",
                    extra={"fields": {"admin": str(listener)}},
                )
        where = {"listen": self.shared(), "admin": [str(listener) for listener in self.admin]}
        on = ", ".join(where["listen"]) or "no shared address"
        served = f"{len(routes)} route{'s' if len(routes) != 1 else ''}"
        _log.info(
            f"listening on {on} for {served}, admin on {', '.join(where['admin'])}",
            extra={"fields": {**where, "routes": list(routes), "version": version}},
        )
        if urls:
            first = list(urls.items())[:_TOLD]
            calls = ", ".join(f"{name} at {url}" for name, url in first)
            more = len(urls) - len(first)
            rest = f", and {more} more (`idtoken-sidecar urls`)" if more else ""
            _log.info(f"call {calls}{rest}", extra={"fields": {"urls": dict(first)}})

    def _read_certificates(self, config: Config, table: RouteTable) -> dict[ListenerTls, Certificate]:
        """What the listeners of a configuration show; StartError for files that can't be used."""
        found: dict[ListenerTls, Certificate] = {}
        for it, route in _asked(config, table):
            if it.tls is None:
                continue
            try:
                found.update(self.certificates.read([it.tls]))
            except (OSError, ValueError) as error:
                why = certificates.why(error, it.tls)
                raise StartError(
                    f"{_what(route)}: the files of `tls` of {it.address} cannot be used: {why}", EXIT_CONFIG
                ) from error
        return found


def _asked(config: Config, table: RouteTable) -> Iterable[tuple[ListenerConfig, Route | None]]:
    """Every listener of apps that a configuration names, and whose it is."""
    yield from ((it, None) for it in config.listen)
    yield from ((it, route) for route in table.routes for it in route.config.listen)


def _what(route: Route | None) -> str:
    return "listen" if route is None else f"listen of route `{route.name}`"


def _settings(it: ListenerConfig, route: Route | None, found: Mapping[ListenerTls, Certificate]) -> Settings:
    try:
        return listeners.settings_of(it, None if it.tls is None else found[it.tls])
    except LookupError as error:
        raise StartError(f"{_what(route)}: `peers` of {it.address}: {error.args[0]}", EXIT_CONFIG) from error


def _groups(bound: Iterable[Use]) -> list[list[Listener]]:
    """The listeners of each address together: `localhost` has two, with one port."""
    groups: list[list[Listener]] = []
    for listener, _, _ in bound:
        last = groups[-1] if groups else []
        same = last and last[0].address == listener.address and _port(last[0]) == _port(listener)
        if same and not listener.is_unix:
            last.append(listener)
        else:
            groups.append([listener])
    return groups


def _port(listener: Listener) -> int:
    return 0 if listener.is_unix else int(listener.socket.getsockname()[1])


def _bound(address: ListenAddress, what: str, there: list[Listener]) -> Sequence[Listener]:
    try:
        return listeners.bind(address, there)
    except OSError as error:
        why = bind_faults.explain(
            error, address, unprivileged_from=listeners.first_unprivileged_port(), uid=os.geteuid()
        )
        raise StartError(f"{what}: {address} cannot be listened on: {why}", EXIT_BIND) from error


def _bound_all(what: str, addresses: Sequence[ListenAddress], there: list[Listener]) -> list[Listener]:
    """The listeners of all these addresses, or none of them."""
    found: list[Listener] = []
    try:
        for address in addresses:
            found += _bound(address, what, there)
    except StartError:
        for listener in found:
            listeners.close(listener)
        raise
    return found


def _is_of(listener: Listener, address: ListenAddress) -> bool:
    """Whether it is bound to just what the address means: then it is taken over, and does not stand in the way."""
    return any(host in address.hosts for host, _ in _own_addresses(listener))


def _own_addresses(listener: Listener) -> Iterable[tuple[str, int]]:
    if listener.is_unix:
        return
    host, port = listener.socket.getsockname()[:2]
    yield host, port
