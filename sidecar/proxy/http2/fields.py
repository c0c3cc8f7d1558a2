"""Translates heads between HTTP/2's lines and the form that an exchange uses.

Owns the pseudo-headers, and which lines are dropped and added. Called by the two sides. Pure. Before a head gets
here, libnghttp2 has refused what is malformed by RFC 9113 section 8: pseudo-headers behind others, twice, unknown or
missing, upper case, connection-specific fields, bytes that no name or value has. Rules: RFC 9113 section 8, RFC 9110.

Names go out in lower case, since libnghttp2 writes them so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.paths import escaped
from sidecar.proxy.admission.admission import HeaderPlan
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.fields import headers, semantics
from sidecar.proxy.http2 import grpc
from sidecar.proxy.http2.connection import NeverIndexedHeader
from sidecar.proxy.messages import HTTP2, METHOD_NAMES, NO_BODY, UNKNOWN, RequestHead
from sidecar.proxy.refusals import problem

_OVERHEAD: Final = 32
"""Bytes that each line counts for in addition to its own (RFC 9113 section 6.5.2)."""
_COLON: Final = 0x3A
_HASH: Final = 0x23
_BLANK: Final = 0x20
_COOKIE: Final = len(b"cookie")
_CONTENT_TYPE: Final = len(b"content-type")

_DROPPED: Final = headers.drop_table(headers.RESPONSE_DROPPED)
_BODYLESS: Final = headers.drop_table(headers.RESPONSE_DROPPED | {b"content-length"})
"""Dropped from a 1xx or 204, which has no body and may not give a length."""

STATUSES: Final = {status: b"%d" % status for status in range(100, 600)}
PHRASES: Final = {status: problem.reason_phrase(status).encode() for status in range(100, 600)}
"""Reason phrases for an app that speaks HTTP/1.1: HTTP/2 has none."""


@final
class Http2Request(RequestHead):
    """A request's head, with the facts that an HTTP/2 answer depends on."""

    __slots__ = ("grpc_status", "is_bound", "time_limit")

    wire = HTTP2

    def __init__(self, began_mono: float) -> None:
        self.began_mono = began_mono
        self.method = b""
        self.fields = ()
        self.found = {}
        self.path = b""
        self.authority = b""
        self.scheme = b""
        self.via = b""
        self.body = UNKNOWN
        self.upgrade = None
        self.is_bound = False
        self.time_limit = None
        self.grpc_status = ""


def read_request(
    request: Http2Request, lines: Sequence[tuple[bytes, bytes]], limits: Bounds, *, end: bool
) -> None:
    """Read a request's head into `request`. `end` says that it has no body. Raises the SidecarError for the app, with
    as much of the head read as that needs.
    """
    at, method, path, scheme, authority = _read_pseudo_headers(lines)
    fields = lines[at:]
    request.method = method
    request.fields = fields
    request.found = found = headers.survey(fields)
    request.path = path
    cookies = 0
    for name, value in fields:
        # By length first: to compare bytes costs more than all the rest.
        letters = len(name)
        if letters == _COOKIE and name == b"cookie":
            cookies += 1
        elif letters == _CONTENT_TYPE and name == b"content-type":
            request.is_bound = grpc.is_call(value)
    if end:
        request.body = NO_BODY
    if method not in METHOD_NAMES:
        raise semantics.not_carried(method, path or authority or b"")
    _check_size(len(path), size_of(lines), len(fields), limits)
    if scheme not in (b"http", b"https"):
        raise _malformed("Its `:scheme` is neither `http` nor `https`.")
    request.path = _read_path(method, path)
    request.authority = _read_authority(authority, found.get(b"host"))
    semantics.check_names(found)
    if b"expect" in found:
        semantics.check_expectation(found)
    length = found.get(b"content-length")
    if length is not None and not end:
        request.body = int(length) or UNKNOWN
    if (length is not None and not length >= b"1") or b"max-forwards" in found:
        request.fields = semantics.written_anew(method, fields, found)
    if length is not None and request.body == UNKNOWN:
        request.fields = without_length(request.fields)
    if cookies > 1:
        request.fields = _with_one_cookie(request.fields)
    if request.is_bound:
        request.time_limit = grpc.time_limit(fields)


