"""Faults of the sidecar's own: a sample of tests/e2e/test_fault_injection.py, in which every method is raised from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.http1.upstream import UpstreamConnection
from tests.support.fault_injection import SITUATIONS, Situation, bodies, faults_found, timeout

pytestmark = pytest.mark.interpreted

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


@pytest.mark.parametrize(
    ("situation", "owner", "name"),
    [
        pytest.param(bodies, Exchange, "_send", id="a-connection-that-was-just-taken"),
        pytest.param(timeout, UpstreamConnection, "_leave", id="a-connection-that-is-to-end"),
    ],
)
async def test_a_fault_leaves_no_connection_without_an_owner(
    situation: Situation, owner: type, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would keep its place in the pool, and nobody would ever close it."""
    assert not await faults_found(situation, tmp_path, caplog, owners=(owner,), name=name)
