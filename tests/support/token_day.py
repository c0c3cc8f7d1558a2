"""A model of days of token life: the store, its issuers, its callers and time, held to the rules at every use.

It has the time policy of docs/architecture.md written down once more, in its own numbers, and asks nothing of
`tokens.policy`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection
from random import Random
from typing import Any

from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import TokenStats
from sidecar.runtime.tasks import Tasks
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import Token, TokenKey
from tests.support.clock import FakeClock
from tests.support.token_issuers import (
    HOUR,
    ISSUERS,
    PINNED,
    SOURCES,
    Fetch,
    Held,
    least,
    renewed_before,
)

WAIT = 10.0
"""Seconds a caller waits (`token_wait`)."""
CACHE = 12
"""Wildcard keys that are kept."""
RECOVERY = 340.0
"""Seconds of health after which every pinned key has a token again: the longest Retry-After that is honoured, a tenth
of jitter, and the fetch."""
DEADLINE = 8.0
"""Seconds after which a source gives up by itself."""
SLACK = 1e-3
MILD = ("", "slow")
"""Ways of an endpoint by which no caller may be kept waiting."""


class Source:
    """One credential's endpoint."""

    def __init__(self, day: Day, name: str) -> None:
        self.day = day
        self.name = name
        self.issuer = ISSUERS[name]
        self.trouble = ""
        self.retry_after = 0.0
        self.kept: dict[str, Token] = {}

    async def mint(self, key: TokenKey) -> Token:
        day = self.day
        day.fetch_starts(key)
        try:
            if self.trouble == "hang":
                await day.sleep(DEADLINE)
                raise SidecarError(Reason.TOKEN_TIMEOUT, "It hangs.")
            # Even in health it takes its time, though less than what a minute's token has to spare.
            await day.sleep(day.random.choice([0.001, 0.01, 0.2, 2.5]) if self.trouble != "slow" else 3.0)
            token = self._answer(key)
        except SidecarError as error:
            day.fetch_failed(key, error)
            raise
        except asyncio.CancelledError:
            day.flights[key] -= 1
            raise
        day.fetch_brought(key, token)
        return token

    def _answer(self, key: TokenKey) -> Token:
        match self.trouble:
            case "fail":
                raise SidecarError(Reason.TOKEN_ENDPOINT_FAILED, "It fails.")
            case "limit":
                raise SidecarError(Reason.TOKEN_RATE_LIMITED, "Slow down.", retry_after=self.retry_after)
        now = self.day.true_time
        kept, margin = self.kept.get(key.audience), self.issuer.keeps_until
        if kept is not None and margin is not None and kept.expires_at - now > margin:
            return kept
        self.day.minted += 1
        token = Token(
            f"{key.audience}.{self.day.minted}",
            audience=key.audience,
            issued_at=now,
            expires_at=now + self.issuer.life,
        )
        self.day.owner[token.bearer] = (key, token)
        self.kept[key.audience] = token
        return token

    def describe(self) -> str:
        return "a model"


class Caller:
    """A request that waits for its token."""

    def __init__(self, day: Day, key: TokenKey) -> None:
        self.day = day
        self.key = key
        self.joined_mono = day.clock.mono()
        self.told = 0

    def __call__(self, error: SidecarError | None) -> None:
        self.told += 1
        self.day.hold(self.told == 1, "told once")
        self.day.hold(self.day.clock.mono() - self.joined_mono <= WAIT + SLACK, "told in time")
        del self.day.waiting[self]
        if error is None and not self.day.closed:
            self.day.hold(self.day.use(self.key) is not None, "a token is there when the caller is told so")


