"""Which tunnels an app may open by CONNECT, and what they are for.

Decides to which origin of a route a CONNECT leads. Called once for each, through `admitting`. Pure. No tunnel leads
to a server: its bytes are read as requests to that origin, and each request is checked. Rules: RFC 9110 section 9.3.6
(CONNECT), RFC 9112 section 3.2.3 (its target).
"""

from __future__ import annotations

from typing import Final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar import hosts
from sidecar.net.origins import Origin
from sidecar.proxy.admission import guard
from sidecar.proxy.fields.headers import Fields, Found
from sidecar.proxy.fields.semantics import check_names, malformed
from sidecar.routing.routes import Route, RouteTable, request_host

_HTTP: Final = 80
_HTTPS: Final = 443
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"forwarded", b"via"})
"""Headers that only proxies send."""


def tunnel_to(
    table: RouteTable, target: bytes, fields: Fields, found: Found, *, own: Route | None, http10: bool
) -> Origin:
    """The origin that the requests inside are for; raises the SidecarError for the app.

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
    if host in table.answered and port == _HTTPS:
        if own is not None:
            raise _of_another(own, host, "no route's: its https is answered here")
        if any(name.lower() in _FORWARDED for name, _ in fields):
            # Inside the tunnel no proxy can write these: what it says stands here.
            raise SidecarError(
                Reason.CALLER_REFUSED,
                "A proxy forwarded this CONNECT: only a caller on this machine gets a token here.",
            )
        return Origin(b"https://", host, port)
    try:
        match = table.match(target, b"")
    except SidecarError as error:
        if error.reason is Reason.NO_ROUTE and port != _HTTP:
            raise SidecarError(
                Reason.METHOD_NOT_CARRIED,
                f"CONNECT asks for a tunnel to `{host}`, and this is a proxy for its routes only. {error.detail} "
                "Name the host in the app's NO_PROXY to have it reached directly.",
            ) from error
        raise
    destination = match.destination
    if own is not None and destination.route is not own:
        raise _of_another(own, host, f"route `{destination.route.name}`'s")
    if port == _HTTP or (port == destination.port and not destination.tls):
        return Origin(b"http://", host, port)
    if port == _HTTPS or port == destination.port:
        if match.is_intercepted:
            return Origin(b"https://", host, port)
        raise _not_intercepted(host, destination.route)
    raise SidecarError(
        Reason.METHOD_NOT_CARRIED,
        f"CONNECT asks for a tunnel to port {port} of `{host}`, and requests to route `{destination.route.name}` go to "
        f"port {_HTTP} there, or to {_HTTPS} where it says `intercept: true`. Leave the port out of the app's URL.",
    )


def _check_lines(found: Found, *, http10: bool) -> None:
    """Raise for lines that CONNECT can't have: a body, or an invalid Host."""
    check_names(found)
    if found.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in found:
        raise malformed("CONNECT has no body.", "HTTP/1.1")
    if (host := found.get(b"host")) is not None:
        request_host(host)
    elif not http10:
        raise SidecarError(Reason.BAD_HOST, "The request has no Host; one belongs beside CONNECT too.")


def _authority(target: bytes) -> tuple[str, int]:
    """The authority that CONNECT names; MALFORMED_REQUEST unless it is a host and a port."""
    try:
        found = hosts.parse_authority(target.decode("ascii"))
    except ValueError:  # a UnicodeDecodeError is one, too
        found = None
    if found is None or found.port is None:
        raise malformed(
            "The target of CONNECT is not a host and a port, such as `billing.internal:80`.", "HTTP/1.1"
        )
    return found.host, found.port


def _of_another(own: Route, host: str, whose: str) -> SidecarError:
    return SidecarError(
        Reason.CALLER_REFUSED,
        f"This listener is route `{own.name}`'s, and `{host}` is {whose}. Use the shared listener as the proxy.",
    )


def _not_intercepted(host: str, route: Route) -> SidecarError:
    """The error for https to a route without `intercept`."""
    if route.config.intercept:
        what = f"`{host}` is route `{route.name}`'s name here, and its https is read for its hosts only"
    else:
        what = f"route `{route.name}` does not say `intercept: true`, by which it would be read here"
    return SidecarError(
        Reason.METHOD_NOT_CARRIED,
        f"CONNECT asks for a tunnel to `{host}`, and what is encrypted inside one cannot be given a token: {what} "
        f"(docs/how-to/intercept.md). Or ask for http://{host}/… instead of https://{host}/…: the sidecar itself "
        "speaks https to the service.",
    )
