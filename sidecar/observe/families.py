"""Every metric that operators see, with how it is read: one table.

Most are declared at the fields of the records in `metrics`; all but counters are declared here. `admin.exposition`
reads the table at each scrape, and docs/metrics.md is made from it. The service is the `MetricsSource`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from sidecar.observe.family import Family, Kind, Labels, Samples, declared, family
from sidecar.observe.log_sink import LineLoss
from sidecar.observe.metrics import (
    TOKEN_STATES,
    HandoutStats,
    ListenerStats,
    LoopStats,
    ReloadStats,
    RouteStats,
    TokenStats,
    TokenStatsTable,
)
from sidecar.runtime import built


class CertificateReading(Protocol):
    """A certificate that a listener shows."""

    expires_at: float | None
    """Unix seconds."""
    is_current: bool
    """Whether its files were last read successfully."""


class TokenLabels(Protocol):
    """The part of a token's key that becomes labels."""

    @property
    def credential(self) -> str: ...
    @property
    def audience(self) -> str: ...


class TokenReading(Protocol):
    """What the store knows about one token."""

    @property
    def key(self) -> TokenLabels: ...
    @property
    def state(self) -> str:
        """One of `TOKEN_STATES`."""
        ...

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None while there is no token."""
        ...


class ThreadsReading(Protocol):
    """The threads of one credential."""

    running: int
    abandoned: int
    """How many of the running ones were given up."""
    given_up: int
    """How many fetches were given up so far."""


class MetricsSource(Protocol):
    """What the collector reads; implemented by the composition root."""

    @property
    def version(self) -> str: ...
    @property
    def started_at(self) -> float:
        """Unix seconds."""
        ...

    def is_ready(self) -> bool: ...
    def routes(self) -> Iterable[tuple[str, RouteStats]]:
        """Every route's record under its name. Requests without a route are under the empty name."""
        ...

    def connections(self) -> int:
        """Connections from apps that are open."""
        ...

    def listener_stats(self) -> ListenerStats: ...
    def certificates(self) -> Iterable[CertificateReading]: ...
    def client_expiries(self) -> Mapping[str, float]:
        """When the certificates that the sidecar presents to upstreams expire, in Unix seconds, by route."""
        ...

    def handouts(self) -> Iterable[tuple[str, HandoutStats]]:
        """The record of each server that gives tokens to programs, under its key in the configuration."""
        ...

    def tokens(self) -> Iterable[TokenReading]: ...
    def token_stats(self) -> TokenStatsTable: ...
    def faults(self) -> int:
        """How many exceptions in the sidecar's own code were caught."""
        ...

    def loop_stats(self) -> LoopStats: ...
    def log_lines_lost(self) -> Mapping[LineLoss, int]:
        """By reason."""
        ...

    def reload_stats(self) -> ReloadStats: ...
    def fetch_threads(self) -> Iterable[tuple[str, ThreadsReading]]:
        """The threads of every credential, under its name."""
        ...


class Row(NamedTuple):
    """A family, and how to read it."""

    family: Family
    read: Callable[[MetricsSource], Samples]


def _one(name: str, kind: Kind, text: str, read: Callable[[MetricsSource], float | None]) -> Row:
    """A family without labels; None leaves it out."""

    def samples(source: MetricsSource) -> Samples:
        value = read(source)
        return () if value is None else (((), value),)

    return Row(family(name, kind, text), samples)


def _by(
    name: str, kind: Kind, text: str, label: str, read: Callable[[MetricsSource], Mapping[Any, float]]
) -> Row:
    """A family with one label."""
    return Row(
        family(name, kind, text, label),
        lambda source: (((word,), value) for word, value in read(source).items()),
    )


def _of(
    record: type, labels: Labels, records: Callable[[MetricsSource], Iterable[tuple[Labels, Any]]]
) -> list[Row]:
    """The families that a record's fields declare."""

    def row(it: Any) -> Row:
        return Row(it.family, lambda source: it.samples(records(source)))

    return [row(it) for it in declared(record, *labels)]


def _first_expiry(source: MetricsSource) -> float | None:
    return min((it.expires_at for it in source.certificates() if it.expires_at is not None), default=None)


def _certificates_are_current(source: MetricsSource) -> bool | None:
    current = [it.is_current for it in source.certificates()]
    return all(current) if current else None


def _expiries(source: MetricsSource) -> Samples:
    for labels, reading in _one_per_label(source.tokens()).items():
        if reading.expires_at is not None:
            yield labels, reading.expires_at


def _states(source: MetricsSource) -> Samples:
    for labels, reading in _one_per_label(source.tokens()).items():
        for state in TOKEN_STATES:
            yield (*labels, state), float(reading.state == state)


