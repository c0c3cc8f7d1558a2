"""The last hour of traffic, for the status page's plots, and each route's last minute, for its row.

Owns the samples: how much the counters of all routes grew in each interval, and the durations that follow. A timer of
`service` calls `sample`. Pure: time and counters are arguments. The rule: the number of samples is limited, and
requests do no work for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, final

from sidecar.observe.histogram import Histogram
from sidecar.observe.metrics import RouteStats

INTERVAL: Final = 10.0
"""Seconds between samples."""

KEPT: Final = 360
"""Samples: an hour."""

RECENT: Final = 6
"""The number of intervals in a route's own numbers: a minute."""


class TrafficSample(NamedTuple):
    """One interval. Durations are in seconds, None without requests."""

    at: float
    """Its end, Unix seconds."""
    requests_per_second: float
    errors_per_second: float
    """Answers of 500 and above."""
    median: float | None
    p99: float | None
    own_median: float | None
    """The sidecar's own share of the duration."""


class Recent(NamedTuple):
    """One route's last minute. Durations are in seconds, None without requests."""

    requests_per_second: float
    answers_4xx: int
    """4xx answers of the target and of the sidecar."""
    answers_5xx: int
    median: float | None
    p99: float | None
    own_median: float | None


NONE_YET: Final = Recent(0.0, 0, 0, None, None, None)


class _Counts(NamedTuple):
    mono: float
    requests: int
    refused: int
    """4xx."""
    errors: int
    total: Sequence[int]
    own: Sequence[int]


@final
class History:
    """The traffic of the process and of its routes, interval by interval."""

    def __init__(self) -> None:
        self._last: _Counts | None = None
        self._samples: deque[TrafficSample] = deque(maxlen=KEPT)
        self._routes: deque[dict[str, _Counts]] = deque(maxlen=RECENT + 1)
        self._bounds: tuple[Sequence[float], Sequence[float]] = ((), ())
        """The bounds of the two histograms."""

    def sample(self, stats: Iterable[tuple[str, RouteStats]], *, now_at: float, now_mono: float) -> None:
        """End an interval and begin the next; `stats` are by route."""
        routes = {}
        for name, record in stats:
            routes[name] = _counts(record, now_mono)
            self._bounds = record.total.bounds, record.own.bounds
        self._routes.append(routes)
        every = list(routes.values())
        counts = _Counts(
            now_mono,
            sum(it.requests for it in every),
            sum(it.refused for it in every),
            sum(it.errors for it in every),
            _summed([it.total for it in every]),
            _summed([it.own for it in every]),
        )
        before, self._last = self._last, counts
        if before is None or not every or now_mono <= before.mono:
            return
        rise = self._rise(before, counts)
        errors = max(0, counts.errors - before.errors) / (now_mono - before.mono)
        self._samples.append(
            TrafficSample(now_at, rise.requests_per_second, errors, rise.median, rise.p99, rise.own_median)
        )

    @property
    def samples(self) -> Sequence[TrafficSample]:
        """Oldest first."""
        return tuple(self._samples)

    def recent(self, route: str) -> Recent:
        """A route's last minute, or less if the route is newer."""
        known = [counts for routes in self._routes if (counts := routes.get(route)) is not None]
        if len(known) < 2 or known[-1].mono <= known[0].mono:
            return NONE_YET
        return self._rise(known[0], known[-1])

    def _rise(self, before: _Counts, now: _Counts) -> Recent:
        total_bounds, own_bounds = self._bounds
        total = _difference(now.total, before.total)
        return Recent(
            max(0, now.requests - before.requests) / (now.mono - before.mono),
            max(0, now.refused - before.refused),
            max(0, now.errors - before.errors),
            quantile(total_bounds, total, 0.5),
            quantile(total_bounds, total, 0.99),
            quantile(own_bounds, _difference(now.own, before.own), 0.5),
        )


def _counts(stats: RouteStats, now_mono: float) -> _Counts:
    requests = refused = errors = 0
    for (_, code), count in stats.requests.items():
        requests += count
        refused += count if 400 <= code < 500 else 0
        errors += count if code >= 500 else 0
    return _Counts(now_mono, requests, refused, errors, _copied(stats.total), _copied(stats.own))


def _copied(histogram: Histogram) -> Sequence[int]:
    return tuple(histogram.counts)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The duration that `share` of the observations stay below, interpolated within its bucket as Prometheus does.

    A value above the last bound is given as that bound; None without observations.
    """
    wanted = sum(counts) * share
    if wanted <= 0:
        return None
    seen, lower = 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if seen + count >= wanted and count:
            return lower + (bound - lower) * (wanted - seen) / count
        seen, lower = seen + count, bound
    return bounds[-1]


def _summed(counts: Sequence[Sequence[int]]) -> Sequence[int]:
    return [sum(column) for column in zip(*counts, strict=True)]


def _difference(now: Sequence[int], before: Sequence[int]) -> Sequence[int]:
    return [max(0, one - other) for one, other in zip(now, before or [0] * len(now), strict=False)]
