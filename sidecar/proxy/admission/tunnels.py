"""Which tunnels an app may open by CONNECT, and what is inside.

Owns the judgement of a CONNECT: to which origin of a route it leads. Called once for each, by way of `admitting`. Pure.
There is no tunnel to a server here: what comes inside is read as requests to that origin, and each is judged by
itself. Rules: RFC 9110 section 9.3.6 (CONNECT), RFC 9112 section 3.2.3 (its target).
"""

from __future__ import annotations

from sidecar.errors import Reason, SidecarError
from sidecar.grammar import hosts
from sidecar.net.origins import Origin
from sidecar.proxy.admission import guard
from sidecar.proxy.fields.headers import Fields, Found
from sidecar.proxy.fields.semantics import check_names, malformed, not_carried
from sidecar.routing.routes import Destination, Route, RouteTable, request_host

_HTTP = 80


def tunnel_to(
    table: RouteTable, target: bytes, fields: Fields, found: Found, *, own: Route | None, http10: bool
) -> Origin:
    """The origin that the requests inside are for; raises the SidecarError to answer with.

    `target` is as it came, `found` holds the request's lines, `own` is the route whose listener this is.
    Some clients speak HTTP/1.0 to a proxy, without a Host.
    """
    _check_lines(found, http10=http10)
    host, port = _authority(target)
    if any(name.lower() in guard.BROWSER_MARKS for name, _ in fields):
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "A page in a browser made this CONNECT (Sec-Fetch-Site, Origin). Call from the app itself.",
        )
    try:
        destination = table.match(target, b"").destination
    except SidecarError as error:
        if error.reason is Reason.NO_ROUTE and port != _HTTP:
            raise not_carried(b"CONNECT", target) from error
        raise
    if own is not None and destination.route is not own:
        raise SidecarError(
            Reason.CALLER_REFUSED,
            f"This listener is route `{own.name}`'s, and `{host}` is route `{destination.route.name}`'s. "
            "Use the shared listener as the proxy.",
        )
    if _is_plain(port, destination):
        return Origin(b"http://", host, port)
    raise not_carried(b"CONNECT", target)


def _check_lines(found: Found, *, http10: bool) -> None:
    """Raise for lines that CONNECT can't have: a body, or a Host that is none."""
    check_names(found)
    if found.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in found:
        raise malformed("CONNECT has no body.", "HTTP/1.1")
    if (host := found.get(b"host")) is not None:
        request_host(host)
    elif not http10:
        raise SidecarError(Reason.BAD_HOST, "The request has no Host; one belongs beside CONNECT too.")


def _authority(target: bytes) -> tuple[str, int]:
    """What CONNECT names; MALFORMED_REQUEST unless it is a host and a port."""
    try:
        found = hosts.parse_authority(target.decode("ascii"))
    except ValueError:  # a UnicodeDecodeError is one, too
        found = None
    if found is None or found.port is None:
        raise malformed(
            "The target of CONNECT is not a host and a port, such as `billing.internal:80`.", "HTTP/1.1"
        )
    return found.host, found.port


def _is_plain(port: int, destination: Destination) -> bool:
    """Whether what is asked for at this port is http: by its own port, else by that of the upstream."""
    return port == _HTTP or (port == destination.port and not destination.tls)
