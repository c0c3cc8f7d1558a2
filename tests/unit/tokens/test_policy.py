"""sidecar.tokens.policy: the time policy, with time as an argument."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens import policy
from sidecar.tokens.policy import Instant, RenewalPlan
from sidecar.tokens.token import Token

T = 1_800_000_000.0
NOW = Instant(T, 500.0)
HOUR = 3600.0

jitters = st.floats(0, 1)
lives = st.floats(0.5, 50_000)


def token(*, issued: float = 0.0, expires: float = HOUR) -> Token:
    """A token issued and expiring so many seconds after T."""
    return Token("x", audience="https://x", issued_at=T + issued, expires_at=T + expires)


@pytest.mark.parametrize(
    ("issued", "expires", "jitter", "renew", "unusable"),
    [
        pytest.param(0, 3600, 0.0, 3375, 3570, id="an-hour"),
        pytest.param(0, 3600, 0.5, 3397.5, 3570, id="an-hour-half-jitter"),
        pytest.param(0, 3600, 1.0, 3420, 3570, id="an-hour-full-jitter"),
        pytest.param(-3000, 600, 0.0, 375, 570, id="used-up-for-the-most-part"),
        pytest.param(0, 43_200, 0.0, 42_975, 43_170, id="twelve-hours"),
        pytest.param(0, 900, 0.0, 675, 870, id="fifteen-minutes-is-not-short"),
        pytest.param(0, 899, 0.0, 674.25, 869, id="just-short"),
        pytest.param(0, 600, 0.0, 450, 570, id="ten-minutes"),
        pytest.param(0, 600, 1.0, 480, 570, id="ten-minutes-full-jitter"),
        pytest.param(0, 300, 0.0, 225, 270, id="five-minutes"),
        pytest.param(0, 20, 0.0, 15, 18, id="twenty-seconds"),
        pytest.param(0, 20, 1.0, 16, 18, id="twenty-seconds-full-jitter"),
        pytest.param(0, 1, 0.0, 0.75, 0.9, id="one-second"),
        pytest.param(600, 4200, 0.0, 3375, 3570, id="clock-behind-the-issuer-by-ten-minutes"),
        pytest.param(0.9, 3600.9, 0.0, 3375, 3570, id="clock-behind-by-a-blink"),
        # Past the renewal point on arrival: not a failure, asked for again in 30-60 s.
        pytest.param(-3375, 225, 0.0, 30, 195, id="late-just-now"),
        pytest.param(-3400, 200, 0.0, 30, 170, id="late-already"),
        pytest.param(-3400, 200, 1.0, 60, 170, id="late-already-full-jitter"),
        pytest.param(-3374, 226, 1.0, 46, 196, id="almost-late-already"),
        pytest.param(-3530, 70, 0.0, 20, 40, id="late-already-half-of-what-is-left"),
        pytest.param(-3568.5, 31.5, 0.0, 1, 1.5, id="late-already-no-faster-than-the-floor"),
        pytest.param(-3569.5, 30.5, 0.0, 0.5, 0.5, id="late-already-never-after-the-last-moment"),
        pytest.param(-16, 4, 0.0, 1, 2, id="late-already-short-life"),
    ],
)
def test_schedule(issued: float, expires: float, jitter: float, renew: float, unusable: float) -> None:
    """A new token is renewed and given up at these moments, on both clocks."""
    plan = policy.schedule(token(issued=issued, expires=expires), now=NOW, jitter=jitter)
    assert plan.renew.at - NOW.at == pytest.approx(renew, abs=1e-6)
    assert plan.renew.mono - NOW.mono == pytest.approx(renew, abs=1e-6)
    assert plan.unusable.at - NOW.at == pytest.approx(unusable, abs=1e-6)
    assert plan.unusable.mono - NOW.mono == pytest.approx(unusable, abs=1e-6)


@pytest.mark.parametrize(
    ("issued", "expires"),
    [
        pytest.param(-3600, 0, id="expired-now"),
        pytest.param(-9000, -5400, id="expired-long-ago"),
        pytest.param(-3571, 29, id="under-thirty-seconds"),
        pytest.param(-18.5, 1.5, id="under-a-tenth-of-a-short-life"),
        pytest.param(10, 10, id="no-life-at-all"),
        pytest.param(10, 5, id="expires-before-it-is-issued"),
    ],
)
def test_a_token_without_its_minimum_life_is_unusable_on_arrival(issued: float, expires: float) -> None:
    """Under 30 s to live, or under a tenth of the whole life where that is less: never attached."""
    plan = policy.schedule(token(issued=issued, expires=expires), now=NOW, jitter=0.5)
    assert plan.unusable.has_come(NOW)


@given(lives, st.floats(0, 1), jitters)
def test_a_renewal_point_lies_ahead_and_before_the_last_moment(
    life: float, used: float, jitter: float
) -> None:
    """Whatever the life and however used up: now < renew <= unusable < exp, or the token is unusable at
    once."""
    it = token(issued=-used * life, expires=(1 - used) * life)
    plan = policy.schedule(it, now=NOW, jitter=jitter)
    if plan.unusable.has_come(NOW):
        assert it.expires_at - NOW.at <= policy.minimum_life(it) + 1e-6
        return
    for renew, unusable, now in zip(plan.renew, plan.unusable, NOW, strict=True):
        assert now < renew <= unusable
    assert plan.unusable.at < it.expires_at


@given(lives, jitters, st.floats(0, 60_000), st.floats(0, 1))
def test_never_usable_below_the_minimum_life(life: float, jitter: float, later: float, frozen: float) -> None:
    """At no moment is a token usable with less than its minimum life left, though the monotonic clock
    stand."""
    it = token(expires=life)
    plan = policy.schedule(it, now=NOW, jitter=jitter)
    now = Instant(NOW.at + later, NOW.mono + later * frozen)
    if not plan.unusable.has_come(now):
        assert it.expires_at - now.at > policy.minimum_life(it) - 1e-6


@given(lives, jitters)
def test_a_jitter_is_later_never_earlier(life: float, jitter: float) -> None:
    """A jitter moves a renewal back by up to 45 s, or a twentieth of a short life; never forward."""
    base = policy.schedule(token(expires=life), now=NOW, jitter=0.0).renew.at
    spread = 45 if life >= 900 else life / 20
    assert 0 <= policy.schedule(token(expires=life), now=NOW, jitter=jitter).renew.at - base <= spread + 1e-6


@given(lives, st.floats(-100_000, 100_000), jitters)
def test_no_token_outlives_its_whole_life(life: float, skew: float, jitter: float) -> None:
    """A clock that is off, by however much, never gives a token more time than it was made for."""
    it = token(issued=skew, expires=skew + life)
    plan = policy.schedule(it, now=NOW, jitter=jitter)
    assert plan.unusable.at - NOW.at <= life
    assert plan.unusable.mono - NOW.mono <= life


@pytest.mark.parametrize(
    ("now", "renew_due", "usable"),
    [
        pytest.param(NOW, False, True, id="at-once"),
        pytest.param(NOW.after(3375), True, True, id="renewal-point"),
        pytest.param(NOW.after(3570), True, False, id="last-moment"),
        pytest.param(Instant(T + 4 * HOUR, NOW.mono), True, False, id="frozen-for-hours"),
        pytest.param(Instant(T + 3400, NOW.mono + 10), True, True, id="frozen-past-the-renewal-point"),
        pytest.param(Instant(T + 3375, NOW.mono), True, True, id="frozen-to-the-renewal-point"),
        pytest.param(Instant(T - 60, NOW.mono), False, True, id="set-back-a-minute"),
        pytest.param(Instant(T + 3375 - 60, NOW.mono + 3375), True, True, id="set-back-a-minute-then-due"),
        pytest.param(Instant(T + 3570 - 60, NOW.mono + 3570), True, False, id="set-back-a-minute-then-over"),
        pytest.param(Instant(T - HOUR, NOW.mono + 3570), True, False, id="set-back-an-hour-then-over"),
    ],
)
def test_either_clock_can_say_that_a_moment_has_come(now: Instant, renew_due: bool, usable: bool) -> None:
    """A frozen instance is judged by the wall clock, a wall clock set back by the monotonic one."""
    plan = policy.schedule(token(), now=NOW, jitter=0.0)
    assert plan.renew.has_come(now) is renew_due
    assert plan.unusable.has_come(now) is not usable


@pytest.mark.parametrize(
    ("later", "jitter", "renew", "unusable"),
    [
        pytest.param(3375, 0.0, 3375 + 30, 3570, id="at-the-renewal-point"),
        pytest.param(3375, 1.0, 3375 + 60, 3570, id="full-jitter"),
        pytest.param(3550, 0.0, 3560, 3570, id="half-of-what-is-left"),
        pytest.param(3569.5, 0.0, 3570, 3570, id="last-half-second"),
        pytest.param(1000, 0.0, 3375, 3570, id="asked-for-out-of-turn"),
    ],
)
def test_the_same_token_again(later: float, jitter: float, renew: float, unusable: float) -> None:
    """The same `exp` is used on and asked for again in 30-60 s, sooner only as its last moment requires."""
    first = policy.schedule(token(), now=NOW, jitter=0.0)
    plan = policy.same_token(token(), first, now=NOW.after(later), jitter=jitter)
    assert plan.renew.at - NOW.at == pytest.approx(renew)
    assert plan.unusable == first.unusable


def test_the_same_token_after_the_clock_was_set_back_stays_old() -> None:
    """A wall clock set back by an hour gives the same token only until the next answer, not an hour."""
    first = policy.schedule(token(), now=NOW, jitter=0.0)
    now = Instant(T, NOW.mono + 3400)
    plan = policy.same_token(token(), first, now=now, jitter=1.0)
    assert plan.renew == now.after(60)
    assert plan.unusable.mono == first.unusable.mono
    late = Instant(T + 150, NOW.mono + 3550)
    plan = policy.same_token(token(), plan, now=late, jitter=1.0)
    assert plan.renew.mono - late.mono == pytest.approx(45)
    assert plan.unusable.mono == late.mono + 90


def test_the_same_token_after_the_clock_was_corrected_lives_on() -> None:
    """A token received by a clock 50 minutes ahead is not thrown away while the issuer keeps handing it
    out."""
    ahead = Instant(T + 3000, NOW.mono)
    plan = policy.schedule(token(), now=ahead, jitter=0.0)
    now = Instant(T, NOW.mono)
    for _ in range(20):
        now = Instant(now.at + plan.renew.seconds_from(now), now.mono + plan.renew.seconds_from(now))
        assert not plan.unusable.has_come(now)
        plan = policy.same_token(token(), plan, now=now, jitter=0.0)
    assert now.at > T + 900


@given(lives, st.floats(0, 60_000), st.floats(0, 60_000), jitters)
def test_the_same_token_keeps_the_invariants(life: float, wall: float, mono: float, jitter: float) -> None:
    """However the clocks part, a usable token asked for again has now < renew <= unusable, and never gains
    life."""
    it = token(expires=life)
    first = policy.schedule(it, now=NOW, jitter=jitter)
    now = Instant(NOW.at + wall, NOW.mono + mono)
    plan = policy.same_token(it, first, now=now, jitter=jitter)
    assert plan.unusable.at <= first.unusable.at + 1e-6 or wall == 0
    if not plan.unusable.has_come(now):
        for renew, unusable, moment in zip(plan.renew, plan.unusable, now, strict=True):
            assert moment < renew <= unusable


@pytest.mark.parametrize(
    ("failures", "idle", "wanted"),
    [
        pytest.param(1, 2, 2, id="first"),
        pytest.param(2, 3, 3, id="second"),
        pytest.param(3, 5, 3, id="third"),
        pytest.param(4, 9, 3, id="fourth"),
        pytest.param(5, 17, 3, id="fifth"),
        pytest.param(6, 30, 3, id="sixth"),
        pytest.param(7, 30, 3, id="seventh"),
        pytest.param(10**9, 30, 3, id="months"),
    ],
)
def test_backoff(failures: int, idle: float, wanted: float) -> None:
    """From a second to the longest pause: that grows to 30 s, or to 3 s where somebody waits."""
    assert policy.backoff(failures, took=0.0, jitter=0.0) == (1.0, 1.0)
    assert policy.backoff(failures, took=0.0, jitter=0.5) == ((1 + idle) / 2, (1 + wanted) / 2)
    assert policy.backoff(failures, took=0.0, jitter=1.0) == (idle, wanted)


@pytest.mark.parametrize(
    ("took", "wanted"),
    [
        pytest.param(0.0, 3.0, id="at-once"),
        pytest.param(2.0, 1.0, id="two-seconds"),
        pytest.param(2.9, 0.25, id="almost-the-pause"),
        pytest.param(10.0, 0.25, id="longer-than-the-pause"),
    ],
)
def test_where_somebody_waits_the_failed_fetch_is_part_of_the_pause(took: float, wanted: float) -> None:
    """It is tried every three seconds, counted from start to start; a fetch that took longer is tried again soon."""
    assert policy.backoff(6, took=took, jitter=1.0) == (30.0, pytest.approx(wanted))


@pytest.mark.parametrize(
    ("failures", "jitter", "retry_after", "idle", "wanted"),
    [
        pytest.param(1, 0.0, 20.0, 20.0, 20.0, id="longer-than-ours"),
        pytest.param(1, 1.0, 20.0, 22.0, 22.0, id="a-tenth-later-by-jitter"),
        pytest.param(6, 1.0, 2.0, 30.0, 3.0, id="shorter-than-ours"),
        pytest.param(1, 0.0, 0.5, 1.0, 1.0, id="half-a-second"),
        pytest.param(1, 0.0, 100.0, 100.0, 60.0, id="more-than-a-minute"),
        pytest.param(1, 0.0, 86_400.0, 300.0, 60.0, id="a-day"),
        pytest.param(1, 0.0, math.inf, 300.0, 60.0, id="for-ever"),
        pytest.param(1, 0.5, 0.0, 1.5, 1.5, id="zero"),
        pytest.param(1, 0.5, -7.0, 1.5, 1.5, id="negative"),
        pytest.param(1, 0.5, math.nan, 1.5, 1.5, id="not-a-number"),
        pytest.param(1, 0.5, None, 1.5, 1.5, id="none"),
    ],
)
def test_retry_after(
    failures: int, jitter: float, retry_after: float | None, idle: float, wanted: float
) -> None:
    """What the endpoint asks for is waited in full, up to five minutes, or up to one where somebody waits."""
    pauses = policy.backoff(failures, took=0.0, jitter=jitter, retry_after=retry_after)
    assert pauses == pytest.approx((idle, wanted))


@given(st.integers(0, 10**6), st.floats(0, 120), jitters, st.none() | st.floats())
def test_backoff_is_bounded(failures: int, took: float, jitter: float, retry_after: float | None) -> None:
    """No endpoint is called twice in a second, none is left alone for more than five and a half minutes, and who waits
    never waits longer than where nobody does."""
    idle, wanted = policy.backoff(failures, took=took, jitter=jitter, retry_after=retry_after)
    assert 0.25 <= wanted <= idle <= 330
    assert wanted <= 66
    assert idle >= 1
    assert took + wanted >= 1 - 1e-9


def test_an_instant_comes_by_the_clock_that_gets_there_first() -> None:
    """The time left until a moment is the lesser of the two clocks', and never negative."""
    moment = Instant(T + 10, 510.0)
    assert moment.seconds_from(NOW) == 10
    assert moment.seconds_from(Instant(T + 8, 500.0)) == 2
    assert moment.seconds_from(Instant(T, 507.0)) == 3
    assert moment.seconds_from(Instant(T + 99, 500.0)) == 0
    assert RenewalPlan(moment, moment.after(5)).unusable == Instant(T + 15, 515.0)