def _one_per_label(readings: Iterable[TokenReading]) -> dict[tuple[str, str], TokenReading]:
    """Two keys may have the same labels. The one that expires first counts for both."""
    chosen: dict[tuple[str, str], TokenReading] = {}
    for reading in readings:
        labels = (reading.key.credential, reading.key.audience)
        known = chosen.get(labels)
        if known is None or (reading.expires_at or 0.0) < (known.expires_at or 0.0):
            chosen[labels] = reading
    return chosen


def _threads(source: MetricsSource) -> Samples:
    for name, reading in source.fetch_threads():
        yield (name, "busy"), reading.running - reading.abandoned
        yield (name, "abandoned"), reading.abandoned


*_routes, _refusals = _of(
    RouteStats, ("route",), lambda source: (((name,), stats) for name, stats in source.routes())
)
_fetches, *_tokens = _of(
    TokenStats, ("credential", "audience"), lambda source: source.token_stats().records()
)

TABLE: Final[tuple[Row, ...]] = (
    Row(
        family(
            "build_info",
            Kind.INFO,
            "What is running; `build` is `compiled` where the data path is machine code, else `pure`.",
            *("version", "python", "build"),
        ),
        lambda source: (((source.version, platform.python_version(), built.kind()), 1.0),),
    ),
    _one(
        "start_time_seconds",
        Kind.GAUGE,
        "When the sidecar started, in Unix seconds.",
        lambda source: source.started_at,
    ),
    _one(
        "ready",
        Kind.GAUGE,
        "Whether /healthz/ready answers 200: 1 for yes, 0 for no.",
        lambda source: source.is_ready(),
    ),
    _one(
        "faults_total",
        Kind.COUNTER,
        "Exceptions in the sidecar's own code, each of which ended one connection at most; the log has the traceback. "
        "Any is a bug, or memory ran out.",
        lambda source: source.faults(),
    ),
    *_of(LoopStats, (), lambda source: [((), source.loop_stats())]),
    _by(
        "log_lines_lost_total",
        Kind.COUNTER,
        "Log lines that were not written: the reader is too slow (full) or gone, the disk is full (no_space), or "
        "another error.",
        "reason",
        lambda source: source.log_lines_lost(),
    ),
    *_of(ReloadStats, (), lambda source: [((), source.reload_stats())]),
    _one("app_connections", Kind.GAUGE, "Open connections from apps.", lambda source: source.connections()),
    *_of(ListenerStats, (), lambda source: [((), source.listener_stats())]),
    _one(
        "listener_certificate_expiry_timestamp_seconds",
        Kind.GAUGE,
        "When the first of the listeners' certificates, or the CA of `intercept.ca_cert_file`, expires, in Unix "
        "seconds; absent without one.",
        _first_expiry,
    ),
    _one(
        "listener_certificate_last_reload_successful",
        Kind.GAUGE,
        "Whether the last reading of each listener's certificate went well; else an old one is served. "
        "Absent without one.",
        _certificates_are_current,
    ),
    *_routes,
    _by(
        "tls_client_certificate_expiry_timestamp_seconds",
        Kind.GAUGE,
        "When the certificate that is shown to a route's upstream expires, in Unix seconds; absent without one.",
        "route",
        lambda source: source.client_expiries(),
    ),
    _refusals,
    Row(
        family(
            "token_expiry_timestamp_seconds",
            Kind.GAUGE,
            "When the token that is being served expires, in Unix seconds; absent while there is none.",
            "credential",
            "audience",
        ),
        _expiries,
    ),
    Row(
        family(
            "token_state",
            Kind.GAUGE,
            f"The state of each token: 1 for the current one of {', '.join(TOKEN_STATES)}, 0 for the rest.",
            "credential",
            "audience",
            "state",
        ),
        _states,
    ),
    _fetches,
    Row(
        family(
            "token_fetch_duration_seconds",
            Kind.HISTOGRAM,
            "Time that fetches took, whether they brought a token or not.",
            "credential",
        ),
        lambda source: (((name,), pair[0]) for name, pair in source.token_stats().histograms()),
    ),
    Row(
        family(
            "token_fetch_threads",
            Kind.GAUGE,
            "Threads that fetch tokens now, by whether somebody waits for them (busy) or they were given up and still "
            "hang (abandoned).",
            "credential",
            "state",
        ),
        _threads,
    ),
    _by(
        "token_fetches_abandoned_total",
        Kind.COUNTER,
        "Fetches that were given up because their time was over.",
        "credential",
        lambda source: {name: it.given_up for name, it in source.fetch_threads()},
    ),
    *_tokens,
    Row(
        family(
            "token_wait_seconds",
            Kind.HISTOGRAM,
            "Time that requests waited for a token, whether one came or not.",
            "credential",
        ),
        lambda source: (((name,), pair[1]) for name, pair in source.token_stats().histograms()),
    ),
    *_of(HandoutStats, ("server",), lambda source: (((name,), stats) for name, stats in source.handouts())),
)
"""In the order in which they are shown. prometheus-client's own `process_*` families follow."""

FAMILIES: Final = tuple(row.family for row in TABLE)
"""Every family that the sidecar declares."""
