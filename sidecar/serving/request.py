"""One request to a server of the control plane, as its handlers see it.

Owns how a path, a query, a form and header lines are read once the gate has let a request in. Made by `gate`, read by
`callers` and the handlers of `admin` and `handout`. It judges nothing. Rules: names of header fields in any case; an
escaped slash is no separator (RFC 3986 section 2.2); the first of several values counts where one is asked for.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final
from urllib.parse import parse_qsl, unquote

from sidecar.net.listeners import Owner


@final
@dataclass(frozen=True, slots=True)
class WholeRequest:
    """A whole request. Nothing of it changes."""

    method: str
    path: str
    """Decoded, but for escaped slashes."""
    query: str = ""
    """As it was sent."""
    fields: Mapping[bytes, Sequence[bytes]] = field(default_factory=dict)
    """The values of each header line, by its name in lower case."""
    body: bytes = b""
    http10: bool = False
    peername: Any = None
    """The other end's address, as the socket has it."""
    socket: socket.socket | None = None
    """The connection's; not to be read or written."""
    owner: Owner | None = None
    """What a connection came in by that the data path has accepted."""

    def headers(self, name: str) -> list[str]:
        """The values of every line of this name. A character stands for a byte (ISO 8859-1)."""
        return [value.decode("latin-1") for value in self.fields.get(name.lower().encode("ascii"), ())]

    def header(self, name: str) -> str:
        """The value of the first line of this name; empty if there is none."""
        return next(iter(self.headers(name)), "")

    def parameters(self, name: str) -> list[str]:
        """The values of this parameter of the query."""
        return [value for key, value in parse_qsl(self.query, keep_blank_values=True) if key == name]

    def parameter(self, name: str) -> str | None:
        """The first value of this parameter of the query; None if there is none."""
        return next(iter(self.parameters(name)), None)

    def form(self) -> dict[str, str]:
        """The body as a form in UTF-8: the first value of each of its fields."""
        return dict(reversed(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)))


def decoded(path: bytes) -> str:
    """A path with its escapes decoded, but for slashes."""
    return unquote(path.decode("latin-1").replace("%2f", "%2F").replace("%2F", "%252F"))
