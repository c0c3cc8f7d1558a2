"""Watches whether the event loop runs.

Owns the heartbeat on the loop and the thread that reads the loop's stack when a beat is late. Made
and ended by the service. Its findings go into a metric (`LoopStats`) and, at most once a minute, into the log: how
long the loop stood still, and in which function.

A late beat has two causes that call for different answers. *Blocked*: a callback took long, in this process (a fault of
the sidecar's, or of a library). *Frozen*: the process did not run: stopped, suspended, or its CPU taken away, as Cloud
Run does between requests. In the second case the thread is late too and the process has used no CPU (`judge`). Delays
under twice `LATE` are not told apart, nor is a freeze of half a second in a process that is busy.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, final

from sidecar.observe.metrics import LoopStats, Stall
from sidecar.observe.repeats import Pace
from sidecar.runtime.clock import Clock, TimerHandle, until_next

BEAT: Final = 1.0
"""Seconds between two beats while an app has a connection open."""
QUIET_BEAT: Final = 4.0
"""And while none has: then a stall delays nobody, and each beat would wake the process up twice."""
LATE: Final = 0.1
"""Seconds; Envoy's first alarm is 0.2."""
_TOLD: Final = 0.5
"""Seconds from which on a stall is logged."""
_HANGS: Final = 5.0
"""Seconds after which a stall is logged before its end, which may never come."""
_DEPTH: Final = 8
"""How many functions are named, from the innermost outwards."""

_log = logging.getLogger(__name__)


def judge(lag: float, *, seen_after: float | None, cpu: float) -> Stall:
    """The cause of a late beat; pure.

    `seen_after` is how long after the beat was due the thread woke up (None: not yet), `cpu` how many CPU seconds the
    process used since the last beat.
    """
    on_time = seen_after is not None and seen_after < lag / 2 + LATE
    if on_time or lag < 2 * LATE or cpu >= lag / 2:
        return Stall.BLOCKED
    return Stall.FROZEN


@final
class Watchdog:
    """See the module's docstring."""

    def __init__(
        self, clock: Clock, stats: LoopStats, cpu: Callable[[], float], is_in_use: Callable[[], bool]
    ) -> None:
        """`cpu` gives the CPU seconds that the process has used, `is_in_use` says whether an app has a connection open;
        `clock.mono` is asked by the thread, too."""
        self._clock = clock
        self._stats = stats
        self._cpu = cpu
        self._is_in_use = is_in_use
        self._timer: TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._has_ended = False
        self._wake = threading.Event()
        """Set for the thread: another beat is due than the one it waits for, or the end has come."""
        self._loop_thread = 0
        # Written by the loop, read by the thread.
        self._due_mono = 0.0
        self._cpu_then = 0.0
        # Written by the thread, for the beat that was due then.
        self._seen: tuple[float, float, str] | None = None
        """The beat that was late, how late the thread saw it, and where the loop was."""
        # for the log
        self._pace = Pace()

    def start(self) -> None:
        """Begin; on the loop's thread."""
        self._loop_thread = threading.get_ident()
        self._next()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; harmless before `start`."""
        self._has_ended = True
        self._wake.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join(1.0)

    def hurry(self) -> None:
        """An app has connected: from now on a stall delays somebody. On the loop; harmless before `start`."""
        if self._timer is not None and self._due_mono - self._clock.mono() > BEAT * 1.5:
            self._timer.cancel()
            self._next()
            self._wake.set()

    # on the loop

    def _next(self) -> None:
        self._cpu_then = self._cpu()
        now_mono = self._clock.mono()
        pause = until_next(BEAT if self._is_in_use() else QUIET_BEAT, now_mono)
        self._due_mono = now_mono + pause
        self._timer = self._clock.call_later(pause, self._beat)

    def _beat(self) -> None:
        now_mono = self._clock.mono()
        lag = max(0.0, now_mono - self._due_mono)
        self._stats.lag.observe(lag)
        if lag >= LATE:
            self._late(lag, now_mono)
        self._next()

    def _late(self, lag: float, now_mono: float) -> None:
        seen = self._seen
        seen_after, where = None, ""
        if seen is not None and seen[0] == self._due_mono:
            _, seen_after, where = seen
        stall = judge(lag, seen_after=seen_after, cpu=self._cpu() - self._cpu_then)
        self._stats.stalls[stall] = self._stats.stalls.get(stall, 0) + 1
        if lag < _TOLD:
            return
        untold = self._pace.take(now_mono)
        if untold is None:
            return
        fields = {"stall": str(stall), "seconds": round(lag, 3), "untold": untold or None}
        if stall is Stall.BLOCKED:
            fields["where"] = where or None
            _log.warning(
                f"the event loop was blocked for {lag:.1f} s, and every request with it",
                extra={"fields": fields},
            )
        else:
            _log.info(
                f"the process did not run for {lag:.1f} s: it was stopped, or had no CPU",
                extra={"fields": fields},
            )

    # in the thread

    def _watch(self) -> None:
        while True:
            due_mono = self._due_mono
            if self._waited(max(0.0, due_mono + LATE - self._clock.mono())):
                return
            late = self._clock.mono() - due_mono
            if self._due_mono != due_mono or late < LATE:
                continue
            self._seen = due_mono, late, self._where()
            told = False
            while self._due_mono == due_mono:
                if self._waited(LATE):
                    return
                hangs = self._clock.mono() - due_mono
                if not told and hangs >= _HANGS and late < _HANGS:
                    told = True
                    fields = {"seconds": round(hangs, 3), "where": self._where()}
                    _log.error(
                        f"the event loop is blocked, for {hangs:.1f} s so far: no request is served",
                        extra={"fields": fields},
                    )

    def _waited(self, seconds: float) -> bool:
        """Wait so long, or until something is new; whether that is the end."""
        if self._wake.wait(seconds):
            self._wake.clear()
        return self._has_ended

    def _where(self) -> str:
        """The functions that the loop's thread is in, innermost first: names and lines only, no values."""
        frame: FrameType | None = sys._current_frames().get(self._loop_thread)
        names: list[str] = []
        while frame is not None and len(names) < _DEPTH:
            code = frame.f_code
            names.append(f"{frame.f_globals.get('__name__', '?')}.{code.co_qualname}:{frame.f_lineno}")
            frame = frame.f_back
        return " < ".join(names)