def _read_pseudo_headers(
    lines: Sequence[tuple[bytes, bytes]],
) -> tuple[int, bytes, bytes, bytes, bytes | None]:
    """How many of the lines are pseudo-headers, and method, path, scheme and authority. They come first."""
    method = path = scheme = b""
    authority = None
    for at, (name, value) in enumerate(lines):
        if name[0] != _COLON:
            return at, method, path, scheme, authority
        if name == b":path":
            path = value
        elif name == b":method":
            method = value
        elif name == b":scheme":
            scheme = value
        elif name == b":authority":
            authority = value
    return len(lines), method, path, scheme, authority


def _check_size(target: int, size: int, count: int, limits: Bounds) -> None:
    if target > limits.target:
        raise SidecarError(
            Reason.TARGET_TOO_LONG, f"The target is longer than {limits.target} bytes (`limits.target`)."
        )
    if count > limits.headers:
        raise SidecarError(
            Reason.HEAD_TOO_LARGE, f"More than {limits.headers} header lines (`limits.headers`)."
        )
    if size > limits.head:
        raise SidecarError(
            Reason.HEAD_TOO_LARGE, f"The head is larger than {limits.head} bytes (`limits.head`)."
        )


def _read_path(method: bytes, path: bytes) -> bytes:
    if path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
        raise _malformed("Its `:path` does not begin with `/`.")
    if _HASH in path:
        raise _malformed("A request target has no fragment.")
    if not path.isascii():
        path = escaped(path)
    if semantics.may_be_ambiguous(path):
        semantics.check_path(path)
    return path


def _read_authority(authority: bytes | None, host: bytes | None) -> bytes:
    """RFC 9113 section 8.3.1: `:authority` replaces Host. If the two differ, the request is malformed."""
    if authority is None:
        if host is None:
            raise SidecarError(
                Reason.BAD_HOST, "The request has no `:authority` to say where it should go, and no Host."
            )
        return host
    if host is not None and host != authority:
        raise SidecarError(Reason.BAD_HOST, "The request's Host is another one than its `:authority`.")
    return authority


def _with_one_cookie(fields: headers.Fields) -> list[tuple[bytes, bytes]]:
    """The same lines with the pieces of the cookie joined (RFC 9113 section 8.2.3)."""
    cookie = b"; ".join(value for name, value in fields if name == b"cookie")
    out: list[tuple[bytes, bytes]] = []
    for line in fields:
        if line[0] != b"cookie":
            out.append(line)
        elif cookie:
            out.append((b"cookie", cookie))
            cookie = b""
    return out


def _malformed(what: str) -> SidecarError:
    return semantics.malformed(what, "HTTP/2")


def request_lines(
    request: RequestHead,
    path: bytes,
    host: bytes,
    plan: HeaderPlan,
    tokens: list[tuple[bytes, bytes]],
    *,
    tls: bool,
    now_mono: float,
) -> list[tuple[bytes, bytes]]:
    """A request's head for the upstream. `path` and `host` are as sent, `tokens` are those of `TokenLines`."""
    found = request.found
    drop = plan.table
    if b"connection" in found and found[b"connection"] not in headers.PERSISTENCE:
        drop = headers.drop_nominated(plan.dropped, found[b"connection"])
    out = [
        (b":method", request.method),
        (b":scheme", b"https" if tls else b"http"),
        (b":authority", host),
        (b":path", path),
    ]
    fields = request.fields
    if request.time_limit is not None:
        fields = grpc.with_time_left(fields, request.time_limit - (now_mono - request.began_mono))
    out += headers.kept_fields(fields, drop)
    if b"te" in found and headers.takes_trailers(found[b"te"]):
        out.append((b"te", b"trailers"))
    if request.via:
        out.append((b"via", request.via[5:-2]))  # without `Via: ` and the line's end
    out += tokens
    return out


