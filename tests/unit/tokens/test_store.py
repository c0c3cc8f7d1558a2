"""sidecar.tokens.store: who gets which token when, on a fake clock."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.moments import rfc3339
from sidecar.observe.metrics import TokenStats
from sidecar.runtime.tasks import Tasks
from sidecar.tokens import policy
from sidecar.tokens.entry import TokenState
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import Token, TokenKey
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource

DEFAULT = NamedSource("default")
"""Behind it is the script of the world that a test plays in."""
KEY = TokenKey(DEFAULT, "https://a.run.app")
HOUR = 3600.0


class ScriptedSource:
    """A source that answers with what the test set, when the test lets it."""

    def __init__(self, clock: FakeClock, name: str = "default") -> None:
        self.clock = clock
        self.name = name
        self.calls: list[str] = []
        self.life = HOUR
        self.answer: Callable[[str], Token] | BaseException = self.new
        self.held: set[str] = set()
        """Audiences whose fetches hang until `gate` is set."""
        self.gate = asyncio.Event()

    def new(self, audience: str) -> Token:
        """A new token with a whole life."""
        now = self.clock.wall()
        name = f"t{len(self.calls)}"
        return Token(name, audience=audience, issued_at=now, expires_at=now + self.life)

    def keep(self) -> None:
        """Hand out one and the same token from now on, as a metadata server does."""
        token = self.new("same")
        self.answer = lambda _audience: token

    async def mint(self, key: TokenKey) -> Token:
        audience = key.audience
        self.calls.append(audience)
        if audience in self.held or "*" in self.held:
            await self.gate.wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(audience)

    def describe(self) -> str:
        return "a script"


class Caller:
    """A waiter that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[SidecarError | None] = []

    def __call__(self, error: SidecarError | None) -> None:
        self.told.append(error)

    @property
    def reasons(self) -> list[Reason | None]:
        return [None if error is None else error.reason for error in self.told]


class World:
    """A store with everything around it."""

    def __init__(self, *, jitter: float = 0.0, size: int = 10, wait: float = 10.0) -> None:
        self.clock = FakeClock()
        self.source = ScriptedSource(self.clock)
        DEFAULT.behind = self.source
        self.tasks = Tasks(asyncio.get_running_loop())
        self.stats: dict[TokenKey, TokenStats] = {}
        self.store = TokenStore(
            [DEFAULT],
            self.clock,
            self.tasks,
            lambda credential, audience: self.stats.setdefault(
                TokenKey(NamedSource(credential), audience), TokenStats()
            ),
            jitter=lambda: jitter,
            wait=wait,
            size=size,
        )

    async def settle(self) -> None:
        """Let every task run until it waits for the test."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def advance(self, seconds: float, *, step: float | None = None) -> None:
        """Let time pass, with the tasks running between the steps."""
        step = step or seconds
        while seconds > 1e-9:
            self.clock.advance(min(step, seconds))
            seconds -= step
            await self.settle()

    async def fetched(self, key: TokenKey = KEY) -> bytes:
        """Pin the key and get it its first token."""
        self.store.prefetch([key])
        await self.settle()
        bearer = self.store.bearer(key)
        assert bearer is not None
        return bearer

    def state(self, key: TokenKey = KEY) -> TokenState:
        return next(status.state for status in self.store.status() if status.key == key)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.store.close()
    assert world.clock.pending == []
    assert len(world.tasks) == 0


def fault(
    reason: Reason = Reason.TOKEN_ENDPOINT_UNREACHABLE, retry_after: float | None = None
) -> SidecarError:
    return SidecarError(reason, "The test said so.", retry_after=retry_after)


# the same access token again


class Caching:
    """A metadata server's access tokens: the same one until `margin` seconds before it expires, its life told in whole
    seconds."""

    def __init__(self, world: World, life: float, margin: float) -> None:
        self.made = 0
        self._world = world
        self._life = life
        self._margin = margin
        self._expires_at = 0.0

    def __call__(self, scopes: str) -> Token:
        now = self._world.clock.wall()
        if self._expires_at - now <= self._margin:
            self.made += 1
            self._expires_at = now + self._life
        left = float(int(self._expires_at - now))
        return Token.opaque(f"t{self.made}", scopes=scopes, received_at=now, expires_at=now + left)


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.9])
async def test_an_access_token_that_comes_back_is_no_new_one(world: World, offset: float) -> None:
    """Though its expiry, counted from whole seconds at each receipt, can seem a little later than before: its plan is
    the old one's, and its last usable moment stays."""
    world.source.answer = Caching(world, HOUR, 60.0)
    world.clock.advance(offset)
    await world.fetched()
    (before,) = world.store.status()
    await world.advance(HOUR - 225.0 + 0.7, step=0.7)
    (after,) = world.store.status()
    assert len(world.source.calls) == 2
    assert (after.expires_at, after.issued_at) == (before.expires_at, before.issued_at)
    assert after.renew_at is not None
    assert 29.0 <= after.renew_at - world.clock.wall() <= 60.0


@pytest.mark.parametrize(
    ("life", "margin", "refused_from", "refused_to"),
    [
        pytest.param(HOUR, 240.0, 0.0, 0.0, id="as-google"),
        pytest.param(HOUR, 60.0, 0.0, 0.0, id="a-minute-before"),
        pytest.param(HOUR, 10.0, 19.0, 24.0, id="later-than-a-token-may-be-sent"),
        pytest.param(60.0, 18.0, 0.0, 0.0, id="the-stand-ins-short-life"),
        pytest.param(60.0, 4.0, 1.0, 5.0, id="short-and-late"),
    ],
)
async def test_who_caches_for_too_long_makes_a_gap(
    world: World, life: float, margin: float, refused_from: float, refused_to: float
) -> None:
    """In seconds of a life without a token: what is between the endpoint's margin and the last usable moment (30 s, or a
    tenth of the life), and a pause of up to 3 s; nothing where the margin is the longer one, as Google's is."""
    world.source.answer = source = Caching(world, life, margin)
    await world.fetched()
    step, gap, elapsed = min(life / 240, 0.5), 0.0, 0.0
    while source.made < 3:
        await world.advance(step)
        elapsed += step
        if world.store.bearer(KEY) is None:
            gap += step
            with contextlib.suppress(SidecarError):
                world.store.join(KEY, Caller())
    assert refused_from <= gap / 2 <= refused_to, gap
    assert elapsed >= 2 * (life - max(margin, life / 4, 225.0 if life == HOUR else 0.0)) - 3