class Day:
    """A store, its issuers, and time."""

    def __init__(self, seed: int, pinned: Collection[TokenKey] = PINNED) -> None:
        self.random = Random(seed)  # noqa: S311 - a day that can be repeated
        self.pinned = frozenset(pinned)
        self.clock = FakeClock()
        self.offset = 0.0
        self.clock_events = self.freezes = 0
        self.probed = self.curious = False
        self.disturbed_mono: dict[str, float] = {}
        """By credential, and under "" for the clocks: when it was last in trouble."""
        self.owner: dict[bytes, tuple[TokenKey, Token]] = {}
        self.minted = 0
        self.flights: Counter[TokenKey] = Counter()
        self.held: dict[TokenKey, Held] = {}
        self.last: dict[TokenKey, Fetch] = {}
        self.refused: set[TokenKey] = set()
        self.refused_mono: dict[TokenKey, float] = {}
        self.fetches: Counter[TokenKey] = Counter()
        self.starts_mono: list[float] = []
        self.renewals: Counter[TokenKey] = Counter()
        """Those that a target's 401 started."""
        self.troubled: Counter[str] = Counter()
        """Seconds of trouble, by credential."""
        self.troubles: Counter[str] = Counter()
        self.waiting: dict[Caller, None] = {}
        self.uses = self.waits = self.turned_away = 0
        self.longest_wait = 0.0
        """Seconds until the next fetch, as a caller was told at most."""
        self.sleeping = 0
        self.closed = False
        self.broken: list[str] = []
        self.tasks = Tasks(asyncio.get_running_loop())
        self.stats: dict[tuple[str, str], TokenStats] = {}
        self.sources = {name: Source(self, name) for name in ISSUERS}
        for name, source in self.sources.items():
            SOURCES[name].behind = source
        self.store = TokenStore(
            SOURCES.values(),
            self.clock,
            self.tasks,
            lambda *key: self.stats.setdefault(key, TokenStats()),
            jitter=self.random.random,
            wait=WAIT,
            size=CACHE,
        )
        self.order = itertools.count()
        self.events: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []

    @property
    def true_time(self) -> float:
        """What the issuers' clocks say."""
        return self.clock.wall() - self.offset

    def hold(self, kept: bool, rule: str) -> None:
        """Note a broken rule: raised from within a source or a waiter it would only be logged."""
        if not kept:
            self.broken.append(f"{rule} (at {self.clock.mono():.3f})")

    # what the sources report

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        gate = asyncio.Event()
        timer = self.clock.call_later(seconds, gate.set)
        self.sleeping += 1
        try:
            await gate.wait()
        finally:
            timer.cancel()
            self.sleeping -= 1

    def fetch_starts(self, key: TokenKey) -> None:
        self.flights[key] += 1
        self.hold(self.flights[key] == 1, f"one fetch for {key} at a time")
        self.fetches[key] += 1
        wall, mono = self.clock.wall(), self.clock.mono()
        if key in self.pinned:
            self.starts_mono.append(mono)
            last = self.last.get(key)
            if last is not None and key not in self.refused:
                due = last.leave_alone or last.renew_in
                self.hold(
                    max(wall - last.wall, mono - last.mono) >= due - SLACK,
                    f"{key} is asked for after {wall - last.wall:.2f} s ({mono - last.mono:.2f}), not {due:.2f}",
                )

    def fetch_failed(self, key: TokenKey, error: SidecarError) -> None:
        self.flights[key] -= 1
        self.refused.discard(key)
        # A minute where somebody asks, and who asks is not followed here.
        leave_alone = max(0.25, min(error.retry_after or 0.0, 60.0))
        self.last[key] = Fetch(self.clock.wall(), self.clock.mono(), leave_alone, 0.0)

    def fetch_brought(self, key: TokenKey, token: Token) -> None:
        self.flights[key] -= 1
        self.refused.discard(key)
        wall, mono = self.clock.wall(), self.clock.mono()
        life = token.expires_at - token.issued_at
        left = min(token.expires_at - wall, life)
        usable = left - least(token)
        held = self.held.get(key)
        if usable <= 0:
            # By this machine's clock it has expired: as good as none.
            self.last[key] = Fetch(wall, mono, 0.25, 0.0)
            return
        due = left - renewed_before(life)
        if due <= 0:
            # Late already: asked for again in half a minute, or halfway to its last moment.
            due = max(min(30.0, usable / 2), min(1.0, usable))
        if held is None or held.token is not token:
            self.held[key] = Held(token, self.clock_events, self.freezes, self.offset)
            if self.curious:
                # Whether it is still handed out at its last moments, should it not be renewed by then.
                for early in (0.1, -0.1):
                    self.at(usable - early, self.request, key)
        elif held.clock_events != self.clock_events:
            # The clocks have parted since it came first, and the store goes by both.
            due = 0.25
        elif (last := self.last[key]).renew_in:
            # Asked for out of turn, after a refusal: the turn stays.
            due = min(due, max(last.mono + last.renew_in - mono, 0.25))
        self.last[key] = Fetch(wall, mono, 0.0, due)

    # what callers do

    def use(self, key: TokenKey) -> bytes | None:
        """Ask for the token as a request does, and judge the answer."""
        self.uses += 1
        bearer = self.store.bearer(key)
        wall = self.clock.wall()
        if bearer is None:
            self.hold(not self.must_serve(key), f"{key} has no token in good times")
            return None
        whose, token = self.owner[bearer]
        self.hold(whose == key, "another key's token")
        self.hold(token.expires_at - wall >= least(token) - SLACK, "too little life left by the wall clock")
        held = self.held[key]
        if key in self.pinned and held.token is token and held.offset == 0 and held.freezes == self.freezes:
            # A wall clock that was set back makes no token young again.
            self.hold(
                token.expires_at - self.true_time >= least(token) - SLACK, "too little life left in truth"
            )
        return bearer

    def must_serve(self, key: TokenKey) -> bool:
        """Whether nothing that happened excuses a caller's waiting."""
        if key not in self.pinned:
            return False
        mono = self.clock.mono()
        disturbed = max(self.disturbed_mono.get(key.credential, 0.0), self.disturbed_mono.get("", 0.0))
        last = self.last.get(key)
        if last is None or self.offset != 0 or self.sources[key.credential].trouble not in MILD:
            return False
        if self.probed and mono - disturbed > RECOVERY:
            return True
        return last.mono > disturbed and not last.leave_alone

    def request(self, key: TokenKey, patience: float | None = None) -> None:
        """One request; with `patience`, its app leaves after so many seconds if it still waits."""
        if self.use(key) is not None:
            return
        caller = Caller(self, key)
        try:
            self.store.join(key, caller)
        except SidecarError as error:
            self.turned_away += 1
            self.longest_wait = max(self.longest_wait, error.retry_after or 0.0)
            return
        self.waits += 1
        self.waiting[caller] = None
        if patience is not None:
            self.at(patience, self.leave, caller)

    def leave(self, caller: Caller) -> None:
        if caller in self.waiting:
            self.store.leave(caller.key, caller)
            del self.waiting[caller]
            caller.told = 1

    def reject(self, key: TokenKey) -> None:
        """The target calls the token invalid."""
        bearer = self.use(key)
        if bearer is None:
            return
        if self.store.reject(key, bearer) and key not in self.refused:
            mono = self.clock.mono()
            if key in self.pinned:
                self.hold(mono - self.refused_mono.get(key, -HOUR) >= 30.0 - SLACK, "renewed too often")
                self.renewals[key] += 1
            self.refused_mono[key] = mono
            self.refused.add(key)

    # what happens to them

    def at(self, delay: float, event: Callable[..., Any], *arguments: Any) -> None:
        """Have something happen `delay` seconds from now."""
        heapq.heappush(self.events, (self.clock.mono() + delay, next(self.order), event, arguments))

    def trouble(self, name: str, kind: str, seconds: float) -> None:
        """One credential's endpoint changes its ways for a while."""
        source = self.sources[name]
        if source.trouble:
            return
        source.trouble = kind
        source.retry_after = self.random.choice([1.0, 7.0, 60.0, 3600.0])
        self.troubled[name] += seconds
        self.troubles[name] += 1
        self._disturb(name)
        self.at(seconds, self.relieve, name)

    def relieve(self, name: str) -> None:
        self._disturb(name)
        self.sources[name].trouble = ""

    def _disturb(self, name: str) -> None:
        if self.sources[name].trouble not in MILD:
            self.disturbed_mono[name] = self.clock.mono()

    def freeze(self, seconds: float) -> None:
        """The instance stands still, and the world does not."""
        self.clock.freeze_mono(seconds)
        self.freezes += 1
        self._part()

    def step(self, seconds: float) -> None:
        """The wall clock is set."""
        self.clock.step_wall(seconds)
        self.offset += seconds
        self._part()

    def _part(self) -> None:
        self.clock_events += 1
        self.disturbed_mono[""] = self.clock.mono()

    def probe(self) -> None:
        """A health probe, every ten seconds."""
        self.store.nudge()
        self.at(10.0, self.probe)

    async def settle(self) -> None:
        """Let every task go as far as it can."""
        for _ in range(6):
            await asyncio.sleep(0)

    async def live(self, until_mono: float) -> None:
        """Let time pass: each timer and each event at its own moment, with the tasks running in between."""
        await self.settle()
        while True:
            pending = self.clock.pending
            timer = self.clock.mono() + pending[0] if pending else until_mono
            event = self.events[0][0] if self.events else until_mono
            moment = min(timer, event, until_mono)
            self.clock.advance(max(moment - self.clock.mono(), 0.0))
            while self.events and self.events[0][0] <= self.clock.mono() + 1e-9:
                _, _, call, arguments = heapq.heappop(self.events)
                call(*arguments)
            await self.settle()
            self.check()
            if self.clock.mono() >= until_mono - 1e-9:
                return

    def check(self) -> None:
        """What holds at any moment."""
        timers = len(self.clock.pending) - self.sleeping
        kept = len(self.pinned) + 2 * CACHE
        assert not self.broken
        assert timers <= 2 * kept, "no timer without a key"
        assert len(self.tasks) <= kept, "no task without a key"

    async def close(self) -> None:
        self.closed = True
        await self.store.close()
        await self.settle()
        assert self.clock.pending == [], "no timer is left"
        assert len(self.tasks) == 0, "no task is left"
        assert not self.waiting, "nobody is left waiting"
        assert sum(stats.waiting for stats in self.stats.values()) == 0
