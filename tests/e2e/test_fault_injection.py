"""Faults of the sidecar's own: every method of the data path raises, in every situation that calls it.

`tests/wire` has a sample.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.net.tls import TlsTransport
from sidecar.proxy.http1.upstream import UpstreamConnection
from tests.support.fault_injection import SITUATIONS, Situation, faults_found

pytestmark = [pytest.mark.slow, pytest.mark.test_all]


@pytest.mark.parametrize("situation", [pytest.param(s, id=s.__name__) for s in SITUATIONS])
async def test_a_fault_ends_its_own_connection_and_nothing_else(
    situation: Situation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever method raises: that connection ends, with a 500 where no answer had begun; the others go on, all that
    was held is given back once, and the log has one traceback."""
    wrong = await faults_found(situation, tmp_path, caplog)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("situation", [pytest.param(s, id=s.__name__) for s in SITUATIONS])
async def test_over_tls_too(situation: Situation, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same holds for the transport of TLS and for what it calls."""
    owners = {TlsTransport, UpstreamConnection}
    wrong = await faults_found(situation, tmp_path, caplog, tls=True, owners=owners)
    assert not wrong, "\n".join(wrong)