# one fetch for all


async def test_a_thousand_first_requests_make_one_fetch(world: World) -> None:
    """However many callers find no token, one fetch is made, and each is told once."""
    world.store.pin(KEY)
    callers = [Caller() for _ in range(1000)]
    for caller in callers:
        assert world.store.bearer(KEY) is None
        world.store.join(KEY, caller)
        assert caller.told == []
    await world.settle()
    assert world.source.calls == [KEY.audience]
    assert all(caller.told == [None] for caller in callers)
    assert world.store.bearer(KEY) == b"Bearer t1"
    assert (world.stats[KEY].waits, world.stats[KEY].waiting) == (1000, 0)


async def test_callers_are_told_in_the_order_they_came(world: World) -> None:
    """The first to wait is the first to go on."""
    order: list[int] = []
    for i in range(20):
        world.store.join(KEY, lambda _error, i=i: order.append(i))  # type: ignore[misc]
    await world.settle()
    assert order == list(range(20))


async def test_a_bearer_is_ready_when_the_waiter_is_called(world: World) -> None:
    """A waiter that is told None gets the token right then, for pinned and cached keys alike."""
    got: list[bytes | None] = []
    for key in (KEY, TokenKey(DEFAULT, "https://b.run.app")):
        world.store.join(key, lambda _error, key=key: got.append(world.store.bearer(key)))  # type: ignore[misc]
    await world.settle()
    assert got == [b"Bearer t1", b"Bearer t2"]


async def test_a_hit_after_all_is_told_from_the_loop(world: World) -> None:
    """A join that finds a token calls the waiter soon, but not from within the call."""
    await world.fetched()
    caller = Caller()
    world.store.join(KEY, caller)
    assert caller.told == []
    await world.advance(0.001)
    assert caller.told == [None]
    assert len(world.source.calls) == 1


async def test_a_caller_that_left_is_not_called(world: World) -> None:
    """A caller that gives up is not called, and the fetch goes on for the others."""
    stays, leaves = Caller(), Caller()
    world.store.join(KEY, stays)
    world.store.join(KEY, leaves)
    world.store.leave(KEY, leaves)
    world.store.leave(KEY, leaves)
    world.store.leave(TokenKey(DEFAULT, "https://never.seen"), leaves)
    await world.settle()
    assert (stays.told, leaves.told) == ([None], [])
    assert world.stats[KEY].waiting == 0


async def test_the_last_caller_to_leave_takes_the_timer_along(world: World) -> None:
    """With nobody waiting no timer is left, though the fetch goes on."""
    world.source.held = {"*"}
    caller = Caller()
    world.store.join(KEY, caller)
    assert len(world.clock.pending) == 1
    world.store.leave(KEY, caller)
    assert world.clock.pending == []


async def test_a_caller_can_leave_while_others_are_called(world: World) -> None:
    """A waiter that takes another one away while they are being called keeps it from being called."""
    second = Caller()
    world.store.join(KEY, lambda _error: world.store.leave(KEY, second))
    world.store.join(KEY, second)
    await world.settle()
    assert second.told == []
    assert world.stats[KEY].waiting == 0


