"""ID tokens for a service account whose key is here.

Owns the reading and checking of a key. Called by `GoogleSource`, in a worker thread, and by `adc`. It may not
keep a key between two fetches: a file that was replaced is used from the next fetch on. The rule: a key that
can't be used is CREDENTIAL_INVALID with the name of the file and what is missing, and with nothing of its
contents. The assertion goes to the key's own `token_uri`, over TLS or to loopback.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, final
from urllib.parse import urlsplit

from sidecar.errors import Reason, SidecarError
from sidecar.hosts import is_loopback
from sidecar.tokens.endpoint import Endpoint, Protocol
from sidecar.tokens.google_source import Flight, refresh

FILE_LIMIT: Final = 256 * 1024
"""Bytes of a credential file; a key is under 3 KiB."""
_FIELDS: Final = ("client_email", "private_key", "token_uri")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,100}@[A-Za-z0-9.-]{1,100}")
_ABSENT: Final = "Check the network, DNS and (where one is needed) HTTPS_PROXY of this process."


@final
class KeyGrant:
    """A service account key, in a file or given as text."""

    def __init__(self, read: Callable[[], str], where: str) -> None:
        """`read` gives the text of the key, blocking, or raises `SidecarError`; `where` names the place."""
        self._read = read
        self._where = where

    def ask(self, flight: Flight, audience: str) -> str | None:
        """See `Grant.ask`."""
        info = parse_credential(self._read(), self._where)
        return ask_with_key(flight, audience, info, self._where)

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"service account key in {self._where}"


def ask_with_key(flight: Flight, audience: str, info: Mapping[str, Any], where: str) -> str | None:
    """Ask for a token with a parsed key; see `Grant.ask`."""
    check_key(info, where)
    host = urlsplit(info["token_uri"]).netloc.rpartition("@")[2]
    endpoint = Endpoint(
        f"the token endpoint at {host}", Protocol.OAUTH, f"service account {info['client_email']}", _ABSENT
    )
    transport = flight.open(endpoint, proxies=True)
    from google.oauth2.service_account import IDTokenCredentials

    credentials = None
    try:
        credentials = IDTokenCredentials.from_service_account_info(  # type: ignore[no-untyped-call]
            info, target_audience=audience
        )
    except Exception:  # noqa: BLE001,S110 - cryptography has many kinds of errors; their texts may quote the key
        pass
    if credentials is None:
        _invalid(where, "its `private_key` is not an RSA key in PEM form. Download the key again.")
    return refresh(credentials, transport)


def read_credential(file: str) -> str:
    """The text of a credential file; raises `SidecarError` naming it."""
    reason = ""
    try:
        with Path(file).open(encoding="utf-8") as stream:
            return stream.read(FILE_LIMIT)
    except FileNotFoundError:
        pass
    except UnicodeDecodeError:
        reason = "it is not text"
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else "it cannot be read"
    if reason:
        _invalid(file, f"{reason}.")
    raise SidecarError(
        Reason.CREDENTIAL_NOT_FOUND, f"There is no file {file}: check the path, and that it is mounted here."
    )


def parse_credential(text: str, where: str) -> Mapping[str, Any]:
    """The JSON object in a credential; raises CREDENTIAL_INVALID."""
    parsed: Any = None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        pass
    if not isinstance(parsed, dict):
        _invalid(where, "it is not a JSON object.")
    return parsed


def check_key(info: Mapping[str, Any], where: str) -> None:
    """Raise CREDENTIAL_INVALID unless this is a service account key whose token endpoint may be asked."""
    found = info.get("type", "service_account")
    if found != "service_account":
        named = found if isinstance(found, str) and re.fullmatch(r"[a-z_]{1,40}", found) else "unknown"
        _invalid(where, f"it is a credential of type {named}, not a service account key.")
    missing = [f"`{name}`" for name in _FIELDS if not (isinstance(info.get(name), str) and info[name])]
    if missing:
        _invalid(where, f"it lacks {', '.join(missing)}. Download the key again.")
    if _EMAIL.fullmatch(info["client_email"]) is None:
        _invalid(where, "its `client_email` is not an e-mail address.")
    if not _is_safe(info["token_uri"]):
        _invalid(where, "its `token_uri` is not an https URL (plain http is for loopback only).")


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return (parts.scheme == "https" and bool(host)) or (parts.scheme == "http" and is_loopback(host))


def _invalid(where: str, what: str) -> NoReturn:
    raise SidecarError(Reason.CREDENTIAL_INVALID, f"The credential in {where} cannot be used: {what}")
