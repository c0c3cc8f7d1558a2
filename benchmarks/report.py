"""The report: tables of what was measured, the same text for the terminal and the file.

Owns: medians, spreads, ratios, and the comparison with the limits that the project set itself.
Called by: run.
May not: measure anything.
Rule: a ratio is taken within a round and its median is shown, so that a slow minute hits both sides of it.
"""

import statistics
from collections.abc import Iterable, Sequence

from http2 import ROWS, Costs
from load import CONNECTIONS
from measure import Plan, Results, SmallRequests, Stream, size
from products import Product
from rest import RestBench

REFERENCE = "envoy"
SUBJECT = "sidecar"
EARLIER = "earlier"
START_LIMIT = 4.5
MEMORY_LIMIT = 0.80
WAKEUPS_LIMIT = 1.0
GROWTH_OF_COST = 1.03
RATIO_LIMIT, RATIO_AIM = 1.0, 0.60
GROWTH_LIMIT = 32 * 2**20
MIB = 2**20
NOTHING = "–"
KINDS = ((False, "plain"), (True, "TLS"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    dashes = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def row(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])} |"

    return "\n".join(map(row, (lines[0], dashes, *lines[1:])))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Lowest to highest."""
    return f"{min(values):.{digits}f} … {max(values):.{digits}f}"


def ratio(results: Results, product: str, tls: bool, reference: str = REFERENCE) -> float | None:
    """Median over the rounds of CPU per request divided by the reference's; None when one didn't run."""
    own, other = results.small.get((product, tls)), results.small.get((reference, tls))
    if not own or not other:
        return None
    return statistics.median(
        mine.microseconds / theirs.microseconds for mine, theirs in zip(own.rounds, other.rounds, strict=True)
    )


def small_requests(plan: Plan, results: Results, tls: bool) -> str:
    """CPU, latency, memory of one kind of upstream."""

    def row(product: Product, seen: SmallRequests) -> list[str]:
        share = ratio(results, product.name, tls)
        loads = [each.load for each in seen.rounds]
        return [
            product.title,
            f"{seen.microseconds:.1f}",
            spread([each.microseconds for each in seen.rounds]),
            NOTHING if share is None else f"{share:.2f}",
            f"{statistics.median(each.core for each in seen.rounds):.1f}",
            f"{statistics.median(each.requests / each.seconds for each in loads):,.0f}",
            f"{statistics.median(each.p50 for each in loads) / 1e3:.2f}",
            f"{statistics.median(each.p99 for each in loads) / 1e3:.2f}",
            f"{seen.resident / MIB:.1f}",
            f"{seen.served:,}",
            str(seen.token_fetches),
            f"{max(each.foreign for each in seen.rounds):.0%}",
        ]

    header = (
        *(
            "product",
            "CPU µs/request",
            "spread",
            "× Envoy",
            "core µs/request",
            "requests/s",
            "p50 ms",
            "p99 ms",
        ),
        *("RSS MiB", "after requests", "token fetches", "others on core"),
    )
    return table(header, [row(each, results.small[each.name, tls]) for each in plan.products if each.http1])


def streams(plan: Plan, results: Results) -> str:
    """CPU and memory of large transfers, one row for each way."""

    def row(product: Product, tls: bool, direction: str, seen: Sequence[Stream]) -> list[str]:
        cpu = [each.cpu_seconds for each in seen]
        return [
            product.title,
            "TLS" if tls else "plain",
            direction,
            f"{statistics.median(cpu):.2f}",
            spread(cpu, 2),
            f"{statistics.median(each.seconds for each in seen):.2f}",
            f"{max(each.growth for each in seen) / MIB:.1f}",
        ]

    return table(
        ("product", "upstream", "way", "CPU s", "spread", "wall s", "RSS added MiB"),
        [
            row(product, tls, direction, results.streams[product.name, tls, direction])
            for tls, _ in KINDS
            for direction in ("download", "upload")
            for product in plan.products
            if (product.name, tls, direction) in results.streams
        ],
    )


def http2(plan: Plan, costs: Costs) -> str:
    """CPU of each row of HTTP/2 and gRPC."""

    def row(product: Product, name: str, seen: Sequence[float]) -> list[str]:
        share = costs.ratio(name) if product.name == SUBJECT else None
        return [
            product.title,
            ROWS[name].title,
            f"{statistics.median(seen):.1f}",
            spread(seen),
            NOTHING if share is None else f"{share:.2f}",
            ROWS[name].unit,
        ]

    return table(
        ("product", "load", "CPU µs", "spread", "× Envoy", "for a"),
        [
            row(product, name, costs.rounds[product.name, name])
            for name in ROWS
            for product in plan.products
            if (product.name, name) in costs.rounds
        ],
    )


def http2_verdicts(costs: Costs) -> list[str]:
    """The project's own limits for HTTP/2, each with what was measured."""
    lines = []
    for name, row in ROWS.items():
        if row.limit is not None and (share := costs.ratio(name)) is not None:
            met = "met" if share <= row.limit else "MISSED"
            lines.append(
                f"{met}: CPU for a {row.unit} of HTTP/2 ({row.title}) is {share:.2f} of Envoy's"
                f" (limit {row.limit:.2f})"
            )
    return lines


def starts(plan: Plan, results: Results) -> str:
    """Time from start to the first answer."""
    return table(
        ("product", "median ms", "spread", "starts"),
        [
            [
                product.title,
                f"{statistics.median(seen) * 1e3:.0f}",
                spread([each * 1e3 for each in seen], 0),
                str(len(seen)),
            ]
            for product in plan.products
            if (seen := results.starts.get(product.name))
        ],
    )


def at_rest(plan: Plan, rest: RestBench) -> str:
    """Start, memory and wake-ups of each product when nothing happens."""

    def milliseconds(values: Sequence[float]) -> str:
        if not values:
            return NOTHING
        return f"{statistics.median(values) * 1e3:.0f} ({spread([each * 1e3 for each in values], 0)})"

    def row(product: Product) -> list[str]:
        seen = rest.found[product.name]
        share = rest.ratio(product.name, REFERENCE) if REFERENCE in rest.found else None
        return [
            product.title,
            milliseconds(seen.answered),
            NOTHING if share is None else f"{share:.1f}",
            f"{statistics.median(seen.cpu) * 1e3:.0f}",
            milliseconds(seen.probed),
            f"{seen.resident / MIB:.1f}",
            f"{seen.wakeups:.1f}",
        ]

    header = ("product", "first answer ms", "× Envoy", "CPU ms", "probe ms", "RSS MiB", "wake-ups/s")
    return table(header, [row(product) for product in plan.products if product.http1])


def rest_verdicts(rest: RestBench) -> list[str]:
    """The project's own limits for it, each with what was measured."""
    lines = []
    if SUBJECT in rest.found and REFERENCE in rest.found:
        share = rest.ratio(SUBJECT, REFERENCE)
        met = "met" if share <= START_LIMIT else "MISSED"
        lines.append(f"{met}: the first answer takes {share:.1f} times Envoy's (limit {START_LIMIT})")
    if SUBJECT in rest.found:
        wakeups = rest.found[SUBJECT].wakeups
        met = "met" if wakeups <= WAKEUPS_LIMIT else "MISSED"
        lines.append(f"{met}: {wakeups:.1f} wake-ups a second at rest (limit {WAKEUPS_LIMIT:g})")
    return lines


def verdicts(results: Results) -> list[str]:
    """The project's own limits, each with what was measured; empty when the product didn't run."""
    lines = []
    for tls, kind in KINDS:
        if (share := ratio(results, SUBJECT, tls)) is not None:
            met = "met" if share <= RATIO_LIMIT else "MISSED"
            aim = "reached" if share <= RATIO_AIM else "not reached"
            lines.append(
                f"{met}: CPU per request, {kind} upstream, is {share:.2f} of Envoy's"
                f" (limit {RATIO_LIMIT:.2f}; the aim of {RATIO_AIM:.2f} is {aim})"
            )
            own, reference = results.small[SUBJECT, tls], results.small[REFERENCE, tls]
            met = "met" if own.resident <= reference.resident * MEMORY_LIMIT else "MISSED"
            lines.append(
                f"{met}: memory after {own.served:,} requests, {kind} upstream,"
                f" is {own.resident / MIB:.1f} MiB"
                f" (limit: {MEMORY_LIMIT:.2f} of Envoy's {reference.resident / MIB:.1f})"
            )
        if (share := ratio(results, SUBJECT, tls, EARLIER)) is not None:
            met = "met" if share <= GROWTH_OF_COST else "MISSED"
            lines.append(
                f"{met}: CPU per request, {kind} upstream, is {share:.3f} of the earlier commit's"
                f" (limit {GROWTH_OF_COST:.2f})"
            )
    growths = {
        key[1:]: max(each.growth for each in seen)
        for key, seen in results.streams.items()
        if key[0] == SUBJECT
    }
    for (tls, direction), growth in growths.items():
        met = "met" if growth < GROWTH_LIMIT else "MISSED"
        lines.append(
            f"{met}: memory added by a streamed {direction}, {dict(KINDS)[tls]} upstream, is"
            f" {growth / MIB:.1f} MiB (limit {GROWTH_LIMIT // MIB})"
        )
    return lines


def rounds(plan: Plan, results: Results) -> str:
    """Every single number behind the medians of the CPU per request."""
    return table(
        ("product", "upstream", *(f"round {number}" for number in range(1, plan.rounds + 1))),
        [
            [
                product.title,
                kind,
                *(f"{each.microseconds:.2f}" for each in results.small[product.name, tls].rounds),
            ]
            for tls, kind in KINDS
            for product in plan.products
            if (product.name, tls) in results.small
        ],
    )


def render(
    date: str,
    facts: Sequence[tuple[str, str]],
    plan: Plan,
    results: Results,
    costs: Costs | None = None,
    rest: RestBench | None = None,
) -> str:
    """The whole report in Markdown."""
    parts = [f"# Benchmark of {date}", "\n".join(f"- {name}: {value}" for name, value in facts)]
    for tls, kind in KINDS:
        if any(key[1] == tls for key in results.small):
            title = f"1 kB answers, {CONNECTIONS} keep-alive connections, {kind} upstream"
            parts += [f"## {title}", small_requests(plan, results, tls)]
    if results.streams:
        parts += [f"## {size(plan.stream_bytes)} streamed through a fresh instance", streams(plan, results)]
    if results.starts:
        parts += ["## From start to the first answer, plain upstream", starts(plan, results)]
    if costs is not None:
        parts += [f"## HTTP/2 and gRPC; downloads are of {size(plan.stream_bytes)}", http2(plan, costs)]
    if rest is not None:
        parts += ["## Start and rest, plain upstream", at_rest(plan, rest)]
    judged = [
        *verdicts(results),
        *(http2_verdicts(costs) if costs is not None else []),
        *(rest_verdicts(rest) if rest is not None else []),
    ]
    if judged:
        parts += ["## Beside the limits of the project", "\n".join(f"- {line}" for line in judged)]
    if results.small:
        parts += ["## CPU µs per request, round by round", rounds(plan, results)]
    return "\n\n".join(parts) + "\n"
