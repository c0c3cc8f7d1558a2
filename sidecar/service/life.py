"""The life of one sidecar, from its start to its end.

Called by the `run` command and by `exec`, in a process of its own, or by `check` and tests in theirs. The order:

    bind → credentials and TLS files → listeners → prefetch → admin server → serve
    → told to stop: not ready, each answer ends its connection, `drain.min` if by SIGTERM
    → close listeners, finish what is in flight up to `drain.max`
    → close tokens → close admin, so that probes and the last scrape see the drain to its end

The proxy serves before the admin server does: what only servers of the control plane need is loaded in between, while
the first tokens are fetched. A probe that connects to the admin port meanwhile waits, and is answered then.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from sidecar.config.egress_rules import told_at_start
from sidecar.config.models import Config
from sidecar.observe.heap import Trimming, own_heap
from sidecar.observe.log_sink import LineLoss
from sidecar.observe.watchdog import Watchdog
from sidecar.runtime.clock import Clock, process_cpu
from sidecar.runtime.loading import loaded
from sidecar.service.build import Parts, inspected
from sidecar.service.handouts import Handouts
from sidecar.service.readiness import Readiness
from sidecar.service.reload import ConfigSource, Reloader
from sidecar.service.view import View

if TYPE_CHECKING:
    from sidecar.admin.view import AdminView
    from sidecar.serving.site import Site

_log = logging.getLogger(__name__)

_LAST_SPANS: Final = 2.0
"""Seconds that the last spans may take to get out at the end."""


@final
class Service:
    """One running sidecar."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        *,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        jitter: Callable[[], float] | None = None,
        inherited: Iterable[socket.socket] = (),
        log_lines_lost: Mapping[LineLoss, int] | None = None,
        source: ConfigSource | None = None,
    ) -> None:
        """See `Parts`; `source` is what the configuration is read from again, if it is."""
        self.parts = parts = Parts(
            config, loop, environ=environ, clock=clock, jitter=jitter, inherited=inherited
        )
        self.readiness = Readiness(parts)
        self.handouts = Handouts(parts)
        self.reloader = Reloader(parts, self.readiness, self.handouts, source)
        self.view = View(
            parts,
            self.readiness,
            self.reloader,
            self.handouts,
            request_quit=self.request_quit,
            log_lines_lost=log_lines_lost or {},
        )
        self._admin: Site | None = None
        self._watchdog = Watchdog(
            parts.clock, parts.loop_stats, process_cpu, lambda: parts.proxy.connections > 0
        )
        parts.proxy.on_woken = self._watchdog.hurry
        self._trimming = Trimming(parts.clock, own_heap())
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def start(self) -> None:
        """Bind, check, listen, prefetch. On StartError nothing stays open."""
        parts = self.parts
        try:
            warnings = inspected(parts.config, parts.sources, parts.environ, parts.offers)
            parts.bindings.bind(parts.config, parts.table)
            parts.table.urls = parts.bindings.urls(parts.config.routes)
            parts.check_tls_files(parts.table.routes)
            parts.loop.set_exception_handler(parts.proxy.faults.from_loop)
            prepared = parts.prepare_interception(parts.config, parts.table)
            parts.proxy.interception.adopt(prepared, parts.table)
            if parts.table.answered:
                await self.handouts.follow()
            for use in parts.bindings.uses:
                await parts.proxy.serve(*use)
            self._tell_credentials([*warnings, *prepared.warnings])
            parts.file_watch.start()
            parts.pin_and_prefetch()
            make = await loaded(_admin_server)
            sockets = [listener.socket for listener in parts.bindings.admin]
            self._admin = make(self.view, sockets, parts.clock)
            await self._admin.start()
            await self.handouts.follow()
        except BaseException:
            await self.close()
            raise
        self.readiness.is_listening = True
        routes = [route.name for route in parts.table.routes]
        parts.bindings.tell(routes, parts.version, parts.table.urls)
        self.view.start()
        self._watchdog.start()
        # What lives now lives on: the collector need not look at it again, and forks of its pages are spared.
        gc.collect()
        gc.freeze()
        self._trimming.start()
        self.reloader.start()

    async def run(self) -> None:
        """Serve until `request_quit`, then drain and close. Raises StartError if a required route gets no token in
        time.
        """
        await self._until_told()
        proxy, clock, drain = self.parts.proxy, self.parts.clock, self.parts.config.drain
        _log.info(
            f"draining: {proxy.connections} connections are open, and get at most {drain.max:g} s to end",
            extra={"fields": {"connections": proxy.connections, "max": drain.max}},
        )
        began_mono = clock.mono()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain.min):
                await self._stop_now.wait()
        proxy.stop_accepting()
        proxy.begin_drain()
        left = max(0.0, drain.max - (clock.mono() - began_mono))
        try:
            async with asyncio.timeout(left):
                await proxy.drained()
        except TimeoutError:
            _log.warning(
                "drain timed out: open connections are closed",
                extra={"fields": {"connections": proxy.connections, "max": drain.max}},
            )
        await self.close()
        _log.info("stopped: no connection is open any more, and the sidecar ends")

    def request_quit(self, *, at_once: bool = True) -> None:
        """Begin to stop; calling it again is harmless. Unless `at_once`, go on accepting for `drain.min`: the app may
        stop later, and must learn on each of its connections that it closes.
        """
        self.readiness.is_draining = True
        self.parts.proxy.announce_end()
        self._stop.set()
        if at_once:
            self._stop_now.set()

    def _tell_credentials(self, warnings: Iterable[str]) -> None:
        parts = self.parts
        for name, source in parts.sources.items():
            found = source.describe()
            _log.info(f"credential `{name}`: {found}", extra={"fields": {"credential": name, "found": found}})
        for warning in warnings:
            _log.warning(warning)
        if (told := told_at_start(parts.environ, parts.config)) is not None:
            _log.info(told)

    async def _until_told(self) -> None:
        if any(route.config.required for route in self.parts.table.routes):
            with suppress(TimeoutError):
                async with asyncio.timeout(self.readiness.startup_left()):
                    await self._stop.wait()
            if (fault := self.readiness.overdue()) is not None:
                _log.error(
                    f"a required route has no token, and the sidecar ends: {fault}",
                    extra={"fields": {"detail": str(fault)}},
                )
                await self.close()
                raise fault
        await self._stop.wait()

    async def close(self) -> None:
        """Close everything at once; for one that was started, `run` does so."""
        parts = self.parts
        self.reloader.stop()
        parts.file_watch.stop()
        self.view.stop()
        self._watchdog.stop()
        self._trimming.stop()
        parts.proxy.stop_accepting()
        parts.proxy.abort()
        await self.handouts.close()
        await parts.tokens.close()
        await parts.tasks.close()
        if parts.tracer is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SPANS):
                    await parts.loop.run_in_executor(None, parts.tracer.close)
        if self._admin is not None:
            await self._admin.close()
        parts.bindings.close()


def _admin_server() -> Callable[[AdminView, Sequence[socket.socket], Clock], Site]:
    from sidecar.admin.app import admin_server

    return admin_server
