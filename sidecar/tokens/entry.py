"""What the store keeps for one key, and the bounded cache of those that are not pinned.

Owns `Entry` (one key's token, fetch, waiters and timer), its state as operators see it, and `EntryCache`.
Called by the store alone. An entry starts nothing by itself: it answers questions and is changed by the
store. The rule: the cache is bounded by use and by time (cachetools' TLRUCache, on the wall clock, like every
expiry), and whatever leaves it has its timer stopped; entries that somebody waits for are also held by the
store.
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
"""Seconds that a cached entry outlives its token and its backoff, so that its last error is not forgotten
while somebody still asks."""


class TokenState(StrEnum):
    """One key as operators see it."""

    FRESH = "fresh"
    STALE = "stale"
    """Served, and past its renewal point."""
    EXPIRED = "expired"
    MISSING = "missing"
    """Never asked for yet."""
    FETCHING = "fetching"
    """None to serve, one on its way."""
    FAILING = "failing"
    """None to serve, and the last fetch failed."""


class LastError(NamedTuple):
    """What the last fetch failed with; `at` in Unix seconds."""

    reason: Reason
    detail: str
    at: float
    command: str = ""


class TokenStatus(NamedTuple):
    """One key for the status page and the collector; never the token. Moments in Unix seconds."""

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
    """What readiness asks of one key."""

    had_token: bool
    """Whether it has had a token once."""
    error: SidecarError | None
    """What the last fetch failed with, if it did."""


@final
class Entry:
    """One key's token and everything that is going on about it.

    One record with many slots, and not three: the data path reads `value` and both `fresh_until` with one look-up, and
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
        """Whether it belongs to no route of the configuration in force: only requests of before use it."""
        self.wanted = False
        """Whether somebody asked since the last fetch; once asked for, a pinned entry stays wanted."""
        # the token
        self.token: Token | None = None
        self.plan: RenewalPlan | None = None
        self.value: bytes | None = None
        self.fresh_until = -inf
        """Unix seconds: until then `value` is served without another look. -inf sends every use the long
        way."""
        self.fresh_until_mono = -inf
        """The same moment by the other clock, for where the wall clock was set back while the process stood still."""
        self.withheld = False
        """The token's file changed: not served until the renewal under way has ended, well or badly."""
        self.refused = False
        """A target refused the token, and the renewal under way may bring one that expires sooner: served meanwhile,
        since one target's word must not hold up the others."""
        self.rejected_mono = -inf
        self.had_token = False
        # the fetch
        self.fetch: asyncio.Task[None] | None = None
        self.timer: TimerHandle | None = None
        """The timer of the next renewal or retry."""
        self.failures = 0
        self.retry: Instant | None = None
        """Backing off until then."""
        self.retry_wanted: Instant | None = None
        """Until then only, should somebody wait; None where somebody does, and `retry` is short already."""
        self.turned_away_mono = -inf
        """When a caller was refused last."""
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
        """Whether the token may be attached now."""
        return self.plan is not None and not self.withheld and not self.plan.unusable.has_come(now)

    def is_due(self, now: Instant) -> bool:
        """Whether a fetch is called for: there is no token, or its renewal point has come, and none is under
        way."""
        if self.fetch is not None or (self.retry is not None and not self.retry.has_come(now)):
            return False
        return self.plan is None or self.retry is not None or self.plan.renew.has_come(now)

    def is_backing_off(self, now: Instant) -> bool:
        """Whether the last fetch failed and the next may not start yet."""
        return self.fetch is None and self.retry is not None and not self.retry.has_come(now)

    def is_wanted_now(self, now: Instant) -> bool:
        """Whether somebody has to do without a token: waits for it, or was refused a moment ago."""
        if self.is_usable(now):
            return False
        return len(self.waiters) > 0 or now.mono - self.turned_away_mono < WANTED_FOR

    def error_now(self, now: Instant) -> SidecarError | None:
        """The last error as a new exception, with the time until the next fetch; None if the last fetch went
        well.

        New each time: an exception that is raised again and again grows its traceback.
        """
        if self.last_error is None:
            return None
        left = None if self.retry is None else self.retry.seconds_from(now)
        last = self.last_error
        return SidecarError(last.reason, last.detail, retry_after=left, command=last.command)

    def keep_until(self, now_at: float) -> float:
        """Until when (Unix seconds) a cached entry is worth keeping."""
        expires_at = now_at if self.token is None else self.token.expires_at
        retry_at = now_at if self.retry is None else self.retry.at
        return max(expires_at, retry_at, now_at) + LINGER

    def stop(self) -> None:
        """Call off the timer for the next fetch."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def retire(self) -> None:
        """Its route or its credential is gone: don't renew it ahead of time any more."""
        self.retired = True
        self.wanted = False
        self.stop()

    def status(self, now: Instant) -> TokenStatus:
        """What may be shown of this entry."""
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
    """The entries of wildcard audiences: at most `size`, least recently used first out."""

    def __init__(self, size: int, wall: Callable[[], float]) -> None:
        super().__init__(size, ttu=lambda _key, entry, now: entry.keep_until(now), timer=wall)

    def file(self, entry: Entry) -> None:
        """Put the entry in, or again in after its token or backoff changed; others may have to leave."""
        # Before it is stored, TLRUCache drops what has expired, and that may be this very entry.
        self[entry.key] = entry
        entry.evicted = False

    def entries(self) -> list[Entry]:
        """All of them, without counting as a use; what has expired leaves first, with its timer."""
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
