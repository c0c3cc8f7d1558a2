"""A small view of a sidecar for the admin server to show."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from prometheus_client.registry import CollectorRegistry

from sidecar.admin.app import admin_server
from sidecar.admin.exposition import build_registry
from sidecar.observe.log_sink import LineLoss
from sidecar.observe.metrics import (
    HandoutStats,
    ListenerStats,
    LoopStats,
    ReloadStats,
    RouteStats,
    Stall,
    TokenStatsTable,
)
from sidecar.tokens.entry import TokenStatus
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.renewals import Renewal
from tests.support.clock import FakeClock


@dataclass
class FakeSidecar:
    """`AdminView` and `MetricsSource` in plain attributes, for a test to set."""

    reasons: list[str] = field(default_factory=list)
    started: bool = True
    draining: bool = False
    version: str = "1.2.3"
    started_at: float = 1_700_000_000.0
    stats: dict[str, RouteStats] = field(default_factory=dict)
    table: TokenStatsTable = field(default_factory=lambda: TokenStatsTable(limit=100))
    statuses: list[TokenStatus] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    threads: list[tuple[str, FetchThreads]] = field(default_factory=list)
    open: int = 0
    listeners: ListenerStats = field(default_factory=ListenerStats)
    shown: list[Any] = field(default_factory=list)
    client_certificates: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"ok": 1, "unchanged": 2, "error": 3})
    last_ok: bool = True
    at: float = 1_700_000_000.0
    levels: list[str | None] = field(default_factory=list)
    reloaded: tuple[str, str] = ("ok", "")
    missing: str = ""
    renewals: list[Renewal] | Exception = field(default_factory=list)
    renewed: list[str | None] = field(default_factory=list)
    nudges: int = 0
    quits: int = 0

    @property
    def registry(self) -> CollectorRegistry:
        """A registry that reads this object."""
        return build_registry(self)

    def ready_state(self) -> tuple[bool, list[str]]:
        """Ready if nothing speaks against it."""
        return not self.reasons, self.reasons

    def shortfall(self) -> str:
        """What the test set."""
        return self.missing

    async def renew(self, route: str | None) -> list[Renewal]:
        """What the test set."""
        self.renewed.append(route)
        if isinstance(self.renewals, Exception):
            raise self.renewals
        return self.renewals

    def is_ready(self) -> bool:
        """The same for the collector."""
        return not self.reasons

    def fault(self, error: Exception, where: str) -> None:
        """A test that meets one is to fail."""
        raise error

    def status(self) -> dict[str, Any]:
        """What the test set."""
        return self.document

    def routes(self) -> list[tuple[str, RouteStats]]:
        """What the test set."""
        return list(self.stats.items())

    def handouts(self) -> list[tuple[str, HandoutStats]]:
        """Both servers, and one has given tokens."""
        return [
            ("metadata_server", HandoutStats({"id": 3}, {"not_allowed": 1})),
            ("token_endpoint", HandoutStats()),
        ]

    def tokens(self) -> list[TokenStatus]:
        """What the test set."""
        return self.statuses

    def token_stats(self) -> TokenStatsTable:
        """What the test set."""
        return self.table

    def faults(self) -> int:
        return 2

    def loop_stats(self) -> LoopStats:
        stats = LoopStats()
        stats.lag.observe(0.3)
        stats.stalls[Stall.BLOCKED] = 1
        return stats

    def log_lines_lost(self) -> dict[LineLoss, int]:
        return {LineLoss.FULL: 4}

    def reload_stats(self) -> ReloadStats:
        """What the test set."""
        return ReloadStats(self.counts, self.last_ok, self.at)

    def set_log_level(self, level: str | None) -> str:
        """Counts."""
        self.levels.append(level)
        return level or "debug"

    async def reload(self) -> tuple[str, str]:
        """What the test set."""
        return self.reloaded

    def connections(self) -> int:
        """What the test set."""
        return self.open

    def listener_stats(self) -> ListenerStats:
        """What the test set."""
        return self.listeners

    def client_expiries(self) -> dict[str, float]:
        return self.client_certificates

    def certificates(self) -> list[Any]:
        """What the test set."""
        return self.shown

    def fetch_threads(self) -> list[tuple[str, FetchThreads]]:
        """What the test set."""
        return self.threads

    def nudge(self) -> None:
        """Counts."""
        self.nudges += 1

    def request_quit(self) -> None:
        """Counts."""
        self.quits += 1


@pytest.fixture
def view() -> FakeSidecar:
    """A sidecar that is ready."""
    return FakeSidecar()


@pytest.fixture
async def client(view: FakeSidecar) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the admin server of `view`, over a real socket."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    site = admin_server(view, [sock], FakeClock())
    await site.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}") as session:
        yield session
    await site.close()
