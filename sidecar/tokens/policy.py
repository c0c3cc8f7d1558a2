"""When a token is served, renewed and given up.

Owns every number and rule about time of the token store. Called by `tokens.store` alone. Pure: no I/O, no
clock and no randomness of its own: `now` is an argument, and so is `jitter` (uniform, 0 to 1). The rule it
implements is the time policy of docs/architecture.md:

    whole life        exp − iat (exp − receipt, if there is no iat)
    never attached    under 30 s to live, or under a tenth of the whole life where that is less
    renewed           at exp − 225 s, and up to 45 s later (a jitter: never earlier)
                      whole life under 15 min: after 3/4 of it, and up to 1/20 of it later
    same exp again,   not a failure: used, and asked for again in 30–60 s;
    or late already   sooner only as the last usable moment requires
    failed            a pause that grows, with jitter: to 30 s where nobody waits, to 3 s where somebody does;
                      see `backoff`

Every moment is kept on both clocks (`Instant`) and has come when either says so: the monotonic clock stands
still while an instance is frozen, the wall clock can be stepped back, and neither may hold up a renewal.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.tokens.token import Token

RENEW_BEFORE: Final = 225.0
"""Seconds before `exp`. This is google-auth's threshold; metadata servers return the same token until then."""
RENEW_JITTER: Final = 45.0
SHORT_LIFE: Final = 900.0
"""Seconds. Tokens with a shorter whole life are renewed after three quarters of it, which equals `RENEW_BEFORE` at
this length.
"""
MINIMUM_LIFE: Final = 30.0
WHOLE_SECONDS: Final = 2.0
"""Seconds by which one access token's expiry can differ from answer to answer: `expires_in` is in whole seconds, and
counts from a different receipt each time.
"""
ASK_AGAIN: Final = 30.0
"""Seconds until the next fetch if a renewal brought the same token. Random, up to twice as long."""
ASK_AGAIN_FLOOR: Final = 1.0
"""The shortest such wait in seconds, however near the last usable moment is."""
BACKOFF_FLOOR: Final = 1.0
"""Seconds: each key calls its endpoint at most once a second."""
BACKOFF_CEILING: Final = 30.0
BACKOFF_CEILING_WANTED: Final = 3.0
"""Seconds, if a caller waits: with the fetch itself, callers are served within 5 s of the endpoint's recovery."""
FETCH_FLOOR: Final = 0.25
"""Seconds between the end of a failed fetch and the next one, however long the fetch took."""
RETRY_AFTER_CEILING: Final = 300.0
"""Seconds: a longer Retry-After is cut to this. One call in five minutes burdens no endpoint, and one "in a day" must
not keep the app down for a day.
"""
RETRY_AFTER_CEILING_WANTED: Final = 60.0
"""The same in seconds, if a caller waits."""
WANTED_FOR: Final = 10.0
"""Seconds for which a refused caller counts as waiting: it will try again."""


class Instant(NamedTuple):
    """One moment on both clocks: `at` in Unix seconds, `mono` in monotonic ones."""

    at: float
    mono: float

    def after(self, seconds: float) -> Instant:
        """The moment `seconds` later. A negative number gives an earlier one."""
        return Instant(self.at + seconds, self.mono + seconds)

    def has_come(self, now: Instant) -> bool:
        """Whether one of the clocks has reached it."""
        return now.at >= self.at or now.mono >= self.mono

    def seconds_from(self, now: Instant) -> float:
        """Seconds until then by the clock that reaches it first, at least 0."""
        return max(min(self.at - now.at, self.mono - now.mono), 0.0)


class RenewalPlan(NamedTuple):
    """What to do with one token, and when."""

    renew: Instant
    """From then on a new one is fetched, while this one is still served."""
    unusable: Instant
    """From then on it is never used. Never before `renew`."""


def whole_life(token: Token) -> float:
    """How long the token was made to live, in seconds."""
    return max(token.expires_at - token.issued_at, 0.0)


def minimum_life(token: Token) -> float:
    """How much life a token must have left to be used, in seconds."""
    return min(MINIMUM_LIFE, whole_life(token) / 10)


