"""Faults of the sidecar's own: every method of HTTP/2's data path raises, in every situation that calls it.

`tests/wire` has a sample.
"""

from __future__ import annotations

import pytest

from tests.support.http2_fault_injection import SITUATIONS, Situation, faults_found

pytestmark = [pytest.mark.slow, pytest.mark.test_all]


@pytest.mark.parametrize("situation", [pytest.param(s, id=s.__name__) for s in SITUATIONS])
async def test_a_fault_ends_its_own_stream_or_connection(
    situation: Situation, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever method raises: other connections go on, all that was held is given back once, and the log has one traceback."""
    wrong = await faults_found(situation, caplog)
    assert not wrong, "\n".join(wrong)
