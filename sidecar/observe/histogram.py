"""A histogram of durations, as the data path counts them: two for each request.

Owns nothing else, so that it can be compiled; `family` declares the histograms. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import final


@final
class Histogram:
    """Counts of durations by upper bound, in seconds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration. Hot path: one bisect, two additions."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds
