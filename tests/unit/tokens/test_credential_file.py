"""sidecar.tokens.credential_file: files as people really have them, and what is said of those that can't be used."""

from __future__ import annotations

import base64
import codecs
import json
from pathlib import Path

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.tokens.credential_file import parse, read_text

SECRET = "MIIEvQIBADANBgkq-not-for-your-eyes"
INFO = {"type": "authorized_user", "client_secret": SECRET, "name": "Zoë"}
TEXT = json.dumps(INFO, ensure_ascii=False)

ENCODED = {
    "utf-8": TEXT.encode(),
    "utf-8-bom": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16-le": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16-be": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-16-le-no-bom": TEXT.encode("utf-16-le"),
    "utf-16-be-no-bom": TEXT.encode("utf-16-be"),
    "windows-line-ends": TEXT.replace(", ", ",\r\n").encode(),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_a_file_is_read_in_whatever_unicode_it_was_saved(tmp_path: Path, encoding: str) -> None:
    """Windows' editors put a byte order mark before UTF-8, its shells write UTF-16."""
    file = tmp_path / "key.json"
    file.write_bytes(ENCODED[encoding])
    assert parse(read_text(str(file)), "x") == INFO


def test_a_value_may_begin_with_a_byte_order_mark() -> None:
    """As a variable does that was set from such a file."""
    assert parse("\ufeff" + TEXT, "x") == INFO


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xfe\x00", id="half-a-character"),
        pytest.param(b"\xff" + TEXT.encode(), id="no-unicode"),
        pytest.param(TEXT.encode("latin-1"), id="latin-1"),
    ],
)
def test_what_is_no_unicode_is_not_text(tmp_path: Path, data: bytes) -> None:
    """Nothing is guessed, and nothing of it is left in the error."""
    file = tmp_path / "key.json"
    file.write_bytes(data)
    with pytest.raises(SidecarError, match=r"credential_invalid: .*it is not text") as caught:
        read_text(str(file))
    assert caught.value.__context__ is None


TWICE = json.dumps(TEXT)
PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
MISTAKES = {
    "empty": (" \n", "it is empty"),
    "half": (TEXT[:40], "it begins like JSON but is not complete"),
    "base64": (base64.b64encode(TEXT.encode()).decode(), "it is JSON in base64: decode it"),
    "base64-in-lines": (base64.encodebytes(TEXT.encode() * 3).decode(), "it is JSON in base64: decode it"),
    "base64-twice": (base64.b64encode(base64.b64encode(TEXT.encode())).decode(), "it is JSON in base64"),
    "quoted-twice": (TWICE, "it is JSON within quotes"),
    "quoted-thrice": (json.dumps(TWICE), "it is JSON within quotes"),
    "quoted-by-a-shell": (f"'{TEXT}'", "it is JSON within quotes"),
    "half-unquoted": (TWICE[1:-1], "it is JSON whose quotes have backslashes"),
    "line-ends": (json.dumps({"private_key": PEM}).replace("\\n", "\n"), "line ends within a value"),
    "pem": (PEM, "it is a private key alone"),
    "jwt": ("eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2ln", "it is a token, not a credential"),
    "list": (json.dumps([SECRET]), "it is JSON, but no object"),
    "client": (json.dumps({"installed": {"client_secret": SECRET}}), "it is an OAuth client"),
    "web-client": (json.dumps({"web": {"client_secret": SECRET}}), "it is an OAuth client"),
    "gdch": (
        json.dumps({"type": "gdch_service_account", "private_key": SECRET}),
        "for Google Distributed Cloud",
    ),
    "yaml": (f"type: service_account\nprivate_key_: {SECRET}", "it is not a JSON object"),
    "too-deep": ("[" * 100_000, "it begins like JSON but is not complete"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_credential_is_named_with_its_fix(mistake: str) -> None:
    """What it is instead, and nothing of its contents, not even in the context."""
    text, says = MISTAKES[mistake]
    with pytest.raises(SidecarError) as caught:
        parse(text, "/keys/a.json")
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert caught.value.detail.startswith("The credential in /keys/a.json cannot be used: ")
    assert says in caught.value.detail
    assert SECRET[:8] not in str(caught.value)
    assert caught.value.__context__ is None
