"""What a request's start line asks for.

Owns the reading of method and target, and the errors for what is not carried. Called by the downstream connection
once per head. Pure. Rules: RFC 9112 section 3.2 (forms of the target), RFC 9110 sections 4.2.4, 7.6, 7.8 and 9.3
(userinfo, Connection and Max-Forwards, Upgrade, methods), RFC 3986 sections 2.1 and 5.2.4 (escapes, dot segments).
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.paths import escaped
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.fields import semantics
from sidecar.proxy.fields.headers import MOST_MEMBERS, Fields, Found, is_long_list, list_members
from sidecar.proxy.fields.semantics import (
    check_expectation,
    check_names,
    check_path,
    may_be_ambiguous,
    not_carried,
)
from sidecar.proxy.messages import METHOD_NAMES
from sidecar.routing.routes import request_host

Asked = tuple[bytes, bytes, bool]
"""Where a request wants to go. First the Host, or the authority of an absolute-form target, which replaces it; then
the path in origin form; then whether the app uses the sidecar as its HTTP proxy. A plain tuple, because one is
made for each request.
"""


BAD_REQUEST_LINE: Final = "Its first line is not `METHOD target HTTP/1.1`, with one space between them."
BROKEN_PREFACE: Final = "It begins as HTTP/2 does, and goes on otherwise."

_REQUEST_LINE: Final = re.compile(rb"[A-Z-]+ [!-~]+ HTTP/1\.[01]")
TAB: Final = 0x09
_HASH: Final = 0x23
"""Bytes as numbers: searching for a number takes 20 ns, for a byte string 130."""
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_PROTOCOLS: Final = re.compile(rb"[ \t]*[\w!#$%&'*+.^`|~-]+(/[\w!#$%&'*+.^`|~-]+)?[ \t]*")
_TAB_IN_FRAMING: Final = re.compile(rb"(?i)\r\n(?:content-length|transfer-encoding|host):[^\r\n]*\t")
_SCHEMES: Final = frozenset({b"http", b"https"})
_WEBSOCKETS: Final = _SCHEMES | {b"ws", b"wss"}
"""The same two, as some clients ask a proxy for a WebSocket (aiohttp); RFC 6455 section 4.1 has an http URL there."""
_MAX_NOMINATED: Final = 9
"""Most members of `Connection`. Envoy has this limit, and clients send three at most."""
_NEVER_NOMINATED: Final = frozenset({b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})

USUAL_CONNECTION: Final = frozenset({None, b"keep-alive", b"Keep-Alive", b"close"})
"""Values, and None, about which `check_fields` has nothing to say."""


def is_request_line(line: bytes) -> bool:
    """Whether a whole first line, without its end, is one of HTTP/1.1 or 1.0 (RFC 9112 section 3)."""
    return _REQUEST_LINE.fullmatch(line) is not None


def read_version(head: bytes, method: bytes, target: bytes) -> bytes:
    """`1.1` or `1.0`, from a whole head as received. Raises MALFORMED_REQUEST unless its first line has exactly this
    form. llhttp does not check that: it accepts several spaces, and RTSP/1.0.
    """
    start = len(method) + 1
    line_end = start + len(target) + 9
    if head[start : line_end + 2] == target + b" HTTP/1.1\r\n":
        return b"1.1"
    if head[:2] == b"\r\n":
        return read_version(without_empty_lines(head), method, target)
    if head[start : line_end + 2] == target + b" HTTP/1.0\r\n":
        return b"1.0"
    raise malformed(BAD_REQUEST_LINE)


def without_empty_lines(head: bytes) -> bytes:
    """`head` from its first line on. Empty lines before it are skipped (RFC 9112 section 2.2)."""
    return head[empty_lines(head) :]


def empty_lines(data: bytes) -> int:
    """How many bytes of empty lines `data` begins with."""
    found = _EMPTY_LINES.match(data)
    return found.end() if found is not None else 0


def with_escapes(head: bytes) -> bytes | None:
    """`head`, or the part that has arrived, with bytes above 0x7F in its target written as escapes. None if the
    target has none, or if the rest of the first line has some. Only for a head, without empty lines before it,
    whose target the parser refused.
    """
    method, _, rest = head.partition(b"\r")[0].partition(b" ")
    target, _, version = rest.partition(b" ")
    at = 0
    if target[:1] != b"/":
        # The authority of an absolute target takes no escapes: a host spells non-ASCII characters in another way.
        at = target.find(b"://") + 3
        at = min(place for place in (target.find(b"/", at), target.find(b"?", at), len(target)) if place >= 0)
    if target.isascii() or not (target[:at] + version).isascii():
        return None
    start = len(method) + 1
    return head[: start + at] + escaped(target[at:]) + head[start + len(target) :]


def no_method(head: bytes) -> SidecarError:
    """The error for a head in which the parser found no method."""
    if not without_empty_lines(head)[:1].isalpha():
        return malformed("It does not begin with a method. Is this another protocol (TLS, SOCKS, …)?")
    what = "The request's method is not one of HTTP/1.1's, which are written in capitals."
    return SidecarError(Reason.METHOD_NOT_CARRIED, what)


def not_http(error: Exception, head: bytes) -> SidecarError:
    """The error for bytes that the parser refused."""
    return malformed(BROKEN_PREFACE if without_empty_lines(head).startswith(b"PRI") else f"{error}.")


def check_upgrade(protocols: bytes, connection: bytes = b"") -> None:
    """Raise MALFORMED_REQUEST if `Upgrade` is not a list of protocols (RFC 9110 section 7.8), or if it or
    `Connection` is too long.
    """
    if is_long_list(protocols):
        raise malformed(f"`Upgrade` names more than {MOST_MEMBERS} protocols.")
    if is_long_list(connection):
        raise _too_many_nominated()
    if not all(_PROTOCOLS.fullmatch(protocol) for protocol in protocols.split(b",")):
        raise malformed("`Upgrade` is not a list of protocols.")


def malformed(what: str) -> SidecarError:
    """The error for bytes that are no HTTP/1.1 request."""
    return semantics.malformed(what, "HTTP/1.1")


def read_target(
    method: bytes, target: bytes, found: Found, *, http10: bool = False, default_host: bytes | None = None
) -> Asked:
    """The target; raises METHOD_NOT_CARRIED, MALFORMED_REQUEST or BAD_HOST.

    HTTP/1.0 may omit the Host; `default_host` then replaces it if the listener already determines the route.
    """
    if method not in METHOD_NAMES:
        raise not_carried(method, target)
    if _HASH in target:
        raise malformed("A request target has no fragment.")
    host = found.get(b"host", default_host)
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        if host is None:
            raise SidecarError(Reason.BAD_HOST, "The request has no Host to say where it should go.")
        if may_be_ambiguous(target):
            check_path(target)
        return host, target, False
    _check_host_beside(found, http10=http10)
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (_WEBSOCKETS if b"upgrade" in found else _SCHEMES):
        raise malformed("The request target is neither a path nor an http URL.")
    length = min(end for end in (rest.find(b"/"), rest.find(b"?"), len(rest)) if end >= 0)
    authority, path = rest[:length], rest[length:]
    check_path(path)
    if not path and method == b"OPTIONS":
        return authority, b"*", True  # RFC 9112 section 3.2.4
    return authority, path if path[:1] == b"/" else b"/" + path, True


def _check_host_beside(found: Found, *, http10: bool) -> None:
    """Raise BAD_HOST for an invalid Host beside an absolute target. Its value is not used: a proxy goes by the target
    (RFC 9112 section 3.2.2), and clients send the proxy's own name, or the target's with or without its port. A
    missing, malformed or repeated Host is an error all the same (section 3.2).
    """
    host = found.get(b"host")
    if host is not None:
        request_host(host)
    elif not http10:
        raise SidecarError(
            Reason.BAD_HOST, "The request has no Host; one belongs beside an absolute target too."
        )


def check_scheme(target: bytes, *, secure: bool) -> None:
    """Raise MALFORMED_REQUEST if an absolute target asks for https over a connection without TLS (RFC 9110 section
    4.2.2).
    """
    if not secure and target.partition(b":")[0].lower() in (b"https", b"wss"):
        raise malformed(
            "Its target is an https URL, on a connection without TLS. Ask for http:// instead: "
            "the sidecar itself speaks https to the service."
        )


def check_fields(found: Found, head: bytes) -> None:
    """Raise MALFORMED_REQUEST or EXPECTATION_FAILED for lines that a head may not have. `head` is all of it, as
    received. Does nothing for a usual Connection without the other names and without a tab.
    """
    if b"expect" in found:
        check_expectation(found)
    if b"connection" in found:
        _check_connection(found)
    check_names(found)
    # RFC 9112 allows a tab around a value; nginx is not alone in taking it for a part of it.
    if TAB in head and _TAB_IN_FRAMING.search(head):
        raise malformed("Its framing or its Host is written with a tab.")


def _check_connection(found: Found) -> None:
    """Raise MALFORMED_REQUEST if `Connection` names a field meant for every recipient, names too many fields (RFC
    9110 section 7.6.1), or asks for an upgrade to nothing.
    """
    if is_long_list(found[b"connection"]):
        raise _too_many_nominated()
    members = list_members(found[b"connection"])
    for member in members:
        if member in _NEVER_NOMINATED or member.startswith(b":"):
            raise malformed("`Connection` names what is for every recipient (Host, X-Forwarded-For).")
    if b"upgrade" in members and found.get(b"upgrade") == b"":
        raise malformed("`Upgrade` names no protocol.")
    if len(members) > _MAX_NOMINATED:
        raise _too_many_nominated()


def _too_many_nominated() -> SidecarError:
    return malformed(f"`Connection` names more than {_MAX_NOMINATED} headers.")


def check_size(limits: Bounds, size: int, target: bytes, fields: Fields) -> None:
    """Raise the error of a whole head that is over one of its limits; `size` is in bytes."""
    if size > limits.head or len(target) > limits.target:
        raise too_large(limits, target)
    if len(fields) > limits.headers:
        raise too_many_lines(limits)


def too_many_lines(limits: Bounds) -> SidecarError:
    """The error for a head, or trailers, of too many lines."""
    what = f"More than {limits.headers} header lines (`limits.headers`)."
    return SidecarError(Reason.HEAD_TOO_LARGE, what)


def too_large(limits: Bounds, target: bytes) -> SidecarError:
    """The error for a head that is too large, as a whole or by its target alone."""
    if len(target) > limits.target:
        what = f"The target is longer than {limits.target} bytes (`limits.target`)."
        return SidecarError(Reason.TARGET_TOO_LONG, what)
    return SidecarError(
        Reason.HEAD_TOO_LARGE, f"The head is larger than {limits.head} bytes (`limits.head`)."
    )
