"""Reads the configuration again while the sidecar runs.

Owns the triggers (the file changed, SIGHUP, `POST /reload`), the rule that only one reload runs at a time, and its
log lines. Called by `life` and `view`; `switch` does the rest. The rule: a configuration is checked completely before
anything changes. If it can't be used, the old one stays in force, and a log line, a metric and the status page say
so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple, final

from sidecar.config.load import ConfigError, Loaded
from sidecar.observe.metrics import ReloadStats
from sidecar.observe.repeats import Pace
from sidecar.runtime.file_watch import FileWatch, Stamp
from sidecar.service.build import Parts
from sidecar.service.handouts import Handouts
from sidecar.service.readiness import Readiness
from sidecar.service.start_error import StartError
from sidecar.service.switch import Switch

_log = logging.getLogger(__name__)
_FILE: Final = "configuration"


class ConfigSource(NamedTuple):
    """Where a configuration comes from, for reading it again."""

    read: Callable[[], Loaded]
    """Reads file, environment and flags; raises ConfigError or OSError."""
    file: str | None
    """This file is watched, if there is one: Kubernetes swaps a link, editors replace the file."""
    stamp: Stamp | None
    """The file's from before it was read for the first time: what has changed since then is read again."""


class Reloaded(NamedTuple):
    """The result of reading the configuration again."""

    result: str
    """`ok`, `unchanged` or `error`."""
    detail: str = ""
    """What is wrong with it, or a note about it."""


@final
class Reloader:
    """Makes one sidecar read its configuration again, and counts the results."""

    def __init__(
        self, parts: Parts, readiness: Readiness, handouts: Handouts, source: ConfigSource | None
    ) -> None:
        """Without a `source` there is nothing to be read again, and each attempt says so."""
        self._parts = parts
        self._readiness = readiness
        self._source = source
        self._switch = Switch(parts, readiness, handouts)
        self.stats = ReloadStats(at=parts.clock.wall())
        self.error: tuple[str, float] | None = None
        """What was wrong with the last attempt, and when (Unix seconds); None after a success."""
        self._told: str | None = None
        """The problem that was logged last; None since the last success."""
        self._pace = Pace()
        self._lock = asyncio.Lock()
        self._watch = FileWatch({}, parts.clock, lambda _: self.request())
        self._has_started = False
        self._was_asked = False
        """Before the sidecar had started."""

    def start(self) -> None:
        """Begin to watch the file; the sidecar has started."""
        self._has_started = True
        if self._source is not None and self._source.file is not None:
            self._watch.watch({_FILE: self._source.file}, {_FILE: self._source.stamp})
        if self._was_asked:
            self.request()

    def stop(self) -> None:
        """Watch no more."""
        self._watch.stop()

    def request(self) -> None:
        """Reload soon, or once the sidecar has started; called by the watch and by SIGHUP."""
        if not self._has_started:
            self._was_asked = True
            return
        self._parts.tasks.spawn(self.reload(), name="reload")

    async def reload(self) -> Reloaded:
        """Read the configuration again and serve by it; the old one stays in force if that fails."""
        self._parts.bindings.certificates.read_again()
        if self._source is None:
            return Reloaded("error", "This sidecar was started without a file that could be read again.")
        async with self._lock:
            outcome = await self._outcome(self._source)
            self._tell(outcome)
        self._count(outcome, self._parts.clock.wall())
        return outcome

    async def _outcome(self, source: ConfigSource) -> Reloaded:
        if self._readiness.is_draining:
            return Reloaded("error", "The sidecar is shutting down.")
        try:
            # A thousand routes take a third of a second: in a thread, where requests are answered in the meantime.
            loaded = await asyncio.to_thread(source.read)
        except (ConfigError, OSError) as error:
            return Reloaded("error", str(error))
        if loaded.config == self._parts.config:
            return Reloaded("unchanged")
        try:
            told = await self._switch.to(loaded.config)
        except StartError as error:
            return Reloaded("error", str(error))
        return Reloaded("ok", "; ".join([*loaded.warnings, *told]))

    def _count(self, outcome: Reloaded, now_at: float) -> None:
        stats, failed = self.stats, outcome.result == "error"
        stats.outcomes[outcome.result] = stats.outcomes.get(outcome.result, 0) + 1
        stats.last_ok = not failed
        stats.at = stats.at if failed else now_at
        self.error = (outcome.detail, now_at) if failed else None

    def _tell(self, outcome: Reloaded) -> None:
        """Log one bad file once, although the watch, SIGHUP and `POST /reload` may all find it."""
        if outcome.result != "error":
            self._told = None
            unchanged = outcome.result == "unchanged"
            level, says = logging.INFO, "configuration reloaded" + (", and is the same" if unchanged else "")
        else:
            if self._told != outcome.detail:
                self._told, self._pace = outcome.detail, Pace()
            if self._pace.take(self._parts.clock.mono()) is None:
                return
            level, says = logging.ERROR, "configuration not reloaded: the old one stays in force"
        _log.log(
            level,
            f"{says}: {outcome.detail}" if outcome.detail else says,
            extra={"fields": {"result": outcome.result, "detail": outcome.detail or None}},
        )
