"""A pytest fixture with the stand-in, for tests of other projects: `pip install idtoken-sidecar`, and it is there.

    def test_my_service(google_emulator):
        target = google_emulator.run(google_emulator.google.add_target("billing"))
        ...  # whatever asks for Google's tokens finds the stand-in by the environment

Owns the fixture. Imported by every pytest run where the package is installed, so it imports nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sidecar.emulator.running import EmulatorThread


@pytest.fixture
def google_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatorThread]:
    """Google on loopback, in a thread of its own; the environment points google-auth and a sidecar at it."""
    from sidecar.emulator.running import EmulatorThread

    with EmulatorThread() as thread:
        for name, value in thread.google.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        yield thread
