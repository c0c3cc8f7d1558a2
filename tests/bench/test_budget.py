"""What a request costs, in instructions: the guard that a busy machine can't move."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import instructions

ROOT = Path(__file__).parents[2]
PYTHONS = {"pure": Path(sys.executable), "compiled": ROOT / "build/compiled/bin/python"}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed here (Debian: apt install valgrind)"
)
@pytest.mark.parametrize("build", PYTHONS)
def test_a_request_costs_no_more_instructions_than_is_recorded(build: str) -> None:
    """HTTP/1.1 and HTTP/2, on both sides of the proxy. Some ten seconds of one core."""
    python = PYTHONS[build]
    if not python.exists():
        pytest.skip("no compiled build here: `make compiled` makes it")
    whose = instructions.who(python)
    assert whose.endswith(build)
    budget = instructions.budgets().get(whose)
    if budget is None:
        pytest.skip(f"no budget is recorded for `{whose}`: `make budget ARGS=--record` records it")
    counts = instructions.count(python)
    assert not instructions.over(counts, budget)


@pytest.mark.parametrize(
    ("counted", "faults"),
    [
        ({"http1": 103_000, "http2": 200_000}, 0),
        ({"http1": 103_001, "http2": 200_000}, 1),
        ({"http1": 103_001, "http2": 206_001}, 2),
        ({"http1": 50_000, "http2": 206_000}, 0),
    ],
    ids=["at the limit", "over in one", "over in both", "under"],
)
def test_three_percent_over_the_budget_fail(counted: dict[str, int], faults: int) -> None:
    found = instructions.over(counted, {"http1": 100_000, "http2": 200_000})
    assert len(found) == faults
    assert all("make budget ARGS=--record" in fault for fault in found)


def test_every_budget_has_each_kind() -> None:
    for whose, budget in instructions.budgets().items():
        assert set(budget) == set(instructions.KINDS), whose
