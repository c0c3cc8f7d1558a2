"""A pytest fixture with the stand-in, for tests of other projects: `pip install idtoken-sidecar`, and it is there.

    def test_my_service(google_emulator):
        target = google_emulator.add_target("billing")
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
    """Google on loopback for one test, in a thread of its own; also for tests that block.

    Until the test's end the environment leads there, as does google-auth in this process: `google.auth.default()`
    is the stand-in's machine, and `verify_oauth2_token` takes its certificates.
    """
    from sidecar.emulator.running import EmulatorThread

    with EmulatorThread() as thread:
        google = thread.google
        # google-auth reads these when it is first imported, which may have been long ago; or is
        # now, and must not find what only this test is to see.
        metadata = "google.auth.compute_engine._metadata"
        monkeypatch.setattr(f"{metadata}._GCE_METADATA_HOST", google.metadata_address)
        monkeypatch.setattr("google.oauth2.id_token._GOOGLE_OAUTH2_CERTS_URL", google.certs_url)
        # A key of the developer's own would win over the metadata server.
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        # So would what `gcloud auth application-default login` wrote.
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(google.ca_file.parent / "no-gcloud"))
        for name, value in {**google.environment(), "IDTOKEN_EMULATOR_CONTROL": google.control_url}.items():
            monkeypatch.setenv(name, value)
        yield thread
