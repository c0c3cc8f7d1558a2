"""`egress_proxy`: the HTTP proxy through which upstreams are reached.

Owns its notation, what a route gets of the top level's, and what can't be kept through a proxy. Called by `load` and
`models`; pure. The rule: a route's own goes before the top level's, which is never for loopback upstreams; where the
proxy looks names up, nothing is promised of the addresses behind them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

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

from sidecar.config.addresses import ListenAddress, leads_to
from sidecar.config.values import Model
from sidecar.config.variables import followed_proxies
from sidecar.grammar import hosts, networks
from sidecar.grammar.contents import HIDDEN, quoted
from sidecar.grammar.proxies import ProxyUrl, is_excepted, parse_exception, parse_proxy

if TYPE_CHECKING:
    from sidecar.config.models import Config, RouteConfig

_NONE: Final = "none"


def _url(value: Any) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ValueError(f"{quoted(value)} is not a proxy's URL, such as `http://proxy.example:3128`")
    proxy = parse_proxy(text)
    if proxy.secure:
        raise ValueError("TLS to the proxy itself is not spoken here: name a port where it takes `http://`")
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
            raise ValueError(f"{quoted(item)} is no host, address or network")
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


def in_force(route: RouteConfig, top: EgressProxy | None) -> EgressProxy | None:
    """What holds for a route. The top level's does not hold for loopback upstreams, which are on this machine."""
    if route.egress_proxy is not None or top is None or top.is_none:
        return route.egress_proxy
    host = urlsplit(route.upstream).hostname or ""
    return None if not route.is_dynamic and hosts.is_loopback(host) else top


def refusal_through_proxy(route: RouteConfig, setting: EgressProxy | None) -> tuple[str, str] | None:
    """A key of a route whose promise can't be kept through its proxy, and why; None where all can."""
    if setting is None or setting.is_none or route.allow_private:
        return None
    split = urlsplit(route.upstream)
    host = hosts.normalise(split.hostname) if split.hostname and not route.is_dynamic else ""
    port = split.port or (443 if split.scheme == "https" else 80)
    is_literal = bool(host) and hosts.ip_literal(host) is not None
    if is_literal or (host and setting.proxy_for(host, port) is None):
        return None
    return (
        "allow_private",
        "through `egress_proxy` the upstream's name is looked up by the proxy, and nobody here sees its address: leave "
        "`allow_private` on, or write `egress_proxy: none` at this route",
    )


def own_listener_behind(setting: EgressProxy, listening: Collection[ListenAddress]) -> str | None:
    """What to say of a proxy that is this sidecar itself; None where it is not."""
    if setting.is_none:
        return None
    proxy = parse_proxy(setting.url.get_secret_value())
    found = next((it for it in listening if leads_to(proxy.host, proxy.port, it)), None)
    return None if found is None else f"it leads back to the sidecar itself, which listens on {found}"


def told_at_start(environ: Mapping[str, str], config: Config) -> str | None:
    """What to tell of proxies at start, where one direction has one and the other has none; else None."""
    direct = [route for route in config.routes if not _is_on_loopback(route)]
    followed = followed_proxies(environ)
    nothing_said = config.egress_proxy is None and all(it.egress_proxy is None for it in config.routes)
    if followed and direct and nothing_said:
        return (
            f"upstreams are reached directly: {' and '.join(followed)} holds for token endpoints only. Set "
            "`egress_proxy` to have upstreams reached through a proxy"
        )
    if config.egress_proxy is not None and not config.egress_proxy.is_none and not followed:
        return (
            "`egress_proxy` is for upstreams: token endpoints are reached directly, since HTTPS_PROXY is not set in "
            "this environment"
        )
    return None


def _is_on_loopback(route: RouteConfig) -> bool:
    return not route.is_dynamic and hosts.is_loopback(urlsplit(route.upstream).hostname or "")
