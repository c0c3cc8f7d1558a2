"""Faults of the sidecar's own: a method of the data path raises, in a situation that calls it.

`make test-all` raises from every one, `make test` from a sample.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.net.socket_transport import SocketTransport
from sidecar.net.tls import TlsTransport
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.http1.upstream import UpstreamConnection
from tests.support import http2_fault_injection
from tests.support.fault_injection import (
    SITUATIONS,
    Sample,
    Situation,
    bodies,
    faults_found,
    timeout,
    with_samples,
)

pytestmark = pytest.mark.interpreted


@pytest.mark.slow
@pytest.mark.parametrize(("situation", "sample"), with_samples(SITUATIONS))
async def test_a_fault_ends_its_own_connection_and_nothing_else(
    situation: Situation, sample: Sample, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever method raises: that connection ends, with a 500 where no answer had begun; the others go on, all that
    was held is given back once, and the log has one traceback."""
    wrong = await faults_found(situation, tmp_path, caplog, sample=sample)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.test_all
@pytest.mark.parametrize("situation", [pytest.param(s, id=s.__name__) for s in SITUATIONS])
async def test_over_tls_too(situation: Situation, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same holds for the transport of TLS and for what it calls."""
    owners = {TlsTransport, SocketTransport, UpstreamConnection}
    wrong = await faults_found(situation, tmp_path, caplog, tls=True, owners=owners)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("situation", "sample"), with_samples(http2_fault_injection.SITUATIONS))
async def test_a_fault_in_http2_ends_its_own_stream_or_connection(
    situation: http2_fault_injection.Situation, sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever method raises: other connections go on, all that was held is given back once, and the log has one
    traceback."""
    wrong = await http2_fault_injection.faults_found(situation, caplog, sample=sample)
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
