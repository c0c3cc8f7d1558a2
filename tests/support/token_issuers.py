"""Issuers of tokens for days on a fake clock: how long their tokens live, for which keys, when they are renewed, and
what is noted of a fetch.

Data and arithmetic; `token_day` plays them.
"""

from __future__ import annotations

from typing import NamedTuple

from sidecar.tokens.token import Token, TokenKey
from tests.support.named_source import NamedSource

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Issuer(NamedTuple):
    """How one credential's endpoint makes tokens."""

    life: float
    keeps_until: float | None
    """It hands out the same token until it has this many seconds left, as metadata servers do; None: a new one each
    time."""
    audiences: int


ISSUERS = {
    "metadata": Issuer(HOUR, 240.0, 8),
    "key": Issuer(HOUR, None, 6),
    "half": Issuer(HOUR / 2, 120.0, 4),
    "brief": Issuer(5 * MINUTE, None, 4),
    "minute": Issuer(MINUTE, None, 4),
}
SOURCES = {name: NamedSource(name) for name in ISSUERS}
"""Behind each is the model of the day that is played."""
PINNED = [
    TokenKey(SOURCES[name], f"https://{name}-{number}.test")
    for name, issuer in ISSUERS.items()
    for number in range(issuer.audiences)
]
WILDCARD = [TokenKey(SOURCES["metadata"], f"https://any-{number}.test") for number in range(60)]


def least(token: Token) -> float:
    """Seconds that a token must have left to be used."""
    return min(30.0, (token.expires_at - token.issued_at) / 10)


def renewed_before(life: float) -> float:
    """Seconds before expiry from which a renewal is in order."""
    return life / 4 if life < 15 * MINUTE else 225.0


class Held(NamedTuple):
    """The last token that came for a key, and what the clocks had been through by then."""

    token: Token
    clock_events: int
    freezes: int
    offset: float
    """Seconds by which the wall clock was ahead of the true time."""


class Fetch(NamedTuple):
    """How a key's last fetch ended."""

    wall: float
    mono: float
    leave_alone: float
    """Seconds in which no other may start; 0 where it went well."""
    renew_in: float
    """Seconds until a renewal is in order, where it went well."""
