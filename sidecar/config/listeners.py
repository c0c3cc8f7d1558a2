"""Listeners, as people write them: an address, or a mapping with an address and who may call there.

Owns the notation of `listen`, the shared one and a route's own. Pure: nothing is bound, no file and no user is looked
up here. Both forms give one type, `ListenerConfig`; a listener without settings is written as its address again. What
concerns several keys is in `checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    SecretStr,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic_core import CoreSchema

from sidecar.config.addresses import AUTO, EXAMPLES, ListenAddress, parse_listen
from sidecar.config.names import NOT_FOR_CALLERS
from sidecar.config.values import Count, Model, Switch
from sidecar.grammar.contents import HIDDEN, quoted

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?\Z")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_HIGHEST_ID: Final = 2**32 - 2


def _required(value: Any) -> tuple[tuple[str, SecretStr], ...]:
    """Names and secrets; no message may quote a value."""
    if isinstance(value, tuple):
        value = dict(value)
    if not isinstance(value, dict) or not value:
        raise ValueError('a header and its value belong here, such as `{X-Local-Caller: "${SECRET}"}`')
    known: set[str] = set()
    found = []
    for name, secret in value.items():
        lower = name.lower().replace("_", "-") if isinstance(name, str) else ""
        if not isinstance(name, str) or _TOKEN.match(name) is None:
            # Not quoted: where name and value were exchanged, it is the secret.
            raise ValueError(
                "a name in it is not a header name: write `NAME: value`, such as `X-Local-Caller: …`"
            )
        if lower in NOT_FOR_CALLERS:
            raise ValueError(f"`{name}` has a meaning of its own: choose a name such as `X-Local-Caller`")
        if lower in known:
            raise ValueError(f"`{name}` stands here twice")
        known.add(lower)
        text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if not isinstance(text, str):
            raise ValueError(f"the value of `{name}` must be text: put it in quotes")
        if not text:
            raise ValueError(f"the value of `{name}` is empty, and so would let everybody in")
        if text == HIDDEN:
            raise ValueError(
                f"the value of `{name}` is what stands in print for a secret, and not the secret"
            )
        if _VALUE.match(text) is None:
            raise ValueError(
                f"the value of `{name}` is not one that a header can have: printable ASCII without spaces at its ends"
            )
        found.append((name, SecretStr(text)))
    return tuple(found)


def _ids(value: Any) -> tuple[int | str, ...]:
    if isinstance(value, int | str):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("a number or a name, or a list of them, belongs here")
    found: list[int | str] = []
    for item in value:
        number = int(item) if isinstance(item, str) and item.isascii() and item.isdigit() else item
        good = (
            0 <= number <= _HIGHEST_ID
            if isinstance(number, int) and not isinstance(number, bool)
            else isinstance(number, str) and _NAME.match(number) is not None
        )
        if not good:
            raise ValueError(f"{quoted(item)} is neither a number such as 1000 nor a name")
        found.append(number)
    return tuple(dict.fromkeys(found))


_Ids = Annotated[
    tuple[int | str, ...],
    BeforeValidator(_ids),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["integer", "string"]},
                {"type": "array", "items": {"type": ["integer", "string"]}},
            ]
        }
    ),
]


_RequiredHeaders = Annotated[
    tuple[tuple[str, SecretStr], ...],
    BeforeValidator(_required),
    PlainSerializer(dict, return_type=dict[str, Any]),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}),
]
"""Header names and their secrets, as pairs: a route, and so its listeners, must be hashable."""


class Peers(Model):
    """Which users' processes may call through a Unix socket. The kernel says who calls (SO_PEERCRED). A caller needs
    to be in one of the lists."""

    uid: _Ids = Field((), description="Users, by number or name; one or a list.")
    gid: _Ids = Field(
        (), description="Groups, by number or name: the process's own group or a supplementary one."
    )

    @model_serializer(mode="wrap")
    def _named(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {kind: ids for kind, ids in handler(self).items() if ids}


class ListenerTls(Model):
    """TLS on the listener: 1.2 or newer. The files are read again when they change."""

    cert_file: str = Field(description="PEM file of the certificate and its chain.", min_length=1)
    key_file: str = Field(description="PEM file of the certificate's key.", min_length=1)
    client_ca_file: str | None = Field(
        None,
        description="PEM file of the CAs whose client certificates callers must show. Without it, callers need "
        "none.",
    )
    allow_world_readable: Switch = Field(
        False, description="Use a key file that every user of this machine can read."
    )


class ListenerConfig(Model):
    """One address of `listen`, and who may call there."""

    address: Annotated[
        ListenAddress,
        BeforeValidator(lambda value: value if isinstance(value, ListenAddress) else _address(value)),
        PlainSerializer(str, return_type=str),
        WithJsonSchema({"type": "string", "examples": list(EXAMPLES)}),
    ] = Field(
        description="`localhost:PORT` (both loopbacks), an address with its port, `unix:/path`, or `auto`: a port of "
        "the route's own."
    )
    require_header: _RequiredHeaders | None = Field(
        None,
        description='Headers that each request must have, such as `{X-Local-Caller: "${SECRET}"}`; else 403. They are '
        "not forwarded.",
    )
    peers: Peers | None = Field(None, description="Processes that may call; for Unix sockets only.")
    connections: Count | None = Field(
        None, description="At most this many open connections here; further ones wait to be accepted."
    )
    tls: ListenerTls | None = Field(None, description="Serve https here.")
    intercept: Switch = Field(
        False,
        description="Serve https here for the hosts of routes that say `intercept: true`, by the name that the app "
        "asks for (SNI), with certificates of the top-level `intercept`'s CA. For `/etc/hosts` and `hostAliases`.",
    )

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any] | str:
        return str(self.address) if self.is_plain else handler(self)

    @property
    def is_plain(self) -> bool:
        """Whether it is an address and nothing else."""
        return (
            self.require_header is None
            and self.peers is None
            and self.connections is None
            and self.tls is None
            and not self.intercept
        )

    @property
    def scheme(self) -> str:
        """How URLs to it begin."""
        return "http" if self.tls is None and not self.intercept else "https"


def plain_listener(text: object) -> ListenerConfig:
    """The listener that an address alone means; ValueError where it is not one."""
    return ListenerConfig(address=_address(text))


def _address(text: object) -> ListenAddress:
    return AUTO if text == "auto" else parse_listen(text)


def _listeners(value: Any) -> Any:
    if isinstance(value, str):
        return (plain_listener(value),)
    if isinstance(value, dict | ListenerConfig):
        return (value,)
    if isinstance(value, Iterable):
        return tuple(
            item if isinstance(item, dict | ListenerConfig) else plain_listener(item) for item in value
        )
    raise ValueError("an address such as `localhost:8787`, or a list of them, belongs here")


class _EitherForm:
    """The schema of a listener or a list of them, each an address or a mapping."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        one = {"anyOf": [{"type": "string", "examples": list(EXAMPLES)}, handler(schema)["items"]]}
        return {"anyOf": [*one["anyOf"], {"type": "array", "items": one}]}


ListenerConfigs = Annotated[tuple[ListenerConfig, ...], BeforeValidator(_listeners), _EitherForm]
"""One or more listeners."""
