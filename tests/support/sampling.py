"""How much of a test `make test` does: `make test-all` does all of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from hypothesis import settings


def sampled(values: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """All values as parameters, those that are not in `kept` marked `test_all`. A tuple is a value for each of several names."""
    values = list(values)
    assert all(one in values for one in kept), "a sample of what is there"
    rows = [(one, one if isinstance(one, tuple) else (one,)) for one in values]
    return [pytest.param(*row, marks=() if one in kept else pytest.mark.test_all) for one, row in rows]


def examples(full: int) -> int:
    """How many examples hypothesis tries of what needs `full`: as many fewer as the profile in force has of a hundred."""
    return max(1, full * settings().max_examples // 100)
