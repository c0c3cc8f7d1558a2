"""What the admin server sees of the sidecar.

Owns the seam `AdminView`, which `service` implements and every handler in this package reads. It may not
hold anything of its own, and has no member through which a token could be reached. Rule: the admin
server shows and asks; the service decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from sidecar.observe.logs import Level
from sidecar.tokens.renewals import Renewal

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry


class AdminView(Protocol):
    """The running sidecar, as far as its admin server is concerned; called on the event loop's thread."""

    @property
    def started(self) -> bool:
        """Whether it has been ready once; never taken back."""
        ...

    @property
    def draining(self) -> bool:
        """Whether it has been told to stop."""
        ...

    @property
    def registry(self) -> CollectorRegistry:
        """What /metrics shows; see `exposition.build_registry`."""
        ...

    def ready_state(self) -> tuple[bool, list[str]]:
        """Whether traffic may come, and otherwise why not: a sentence for each reason.

        Ready: listening, and every route to be prefetched has had its token once or `startup_wait` is
        over. It never depends on targets.
        """
        ...

    def shortfall(self) -> str:
        """Which tokens are missing, as a sentence's part: `3 of 3 tokens missing: …`; empty where none is."""
        ...

    async def renew(self, route: str | None) -> list[Renewal]:
        """Fetch the tokens of this route now, or of all routes, and say what came of each.

        Raises KeyError for a route that there is not, TooSoonError where that was asked for just now.
        """
        ...

    def status(self) -> dict[str, Any]:
        """What /status.json shows; see `status.document`."""
        ...

    async def configuration(self) -> str:
        """The configuration in use, with every default; secrets are hidden."""
        ...

    async def explain(self, url: str, lines: Sequence[str]) -> dict[str, Any]:
        """Test a request; see `explain.explain`. ValueError with a sentence where it is not one."""
        ...

    def fault(self, error: Exception, where: str) -> None:
        """Log and count a fault that was met in showing something."""
        ...

    def nudge(self) -> None:
        """Check all tokens by the wall clock: a probe may be the only moment with CPU (Cloud Run)."""
        ...

    async def reload(self) -> tuple[str, str]:
        """Read the configuration again: `ok`, `unchanged` or `error`, and what is to be told."""
        ...

    def set_log_level(self, level: Level | None) -> Level:
        """Log from this level on; None: `debug`, or the configured level where it was `debug`. What it is now."""
        ...

    def request_quit(self) -> None:
        """Begin to stop, as SIGTERM would; returns at once."""
        ...


VIEW: web.AppKey[AdminView] = web.AppKey("view")
"""Where the application keeps its view."""
