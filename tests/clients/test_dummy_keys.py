"""Programs with key files that are worth nothing: Google's libraries, unmodified, led to the sidecar by the environment alone.

They ask `oauth2`, `sts` and `iamcredentials.googleapis.com` by https, as they always do, get placeholders, and call services with
these; the services get the sidecar's own tokens. The keys are made in the test: no Google knows them, nor does the emulator.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.config.transparent import by_https
from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.emulator.scopes import CLOUD_PLATFORM
from sidecar.tokens import placeholder
from tests.clients.libraries import NODE_MODULES, PROGRAMS
from tests.support.programs import lines_of
from tests.support.sidecar import Start, clean_environment

LIMIT = 120.0
WAYS: Final = (
    *("key_access", "key_id", "impersonated_access", "impersonated_id"),
    *("login_access", "federation_access", "federation_acting_access"),
)
LIBRARIES: Final = {
    "google-auth": (sys.executable, str(PROGRAMS / "dummy_keys.py")),
    "node": ("node", str(PROGRAMS / "dummy_keys.cjs")),
}


def each() -> list[Any]:
    """Every library, with the reason not to run it here."""
    there = (NODE_MODULES / "google-auth-library").exists() and shutil.which("node")
    missing = (
        [] if there else [pytest.mark.skip(reason="not installed here (google-auth-library): `make clients`")]
    )
    return [
        pytest.param("google-auth", id="google-auth"),
        pytest.param("node", id="node", marks=[pytest.mark.test_all, *missing]),
    ]


def write_dummies(directory: Path) -> dict[str, str]:
    """Credential files as Google writes them, of nobody; their paths by variable."""
    subject = directory / "subject"
    subject.write_text("a subject token of nobody's")
    federation = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": str(subject)},
    }
    account = "projects/-/serviceAccounts/acted-as@p.iam.gserviceaccount.com"
    files: dict[str, dict[str, object]] = {
        "KEY_FILE": {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "0",
            "private_key": SigningKey().private_pem(),
            "client_email": "nobody@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": "https://oauth2.googleapis.com/token",
        },
        "LOGIN_FILE": {
            "type": "authorized_user",
            "client_id": "1.apps.googleusercontent.com",
            "client_secret": "none",
            "refresh_token": "of nobody",
        },
        "FEDERATION_FILE": federation,
        "FEDERATION_ACTING_FILE": {
            **federation,
            "service_account_impersonation_url": f"https://iamcredentials.googleapis.com/v1/{account}:generateAccessToken",
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    return {name: str(directory / name) for name in files}


async def run(command: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What each way brought."""
    lines, err = await lines_of(*command, *WAYS, environ=clean_environment(**environ), limit=LIMIT)
    found = {line.pop("way"): line for line in lines}
    assert set(found) == set(WAYS), err[-3000:]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", each())
async def test_a_dummy_key_file_suffices(google: Emulator, start: Start, tmp_path: Path, name: str) -> None:
    """Every kind of file: a key, impersonation on top of it, a login, federation with and without impersonation."""
    key = google.write_key(tmp_path / "real.json")
    billing = await google.add_target("billing")
    api = await google.add_target("storage", kind="googleapis")
    bundle = tmp_path / "bundle.pem"
    sidecar = await start(
        f"""
credentials: {{default: {{type: service_account_key, file: '{key}'}}}}
endpoints: {{oauth: '{google.oauth_url}', iam_credentials: '{google.iam_url}'}}
intercept: {{bundle_file: '{bundle}'}}
google_token_endpoints: {{scopes: ['{CLOUD_PLATFORM}']}}
routes:
  - {{name: billing, host: billing.internal, upstream: '{billing.url}', target: cloud_run, audience: '{billing.url}', intercept: true}}
  - {{name: storage, host: storage.internal, upstream: '{api.url}', target: googleapis, token: access, intercept: true}}
"""
    )
    found = await run(
        LIBRARIES[name],
        {
            **write_dummies(tmp_path),
            **by_https(f"http://127.0.0.1:{sidecar.port}", str(bundle)),
            "NODE_PATH": str(NODE_MODULES),
            "AUDIENCE": billing.url,
            "URL": "https://billing.internal/x",
            "API_URL": "https://storage.internal/x",
        },
    )
    assert {way: it["error"] for way, it in found.items() if "error" in it} == {}
    for way, it in found.items():
        assert placeholder.is_in(it["token"].encode()), way
        assert it["status"] == 200, (way, it)
        assert it["said"]["verified"]["email"] == KEY_EMAIL, way
    given = [
        await sidecar.metric("idtoken_sidecar_handouts_total", server="google_token_endpoints", kind=kind)
        for kind in ("id", "access")
    ]
    assert given[0] == 2
    assert given[1] >= 5
    assert "eyJ" not in sidecar.text, "a token"
