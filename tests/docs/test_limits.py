"""docs/limits.md says what the code does: every key, its default, its reasons and metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from docs.generate import _default
from sidecar.config.groups import Limits, PoolSettings, Timeouts
from sidecar.config.models import Config, RouteConfig
from sidecar.errors import Reason
from sidecar.observe.families import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
ROWS = {
    cells[1].strip("`"): cells
    for line in PAGE.splitlines()
    if line.startswith("|")
    and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
    and cells[1].startswith("`")
}
MODELS: dict[str, type[BaseModel]] = {
    "limits": Limits,
    "pool": PoolSettings,
    "routes[]": RouteConfig,
    "routes[].timeouts": Timeouts,
    "": Config,
}


@pytest.mark.parametrize("key", ROWS)
def test_each_key_has_the_default_that_the_page_says(key: str) -> None:
    """And exists."""
    where, _, name = key.rpartition(".")
    assert _default(MODELS[where].model_fields[name]) == ROWS[key][2]


@pytest.mark.parametrize("key", ROWS)
def test_each_metric_and_reason_exists(key: str) -> None:
    """By which an operator would look for it."""
    known = {family.name for family in FAMILIES} | {str(reason) for reason in Reason}
    for word in re.findall(r"`([a-z_]+)`", ROWS[key][4]):
        assert word in known, word


def test_no_limit_is_missing() -> None:
    """Every key of the models that hold limits is on the page."""
    wanted = {
        f"{where}.{name}"
        for where in ("limits", "pool", "routes[].timeouts")
        for name in MODELS[where].model_fields
    }
    assert wanted <= set(ROWS)
