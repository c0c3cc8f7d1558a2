"""A request as a front end judges it, whichever version of HTTP it came in.

Owns what the front ends may read of a request: all of it but the body. Made by `targets` from aiohttp's requests, and
by `grpc_server` from HTTP/2. It judges nothing.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict, MultiMapping

_QUERY_TOKEN: Final = re.compile("(?<=[?&]access_token=)[^&]+")


def without_token(raw_path: str) -> str:
    """A path with its query, in which no `access_token` is told."""
    return _QUERY_TOKEN.sub("REMOVED", raw_path)


class Asked(NamedTuple):
    """The head of a request."""

    method: str
    scheme: str
    host: str
    """With the port, as the caller wrote it: `Host`, or `:authority`."""
    raw_path: str
    """With the query, as it was sent."""
    path: str
    """Without the query, and without escapes."""
    url: str
    headers: MultiMapping[str]
    """By names in any case."""

    @classmethod
    def of_request(cls, request: web.Request) -> Self:
        """From HTTP/1.1."""
        return cls(
            request.method,
            request.scheme,
            request.host,
            request.raw_path,
            request.path,
            str(request.url),
            request.headers,
        )

    @classmethod
    def of_fields(cls, fields: tuple[tuple[bytes, bytes], ...]) -> Self:
        """From the lines of HTTP/2, pseudo-headers first (RFC 9113 section 8.3.1)."""
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        pseudo = {name: value for name, value in lines if name.startswith(":")}
        headers = CIMultiDict((name, value) for name, value in lines if not name.startswith(":"))
        scheme, path = pseudo.get(":scheme", "http"), pseudo.get(":path", "/")
        host = pseudo.get(":authority") or headers.get("Host") or ""
        return cls(
            pseudo[":method"],
            scheme,
            host,
            path,
            unquote(path.partition("?")[0]),
            f"{scheme}://{host}{path}",
            headers,
        )
