"""A sidecar in this process: event loop, signals, exit codes.

Called by the `run` command, and by `exec_command` for `exec`. Owns the parts that belong to the process: the loop,
the handlers of SIGTERM and SIGINT, the order at its end. Exit codes: 0 told to stop, 2 configuration, 3 an address
that cannot be listened on, 4 a required route got no token; a second signal ends at once with 128 plus its number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, NoReturn, TypeVar

from sidecar.config.models import Config
from sidecar.net.event_loop import new_event_loop
from sidecar.observe import logs
from sidecar.proxy.refusals import outages
from sidecar.runtime import systemd
from sidecar.runtime.hardening import Process
from sidecar.runtime.tasks import Tasks
from sidecar.service.life import Service
from sidecar.service.reload import ConfigSource
from sidecar.service.start_error import EXIT_BIND, StartError
from sidecar.tokens.sources import quiet_google_logging

_log = logging.getLogger(__name__)

T = TypeVar("T")

_READY_POLL: Final = 0.05

_LAST_LINES: Final = 2.0
"""Seconds for writing the last log lines at the end."""

Then = Callable[[Service], Awaitable[int]]
"""Runs beside the sidecar. When it ends, the sidecar stops, and its exit code becomes the process's."""


def serve(
    config: Config,
    warnings: tuple[str, ...],
    environ: Mapping[str, str],
    then: Then | None = None,
    *,
    process: Process,
    source: ConfigSource | None = None,
) -> int:
    """Run until told to stop; returns the exit code. `then` runs beside it, and its end is the end.

    `process` was made before anything was read. `source` reads the configuration again, if that is possible.
    """
    # Beside a command, stdout is the command's.
    stream = sys.stdout if then is None else sys.stderr
    handler = logs.configure(config.log_level, config.log_format, stream, waiting=False)
    process.settle(core_dumps=config.core_dumps, passes_on=then is not None)
    quiet_google_logging()
    for warning in warnings:
        _log.warning(warning)
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_serve(config, environ, loop, handler, then, source))
    except StartError as error:
        print(f"idtoken-sidecar: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        logs.flush(_LAST_LINES)


def alone(work: Coroutine[Any, Any, T]) -> T:
    """The outcome of a command that serves no app. Only errors are logged, to stderr."""
    logs.configure("error", "text", sys.stderr)
    # What the command prints says which routes refuse.
    logging.getLogger(outages.__name__).disabled = True
    quiet_google_logging()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(work)


def leave(code: int) -> NoReturn:
    """End the process now. sys.exit would wait for the executor's threads, where a name look-up can hang for half a
    minute.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


async def _serve(
    config: Config,
    environ: Mapping[str, str],
    loop: asyncio.AbstractEventLoop,
    handler: logs.LogHandler,
    then: Then | None,
    source: ConfigSource | None,
) -> int:
    try:
        inherited = systemd.inherited_sockets(environ, os.getpid())
    except ValueError as error:
        raise StartError(f"socket activation: {error}", EXIT_BIND) from error
    service = Service(
        config, loop, environ=environ, inherited=inherited, log_lines_lost=handler.lost, source=source
    )

    def told(number: signal.Signals) -> None:
        if service.readiness.is_draining:
            logs.flush(_LAST_LINES / 10)
            os._exit(128 + number)
        _log.info(f"signal {number.name}: the sidecar stops", extra={"fields": {"signal": number.name}})
        # A person at a terminal does not wait for an app to stop.
        service.request_quit(at_once=number == signal.SIGINT)
        systemd.notify(environ, "STOPPING=1")

    if then is None:
        # Before it starts: a signal's default is to end the process in the middle of that.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told, number)
        loop.add_signal_handler(signal.SIGUSR1, service.view.set_log_level, None)
        if source is not None:
            loop.add_signal_handler(signal.SIGHUP, service.reloader.request)
    await service.start()
    if then is None:
        tasks = Tasks(loop)
        if environ.get("NOTIFY_SOCKET"):
            tasks.spawn(_tell_ready(service, environ), name="tell systemd")
        await service.run()
        await tasks.close()
        return 0
    try:
        code = await then(service)
    finally:
        service.request_quit()
        await service.run()
    return code


async def _tell_ready(service: Service, environ: Mapping[str, str]) -> None:
    while not service.readiness.state()[0]:  # noqa: ASYNC110  # polled, as probes do
        await asyncio.sleep(_READY_POLL)
    systemd.notify(environ, "READY=1", f"STATUS=serving {len(service.parts.config.routes)} route(s)")
