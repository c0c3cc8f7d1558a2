"""Which proxy holds for a route, and what of one can't be.

Owns the rules between `egress_proxy` and the rest of a configuration: a route's own goes before the top level's, which
is never for loopback upstreams; where the proxy looks names up, nothing is promised of the addresses behind them.
Called by `load`, and at start. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from sidecar.config.addresses import ListenAddress, leads_to
from sidecar.config.egress import EgressProxy
from sidecar.config.models import Config, RouteConfig
from sidecar.config.variables import followed_proxies
from sidecar.grammar import hosts
from sidecar.grammar.proxies import parse_proxy


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
    """What to log about proxies at start, if one direction has one and the other has none; else None."""
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
