"""Names text that is not a credential's JSON, and says how to fix it.

Owns the mistakes that editors, shells, env files and Kubernetes secrets make with credential files, and the choice of
the wrong one of Google's files. Called by `credential_file` and `service_account`. Pure. The rule: a mistake is
named, not silently fixed, because other programs read the same file; the contents are never quoted. Sources: RFC
8259; Google's files as gcloud and the console write them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sidecar.grammar.contents import kind_of

USE_INSTEAD: Final = "Use a service account key, or run on Google Cloud with a service account attached."
NEW_KEY: Final = "`gcloud iam service-accounts keys create FILE --iam-account=E-MAIL` makes a key"
_BYTE_ORDER_MARK: Final = "\ufeff"
_CLIENTS: Final = ("installed", "web")
"""The keys that hold the contents of an OAuth client's file
(https://developers.google.com/identity/protocols/oauth2).
"""


def loaded(text: str) -> Any:
    """The JSON in a text, with or without a byte order mark; None if it is not JSON. Never raises, because `json`'s
    errors contain the text.
    """
    try:
        return json.loads(text.removeprefix(_BYTE_ORDER_MARK))
    except (ValueError, RecursionError):
        return None


def no_object(text: str) -> str:
    """What a text is that is no JSON object, worded for the end of a sentence."""
    inner = text.removeprefix(_BYTE_ORDER_MARK).strip()
    if not inner:
        return "it is empty. See what is to write it."
    found = loaded(inner)
    if isinstance(found, str):
        kind = kind_of(found)
    else:
        kind = kind_of(inner)
    if (isinstance(found, str) and kind == "JSON") or (
        inner[0] == inner[-1] == "'" and _is_object(inner[1:-1])
    ):
        return (
            "it is JSON within quotes, and with a backslash before each quote in it, or the quotes of an env file. "
            "Remove the outer quotes; `jq -r . FILE` undoes one quoting."
        )
    if isinstance(found, list | int | float) or found is True or found is False:
        return "it is JSON, but no object. Give the whole file as Google's tools wrote it, and nothing around it."
    if inner[0] == "{":
        return _broken(inner)
    return _OTHER_KINDS.get(kind or "", "give the whole file as Google's tools wrote it.")


def _broken(text: str) -> str:
    if text.startswith('{\\"'):
        return (
            "it is JSON whose quotes have backslashes before them. Write it as Google's tools did, without these: a "
            "shell or a template has added them."
        )
    if _is_object(text, strict=False):
        return (
            "it has line ends within a value, where JSON wants `\\n`. A shell or a template has put them there (`echo "
            "-e` and `printf` do): hand the file on as it is."
        )
    return "it begins like JSON but is not complete, or has text behind it. Write the whole file again."


_OTHER_KINDS: Final = {
    "JSON in base64": "it is JSON in base64: decode it (`base64 -d`). A Kubernetes secret's `data` is encoded once, "
    "its `stringData` not at all.",
    "PEM text": "it is a private key alone, or a certificate. The whole JSON file that has `private_key` in it belongs "
    f"here; {NEW_KEY}.",
    "a token": "it is a token, not a credential. A ready token is given by `type: file` or `type: static`.",
    "JSON": "it begins like JSON but is not complete. Write the whole file again.",
    "a key or certificate in base64": f"it is a key in base64, such as a .p12. {NEW_KEY}, in JSON.",
}


def of_another_kind(info: Mapping[str, Any]) -> str | None:
    """What is wrong with a JSON object that is one of Google's files but no credential for Google's services."""
    if "type" not in info and (client := next((key for key in _CLIENTS if key in info), None)) is not None:
        return (
            f"it is an OAuth client (`client_secret.json`, with `{client}`), which identifies an app and is no "
            f"credential of its own. {NEW_KEY} of a service account; `gcloud auth application-default login` "
            "logs you in."
        )
    if info.get("type") == "gdch_service_account":
        return (
            "it is of type gdch_service_account, for Google Distributed Cloud, whose tokens Google's services do not "
            f"take. {USE_INSTEAD}"
        )
    return None


def unusable_key(pem: str) -> str:
    """Why a `private_key` can't sign, worded for the middle of a sentence."""
    if "\\n" in pem:
        return (
            "its `private_key` has `\\n` as two characters where line ends belong: it was escaped twice, by a shell or "
            "a template. Give the file as it was downloaded"
        )
    label = pem.strip().removeprefix("-----BEGIN ").partition("-----")[0] if "-----BEGIN " in pem else ""
    if label == "ENCRYPTED PRIVATE KEY":
        return (
            "its `private_key` is encrypted, and there is no password for it: decrypt it with `openssl pkey`"
        )
    return "its `private_key` is not an RSA key in PEM form"


def _is_object(text: str, *, strict: bool = True) -> bool:
    try:
        return isinstance(json.loads(text, strict=strict), dict)
    except (ValueError, RecursionError):
        return False
