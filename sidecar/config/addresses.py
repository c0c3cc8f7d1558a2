"""Listen addresses, as people write them.

Owns the notation of an address in `listen` and `admin`: `localhost:8787`, `127.0.0.1:8787`, `[::1]:8787`,
`unix:/run/proxy.sock`. Pure: nothing is bound or resolved here. `localhost` means both loopbacks (Node and
others try ::1 first).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from sidecar.grammar import hosts
from sidecar.grammar.contents import quoted


@dataclass(frozen=True)
class ListenAddress:
    """Where to listen: `path` for a Unix socket, else `host` and `port` (0: the system picks one)."""

    host: str = ""
    port: int = 0
    path: str | None = None
    auto: bool = False
    """The port is a wish: where it is taken, the system picks another."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The literal addresses to bind; none for a Unix socket."""
        if self.path is not None:
            return ()
        return ("127.0.0.1", "::1") if self.host == "localhost" else (self.host,)

    @property
    def is_remote(self) -> bool:
        """Whether other machines may reach it: neither loopback nor a Unix socket."""
        return self.path is None and not hosts.is_loopback(self.host)

    def clashes(self, other: ListenAddress) -> bool:
        """Whether binding both must fail."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        if self.port != other.port or self.port == 0:
            return False
        return any(_same_place(mine, theirs) for mine in self.hosts for theirs in other.hosts)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


AUTO: Final = ListenAddress("localhost", auto=True)
"""What `auto` means in a `listen`; `own_ports` gives it its number."""


def parse_listen(text: object) -> ListenAddress:
    """One address; ValueError with a sentence where it is not one."""
    if not isinstance(text, str):
        raise ValueError(f"{quoted(text)} is not an address such as `localhost:8787`")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("a Unix socket needs an absolute path: `unix:/run/idtoken-sidecar/proxy.sock`")
        if not path.isprintable():
            raise ValueError("the path of a Unix socket has no control characters")
        if (size := len(path.encode())) > 107:
            raise ValueError(
                f"the path of a Unix socket has at most 107 bytes, and this one has {size}: choose a shorter one, such "
                "as `unix:/run/idtoken-sidecar/proxy.sock`"
            )
        return ListenAddress(path=path)
    authority = hosts.parse_authority(text)
    if authority.port is None:
        raise ValueError(f"{quoted(text)} has no port: `localhost:8787`, or `unix:/path` for a Unix socket")
    if authority.host != "localhost" and hosts.ip_literal(authority.host) is None:
        raise ValueError(
            f"{quoted(authority.host)} is a name: listen on `localhost`, or on an address such as 127.0.0.1"
        )
    literal = hosts.ip_literal(authority.host)
    if literal is not None and (inner := hosts.mapped(literal)) is not None:
        raise ValueError(f"`{text}` is an IPv4 address inside IPv6: write `{inner}:{authority.port}`")
    return ListenAddress(authority.host, authority.port)


def leads_to(host: str, port: int, listener: ListenAddress) -> bool:
    """Whether an address (host in normal form) is the listener's, as far as that shows before names are looked up."""
    is_literal = hosts.ip_literal(host) is not None
    address = ListenAddress(host if is_literal else "localhost", port)
    return (hosts.is_loopback(host) and address.clashes(listener)) or (is_literal and address == listener)


def parse_listens(value: Any) -> tuple[ListenAddress, ...]:
    """One address of the admin server or a list of them; as mappings they have an `address` and nothing else."""
    if isinstance(value, str | dict):
        return (_alone(value),)
    if isinstance(value, Iterable):
        return tuple(item if isinstance(item, ListenAddress) else _alone(item) for item in value)
    raise ValueError("an address such as `localhost:8787`, or a list of them, belongs here")


def _alone(value: Any) -> ListenAddress:
    if not isinstance(value, dict):
        return parse_listen(value)
    for key in value:
        if key != "address":
            raise ValueError(
                f"{quoted(key)} is for `listen`: a listener of the admin server has an `address` and no more"
            )
    if not value:
        raise ValueError("the key `address` is missing")
    return parse_listen(value["address"])


def _same_place(one: str, other: str) -> bool:
    wildcard = {"0.0.0.0": ".", "::": ":"}
    return one == other or wildcard.get(one, "/") in other or wildcard.get(other, "/") in one


EXAMPLES = ("localhost:8787", "127.0.0.1:8787", "[::1]:8787", "unix:/run/idtoken-sidecar/proxy.sock")

ListenAddresses = Annotated[
    tuple[ListenAddress, ...],
    BeforeValidator(parse_listens),
    PlainSerializer(lambda addresses: [str(address) for address in addresses], return_type=list[str]),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "examples": ["localhost:9787", "0.0.0.0:9787", "unix:/run/idtoken-sidecar/admin.sock"],
        }
    ),
]
"""One or more addresses, written as text or a list."""
