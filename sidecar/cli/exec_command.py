"""`exec`: a command with a sidecar beside it, where a sidecar container is not possible.

Owns the child process: its environment, the signals passed to it, its exit code, and the orphans it leaves (this
process may be PID 1 of a container). Called by the `exec` command. The sidecar runs in this process, so it lives as
long as the command. The rule: it collects no children that other code waits for. Commands that print tokens are
started by worker threads, which wait for them. The kernel keeps children by the thread that started them, and gives
orphans to the main thread (wait(2), `find_new_reaper` in kernel/exit.c): those of the main thread are collected here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, final

from sidecar.cli.transparent import for_java
from sidecar.config import own_ports
from sidecar.config.base_urls import VARIABLE, variable
from sidecar.config.credentials import ADC_VARIABLE
from sidecar.config.load import PREFIX
from sidecar.config.models import Config
from sidecar.config.transparent import by_http, by_https, spared_beside
from sidecar.config.variables import leading_to
from sidecar.grammar.contents import place
from sidecar.runtime import systemd
from sidecar.runtime.hardening import Process
from sidecar.service.life import Service

_log = logging.getLogger(__name__)

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""Exit codes, as a shell reports them."""

_FORWARDED: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT),
)
_READY_POLL: Final = 0.02

_WNOTHREAD: Final = 0x20000000
"""__WNOTHREAD of linux/wait.h: only children of the calling thread. Other systems lack it, and give orphans to PID 1
only.
"""


def beside_a_command(config: Config) -> Config:
    """The configuration with `exec`'s own defaults, so that several can run side by side and print little.

    If you don't set them, `listen` and `admin` move to other ports when theirs are taken, and only warnings are
    logged. Every route without a port gets one, unless the shared listener distinguishes its callers, which a port
    can't (`own_ports.why_none`).
    """
    update: dict[str, Any] = {}
    if "listen" not in config.model_fields_set:
        update["listen"] = tuple(
            it.model_copy(update={"address": replace(it.address, auto=True)}) for it in config.listen
        )
    if "admin" not in config.model_fields_set:
        update["admin"] = tuple(replace(address, auto=True) for address in config.admin)
    for key, handout in config.handouts.items():
        if handout.listen and "listen" not in handout.model_fields_set:
            listen = tuple(replace(address, auto=True) for address in handout.listen)
            update[key] = handout.model_copy(update={"listen": listen})
    if "log_level" not in config.model_fields_set:
        update["log_level"] = "warning"
    if own_ports.why_none(config.listen) is None:
        handouts = (address for it in config.handouts.values() for address in it.listen)
        taken = [*(it.address for it in config.listen), *config.admin, *handouts]
        routes = own_ports.with_own(config.routes, config.listen)
        update["routes"] = tuple(own_ports.numbered(routes, taken))
    return config.model_copy(update=update)


def passed_on(environ: Mapping[str, str], secret: Collection[str], named: Collection[str]) -> dict[str, str]:
    """The part of this process's environment that the command sees: everything except the sidecar's own settings and
    the `secret` variables, unless they are `named`. Never what systemd told this process.
    """
    return {
        name: value
        for name, value in environ.items()
        if name not in systemd.VARIABLES
        and (name in named or not (name.startswith(PREFIX) or name in secret))
    }


def environment(
    service: Service,
    environ: Mapping[str, str],
    *,
    http_proxy: bool,
    named: Collection[str] = (),
    transparent: str | None = None,
) -> dict[str, str]:
    """The child's environment: the sidecar's base URL, one for each route, the proxy variables if requested, and the
    metadata server's address if that is on. See `passed_on` for the rest. `transparent` is a directory of this
    process: https then goes through the sidecar too, with the CA to trust.
    """
    config, bindings = service.parts.config, service.parts.bindings
    base, urls = bindings.url(), bindings.urls(config.routes)
    child = passed_on(environ, config.secret_variables, named)
    if base is not None:
        child[VARIABLE] = base
    for route in config.routes:
        url = urls.get(route.name) or bindings.url(route.name) or base
        if url is not None:
            child[variable(route.name)] = url
    if (http_proxy or transparent is not None) and base is not None:
        spared = spared_beside(environ.get("NO_PROXY") or environ.get("no_proxy") or "")
        child.update(by_http(base, spared))
        if transparent is not None:
            child.update(_for_https(service, child, base, spared, transparent))
    if (metadata := bindings.metadata_address()) is not None:
        child.update(leading_to(metadata))
        if ADC_VARIABLE not in named:
            # Libraries go by it before they look for a metadata server.
            child.pop(ADC_VARIABLE, None)
    return child


