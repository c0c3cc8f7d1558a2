"""Reads credential files, and refuses those that can't be used.

Owns the reading of the JSON files that Google's tools write, and the checks that all of them need. Called by the
grants, in worker threads and at start. It may not keep a file open, or keep its contents. The rule: a file that can't
be used is CREDENTIAL_INVALID; the error has its name and what is missing, and quotes no contents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from sidecar.config.credentials import ADC_VARIABLE
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import kind_of, place
from sidecar.grammar.hosts import Url, is_loopback, parse_url
from sidecar.grammar.key_files import exposed
from sidecar.runtime.regular_files import read
from sidecar.tokens.miswritten import loaded, no_object, of_another_kind

_BY_ADC: Final = f"`type: adc`, and {ADC_VARIABLE} to its path"
_SETTINGS: Final[Mapping[str, str]] = {
    "service_account": "`type: service_account_key`",
    "authorized_user": "`type: user`",
    "external_account": "`type: workload_identity_federation`",
    "external_account_authorized_user": _BY_ADC,
    "impersonated_service_account": _BY_ADC,
}
"""The configuration's `type` for a file, by the file's own `type`."""
FILE_LIMIT: Final = 256 * 1024
"""Bytes of a credential file; a key is under 3 KiB."""


def read_text(file: str, *, refuse_world_readable: bool = False, login: str = "") -> str:
    """The text of a credential file. Raises `SidecarError`, which names the file and `login`, the command that writes
    it.
    """
    shown = place(file)
    if (kind := kind_of(file)) is not None:
        raise SidecarError(
            Reason.CREDENTIAL_INVALID,
            f"There is {kind} where the path of a credential's file belongs: write them to a file, and name "
            "that; for a service account key there is `json:`.",
        )
    reason: str | None = None
    try:
        found = read(file, FILE_LIMIT)
        if refuse_world_readable:
            reason = exposed(shown, found.mode)
        if reason is None:
            return found.text
    except FileNotFoundError:
        pass
    except UnicodeDecodeError:
        reason = "it is not text"
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
    if reason:
        invalid(shown, f"{reason}.")
    raise SidecarError(
        Reason.CREDENTIAL_NOT_FOUND,
        f"There is no file {shown}: check the path, and that it is mounted here"
        + (f", or log in with `{login}`." if login else "."),
        command=login,
    )


def parse(text: str, where: str) -> Mapping[str, Any]:
    """The JSON object in a credential; raises CREDENTIAL_INVALID."""
    parsed = loaded(text)
    if not isinstance(parsed, dict):
        invalid(where, f"it is not a JSON object: {no_object(text)}")
    refuse_other_kinds(parsed, where)
    return parsed


def refuse_other_kinds(info: Mapping[str, Any], where: str) -> None:
    """Raise CREDENTIAL_INVALID for another of Google's files, which is no credential for Google's services."""
    if (what := of_another_kind(info)) is not None:
        invalid(where, what)


def type_of(info: Mapping[str, Any]) -> str:
    """The `type` in a credential, or a phrase if it has none."""
    found = info.get("type")
    return found if isinstance(found, str) and re.fullmatch(r"[a-z_]{1,40}", found) else "unknown"


def refuse_type(info: Mapping[str, Any], where: str, wanted: str) -> NoReturn:
    """Raise CREDENTIAL_INVALID for a file of another type than `wanted`, naming the `type:` that it needs."""
    found = type_of(info)
    setting = _SETTINGS.get(found)
    advice = "" if setting is None else f" For this file set {setting}."
    invalid(where, f"it is a credential of type {found}, not {wanted}.{advice}")


def quota_project_in(info: Mapping[str, Any]) -> str | None:
    """The project that is charged for calls with a credential's access tokens, if its file names one."""
    found = info.get("quota_project_id")
    return found if isinstance(found, str) and is_project(found) else None


def is_project(text: str) -> bool:
    """Whether this can be the ID or number of a project, and so the value of a header."""
    return re.fullmatch(r"[a-z0-9][a-z0-9:.-]{0,99}", text) is not None


def require(info: Mapping[str, Any], fields: Sequence[str], where: str, again: str) -> None:
    """Raise CREDENTIAL_INVALID unless all `fields` are texts. `again` says how to get a complete file."""
    missing = [f"`{name}`" for name in fields if not (isinstance(info.get(name), str) and info[name])]
    if missing:
        invalid(where, f"it lacks {', '.join(missing)}. {again}")


def require_url(info: Mapping[str, Any], field: str, where: str) -> Url:
    """Raise CREDENTIAL_INVALID unless `field` is a URL that all parsers read in the same way."""
    try:
        return parse_url(str(info[field]))
    except ValueError:
        invalid(where, f"its `{field}` is not a URL.")


def require_safe_url(info: Mapping[str, Any], field: str, where: str) -> None:
    """Raise CREDENTIAL_INVALID unless `field` is an https URL, or an http one to loopback."""
    try:
        url = parse_url(info[field])
        safe = url.scheme == "https" or is_loopback(url.authority.host)
    except ValueError:
        safe = False
    if not safe:
        invalid(where, f"its `{field}` is not an https URL (plain http is for loopback only).")


def host_of(url: str) -> str:
    """Host and port of a URL, to name an endpoint. Accepts any text."""
    return place(re.split(r"[/?#\\]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2])


def invalid(where: str, what: str, *, command: str = "") -> NoReturn:
    """Raise CREDENTIAL_INVALID: `what` is wrong with the credential in `where`, and `command` fixes it."""
    raise SidecarError(
        Reason.CREDENTIAL_INVALID, f"The credential in {where} cannot be used: {what}", command=command
    )
