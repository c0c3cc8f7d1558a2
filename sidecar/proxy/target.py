"""What a request's start line asks for.

Owns the reading of method and target, and the words for what is not carried. Called by the downstream
connection once per head. Pure. Rules: RFC 9112 section 3.2 (forms of the target), RFC 9110 sections 4.2.4
and 9.3 (fragments, userinfo, methods).
"""

from __future__ import annotations

from typing import NamedTuple

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.headers import Found
from sidecar.proxy.heads import METHOD_NAMES


class Target(NamedTuple):
    """Where a request wants to go."""

    authority: bytes
    """The Host as it came, or the authority of an absolute-form target."""
    path: bytes
    """In origin form."""
    absolute: bool
    """Whether the app uses the sidecar as its HTTP proxy."""


def malformed(what: str) -> SidecarError:
    """The error for bytes that are no HTTP/1.1 request."""
    return SidecarError(Reason.MALFORMED_REQUEST, f"The request is not valid HTTP/1.1: {what}")


def read_target(method: bytes, target: bytes, found: Found, *, default_host: bytes | None) -> Target:
    """The target; raises METHOD_NOT_CARRIED, MALFORMED_REQUEST or BAD_HOST.

    `default_host` stands in for a missing Host where the protocol version allows that and the listener
    already says which route is meant.
    """
    if method not in METHOD_NAMES:
        raise _not_carried(method, target)
    if b"#" in target:
        raise malformed("A request target has no fragment.")
    host = found.get(b"host", default_host)
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        if host is None:
            raise SidecarError(Reason.BAD_HOST, "The request has no Host to say where it should go.")
        return Target(host, target, False)
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise malformed("The request target is neither a path nor an http URL.")
    length = min(end for end in (rest.find(b"/"), rest.find(b"?"), len(rest)) if end >= 0)
    authority, path = rest[:length], rest[length:]
    if b"host" in found and found[b"host"].lower() != authority.lower():
        raise SidecarError(Reason.BAD_HOST, "The Host differs from the one in the request target.")
    return Target(authority, path if path[:1] == b"/" else b"/" + path, True)


def check_expectation(found: Found) -> None:
    """Raise EXPECTATION_FAILED for any expectation but `100-continue` (RFC 9110 section 10.1.1)."""
    if found[b"expect"].strip().lower() != b"100-continue":
        raise SidecarError(
            Reason.EXPECTATION_FAILED, "The only expectation that is carried is `100-continue`."
        )


def _not_carried(method: bytes, target: bytes) -> SidecarError:
    if method == b"CONNECT":
        host = target.decode("ascii", "replace").rpartition(":")[0]
        what = (
            "CONNECT asks for a tunnel, and what is encrypted inside one cannot be given a token. "
            f"Ask for http://{host}/… instead of https://{host}/…: the sidecar itself speaks https to the service."
        )
    elif method == b"TRACE":
        what = "TRACE is not carried: its answer would repeat the token to whoever asks."
    else:
        what = f"The method `{method.decode('ascii', 'replace')}` is not carried."
    return SidecarError(Reason.METHOD_NOT_CARRIED, what)
