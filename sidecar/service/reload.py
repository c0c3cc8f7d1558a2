"""Reading the configuration again while the sidecar runs.

Owns what starts it (the file changed, SIGHUP, `POST /reload`), that it happens once at a time, and what is told of it.
Called by `run`. The switch itself is the service's. The rule: a configuration is judged whole before anything changes,
and one that can't be used leaves the old one in force, with a log line, a metric and the status page saying so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple, final

from sidecar.config.load import ConfigError, Loaded
from sidecar.runtime.clock import Clock
from sidecar.runtime.file_watch import FileWatch, Stamp
from sidecar.runtime.tasks import Tasks
from sidecar.service.service import Reloaded, Service
from sidecar.service.start_error import StartError

_log = logging.getLogger(__name__)
_FILE = "configuration"
_AGAIN: Final = 60.0
"""Seconds after which the same mistake is logged again, where somebody asks again."""


class ConfigSource(NamedTuple):
    """What a configuration was read from, and is read from again."""

    read: Callable[[], Loaded]
    """Reads file, environment and flags; raises ConfigError or OSError."""
    file: str | None
    """Is watched, if there is one: Kubernetes swaps a link, editors replace the file."""
    stamp: Stamp | None
    """The file's from before it was read for the first time: what has changed since then is read again."""


@final
class Reloader:
    """Of one service."""

    def __init__(self, service: Service, clock: Clock, tasks: Tasks, source: ConfigSource) -> None:
        self._service = service
        self._clock = clock
        self._tasks = tasks
        self._told: tuple[str, float] | None = None
        """What was wrong when it was logged last, and when that was; None since a good one."""
        self._source = source
        self._lock = asyncio.Lock()
        self._watch = FileWatch({}, clock, lambda _: self.request())
        self._has_started = False
        self._was_asked = False
        """Before the service had started."""
        service.reloader = self._reload

    def start(self) -> None:
        """Begin to watch the file; the service has started."""
        self._has_started = True
        if self._source.file is not None:
            self._watch.watch({_FILE: self._source.file}, {_FILE: self._source.stamp})
        if self._was_asked:
            self.request()

    def stop(self) -> None:
        """Watch no more."""
        self._watch.stop()

    def request(self) -> None:
        """Reload soon, or once the service has started; called by the watch and by SIGHUP."""
        if not self._has_started:
            self._was_asked = True
            return
        self._tasks.spawn(self._service.reload(), name="reload")

    async def _reload(self) -> Reloaded:
        async with self._lock:
            outcome = await self._outcome()
            self._tell(outcome)
        return outcome

    def _tell(self, outcome: Reloaded) -> None:
        """One bad file is told of once, though the watch, SIGHUP and `POST /reload` may all see it."""
        now_mono = self._clock.mono()
        if outcome.result != "error":
            self._told = None
            unchanged = outcome.result == "unchanged"
            level, says = logging.INFO, "configuration reloaded" + (", and is the same" if unchanged else "")
        elif self._told is None or self._told[0] != outcome.detail or now_mono - self._told[1] >= _AGAIN:
            self._told = (outcome.detail, now_mono)
            level, says = logging.ERROR, "configuration not reloaded: the old one stays in force"
        else:
            return
        _log.log(
            level,
            f"{says}: {outcome.detail}" if outcome.detail else says,
            extra={"fields": {"result": outcome.result, "detail": outcome.detail or None}},
        )

    async def _outcome(self) -> Reloaded:
        if self._service.draining:
            return Reloaded("error", "The sidecar is shutting down.")
        try:
            # A thousand routes take a third of a second: in a thread, where requests are answered in the meantime.
            loaded = await asyncio.to_thread(self._source.read)
        except (ConfigError, OSError) as error:
            return Reloaded("error", str(error))
        if loaded.config == self._service.config:
            return Reloaded("unchanged")
        try:
            told = await self._service.switch(loaded.config)
        except StartError as error:
            return Reloaded("error", str(error))
        return Reloaded("ok", "; ".join([*loaded.warnings, *told]))
