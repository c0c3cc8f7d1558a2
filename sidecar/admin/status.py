"""The contents of /status.json.

Owns the document's keys, and the wording of the ways in to a route. `service` calls `document` with its parts'
reports. Pure: time is an argument. It has no access to a token: `TokenStatus` has none, every key of the document is
written out here, and texts about failures pass the redaction. Rules: moments are RFC 3339 in UTC, durations are
seconds; a published key keeps its meaning; a row that can't be written says so under `fault`, and does not affect the
others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final, NamedTuple, TypeVar

from sidecar.admin.history import INTERVAL, NONE_YET, Recent, TrafficSample
from sidecar.errors import MEANINGS
from sidecar.grammar.moments import rfc3339
from sidecar.observe.logs import redact
from sidecar.proxy.refusals.outages import ErrorGroup, Refusing
from sidecar.proxy.refusals.refusals import LastRefusal
from sidecar.tokens.entry import TokenStatus

Note = Callable[[Exception, str], None]
"""Called with a fault and the place where it happened."""

Row = TypeVar("Row")

NO_ROUTE: Final = "(no route)"
"""The name for requests that matched no route."""

UNSHOWN: Final = "This could not be shown, by a fault in the sidecar; its log has the traceback."


class RouteStatus(NamedTuple):
    """One route, as configured."""

    name: str
    upstream: str
    audience: str
    credential: str
    target: str
    token: str
    refusal: LastRefusal | None
    """The target's last refusal."""
    refusing: Refusing | None
    """The sidecar's own errors with which this route refuses requests."""
    ways_in: Sequence[tuple[str, str]]
    """See `ways_in`."""
    url: str | None = None
    """The base URL to call it by; None if it has none, for example if its upstream follows the request's host."""


class RouteLinks(NamedTuple):
    """A route's current connections to its upstream, by protocol."""

    http1_busy: int = 0
    """Connections with a request (in HTTP/2 possibly several). Those being made count here."""
    http1_idle: int = 0
    http2_busy: int = 0
    http2_idle: int = 0
    streams: int = 0
    """HTTP/2 requests in progress."""


NO_LINKS: Final = RouteLinks()


class RouteTraffic(NamedTuple):
    """A route's traffic since the start. The name is empty for requests that matched no route."""

    name: str
    requests: int
    in_flight: int
    refused: int
    upstream_4xx: int
    """The upstream's own answers."""
    upstream_5xx: int
    last_minute: Recent = NONE_YET
    http2: int = 0
    """How many of the requests came in HTTP/2."""
    links: RouteLinks = NO_LINKS


class Traffic(NamedTuple):
    """The traffic."""

    samples: Sequence[TrafficSample]
    routes: Sequence[RouteTraffic]
    errors: Sequence[ErrorGroup]
    """The sidecar's own answers by route and reason, the latest first."""


class HandoutStatus(NamedTuple):
    """One server that gives tokens to programs."""

    server: str
    """Its key in the configuration."""
    listen: Sequence[str]
    credential: str
    audiences: Sequence[str]
    scopes: Sequence[str]
    given: int
    """Tokens given since the start."""
    refused: int


class ProcessStatus(NamedTuple):
    """The process as a whole. Times are in Unix seconds."""

    version: str
    started_at: float
    ready: bool
    reasons: Sequence[str]
    draining: bool
    configured_at: float
    """When the configuration in force was read."""
    reload_error: tuple[str, float] | None
    """What was wrong with a later one, and when."""
    listen: Sequence[str]
    """Every address of the shared listener, as bound: `127.0.0.1:8787`, `unix:/run/proxy.sock`."""
    handouts: Sequence[HandoutStatus] = ()
    """The servers that give tokens to programs."""


def document(
    process: ProcessStatus,
    routes: Iterable[RouteStatus],
    tokens: Iterable[TokenStatus],
    traffic: Traffic,
    *,
    now: float,
    note: Note,
) -> dict[str, Any]:
    """The document at wall-clock time `now`. `note` is called for a row that can't be written."""
    return {
        "version": process.version,
        "now": _moment(now),
        "started_at": _moment(process.started_at),
        "uptime": round(max(0.0, now - process.started_at), 3),
        "ready": process.ready,
        "reasons": list(process.reasons),
        "draining": process.draining,
        "listen": list(process.listen),
        "configuration": {
            "read_at": _moment(process.configured_at),
            "last_error": None
            if process.reload_error is None
            else {"detail": redact(process.reload_error[0]), "at": _moment(process.reload_error[1])},
        },
        "routes": _rows(sorted(routes, key=_is_well), _route, lambda route: {"name": route.name}, note),
        "tokens": _rows(
            tokens,
            lambda token: _token(token, now),
            lambda token: {"credential": token.key.credential, "audience": token.key.audience},
            note,
        ),
        "handouts": [
            {
                **it._asdict(),
                "listen": list(it.listen),
                "audiences": list(it.audiences),
                "scopes": list(it.scopes),
            }
            for it in process.handouts
        ],
        "traffic": _traffic(traffic),
        "errors": _rows(traffic.errors, _error, lambda error: {"route": error.route}, note),
    }


def _traffic(traffic: Traffic) -> dict[str, Any]:
    return {
        "interval": INTERVAL,
        "samples": [{**sample._asdict(), "at": _moment(sample.at)} for sample in traffic.samples],
        "routes": [
            {
                **route._asdict(),
                "name": route.name or NO_ROUTE,
                "last_minute": route.last_minute._asdict(),
                "http2": route.http2,
                "links": _links(route.links),
            }
            for route in traffic.routes
        ],
    }


