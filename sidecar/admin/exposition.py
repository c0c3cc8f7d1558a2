"""What /metrics shows: the records of `sidecar.observe.metrics`, in Prometheus text or OpenMetrics.

Owns the collector that reads the records when it is scraped and the rendering of the page. `service`
builds the registry, `admin.app` serves it; both on the event loop's thread, on which the records are
written too. It may not count anything itself. Rules: Prometheus text 0.0.4 and 1.0, OpenMetrics 1.0, by
`Accept`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import floatToGoString

from sidecar.observe import metrics
from sidecar.observe.metrics import (
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
_Routes = Sequence[tuple[str, RouteStats]]


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
        routes = list(self._source.routes())
        yield from self._routes(routes)
        yield from self._upstreams(routes)
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

    def _routes(self, routes: _Routes) -> Iterator[Metric]:
        """What apps asked for, and what they got."""
        yield _single(
            metrics.REQUESTS,
            (
                ((name, method, str(code)), count)
                for name, stats in routes
                for (method, code), count in stats.requests.items()
            ),
        )
        yield _by(metrics.REFUSED, routes, lambda stats: stats.refused)
        yield _by(metrics.CUT, routes, lambda stats: stats.cut)
        yield _each(metrics.IDLE_CLOSED, routes, lambda stats: stats.idle_closed)
        yield _each(metrics.PIPELINING_STOPPED, routes, lambda stats: stats.pipelining_stopped)
        yield _histograms(metrics.DURATION, ((name, stats.total) for name, stats in routes))
        yield _histograms(metrics.OWN_DURATION, ((name, stats.own) for name, stats in routes))
        yield _each(metrics.IN_FLIGHT, routes, lambda stats: stats.in_flight)
        yield _each(metrics.QUEUED, routes, lambda stats: stats.queued)
        yield _each(metrics.BYTES_SENT, routes, lambda stats: stats.bytes_sent)
        yield _each(metrics.BYTES_RECEIVED, routes, lambda stats: stats.bytes_received)

    def _upstreams(self, routes: _Routes) -> Iterator[Metric]:
        """How their upstreams were reached, and what those said."""
        yield _by(
            metrics.CONNECTIONS,
            routes,
            lambda stats: {"active": stats.connections_active, "idle": stats.connections_idle},
        )
        yield _each(metrics.CONNECTIONS_OPENED, routes, lambda stats: stats.connections_opened)
        yield _by(metrics.CONNECT_FAILURES, routes, lambda stats: stats.connect_failures)
        yield _each(metrics.CONNECTS_HELD_BACK, routes, lambda stats: stats.connects_held_back)
        yield _each(metrics.RETRIES, routes, lambda stats: stats.retries)
        yield _each(metrics.RETRIES_DENIED, routes, lambda stats: stats.retries_denied)
        yield _each(metrics.REPLAYS, routes, lambda stats: stats.replays)
        yield _each(metrics.UPGRADES, routes, lambda stats: stats.upgrades)
        yield _each(metrics.TUNNELS, routes, lambda stats: stats.tunnels)
        yield _by(metrics.TLS_RELOADS, routes, lambda stats: stats.tls_reloads)
        yield _single(
            metrics.TLS_OK,
            (((name,), float(stats.tls_current)) for name, stats in routes if stats.tls_current is not None),
        )
        yield _single(
            metrics.TLS_CLIENT_EXPIRY, (((name,), at) for name, at in self._source.client_expiries().items())
        )
        yield _by(metrics.UPSTREAM_REFUSALS, routes, lambda stats: stats.upstream_refusals)

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


def content_type(accept: str) -> str:
    """What `accept` asks for: Prometheus text unless OpenMetrics, in a version that is known."""
    try:
        found = choose_encoder(accept)[1]
    except (TypeError, ValueError):  # a version in Accept that is no version
        found = CONTENT_TYPE_PLAIN_0_0_4
    # Whatever version is asked for would be said to be the answer's.
    if found.startswith(OPENMETRICS) and _VERSION not in found:
        return CONTENT_TYPE_PLAIN_0_0_4
    return found


def parts(registry: CollectorRegistry, *, openmetrics: bool) -> Iterator[bytes]:
    """The page in parts, one of two: names as ours are the same in each version and escaping.

    A caller lets the event loop turn between the parts: a thousand audiences are some 10,000 lines, and
    100 ms of work. Each family is read in one piece all the same.
    """
    encode = openmetrics_exposition.generate_latest if openmetrics else generate_latest
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


OPENMETRICS = "application/openmetrics-text"
_VERSION = "version=1.0.0;"
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


def _each(family: Family, routes: _Routes, read: Callable[[RouteStats], float]) -> Metric:
    """One sample a route."""
    return _single(family, (((name,), read(stats)) for name, stats in routes))


def _by(family: Family, routes: _Routes, read: Callable[[RouteStats], Mapping[str, float]]) -> Metric:
    """One sample a route and a second label."""
    return _single(
        family, (((name, label), count) for name, stats in routes for label, count in read(stats).items())
    )


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
