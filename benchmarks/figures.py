"""What is measured, and what came out: one number a round for each contender and each row.

Owns: the table of rows, the numbers of a run, their medians and ratios, and who is out.
Called by: every part, which adds; report, reach and charts, which read.
May not: measure, or do any I/O.
Rule: a ratio is taken within a round and its median counts, so that a slow minute hits both sides of it.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One thing that is measured; less is better in each."""

    part: str
    title: str
    unit: str
    digits: int = 1
    """After the point."""


REQUEST = "CPU µs a request"
ROWS = {
    "small plain": Row("small", "1 kB, 32 connections, plain upstream", REQUEST),
    "small tls": Row("small", "1 kB, 32 connections, TLS upstream", REQUEST),
    "memory plain": Row("small", "resident after 300,000 requests, plain upstream", "MiB"),
    "memory tls": Row("small", "resident after 300,000 requests, TLS upstream", "MiB"),
    "c1": Row("shapes", "1 kB, 1 connection", REQUEST),
    "c512": Row("shapes", "1 kB, 512 connections", REQUEST),
    "new": Row("shapes", "1 kB, a new connection for each request", REQUEST),
    "down 64k": Row("shapes", "64 KiB down", REQUEST),
    "up 64k": Row("shapes", "64 KiB up", REQUEST),
    "listener": Row("shapes", "1 kB, 32 connections, TLS on the app's side", REQUEST),
    "log": Row("shapes", "1 kB, 32 connections, every request in the access log", REQUEST),
    **{
        f"{way} {kind} {what}": Row("streams", f"{way}, {upstream} upstream", unit, digits)
        for way in ("download", "upload")
        for kind, upstream in (("plain", "plain"), ("tls", "TLS"))
        for what, unit, digits in (("cpu", "CPU s", 2), ("wall", "wall s", 2), ("memory", "MiB added", 1))
    },
    "h2c m=32": Row("http2", "1 kB, 32 at once on a connection, plain upstream", REQUEST),
    "h2c m=1": Row("http2", "1 kB, one at a time on a connection, plain upstream", REQUEST),
    "tls m=32": Row("http2", "1 kB, 32 at once on a connection, TLS upstream", REQUEST),
    "tls m=1": Row("http2", "1 kB, one at a time on a connection, TLS upstream", REQUEST),
    "grpc 1": Row("http2", "grpcio, unary calls, one at a time", "CPU µs a call"),
    "grpc 8": Row("http2", "grpcio, unary calls, 8 at once", "CPU µs a call"),
    "grpc bidi": Row("http2", "grpcio, messages of one stream, there and back", "CPU µs a message"),
    "stream plain": Row("http2", "a download, plain upstream", "CPU µs a MiB"),
    "stream tls": Row("http2", "a download, TLS upstream", "CPU µs a MiB"),
    "events": Row("live", "1,000 streams of events, 10 events a second each", "CPU µs an event"),
    "echo": Row("live", "WebSocket messages on 32 connections, there and back", "CPU µs a message"),
    **{
        f"{percentile} {kind}": Row(
            "latency", f"{percentile} at half of Envoy's saturation, {upstream} upstream", "ms", 2
        )
        for kind, upstream in (("plain", "plain"), ("tls", "TLS"))
        for percentile in ("p50", "p99", "p99.9")
    },
    "few routes": Row("routes", "1 kB, 32 connections, 10 routes", REQUEST),
    "many routes": Row("routes", "1 kB, 32 connections, the last of 10,000 routes", REQUEST),
    "calm p99": Row("tokens", "p99 while none of 1,000 tokens is due", "ms", 2),
    "due p99": Row("tokens", "p99 while 1,000 tokens are renewed", "ms", 2),
    "idle connections": Row("idle", "resident with 10,000 idle connections", "MiB"),
    "start": Row("rest", "start to the first 200", "ms", 0),
    "start cpu": Row("rest", "start to the first 200", "CPU ms", 0),
    "probe": Row("rest", "start to the first 200 of the start-up probe", "ms", 0),
    "memory at rest": Row("rest", "resident at rest, 10 routes", "MiB"),
    "wake-ups": Row("rest", "leaving a core at rest, 10 routes", "times a second"),
}


@dataclass
class Figures:
    """The numbers of one run."""

    rounds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """By row and product."""
    out: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a product is out: by row, where it answered wrong, or part, where it could not be set up, and product."""

    def add(self, row: str, product: str, value: float) -> None:
        """One round."""
        self.rounds.setdefault((row, product), []).append(value)

    def of(self, row: str, product: str) -> Sequence[float]:
        """All rounds; empty where it was not measured, or the product is out."""
        return () if self.is_out(row, product) else self.rounds.get((row, product), ())

    def is_out(self, row: str, product: str) -> bool:
        """Whether the product is out of this row, or of its part."""
        return (row, product) in self.out or (ROWS[row].part, product) in self.out

    def median(self, row: str, product: str) -> float | None:
        """None where it was not measured."""
        return statistics.median(seen) if (seen := self.of(row, product)) else None

    def ratio(self, row: str, product: str, reference: str, reference_row: str = "") -> float | None:
        """Median of the ratios within the rounds to another product, or to another row; None when one is missing."""
        own, other = self.of(row, product), self.of(reference_row or row, reference)
        # In steps of 10 ms, a short round may have cost nothing: it says nothing, either.
        pairs = [(mine, theirs) for mine, theirs in zip(own, other, strict=False) if theirs]
        return statistics.median(mine / theirs for mine, theirs in pairs) if pairs else None

    def products(self, part: str) -> list[str]:
        """Who has figures in this part, in the order in which they came."""
        return list(dict.fromkeys(product for row, product in self.rounds if ROWS[row].part == part))


def size(count: int) -> str:
    """Bytes as people say them: 1 GiB, 64 MiB."""
    return f"{count / 2**30:g} GiB" if count >= 2**30 else f"{count / 2**20:g} MiB"
