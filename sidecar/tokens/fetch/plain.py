"""One request over plain http, for metadata servers.

Owns the use of `http.client`, and how much is read. Called by the transport, in a worker thread. requests and urllib3
would cost 5 MB of memory and a fifth of the time to the first token, and a metadata server needs nothing of what they
add. It may not retry, follow a redirect or judge the answer. Errors are `http.client`'s and the socket's own.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

_CHUNK: Final = 8 * 1024


class Plain(NamedTuple):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name. The values of several lines with one name are joined (RFC 9110 section 5.3)."""
    data: bytes | None
    """None if it exceeds the limit."""


def ask(
    url: str,
    *,
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    seconds: float,
    limit: int,
    watch: Callable[[socket.socket], None],
) -> Plain:
    """Send a request to an http `url` on a new connection, and read at most `limit` bytes of the body.

    `seconds` is the limit of each step. `watch` gets the socket, so that another thread can end it. Raises OSError,
    ValueError (for an invalid host) and http.client.HTTPException.
    """
    parts = urlsplit(url)
    target = parts.path or "/"
    connection = http.client.HTTPConnection(parts.netloc, timeout=seconds)
    try:
        connection.sock = _connected(connection.host, connection.port, seconds)
        watch(connection.sock)
        connection.request(method, f"{target}?{parts.query}" if parts.query else target, body, dict(headers))
        with connection.getresponse() as response:
            names = dict.fromkeys(name.lower() for name in response.headers)
            fields = {name: ", ".join(response.headers.get_all(name, [])) for name in names}
            return Plain(response.status, fields, _read(response, limit))
    finally:
        connection.close()


def _connected(host: str, port: int, seconds: float) -> socket.socket:
    """As http.client does it, but for the host in bytes, which any of the calls below takes: see
    `net.resolver.system_lookup`.
    """
    sock = socket.create_connection((cast(str, host.encode("ascii")), port), seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _read(response: http.client.HTTPResponse, limit: int) -> bytes | None:
    data = bytearray()
    while chunk := response.read(_CHUNK):
        data += chunk
        if len(data) > limit:
            return None
    if response.length:
        # What is read by pieces may end early without an error (bugs.python.org/issue10087).
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(data)