async def test_a_crashing_caller_takes_nobody_along(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A waiter that raises is logged, and the others are called all the same."""
    caller = Caller()
    world.store.join(KEY, lambda _error: 1 // 0)
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.told == [None]
    assert "ZeroDivisionError" in caplog.text


async def test_a_fault_in_noting_a_failure_does_not_end_fetching(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither a token nor its failure could be taken in, the next use asks again."""

    def no_memory(*_: object, **__: object) -> float:
        raise MemoryError("injected")

    caller = Caller()
    world.source.answer = RuntimeError("injected")
    with monkeypatch.context() as patch:
        patch.setattr(policy, "backoff", no_memory)
        world.store.join(KEY, caller)
        await world.settle()
    world.source.answer = world.source.new
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.told == [None]
    assert world.store.bearer(KEY) is not None


async def test_a_caller_waits_no_longer_than_token_wait(world: World) -> None:
    """Each caller waits its own ten seconds, with one timer for all; the fetch goes on and serves who comes
    later."""
    world.source.held = {"*"}
    first, second = Caller(), Caller()
    world.store.join(KEY, first)
    await world.advance(4)
    world.store.join(KEY, second)
    assert world.clock.pending == [6.0]
    await world.advance(6)
    assert (first.reasons, second.told) == ([Reason.TOKEN_TIMEOUT], [])
    await world.advance(4)
    assert second.reasons == [Reason.TOKEN_TIMEOUT]
    assert world.clock.pending == []
    third = Caller()
    world.store.join(KEY, third)
    world.source.gate.set()
    await world.settle()
    assert third.told == [None]
    assert world.source.calls == [KEY.audience]
    assert (first.reasons, second.reasons) == ([Reason.TOKEN_TIMEOUT], [Reason.TOKEN_TIMEOUT])


# renewal


async def test_a_token_is_renewed_ahead_of_its_expiry_by_timer(world: World) -> None:
    """At exp - 225 s the timer fetches a new token, and no call finds none."""
    await world.fetched()
    await world.advance(HOUR - 226)
    assert len(world.source.calls) == 1
    await world.advance(1)
    assert len(world.source.calls) == 2
    assert world.store.bearer(KEY) == b"Bearer t2"


async def test_the_old_token_is_served_while_it_is_renewed(world: World) -> None:
    """A renewal under way, however slow, keeps nobody waiting while the old token lives."""
    old = await world.fetched()
    world.source.held = {"*"}
    await world.advance(HOUR - 225)
    assert len(world.source.calls) == 2
    assert world.store.bearer(KEY) == old
    assert world.state() is TokenState.STALE
    await world.advance(225 - 30.5)
    assert world.store.bearer(KEY) == old
    await world.advance(0.5)
    assert world.store.bearer(KEY) is None
    assert world.state() is TokenState.FETCHING
    assert len(world.source.calls) == 2


async def test_a_short_life_is_renewed_after_three_quarters(world: World) -> None:
    """Twenty-second tokens are renewed every fifteen seconds, and calls in between never find none."""
    world.source.life = 20
    await world.fetched()
    for _ in range(100):
        await world.advance(1)
        assert world.store.bearer(KEY) is not None
    assert len(world.source.calls) == 1 + 100 // 15


async def test_the_same_token_is_asked_for_again_in_half_a_minute(world: World) -> None:
    """An endpoint that hands out the same token is no failure: used, and asked again at ease."""
    world.source.keep()
    same = await world.fetched()
    await world.advance(HOUR - 225)
    assert world.store.bearer(KEY) == same
    for calls in (3, 4, 5):
        await world.advance(29)
        assert len(world.source.calls) == calls - 1
        await world.advance(1)
        assert len(world.source.calls) == calls
    assert world.stats[KEY].fetches == {("ok", ""): 1, ("same", ""): 4}
    assert world.store.ready_state(KEY).error is None


async def test_an_older_token_does_not_replace_a_younger_one(world: World) -> None:
    """Where replicas of an endpoint disagree, the token that lives longer is served."""
    young = await world.fetched()
    world.source.life = 100
    await world.advance(HOUR - 225)
    assert len(world.source.calls) == 2
    assert world.store.bearer(KEY) == young
    assert world.stats[KEY].fetches == {("ok", ""): 1, ("same", ""): 1}


async def test_a_frozen_instance_finds_its_token_expired_by_the_wall_clock(world: World) -> None:
    """Hours of freezing during which no timer ran: the old token is not served, and the first use fetches."""
    await world.fetched()
    world.clock.freeze_mono(5 * HOUR)
    assert world.store.bearer(KEY) is None
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.told == [None]
    assert world.store.bearer(KEY) == b"Bearer t2"
    assert len(world.source.calls) == 2


async def test_a_frozen_instance_past_the_renewal_point_renews_on_use(world: World) -> None:
    """Thawed with a token past its renewal point, the first use gets it and starts the renewal."""
    old = await world.fetched()
    world.clock.freeze_mono(HOUR - 200)
    assert world.store.bearer(KEY) == old
    await world.settle()
    assert world.store.bearer(KEY) == b"Bearer t2"


async def test_a_health_probe_renews_what_timers_slept_through(world: World) -> None:
    """A nudge alone is enough: no traffic, no timer."""
    await world.fetched()
    world.store.nudge()
    await world.settle()
    assert len(world.source.calls) == 1
    world.clock.freeze_mono(HOUR - 200)
    world.store.nudge()
    world.store.nudge()
    await world.settle()
    assert len(world.source.calls) == 2


async def test_a_clock_set_back_an_hour_holds_up_nothing(world: World) -> None:
    """After the wall clock was set back, the timer still renews in time, and the old token dies in time."""
    await world.fetched()
    world.clock.step_wall(-HOUR)
    world.source.answer = fault()
    await world.advance(HOUR - 225)
    assert len(world.source.calls) == 2
    await world.advance(190, step=10)
    assert world.store.bearer(KEY) is not None
    await world.advance(10, step=5)
    assert world.store.bearer(KEY) is None


async def test_a_clock_set_back_a_minute_is_harmless(world: World) -> None:
    """A minute back, and tokens are renewed at the same true moments as before."""
    await world.fetched()
    world.clock.step_wall(-60)
    await world.advance(HOUR - 226)
    assert len(world.source.calls) == 1
    await world.advance(1)
    assert world.store.bearer(KEY) == b"Bearer t2"


# failure


async def test_callers_get_the_last_error_at_once_between_failed_fetches(world: World) -> None:
    """While backing off, a caller is refused at once, with the time until the next fetch, and no fetch is made."""
    world.source.answer = fault()
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.reasons == [Reason.TOKEN_ENDPOINT_UNREACHABLE]
    for _ in range(100):
        with pytest.raises(SidecarError) as refused:
            world.store.join(KEY, caller)
        assert refused.value.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
        assert refused.value.retry_after == 1.0
        assert world.store.bearer(KEY) is None
    assert len(world.source.calls) == 1


async def test_an_endpoint_that_is_down_is_not_hammered_by_traffic() -> None:
    """Ten calls a second for ten minutes against a dead endpoint: one fetch in three seconds, and one in half a minute
    once nobody asks any more."""
    world = World(jitter=1.0)
    world.source.answer = fault()
    world.store.prefetch([KEY])
    for _ in range(6000):
        await world.advance(0.1)
        if world.store.bearer(KEY) is None:
            try:
                world.store.join(KEY, Caller())
            except SidecarError:
                continue
    asked = len(world.source.calls)
    assert 600 / 3 - 10 <= asked <= 600 / 3 + 2
    await world.advance(600, step=1)
    assert 600 / 30 - 2 <= len(world.source.calls) - asked <= 600 / 30 + 10
    await world.store.close()


async def test_a_key_that_nobody_asked_for_is_not_kept_waiting_once_somebody_does() -> None:
    """Half a minute's pause ends with the first caller, who is served; where it is young, three seconds after it
    began."""
    world = World(jitter=1.0)
    world.source.answer = fault()
    world.store.prefetch([KEY])
    await world.settle()
    await world.advance(2 + 3 + 5 + 9 + 17, step=1)
    assert len(world.source.calls) == 6
    await world.advance(1)
    for _ in range(50):
        with pytest.raises(SidecarError) as refused:
            world.store.join(KEY, Caller())
        assert refused.value.retry_after == 2.0
    await world.advance(2)
    assert len(world.source.calls) == 7
    # Who was refused may come again for ten seconds.
    await world.advance(9, step=1)
    assert len(world.source.calls) == 10
    assert world.clock.pending == [30.0]
    await world.advance(20)
    world.source.answer = world.source.new
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.told == [None]
    assert len(world.source.calls) == 11
    await world.store.close()


async def test_a_served_token_is_renewed_as_if_nobody_waited() -> None:
    """While the old token lives, its callers do without nothing: an endpoint that is down is left its half minute."""
    world = World(jitter=1.0)
    await world.fetched()
    world.source.answer = fault()
    for _ in range(int(HOUR) - 31):
        await world.advance(1)
        assert world.store.bearer(KEY) is not None
    # From 180 s before the token's end to 30 s before it.
    assert len(world.source.calls) == 2 + 5 + 3
    await world.store.close()


async def test_a_retired_key_is_not_fetched_for_whom_it_refused(world: World) -> None:
    """A request of an old configuration that is refused makes no timer ask for its token again."""
    world.store.pin(KEY)
    key = other(world)
    world.store.switch([key.source], [key])
    world.source.answer = fault()
    world.store.join(KEY, Caller())
    await world.settle()
    with pytest.raises(SidecarError):
        world.store.join(KEY, Caller())
    await world.advance(120, step=1)
    assert len(world.source.calls) == 1


async def test_retry_after_is_honoured(world: World) -> None:
    """An endpoint that asks to be left alone for 20 s is, by timer, use and probe."""
    world.source.answer = fault(Reason.TOKEN_RATE_LIMITED, retry_after=20)
    world.store.prefetch([KEY])
    await world.settle()
    for _ in range(19):
        await world.advance(1)
        world.store.nudge()
        world.store.bearer(KEY)
    assert len(world.source.calls) == 1
    await world.advance(1)
    assert len(world.source.calls) == 2


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [pytest.param(False, 300, id="nobody-asks"), pytest.param(True, 60, id="somebody-asks")],
)
async def test_a_long_retry_after_is_cut(world: World, asked: bool, seconds: int) -> None:
    """To five minutes where nobody waits, and to one where somebody does, however late they came to wait."""
    world.source.answer = fault(Reason.TOKEN_RATE_LIMITED, retry_after=86_400)
    world.store.prefetch([KEY])
    await world.settle()
    await world.advance(20)
    if asked:
        with pytest.raises(SidecarError) as refused:
            world.store.join(KEY, Caller())
        assert refused.value.retry_after == 40
    await world.advance(seconds - 21)
    world.store.nudge()
    assert len(world.source.calls) == 1
    await world.advance(1)
    assert len(world.source.calls) == 2