@final
class TokenLines:
    """The lines with the token on one connection. Those of the latest request are kept: most requests have the same."""

    __slots__ = ("_bearer", "_lines", "_names")

    def __init__(self) -> None:
        self._names: tuple[bytes, ...] = ()
        self._bearer = b""
        self._lines: list[tuple[bytes, bytes]] = []

    def of(self, names: tuple[bytes, ...], bearer: bytes) -> list[tuple[bytes, bytes]]:
        """A line for each name. They are in the tables of neither side (RFC 7541 section 7.1.3)."""
        if names is not self._names or bearer is not self._bearer:
            self._names, self._bearer = names, bearer
            self._lines = [NeverIndexedHeader(name, bearer) for name in names]
        return self._lines


def answer_lines(status: int, fields: headers.Fields, found: headers.Found) -> list[tuple[bytes, bytes]]:
    """A final answer's head for the app."""
    drop = _DROPPED if status != 204 else _BODYLESS
    if b"connection" in found and found[b"connection"] not in headers.PERSISTENCE:
        names = headers.RESPONSE_DROPPED if status != 204 else headers.RESPONSE_DROPPED | {b"content-length"}
        drop = headers.drop_nominated(names, found[b"connection"])
    return [(b":status", STATUSES[status]), *bare(headers.kept_fields(fields, drop))]


def interim_lines(status: int, fields: headers.Fields) -> list[tuple[bytes, bytes]]:
    """A 1xx answer's head."""
    drop = headers.drop_nominated(
        headers.RESPONSE_DROPPED | {b"content-length"}, headers.survey(fields).get(b"connection", b"")
    )
    return [(b":status", STATUSES[status]), *bare(headers.kept_fields(fields, drop))]


def bare(fields: headers.Fields) -> list[tuple[bytes, bytes]]:
    """The same lines without white space around their values, which HTTP/1.1 allows and HTTP/2 does not (RFC 9113
    section 8.2.1)."""
    return [
        line
        if not line[1] or (line[1][0] > _BLANK and line[1][-1] > _BLANK)
        else (line[0], line[1].strip(b" \t"))
        for line in fields
    ]


def own_answer(
    error: SidecarError, *, route: str | None, now: float
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """One of the sidecar's own answers, head and body; `now` in Unix seconds."""
    body = problem.problem(error, route=route)
    return [(b":status", STATUSES[error.status]), *problem.fields(error, body=len(body), now=now)], body


def read_answer(
    lines: Sequence[tuple[bytes, bytes]], limits: Bounds, *, head: bool, end: bool
) -> tuple[int, headers.Fields, headers.Found, int]:
    """Status, lines, the fields that matter, and the length of the body. `head` says that the request was HEAD, `end`
    that no body follows. Raises SidecarError for an answer that can't be passed on.
    """
    fields = lines[1:]
    status = int(lines[0][1])
    found = headers.survey(fields)
    if len(fields) > limits.headers or size_of(fields) > limits.head:
        raise SidecarError(
            Reason.UPSTREAM_HEAD_TOO_LARGE,
            f"The head of the answer is larger than `limits.head` ({limits.head} bytes) or has more than "
            f"`limits.headers` ({limits.headers}) lines.",
        )
    if status > 599:
        raise malformed_answer(f"its status is {status}")
    if end or head or status in (204, 304):
        return status, fields, found, NO_BODY
    length = found.get(b"content-length")
    if length is None:
        return status, fields, found, UNKNOWN
    if not int(length):
        return status, without_length(fields), found, UNKNOWN
    return status, headers.plain_length(fields, found), found, int(length)


def without_length(fields: headers.Fields) -> list[tuple[bytes, bytes]]:
    """The same lines for a message with an empty body whose end is still to come, because trailers may follow. In
    HTTP/1 it is sent in chunks, beside which a length would be a second framing.
    """
    return [line for line in fields if line[0] != b"content-length"]


def size_of(fields: headers.Fields) -> int:
    """The size of these lines in bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    size = len(fields) * _OVERHEAD
    for name, value in fields:
        size += len(name) + len(value)
    return size


def malformed_answer(what: str) -> SidecarError:
    """The error for an answer that HTTP/2 does not permit."""
    return SidecarError(Reason.UPSTREAM_MALFORMED, f"The upstream's answer is not valid HTTP/2: {what}.")
