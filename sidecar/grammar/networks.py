"""Which addresses an upstream may have.

Owns the ranges that never get a token, and the ways to write an IPv4 address inside an IPv6 one. Called by
`config.checks` for an upstream that is a literal, and by `net.dial` for every address that a name resolves to. Pure.
Sources: the IANA special-purpose address registries (RFC 6890), RFC 4291 section 2.5.5 (mapped, compatible), RFC 2765
(translated), RFC 6052 and 8215 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP).

A NAT64 prefix of a network's own choosing (RFC 6052 section 2.2) can't be told from any other address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, NamedTuple

from sidecar.grammar.hosts import LOOPBACK, UNSPECIFIED, IPAddress, ip_literal, is_loopback, spelling

METADATA_NAMES: Final = frozenset({"metadata.google.internal", "metadata.goog"})

_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "fd20:ce::254",  # the same server for IPv6-only instances
        "169.254.169.252",  # GKE's per-node metadata server listens here as well
        "fd00:ec2::254",  # other clouds', from which a federated identity may call
        "fd00:ec2::23",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    )
)
_WILDCARDS: Final = ("0.0.0.0", "::")


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_NEVER: Final = (
    (_networks("169.254.0.0/16", "fe80::/10"), "it is a link-local address"),
    (UNSPECIFIED, "it is the unspecified address, or of its network"),
    (_networks("224.0.0.0/4", "ff00::/8", "255.255.255.255/32"), "it is a multicast or broadcast address"),
)
_NOT_GLOBAL: Final = _networks(
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    "240.0.0.0/4",  # reserved, but subnets of a VPC may have it
    *("2001::/23", "2001:db8::/32", "3fff::/20"),
)
_GLOBAL_V6: Final = ipaddress.ip_network("2000::/3")
"""All that was ever assigned; what lies outside is private or nobody's."""

_SPELLED: Final = {
    0: "compatible",
    0xFFFF: "mapped",
    0xFFFF_0000: "translated",
    0x0064_FF9B << 64: "NAT64",
}
"""The first 96 bits of an IPv6 address that is nothing but another spelling of the IPv4 address after them."""
_SIX_TO_FOUR: Final = ipaddress.ip_network("2002::/16")
_TEREDO: Final = ipaddress.ip_network("2001::/32")
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")
_ISATAP: Final = 0x0000_5EFE
_ISATAP_MASK: Final = 0xFCFF_FFFF
"""Without the bits for universal and for group, which may be either."""


class Rules(NamedTuple):
    """What the addresses of one upstream are judged by."""

    loopback: bool
    """The upstream names this machine: a loopback literal, `localhost`, `*.localhost`."""
    private: bool
    """The route's `allow_private`."""


def forbidden_host(host: str, rules: Rules) -> str | None:
    """Why an upstream's host, in normal form, can be told never to be dialled before it is resolved; None where not."""
    if host in METADATA_NAMES:
        return _why_metadata()
    if (address := ip_literal(host)) is not None:
        return _forbidden(address, rules)
    if rules.loopback and not rules.private:
        return _why_private()
    return None


def forbidden_address(
    address: str,
    port: int,
    rules: Rules,
    own: Collection[tuple[str, int]] = (),
    is_here: Callable[[str], bool] = lambda _: False,
) -> str | None:
    """Why this resolved address may not be dialled, or None.

    `own` holds the (address, port) pairs that this process listens on, as bound; `is_here` says whether an address is
    one of this machine's, and is asked only for the port of a listener on all of them.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if (why := _forbidden(ip, rules)) is not None:
        return why
    for meant in _meanings(ip):
        spelled = spelling(meant)
        if (spelled, port) in own or (
            any((wildcard, port) in own for wildcard in _WILDCARDS) and is_here(spelled)
        ):
            return "it is the sidecar's own listener"
    return None


def rules_for(host: str, *, allow_private: bool) -> Rules:
    """The rules for an upstream's host in normal form."""
    return Rules(loopback=is_loopback(host), private=allow_private)


def _forbidden(ip: IPAddress, rules: Rules) -> str | None:
    for meant in _meanings(ip):
        if meant in _METADATA:
            return _why_metadata()
        for networks, why in _NEVER:
            if _within(meant, networks):
                return why
        on_loopback = _within(meant, LOOPBACK)
        if on_loopback and not rules.loopback:
            return "it is a loopback address, and the route's upstream does not name one"
        if rules.loopback and not on_loopback:
            return "it is an address of the network, and the route's upstream names this machine"
        if not rules.private and not _is_global(meant):
            return _why_private()
    return None


def _why_metadata() -> str:
    return "it is a metadata server, which hands out a machine's identity"


def _why_private() -> str:
    return "it is not a public address, and the route says `allow_private: false`"


def _within(ip: IPAddress, networks: Collection[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return any(ip in network for network in networks)


def _is_global(ip: IPAddress) -> bool:
    return not _within(ip, _NOT_GLOBAL) and (ip.version == 4 or ip in _GLOBAL_V6)


def _meanings(ip: IPAddress) -> Iterator[IPAddress]:
    """Every address that packets to `ip` may arrive at: itself, and the IPv4 addresses inside it."""
    if isinstance(ip, ipaddress.IPv4Address) or int(ip) <= 1:
        yield ip
        return
    value = int(ip)
    if value >> 32 in _SPELLED:
        yield _v4(value)
        return
    yield ip
    if ip in _SIX_TO_FOUR:
        yield _v4(value >> 80)
    if ip in _TEREDO:
        yield _v4(value >> 64)  # the server
        yield _v4(~value)  # the client
    if ip in _LOCAL_NAT64:
        yield from _behind_local_prefix(value)
    if (value >> 32) & _ISATAP_MASK == _ISATAP:
        yield _v4(value)


def _behind_local_prefix(value: int) -> Sequence[ipaddress.IPv4Address]:
    """By RFC 6052 section 2.2, for each length that the prefix may have: bits 64 to 71 belong to no address."""
    without = (value >> 64) << 56 | (value & (1 << 56) - 1)
    found = [_v4(without >> (88 - length)) for length in (48, 56, 64)] + [_v4(value)]
    # Zeros are what a longer prefix, or the end of an address behind a shorter one, looks like.
    return [meant for meant in found if not _within(meant, UNSPECIFIED)] or found[-1:]


def _v4(value: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(value & 0xFFFF_FFFF)