async def test_the_endpoint_down_for_as_long_as_the_token_lives_fails_no_call(world: World) -> None:
    """The old token is served to its last moment; then the reason; then, without a restart, it is back."""
    await world.fetched()
    world.source.answer = fault()
    for _ in range(int(HOUR) - 31):
        await world.advance(1)
        assert world.store.bearer(KEY) == b"Bearer t1"
    await world.advance(2)
    assert world.store.bearer(KEY) is None
    with pytest.raises(SidecarError, match="token_endpoint_unreachable"):
        world.store.join(KEY, Caller())
    assert world.state() is TokenState.FAILING
    world.source.answer = world.source.new
    await world.advance(30, step=1)
    assert world.store.bearer(KEY) is not None
    assert world.store.ready_state(KEY).error is None


async def test_a_frozen_instance_does_not_sit_out_a_backoff(world: World) -> None:
    """A backoff that is over by the wall clock is over, though its timer has not run."""
    world.source.answer = fault(retry_after=200)
    world.store.prefetch([KEY])
    await world.settle()
    world.source.answer = world.source.new
    world.clock.freeze_mono(HOUR)
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.told == [None]


async def test_a_metadata_server_absent_for_its_first_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A pod whose metadata server comes up after 60 s is not ready until then, and gets ready by itself."""
    caplog.set_level(logging.INFO, "sidecar.tokens")
    world = World(jitter=0.7)
    world.source.answer = fault()
    world.store.prefetch([KEY])
    for _ in range(60):
        await world.advance(1)
        state = world.store.ready_state(KEY)
        assert not state.had_token
        assert state.error is not None
        assert state.error.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
    assert len(world.source.calls) < 10
    world.source.answer = world.source.new
    await world.advance(30, step=1)
    assert world.store.ready_state(KEY) == (True, None)
    assert world.store.bearer(KEY) is not None
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"token fetch failed for `{KEY.audience.partition(':')[0]}",
        "token fetch recovered",
    ]
    await world.store.close()


async def test_a_failed_renewal_says_how_long_the_held_token_is_used(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Until half a minute before it expires, which is when requests begin to be refused."""
    world.store.prefetch([KEY])
    await world.advance(1)
    world.source.answer = fault()
    await world.advance(HOUR - 100, step=25)
    (message,) = {it.message for it in caplog.records if "token fetch failed" in it.message}
    last = rfc3339(world.clock.wall() + 100 - policy.MINIMUM_LIFE)
    assert message.endswith(f"The test said so. The token that is here is used until {last}.")


async def test_a_fault_of_our_own_is_told_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What a source raises by mistake is `internal` for the waiters, and its traceback is in the log."""
    world.source.answer = RuntimeError("a bug")
    world.store.pin(KEY)
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.reasons == [Reason.INTERNAL]
    assert "RuntimeError: a bug" in caplog.text
    world.source.answer = world.source.new
    await world.advance(1)
    assert world.store.bearer(KEY) is not None


async def test_an_expired_token_is_a_failure(world: World) -> None:
    """A token with under 30 s to live is never served: it is `token_expired`, and backed off from."""
    world.source.life = -1
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.reasons == [Reason.TOKEN_EXPIRED]
    assert world.store.bearer(KEY) is None


async def test_an_expired_token_does_not_replace_a_live_one(world: World) -> None:
    """A renewal that brings an old token leaves the live one in place."""
    live = await world.fetched()
    world.source.life = -1
    await world.advance(HOUR - 225)
    assert world.store.bearer(KEY) == live


async def test_a_failing_key_is_logged_once_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Once per change of reason, then at most once a minute, with its fields; the recovery once."""
    caplog.set_level(logging.DEBUG, "sidecar.tokens")
    world.source.answer = fault()
    world.store.prefetch([KEY])
    await world.advance(50, step=0.25)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    assert caplog.records[0].message == (
        f"token fetch failed for `{KEY.audience}` by credential `default`: token_endpoint_unreachable: The test said so."
    )
    assert caplog.records[0].__dict__["fields"] == {
        "credential": "default",
        "audience": KEY.audience,
        "reason": "token_endpoint_unreachable",
        "detail": "The test said so.",
    }
    world.source.answer = fault(Reason.TOKEN_DENIED)
    await world.advance(1, step=0.25)
    assert [record.__dict__["fields"]["reason"] for record in caplog.records[1:]] == ["token_denied"]
    await world.advance(120, step=0.25)
    assert len(caplog.records) == 4
    world.source.answer = world.source.new
    await world.advance(1, step=0.25)
    (recovered,) = caplog.records[4:]
    assert (recovered.levelname, recovered.message) == (
        "INFO",
        f"token fetch recovered: there is a token for `{KEY.audience}` by credential `default` again, after token_denied",
    )


