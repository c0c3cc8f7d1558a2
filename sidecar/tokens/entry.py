"""What the store keeps for one key, and the bounded cache of those that are not pinned.

Owns `Entry` (one key's token, fetch, waiters and timer), its state as operators see it, and `EntryCache`. Called by
the store alone. An entry starts nothing by itself: the store asks it and changes it. The rule: the cache is bounded
by use and by time (cachetools' TLRUCache, on the wall clock, like every expiry). The timer of an entry that leaves it
is stopped. The store also holds the entries that have waiters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import Final, NamedTuple, final

from cachetools import Cache, TLRUCache

from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import TokenStats
from sidecar.runtime.clock import TimerHandle
from sidecar.tokens.policy import WANTED_FOR, Instant, RenewalPlan
from sidecar.tokens.report import FetchReport
from sidecar.tokens.token import Token, TokenKey
from sidecar.tokens.waiters import Waiters

LINGER: Final = 60.0
"""Seconds for which a cached entry outlives its token and its backoff, so that its last error is kept while callers
still ask.
"""


class TokenState(StrEnum):
    """One key as operators see it."""

    FRESH = "fresh"
    STALE = "stale"
    """Served, and past its renewal point."""
    EXPIRED = "expired"
    MISSING = "missing"
    """Never requested so far."""
    FETCHING = "fetching"
    """There is no usable token; one is being fetched."""
    FAILING = "failing"
    """There is no usable token, and the last fetch failed."""


class LastError(NamedTuple):
    """The error of the last failed fetch; `at` in Unix seconds."""

    reason: Reason
    detail: str
    at: float
    command: str = ""


class TokenStatus(NamedTuple):
    """One key for the status page and the collector, without the token. Times are in Unix seconds."""

    key: TokenKey
    state: TokenState
    expires_at: float | None
    renew_at: float | None
    last_error: LastError | None
    """None once a fetch has succeeded."""
    waiting: int
    issued_at: float | None = None
    """When the token's life began."""


class ReadyState(NamedTuple):
    """What readiness needs to know of one key."""

    had_token: bool
    """Whether it has ever had a token."""
    error: SidecarError | None
    """The error of the last fetch, if it failed."""


