"""sidecar.observe.watchdog: what a late heartbeat means, and a loop that is blocked for real."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from sidecar.observe.metrics import LoopStats, Stall
from sidecar.observe.watchdog import BEAT, QUIET_BEAT, Watchdog, judge
from sidecar.runtime.clock import SystemClock, process_cpu
from tests.support.clock import FakeClock
from tests.support.eventually import eventually

LATE_BEATS = [
    pytest.param(3.0, 0.1, 0.0, Stall.BLOCKED, id="the-thread-ran-on-time"),
    pytest.param(3.0, 1.0, 0.0, Stall.BLOCKED, id="the-thread-ran-in-the-middle-of-it"),
    pytest.param(3.0, 2.9, 2.8, Stall.BLOCKED, id="the-thread-could-not-run-but-something-did"),
    pytest.param(3.0, None, 2.8, Stall.BLOCKED, id="something-ran-and-the-thread-not-yet"),
    pytest.param(3.0, 3.0, 0.1, Stall.FROZEN, id="nothing-ran"),
    pytest.param(3600.0, None, 0.5, Stall.FROZEN, id="nothing-ran-and-the-loop-was-first"),
    pytest.param(0.15, None, 0.0, Stall.BLOCKED, id="too-short-to-tell"),
]


@pytest.mark.parametrize(("lag", "seen_after", "cpu", "stall"), LATE_BEATS)
def test_what_a_late_beat_means(lag: float, seen_after: float | None, cpu: float, stall: Stall) -> None:
    """Frozen is what leaves the thread as late as the loop and uses no CPU."""
    assert judge(lag, seen_after=seen_after, cpu=cpu) is stall


def wait_in_a_callback(mono: Callable[[], float]) -> None:
    threading.Event().wait(BEAT + 1.0)


def compute_in_a_callback(mono: Callable[[], float]) -> None:
    end = mono() + BEAT + 1.0
    while mono() < end:
        sum(range(1000))


@pytest.mark.slow
@pytest.mark.parametrize("block", [wait_in_a_callback, compute_in_a_callback])
async def test_a_blocked_loop_is_measured_and_the_function_named(
    block: Callable[[Callable[[], float]], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it waits or computes: the lag is what the heartbeat had to wait, and the log names the function."""
    caplog.set_level(logging.INFO)
    stats = LoopStats()
    clock = SystemClock(asyncio.get_running_loop())
    watchdog = Watchdog(clock, stats, process_cpu, lambda: True)
    watchdog.start()
    least = BEAT / 2  # a beat is due half a second to one and a half after the last one
    block(clock.mono)
    await eventually(lambda: stats.lag.sum, why="a beat that was late is counted, and nothing else")
    watchdog.stop()
    assert stats.lag.sum >= least
    assert stats.stalls == {Stall.BLOCKED: 1}
    (told,) = [record for record in caplog.records if record.message.startswith("the event loop was blocked")]
    fields = told.__dict__["fields"]
    assert fields["seconds"] >= round(least, 3)
    assert f"{block.__module__}.{block.__name__}:" in fields["where"]


async def test_it_ends_with_its_thread() -> None:
    """Nothing is left: no thread, no timer."""
    before = threading.active_count()
    watchdog = Watchdog(SystemClock(asyncio.get_running_loop()), LoopStats(), process_cpu, lambda: True)
    watchdog.start()
    assert threading.active_count() == before + 1
    watchdog.stop()
    assert threading.active_count() == before


@pytest.mark.parametrize(("in_use", "pause"), [(True, BEAT), (False, QUIET_BEAT)])
def test_it_beats_seldom_while_nobody_is_connected(in_use: bool, pause: float) -> None:
    """Each beat wakes the process up twice, and a stall delays nobody then."""
    clock = FakeClock(mono=1_000.0)
    watchdog = Watchdog(clock, LoopStats(), process_cpu, lambda: in_use)
    watchdog.start()
    try:
        assert clock.pending == [pause]
    finally:
        watchdog.stop()


def test_an_app_that_connects_makes_it_beat_often_again() -> None:
    """The beat that is far away is brought forward, and a near one is left alone."""
    clock = FakeClock(mono=1_000.0)
    in_use = False
    watchdog = Watchdog(clock, LoopStats(), process_cpu, lambda: in_use)
    watchdog.hurry()
    watchdog.start()
    try:
        in_use = True
        watchdog.hurry()
        assert clock.pending == [BEAT]
        clock.advance(0.25)
        watchdog.hurry()
        assert clock.pending == [BEAT - 0.25]
    finally:
        watchdog.stop()
