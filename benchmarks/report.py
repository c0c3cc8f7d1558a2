"""The report: tables for the terminal and the file, and the same as data.

Owns: the tables, and the same as data.
Called by: run.
May not: measure anything.
Rule: a ratio is taken within a round and its median is shown, so that a slow minute hits both sides of it.
"""

import statistics
from collections.abc import Iterable, Sequence

from figures import ROWS, Figures, size
from load import CONNECTIONS
from measure import Plan, Results, SmallRequests
from products import Product
from reach import NOTHING, judged

REFERENCE = "envoy"
MIB = 2**20
PARTS = {
    "small": "Small requests, 32 keep-alive connections",
    "shapes": "Small requests in other shapes, plain upstream",
    "streams": "{size} streamed through a fresh instance",
    "http2": "HTTP/2 and gRPC; downloads are of {size}",
    "live": "What is open for long",
    "latency": "Latency in an open loop",
    "routes": "Many routes",
    "tokens": "Many tokens that are due together",
    "idle": "Many idle connections",
    "rest": "Start and rest, plain upstream",
}
"""Their headings; all but `small`, which has a table of its own, stand in the common one."""
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


def small_requests(plan: Plan, results: Results, figures: Figures, tls: bool) -> str:
    """CPU, latency, memory of one kind of upstream."""

    def row(product: Product, seen: SmallRequests) -> list[str]:
        share = figures.ratio(f"small {'tls' if tls else 'plain'}", product.name, REFERENCE)
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
    return table(
        header,
        [
            row(each, seen)
            for each in plan.products
            if (seen := results.small.get((each.name, tls))) and seen.rounds
        ],
    )


def part(plan: Plan, figures: Figures, name: str) -> str:
    """Every row of one part, for each contender."""
    header = ("load", "product", "median", "spread", "× Envoy", "")
    lines = []
    for key, row in ROWS.items():
        for product in plan.products if row.part == name else ():
            if seen := figures.of(key, product.name):
                share = figures.ratio(key, product.name, REFERENCE)
                lines.append(
                    [
                        row.title,
                        product.title,
                        f"{statistics.median(seen):.{row.digits}f}",
                        spread(seen, row.digits),
                        NOTHING if share is None else f"{share:.2f}",
                        row.unit,
                    ]
                )
    return table(header, lines)


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
    title: str,
    facts: Sequence[tuple[str, str]],
    plan: Plan,
    results: Results,
    figures: Figures,
) -> str:
    """The whole report in Markdown."""
    parts = [f"# {title}"]
    if plan.quick:
        parts += ["A quick run: each load is far too short for its figure to say anything."]
    parts += ["\n".join(f"- {name}: {value}" for name, value in facts)]
    if figures.out:
        parts += ["## Out of the comparison", "\n".join(_out(figures))]
    for tls, kind in KINDS:
        if any(key[1] == tls for key in results.small):
            heading = f"1 kB answers, {CONNECTIONS} keep-alive connections, {kind} upstream"
            parts += [f"## {heading}", small_requests(plan, results, figures, tls)]
    for name, heading in PARTS.items():
        if name != "small" and figures.products(name):
            parts += [f"## {heading.format(size=size(plan.stream_bytes))}", part(plan, figures, name)]
    if lines := judged(figures):
        header = ("what", "of", "beside", "limit", "found", "")
        parts += ["## Beside what the project wants to reach", table(header, lines)]
    if results.small:
        parts += ["## CPU µs per request, round by round", rounds(plan, results)]
    return "\n\n".join(parts) + "\n"


def _out(figures: Figures) -> Iterable[str]:
    for (name, product), reason in figures.out.items():
        yield f"- {product}, of `{name}`: {' '.join(reason.split())[:300]}"


def document(
    title: str, facts: Sequence[tuple[str, str]], figures: Figures, *, quick: bool
) -> dict[str, object]:
    """The same as data for JSON: every round of every row."""
    rows: dict[str, dict[str, object]] = {}
    for (row, product), seen in figures.rounds.items():
        known = ROWS[row]
        entry = rows.setdefault(
            row, {"part": known.part, "title": known.title, "unit": known.unit, "rounds": {}}
        )
        if figures.of(row, product):
            entry["rounds"][product] = [round(each, 4) for each in seen]  # type: ignore[index]
    out = [{"of": name, "product": product, "why": reason} for (name, product), reason in figures.out.items()]
    names = ("what", "of", "beside", "limit", "found", "judgement")
    reach = [dict(zip(names, line, strict=True)) for line in judged(figures)]
    return {"title": title, "quick": quick, "facts": dict(facts), "rows": rows, "out": out, "reach": reach}
