"""A real sidecar between the app and the target of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.emulator.running import EmulatorThread
from tests.conformance.http2 import older
from tests.conformance.http2.target import Target
from tests.support.process import SidecarProcess

CONFIG = """
routes:
  - name: billing
    host: billing.internal
    upstream: http://127.0.0.1:{port}
    audience: https://billing.example
    protocol: {protocol}
"""


@pytest.fixture(scope="module")
def thread() -> Iterator[EmulatorThread]:
    with EmulatorThread() as made:
        yield made


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as made:
        yield made


def started(thread: EmulatorThread, directory: Path, port: int, protocol: str) -> SidecarProcess:
    config = CONFIG.format(port=port, protocol=protocol)
    return SidecarProcess(config, directory, thread.google.environment())


@pytest.fixture(scope="module")
def sidecar(
    thread: EmulatorThread, target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Before a target of HTTP/2, whatever the app speaks."""
    with started(thread, tmp_path_factory.mktemp("http2"), target.port, "http2") as running:
        yield running
        assert "Traceback" not in running.text


@pytest.fixture(scope="module")
def old_target() -> Iterator[older.OlderTarget]:
    with older.OlderTarget() as made:
        yield made


@pytest.fixture(scope="module")
def bridge(
    thread: EmulatorThread, old_target: older.OlderTarget, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Before a target of HTTP/1.1."""
    with started(thread, tmp_path_factory.mktemp("http1"), old_target.port, "http1") as running:
        yield running
        assert "Traceback" not in running.text