def _rows(
    rows: Iterable[Row],
    write: Callable[[Row], dict[str, Any]],
    name: Callable[[Row], Mapping[str, str]],
    note: Note,
) -> list[dict[str, Any]]:
    """Each row by itself. One that can't be written has its `name` and says so."""
    written = []
    for row in rows:
        try:
            written.append(write(row))
        except Exception as fault:  # noqa: BLE001  # logged and counted by `note`, and told in the row's place
            note(fault, "status")
            written.append({**name(row), "fault": UNSHOWN})
    return written


def ways_in(
    name: str,
    hosts: Sequence[str],
    *,
    dynamic: bool,
    path_prefix: str | None,
    only: bool = False,
    shared: Sequence[str],
    own: Sequence[str],
    secure: Collection[str] = (),
    by_name: Collection[str] = (),
    intercepted: bool = False,
) -> list[tuple[str, str]]:
    """Every way to call a route, as pairs of its kind and what to write.

    `hosts` are all that select the route, wildcards included; `dynamic` says that its upstream follows the
    request's host, which leaves out the ways that have none; `only`, that it has the whole shared listener.
    `shared` and `own` are the bound addresses of the shared listener and of the route's own, `secure` those of both
    that serve https; a way that is a URL needs a TCP one among the shared. `by_name` are those of both that take
    https for routes' hosts themselves, `intercepted` that it is read for this route.
    """

    def base_of(address: str) -> str:
        return f"{'https' if address in secure else 'http'}://{_dialled(address)}"

    ways = [("host", f"Host: {host}") for host in hosts]
    usual = (address for address in shared if not _is_socket(address) and address not in by_name)
    if (base := next((base_of(address) for address in usual), None)) is not None:
        if not dynamic:
            scheme, port = base.partition(":")[0], base.rpartition(":")[2]
            ways.append(("name", f"{scheme}://{name}.localhost:{port}/"))
            if only:
                ways.append(("localhost", f"{base}/"))
            if path_prefix is not None:
                ways.append(("path_prefix", f"{base}/{path_prefix.strip('/')}".rstrip("/") + "/"))
        ways += [("http_proxy", f"http://{host}/ with HTTP_PROXY={base}") for host in hosts]
        if intercepted:
            ways += [("https_proxy", f"https://{host}/ with HTTPS_PROXY={base}") for host in hosts]
    if intercepted:
        here = (address for address in (*shared, *own) if address in by_name)
        ways += [("https", f"https://{host}/ at {address}") for address in here for host in hosts]
    for address in own:
        if address in by_name:
            continue
        ways.append(("listen", address if _is_socket(address) else f"{base_of(address)}/"))
    return ways


def _is_well(route: RouteStatus) -> bool:
    return route.refusing is None


def _route(route: RouteStatus) -> dict[str, Any]:
    return {
        "name": route.name,
        "url": route.url,
        "upstream": route.upstream,
        "audience": route.audience,
        "credential": route.credential,
        "target": str(route.target),
        "token": route.token,
        "refusing": _refusing(route.refusing),
        "last_refusal": _refusal(route.refusal),
        "ways_in": [{"kind": kind, "use": use} for kind, use in route.ways_in],
    }


def _links(links: RouteLinks) -> dict[str, Any]:
    return {
        "http1": {"busy": links.http1_busy, "idle": links.http1_idle},
        "http2": {"busy": links.http2_busy, "idle": links.http2_idle, "streams": links.streams},
    }


def _refusal(refusal: LastRefusal | None) -> dict[str, Any] | None:
    if refusal is None:
        return None
    diagnosis = refusal.diagnosis
    return {
        "status": refusal.status,
        "reason": str(diagnosis.cause),
        "detail": redact(diagnosis.detail),
        "command": redact(diagnosis.command) or None,
        "at": _moment(refusal.at),
        "good_since": refusal.good_since,
    }


def _refusing(refusing: Refusing | None) -> dict[str, Any] | None:
    if refusing is None:
        return None
    return {
        "status": MEANINGS[refusing.reason].status,
        "reason": str(refusing.reason),
        "detail": redact(refusing.detail),
        "command": redact(refusing.command) or None,
        "count": refusing.times,
        "since": _moment(refusing.since_at),
        "last_at": _moment(refusing.last_at),
    }


def _error(group: ErrorGroup) -> dict[str, Any]:
    return {
        "at": _moment(group.last_at),
        "route": group.route,
        "status": MEANINGS[group.reason].status,
        "reason": str(group.reason),
        "detail": redact(group.detail),
        "command": redact(group.command) or None,
        "count": group.times,
        "first_at": _moment(group.first_at),
        "last_at": _moment(group.last_at),
    }


def _token(token: TokenStatus, now: float) -> dict[str, Any]:
    error = token.last_error
    return {
        "credential": token.key.credential,
        "audience": token.key.audience,
        "kind": str(token.key.kind),
        "state": str(token.state),
        "issued_at": _moment(token.issued_at),
        "expires_at": _moment(token.expires_at),
        "expires_in": None if token.expires_at is None else _seconds(token.expires_at - now),
        "renew_at": _moment(token.renew_at),
        "waiting": token.waiting,
        "last_error": None
        if error is None
        else {
            "reason": str(error.reason),
            "detail": redact(error.detail),
            "command": redact(error.command) or None,
            "at": _moment(error.at),
        },
    }


def _moment(unix: float | None) -> str | None:
    return None if unix is None else rfc3339(unix)


def _seconds(left: float) -> float | None:
    """None for what JSON has no number for."""
    return round(left, 3) if isfinite(left) else None


def _dialled(address: str) -> str:
    """The address to call for one that is bound: a wildcard is reached by its loopback."""
    return address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")


def _is_socket(address: str) -> bool:
    return address.startswith("unix:")
