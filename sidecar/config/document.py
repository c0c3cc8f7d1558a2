"""The configuration as documents: its JSON Schema, and a resolved copy.

Owns what `config schema` and `config show` print. Pure. Secrets are shown as asterisks, so a copy that had
one does not load again; every other copy does, to the same configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml
from pydantic import BaseModel, SecretStr

from sidecar.config.models import Config
from sidecar.grammar.contents import HIDDEN

_WRITTEN: Final = frozenset({"bundle_file"})
"""Files that the sidecar writes."""
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of a file, for editors and validators; values may also be `${VAR}` references."""
    schema = Config.model_json_schema(by_alias=True)
    return {"$schema": _DIALECT, **schema, "title": "idtoken-sidecar"}


def files_of(value: Any) -> Iterator[str]:
    """The files that a configuration names to be read, or a part of one."""
    if isinstance(value, BaseModel):
        is_credential = "type" in type(value).model_fields
        for name, item in value:
            if name in _WRITTEN:
                continue
            if name.endswith("_file") or (is_credential and name in ("file", "path")):
                yield from [item] if isinstance(item, str) else []
            else:
                yield from files_of(item)
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from files_of(item)


def plain(config: Config) -> dict[str, Any]:
    """The configuration with every default, as plain values; secrets are hidden."""
    found: dict[str, Any] = _plain(config.model_dump(by_alias=True, exclude_none=True))
    found["routes"] = [
        {key: value for key, value in route.items() if value not in ([], {})} for route in found["routes"]
    ]
    return found


def shown(config: Config) -> str:
    """The same as YAML that `load` reads."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=110)


def given(config: Config) -> str:
    """Only what was set, as YAML that `load` reads: for `--to` and flags, where there is no file."""
    plain = _plain(config.model_dump(by_alias=True, exclude_none=True, exclude_unset=True))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.replace("${", "$${")  # or it would be a reference when it is read again
    return HIDDEN if isinstance(value, SecretStr) else value
