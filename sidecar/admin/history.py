"""The last minutes of traffic, for the status page's plots.

Owns the samples: what the counters of all routes rose by in each interval, and what durations that makes.
`service` calls `sample` by a timer. Pure: time and counters come in. The rule: a bounded number of samples, and
nothing that a request would have to do for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, final

from sidecar.observe.family import Histogram
from sidecar.observe.metrics import RouteStats

INTERVAL: Final = 5.0
"""Seconds between samples."""

KEPT: Final = 60


class TrafficSample(NamedTuple):
    """One interval; durations in seconds, None where there was no request."""

    at: float
    """Its end, Unix seconds."""
    requests_per_second: float
    errors_per_second: float
    """Answers of 500 and above."""
    median: float | None
    p99: float | None
    own_median: float | None
    """The sidecar's own share."""


class _Counts(NamedTuple):
    mono: float
    requests: int
    errors: int
    total: Sequence[int]
    own: Sequence[int]


@final
class History:
    """The traffic of the whole process, interval by interval."""

    def __init__(self) -> None:
        self._last: _Counts | None = None
        self._samples: deque[TrafficSample] = deque(maxlen=KEPT)

    def sample(self, stats: Iterable[RouteStats], *, now_at: float, now_mono: float) -> None:
        """Close an interval and begin the next."""
        every = list(stats)
        requests = errors = 0
        for record in every:
            for (_, code), count in record.requests.items():
                requests += count
                errors += count if code >= 500 else 0
        counts = _Counts(
            now_mono,
            requests,
            errors,
            _summed([record.total for record in every]),
            _summed([record.own for record in every]),
        )
        before, self._last = self._last, counts
        if before is None or not every or now_mono <= before.mono:
            return
        seconds = now_mono - before.mono
        total = _difference(counts.total, before.total)
        own = _difference(counts.own, before.own)
        self._samples.append(
            TrafficSample(
                now_at,
                max(0, requests - before.requests) / seconds,
                max(0, errors - before.errors) / seconds,
                quantile(every[0].total.bounds, total, 0.5),
                quantile(every[0].total.bounds, total, 0.99),
                quantile(every[0].own.bounds, own, 0.5),
            )
        )

    @property
    def samples(self) -> Sequence[TrafficSample]:
        """Oldest first."""
        return tuple(self._samples)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The duration that `share` of the observations stay below, interpolated within its bucket as Prometheus does.

    What lies above the last bound is given as that bound; None where there are no observations.
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


def _summed(histograms: Sequence[Histogram]) -> Sequence[int]:
    return [sum(column) for column in zip(*(histogram.counts for histogram in histograms), strict=True)]


def _difference(now: Sequence[int], before: Sequence[int]) -> Sequence[int]:
    return [max(0, one - other) for one, other in zip(now, before or [0] * len(now), strict=False)]
