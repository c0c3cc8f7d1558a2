"""Host names and authorities: one spelling for each.

Owns the normal form of a host, which configuration, routing, the guards and the admin server compare:
lower case, no trailing dot, IDNA A-labels, IP literals in their shortest spelling. Pure: nothing is
resolved here. Rules: RFC 3986 section 3.2 (authority), RFC 9110 section 7.2 (Host), UTS #46 (IDNA),
RFC 6761 section 6.3 (`localhost` and names below it), RFC 4291 section 2.5 (loopback, unspecified, mapped).

The networks written down here and in `networks` decide what an address is. `is_loopback` and the like of
`ipaddress` are not used: their answers depend on the version of Python, and so does the text of an address (3.13
changed both for IPv4 inside IPv6).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

import idna

from sidecar.grammar.contents import place, quoted

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK: Final = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
UNSPECIFIED: Final = (ipaddress.IPv4Network("0.0.0.0/8"), ipaddress.IPv6Network("::/128"))
"""Linux takes 0.0.0.0 and :: for this machine; the rest of that network is nobody's."""
_MAPPED: Final = 0xFFFF

_URL: Final = re.compile(
    r"(https?)://([!$-.0-;=@-\[\]_a-z~]+)(?:[/?#][!#-;=?-\[\]_a-z~]*)?", re.IGNORECASE | re.ASCII
)

_NUMBER: Final = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\Z")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")


class Authority(NamedTuple):
    """A host and, where one was given, its port."""

    host: str
    """Normal form; an IPv6 literal without its brackets."""
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_authority(text: str) -> Authority:
    """The normal form of `host[:port]`; ValueError with a sentence where it is not one.

    Userinfo is refused: in an HTTP request it only ever serves to mislead (RFC 9110 section 4.2.4).
    """
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{quoted(text)} has no closing bracket where one belongs")
        return Authority(spelling(_ipv6(literal)), _port(rest[1:]) if rest else None)
    if "@" in text:
        raise ValueError("a user name or password may not stand before a host")
    host, colon, port = text.partition(":")
    return Authority(normalise(host), _port(port) if colon and port else None)


class Url(NamedTuple):
    """Where an http or https URL leads."""

    scheme: str
    authority: Authority


def parse_url(text: str) -> Url:
    """Where a URL leads, to every parser alike; ValueError with a sentence where it is not one, or where they differ.

    Only the characters of RFC 3986 may be in it. Some parsers take a backslash for a slash, and some drop white space:
    `http://evil.example\\@localhost/` has one host to urllib, which would check it, and another to requests.
    """
    if (match := _URL.fullmatch(text)) is None:
        raise ValueError(f"`{text}` is not a URL: `https://`, a host, and the characters of RFC 3986 only")
    return Url(match[1].lower(), parse_authority(match[2]))


def normalise(host: str) -> str:
    """The normal form of a host name or an unbracketed IP literal; ValueError where it is neither."""
    if (address := ip_literal(host)) is not None:
        return spelling(address)
    name = host.removesuffix(".")
    if not name:
        raise ValueError("the host is empty")
    if not name.isascii() or "xn--" in name.lower():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(
                f"{quoted(host)} is not a valid internationalised name: {place(error)}"
            ) from error
    name = name.lower()
    if len(name) > 253 or not all(_LABEL.match(label) for label in name.split(".")):
        raise ValueError(f"{quoted(host)} is not a valid host name")
    return name


def ip_literal(host: str) -> IPAddress | None:
    """The address that `host` spells, or None for a name. IPv6 with or without brackets, no zone."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]") if "%" not in host else "")
    except ValueError:
        return None


def ends_in_number(host: str) -> bool:
    """Whether resolvers may read a host in normal form as an IPv4 address, by its last label (URL Standard, "ends in a
    number"): `2130706433` and `0x7f.1` are names here, and 127.0.0.1 to many of them."""
    return _NUMBER.search(host) is not None


def spelling(address: IPAddress) -> str:
    """The normal form of an address (RFC 5952): all of IPv6 in hexadecimal, as browsers write it (URL standard)."""
    if (inner := mapped(address)) is not None:
        return f"::ffff:{int(inner) >> 16:x}:{int(inner) & 0xFFFF:x}"
    return str(address)


def mapped(address: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped IPv6 one (`::ffff:0:0/96`) stands for; None for any other."""
    value = int(address)
    if isinstance(address, ipaddress.IPv4Address) or value >> 32 != _MAPPED:
        return None
    return ipaddress.IPv4Address(value & 0xFFFF_FFFF)


def is_loopback(host: str) -> bool:
    """Whether a host in normal form can only mean this machine: loopback literal, `localhost`, `*.localhost`.

    Not `::ffff:127.0.0.1`: it leads to this machine, but browsers don't count it as loopback (`is_own_address`).
    """
    if (address := ip_literal(host)) is not None:
        return is_loopback_address(address)
    return host == "localhost" or host.endswith(".localhost")


def is_loopback_address(address: IPAddress) -> bool:
    """Whether it is 127.0.0.0/8 or ::1, in exactly that form."""
    return any(address in network for network in LOOPBACK)


def is_own_address(host: str) -> bool:
    """Whether a host in normal form is an IP literal by which a server may be called: no page can rebind those.

    Not the unspecified address, nor IPv4 inside IPv6: both lead to this machine, but browsers don't count them as
    loopback, so they don't say for whom they ask (Sec-Fetch-Site goes to trustworthy URLs only: Secure Contexts,
    section 3.1). Any page could reach loopback by them.
    """
    address = ip_literal(host)
    if address is None or any(address in network for network in UNSPECIFIED):
        return False
    return isinstance(address, ipaddress.IPv4Address) or mapped(address) is None


def _ipv6(literal: str) -> ipaddress.IPv6Address:
    address = ip_literal(literal)
    if not isinstance(address, ipaddress.IPv6Address):
        raise ValueError(f"{quoted(f'[{literal}]')} is not an IPv6 address")
    return address


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65535:
        raise ValueError(f"{quoted(text)} is not a port")
    return int(text)
