"""sidecar.tokens.store under random interleavings of callers, time, endpoint behaviour and eviction."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import TokenStats
from sidecar.runtime.tasks import Tasks
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import Token, TokenKey
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource
from tests.support.sampling import examples

LIFE = 3600.0
SIZE = 3
DEFAULT = NamedSource("default")
"""Behind it is the endpoint of the example that runs."""
KEYS = [TokenKey(DEFAULT, f"https://{name}") for name in ("pinned", "a", "b", "c", "d", "e")]

keys = st.sampled_from(KEYS)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("request"), keys),
        st.tuples(st.just("request"), keys),
        st.tuples(st.just("leave"), keys),
        st.tuples(st.just("reject"), keys),
        st.tuples(st.just("nudge"), st.none()),
        st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0, 10.0, 60.0, 900.0, LIFE])),
        st.tuples(st.just("freeze"), st.sampled_from([60.0, LIFE, 5 * LIFE])),
        st.tuples(st.just("step"), st.sampled_from([-LIFE, -60.0, 60.0])),
        st.tuples(st.just("behave"), st.sampled_from(["new", "same", "fail", "expired", "crash", "hang"])),
    ),
    max_size=40,
)


class Endpoint:
    """Mints as it is told to, and counts what is in flight."""

    name = "default"

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.behaviour = "new"
        self.flights: Counter[str] = Counter()
        self.last: dict[str, Token] = {}
        self.tokens: dict[bytes, Token] = {}
        self.minted = 0
        self.opened = asyncio.Event()

    async def mint(self, key: TokenKey) -> Token:
        audience = key.audience
        self.flights[audience] += 1
        assert self.flights[audience] == 1, "one fetch for a key at a time"
        try:
            if self.behaviour == "hang":
                await self.opened.wait()
            return self._answer(audience)
        finally:
            self.flights[audience] -= 1

    def _answer(self, audience: str) -> Token:
        match self.behaviour:
            case "fail":
                raise SidecarError(Reason.TOKEN_ENDPOINT_FAILED, "The test said so.")
            case "crash":
                raise RuntimeError("a bug")
            case "same" if audience in self.last:
                return self.last[audience]
        self.minted += 1
        now = self.clock.wall()
        life = -1.0 if self.behaviour == "expired" else LIFE
        token = Token(f"{audience}.{self.minted}", audience=audience, issued_at=now, expires_at=now + life)
        self.last[audience] = token
        self.tokens[token.bearer] = token
        return token

    def describe(self) -> str:
        return "random"


class Caller:
    """A waiter that takes its token when it is called."""

    def __init__(self, run: Run, key: TokenKey) -> None:
        self.run = run
        self.key = key
        self.told = 0
        self.waiting = False

    def __call__(self, error: SidecarError | None) -> None:
        self.told += 1
        self.waiting = False
        assert self.told == 1, "told once"
        if error is None and not self.run.closed:
            assert self.run.take(self.key) is not None, "a token is there when the caller is told so"


class Run:
    """One example: a store, its callers, and what must hold after each step."""

    def __init__(self, jitter: float) -> None:
        self.clock = FakeClock()
        self.endpoint = DEFAULT.behind = Endpoint(self.clock)
        self.tasks = Tasks(asyncio.get_running_loop())
        self.stats: dict[tuple[str, str], TokenStats] = {}
        self.store = TokenStore(
            [DEFAULT],
            self.clock,
            self.tasks,
            lambda *key: self.stats.setdefault(key, TokenStats()),
            jitter=lambda: jitter,
            wait=10.0,
            size=SIZE,
        )
        self.store.prefetch(KEYS[:1])
        self.callers: list[Caller] = []
        self.closed = False

    def take(self, key: TokenKey) -> bytes | None:
        """What a request gets, checked."""
        bearer = self.store.bearer(key)
        if bearer is not None:
            token = self.endpoint.tokens[bearer]
            assert token.audience == key.audience, "never another route's token"
            assert token.expires_at - self.clock.wall() > 30 - 1e-6, "never below the minimum life"
        return bearer

    async def step(self, operation: str, argument: Any) -> None:
        getattr(self, operation)(argument)
        for _ in range(6):
            await asyncio.sleep(0)
        self.check()

    def request(self, key: TokenKey) -> None:
        if self.take(key) is not None:
            return
        caller = Caller(self, key)
        try:
            self.store.join(key, caller)
        except SidecarError:
            return
        assert caller.told == 0, "not from within the call"
        caller.waiting = True
        self.callers.append(caller)

    def leave(self, key: TokenKey) -> None:
        for caller in self.callers:
            if caller.waiting and caller.key == key:
                self.store.leave(key, caller)
                caller.waiting = False
                caller.told = 1
                return

    def reject(self, key: TokenKey) -> None:
        bearer = self.take(key)
        if bearer is None or not self.store.reject(key, bearer):
            return
        assert self.take(key) is not None, "one target's word takes the token from nobody"
        caller = Caller(self, key)
        self.store.join(key, caller, refused=bearer)
        caller.waiting = True
        self.callers.append(caller)

    def nudge(self, _: None) -> None:
        self.store.nudge()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def freeze(self, seconds: float) -> None:
        self.clock.freeze_mono(seconds)

    def step_wall(self, seconds: float) -> None:
        self.clock.step_wall(seconds)

    def behave(self, behaviour: str) -> None:
        self.endpoint.behaviour = behaviour
        if behaviour != "hang":
            self.endpoint.opened.set()
            self.endpoint.opened = asyncio.Event()

    def check(self) -> None:
        entries = self.store.status()
        assert len(entries) <= 1 + SIZE + SIZE, "bounded"
        assert len(self.clock.pending) <= 2 * len(entries), "no timer without an entry"
        waiting = sum(caller.waiting for caller in self.callers)
        assert sum(stats.waiting for stats in self.stats.values()) == waiting
        assert sum(entry.waiting for entry in entries) == waiting, "all that wait can be found"

    async def close(self) -> None:
        self.closed = True
        await self.store.close()
        assert self.clock.pending == []
        assert len(self.tasks) == 0
        assert all(caller.told == 1 for caller in self.callers), "nobody is left waiting"


@settings(max_examples=examples(150), deadline=None)
@given(operations, st.floats(0, 1))
def test_whatever_happens_in_whatever_order(steps: list[tuple[str, Any]], jitter: float) -> None:
    """Callers are told once, tokens go to their own key only and never with too little life, and nothing
    leaks."""

    async def main() -> None:
        run = Run(jitter)
        for operation, argument in steps:
            await run.step({"step": "step_wall"}.get(operation, operation), argument)
        await run.close()

    asyncio.run(main())