def schedule(token: Token, *, now: Instant, jitter: float) -> RenewalPlan:
    """Plan for a token that has just come and is a new one.

    A token that is past its renewal point already is planned as by `same_token`. One that is not even usable
    gets a plan whose `unusable` has come: the caller treats it as expired.
    """
    life = whole_life(token)
    if life < SHORT_LIFE:
        before, spread = life / 4, life / 20
    else:
        before, spread = RENEW_BEFORE, RENEW_JITTER
    # A token issued in our future says that this clock is behind the issuer's. No token that has just come
    # can outlive its whole life from now, so its moments are counted back by as much.
    left = min(token.expires_at - now.at, life)
    unusable = now.after(left - minimum_life(token))
    if left > before:
        renew = now.after(left - before + jitter * spread)
    else:
        renew = _ask_again(unusable, now=now, jitter=jitter)
    return RenewalPlan(renew, unusable)


def is_new(token: Token, held: Token) -> bool:
    """Whether the token just fetched outlives the current one. The same text is the same token, unless its expiry is
    far from what it was: then this machine's clock was set in between, and the last answer counts.
    """
    rounding = WHOLE_SECONDS if token.bearer == held.bearer else 0.0
    return token.expires_at > held.expires_at + rounding


def same_token(token: Token, previous: RenewalPlan, *, now: Instant, jitter: float) -> RenewalPlan:
    """Plan for an answer with the same `exp` as the current token, whose plan was `previous`.

    Metadata servers do that until about four minutes before it expires. If the renewal point has not come yet (a
    refused token caused the renewal), the plan stands.

    The monotonic deadline of the first plan stands too, so that a wall clock set back does not make an old token
    young; only another answer with the same token extends it, each time until the next answer.
    """
    if not previous.renew.has_come(now):
        return previous
    fresh = schedule(token, now=now, jitter=jitter)
    confirmed_mono = now.mono + 2 * ASK_AGAIN + MINIMUM_LIFE
    unusable = Instant(
        fresh.unusable.at, min(fresh.unusable.mono, max(previous.unusable.mono, confirmed_mono))
    )
    return RenewalPlan(_ask_again(unusable, now=now, jitter=jitter), unusable)


def _ask_again(unusable: Instant, *, now: Instant, jitter: float) -> Instant:
    """30–60 s from now, or half of the time left if that is less. Never after the last usable moment."""
    left = unusable.seconds_from(now)
    wanted = min(ASK_AGAIN * (1 + jitter), left / 2)
    return now.after(min(max(wanted, ASK_AGAIN_FLOOR), left))


class Pauses(NamedTuple):
    """Seconds to wait after a failed fetch."""

    idle: float
    """If no caller waits for the token."""
    wanted: float
    """If a caller waits, or was refused less than `WANTED_FOR` seconds ago. Never more than `idle`."""


def backoff(failures: int, *, took: float, jitter: float, retry_after: float | None = None) -> Pauses:
    """The pauses after the `failures`-th failure in a row (1 is the first) of a fetch that `took` so many seconds.

    Random between a second and the longest one, so that a fleet that failed together does not retry together:

        failures           1      2      3      4      5      6 and more
        longest, idle      2 s    3 s    5 s    9 s    17 s   30 s
        longest, wanted    2 s    3 s    3 s    3 s    3 s    3 s

    If a caller waits, the time that the failed fetch took counts as part of the pause. `retry_after` (seconds) is
    what the endpoint asked for: waited in full and up to a tenth longer (the same jitter: later, never earlier), up
    to `RETRY_AFTER_CEILING`, or `RETRY_AFTER_CEILING_WANTED` where somebody waits.
    """
    # The exponent is capped: 2.0 ** 1024 overflows, and a sidecar can be failing for months.
    growth = 2.0 ** (min(max(failures, 1), 10) - 1)
    idle = BACKOFF_FLOOR + jitter * min(growth, BACKOFF_CEILING - BACKOFF_FLOOR)
    wanted = BACKOFF_FLOOR + jitter * min(growth, BACKOFF_CEILING_WANTED - BACKOFF_FLOOR)
    wanted = max(wanted - took, FETCH_FLOOR)
    if retry_after is not None and retry_after > 0:
        later = 1 + jitter / 10
        idle = max(idle, min(retry_after, RETRY_AFTER_CEILING) * later)
        wanted = max(wanted, min(retry_after, RETRY_AFTER_CEILING_WANTED) * later)
    return Pauses(idle, wanted)
