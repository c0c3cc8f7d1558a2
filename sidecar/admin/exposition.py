"""What /metrics shows: the table of `sidecar.observe.families`, in Prometheus text or OpenMetrics.

Owns the collector that reads the records at each scrape, and the rendering of the page. `service` builds the
registry, `admin.app` serves it, both on the event loop's thread, which also writes the records. It counts nothing
itself. Rules: Prometheus text 0.0.4 and 1.0, OpenMetrics 1.0, by `Accept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, final

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

from sidecar.observe.families import TABLE, MetricsSource
from sidecar.observe.family import Family, Kind, Samples
from sidecar.observe.histogram import Histogram

_MAKE: Final = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


@final
class SidecarCollector:
    """Reads the table of families at each scrape."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Every family of `TABLE`, each read in one piece."""
        for row in TABLE:
            yield _metric(row.family, row.read(self._source))


def _metric(family: Family, samples: Samples) -> Metric:
    if family.kind is Kind.INFO:
        ((labels, _),) = samples
        return InfoMetricFamily(
            family.name.removesuffix("_info"), family.help, dict(zip(family.labels, labels, strict=True))
        )
    metric: Any = _MAKE[family.kind](family.name, family.help, labels=family.labels, unit=family.unit)
    for labels, value in samples:
        if isinstance(value, Histogram):
            metric.add_metric(labels, _cumulative(value), value.sum)
        else:
            metric.add_metric(labels, value)
    found: Metric = metric
    return found


def _cumulative(histogram: Histogram) -> Sequence[tuple[str, float]]:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def build_registry(source: MetricsSource) -> CollectorRegistry:
    """A new registry (not the global one) with the sidecar's families and those of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SidecarCollector(source))
    registry.register(ProcessCollector(registry=None))
    return registry


def content_type(accept: str) -> str:
    """The content type for this `accept`: Prometheus text, unless it asks for OpenMetrics in a known version."""
    try:
        found = choose_encoder(accept)[1]
    except (TypeError, ValueError):  # a version in Accept that is no version
        found = CONTENT_TYPE_PLAIN_0_0_4
    # Whatever version is asked for would be said to be the answer's.
    if found.startswith(OPENMETRICS) and _VERSION not in found:
        return CONTENT_TYPE_PLAIN_0_0_4
    return found


def parts(registry: CollectorRegistry, *, openmetrics: bool) -> Iterator[bytes]:
    """The page in parts.

    There are two pages: names like ours look the same in each version and escaping. The caller lets the event loop
    turn between parts, because a thousand audiences make 10,000 lines and 100 ms of work. Each family is still read
    in one piece.
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
"""Samples per part: two to four milliseconds of work."""


@final
class _Slice:
    """A registry with one collector, for an encoder."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)
