"""sidecar.emulator.pytest_plugin: the fixture for others, in a pytest of its own as they run it"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.sidecar import clean_environment

SUITE = '''
import google.auth
import google.auth.transport.requests
import pytest
import requests
from google.oauth2 import id_token


def fetch(url):
    """What an app does: a token for the service, and the call."""
    request = google.auth.transport.requests.Request()
    token = id_token.fetch_id_token(request, url)
    assert id_token.verify_oauth2_token(token, request, url)["email_verified"] is True
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=5)


# Twice: the second finds google-auth imported while it led to the first's stand-in.
@pytest.mark.parametrize("kind", ["cloud_run", "iap"])
def test_an_app(google_emulator, kind):
    billing = google_emulator.add_target("billing", kind=kind)
    assert fetch(billing.url).status_code == 200
    (request,) = billing.requests
    assert request.verified.audience == billing.url


def test_adc(google_emulator):
    credentials, project = google.auth.default()
    credentials.refresh(google.auth.transport.requests.Request())
    assert (project, credentials.token[:5]) == ("emulated-project", "ya29.")


def test_being_called(google_emulator):
    billing = google_emulator.add_target("billing")
    delivered = google_emulator.call_as("scheduler", billing.url, data="hello")
    assert (delivered.status, delivered.audience) == (200, billing.url)


def test_a_fault(google_emulator):
    from sidecar.emulator.faults import Fault

    endpoint = google_emulator.google.metadata.endpoint
    google_emulator.call(lambda: endpoint.fail(Fault("status", 404)))
    with pytest.raises(google.auth.exceptions.GoogleAuthError):
        fetch("https://billing.example")
'''

AFTERWARDS = """
import os
import sys


def test_nothing_is_imported_for_who_does_not_ask():
    assert "sidecar.emulator.app" not in sys.modules
    assert "aiohttp" not in sys.modules


def test_nothing_is_set(google_emulator):
    assert "IDTOKEN_EMULATOR_CONTROL" in os.environ


def test_and_nothing_stays():
    import google.auth.compute_engine._metadata as metadata

    assert "IDTOKEN_EMULATOR_CONTROL" not in os.environ
    assert metadata._GCE_METADATA_HOST == os.environ["GCE_METADATA_HOST"] == "before.invalid"
"""


def outside(folder: Path, text: str, *options: str, **environment: str) -> str:
    """What a pytest in another folder says, which has this package installed and nothing else of ours."""
    (folder / "test_it.py").write_text(text, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:aiohttp", "-p", "no:asyncio", *options],
        cwd=folder,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_an_apps_own_tests(tmp_path: Path) -> None:
    """It is found by its entry point; tokens, certificates, faults and calls are the stand-in's, test after test."""
    said = outside(tmp_path, SUITE, GOOGLE_APPLICATION_CREDENTIALS="/of/the/developer")
    assert "5 passed" in said, said


def test_who_does_not_ask_pays_nothing(tmp_path: Path) -> None:
    """Nothing is imported before the fixture, and nothing stays after it."""
    said = outside(tmp_path, AFTERWARDS, GCE_METADATA_HOST="before.invalid")
    assert "3 passed" in said, said


def test_it_is_listed(tmp_path: Path) -> None:
    """`pytest --fixtures` shows it with what it does."""
    said = outside(tmp_path, "", "--fixtures")
    assert "google_emulator" in said, said
    assert "Google on loopback for one test" in said
