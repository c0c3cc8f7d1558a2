"""The panels of a Grafana dashboard, drawn from what a Prometheus has: for a picture where there is no Grafana.

It draws the queries, titles, units and legends of the file; not what Grafana adds to them.
"""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLOURS = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#c0d8ff")
STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 12px system-ui, sans-serif; width: 1280px; }
main { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; padding: 8px; }
figure { margin: 0; padding: 8px; background: #181b1f; border: 1px solid #2c2f36; }
h2 { font-size: 14px; font-weight: 500; margin: 0 0 6px; }
.chart { display: grid; grid-template-columns: 84px 1fr; }
.y { display: flex; flex-direction: column; justify-content: space-between; text-align: right; padding-right: 6px; }
svg { width: 100%; height: 110px; } .grid { stroke: #2c2f36; } path { fill: none; stroke-width: 1.2; vector-effect: non-scaling-stroke; }
p { margin: 6px 0 0; display: flex; flex-wrap: wrap; gap: 2px 12px; } i { display: inline-block; width: 12px; height: 3px; margin-right: 4px; vertical-align: middle; }
.value { font-size: 22px; margin: 12px 0; }
"""
WIDTH, HEIGHT = 500, 100
SHOWN = 8
"""Curves of a panel that the legend names."""

Series = tuple[str, list[tuple[float, float]]]


def asked(expr: str) -> str:
    """An expression of the dashboard with Grafana's variables filled in."""
    return expr.replace("$__rate_interval", "10s").replace("$route", ".*")


def ask(url: str, expr: str, begin: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
    """The series of an expression between two moments (Prometheus' HTTP API, range queries)."""
    question = urllib.parse.urlencode({"query": expr, "start": begin, "end": end, "step": step})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{question}", timeout=30) as answer:  # noqa: S310
        return list(json.load(answer)["data"]["result"])


def series(panel: Mapping[str, Any], url: str, begin: float, end: float) -> list[Series]:
    """What a panel shows: names as its legend has them, and points."""
    found: list[Series] = []
    for target in panel["targets"]:
        for one in ask(url, asked(target["expr"]), begin, end):
            name = target.get("legendFormat", "")
            for label, value in one["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            points = [(float(at), float(value)) for at, value in one["values"] if math.isfinite(float(value))]
            found.append((" ".join(part for part in name.split() if "{{" not in part), points))
    return found


def spelled(value: float, unit: str) -> str:
    """A number of an axis."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and value >= 120:
        return f"{value / 60:,.0f} min"
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and unit != "s":
            return f"{value / size:.3g} {prefix}"
    ends = {"s": " s", "reqps": " req/s", "ops": " ops/s", "cps": " c/s", "Bps": " B/s"}
    return f"{value:.3g}{ends.get(unit, '')}"


def scale(curves: Sequence[Series]) -> tuple[float, float]:
    """Where an axis begins and ends."""
    values = [0.0, *(value for _, points in curves for _, value in points)]
    return min(values), max(values) or 1.0


def figure(panel: Mapping[str, Any], curves: Sequence[Series], begin: float, end: float) -> str:
    """One panel."""
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
    head = f"<figure><h2>{escape(panel['title'])}</h2>"
    if panel["type"] == "stat":
        return head + "".join(f'<div class="value">{escape(name)}</div>' for name, _ in curves) + "</figure>"
    # What the file gives an axis of its own has its own scale, and no numbers here.
    apart = {rule["matcher"]["options"] for rule in panel["fieldConfig"].get("overrides", ())}
    shared = scale([one for one in curves if one[0] not in apart])
    paths, names = [], []
    for number, (name, points) in enumerate(curves):
        low, high = scale([(name, points)]) if name in apart else shared
        colour = COLOURS[number % len(COLOURS)]
        spots = " L".join(
            f"{WIDTH * (at - begin) / (end - begin):.1f} {HEIGHT - (HEIGHT - 2) * (value - low) / (high - low) - 1:.1f}"
            for at, value in points
        )
        paths.append(f'<path stroke="{colour}" d="M{spots}"/>' if points else "")
        if number < SHOWN:
            names.append(f'<span><i style="background:{colour}"></i>{escape(name)}</span>')
    if len(curves) > SHOWN:
        names.append(f"<span>and {len(curves) - SHOWN} more</span>")
    low, high = shared
    ticks = "".join(f"<span>{spelled(low + (high - low) * share, unit)}</span>" for share in (1, 0.5, 0))
    return (
        f'{head}<div class="chart"><div class="y">{ticks}</div><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">'
        f'<path class="grid" d="M0 1H{WIDTH}M0 {HEIGHT / 2}H{WIDTH}M0 {HEIGHT - 1}H{WIDTH}"/>{"".join(paths)}</svg></div>'
        f"<p>{''.join(names)}</p></figure>"
    )


def page(dashboard: Mapping[str, Any], url: str, begin: float, end: float) -> tuple[str, dict[str, int]]:
    """All panels as one page, and how many curves each has."""
    every = [(panel, series(panel, url, begin, end)) for panel in dashboard["panels"]]
    begin = min((points[0][0] for _, curves in every for _, points in curves if points), default=begin)
    drawn = "".join(figure(panel, curves, begin, end) for panel, curves in every)
    html = f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><main>{drawn}</main>"
    return html, {panel["title"]: len(curves) for panel, curves in every}