# refused by a target


async def test_a_refused_token_is_renewed(world: World) -> None:
    """A 401 that calls the token invalid renews it; who was refused waits for the new one."""
    old = await world.fetched()
    world.source.held.add("*")
    assert world.store.reject(KEY, old)
    assert world.store.reject(KEY, old)
    caller = Caller()
    world.store.join(KEY, caller, refused=old)
    await world.advance(5)
    assert caller.told == []
    world.source.gate.set()
    await world.settle()
    assert caller.told == [None]
    assert world.store.bearer(KEY) == b"Bearer t2"
    assert world.stats[KEY].invalidated == 1
    assert len(world.source.calls) == 2


async def test_one_targets_word_keeps_the_token_from_nobody_else(world: World) -> None:
    """While the renewal that a 401 began hangs, all others are served with the token that is here."""
    old = await world.fetched()
    world.source.held.add("*")
    assert world.store.reject(KEY, old)
    for _ in range(60):
        assert world.store.bearer(KEY) == old
        await world.advance(10)
    assert world.state() is TokenState.FRESH
    assert len(world.source.calls) == 2


async def test_who_was_refused_waits_no_longer_than_token_wait(world: World) -> None:
    """Then the target has its own say once more: with the same token."""
    old = await world.fetched()
    world.source.held.add("*")
    assert world.store.reject(KEY, old)
    first, second, gone = Caller(), Caller(), Caller()
    world.store.join(KEY, first, refused=old)
    world.store.join(KEY, gone, refused=old)
    await world.advance(4)
    world.store.join(KEY, second, refused=old)
    world.store.leave(KEY, gone)
    await world.advance(6)
    assert (first.told, second.told, gone.told) == ([None], [], [])
    await world.advance(4)
    assert (first.told, second.told, gone.told) == ([None], [None], [])


async def test_a_late_refusal_does_not_wake_who_waits_for_another_token(world: World) -> None:
    """Who was refused with an older one goes on with what is here; who was refused with that one waits on."""
    first = await world.fetched()
    assert world.store.reject(KEY, first)
    await world.settle()
    second = world.store.bearer(KEY)
    assert second == b"Bearer t2"
    await world.advance(60)
    world.source.held.add("*")
    assert world.store.reject(KEY, second)
    refused, late = Caller(), Caller()
    world.store.join(KEY, refused, refused=second)
    assert world.store.reject(KEY, first)
    world.store.join(KEY, late, refused=first)
    await world.advance(0.1)
    assert (late.told, refused.told) == ([None], [])
    world.source.gate.set()
    await world.settle()
    assert refused.told == [None]
    assert world.store.bearer(KEY) == b"Bearer t3"


async def test_a_refused_token_that_expires_in_the_renewal_is_not_served(world: World) -> None:
    """All wait together then, and are told together."""
    world.source.life = 100.0
    old = await world.fetched()
    world.source.held.add("*")
    await world.advance(85)
    assert world.store.reject(KEY, old)
    refused, other = Caller(), Caller()
    world.store.join(KEY, refused, refused=old)
    await world.advance(6)
    assert world.store.bearer(KEY) is None
    world.store.join(KEY, other)
    await world.advance(4)
    assert (refused.reasons, other.reasons) == ([Reason.TOKEN_TIMEOUT], [])
    world.source.gate.set()
    await world.settle()
    assert other.told == [None]


async def test_a_refused_token_gives_way_to_a_shorter_lived_one(world: World) -> None:
    """After a refusal the new token counts, though it expire before the refused one."""
    old = await world.fetched()
    world.source.life = 600
    assert world.store.reject(KEY, old)
    await world.settle()
    assert world.store.bearer(KEY) == b"Bearer t2"


async def test_a_late_refusal_of_an_old_token_costs_nothing(world: World) -> None:
    """A 401 for a token that has been renewed since: go on with the new one, no fetch."""
    old = await world.fetched()
    world.store.reject(KEY, old)
    await world.settle()
    assert world.store.reject(KEY, old)
    assert world.store.bearer(KEY) == b"Bearer t2"
    assert len(world.source.calls) == 2


async def test_refusals_are_rate_limited(world: World) -> None:
    """A target that refuses every token gets a new one every 30 s at most; in between it is left alone."""
    await world.fetched()
    started = 0
    for _ in range(120):
        bearer = world.store.bearer(KEY)
        assert bearer is not None
        started += world.store.reject(KEY, bearer)
        await world.advance(1)
    assert started == 4
    assert len(world.source.calls) == 5


async def test_a_refused_token_is_served_again_if_it_cannot_be_renewed(world: World) -> None:
    """One target's 401 while the endpoint is down must not take the other targets down."""
    old = await world.fetched()
    world.source.answer = fault()
    assert world.store.reject(KEY, old)
    caller = Caller()
    world.store.join(KEY, caller, refused=old)
    await world.settle()
    assert caller.told == [None]
    assert world.store.bearer(KEY) == old
    assert not world.store.reject(KEY, old)


async def test_a_refusal_while_the_endpoint_fails_starts_nothing(world: World) -> None:
    """A 401 while renewals fail neither jumps the backoff nor takes the token away."""
    old = await world.fetched()
    world.source.answer = fault(retry_after=20)
    await world.advance(HOUR - 225)
    assert not world.store.reject(KEY, old)
    await world.settle()
    assert world.store.bearer(KEY) == old
    assert len(world.source.calls) == 2


async def test_a_refused_token_that_comes_again_keeps_its_plan(world: World) -> None:
    """A metadata server that hands out the refused token again is not asked every half minute for an hour."""
    world.source.keep()
    same = await world.fetched()
    assert world.store.reject(KEY, same)
    await world.settle()
    assert world.store.bearer(KEY) == same
    assert len(world.source.calls) == 2
    assert not world.store.reject(KEY, same)
    await world.advance(600, step=10)
    assert len(world.source.calls) == 2


