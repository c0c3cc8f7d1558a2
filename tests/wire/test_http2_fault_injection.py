"""Faults of the sidecar's own where HTTP/2 is spoken: a sample of tests/e2e/test_http2_fault_injection.py."""

from __future__ import annotations

import pytest

from tests.support.http2_fault_injection import SITUATIONS, Situation, faults_found

pytestmark = pytest.mark.interpreted

STRIDE = 12
"""Every 12th point of each situation: other ones in each."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("situation", "first"), [pytest.param(s, i, id=s.__name__) for i, s in enumerate(SITUATIONS)]
)
async def test_a_fault_ends_its_own_stream_or_connection(
    situation: Situation, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever method raises: other connections go on, all that was held is given back once, and the log has one
    traceback."""
    wrong = await faults_found(situation, caplog, sample=slice(first % STRIDE, None, STRIDE))
    assert not wrong, "\n".join(wrong)
