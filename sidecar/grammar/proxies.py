"""Addresses of HTTP proxies, and what goes past them.

Owns the reading of a proxy's URL, from the environment or the configuration, and of a list of exceptions such as
NO_PROXY's. Pure. The rule: a URL has one reading or is an error, whose text has no user name and no password in it.
There is no standard for these variables; the precedents are curl, requests and Go (golang.org/x/net/http/httpproxy).
Sources: RFC 3986 section 3.2.1 (userinfo), RFC 9110 section 9.3.6 (CONNECT), RFC 7617 (Basic).
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from sidecar.grammar import hosts
from sidecar.grammar.contents import HIDDEN, quoted

_EXAMPLE: Final = "`http://proxy.example:3128`"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PORTS: Final = {"http": 80, "https": 443}
_NEED_ESCAPES: Final = re.compile(r"[/?#@]")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f]")


class ProxyUrl(NamedTuple):
    """An HTTP proxy; its text form and its repr have no user name and no password."""

    secure: bool
    """TLS to the proxy itself (`https://`)."""
    host: str
    """Normal form; an IPv6 literal without its brackets."""
    port: int
    userinfo: str
    """As it was written, with its escapes; a secret."""

    def __str__(self) -> str:
        authority = hosts.Authority(self.host, self.port)
        return f"{'https' if self.secure else 'http'}://{HIDDEN + '@' if self.userinfo else ''}{authority}"

    def __repr__(self) -> str:
        return f"<ProxyUrl {self}>"

    @property
    def authorization(self) -> bytes | None:
        """The value of Proxy-Authorization, a secret (RFC 7617); None where there is no user name."""
        if not self.userinfo:
            return None
        user, _, password = self.userinfo.partition(":")
        return b"Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password))


def parse_proxy(text: str) -> ProxyUrl:
    """The proxy at a URL; one without a scheme is `http://`, as other programs read it. ValueError with a sentence for
    the middle of a line, which quotes nothing that could be a password."""
    plain = text.strip()
    scheme = "http"
    if (match := _SCHEME.match(plain)) is not None:
        scheme, plain = match[1].lower(), plain[match.end() :]
        if scheme.startswith("socks"):
            raise ValueError(f"SOCKS is not supported: name an HTTP proxy, such as {_EXAMPLE}")
        if scheme not in _PORTS:
            raise ValueError(
                f"a proxy's URL begins with `http://`, not with another scheme: name one such as {_EXAMPLE}"
            )
    userinfo, at, rest = plain.rpartition("@")
    if at and _NEED_ESCAPES.search(userinfo):
        raise ValueError(
            "its user name or password has a character that ends one: write `#` as `%23`, `/` as `%2F`, `?` as `%3F`, "
            "`@` as `%40`"
        )
    if _UNPRINTABLE.search(userinfo):
        raise ValueError("its user name or password has a blank or control character: write a blank as `%20`")
    try:
        if at and not userinfo.partition(":")[0]:
            raise ValueError("the user name is empty")
        authority = hosts.parse_authority(rest.removesuffix("/"))
        if authority.port == 0:
            raise ValueError("no port")
    except ValueError:
        # Not quoted: without its `@`, a password may stand where the port belongs.
        raise ValueError(
            f"it is not a proxy's URL, with a host and a port and no path, such as {_EXAMPLE}"
        ) from None
    return ProxyUrl(scheme == "https", authority.host, authority.port or _PORTS[scheme], userinfo)


class _Excepted(NamedTuple):
    """One entry of a list of exceptions."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    name: str
    """A host's name, which covers all names below it; empty for every host."""
    port: int | None

    def covers(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        address = hosts.ip_literal(host)
        if self.network is not None:
            return address is not None and address in self.network
        return not self.name or host == self.name or (address is None and host.endswith(f".{self.name}"))


def parse_exception(text: str) -> str:
    """The normal form of one entry: a name (which stands for itself and all below it, with a dot before it or without),
    an address, a network such as `10.0.0.0/8`, `*` for everything; a port may follow. ValueError where it is none."""
    network, name, port = _excepted(text)
    tail = "" if port is None else f":{port}"
    if network is None:
        return f"{name or '*'}{tail}"
    if network.prefixlen < network.max_prefixlen:
        return str(network)
    return f"{hosts.Authority(hosts.spelling(network.network_address), port)}"


def is_excepted(exceptions: Iterable[str], host: str, port: int) -> bool:
    """Whether an upstream (host in normal form) is among them; entries that are none count for nothing, as everywhere.

    Addresses are compared where the host is one: a name is not looked up for this.
    """
    return any(entry.covers(host, port) for entry in _compiled(tuple(exceptions)))


@lru_cache(maxsize=256)
def _compiled(exceptions: tuple[str, ...]) -> tuple[_Excepted, ...]:
    found = []
    for text in exceptions:
        try:
            found.append(_excepted(text))
        except ValueError:
            continue
    return tuple(found)


def _excepted(text: str) -> _Excepted:
    plain = text.strip()
    try:
        if "/" in plain:
            return _Excepted(ipaddress.ip_network(plain, strict=False), "", None)
        if (address := hosts.ip_literal(plain)) is not None:
            return _Excepted(ipaddress.ip_network(address), "", None)
        if plain == "*":
            return _Excepted(None, "", None)
        authority = hosts.parse_authority(plain.removeprefix("*").removeprefix("."))
    except ValueError:
        raise ValueError(
            f"{quoted(text)} is not a host, address or network, such as `internal.example`, `.internal.example`, "
            "`10.0.0.0/8`"
        ) from None
    address = hosts.ip_literal(authority.host)
    if address is not None:
        return _Excepted(ipaddress.ip_network(address), "", authority.port)
    return _Excepted(None, authority.host, authority.port)
