"""What /metrics shows: the records of `sidecar.metrics`, in Prometheus text or OpenMetrics.

Owns the collector that reads the records when it is scraped and the rendering of the page. `service`
builds the registry, `admin.app` serves it; both on the event loop's thread, on which the records are
written too. It may not count anything itself. Rules: Prometheus text 0.0.4 and 1.0, OpenMetrics 1.0, by
`Accept`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import final

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import floatToGoString

from sidecar import metrics
from sidecar.metrics import (
    Family,
    HandshakeFailure,
    Histogram,
    Kind,
    MetricsSource,
    Pause,
    RouteStats,
    TokenReading,
)

Samples = Iterable[tuple[tuple[str, ...], float]]


@final
class SidecarCollector:
    """Turns the records into metric families when it is scraped."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Every family of `FAMILIES`, each read in one piece."""
        source = self._source
        yield InfoMetricFamily(
            metrics.BUILD.name.removesuffix("_info"),
            metrics.BUILD.help,
            {"version": source.version, "python": platform.python_version()},
        )
        yield _single(metrics.START, [((), source.started_at)])
        yield _single(metrics.READY, [((), float(source.is_ready()))])
        yield _single(metrics.FAULTS, [((), source.faults())])
        loop = source.loop_stats()
        lag = HistogramMetricFamily(metrics.LOOP_LAG.name, metrics.LOOP_LAG.help, unit=metrics.LOOP_LAG.unit)
        lag.add_metric((), _cumulative(loop.lag), loop.lag.sum)
        yield lag
        yield _single(metrics.LOOP_STALLS, (((reason,), count) for reason, count in loop.stalls.items()))
        lost = source.log_lines_lost()
        yield _single(metrics.LOG_LINES_LOST, (((reason,), count) for reason, count in lost.items()))
        reloads = source.reloads()
        yield _single(metrics.RELOADS, (((result,), count) for result, count in reloads.counts.items()))
        yield _single(metrics.RELOAD_OK, [((), float(reloads.last_ok))])
        yield _single(metrics.RELOADED_AT, [((), reloads.at)])
        yield from self._listeners()
        yield from self._routes()
        yield from self._tokens()

    def _listeners(self) -> Iterator[Metric]:
        stats = self._source.listener_stats()
        yield _single(metrics.APP_CONNECTIONS, [((), self._source.connections())])
        yield _single(metrics.ACCEPTED, [((), stats.accepted)])
        # From nought on, each: a rate does not see the step with which a series begins.
        yield _single(metrics.ACCEPT_PAUSES, (((reason,), stats.paused.get(reason, 0)) for reason in Pause))
        yield _single(metrics.PAUSING, [((), stats.pausing)])
        yield _single(metrics.PEERS_REFUSED, [((), stats.peers_refused)])
        yield _single(
            metrics.HANDSHAKES_FAILED,
            (((reason,), stats.handshakes_failed.get(reason, 0)) for reason in HandshakeFailure),
        )
        certificates = list(self._source.certificates())
        expiries = [it.expires_at for it in certificates if it.expires_at is not None]
        yield _single(metrics.CERTIFICATE_EXPIRY, [((), min(expiries))] if expiries else [])
        current = all(it.is_current for it in certificates)
        yield _single(metrics.CERTIFICATE_OK, [((), float(current))] if certificates else [])

    def _routes(self) -> Iterator[Metric]:
        routes = list(self._source.routes())

        def plain(family: Family, read: Callable[[RouteStats], int]) -> Metric:
            return _single(family, (((name,), read(stats)) for name, stats in routes))

        yield _single(
            metrics.REQUESTS,
            (
                ((name, method, str(code)), count)
                for name, stats in routes
                for (method, code), count in stats.requests.items()
            ),
        )
        yield _single(
            metrics.REFUSED,
            (((name, reason), count) for name, stats in routes for reason, count in stats.refused.items()),
        )
        yield _single(
            metrics.CUT,
            (((name, reason), count) for name, stats in routes for reason, count in stats.cut.items()),
        )
        yield plain(metrics.IDLE_CLOSED, lambda stats: stats.idle_closed)
        yield plain(metrics.PIPELINING_STOPPED, lambda stats: stats.pipelining_stopped)
        yield _histograms(metrics.DURATION, ((name, stats.total) for name, stats in routes))
        yield _histograms(metrics.OWN_DURATION, ((name, stats.own) for name, stats in routes))
        yield plain(metrics.IN_FLIGHT, lambda stats: stats.in_flight)
        yield plain(metrics.QUEUED, lambda stats: stats.queued)
        yield plain(metrics.BYTES_SENT, lambda stats: stats.bytes_sent)
        yield plain(metrics.BYTES_RECEIVED, lambda stats: stats.bytes_received)
        yield _single(
            metrics.CONNECTIONS,
            (
                sample
                for name, stats in routes
                for sample in (
                    ((name, "active"), stats.connections_active),
                    ((name, "idle"), stats.connections_idle),
                )
            ),
        )
        yield plain(metrics.CONNECTIONS_OPENED, lambda stats: stats.connections_opened)
        yield _single(
            metrics.CONNECT_FAILURES,
            (
                ((name, reason), count)
                for name, stats in routes
                for reason, count in stats.connect_failures.items()
            ),
        )
        yield plain(metrics.CONNECTS_HELD_BACK, lambda stats: stats.connects_held_back)
        yield plain(metrics.RETRIES, lambda stats: stats.retries)
        yield plain(metrics.RETRIES_DENIED, lambda stats: stats.retries_denied)
        yield plain(metrics.REPLAYS, lambda stats: stats.replays)
        yield plain(metrics.UPGRADES, lambda stats: stats.upgrades)
        yield plain(metrics.TUNNELS, lambda stats: stats.tunnels)
        yield _single(
            metrics.TLS_RELOADS,
            (
                ((name, result), count)
                for name, stats in routes
                for result, count in stats.tls_reloads.items()
            ),
        )
        yield _single(
            metrics.TLS_OK,
            (((name,), float(stats.tls_current)) for name, stats in routes if stats.tls_current is not None),
        )
        yield _single(
            metrics.TLS_CLIENT_EXPIRY, (((name,), at) for name, at in self._source.client_expiries().items())
        )
        yield _single(
            metrics.UPSTREAM_REFUSALS,
            (
                ((name, reason), count)
                for name, stats in routes
                for reason, count in stats.upstream_refusals.items()
            ),
        )

    def _tokens(self) -> Iterator[Metric]:
        readings = _one_per_label(self._source.tokens())
        table = self._source.token_stats()
        yield _single(
            metrics.TOKEN_EXPIRY,
            (
                (labels, reading.expires_at)
                for labels, reading in readings.items()
                if reading.expires_at is not None
            ),
        )
        yield _single(
            metrics.TOKEN_STATE,
            (
                ((*labels, state), float(reading.state == state))
                for labels, reading in readings.items()
                for state in metrics.TOKEN_STATES
            ),
        )
        yield _single(
            metrics.TOKEN_FETCHES,
            (
                ((*labels, result, reason), count)
                for labels, stats in table.records()
                for (result, reason), count in stats.fetches.items()
            ),
        )
        yield _histograms(
            metrics.TOKEN_FETCH_DURATION, ((name, pair[0]) for name, pair in table.histograms())
        )
        threads = list(self._source.fetch_threads())
        yield _single(
            metrics.FETCH_THREADS,
            (
                sample
                for name, reading in threads
                for sample in (
                    ((name, "busy"), reading.running - reading.abandoned),
                    ((name, "abandoned"), reading.abandoned),
                )
            ),
        )
        yield _single(metrics.ABANDONED, (((name,), reading.given_up) for name, reading in threads))
        yield _single(
            metrics.TOKEN_INVALIDATED, ((labels, stats.invalidated) for labels, stats in table.records())
        )
        yield _single(metrics.TOKEN_WAITS, ((labels, stats.waits) for labels, stats in table.records()))
        yield _single(metrics.TOKEN_WAITING, ((labels, stats.waiting) for labels, stats in table.records()))
        yield _histograms(metrics.TOKEN_WAIT, ((name, pair[1]) for name, pair in table.histograms()))