async def test_a_refusal_of_what_is_not_here(world: World) -> None:
    """A 401 for an unknown key or before any token starts nothing."""
    assert not world.store.reject(KEY, b"Bearer x")
    world.store.pin(KEY)
    assert not world.store.reject(KEY, b"Bearer x")
    assert world.source.calls == []


# bounds


def audience(i: int) -> TokenKey:
    return TokenKey(DEFAULT, f"https://w{i}.run.app")


async def use(world: World, key: TokenKey) -> bytes | None:
    """One request for a token of this key, waiting if it must."""
    if (bearer := world.store.bearer(key)) is not None:
        return bearer
    world.store.join(key, Caller())
    await world.settle()
    return world.store.bearer(key)


async def test_wildcard_audiences_are_bounded_and_pinned_ones_stay(world: World) -> None:
    """Past the size, the least recently used goes, with its timer; pinned keys are not touched."""
    await world.fetched()
    for i in range(50):
        assert await use(world, audience(i)) is not None
    assert len(world.store.status()) == 11
    assert len(world.clock.pending) == 11
    assert world.store.bearer(KEY) == b"Bearer t1"
    assert [world.store.bearer(audience(i)) is not None for i in (0, 39, 40, 49)] == [
        False,
        False,
        True,
        True,
    ]


async def test_what_is_used_stays_in_the_cache(world: World) -> None:
    """A key in use survives any amount of traffic to others."""
    await use(world, audience(0))
    for i in range(1, 50):
        await use(world, audience(i))
        assert world.store.bearer(audience(0)) == b"Bearer t1"


async def test_a_key_that_is_evicted_while_it_is_fetched_keeps_its_callers() -> None:
    """Callers of an evicted key are told and find their token, others can still join, and it is fetched
    once."""
    world = World(size=2)
    world.source.held = {audience(0).audience}
    got: list[bytes | None] = []
    world.store.join(audience(0), lambda _error: got.append(world.store.bearer(audience(0))))
    for i in range(1, 5):
        await use(world, audience(i))
    left = Caller()
    world.store.join(audience(0), left)
    world.store.leave(audience(0), left)
    world.store.join(audience(0), lambda _error: got.append(world.store.bearer(audience(0))))
    assert len(world.clock.pending) == 3
    world.source.gate.set()
    await world.settle()
    assert got == [b"Bearer t5", b"Bearer t5"]
    assert left.told == []
    assert world.source.calls.count(audience(0).audience) == 1
    assert world.store.bearer(audience(0)) == b"Bearer t5"
    assert len(world.store.status()) == len(world.clock.pending) == 2
    await world.store.close()
    assert world.clock.pending == []


async def test_a_key_that_is_evicted_while_nobody_waits_is_dropped() -> None:
    """A fetch that nobody waits for any more takes no place in the cache."""
    world = World(size=2)
    world.source.held = {audience(0).audience}
    caller = Caller()
    world.store.join(audience(0), caller)
    for i in range(1, 5):
        await use(world, audience(i))
    world.store.leave(audience(0), caller)
    world.source.gate.set()
    await world.settle()
    assert world.store.bearer(audience(0)) is None
    assert {status.key for status in world.store.status()} == {audience(3), audience(4)}
    assert len(world.clock.pending) == 2
    await world.store.close()


async def test_fetches_in_flight_are_bounded() -> None:
    """No more keys are fetched at once than are kept: one more is refused, one that is in flight is
    joined."""
    world = World(size=2)
    world.source.held = {audience(0).audience, audience(1).audience}
    world.store.join(audience(0), Caller())
    world.store.join(audience(1), Caller())
    with pytest.raises(SidecarError, match="overloaded"):
        world.store.join(audience(2), Caller())
    world.store.join(audience(1), Caller())
    await world.store.close()


async def test_an_unused_wildcard_key_is_not_renewed_and_leaves(world: World) -> None:
    """A cached key that nobody asks for any more lapses: no fetch, no timer, no memory."""
    world.store.join(audience(0), Caller())
    await world.advance(HOUR, step=60)
    assert len(world.source.calls) == 1
    await world.advance(120, step=60)
    await use(world, audience(1))
    assert [status.key for status in world.store.status()] == [audience(1)]
    assert len(world.clock.pending) == 1


async def test_a_failing_wildcard_key_is_remembered_for_a_while(world: World) -> None:
    """A key that fails and is asked for now and then keeps its count of failures, so that its backoff
    grows."""
    world.source.answer = fault()
    for calls in range(1, 5):
        world.store.join(audience(0), Caller())
        await world.settle()
        assert len(world.source.calls) == calls
        await world.advance(30)
        assert world.state(audience(0)) is TokenState.FAILING
    await world.advance(60)
    world.store.nudge()
    assert world.store.status() == []
    assert world.clock.pending == []


async def test_a_used_wildcard_key_is_renewed_ahead_by_timer(world: World) -> None:
    """A cached key in use is renewed like a pinned one."""
    await use(world, audience(0))
    world.store.bearer(audience(0))
    await world.advance(HOUR - 225)
    assert len(world.source.calls) == 2
    assert world.store.bearer(audience(0)) == b"Bearer t2"


async def test_an_evicted_key_leaves_nothing_behind(world: World) -> None:
    """What left the cache is garbage: nothing in the store or on the clock holds it."""
    tokens: list[weakref.ref[Caller]] = []
    for i in range(30):
        caller = Caller()
        tokens.append(weakref.ref(caller))
        world.store.join(audience(i), caller)
        del caller
        await world.settle()
    gc.collect()
    assert all(ref() is None for ref in tokens)
    assert len(world.clock.pending) == 10


async def test_a_pinned_key_takes_over_from_the_cache(world: World) -> None:
    """Pinning a key that wildcard traffic has fetched already goes on with one fetch, one timer."""
    await use(world, KEY)
    world.store.pin(KEY)
    assert world.store.bearer(KEY) == b"Bearer t1"
    assert len(world.clock.pending) == 1
    assert len(world.store.status()) == 1
    for i in range(20):
        await use(world, audience(i))
    await world.advance(HOUR - 225)
    assert world.source.calls.count(KEY.audience) == 2