@final
class Entry:
    """One key's token, fetch, waiters and timer.

    One record with many slots, not three: the data path reads `value` and both `fresh_until` with one look-up, and
    each change of the token changes the fetch and the pauses with it.
    """

    __slots__ = (
        "evicted",
        "failures",
        "fetch",
        "fresh_until",
        "fresh_until_mono",
        "had_token",
        "key",
        "last_error",
        "pinned",
        "plan",
        "refused",
        "rejected_mono",
        "report",
        "retired",
        "retry",
        "retry_wanted",
        "stats",
        "timer",
        "token",
        "turned_away_mono",
        "value",
        "waiters",
        "wanted",
        "withheld",
    )

    def __init__(self, key: TokenKey, stats: TokenStats, waiters: Waiters, *, pinned: bool) -> None:
        self.key = key
        self.stats = stats
        self.report = FetchReport(key, stats)
        self.pinned = pinned
        self.evicted = False
        self.retired = False
        """Whether no route of the configuration in force uses it: only earlier requests do."""
        self.wanted = False
        """Whether it was requested since the last fetch. A pinned entry stays wanted after the first request."""
        # the token
        self.token: Token | None = None
        self.plan: RenewalPlan | None = None
        self.value: bytes | None = None
        self.fresh_until = -inf
        """Unix seconds until which `value` is served without further checks. -inf makes every use check."""
        self.fresh_until_mono = -inf
        """The same moment by the monotonic clock, in case the wall clock was set back while the process stood still."""
        self.withheld = False
        """The token's file has changed: it is not served until the renewal in progress has ended, with or without
        success.
        """
        self.refused = False
        """A target refused the token, and the renewal in progress may bring one that expires sooner. It is served
        meanwhile, because one target must not delay the others.
        """
        self.rejected_mono = -inf
        self.had_token = False
        # the fetch
        self.fetch: asyncio.Task[None] | None = None
        self.timer: TimerHandle | None = None
        """The timer of the next renewal or retry."""
        self.failures = 0
        self.retry: Instant | None = None
        """The end of the pause after a failure."""
        self.retry_wanted: Instant | None = None
        """The end of the pause if a caller waits; None if one does and `retry` is already short."""
        self.turned_away_mono = -inf
        """When a caller was last refused."""
        self.last_error: LastError | None = None
        self.waiters = waiters

    def keep(self, token: Token, plan: RenewalPlan) -> None:
        """Serve this token from now on; what failed before is over."""
        self.token, self.plan, self.value = token, plan, token.bearer
        self.fresh_until, self.fresh_until_mono = plan.renew
        self.had_token = True
        self.failures = 0
        self.retry = self.retry_wanted = self.last_error = None

    def is_usable(self, now: Instant) -> bool:
        """Whether the token may be used now."""
        return self.plan is not None and not self.withheld and not self.plan.unusable.has_come(now)

    def is_due(self, now: Instant) -> bool:
        """Whether a fetch is needed: there is no token or its renewal point has come, and no fetch is in progress."""
        if self.fetch is not None or (self.retry is not None and not self.retry.has_come(now)):
            return False
        return self.plan is None or self.retry is not None or self.plan.renew.has_come(now)

    def is_backing_off(self, now: Instant) -> bool:
        """Whether the last fetch failed and the next may not start yet."""
        return self.fetch is None and self.retry is not None and not self.retry.has_come(now)

    def is_wanted_now(self, now: Instant) -> bool:
        """Whether a caller lacks a token: it waits for one, or was refused a moment ago."""
        if self.is_usable(now):
            return False
        return len(self.waiters) > 0 or now.mono - self.turned_away_mono < WANTED_FOR

    def error_now(self, now: Instant) -> SidecarError | None:
        """The last error as a new exception, with the time until the next fetch; None if the last fetch succeeded. It
        is new each time, because the traceback of an exception grows each time it is raised.
        """
        if self.last_error is None:
            return None
        left = None if self.retry is None else self.retry.seconds_from(now)
        last = self.last_error
        return SidecarError(last.reason, last.detail, retry_after=left, command=last.command)

    def keep_until(self, now_at: float) -> float:
        """Until when (Unix seconds) to keep a cached entry."""
        expires_at = now_at if self.token is None else self.token.expires_at
        retry_at = now_at if self.retry is None else self.retry.at
        return max(expires_at, retry_at, now_at) + LINGER

    def stop(self) -> None:
        """Cancel the timer of the next fetch."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def retire(self) -> None:
        """Its route or its credential is gone: stop renewing it ahead of time."""
        self.retired = True
        self.wanted = False
        self.stop()

    def status(self, now: Instant) -> TokenStatus:
        """What the status page may show of this entry."""
        return TokenStatus(
            self.key,
            self._state(now),
            None if self.token is None else self.token.expires_at,
            None if self.plan is None else self.plan.renew.at,
            self.last_error,
            len(self.waiters),
            None if self.token is None else self.token.issued_at,
        )

    def _state(self, now: Instant) -> TokenState:
        if self.plan is not None and self.is_usable(now):
            return TokenState.STALE if self.plan.renew.has_come(now) else TokenState.FRESH
        if self.fetch is not None:
            return TokenState.FETCHING
        if self.last_error is not None:
            return TokenState.FAILING
        return TokenState.MISSING if self.plan is None else TokenState.EXPIRED


@final
class EntryCache(TLRUCache[TokenKey, Entry]):
    """The entries of wildcard audiences, at most `size`. The least recently used is dropped first."""

    def __init__(self, size: int, wall: Callable[[], float]) -> None:
        super().__init__(size, ttu=lambda _key, entry, now: entry.keep_until(now), timer=wall)

    def file(self, entry: Entry) -> None:
        """Add the entry, or file it again after its token or backoff changed. Others may have to leave."""
        # Before it is stored, TLRUCache drops what has expired, and that may be this entry.
        self[entry.key] = entry
        entry.evicted = False

    def entries(self) -> list[Entry]:
        """All entries, without counting this as a use. Expired ones leave first, with their timers."""
        self.expire()
        return [Cache.__getitem__(self, key) for key in self]

    def expire(self, time: float | None = None) -> list[tuple[TokenKey, Entry]]:
        """See `TLRUCache.expire`; called by every insertion."""
        expired = list(super().expire(time))
        for _, entry in expired:
            _retire(entry)
        return expired

    def popitem(self) -> tuple[TokenKey, Entry]:
        """See `TLRUCache.popitem`; called by an insertion into a full cache."""
        key, entry = super().popitem()
        _retire(entry)
        return key, entry


def _retire(entry: Entry) -> None:
    entry.evicted = True
    entry.stop()
