"""The admin server's view of the sidecar.

Owns the interface `AdminView`, which `service` implements and every handler in this package uses. It has no state,
and no member that leads to a token. Rule: the admin server shows and requests; the service decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.observe.logs import Level
from sidecar.tokens.renewals import Renewal

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry


class AdminView(Protocol):
    """The running sidecar, for its admin server. Called on the event loop's thread."""

    @property
    def started(self) -> bool:
        """Whether it has ever been ready."""
        ...

    @property
    def draining(self) -> bool:
        """Whether it has been told to stop."""
        ...

    @property
    def registry(self) -> CollectorRegistry:
        """The registry behind /metrics; see `exposition.build_registry`."""
        ...

    def ready_state(self) -> tuple[bool, list[str]]:
        """Whether it takes traffic, and if not, a sentence for each reason.

        It is ready when it listens and each token to prefetch was there once, or `startup_wait` is over. Targets
        don't matter.
        """
        ...

    def shortfall(self) -> str:
        """What is wrong although it is ready, in one line; see `shortfall`. Empty if nothing is."""
        ...

    async def renew(self, route: str | None) -> list[Renewal]:
        """Fetch the tokens of this route, or of all routes, now, and report the result of each.

        Raises KeyError for an unknown route, TooSoonError if this was done a moment ago.
        """
        ...

    def status(self) -> dict[str, Any]:
        """The contents of /status.json; see `status.document`."""
        ...

    async def configuration(self) -> str:
        """The configuration in use, with every default; secrets are hidden."""
        ...

    async def explain(self, url: str, lines: Sequence[str]) -> dict[str, Any]:
        """Test a request; see `explain.explain`. ValueError, with a sentence, if it is not one."""
        ...

    def fault(self, error: Exception, where: str) -> None:
        """Log and count a fault that happened while showing something."""
        ...

    def nudge(self) -> None:
        """Check all tokens by the wall clock: a probe may be the only moment with CPU (Cloud Run)."""
        ...

    async def reload(self) -> tuple[str, str]:
        """Read the configuration again. Returns `ok`, `unchanged` or `error`, and a text for the caller."""
        ...

    def set_log_level(self, level: Level | None) -> Level:
        """Set the log level; None switches to `debug`, or from there back to the configured level. Returns the level
        now in force.
        """
        ...

    def request_quit(self) -> None:
        """Begin to stop, as after SIGTERM. Returns at once."""
        ...
