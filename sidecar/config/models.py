"""The configuration's shape.

Owns every key, its type, its default and its description; the reference page, the JSON Schema, the
command-line flags and the environment variables all follow from here. Made by `load`, read by everything
above. Pure. The groups of keys are in `groups`, what concerns several keys at once is in `checks`. Durations are
seconds and sizes bytes once parsed; all models are frozen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PrivateAttr, WithJsonSchema

from sidecar.config.addresses import ListenAddress, ListenAddresses, parse_listen
from sidecar.config.allow import Allow
from sidecar.config.audiences import parse_scopes
from sidecar.config.credentials import Adc, Credential, Endpoints
from sidecar.config.egress import EgressSetting
from sidecar.config.groups import (
    Drain,
    Intercept,
    Limits,
    PoolSettings,
    RoutePool,
    Share,
    Timeouts,
    Tls,
    Tracing,
)
from sidecar.config.handouts import HANDOUTS, GoogleTokenEndpoints, Handout, MetadataServer, TokenEndpoint
from sidecar.config.listeners import ListenerConfig, ListenerConfigs, plain_listener
from sidecar.config.names import NOT_FOR_TOKENS
from sidecar.config.quantities import Duration
from sidecar.config.targets import CLOUD_PLATFORM
from sidecar.config.values import Count, Model, Switch, word
from sidecar.grammar import hosts
from sidecar.grammar.contents import quoted

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


def _host_pattern(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not a host name")
    if value == "*" or value.startswith("*."):
        if value == "*":
            raise ValueError("a wildcard needs at least two fixed labels, such as `*.a.run.app`")
        fixed = hosts.normalise(value[2:])
        if hosts.ip_literal(fixed) is not None or hosts.ends_in_number(fixed):
            raise ValueError(
                f"{quoted(value)} could match IP addresses only, which no wildcard does: list them one by one"
            )
        if fixed.count(".") < 1:
            raise ValueError(
                f"{quoted(value)}: a wildcard needs at least two fixed labels, such as `*.a.run.app`"
            )
        return f"*.{fixed}"
    if "*" in value:
        raise ValueError(f"{quoted(value)}: a wildcard stands for the first labels only: `*.a.run.app`")
    if (":" in value and hosts.ip_literal(value) is None) or "/" in value:
        raise ValueError(
            f"{quoted(value)}: a host has no scheme, port or path here; ports are ignored when matching"
        )
    return hosts.normalise(value)


def _host_patterns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("a host name or a list of them belongs here")
    return tuple(dict.fromkeys(_host_pattern(item) for item in value))


def _upstream(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not a URL such as `https://billing-abc123-uc.a.run.app`")
    scheme, separator, rest = value.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError(f"{quoted(value)} is not a URL: begin with `https://`{_as_url(value)}")
    rest = rest.removesuffix("/")
    if "/" in rest or "?" in rest or "#" in rest:
        raise ValueError(
            f"{quoted(value)}: an upstream is scheme, host and port only; paths come from the app's requests"
        )
    if rest.partition(":")[0] == "{host}":
        if rest != "{host}":
            raise ValueError("`{host}` stands alone: `https://{host}`")
        return f"{scheme.lower()}://{{host}}"
    return f"{scheme.lower()}://{hosts.parse_authority(rest)}"


def _as_url(text: str) -> str:
    """A suggestion to append where an upstream has no scheme: `localhost:3000`, `svc-abc-uc.a.run.app`."""
    try:
        authority = hosts.parse_authority(text.rstrip("/"))
    except ValueError:
        return ""
    is_local = hosts.is_loopback(authority.host)
    if not is_local and "." not in authority.host:
        return ""
    return f"; did you mean `{'http' if is_local else 'https'}://{authority}`?"


def _header(value: Any) -> str:
    if not isinstance(value, str) or _TOKEN.match(value) is None:
        raise ValueError(f"{quoted(value)} is not a header name")
    if value.lower().replace("_", "-") in NOT_FOR_TOKENS:
        raise ValueError(f"{quoted(value)} frames, routes or describes the message: a token can't go there")
    known = ("auto", "both", "authorization", "x-serverless-authorization", "proxy-authorization")
    return value.lower() if value.lower() in known else value


def _path_prefix(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("a path prefix begins with `/`, such as `/billing`")
    if value != "/" and value.endswith("/"):
        raise ValueError(f"write it without the last slash: {quoted(value.rstrip('/'))}")
    if re.search(r"[%?#\\\s]|//|/\.\.?(/|$)", value) or not value.isascii():
        raise ValueError("a path prefix is plain ASCII without `%`, `?`, `#`, `//` or dot segments")
    return value


def _upstream_host(value: Any) -> str:
    if value in ("upstream", "keep"):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("`upstream`, `keep` or a host name belongs here")
    return str(hosts.parse_authority(value))


_PROTOCOL = re.compile(rf"{_TOKEN.pattern[:-2]}(/{_TOKEN.pattern[:-2]})?")
_NO_TUNNELS = frozenset(("h2c", "h2", "http", "tls", "ssl"))
"""Names of what would carry requests past the sidecar, without a token and unjudged."""


def _upgrades(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError("a protocol or a list of them belongs here, such as `[websocket, SPDY/3.1]`")
    for protocol in value:
        if not isinstance(protocol, str) or _PROTOCOL.fullmatch(protocol) is None:
            raise ValueError(f"`{protocol}` is not a protocol such as `websocket` or `SPDY/3.1`")
        if protocol.lower().partition("/")[0] in _NO_TUNNELS:
            raise ValueError(
                f"`{protocol}` can't be carried: its tunnel would hold further requests, which get no token and "
                "pass by `allow`. Leave it out; the requests that ask for it are served without it"
            )
    return tuple({protocol.lower(): protocol for protocol in value}.values())


class RouteConfig(Model):
    """One target: how it is reached by the app, where it is, and as whom."""

    name: str = Field(
        description="Name in logs and metrics; `http://NAME.localhost:PORT/` reaches the route.",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    )
    host: Annotated[
        tuple[str, ...],
        BeforeValidator(_host_patterns),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(
        (),
        description="Host, or list of hosts, that selects the route; `*.a.run.app` matches one or more labels. "
        "Default: the upstream's host, unless that is loopback or another route's wildcard has it.",
    )
    upstream: Annotated[str, BeforeValidator(_upstream)] = Field(
        description="Where requests go: scheme, host, port. `https://{host}` follows the request's host."
    )
    audience: str | None = Field(
        None,
        description="The token's `aud`. Default: by `target`, usually the upstream's origin. `{host}` is replaced as "
        "in `upstream`.",
        min_length=1,
    )
    wildcard_audience: Literal["own", "shared"] = Field(
        "own",
        description="`shared`: send the same token (a fixed `audience`, an access token, a person's ID token) to "
        "every host that a wildcard matches. Each of these hosts could use it at the others.",
    )
    credential: str = Field("default", description="Which of `credentials` the token comes from.")
    target: Literal[
        "auto",
        "cloud_run",
        "cloud_functions",
        "iap",
        "api_gateway",
        "endpoints",
        "googleapis",
        "other",
    ] = Field(
        "auto",
        description="The kind of Google service, which decides about defaults: see docs/targets.md. `auto`: known by "
        "the host.",
    )
    token: Literal["id", "access", "self_signed_jwt"] = Field(
        "id", description="Kind of token: an ID token, an access token (Google APIs), a self-signed JWT."
    )
    scopes: Annotated[tuple[str, ...], BeforeValidator(parse_scopes)] = Field(
        (), description=f"Scopes of an access token. Default: {CLOUD_PLATFORM}."
    )
    header: Annotated[str, BeforeValidator(_header)] = Field(
        "auto",
        description="Where the token goes: `auto`, `authorization`, `x-serverless-authorization`, "
        "`proxy-authorization`, `both`, or any header's name.",
    )
    on_conflict: Literal["auto", "replace", "keep", "reject"] = Field(
        "auto", description="What happens when the app sends that header itself; see docs/headers.md."
    )
    path_prefix: Annotated[str, BeforeValidator(_path_prefix)] | None = Field(
        None, description="Path under the shared listener that reaches the route; stripped before forwarding."
    )
    listen: ListenerConfigs = Field(
        (),
        description="The route's own listeners: every request that arrives there goes to this route. Addresses, "
        "mappings (docs/listeners.md), or `auto`: a port of localhost, see the top-level `listen`.",
    )
    upstream_host: Annotated[str, BeforeValidator(_upstream_host)] = Field(
        "upstream",
        description="The Host that is sent: the `upstream`'s, the app's own (`keep`), or a literal.",
    )
    tls: Tls = Field(Tls.model_construct(), description="TLS to the upstream.")
    timeouts: Timeouts = Field(Timeouts.model_construct(), description="How long each phase may take.")
    protocol: Literal["auto", "http1", "http2"] = Field(
        "auto",
        description="What the upstream is spoken to in. `auto`: HTTP/2 for a request that came in HTTP/2, if the "
        "upstream speaks it, else HTTP/1.1. `http2`: always. `http1`: always, so no gRPC.",
    )
    grpc: Switch = Field(
        False,
        description="The service speaks gRPC: `check --online` calls its health service, "
        "`grpc.health.v1.Health/Check`, instead of a GET. Requests are forwarded as without it.",
    )
    pool: RoutePool = Field(
        RoutePool.model_construct(), description="Connections and queue, instead of the top-level `pool`'s."
    )
    retry_budget: Share = Field(
        0.1,
        description="Share of the route's requests that may be sent a second time (after a stale connection or a "
        "refused token), besides one a second. `0`: none.",
    )
    prefetch: Switch = Field(True, description="Fetch the token at start; see `startup`.")
    required: Switch = Field(
        False,
        description="Don't serve without this route: stay unready until its token is there, and end with exit code 4 "
        "if it is not there within `startup_wait`.",
    )
    allow_plaintext: Switch = Field(
        False,
        description="Send the token to an `http://` upstream that is not loopback. Anyone who can read that traffic "
        "can use it.",
    )
    allow: Allow | None = Field(
        None, description="Which methods and paths may pass. Default: all. See docs/allow.md."
    )
    upgrades: Annotated[tuple[str, ...], BeforeValidator(_upgrades)] = Field(
        ("websocket",),
        description="Protocols that a request may upgrade its connection to, such as `SPDY/3.1` (Kubernetes' exec); "
        "`[]`: none. Any other (h2c, TLS/1.2) is dropped, and the request is served without the upgrade.",
    )
    egress_proxy: EgressSetting | None = Field(
        None,
        description="HTTP proxy to reach the upstream through, instead of the top-level one; `none`: directly.",
    )
    allow_private: Switch = Field(
        True,
        description="Connect to private addresses too, as Private Service Connect needs; `false`: public ones only.",
    )
    allow_cross_site: Switch = Field(
        False,
        description="Serve requests that a browser makes for pages of other sites. They act as this identity.",
    )
    intercept: Switch = Field(
        False,
        description="Read what apps ask for by `https://` and this route's hosts, through the sidecar as HTTP proxy or "
        "a listener with `intercept`. They must trust the CA of the top-level `intercept`.",
    )

    @property
    def is_dynamic(self) -> bool:
        """Whether the upstream follows the request's host."""
        return "{host}" in self.upstream

    @property
    def is_wildcard(self) -> bool:
        """Whether hosts that nobody listed select it."""
        return any(host.startswith("*.") for host in self.host)

    @property
    def default_host(self) -> str | None:
        """The host that selects the route though nobody wrote it: its fixed upstream's.

        None where the upstream follows the request's host, and where it is loopback: everything that is called on this
        machine has that host, other routes' `path_prefix` included. What any route has written goes before it.
        """
        host = urlsplit(self.upstream).hostname or ""
        return None if self.is_dynamic or hosts.is_loopback(host) else host


