"""What a route lets through.

Owns the `allow` setting: which methods and which paths. Part of `models`; `proxy.admission.allowed` judges requests by
it. Pure.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from sidecar.config.values import Model
from sidecar.grammar.contents import quoted
from sidecar.grammar.paths import normal_path

METHODS: Final = (
    *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY"),
    *("COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "UNLOCK", "SEARCH", "REPORT", "ACL"),
    *("BIND", "REBIND", "UNBIND", "LINK", "UNLINK", "MERGE", "MKACTIVITY", "CHECKOUT", "MKCALENDAR"),
    *("PURGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE"),
)
"""The methods that are carried. Not: CONNECT (a tunnel can't be given a token), TRACE (its answer would
show the token), PRI and RTSP's (not HTTP/1.1)."""


def _entries(value: Any, what: str) -> list[Any]:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not entries:
        raise ValueError(f"{what} or a list of them belongs here; leave the key out to allow all")
    return list(entries)


def _method(value: Any) -> str:
    if value in METHODS:
        return str(value)
    near = get_close_matches(str(value).upper(), METHODS, n=1, cutoff=0.6)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise ValueError(f"{quoted(value)} is not a method that is carried{hint}")


def _methods(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_method(entry) for entry in _entries(value, "a method")))


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{quoted(value)}: a path begins with `/`, such as `/v1/invoices` or `/v1/*`")
    plain = value.removesuffix("*") if value.endswith("/*") else value
    if "*" in plain:
        raise ValueError(
            f"{quoted(value)}: `*` stands at the end only, after a slash: `/v1/*` is everything below `/v1/`"
        )
    if "?" in plain or "#" in plain:
        raise ValueError(
            f"{quoted(value)}: a path has no query and no fragment here; every query is let through"
        )
    if not plain.isascii():
        raise ValueError(f"{quoted(value)}: write it as it is sent, with `%` escapes")
    try:
        normal = normal_path(plain.encode("ascii")).decode("ascii")
    except ValueError as error:
        raise ValueError(f"{quoted(value)} {error}, so no request for it is let through") from None
    if normal != plain:
        raise ValueError(
            f"{quoted(value)}: write it in its normal form, {quoted(normal + value[len(plain) :])}"
        )
    return value


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_path(entry) for entry in _entries(value, "a path")))


_LIST: Final = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


class Allow(Model):
    """What is let through; the rest is answered 403, and nothing is sent. See docs/allow.md."""

    methods: Annotated[tuple[str, ...], BeforeValidator(_methods), _LIST] = Field(
        (),
        description="Methods, such as `[GET, HEAD]`. None implies another. Default: all that the sidecar "
        "forwards.",
    )
    paths: Annotated[tuple[str, ...], BeforeValidator(_paths), _LIST] = Field(
        (),
        description="Paths as they are sent to the upstream, `path_prefix` stripped: `/v1/invoices` is that one, "
        "`/v1/*` everything below `/v1/`. Default: all.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Allow:
        if not self.methods and not self.paths:
            raise ValueError("name `methods`, `paths` or both; leave `allow` out to allow everything")
        return self
