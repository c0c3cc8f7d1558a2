"""The status page's plots: the last hour, with axes and units. Called by `page`. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from sidecar.admin.markup import Document, number, short

_WIDTH: Final = 360
_HEIGHT: Final = 90
_SPAN: Final = 3600.0
"""Seconds from the left end to the right end."""

_Line = tuple[str, str, str]
"""A curve's class, its name, and its key in a sample."""


def traffic(document: Document) -> str:
    """All plots."""
    samples, interval = document["traffic"]["samples"], document["traffic"]["interval"]
    plots = (
        _plot(
            "Requests a second",
            [("", "all", "requests_per_second"), ("errors", "5xx", "errors_per_second")],
            samples,
            interval,
            number,
        ),
        _plot(
            "Duration, with the service",
            [("", "median", "median"), ("second", "99 % below", "p99")],
            samples,
            interval,
            short,
        ),
        _plot("The sidecar's own share", [("", "median", "own_median")], samples, interval, short),
    )
    return f'<h2>The last hour</h2>\n<div class="plots">{"".join(plots)}</div>'


def _plot(
    title: str,
    lines: Sequence[_Line],
    samples: Sequence[Document],
    interval: float,
    spell: Callable[[float], str],
) -> str:
    columns = [[sample[key] for sample in samples] for _, _, key in lines]
    top = _round(max((value for column in columns for value in column if value is not None), default=0.0))
    names = [
        (kind, name, column[-1] if column else None)
        for (kind, name, _), column in zip(lines, columns, strict=True)
    ]
    legend = " ".join(
        f'<span><i class="key {kind}"></i>{name} {"–" if value is None else spell(value)}</span>'
        for kind, name, value in names
    )
    says = ", ".join(f"{name} {spell(value)}" for _, name, value in names if value is not None)
    paths = "".join(
        f'<path class="line {kind}" d="{_path(column, interval, top)}"/>'
        for (kind, _, _), column in zip(lines, columns, strict=True)
        if column
    )
    return f"""<figure class="card"><figcaption><h3>{title}</h3></figcaption>
<div class="chart"><div class="y" aria-hidden="true"><span>{spell(top)}</span><span>{spell(top / 2)}</span><span>0</span></div>
<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{title}, the last hour: now {says or "nothing"}; the scale ends at {spell(top)}">
<path class="grid" d="M0 {_HEIGHT / 2}H{_WIDTH}M{_WIDTH / 2} 0V{_HEIGHT}"/>{paths}</svg>
<div class="x" aria-hidden="true"><span>1 h ago</span><span>30 min</span><span>now</span></div></div>
<p class="legend">{legend}</p></figure>"""


def _round(top: float) -> float:
    """The next 1, 2 or 5 of its magnitude, where the scale ends."""
    if not top > 0:
        return 1.0
    size: float = 10.0 ** math.floor(math.log10(top))
    return next(step * size for step in (1, 2, 5, 10) if step * size >= top * 0.999)


def _path(values: Sequence[Any], interval: float, top: float) -> str:
    step = _WIDTH * interval / _SPAN
    left = _WIDTH - step * (len(values) - 1)
    drawn, pen = [], "M"
    for index, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        y = _HEIGHT - 1 - (_HEIGHT - 2) * min(1.0, value / top)
        # A point that stands alone is drawn too: as a line of no length, with round ends.
        drawn.append(f"{pen}{max(0.0, left + index * step):.1f} {y:.1f}" + ("h0" if pen == "M" else ""))
        pen = "L"
    return "".join(drawn)
