"""Audiences and scopes, as people list them.

Owns the notation (`https://billing-abc123-uc.a.run.app`, `https://*.a.run.app`, an OAuth client id), and the rule by
which a requested audience is found in a list. Either the list has it letter by letter, or its host lies under a
wildcard and it is only a scheme and that host. Used by the models of the configuration, and by `handout` for each
request. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, final

from sidecar.config.targets import CLOUD_PLATFORM
from sidecar.grammar import hosts
from sidecar.grammar.contents import quoted

_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
"""RFC 6749 section 3.3."""
_LONGEST: Final = 2048
"""Characters of an audience that is asked for; Google's longest are resource names of some hundred."""


@final
class AudienceList:
    """A list of audiences, ready to be asked."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries` are as `parse_audience` gives them."""
        self.entries = tuple(dict.fromkeys(entries))
        self.exact = tuple(entry for entry in self.entries if not is_wildcard(entry))
        self._known = frozenset(self.exact)
        self._under = tuple(
            (f"{scheme}://", host[1:])
            for scheme, _, host in (entry.partition("://") for entry in self.entries if is_wildcard(entry))
        )

    def __contains__(self, audience: str) -> bool:
        """Whether a token for it may be handed out."""
        if audience in self._known:
            return True
        return any(
            audience.startswith(scheme) and _is_host_under(audience[len(scheme) :], suffix)
            for scheme, suffix in self._under
        )

    def has_wildcards(self) -> bool:
        """Whether audiences that nobody listed one by one are in it."""
        return bool(self._under)

    def near_miss(self, audience: str) -> str | None:
        """The audience that was meant by one that is not in it, where only the path is too much."""
        scheme, separator, rest = audience.partition("://")
        bare = f"{scheme}://{rest.partition('/')[0]}"
        return bare if separator and bare != audience and bare in self else None


def is_wildcard(entry: str) -> bool:
    """Whether an entry of a list stands for many audiences."""
    return "://*." in entry


def _is_host_under(host: str, suffix: str) -> bool:
    """`host` is to be a host's normal form and nothing else: no port, no user, no path, no other spelling."""
    if not host.endswith(suffix) or len(host) > _LONGEST:
        return False
    try:
        authority = hosts.parse_authority(host)
    except ValueError:
        return False
    return authority.port is None and authority.host == host and hosts.ip_literal(host) is None


def parse_audience(value: Any) -> str:
    """One entry of a list; ValueError with a sentence where it is not one."""
    if (
        not isinstance(value, str)
        or not value
        or not value.isascii()
        or not value.isprintable()
        or " " in value
    ):
        raise ValueError(f"{quoted(value)} is not an audience such as `https://billing-abc123-uc.a.run.app`")
    if "*" not in value:
        return value
    scheme, separator, host = value.partition("://")
    if not separator or scheme != "https" or not host.startswith("*.") or "*" in host[2:]:
        raise ValueError(
            f"{quoted(value)}: a wildcard stands for the first labels of a host, and nothing follows the host: "
            "`https://*.a.run.app`"
        )
    fixed = host[2:]
    try:
        whole = hosts.parse_authority(fixed)
    except ValueError:
        whole = None
    if whole is None or whole.port is not None or whole.host != fixed or hosts.ends_in_number(fixed):
        raise ValueError(
            f"{quoted(value)}: a host in small letters belongs behind `*.`, without port and path"
        )
    if fixed.count(".") < 1:
        raise ValueError(
            f"{quoted(value)}: a wildcard needs at least two fixed labels, such as `https://*.a.run.app`"
        )
    return value


def parse_audiences(value: Any) -> tuple[str, ...]:
    """One entry or a list of them."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("an audience or a list of them belongs here, such as `https://*.a.run.app`")
    return tuple(dict.fromkeys(parse_audience(item) for item in value))


def parse_scopes(value: Any) -> tuple[str, ...]:
    """One scope or a list of them, also as one text with spaces in between."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("a scope or a list of them belongs here")
    for scope in value:
        if not isinstance(scope, str) or _SCOPE.fullmatch(scope) is None:
            raise ValueError(f"{quoted(scope)} is not a scope such as `{CLOUD_PLATFORM}`")
    return tuple(dict.fromkeys(value))
