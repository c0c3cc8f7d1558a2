"""Which of a test's parameters `make test` takes: `make test-all` takes all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """All values as parameters, those that are not in `kept` marked `test_all`. A tuple is a value for each of several names."""
    values = list(values)
    assert all(one in values for one in kept), "a sample of what is there"
    rows = [(one, one if isinstance(one, tuple) else (one,)) for one in values]
    return [pytest.param(*row, marks=() if one in kept else pytest.mark.test_all) for one, row in rows]