# the end


async def test_after_close_nothing_is_left(world: World) -> None:
    """Closing sends the waiters away, stops every fetch and timer, and forgets the tokens."""
    await world.fetched()
    await use(world, audience(0))
    world.source.held = {"*"}
    caller = Caller()
    world.store.join(audience(1), caller)
    await world.settle()
    await world.store.close()
    assert caller.reasons == [Reason.DRAINING]
    assert world.clock.pending == []
    assert len(world.tasks) == 0
    assert world.store.bearer(KEY) is None
    with pytest.raises(SidecarError, match="draining"):
        world.store.join(KEY, caller)
    world.store.nudge()
    world.store.prefetch([KEY])
    assert not world.store.reject(KEY, b"Bearer t1")
    await world.store.close()
    assert len(world.tasks) == 0
    assert world.clock.pending == []


async def test_a_cancelled_fetch_leaves_no_caller_waiting(world: World) -> None:
    """A fetch that is cancelled from outside sends its waiters away."""
    world.source.held = {"*"}
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    await world.tasks.close()
    assert caller.reasons == [Reason.DRAINING]


# what is shown


async def test_states(world: World) -> None:
    """The status names each state, with expiry, renewal point and last error, and never the token."""
    world.store.pin(KEY)
    assert world.state() is TokenState.MISSING
    world.source.held = {"*"}
    world.store.prefetch([KEY])
    assert world.state() is TokenState.FETCHING
    world.source.gate.set()
    await world.settle()
    status = world.store.status()[0]
    now = world.clock.wall()
    assert status == (KEY, TokenState.FRESH, now + HOUR, now + HOUR - 225, None, 0, now)
    world.source.answer = fault(Reason.TOKEN_DENIED)
    await world.advance(HOUR - 225)
    status = world.store.status()[0]
    assert status.state is TokenState.STALE
    assert status.last_error == (Reason.TOKEN_DENIED, "The test said so.", world.clock.wall(), "")
    assert "t1" not in repr(world.store.status())
    await world.advance(HOUR)
    assert world.state() is TokenState.FAILING


async def test_fetches_are_counted_by_result_and_reason(world: World) -> None:
    """Each fetch counts once: ok, same, or error with its reason; and its duration is observed."""
    world.source.answer = fault(Reason.TOKEN_DENIED)
    world.store.prefetch([KEY])
    await world.settle()
    world.source.keep()
    await world.advance(1)
    await world.advance(HOUR - 225)
    assert world.stats[KEY].fetches == {("error", "token_denied"): 1, ("ok", ""): 1, ("same", ""): 1}
    assert sum(world.stats[KEY].duration.counts) == 3


# a reload, and files that others renew


def other(world: World, name: str = "default") -> TokenKey:
    """The same audience of another source, whose tokens are told apart."""
    source = ScriptedSource(world.clock, name)
    source.answer = lambda audience: Token(
        "other", audience=audience, issued_at=world.clock.wall(), expires_at=world.clock.wall() + HOUR
    )
    return TokenKey(source, KEY.audience)


async def test_another_source_of_the_same_name_has_tokens_of_its_own(world: World) -> None:
    """A credential that a reload changed: who comes after it gets the new one's token and no other, and who was let in
    before keeps the old one's."""
    old = await world.fetched()
    key = other(world)
    world.store.switch([key.source], [key])
    assert not world.store.ready_state(key).had_token
    assert world.store.bearer(key) is None
    assert await world.fetched(key) == b"Bearer other"
    assert world.store.bearer(KEY) == old
    assert [status.key for status in world.store.status()] == [key]


async def test_who_waits_when_the_credential_changes_waits_for_the_old_one(world: World) -> None:
    """It was let in with that one; its token is for it, even where it must be fetched once more."""
    world.source.held.add("*")
    caller = Caller()
    world.store.pin(KEY)
    world.store.join(KEY, caller)
    await world.settle()
    key = other(world)
    world.store.switch([key.source], [key])
    await world.fetched(key)
    assert caller.told == []
    world.source.gate.set()
    await world.settle()
    assert caller.reasons == [None]
    assert world.store.bearer(KEY) == b"Bearer t1"
    await world.advance(2 * HOUR)
    assert len(world.source.calls) == 1
    again = Caller()
    world.store.join(KEY, again)
    await world.settle()
    assert again.reasons == [None]
    assert world.store.bearer(KEY) == b"Bearer t2"
    assert [status.key for status in world.store.status()] == [key]


async def test_a_credential_that_is_gone_and_fails_says_so_to_who_was_let_in(world: World) -> None:
    """There is no token of another one to fall back on."""
    world.store.pin(KEY)
    key = other(world)
    world.store.switch([key.source], [key])
    world.source.answer = SidecarError(Reason.TOKEN_DENIED, "The key is gone.")
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    assert caller.reasons == [Reason.TOKEN_DENIED]


async def test_nothing_of_a_source_that_is_gone_is_renewed(world: World) -> None:
    """Neither by a timer nor by a health probe, be it of a fixed route or of a wildcard."""
    await world.fetched()
    wild = audience(1)
    world.store.join(wild, Caller())
    await world.settle()
    assert world.store.bearer(wild) is not None
    calls = len(world.source.calls)
    key = other(world)
    world.store.switch([key.source], [key])
    assert world.clock.pending == []
    await world.advance(HOUR - 200)
    world.store.nudge()
    await world.settle()
    assert len(world.source.calls) == calls


async def test_a_switch_drops_no_token_of_a_wildcard_for_old_ones(world: World) -> None:
    """The cache keeps what is gone only where there is room."""
    kept = [audience(number) for number in range(9)]
    for wild in kept:
        world.store.join(wild, Caller())
    await world.settle()
    gone = [TokenKey(DEFAULT, f"https://gone-{number}.run.app") for number in range(3)]
    world.store.prefetch(gone)
    await world.settle()
    world.store.switch([DEFAULT], [])
    assert all(world.store.bearer(wild) for wild in kept)
    assert [world.store.bearer(key) is not None for key in gone] == [True, False, False]


async def test_a_route_that_comes_back_is_looked_after_again(world: World) -> None:
    """Its token is still there, and renewed ahead of its expiry without any request."""
    old = await world.fetched()
    world.store.switch([DEFAULT], [])
    assert world.store.status() == []
    world.store.switch([DEFAULT], [KEY])
    world.store.prefetch([KEY])
    assert world.store.bearer(KEY) == old
    await world.advance(HOUR - 100)
    assert len(world.source.calls) == 2
    assert world.state() is TokenState.FRESH


async def test_a_token_from_elsewhere_is_served_at_once(world: World) -> None:
    """One that was fetched for a reload before it took effect: no caller waits, and its renewal is on."""
    world.store.adopt(KEY, world.source.new(KEY.audience))
    assert world.store.bearer(KEY) == b"Bearer t0"
    assert world.source.calls == []
    await world.advance(HOUR)
    assert len(world.source.calls) == 1


async def test_a_token_from_elsewhere_gives_way_to_a_fetch(world: World) -> None:
    """What is on its way, or was too old when it came, is decided as if it had not been there."""
    world.source.held.add("*")
    world.store.prefetch([KEY])
    await world.settle()
    world.store.adopt(KEY, world.source.new(KEY.audience))
    assert world.store.bearer(KEY) is None
    world.source.gate.set()
    await world.settle()
    assert world.store.bearer(KEY) == b"Bearer t1"

    late = TokenKey(DEFAULT, "https://late.run.app")
    now = world.clock.wall()
    world.store.adopt(late, Token("old", audience=late.audience, issued_at=now - HOUR, expires_at=now + 1))
    assert world.store.bearer(late) is None


async def test_a_key_that_no_route_wants_any_more_is_forgotten(world: World) -> None:
    """No timer renews it, and no page shows it."""
    await world.fetched()
    world.store.switch([DEFAULT], [])
    assert world.clock.pending == []
    assert world.store.status() == []
    await world.advance(2 * HOUR)
    assert len(world.source.calls) == 1


async def test_a_key_that_is_forgotten_while_it_is_fetched_still_answers(world: World) -> None:
    """Its callers were let in before the reload."""
    world.source.held.add("*")
    world.store.pin(KEY)
    caller = Caller()
    world.store.join(KEY, caller)
    await world.settle()
    world.store.switch([DEFAULT], [])
    world.source.gate.set()
    await world.settle()
    assert caller.reasons == [None]
    await world.advance(2 * HOUR)
    assert len(world.source.calls) == 1


async def test_a_changed_file_is_read_at_once_whatever_its_expiry(world: World) -> None:
    """Its token replaces the old one though that lives longer; keys of other credentials, keys that nobody wants and
    fetches in flight are left alone."""
    unwanted = TokenKey(DEFAULT, "https://unwanted.run.app")
    world.store.pin(unwanted)
    await world.fetched()
    world.source.life = HOUR / 2
    world.store.renew(NamedSource("default"))
    await world.settle()
    assert len(world.source.calls) == 1
    world.store.renew(DEFAULT)
    world.store.renew(DEFAULT)
    await world.settle()
    assert world.source.calls == [KEY.audience] * 2
    assert world.store.bearer(KEY) == b"Bearer t2"


async def test_readiness_is_told_the_last_error(world: World) -> None:
    """Until there is a token: from then on the key has had one."""
    world.source.answer = fault()
    world.store.prefetch([KEY])
    await world.settle()
    state = world.store.ready_state(KEY)
    assert not state.had_token
    assert state.error is not None
    assert state.error.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
    world.source.answer = world.source.new
    await world.advance(30)
    assert world.store.ready_state(KEY) == (True, None)


async def test_a_closed_store_starts_nothing_new(world: World) -> None:
    """Probes, file watches and reloads may still come while the process drains."""
    await world.fetched()
    await world.store.close()
    world.store.prefetch([TokenKey(DEFAULT, "https://b.run.app")])
    world.store.nudge()
    world.store.renew("default")
    await world.settle()
    assert len(world.source.calls) == 1
    assert len(world.tasks) == 0


async def test_a_refusal_while_a_renewal_is_under_way_starts_no_second_one(world: World) -> None:
    """Who was refused waits for that one."""
    bearer = await world.fetched()
    world.source.held.add("*")
    await world.advance(HOUR - 200)
    assert len(world.source.calls) == 2
    assert world.store.reject(KEY, bearer)
    caller = Caller()
    world.store.join(KEY, caller, refused=bearer)
    assert world.store.bearer(KEY) == bearer
    await world.settle()
    assert (len(world.source.calls), caller.told) == (2, [])
    world.source.gate.set()
    await world.settle()
    assert caller.told == [None]
    assert world.store.bearer(KEY) == b"Bearer t2"


async def test_a_token_that_is_here_is_not_fetched_ahead_again(world: World) -> None:
    """As at each reload that leaves its credential alone."""
    await world.fetched()
    await world.fetched()
    assert len(world.source.calls) == 1


async def test_the_command_that_fixes_a_failure_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside the reason: to be copied from the log."""
    world.source.answer = SidecarError(
        Reason.API_DISABLED, "The test said so.", command="gcloud services enable x"
    )
    world.store.prefetch([KEY])
    await world.settle()
    (record,) = caplog.records
    fields = record.fields  # type: ignore[attr-defined]
    assert (fields["reason"], fields["command"]) == ("api_disabled", "gcloud services enable x")


async def test_an_expiry_is_logged_for_people_too(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Where a token came, and where one is served although its renewal fails: Unix seconds tell people nothing."""
    caplog.set_level(logging.INFO, "sidecar.tokens")
    await world.fetched()
    token = next(status for status in world.store.status() if status.key == KEY)
    assert token.expires_at is not None
    world.source.answer = fault()
    await world.advance(token.expires_at - world.clock.wall() - 200, step=60)
    logged = [(record.message, record.__dict__["fields"]) for record in caplog.records]
    for (message, _), event in zip(logged, ("token fetched", "token fetch failed"), strict=False):
        assert message.startswith(f"{event} for ")
    assert len(logged) >= 2
    for _, fields in logged:
        assert (fields["expires_at"], fields["expires"]) == (token.expires_at, rfc3339(token.expires_at))
