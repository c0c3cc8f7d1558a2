"""`explain`: which route would take a request, by which way in, and which header it would get.

Owns the words. Called by the command; asks nobody: everything follows from the configuration, by the very code that
judges requests. The rule: an explanation ends with what would be sent, or with the answer that the sidecar would
give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sidecar.config.addresses import ListenAddress
from sidecar.config.allow import METHODS
from sidecar.config.models import Config
from sidecar.errors import SidecarError
from sidecar.hosts import ip_literal, is_loopback, parse_authority
from sidecar.proxy import headers
from sidecar.proxy.admission import Admission, Admitted
from sidecar.routes import Route, RouteTable


def explain(config: Config, url: str, lines: Sequence[str], method: str = "GET") -> dict[str, Any]:
    """What would become of a request for `url` with header `lines` (`Name: value`).

    ValueError with a sentence for what is no request.
    """
    if method not in METHODS:
        raise ValueError(f"`{method}` is no method that is carried, such as GET")
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"`{url}` is not a URL such as http://billing.localhost:8787/invoices")
    fields = [_field(line) for line in lines]
    given = [value for name, value in fields if name.lower() == b"host"]
    authority = (
        given[-1]
        if given
        else parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii")
    )
    path = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode(
        "ascii", "backslashreplace"
    )
    table = RouteTable.compile(config)
    own = None if given and not _is_local(parts.hostname) else _own(config, table, parts.hostname, parts.port)
    # A URL that is none of the sidecar's own addresses is what an app asks of an HTTP proxy.
    absolute = own is None and not _is_local(parts.hostname)
    found = headers.survey([(b"host", authority), *[f for f in fields if f[0].lower() != b"host"]])
    admission = Admission(table, pseudonym=None)
    try:
        admitted = admission.admit(
            fields,
            found,
            method=method.encode("ascii"),
            authority=authority,
            path=path,
            absolute=absolute,
            own=own,
            local_socket=False,
        )
    except SidecarError as error:
        return {
            "taken": False,
            "status": error.status,
            "reason": str(error.reason),
            "says": error.detail,
        }
    return _taken(admitted, found, own=own, absolute=absolute, host=authority.decode("ascii", "replace"))


def _taken(
    admitted: Admitted, found: headers.Found, *, own: Route | None, absolute: bool, host: str
) -> dict[str, Any]:
    destination, target, prefix, plan = admitted
    config = destination.route.config
    names = [name.decode("ascii") for name in plan.names]
    return {
        "taken": True,
        "route": destination.route.name,
        "way_in": _way(own, prefix, absolute, host, destination.route.name),
        "sent_to": f"{destination.origin.decode('ascii')}{target.decode('ascii', 'replace')}",
        "host": (destination.host_header or host.encode()).decode("ascii", "replace"),
        "target": str(destination.target),
        "credential": config.credential,
        "token": str(destination.token_kind),
        "scopes" if destination.token_kind == "access" else "audience": destination.audience,
        "headers": names,
        "says": _why(names, found, config.header, config.on_conflict),
    }


def _why(names: Sequence[str], found: headers.Found, header: str, rule: str) -> str:
    sent = b"authorization" in found
    if not names:
        return f"The app's own header stays and no token is sent: `on_conflict: {rule}`."
    where = " and ".join(f"`{name}`" for name in names)
    if sent and "Authorization" not in names:
        return f"The token goes in {where}, and the app's own `Authorization` passes untouched."
    if sent:
        return f"The token goes in {where} and replaces the app's own `Authorization`: `on_conflict: {rule}`."
    return f"The token goes in {where}: `header: {header}`."


def _way(own: Route | None, prefix: bytes, absolute: bool, host: str, name: str) -> str:
    if own is not None:
        return "the route's own listener"
    if prefix:
        return f"path_prefix {prefix.decode('ascii')}"
    if absolute:
        return f"HTTP_PROXY, or Host: {host}"
    if parse_authority(host).host == f"{name}.localhost":
        return "its name under .localhost"
    return f"Host: {host}" if not _is_local(host.partition(":")[0]) else "path_prefix /"


def _own(config: Config, table: RouteTable, host: str, port: int | None) -> Route | None:
    """The route whose own listener a URL leads to."""
    for route in table.routes:
        if any(_leads_to(listener.address, host, port or 80) for listener in route.config.listen):
            return route
    return None


def _leads_to(address: ListenAddress, host: str, port: int) -> bool:
    return address.path is None and address.port == port and _is_local(host)


def _is_local(host: str) -> bool:
    return is_loopback(host) or ip_literal(host) is not None


def _field(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"`{line}` is not a header line such as `Authorization: Bearer x`")
    return name.strip().encode("latin-1", "replace"), value.strip().encode("latin-1", "replace")
