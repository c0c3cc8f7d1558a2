"""A secret's contents in the place of another value.

Owns the list of keys that take a secret's contents, and the errors for contents in the place of a path, a URL or
another plain value. Called by `tree` for every text that it reads, so that no later message can quote it. The
environment variables that credentials follow are judged here too. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from pydantic import SecretStr

from sidecar.config.credentials import ADC_VARIABLE, CREDENTIAL_TYPES, Adc, Credential, Metadata, User
from sidecar.config.variables import MTLS_MODE, metadata_address, metadata_variable, mutual_tls
from sidecar.grammar.contents import kind_of

_SECRETS: Final = frozenset(
    field.alias or name
    for model in CREDENTIAL_TYPES.values()
    for name, field in model.model_fields.items()
    if field.annotation in (SecretStr, SecretStr | None)
)
"""Keys of a credential that take contents."""
_NAME_MAX: Final = 255
"""Bytes that each name in a path may have (Linux' limits.h)."""
_TO_A_FILE: Final = "write them to a file, and name that here"


def misplaced(path: tuple[str | int, ...], text: str) -> str | None:
    """What to say of a text that can't be what belongs at `path`, without a word of it; None where it can be."""
    keys = [part for part in path if isinstance(part, str)]
    key, credential = (keys or [""])[-1], keys[:1] == ["credentials"]
    if (credential and len(keys) == 3 and key in _SECRETS) or "require_header" in keys[:-1]:
        return None
    if keys == ["token_endpoint", "secret"]:
        return None
    names_a_file = key.endswith("_file") or (credential and key in ("file", "path"))
    # Scopes may be written as a block of text, one a line.
    kind = kind_of(" ".join(text.split()) if key == "scopes" else text)
    if kind is None and names_a_file and _has_long_name(text):
        kind = f"a name of more than {_NAME_MAX} bytes"
    if kind is None:
        return None
    if not names_a_file:
        return f"contents, not a plain value ({kind}): what a secret's file holds does not belong here"
    if credential and key == "file":
        return f"contents, not a path ({kind}): for a service account key use `json:`, else {_TO_A_FILE}"
    if credential:
        return f"contents, not a path ({kind}): for a literal token use `type: static` with `token:`, else {_TO_A_FILE}"
    return f"contents, not a path ({kind}): {_TO_A_FILE}"


def misplaced_in(
    environ: Mapping[str, str], credentials: Collection[Credential], *, metadata: bool
) -> Iterator[tuple[str, str]]:
    """The variables that the credentials follow and that can't be what they are to be, each with what to say of it.

    `metadata` is whether the configuration itself says where the metadata server is.
    """
    kinds = {type(credential) for credential in credentials}
    logins = Adc in kinds or any(isinstance(one, User) and one.file is None for one in credentials)
    if Adc in kinds and (kind := kind_of(environ.get(ADC_VARIABLE, ""))) is not None:
        yield (
            ADC_VARIABLE,
            f"contents, not a path ({kind}): {_TO_A_FILE}, or for a service account key use "
            f'`type: service_account_key` with `json: "${{{ADC_VARIABLE}}}"`',
        )
    if logins and (kind := kind_of(environ.get("CLOUDSDK_CONFIG", ""))) is not None:
        yield "CLOUDSDK_CONFIG", f"contents, not a path ({kind}): the path of gcloud's directory belongs here"
    if kinds & {Adc, Metadata}:
        try:
            mutual_tls(environ)
        except ValueError as error:
            yield MTLS_MODE, str(error)
    name = metadata_variable(environ)
    if name is not None and not metadata and kinds & {Adc, Metadata}:
        try:
            metadata_address(environ[name])
        except ValueError as error:
            yield name, str(error)


def _has_long_name(path: str) -> bool:
    return any(len(name.encode("utf-8", "replace")) > _NAME_MAX for name in path.split("/"))
