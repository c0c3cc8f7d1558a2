"""sidecar.tokens.grants.adc: which credential is meant by Application Default Credentials."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import ask as ask_grant
from sidecar.tokens.grants.adc import FILE_NAME, AdcGrant, find_file, well_known_file
from sidecar.tokens.token import TokenKey
from tests.support.named_source import NamedSource


def ask(environ: dict[str, str]) -> SidecarError:
    """The error that asking under this environment gives."""
    loop = asyncio.new_event_loop()
    flight = Flight(SystemClock(loop), 60)
    try:
        with pytest.raises(SidecarError) as caught:
            ask_grant(AdcGrant(environ), flight, TokenKey(NamedSource("default"), "https://x"))
        return caught.value
    finally:
        flight.close()
        loop.close()


def put(folder: Path, content: object, name: str = FILE_NAME) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


def test_the_order_of_the_look_up(tmp_path: Path) -> None:
    """The named file, then gcloud's in CLOUDSDK_CONFIG or under HOME, then the metadata server; no
    network."""
    home = tmp_path / "home"
    config = tmp_path / "config"
    environ = {"HOME": str(home)}
    assert find_file(environ) is None
    in_home = put(home / ".config" / "gcloud", {})
    found = find_file(environ)
    assert found is not None
    assert found.file == in_home
    environ["CLOUDSDK_CONFIG"] = str(config)
    assert find_file(environ) is None
    in_config = put(config, {})
    found = find_file(environ)
    assert found is not None
    assert found.file == in_config
    environ["GOOGLE_APPLICATION_CREDENTIALS"] = "/named.json"
    assert find_file(environ) == ("/named.json", "named by GOOGLE_APPLICATION_CREDENTIALS")
    environ["GOOGLE_APPLICATION_CREDENTIALS"] = ""
    assert find_file(environ) == found


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """A file that is named and not there is not replaced by another credential."""
    put(tmp_path, {"type": "service_account"})
    error = ask(
        {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "gone.json"), "CLOUDSDK_CONFIG": str(tmp_path)}
    )
    assert error.reason is Reason.CREDENTIAL_NOT_FOUND
    assert str(tmp_path / "gone.json") in error.detail


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        pytest.param("gdch_service_account", "Google Distributed Cloud", id="gdch"),
        pytest.param("something_else", "no `type` that is known", id="unknown"),
        pytest.param(["x"], "no `type` that is known", id="not-text"),
        pytest.param(None, "no `type` that is known", id="none"),
    ],
)
def test_other_types_are_named_with_what_to_do(tmp_path: Path, kind: object, says: str) -> None:
    """A credential of a type that can't be used is an error that names it, not a fall-through."""
    file = put(tmp_path, {"type": kind, "refresh_token": "most-secret"})
    error = ask({"CLOUDSDK_CONFIG": str(tmp_path)})
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert says in error.detail
    assert file in error.detail
    assert "Use a service account key" in error.detail
    assert "secret" not in error.detail


def test_a_broken_key_is_named(tmp_path: Path) -> None:
    """A service account file without its key says so, by its name."""
    file = put(tmp_path, {"type": "service_account", "client_email": "a@b.c"})
    error = ask({"GOOGLE_APPLICATION_CREDENTIALS": file})
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert "`private_key`, `token_uri`" in error.detail
    assert file in error.detail


def test_a_key_that_is_no_key_is_named(tmp_path: Path) -> None:
    """A private key that is not PEM is named by its file, and never shown."""
    file = put(
        tmp_path,
        {
            "type": "service_account",
            "client_email": "a@b.c",
            "private_key": "-----BEGIN PRIVATE KEY-----\nmost-secret\n-----END PRIVATE KEY-----\n",
            "token_uri": "https://oauth2.googleapis.com/token",
        },
    )
    error = ask({"GOOGLE_APPLICATION_CREDENTIALS": file})
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert "not an RSA key in PEM form" in error.detail
    assert error.__context__ is None
    assert "secret" not in error.detail


def test_a_laptop_is_told_that_it_is_not_google_cloud(tmp_path: Path, unused_tcp_port: int) -> None:
    """With no file and no metadata server, the error says what was looked for and what to set."""
    error = ask({"CLOUDSDK_CONFIG": str(tmp_path), "GCE_METADATA_HOST": f"127.0.0.1:{unused_tcp_port}"})
    assert error.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
    for part in ("Not on Google Cloud?", "GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / FILE_NAME)):
        assert part in error.detail


def test_no_gce_check_rules_out_the_metadata_server(tmp_path: Path) -> None:
    """With no file and NO_GCE_CHECK=true there is nothing left to ask."""
    error = ask({"CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"})
    assert error.reason is Reason.CREDENTIAL_NOT_FOUND
    assert "NO_GCE_CHECK" in error.detail


def test_descriptions(tmp_path: Path) -> None:
    """What was found is said in a few words."""
    environ = {"CLOUDSDK_CONFIG": str(tmp_path), "GCE_METADATA_HOST": "h:1"}
    assert AdcGrant(environ).describe() == "application default credentials: the metadata server at h:1"
    file = put(tmp_path, {})
    assert AdcGrant(environ).describe() == f"application default credentials: {file} (gcloud's)"


def test_a_user_without_a_name_has_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a numeric user and no HOME."""

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    assert find_file({}) is None
    assert well_known_file({}) == "/.config/gcloud/application_default_credentials.json"
