"""sidecar.tokens.service_account: keys that can be used, and what is said of those that can't."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.tokens.service_account import (
    FILE_LIMIT,
    KeyGrant,
    check_key,
    parse_credential,
    read_credential,
)

SECRET = "MIIEvQIBADANBgkq-not-for-your-eyes"
KEY: Mapping[str, Any] = {
    "type": "service_account",
    "client_email": "sa@p.iam.gserviceaccount.com",
    "private_key": SECRET,
    "private_key_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in KEY.items() if key != name}


@pytest.mark.parametrize(
    ("info", "says"),
    [
        pytest.param(without("private_key"), "lacks `private_key`", id="no-private-key"),
        pytest.param(without("client_email"), "lacks `client_email`", id="no-email"),
        pytest.param(without("token_uri"), "lacks `token_uri`", id="no-token-uri"),
        pytest.param(
            {"type": "service_account"}, "lacks `client_email`, `private_key`, `token_uri`", id="all"
        ),
        pytest.param({**KEY, "private_key": ""}, "lacks `private_key`", id="empty"),
        pytest.param({**KEY, "private_key": {"x": SECRET}}, "lacks `private_key`", id="not-text"),
        pytest.param({**KEY, "type": "authorized_user"}, "of type authorized_user", id="another-type"),
        pytest.param({**KEY, "type": SECRET}, "of type unknown", id="odd-type"),
        pytest.param({**KEY, "client_email": "sa\r\nX: y@p"}, "not an e-mail address", id="odd-email"),
        pytest.param({**KEY, "token_uri": "http://evil.example/token"}, "not an https URL", id="plain-http"),
        pytest.param({**KEY, "token_uri": "https:///token"}, "not an https URL", id="no-host"),
        pytest.param({**KEY, "token_uri": "http://[::1/token"}, "not an https URL", id="not-a-url"),
        pytest.param({**KEY, "token_uri": "file:///etc/passwd"}, "not an https URL", id="file"),
    ],
)
def test_a_key_that_cannot_be_used(info: Mapping[str, Any], says: str) -> None:
    """CREDENTIAL_INVALID names the place and what is wrong, and shows nothing of the key."""
    with pytest.raises(SidecarError) as caught:
        check_key(info, "/keys/a.json")
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert says in caught.value.detail
    assert "/keys/a.json" in caught.value.detail
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(KEY, id="as-downloaded"),
        pytest.param(without("type"), id="no-type"),
        pytest.param({**KEY, "token_uri": "http://127.0.0.1:9/token"}, id="loopback"),
        pytest.param({**KEY, "token_uri": "http://localhost:9/token"}, id="localhost"),
        pytest.param({**KEY, "token_uri": "http://[::1]:9/token"}, id="loopback-v6"),
    ],
)
def test_a_key_that_can_be_used(info: Mapping[str, Any]) -> None:
    """A key is complete with these fields; its token endpoint is https, or plain http on loopback."""
    check_key(info, "x")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{" + SECRET, id="not-json"),
        pytest.param(f'["{SECRET}"]', id="not-an-object"),
        pytest.param("[" * 100_000, id="too-deep"),
    ],
)
def test_text_that_is_not_a_credential(text: str) -> None:
    """What is not a JSON object is named by its place, with nothing of its contents, not even in the
    context."""
    with pytest.raises(
        SidecarError, match=r"/keys/a\.json cannot be used: it is not a JSON object"
    ) as caught:
        parse_credential(text, "/keys/a.json")
    assert caught.value.__context__ is None
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a directory and a binary file are told apart, each with its path."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    large = tmp_path / "large"
    large.write_text(" " * (FILE_LIMIT + 10))
    missing = tmp_path / "missing.json"
    with pytest.raises(SidecarError, match=f"credential_not_found: There is no file {missing}"):
        read_credential(str(missing))
    with pytest.raises(
        SidecarError, match=f"credential_invalid: .*{tmp_path} cannot be used: is a directory"
    ):
        read_credential(str(tmp_path))
    with pytest.raises(SidecarError, match=f"{binary} cannot be used: it is not text"):
        read_credential(str(binary))
    assert len(read_credential(str(large))) == FILE_LIMIT


def test_a_grant_says_where_its_key_is_and_not_what() -> None:
    """The description names the place only."""
    assert (
        KeyGrant(file="/keys/a.json", where="/keys/a.json").describe()
        == "service account key in /keys/a.json"
    )
    grant = KeyGrant(text=json.dumps(dict(KEY)), where="`credentials.default.json`")
    assert SECRET not in grant.describe() + repr(grant)
