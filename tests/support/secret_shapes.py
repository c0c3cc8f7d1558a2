"""The forms in which people have secrets at hand, each with a mark that is known to the test."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Final
from urllib.parse import quote


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _url64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _pem(mark: str) -> str:
    body = _b64(mark * 4)
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n"


def _key(mark: str) -> str:
    return json.dumps(
        {"type": "service_account", "private_key": _pem(mark), "client_email": "a@p.iam.gserviceaccount.com"}
    )


def _login(mark: str) -> str:
    return json.dumps({"type": "authorized_user", "client_secret": mark, "refresh_token": f"1//{mark}"})


SHAPES: Final[dict[str, Callable[[str], str]]] = {
    "key": _key,
    "key-of-many-lines": lambda mark: json.dumps(json.loads(_key(mark)), indent=2),
    "key-with-an-env-files-quotes": lambda mark: f"'{_key(mark)}'",
    "key-in-base64": lambda mark: _b64(_key(mark)),
    "key-in-base64-twice": lambda mark: _b64(_b64(_key(mark))),
    "key-as-a-url-has-it": lambda mark: quote(_key(mark), safe=""),
    "login": _login,
    "login-as-base64url": lambda mark: _url64(_login(mark)),
    "list": lambda mark: json.dumps([{"secret": mark}]),
    "pem": _pem,
    "pem-on-one-line": lambda mark: _pem(mark).replace("\n", "\\n"),
    "pem-in-base64": lambda mark: _b64(_pem(mark)),
    "der-in-base64": lambda mark: base64.b64encode(b"\x30\x82\x04\xa2" + mark.encode() * 4).decode(),
    "jwt": lambda mark: f"{_url64(json.dumps({'alg': 'RS256'}))}.{_url64(json.dumps({'sub': mark}))}.{mark}",
    "access-token": lambda mark: f"ya29.{mark}",
    "refresh-token": lambda mark: f"1//0g{mark}",
    "lines": lambda mark: f"user\n{mark}",
    "too-long": lambda mark: mark * (4200 // len(mark)),
}
"""From a mark of 24 letters and digits or more to the text of a secret."""


def shown_of(secret: str, text: str) -> str | None:
    """What stands in `text` of a secret, 12 characters or more of it as they are or as JSON has them; else None."""
    for spelling in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}:
        for at in range(len(spelling) - 11):
            part = spelling[at : at + 12]
            if part in text and part not in _HARMLESS:
                return part
    return None


_WORDS: Final = (
    ' "service_account", ',
    "-----BEGIN PRIVATE KEY-----",
    '"a@p.iam.gserviceaccount.com"',
    "service_account_key",
    ' "private_key": ',
    ' "client_secret": ',
    ' "refresh_token": ',
    ' "authorized_user", ',
    "client_email",
)
_HARMLESS: Final = frozenset(word[at : at + 12] for word in _WORDS for at in range(len(word) - 11))
"""Words of the forms themselves, which messages may have too."""
