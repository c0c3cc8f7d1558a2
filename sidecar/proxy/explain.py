"""`explain`: which route would take a request, through which way in, and which header it would get.

Owns the wording. Called by the command and the status page; it sends nothing. The code that handles requests decides
here too: `target` reads the request, `routes` finds the route and the way in, `admission` judges. Only the listener
is taken from the URL here. The rule: an explanation ends with what would be sent, or with the sidecar's answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.config.addresses import ListenAddress
from sidecar.config.allow import METHODS
from sidecar.config.models import Config
from sidecar.errors import SidecarError
from sidecar.grammar.contents import kind_of, quoted
from sidecar.grammar.hosts import ip_literal, is_loopback, normalise
from sidecar.grammar.paths import escaped
from sidecar.proxy.admission.admission import Admission, Admitted
from sidecar.proxy.admission.tunnels import tunnel_to
from sidecar.proxy.fields import headers
from sidecar.proxy.http1.target import read_target
from sidecar.routing.routes import Match, RouteTable, Way, match_own

Places = Iterable[tuple[ListenAddress, str | None]]
"""Where the sidecar listens, each with the route whose own listener it is; None for the shared one."""


_BY_HTTPS: Final = "HTTPS_PROXY, or a listener with `intercept`"


def explain(
    config: Config, url: str, lines: Sequence[str], method: str = "GET", *, places: Places | None = None
) -> dict[str, Any]:
    """Test a request for `url` with header `lines` (`Name: value`).

    `places` are the listeners as bound; without them, those of the configuration. ValueError with a sentence for what
    is no request.
    """
    if method not in METHODS:
        raise ValueError(f"{quoted(method)} is not a supported method, such as GET")
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname or kind_of(url) is not None:
        raise ValueError(f"{quoted(url)} is not a URL such as http://billing.localhost:8787/invoices")
    fields = [_field(line) for line in lines]
    asked = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    path = escaped(asked.encode("utf-8", "surrogateescape"))
    listener, is_here = _listener(_places(config) if places is None else places, parts.hostname, parts.port)
    if not any(name.lower() == b"host" for name, _ in fields):
        netloc = parts.netloc.rpartition("@")[2]
        authority = netloc.encode("ascii" if netloc.isascii() else "idna")
        fields.insert(0, (b"Host", authority))
        if not is_here:
            # A URL that is none of the sidecar's own addresses is what an app asks of an HTTP proxy.
            path = b"http://" + authority + path
    secure = None
    if parts.scheme == "https" and not is_here:
        # What an app asks of its proxy first.
        secure = f"{parts.hostname}:{parts.port or 443}".encode("ascii", "replace")
    return _judged(RouteTable.compile(config), listener, method, path, fields, secure)


def _judged(
    table: RouteTable,
    listener: str | None,
    method: str,
    path: bytes,
    fields: headers.Fields,
    secure: bytes | None,
) -> dict[str, Any]:
    """What becomes of the request; `secure` is the host and port that it asks a tunnel to."""
    own = next((route for route in table.routes if route.name == listener), None)
    found = headers.survey(fields)
    try:
        if secure is not None:
            origin = tunnel_to(table, secure, fields, found, own=None, http10=True)
            if origin.host in table.answered:
                return {"taken": True, "answered_by": "google_token_endpoints", "says": _ANSWERED}
        authority, path, absolute = read_target(method.encode("ascii"), path, found)
        admitted = Admission(table, pseudonym=None).admit(
            fields,
            found,
            method=method.encode("ascii"),
            authority=authority,
            path=path,
            absolute=absolute,
            own=own,
            local_socket=False,
        )
        if own is None:
            match = table.match(authority, b"" if absolute else path)
        else:
            match = match_own(own, authority, any_host=False)
    except SidecarError as error:
        return {"taken": False, "status": error.status, "reason": str(error.reason), "says": error.detail}
    host = authority.decode("ascii", "replace")
    way = _BY_HTTPS if secure is not None else _way(match, host, absolute=absolute)
    return _taken(admitted, found, way=way, host=host)


_ANSWERED = (
    "No route takes it: the sidecar itself answers what Google's libraries ask there for tokens, with placeholders. It "
    "answers nothing else there."
)


def _taken(admitted: Admitted, found: headers.Found, *, way: str, host: str) -> dict[str, Any]:
    destination, target, _, plan = admitted
    config = destination.route.config
    names = [name.decode("ascii") for name in plan.names]
    return {
        "taken": True,
        "route": destination.route.name,
        "way_in": way,
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


def _way(match: Match, host: str, *, absolute: bool) -> str:
    match match.way:
        case Way.LISTENER:
            return "the route's own listener"
        case Way.PREFIX:
            return f"path_prefix {match.prefix.decode('ascii') or '/'}"
        case Way.NAME:
            return "its name under .localhost"
        case Way.ONLY:
            return "the only route: it has all that is asked of localhost"
    return f"HTTP_PROXY, or Host: {host}" if absolute else f"Host: {host}"


def _places(config: Config) -> Places:
    yield from ((listener.address, None) for listener in config.listen)
    for route in config.routes:
        yield from ((listener.address, route.name) for listener in route.listen)


def _listener(places: Places, host: str, port: int | None) -> tuple[str | None, bool]:
    """The route whose own listener a URL leads to, if any, and whether it leads to the sidecar at all."""
    try:
        host = normalise(host)
    except ValueError:
        return None, False
    literal = ip_literal(host) is not None
    if not literal and not is_loopback(host):
        return None, False
    meant = ListenAddress(host if literal else "localhost", port or 80)
    for address, route in places:
        if address.clashes(meant):
            return route, True
    # Whatever port was given for this machine: nothing else of the sidecar's is called by its address.
    return None, is_loopback(host)


def _field(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or kind_of(line) is not None:
        # Not quoted: what stands there is often a token.
        raise ValueError("a header line has a name, a colon and a value, such as `Authorization: Bearer x`")
    return name.strip().encode("latin-1", "replace"), value.strip().encode("latin-1", "replace")