def _for_https(
    service: Service, child: Mapping[str, str], base: str, spared: Sequence[str], directory: str
) -> dict[str, str]:
    """The variables that lead https through the sidecar, if it reads any."""
    bundle = service.parts.proxy.interception.bundle_file
    if bundle is None:
        _log.warning("https is not led through the sidecar: no route has a host and is to be intercepted")
        return {}
    java = for_java(child, proxy=base, spared=spared, bundle=bundle, directory=directory)
    return {**by_https(base, os.path.abspath(bundle)), **java}


@final
class Child:
    """The command, started once the sidecar is ready."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        process: Process,
        http_proxy: bool,
        wait: bool,
        named: Collection[str] = (),
        transparent: str | None = None,
    ) -> None:
        """`process` knows the limits that the command gets. `named` are variables that it sees even if they are
        secrets or settings. `transparent` is that of `environment`.
        """
        self._command = list(command)
        self._environ = environ
        self._limits = process
        self._http_proxy = http_proxy
        self._named = frozenset(named)
        self._wait = wait
        self._transparent = transparent
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Event = asyncio.Event()
        self._stopped_early: signal.Signals | None = None
        self._code = 0

    async def __call__(self, service: Service) -> int:
        """Run the command; its exit code, or 128 plus the signal that ended it."""
        loop = asyncio.get_running_loop()
        for number in _FORWARDED:
            loop.add_signal_handler(number, self._forward, number)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        if self._wait:
            await self._until_ready(service)
        if self._stopped_early is not None:
            return 128 + self._stopped_early
        try:
            # Not asyncio's: orphans are collected here, and two who wait for one child lose its code.
            with self._limits.as_found():
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603  # fork is short; the command is the caller's
                    self._command,
                    env=environment(
                        service,
                        self._environ,
                        http_proxy=self._http_proxy,
                        named=self._named,
                        transparent=self._transparent,
                    ),
                )
        except OSError as error:
            print(f"idtoken-sidecar: {place(self._command[0])}: {error.strerror}", file=sys.stderr)
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        self._reap()
        await self._ended.wait()
        return self._code

    async def _until_ready(self, service: Service) -> None:
        while not service.readiness.state()[0] and self._stopped_early is None:  # polled, as probes do
            if (fault := service.readiness.overdue()) is not None:
                raise fault
            await asyncio.sleep(_READY_POLL)
        missing = [token.key.audience for token in service.view.tokens() if token.expires_at is None]
        if missing and self._stopped_early is None:
            _log.warning(
                f"starting the command without all tokens: none for {', '.join(missing)}",
                extra={"fields": {"missing": missing}},
            )

    def _forward(self, number: signal.Signals) -> None:
        if self._process is None:
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                self._stopped_early = number
        elif number != signal.SIGINT or not sys.stdin.isatty():
            # On a terminal, Ctrl-C has reached the whole foreground group already.
            self._process.send_signal(number)

    def _reap(self) -> None:
        """Collect the main thread's children that have ended; see the module's docstring."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ChildProcessError):
                self._collected(*os.waitpid(self._process.pid, os.WNOHANG))
        while sys.platform == "linux":
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | _WNOTHREAD)
            except OSError:  # no child at all, or a kernel that knows no threads here (EINVAL)
                return
            if pid == 0:
                return
            self._collected(pid, status)

    def _collected(self, pid: int, status: int) -> None:
        if self._process is not None and pid == self._process.pid:
            code = os.waitstatus_to_exitcode(status)
            self._code = 128 - code if code < 0 else code
            self._process.returncode = code
            self._ended.set()
