"""sidecar.tokens.store after an outage of a token endpoint: how soon callers are served again, and what it costs the
endpoint; by seed, on a fake clock."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import TokenStats
from sidecar.runtime.tasks import Tasks
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import Token, TokenKey
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource

HOUR = 3600.0
BOUND = 5.0
"""Seconds of health within which callers are served again."""
SEEDS = 100
SOURCE = NamedSource("default")
KEY = TokenKey(SOURCE, "https://a.run.app")


class Endpoint:
    """Down until `well_mono`, in one of the ways that endpoints are down; its answers take a while."""

    name = "default"

    def __init__(self, clock: FakeClock, random: Random, well_mono: float, kind: str) -> None:
        self.clock = clock
        self.random = random
        self.well_mono = well_mono
        self.kind = kind
        self.starts_mono: list[float] = []

    async def mint(self, key: TokenKey) -> Token:
        self.starts_mono.append(self.clock.mono())
        if self.clock.mono() < self.well_mono:
            if self.kind == "unavailable":
                await self._wait(self.random.uniform(0.1, 1.0))
            raise SidecarError(
                Reason.TOKEN_ENDPOINT_FAILED,
                "It is down.",
                retry_after=self.random.choice([1.0, 2.0]) if self.kind == "asks-for-seconds" else None,
            )
        await self._wait(self.random.uniform(0.01, 1.5))
        now = self.clock.wall()
        return Token("t", audience=key.audience, issued_at=now, expires_at=now + HOUR)

    async def _wait(self, seconds: float) -> None:
        gate = asyncio.Event()
        self.clock.call_later(seconds, gate.set)
        await gate.wait()

    def describe(self) -> str:
        return "an outage"


class Played(NamedTuple):
    """How one outage ended, in seconds."""

    recovery: float
    """From health to the last refusal, or how long a caller waited after it, whichever is more."""
    least_pause: float
    """Between the starts of two calls to the endpoint."""


class Run:
    """One outage under traffic."""

    def __init__(self, seed: int, *, outage: float, rate: float, kind: str, quiet: float) -> None:
        self.random = Random(f"{seed} {outage} {rate} {kind}")  # noqa: S311 - an outage that can be repeated
        self.outage = self.random.uniform(outage, 2 * outage)
        self.rate = rate
        self.quiet = quiet * self.outage
        self.clock = FakeClock()
        self.well_mono = self.clock.mono() + self.outage
        self.endpoint = SOURCE.behind = Endpoint(self.clock, self.random, self.well_mono, kind)
        self.store = TokenStore(
            [SOURCE],
            self.clock,
            Tasks(asyncio.get_running_loop()),
            lambda *_: TokenStats(),
            jitter=self.random.random,
            wait=10.0,
            size=10,
        )
        self.recovery = 0.0

    async def play(self, *, pinned: bool) -> Played:
        """Traffic from the end of the quiet to ten seconds after health, and until one request has come since."""
        if pinned:
            self.store.prefetch([KEY])
        await self._pass(self.quiet)
        while True:
            await self._pass(self.random.expovariate(self.rate))
            self._request()
            if self.clock.mono() > self.well_mono + 2 * BOUND:
                break
        await self._pass(2 * BOUND)
        await self.store.close()
        starts = self.endpoint.starts_mono
        return Played(self.recovery, min((b - a for a, b in itertools.pairwise(starts)), default=HOUR))

    def _request(self) -> None:
        if self.store.bearer(KEY) is not None:
            return
        try:
            self.store.join(KEY, self._caller(self.clock.mono()))
        except SidecarError:
            self._note(self.clock.mono() - self.well_mono)

    def _caller(self, asked_mono: float) -> Callable[[SidecarError | None], None]:
        def told(error: SidecarError | None) -> None:
            since = self.well_mono if error else max(asked_mono, self.well_mono)
            self._note(self.clock.mono() - since)

        return told

    def _note(self, seconds: float) -> None:
        self.recovery = max(self.recovery, seconds)

    async def _pass(self, seconds: float) -> None:
        """Let time pass: each timer at its own moment, with the tasks running in between."""
        until_mono = self.clock.mono() + seconds
        while True:
            await self._settle()
            pending = self.clock.pending
            left = until_mono - self.clock.mono()
            if not pending or pending[0] >= left:
                break
            self.clock.advance(max(pending[0], 0.0))
        self.clock.advance(max(left, 0.0))
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)


def play(*, outage: float, rate: float, kind: str, quiet: float = 0.0) -> list[Played]:
    """Many outages of `outage` seconds to twice as long, with `rate` requests a second after a `quiet` part of it."""

    async def main() -> list[Played]:
        return [
            await Run(seed, outage=outage, rate=rate, kind=kind, quiet=quiet).play(pinned=seed % 2 == 0)
            for seed in range(SEEDS)
        ]

    return asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outage", "rate", "kind", "quiet"),
    [
        pytest.param(6.0, 0.2, "refused", 0.0, id="seconds, a request now and then"),
        pytest.param(6.0, 1.0, "refused", 0.0, id="seconds, a request a second", marks=pytest.mark.test_all),
        pytest.param(
            6.0, 10.0, "refused", 0.0, id="seconds, ten requests a second", marks=pytest.mark.test_all
        ),
        pytest.param(
            6.0,
            1.0,
            "unavailable",
            0.0,
            id="seconds, failures that take their time",
            marks=pytest.mark.test_all,
        ),
        pytest.param(6.0, 1.0, "asks-for-seconds", 0.0, id="seconds, with a short Retry-After"),
        pytest.param(
            60.0, 0.2, "refused", 0.0, id="minutes, a request now and then", marks=pytest.mark.test_all
        ),
        pytest.param(60.0, 1.0, "refused", 0.0, id="minutes, a request a second", marks=pytest.mark.test_all),
        pytest.param(
            60.0,
            1.0,
            "unavailable",
            0.0,
            id="minutes, failures that take their time",
            marks=pytest.mark.test_all,
        ),
        pytest.param(600.0, 0.02, "refused", 0.0, id="a quarter of an hour, hardly a request"),
        pytest.param(
            60.0,
            1.0,
            "refused",
            0.9,
            id="minutes, and nobody asks for the most part",
            marks=pytest.mark.test_all,
        ),
        pytest.param(60.0, 1.0, "refused", 1.0, id="minutes, and nobody asks until it is over"),
    ],
)
def test_callers_are_served_within_seconds_of_health(
    caplog: pytest.LogCaptureFixture, outage: float, rate: float, kind: str, quiet: float
) -> None:
    """99 of 100 outages are over for the callers within 5 s of the endpoint's health, and never is it called twice
    in a second for one key."""
    caplog.set_level(logging.ERROR, "sidecar.tokens")
    played = play(outage=outage, rate=rate, kind=kind, quiet=quiet)
    late = sorted(outcome.recovery for outcome in played if outcome.recovery > BOUND)
    assert len(late) <= len(played) / 100, f"{len(late)} of {len(played)} are late: {late}"
    assert min(outcome.least_pause for outcome in played) >= 1.0 - 1e-6
