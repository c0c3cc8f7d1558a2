"""Bar charts as SVG, of the figures of a run: one file for each part, readable on light and dark pages.

Owns: how a chart looks.
Called by: run.
May not: measure, or do any I/O.
Rule: each row has a scale of its own, from nothing to its largest bar, since their units differ; less is better.
"""

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from figures import ROWS, Figures
from products import OWN

WIDTH, LEFT, RIGHT = 760, 110, 110
BAR, GAP, TITLE, HEAD, NOTE = 16, 5, 26, 40, 17
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .back { fill: #ffffff }
.head { font-size: 15px; font-weight: 600 }
.row { font-weight: 600 } .note { fill: #59636e } .spread { stroke: #1f2328; stroke-width: 1.5 } .own { fill: #1a7f5a }
.other { fill: #8c96a1 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .back { fill: #0d1117 } .note { fill: #9198a1 } .spread { stroke: #e6edf3 }
.own { fill: #3fb68b } .other { fill: #6a737d }
}
"""


class Bar(NamedTuple):
    """One contender in a row."""

    name: str
    median: float
    low: float
    high: float


class Group(NamedTuple):
    """A row of the table, with its bars."""

    title: str
    unit: str
    digits: int
    bars: Sequence[Bar]


def groups(figures: Figures, part: str) -> list[Group]:
    """The rows of a part that were measured."""
    made = []
    for key, row in ROWS.items():
        if row.part != part:
            continue
        bars = [
            Bar(product, statistics.median(seen), min(seen), max(seen))
            for product in figures.products(part)
            if (seen := figures.of(key, product))
        ]
        if bars:
            made.append(Group(row.title, row.unit, row.digits, bars))
    return made


def notes(when: str, facts: Mapping[str, str]) -> list[str]:
    """What stands below the title: when, on what machine, and how to read it."""
    machine = [when, facts["processor"], facts["system"]]
    version = facts["product's Python"].partition(" (")[0]
    return [
        "; ".join(machine),
        f"{facts['product']}; {version}: {facts['built with']}; Envoy {facts['Envoy']}",
        "bar: the median, line: all rounds; less is better",
    ]


def svg(title: str, notes: Sequence[str], shown: Sequence[Group]) -> str:
    """One chart: a bar for each median, a line from the lowest to the highest round, and the number beside it."""
    parts: list[str] = []
    top = float(HEAD + NOTE * len(notes))
    for group in shown:
        parts.append(_text(12, top + 12, f"{group.title} ({group.unit})", "row"))
        top += TITLE - 4
        most = max(bar.high for bar in group.bars) or 1.0
        for bar in group.bars:
            parts += _bar(top, bar, (WIDTH - LEFT - RIGHT) / most, group.digits)
            top += BAR + GAP
        top += TITLE / 2
    height = round(top + 8)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="back" width="{WIDTH}" height="{height}" rx="6"/>',
            _text(12, 24, title, "head"),
            *(_text(12, 43 + NOTE * number, note, "note") for number, note in enumerate(notes)),
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(top: float, bar: Bar, scale: float, digits: int) -> list[str]:
    middle = top + BAR / 2
    kind = "own" if bar.name in OWN else "other"
    low, high = LEFT + bar.low * scale, LEFT + bar.high * scale
    return [
        _text(24, middle + 4, bar.name, "name"),
        f'<rect class="{kind}" x="{LEFT}" y="{top:.1f}" width="{bar.median * scale:.1f}" height="{BAR}" rx="2"/>',
        f'<path class="spread" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>',
        _text(high + 8, middle + 4, f"{bar.median:,.{digits}f}", "value"),
    ]


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
