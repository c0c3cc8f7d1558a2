"""Faults of the sidecar's own: a sample of tests/e2e/test_fault_injection.py, in which every method is raised from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fault_injection import SITUATIONS, Situation, faults_found

STRIDE = 8
"""Every 8th point of each situation: other ones in each."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("situation", "first"), [pytest.param(s, i, id=s.__name__) for i, s in enumerate(SITUATIONS)]
)
async def test_a_fault_ends_its_own_connection_and_nothing_else(
    situation: Situation, first: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever method raises: that connection ends, with a 500 where no answer had begun; the others go on, all that
    was held is given back once, and the log has one traceback."""
    wrong = await faults_found(situation, tmp_path, caplog, sample=slice(first % STRIDE, None, STRIDE))
    assert not wrong, "\n".join(wrong)
