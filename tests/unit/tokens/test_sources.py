"""sidecar.tokens.sources: from the configuration to sources, and google-auth kept lazy and quiet."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.clock import SystemClock
from sidecar.config.credentials import (
    Adc,
    Gcloud,
    Impersonate,
    Metadata,
    ServiceAccountKey,
    WorkloadIdentityFederation,
)
from sidecar.errors import SidecarError
from sidecar.tokens.sources import build_sources, quiet_google_logging
from sidecar.tokens.token import TokenKey


def clock() -> SystemClock:
    return SystemClock(asyncio.get_running_loop())


def inline(text: str) -> ServiceAccountKey:
    """A key given as text."""
    return ServiceAccountKey.model_validate({"type": "service_account_key", "json": SecretStr(text)})


async def test_a_source_for_each_credential(tmp_path: Path) -> None:
    """Each type becomes its own source, under its name, and says what it uses without a secret."""
    sources = build_sources(
        {
            "a": Adc(type="adc"),
            "m": Metadata(type="metadata"),
            "p": Metadata(type="metadata", account="x@p.iam.gserviceaccount.com"),
            "f": ServiceAccountKey(type="service_account_key", file="/keys/f.json"),
            "j": inline('{"private_key": "very-secret"}'),
        },
        clock=clock(),
        environ={"GCE_METADATA_HOST": "h:1", "CLOUDSDK_CONFIG": str(tmp_path)},
    )
    assert {name: source.describe() for name, source in sources.items()} == {
        "a": "application default credentials: the metadata server at h:1",
        "m": "default service account of the metadata server at h:1",
        "p": "service account x@p.iam.gserviceaccount.com of the metadata server at h:1",
        "f": "service account key in /keys/f.json",
        "j": "service account key in `credentials.j.json`",
    }


async def test_a_bad_inline_key_is_named_by_its_place_in_the_configuration() -> None:
    """A key from a variable that is incomplete is named by its key in the configuration, and never shown."""
    key = inline('{"private_key": "very-secret"}')
    with pytest.raises(
        SidecarError, match=r"`credentials\.j\.json`.*lacks `client_email`, `token_uri`"
    ) as caught:
        await build_sources({"j": key}, clock=clock(), environ={})["j"].mint(TokenKey("j", "https://x"))
    assert "secret" not in str(caught.value)


async def test_commands_have_a_time_of_their_own(tmp_path: Path) -> None:
    """A gcloud's is what it says; an executable's what its file says; who acts from one waits for it."""
    file = tmp_path / "wif.json"
    source = {"executable": {"command": "x", "timeout_millis": 20_000}}
    info = {"type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "https://x"}
    file.write_text(json.dumps({**info, "credential_source": source}))
    sources = build_sources(
        {
            "m": Metadata(type="metadata"),
            "g": Gcloud(type="gcloud", timeout="3s"),
            "slow": Gcloud(type="gcloud", timeout="40s"),
            "w": WorkloadIdentityFederation(type="workload_identity_federation", file=str(file)),
            "i": Impersonate(
                type="impersonate", service_account="a@p.iam.gserviceaccount.com", source="slow"
            ),
        },
        clock=clock(),
        environ={},
        seconds=8.0,
    )
    found = {name: source.seconds for name, source in sources.items()}
    assert found == {"m": 8.0, "g": 3.0, "slow": 40.0, "w": 22.0, "i": 42.0}


async def test_a_missing_key_file_is_named() -> None:
    """A key file that is not there is named by its path."""
    key = ServiceAccountKey(type="service_account_key", file="/nowhere/key.json")
    with pytest.raises(SidecarError, match=r"credential_not_found: There is no file /nowhere/key\.json"):
        await build_sources({"f": key}, clock=clock(), environ={})["f"].mint(TokenKey("j", "https://x"))


def test_google_auth_is_not_imported_at_start() -> None:
    """Neither importing nor building sources pays for google-auth and requests: the first fetch does."""
    program = """
import asyncio, sys
from sidecar.clock import SystemClock
from sidecar.tokens.sources import build_sources
import sidecar.tokens.store

async def main():
    class Adc:
        type = "adc"
    build_sources({"default": Adc()}, clock=SystemClock(asyncio.get_running_loop()), environ={})

asyncio.run(main())
print([name for name in ("google.auth", "requests", "urllib3", "cryptography") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def google_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("google")
    level = logger.level
    yield logger
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(logging.NOTSET, logging.INFO, id="not-set"),
        pytest.param(logging.DEBUG, logging.INFO, id="debug"),
        pytest.param(logging.INFO, logging.INFO, id="info"),
        pytest.param(logging.ERROR, logging.ERROR, id="error"),
    ],
)
def test_google_loggers_stay_at_info_or_above(google_logger: logging.Logger, before: int, after: int) -> None:
    """Whatever the level of the root or of a child, google-auth never logs at DEBUG; a higher level stays."""
    google_logger.setLevel(before)
    child, unset = logging.getLogger("google.auth.test"), logging.getLogger("google.auth.other")
    child.setLevel(logging.DEBUG)
    quiet_google_logging()
    assert google_logger.level == after
    assert child.level == logging.INFO
    assert unset.level == logging.NOTSET
    assert not unset.isEnabledFor(logging.DEBUG)
