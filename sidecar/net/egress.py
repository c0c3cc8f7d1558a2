"""A tunnel to an upstream through an HTTP proxy.

Owns CONNECT (RFC 9110 section 9.3.6) and what the proxy's answer means. Called by `dial` once it is connected to the
proxy; `dial` decides what goes through the tunnel. The rule: the request is sent only after the proxy answered 2xx
and sent nothing after that head, because a further byte would be read as the upstream's. Errors report the status of
the proxy's answer and none of its text.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar import hosts, networks
from sidecar.grammar.proxies import ProxyUrl
from sidecar.routing.routes import Destination

_HEAD_LIMIT: Final = 16 * 1024
"""Bytes of the head of a proxy's answer: curl takes 100 KiB, common ones are under 300 bytes."""
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2})(?: [^\r\n]*)?\r\n")


def forbidden(destination: Destination) -> str | None:
    """Why no tunnel to an upstream may be requested, as far as its name alone shows that (the proxy looks up its
    address); None if one may.
    """
    host = destination.host
    rules = networks.rules_for(host, allow_private=destination.route.config.allow_private)
    if (why := networks.forbidden_host(host, rules)) is not None:
        return why
    if hosts.ip_literal(host) is None and hosts.ends_in_number(host):
        return "the proxy may read it as an address"
    return None


def request(destination: Destination, proxy: ProxyUrl) -> bytes:
    """The bytes that ask for a tunnel. They are a secret if the proxy wants credentials."""
    authority = str(hosts.Authority(destination.host, destination.port)).encode("ascii")
    lines = [b"CONNECT " + authority + b" HTTP/1.1", b"Host: " + authority, b"User-Agent: idtoken-sidecar"]
    if (authorization := proxy.authorization) is not None:
        lines.append(b"Proxy-Authorization: " + authorization)
    return b"\r\n".join((*lines, b"", b""))


async def open_tunnel(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, destination: Destination, proxy: ProxyUrl
) -> None:
    """Have the proxy at the other end of a connected, non-blocking socket make a tunnel; raises SidecarError.

    The caller keeps the socket and has to close it.
    """
    answer = bytearray()
    try:
        await loop.sock_sendall(sock, request(destination, proxy))
        while b"\r\n\r\n" not in answer and len(answer) <= _HEAD_LIMIT:
            data = await loop.sock_recv(sock, _HEAD_LIMIT)
            if not data:
                raise _malformed(proxy, "closed the connection without a whole answer")
            answer += data
    except OSError as error:
        raise _malformed(proxy, "reset the connection without a whole answer") from error
    if (fault := judged(bytes(answer), destination, proxy)) is not None:
        raise fault


def judged(answer: bytes, destination: Destination, proxy: ProxyUrl) -> SidecarError | None:
    """What a proxy's answer means; None for a tunnel that can be used."""
    head, end, rest = answer.partition(b"\r\n\r\n")
    match = _STATUS_LINE.match(head + b"\r\n")
    if not end or match is None:
        return _malformed(proxy, "answered with something else than HTTP")
    status = int(match[1])
    upstream = f"`{destination.host}:{destination.port}`"
    if status < 300:
        return _malformed(proxy, "sent bytes before the tunnel was used") if rest else None
    if status in (401, 407):  # 401 is tinyproxy's for credentials that it does not take
        given = (
            "did not take the user name and password in"
            if proxy.userinfo
            else "wants a user name and password in"
        )
        return SidecarError(
            Reason.EGRESS_PROXY_AUTHENTICATION,
            f"{named(proxy)} {given} the route's `egress_proxy` (status {status}). Write them into its URL, by "
            "`${VAR}` and escaped; only Basic is spoken.",
        )
    if status < 500:
        return SidecarError(
            Reason.EGRESS_PROXY_DENIED,
            f"{named(proxy)} refused the way to {upstream} (status {status}). Have it allow CONNECT to that host and "
            "port, or add the host to `egress_proxy.except` if it needs no proxy.",
        )
    return SidecarError(
        Reason.EGRESS_PROXY_FAILED,
        f"{named(proxy)} did not reach {upstream} (status {status}). Check that the proxy can resolve and reach it.",
    )


def named(proxy: ProxyUrl) -> str:
    """How a proxy is named at the beginning of a sentence."""
    return f"The proxy `{proxy}`"


def _malformed(proxy: ProxyUrl, what: str) -> SidecarError:
    return SidecarError(
        Reason.EGRESS_PROXY_MALFORMED,
        f"{named(proxy)} {what}. Check that the route's `egress_proxy` names the port of an HTTP proxy.",
    )