# the whole


def _default_listen() -> tuple[ListenerConfig, ...]:
    return (plain_listener("localhost:8787"),)


def _default_admin() -> tuple[ListenAddress, ...]:
    return (parse_listen("localhost:9787"),)


def _default_credentials() -> dict[str, Credential]:
    return {"default": Adc(type="adc")}


class Config(Model):
    """The whole configuration."""

    _secret_variables: frozenset[str] = PrivateAttr(frozenset())

    @property
    def secret_variables(self) -> frozenset[str]:
        """The environment variables whose values are secrets of this configuration: not for other programs."""
        return self._secret_variables

    @property
    def listening(self) -> tuple[ListenAddress, ...]:
        """Every address that it listens on, as far as it is written down."""
        groups = (self.listen, *(route.listen for route in self.routes))
        handouts = (address for it in self.handouts.values() for address in it.listen)
        return (*self.admin, *handouts, *(listener.address for group in groups for listener in group))

    @property
    def handouts(self) -> dict[str, Handout]:
        """What gives tokens to programs, as far as it is on, by its key."""
        found = {key: getattr(self, key) for key in HANDOUTS}
        return {key: it for key, it in found.items() if it is not None}

    def remember_secret_variables(self, names: Iterable[str]) -> None:
        """For `load`, which knows where values came from."""
        self._secret_variables = frozenset(names)

    listen: ListenerConfigs = Field(
        default_factory=_default_listen,
        description="The shared listener: `localhost:PORT` (both loopbacks), an address, `unix:/path`, a mapping "
        "(docs/listeners.md), or a list of these. `auto`, also beside others: each route gets a port of its own too, "
        "8801 and up in the order of the file, another one where that is taken; `idtoken-sidecar urls` shows them.",
    )
    admin: ListenAddresses = Field(
        default_factory=_default_admin, description="The admin server: probes, metrics, status, quit."
    )
    allow_remote: Switch = Field(
        False,
        description="Let `listen` name addresses that other machines reach. Everyone who reaches one calls with this "
        "identity.",
    )
    credentials: dict[str, Credential] = Field(
        default_factory=_default_credentials, description="Where tokens come from, by name."
    )
    ca_file: str | None = Field(
        None,
        description="PEM file of what to trust instead of the system's CAs: for token endpoints, and for upstreams of "
        "routes without a `tls.ca_file`. Read again when it changes.",
        min_length=1,
    )
    egress_proxy: EgressSetting | None = Field(
        None,
        description="HTTP proxy through which upstreams are reached, by CONNECT: a URL, or a mapping with exceptions. "
        "Not for loopback upstreams, nor for token endpoints, which follow HTTPS_PROXY.",
    )
    endpoints: Endpoints = Field(
        Endpoints.model_construct(),
        description="Where to get tokens, instead of from Google's public addresses.",
    )
    routes: tuple[RouteConfig, ...] = Field((), description="The targets.")
    metadata_server: MetadataServer | None = Field(
        None,
        description="A metadata server for Google's own libraries (docs/metadata-server.md). Off unless it is here.",
    )
    token_endpoint: TokenEndpoint | None = Field(
        None,
        description="An OAuth token endpoint, for what knows only RFC 6749 (docs/token-endpoint.md). Off unless it is "
        "here.",
    )
    google_token_endpoints: GoogleTokenEndpoints | None = Field(
        None,
        description="Placeholders for what Google's libraries ask of Google's token endpoints by https "
        "(docs/how-to/dummy-keys.md). Off unless it is here.",
    )
    intercept: Intercept | None = Field(
        None,
        description="A CA of the sidecar's own, for apps that call `https://` URLs (docs/how-to/intercept.md). None "
        "unless it is here.",
    )
    via: Switch = Field(
        True, description="Add `Via` to requests. Without it, a loop is found by its address only."
    )
    token_wait: Duration = Field(
        10.0, description="How long a request waits for a token before it gets a 503.", gt=0
    )
    startup: Literal["wait", "serve"] = Field(
        "wait",
        description="`wait`: ready when every prefetched token is there. `serve`: ready as soon as the sidecar "
        "listens and the `required` routes have their tokens.",
    )
    startup_wait: Duration = Field(
        60.0,
        description="Be ready after this time even if a token is still missing, unless its route is `required`.",
    )
    drain: Drain = Field(Drain.model_construct(), description="What happens on SIGTERM.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest severity to log."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json` (Google Cloud's LogEntry fields), `text`, or `auto`: text on a terminal."
    )
    access_log: Annotated[Literal["off", "errors", "all"], BeforeValidator(word)] = Field(
        "errors",
        description="Which requests to log: none, only 5xx and the sidecar's own refusals, or all. `errors` logs "
        "refusals of a route for one reason once a minute, with the count; `all` logs each, unless "
        "`access_log_sample` is below 1.",
    )
    access_log_sample: Share = Field(
        1.0,
        description="Share of the successful requests that `access_log: all` logs, such as 0.01. Every 5xx of a "
        "service is still logged, and the sidecar's own refusals once a minute for a route and reason.",
    )
    log_query: Switch = Field(False, description="Log query strings too. They often hold secrets.")
    core_dumps: Switch = Field(
        False,
        description="Allow core dumps and debuggers. Both show every token and key.",
    )
    limits: Limits = Field(
        Limits.model_construct(),
        description="How much one connection may use, and how many connections there may be.",
    )
    pool: PoolSettings = Field(
        PoolSettings.model_construct(),
        description="Connections to upstreams and the queue for them, per route.",
    )
    tracing: Tracing = Field(Tracing.model_construct(), description="OpenTelemetry spans.")
    token_cache: Count = Field(
        1000,
        description="How many tokens of wildcard routes to keep. Tokens of fixed audiences are always kept.",
    )
