"""The comparison with other proxies: what it refuses, and who takes part."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine import alone
from process import RunError


def test_two_runs_at_once_do_not_share_a_directory(tmp_path: Path) -> None:
    """The second one would write its products' configuration over that of the first, which is running."""
    with (
        alone(tmp_path),
        pytest.raises(RunError, match=r"^process \d+ already runs a benchmark"),
        alone(tmp_path),
    ):
        pass


def test_a_run_may_follow_another(tmp_path: Path) -> None:
    for _ in range(2):
        with alone(tmp_path):
            pass
