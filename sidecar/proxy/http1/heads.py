"""Writes heads, in both directions.

Owns the writing of every start line and of the lines that the sidecar adds: Host, framing, Connection, Via, the
token. Called by the two connection classes. Pure: what was received comes in, bytes go out; every line that is copied
was checked. Rules: RFC 9112 sections 3, 4 and 6, RFC 9110 sections 7.6 and 15.2 (interim answers).
"""

from __future__ import annotations

from typing import Final

from sidecar.errors import MEANINGS, SidecarError
from sidecar.proxy.admission.admission import HeaderPlan
from sidecar.proxy.fields import headers
from sidecar.proxy.messages import METHOD_NAMES, UNKNOWN, RequestHead
from sidecar.proxy.refusals import problem

_ALL_METHOD_NAMES: Final = {**METHOD_NAMES, b"CONNECT": "CONNECT", b"TRACE": "TRACE", b"SOURCE": "SOURCE"}
"""With the methods that llhttp knows as HTTP's and the sidecar does not carry."""

TUNNEL_OPEN: Final = b"HTTP/1.1 200 OK\r\n\r\n"
"""The answer to CONNECT, which has no body and no header about one (RFC 9110 section 9.3.6)."""

_DROPPED: Final = headers.drop_table(headers.RESPONSE_DROPPED)
_BODYLESS: Final = headers.RESPONSE_DROPPED | {b"content-length"}
_BODYLESS_DROPPED: Final = headers.drop_table(_BODYLESS)
"""Dropped from a 1xx or 204, which has no body and may not give a length."""

_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, problem.reason_phrase(status).encode())
    for status in (200, 201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 409, 429, 500, 502, 503)
}


def method_name(method: bytes) -> str:
    """The method of a refused request, for the log and the counters. Methods that are not carried (CONNECT) are named
    too. Empty for a word that is none of HTTP's methods.
    """
    return _ALL_METHOD_NAMES.get(method, "")


def status_line(status: int, reason: bytes) -> bytes:
    """The status line with the upstream's own phrase."""
    usual = _STATUS_LINES.get(status)
    if usual is not None and usual[13:-2] == reason:
        return usual
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def request_head(request: RequestHead, path: bytes, host: bytes, plan: HeaderPlan, bearer: bytes) -> bytes:
    """A request's head for the upstream. `path` and `host` are as sent, `bearer` is for the plan's headers. The
    length of its body is already among its lines.
    """
    out = [request.method, b" ", path, b" HTTP/1.1\r\nHost: ", host, b"\r\n"]
    found = request.found
    drop = plan.table
    if b"connection" in found and found[b"connection"] not in headers.PERSISTENCE:
        drop = headers.drop_nominated(plan.dropped, found[b"connection"])
    headers.write_fields(out, request.fields, drop)
    out.append(request.via)
    if request.body == UNKNOWN:
        out.append(b"Transfer-Encoding: chunked\r\n")
    if request.upgrade is not None:
        out += (b"Connection: Upgrade\r\nUpgrade: ", request.upgrade, b"\r\n")
    elif b"te" in found and headers.takes_trailers(found[b"te"]):
        out.append(b"Connection: TE\r\nTE: trailers\r\n")
    for name in plan.names:
        out += (name, b": ", bearer, b"\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def answer_head(
    status: int,
    reason: bytes,
    fields: headers.Fields,
    found: headers.Found,
    *,
    chunked: bool,
    http10: bool,
    keep_alive: bool,
) -> list[bytes]:
    """A final answer's head for the app, in pieces. `chunked` says how its body will be framed."""
    out = [status_line(status, reason)]
    drop = _DROPPED if status != 204 else _BODYLESS_DROPPED
    if b"connection" in found and found[b"connection"] not in headers.PERSISTENCE:
        names = headers.RESPONSE_DROPPED if status != 204 else _BODYLESS
        drop = headers.drop_nominated(names, found[b"connection"])
    headers.write_fields(out, fields, drop)
    if chunked:
        out.append(b"Transfer-Encoding: chunked\r\n")
    if not keep_alive:
        out.append(b"Connection: close\r\n")
    elif http10:
        out.append(b"Connection: keep-alive\r\n")
    out.append(b"\r\n")
    return out


def needs_length(status: int, method: bytes) -> bool:
    """Whether an answer without a body must say so, because it would otherwise end with the connection (RFC 9112
    section 6.3).
    """
    return method != b"HEAD" and status not in (204, 304)


def last_chunk(trailers: headers.Fields) -> bytes:
    """The last chunk, with these trailer lines."""
    if not trailers:
        return b"0\r\n\r\n"
    out = [b"0\r\n"]
    for name, value in trailers:
        out += (name, b": ", value, b"\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def interim_head(status: int, reason: bytes, fields: headers.Fields) -> bytes:
    """A 1xx answer."""
    out = [status_line(status, reason)]
    headers.write_fields(out, fields, _without_hop_by_hop(fields))
    out.append(b"\r\n")
    return b"".join(out)


def switching_head(reason: bytes, fields: headers.Fields, protocol: bytes) -> bytes:
    """A 101 that switches to `protocol`."""
    out = [status_line(101, reason)]
    headers.write_fields(out, fields, _without_hop_by_hop(fields))
    out += (b"Connection: Upgrade\r\nUpgrade: ", protocol, b"\r\n\r\n")
    return b"".join(out)


def own_answer(error: SidecarError, *, route: str | None, now: float, head: bool, close: bool) -> bytes:
    """One of the sidecar's own answers, complete. `now` is in Unix seconds; `head` leaves the body out (the request
    was HEAD).
    """
    status = MEANINGS[error.reason].status
    body = problem.problem(error, route=route)
    out = [status_line(status, problem.reason_phrase(status).encode("ascii"))]
    for name, value in problem.fields(error, body=len(body), now=now):
        out += (name, b": ", value, b"\r\n")
    if close:
        out.append(b"Connection: close\r\n")
    out.append(b"\r\n")
    if not head:
        out.append(body)
    return b"".join(out)


def _without_hop_by_hop(fields: headers.Fields) -> headers.DropTable:
    return headers.drop_nominated(_BODYLESS, headers.survey(fields).get(b"connection", b""))


def without_upgrade(method: bytes, target: bytes, version: bytes, fields: headers.Fields) -> bytes:
    """A request's head as it came, but without its wish to upgrade, so that the parser frames its body."""
    out = [method, b" ", target, b" HTTP/", version, b"\r\n"]
    for name, value in fields:
        lower = name.lower()
        if lower == b"connection":
            kept = [m for m in headers.list_members(value) if m not in (b"upgrade", b"http2-settings")]
            value = b", ".join(kept)
        if lower not in (b"upgrade", b"http2-settings"):
            out += (name, b":", value, b"\r\n")  # no blank: it must not grow over `limits.head`
    return b"".join([*out, b"\r\n"])
