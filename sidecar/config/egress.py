"""`egress_proxy`: the HTTP proxy through which upstreams are reached.

Owns its notation. Part of `models`; the rules between it and the rest are in `egress_rules`. Pure.
"""

from __future__ import annotations

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

from sidecar.config.values import Model
from sidecar.grammar import networks
from sidecar.grammar.contents import HIDDEN, quoted
from sidecar.grammar.proxies import ProxyUrl, is_excepted, parse_exception, parse_proxy

_NONE: Final = "none"


def _url(value: Any) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ValueError(f"{quoted(value)} is not a proxy's URL, such as `http://proxy.example:3128`")
    proxy = parse_proxy(text)
    if proxy.secure:
        raise ValueError("TLS to the proxy itself is not supported: name a port where it accepts `http://`")
    if HIDDEN in proxy.userinfo:
        raise ValueError(
            "its user name and password are what stands in print for a secret, and not the secret"
        )
    if (
        why := networks.forbidden_host(proxy.host, networks.rules_for(proxy.host, allow_private=True))
    ) is not None:
        raise ValueError(f"`{proxy.host}` is never connected to: {why}")
    return SecretStr(text)


def _exceptions(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        raise ValueError("a host, network, or list of them belongs here")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"{quoted(item)} is not a host, address or network")
    return tuple(dict.fromkeys(parse_exception(item) for item in value if item.strip()))


class EgressProxy(Model):
    """An HTTP proxy: each connection to an upstream is a tunnel (CONNECT) through it, with the upstream's TLS in it."""

    url: Annotated[
        SecretStr,
        BeforeValidator(_url),
        PlainSerializer(lambda url: str(parse_proxy(url.get_secret_value())), return_type=str),
        WithJsonSchema({"type": "string", "examples": ["http://proxy.example:3128"]}),
    ] = Field(
        description="Its URL: `http://proxy.example:3128`; with credentials "
        "`http://${USER}:${PASSWORD}@proxy.example:3128`, in which `#`, `/`, `?` and `@` are escaped (`%23` for `#`)."
    )
    exceptions: Annotated[
        tuple[str, ...],
        BeforeValidator(_exceptions),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(
        (),
        alias="except",
        description="Upstreams that are reached directly: names (`internal.example`), which stand for all below them "
        "too, addresses and networks (`10.0.0.0/8`); a list, or a text with commas as in NO_PROXY.",
    )

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any] | str:
        if self.is_none:
            return _NONE
        whole: dict[str, Any] = handler(self)
        return whole if self.exceptions else str(whole["url"])

    @property
    def is_none(self) -> bool:
        """Whether upstreams are reached directly, whatever the top level says."""
        return not self.url.get_secret_value()

    def proxy_for(self, host: str, port: int) -> ProxyUrl | None:
        """The proxy for an upstream (host in normal form); None where it is reached directly."""
        if self.is_none or is_excepted(self.exceptions, host, port):
            return None
        return parse_proxy(self.url.get_secret_value())


_DIRECTLY: Final = EgressProxy.model_construct(url=SecretStr(""), exceptions=())


def _either(value: Any) -> Any:
    if value is False or (isinstance(value, str) and value.strip().lower() == _NONE):
        return _DIRECTLY
    return {"url": value} if isinstance(value, str) else value


class _ProxyInEitherForm:
    """The schema of a proxy: a URL, `none`, or a mapping."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "anyOf": [{"type": "string", "examples": ["http://proxy.example:3128", _NONE]}, handler(schema)]
        }


EgressSetting = Annotated[EgressProxy, BeforeValidator(_either), _ProxyInEitherForm]
"""A URL, `none`, or a mapping."""