def build_registry(source: MetricsSource) -> CollectorRegistry:
    """A registry of its own (nothing global) with the sidecar's families and those of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SidecarCollector(source))
    registry.register(ProcessCollector(registry=None))
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[str, Iterator[bytes]]:
    """The content type that `accept` asks for (Prometheus text unless OpenMetrics), and the page in parts.

    A caller lets the event loop turn between the parts: a thousand audiences are some 10,000 lines, and
    100 ms of work. Each family is read in one piece all the same.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version in Accept that is no version
        encode, content_type = choose_encoder("")
    return content_type, _parts(registry, encode)


def _parts(registry: CollectorRegistry, encode: Callable[[_Slice], bytes]) -> Iterator[bytes]:
    end = b""
    for metric in registry.collect():
        samples = metric.samples
        for first in range(0, max(len(samples), 1), _SLICE):
            metric.samples = samples[first : first + _SLICE]
            part = encode(_Slice(metric))
            if part.endswith(_EOF):
                part, end = part[: -len(_EOF)], _EOF
            while first and part.startswith(b"# "):  # HELP and TYPE again
                part = part.partition(b"\n")[2]
            yield part
    yield end


_EOF = b"# EOF\n"
_SLICE = 500
"""Samples a part: two to four milliseconds of work."""


@final
class _Slice:
    """A registry of one, for an encoder."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _single(family: Family, samples: Samples) -> Metric:
    make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = make(family.name, family.help, labels=family.labels, unit=family.unit)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric


def _histograms(family: Family, histograms: Iterable[tuple[str, Histogram]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels, unit=family.unit)
    for label, histogram in histograms:
        metric.add_metric((label,), _cumulative(histogram), histogram.sum)
    return metric


def _cumulative(histogram: Histogram) -> Sequence[tuple[str, float]]:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def _one_per_label(readings: Iterable[TokenReading]) -> dict[tuple[str, str], TokenReading]:
    """Two keys may differ in more than their labels; the one that expires first speaks for both."""
    chosen: dict[tuple[str, str], TokenReading] = {}
    for reading in readings:
        labels = (reading.key.credential, reading.key.audience)
        known = chosen.get(labels)
        if known is None or (reading.expires_at or 0.0) < (known.expires_at or 0.0):
            chosen[labels] = reading
    return chosen
