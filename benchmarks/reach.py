"""What the project wants to reach: each limit, and whether the figures of a run keep to it.

Owns: the table of limits.
Called by: report; docs/performance.md has the same table.
May not: measure, or do any I/O.
Rule: a limit is judged on the machine at hand, by the ratio within one run; a limit that was not measured is left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from figures import ROWS, Figures

NOTHING = "–"


@dataclass(frozen=True)
class Limit:
    """The most that a row may be, beside another contender, another row of the same one, or by itself."""

    row: str
    most: float
    product: str = "compiled"
    beside: str = "envoy"
    """A product; empty: no other one."""
    beside_row: str = ""
    """Another row of the product itself; empty: none."""
    worst: bool = False
    """Every round has to keep to it, not the median."""

    def found(self, figures: Figures) -> float | None:
        """The number that is judged; None where it was not measured."""
        if self.beside_row:
            return figures.ratio(self.row, self.product, self.product, self.beside_row)
        if self.beside:
            return figures.ratio(self.row, self.product, self.beside)
        return (
            max(figures.of(self.row, self.product), default=None)
            if self.worst
            else figures.median(self.row, self.product)
        )

    @property
    def against(self) -> str:
        """What the number is a multiple of."""
        if self.beside_row:
            return f"its own {ROWS[self.beside_row].title}"
        return self.beside or NOTHING


STREAMS = [
    f"{way} {kind} {what}"
    for way in ("download", "upload")
    for kind in ("plain", "tls")
    for what in ("cpu", "wall")
]
LIMITS = (
    Limit("small plain", 0.60),
    Limit("small tls", 0.65),
    Limit("small plain", 0.50, beside="go"),
    Limit("small tls", 0.50, beside="go"),
    *(Limit(f"{kind} m=32", 1.0) for kind in ("h2c", "tls")),
    *(Limit(f"{kind} m=1", 0.9) for kind in ("h2c", "tls")),
    Limit("grpc 8", 0.7),
    Limit("grpc bidi", 1.0),
    *(Limit(row, 1.0) for row in STREAMS),
    *(Limit(row, 0.8, beside="go") for row in STREAMS),
    *(Limit(f"p99 {kind}", 1.0, beside=peer) for peer in ("envoy", "go") for kind in ("plain", "tls")),
    *(Limit(f"memory {kind}", 0.80) for kind in ("plain", "tls")),
    Limit("start", 4.5),
    Limit("many routes", 1.03, beside_row="few routes"),
    Limit("due p99", 1.2, beside_row="calm p99"),
    Limit("wake-ups", 1.0, beside=""),
    Limit("small plain", 1.0, product="sidecar"),
    Limit("small tls", 1.05, product="sidecar"),
    *(Limit(f"{kind} m=32", 1.4, product="sidecar") for kind in ("h2c", "tls")),
    *(Limit(f"{kind} m=1", 1.1, product="sidecar") for kind in ("h2c", "tls")),
    Limit("grpc 8", 0.9, product="sidecar"),
    Limit("stream plain", 1.3, product="sidecar"),
    Limit("stream tls", 1.8, product="sidecar"),
    *(Limit(f"small {kind}", 1.03, product="sidecar", beside="earlier") for kind in ("plain", "tls")),
    *(
        Limit(f"{way} {kind} memory", 32, product=product, beside="", worst=True)
        for product in ("sidecar", "compiled")
        for way in ("download", "upload")
        for kind in ("plain", "tls")
    ),
)


def judged(figures: Figures, limits: Iterable[Limit] = LIMITS) -> list[tuple[str, ...]]:
    """A line for each limit that was measured: what, of whom, beside what, the most, the figure, and the judgement."""
    lines: list[tuple[str, ...]] = []
    for limit in limits:
        row, found = ROWS[limit.row], limit.found(figures)
        if found is None:
            continue
        lines.append(
            (
                f"{row.title}: {row.unit}",
                limit.product,
                limit.against,
                f"{limit.most:.2f}",
                f"{found:.2f}",
                "met" if found <= limit.most else "MISSED",
            )
        )
    return lines
