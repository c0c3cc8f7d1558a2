"""The route table: which upstream a request is for.

Owns the compiled form of the configuration's routes, and the rule by which all ways in are matched. Called by
`proxy.admission` for every request. A route holds the source of its tokens: a request that keeps its route keeps its
identity, whatever a reload brings. Pure: no I/O; it remembers a bounded number of host spellings. Default deny: a
request that matches nothing gets an error that names what was asked for and the nearest route. Rules: RFC 9110
section 7.2 and 4.2.3 (Host, normalisation), RFC 6761 section 6.3 (`.localhost`).

Ways in that a route has written come first, in this order: its `host`, exactly; its name under `.localhost`; a
wildcard, the longest first; its `path_prefix`, the longest first. A prefix counts only under a loopback name or an IP
literal (`hosts.is_own_address`), because no page can rebind those (DNS rebinding). A configuration's only route
(`only_route`) is found under these names by every path. Last comes the host of a fixed upstream, which no route has
written, unless it is loopback. It leads to the route with that upstream and no `host`; if all that share it have one,
it leads nowhere.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum, auto
from typing import Final, NamedTuple, final
from urllib.parse import urlsplit

from sidecar.config.base_urls import configured_urls, only_route
from sidecar.config.handouts import GOOGLE_TOKEN_HOSTS
from sidecar.config.models import Config, RouteConfig
from sidecar.config.sharing import takes_persons
from sidecar.config.targets import CLOUD_PLATFORM, Target, TokenKind, default_audience, detect
from sidecar.errors import Reason, SidecarError
from sidecar.grammar import hosts
from sidecar.tokens.token import TokenKey, TokenSource

_MEMO_SIZE: Final = 1024
"""How many host spellings are remembered, and destinations of one wildcard: far more than an app uses."""


_BESIDE: Final = 8
"""A misspelt name is compared with this many names on each side of it, sorted by beginning and by end. difflib takes
50 µs for a pair of long names, so a caller with many wrong hosts would delay all others.
"""

_LISTED: Final = 10
"""How many routes a 404 lists: only a person reads such a list to its end."""


@final
class Route:
    """One route of the table; identity is what counts, not value."""

    __slots__ = ("_destinations", "config", "dynamic", "exact", "name", "source", "wildcards")

    def __init__(self, config: RouteConfig, source: TokenSource | None = None) -> None:
        """`source` gives its tokens; None if requests are only matched and none is sent."""
        self.config = config
        self.source = source
        self.name = config.name
        self.dynamic = config.is_dynamic
        self.exact = [host for host in config.host if not host.startswith("*.")]
        self.wildcards = [host[1:] for host in config.host if host.startswith("*.")]
        """Each with its leading dot."""
        self._destinations: dict[str, Destination] = {}
        if not self.dynamic:
            self.destination("")

    def __repr__(self) -> str:
        return f"<Route {self.name}>"

    def fixed(self) -> Destination | None:
        """The only destination, or None where the upstream follows the request's host."""
        return None if self.dynamic else self._destinations[""]

    def fixed_key(self) -> TokenKey | None:
        """The key of the only token, or None where the upstream follows the request's host."""
        return None if self.dynamic else self._destinations[""].token_key()

    def destination(self, host: str) -> Destination:
        """Where a request for `host` (normal form) goes; `host` is ignored by a fixed route."""
        key = host if self.dynamic else ""
        if (known := self._destinations.get(key)) is not None:
            return known
        if len(self._destinations) >= _MEMO_SIZE:
            self._destinations.pop(next(iter(self._destinations)))
        self._destinations[key] = made = Destination(self, host)
        return made

    def accepts(self, host: str) -> bool:
        """Whether a Host (normal form) may stand in a request to this route's own listener."""
        return (
            hosts.is_own_address(host)
            or hosts.is_loopback(host)
            or host in self.exact
            or any(host.endswith(suffix) for suffix in self.wildcards)
            or ((fixed := self.fixed()) is not None and host == fixed.host)
        )


@final
class Destination:
    """One upstream of one route: where to connect, as whom to ask, which token to set.

    The pool keeps connections apart by it, so it holds all that matters for safety: two routes never
    share a connection, nor do two hosts of a wildcard.
    """

    __slots__ = (
        "accepts_persons",
        "audience",
        "authority",
        "host",
        "host_header",
        "origin",
        "port",
        "proxy",
        "route",
        "target",
        "tls",
        "token_kind",
    )

    def __init__(self, route: Route, host: str) -> None:
        config = route.config
        split = urlsplit(config.upstream.replace("{host}", host))
        self.route = route
        self.tls = split.scheme == "https"
        self.host = hosts.normalise(split.hostname or "")
        self.port = split.port or (443 if self.tls else 80)
        self.proxy = (
            None if config.egress_proxy is None else config.egress_proxy.proxy_for(self.host, self.port)
        )
        """The HTTP proxy to reach it through; None: directly."""
        default_port = self.port == (443 if self.tls else 80)
        self.authority = str(hosts.Authority(self.host, None if default_port else self.port)).encode("ascii")
        self.origin = f"{split.scheme}://".encode("ascii") + self.authority
        self.host_header: bytes | None = self.authority
        """None: the app's own Host is kept."""
        if config.upstream_host == "keep":
            self.host_header = None
        elif config.upstream_host != "upstream":
            self.host_header = config.upstream_host.encode("ascii")
        self.target = detect(self.host) if config.target == "auto" else Target(config.target)
        self.token_kind = TokenKind(config.token)
        self.accepts_persons = takes_persons(config, self.target)
        self.audience = self._audience(config, split.scheme, host)
        """The `aud` of the token to set; for an access token its scopes, separated by spaces."""

    def _audience(self, config: RouteConfig, scheme: str, host: str) -> str:
        if self.token_kind is TokenKind.ACCESS:
            return " ".join(config.scopes or (CLOUD_PLATFORM,))
        if config.audience is not None:
            return config.audience.replace("{host}", host)
        authority = self.authority.decode("ascii")
        # A validated configuration gives an audience wherever the table has none.
        return default_audience(self.target, self.token_kind, scheme, authority) or f"{scheme}://{authority}"

    def token_key(self) -> TokenKey:
        """The key of the token that requests to it are given; ValueError where the table has no sources."""
        source = self.route.source
        if source is None:
            raise ValueError(f"route {self.route.name} was compiled without a source of tokens")
        return TokenKey(source, self.audience, self.token_kind, self.accepts_persons)

    def __repr__(self) -> str:
        return f"<Destination {self.route.name} {self.origin.decode()}>"


class Way(StrEnum):
    """How a request found its route."""

    HOST = auto()
    NAME = auto()
    WILDCARD = auto()
    PREFIX = auto()
    ONLY = auto()
    """It is the only route, and the Host is loopback or an address."""
    UPSTREAM = auto()
    """Its upstream's host matched, which no route has written as `host`."""
    LISTENER = auto()


_BY_HOST: Final = (Way.HOST, Way.WILDCARD, Way.UPSTREAM)


class Match(NamedTuple):
    """Where a request goes and how it found its way there."""

    destination: Destination
    prefix: bytes
    """The `path_prefix` to strip, or empty."""
    way: Way

    @property
    def is_intercepted(self) -> bool:
        """Whether https for this host is read here: its route says so, and it is one of `hosts_of`."""
        return self.destination.route.config.intercept and self.way in _BY_HOST


@final
class RouteTable:
    """All routes, compiled."""

    def __init__(
        self, routes: Iterable[Route], urls: Mapping[str, str], answered: Iterable[str] = ()
    ) -> None:
        """`urls` are the base URLs to call routes by, by name; `answered` are hosts whose https is for no route: the
        sidecar answers it itself."""
        self.routes = tuple(routes)
        self.answered = frozenset(answered)
        self.urls = urls
        """The service replaces them with the bound ones. Only the errors for requests that match no route use them."""
        self._exact: dict[str, tuple[Route, Way]] = {}
        suffixes: list[tuple[str, Route]] = []
        for route in self.routes:
            self._exact.update(dict.fromkeys(route.exact, (route, Way.HOST)))
            suffixes += [(suffix, route) for suffix in route.wildcards]
        # A route whose upstream follows the request's host can't be called by its name.
        fixed_routes = [route for route in self.routes if not route.dynamic]
        for route in fixed_routes:
            self._exact.setdefault(f"{route.name}.localhost", (route, Way.NAME))
        self._suffixes = sorted(suffixes, key=lambda entry: -len(entry[0]))
        upstreams = {route: host for route in self.routes if (host := route.config.default_host) is not None}
        owners = Counter(upstreams.values())
        self._upstreams = {
            host: route
            for route, host in upstreams.items()
            if (owners[host] == 1 or not route.config.host) and self._by_written_host(host) is None
        }
        self._prefixes = sorted(
            (
                (route.config.path_prefix.encode("ascii"), route)
                for route in fixed_routes
                if route.config.path_prefix
            ),
            key=lambda entry: -len(entry[0]),
        )
        if only_route([route.config for route in self.routes]) is not None:
            self._prefixes = [(b"/", self.routes[0])]
        self._memo: dict[bytes, Match] = {}
        self._rooted: dict[bytes, Match] = {}
        """The same if a path was requested and any path will do."""
        self._known: tuple[_Spellings, _Spellings] | None = None
        """The routes' names, and these with all hosts. Made when the first request matches nothing."""

    @classmethod
    def compile(
        cls,
        config: Config,
        sources: Mapping[str, TokenSource] | None = None,
        known: Iterable[Route] = (),
    ) -> RouteTable:
        """The table of a validated configuration. `sources` are those of its credentials, by name; without them the
        table matches requests and gives no tokens. A route of `known` is kept where its configuration and its source
        are the same as before: what its requests hold on to, such as connections, is then kept as well.
        """
        kept = {(route.config, route.source): route for route in known}
        found = ((route, None if sources is None else sources[route.credential]) for route in config.routes)
        answered = () if config.google_token_endpoints is None else GOOGLE_TOKEN_HOSTS
        return cls((kept.get(it) or Route(*it) for it in found), configured_urls(config), answered)

    def match(self, authority: bytes, path: bytes) -> Match:
        """The match for a request to the shared listener.

        `authority` is the Host (or the authority of an absolute-form target) as it came, `path` the
        origin-form target, or empty where no prefix may match. Raises BAD_HOST or NO_ROUTE.
        """
        if (known := self._memo.get(authority)) is not None:
            return known
        if path and (known := self._rooted.get(authority)) is not None:
            return known
        host = request_host(authority)
        if (found := self._by_written_host(host)) is not None:
            if found[1] is Way.WILDCARD and host in self.answered:
                what = f"`{host}` is answered here, by https alone (`google_token_endpoints`); no wildcard takes it."
                raise SidecarError(
                    Reason.NO_ROUTE, f"{what} Ask for https://{host}/, or give it its own route."
                )
            return _remember(self._memo, authority, Match(found[0].destination(host), b"", found[1]))
        by_prefix = bool(self._prefixes) and (hosts.is_loopback(host) or hosts.is_own_address(host))
        if by_prefix:
            for prefix, route in self._prefixes if path else ():
                if prefix == b"/":
                    match = Match(route.destination(host), b"", self._root_way(route))
                    return match if len(self._prefixes) > 1 else _remember(self._rooted, authority, match)
                if _begins(path, prefix):
                    return Match(route.destination(host), prefix, Way.PREFIX)
        if (owner := self._upstreams.get(host)) is None:
            raise self._no_route(host, path)
        match = Match(owner.destination(host), b"", Way.UPSTREAM)
        # Where the path decides as well, the host alone is not to be remembered.
        return match if by_prefix else _remember(self._memo, authority, match)

    def _root_way(self, route: Route) -> Way:
        return Way.ONLY if route.config.path_prefix is None else Way.PREFIX

    def hosts_of(self, route: Route) -> list[str]:
        """Every Host that selects a route, wildcards as configured; without its name under `.localhost`."""
        return [*route.config.host, *(host for host, owner in self._upstreams.items() if owner is route)]

    def _by_written_host(self, host: str) -> tuple[Route, Way] | None:
        if (found := self._exact.get(host)) is not None:
            return found
        if hosts.ip_literal(host) is None:
            for suffix, route in self._suffixes:
                if host.endswith(suffix) and len(host) > len(suffix):
                    return route, Way.WILDCARD
        return None

    def _no_route(self, host: str, path: bytes) -> SidecarError:
        if (misplaced := self._prefix_of_another_host(host, path)) is not None:
            return misplaced
        route, own, loopback = self._nearest(host), hosts.is_own_address(host), hosts.is_loopback(host)
        is_unnamed = host == "localhost" or own or (loopback and route is None)
        if loopback and self._prefixes and path:
            start = path.split(b"?")[0][:80].decode("ascii", "replace")
            what = f"No route has host `{host}` or a path_prefix of `{start}`."
        elif self._prefixes and hosts.ip_literal(host) is not None and not own:
            what = (
                f"`{host}` is not a host to call this listener by, since web pages may get here by it: use "
                "`localhost`."
            )
        else:
            nor = ", and none has a path_prefix" if is_unnamed and len(path) > 1 else ""
            what = f"No route has host `{host}`{nor}."
        if is_unnamed:
            hint = self._listed()
        elif route is not None:
            name = () if route.dynamic else (f"{route.name}.localhost",)
            ways = ", ".join(f"`{entry}`" for entry in (*self.hosts_of(route), *name))
            hint = f"The nearest route is `{route.name}`, which takes {ways}."
        else:
            hint = "No configured route is near; routes take their `host` and `NAME.localhost`."
        return SidecarError(Reason.NO_ROUTE, f"{what} {hint}")

    def _listed(self) -> str:
        """How to call each route, for an app that has named none."""
        calls = [f"`{route.name}`: {self._call(route)}" for route in self.routes[:_LISTED]]
        more = len(self.routes) - len(calls)
        rest = f" · and {more} more, which `idtoken-sidecar urls` lists" if more else ""
        return f"Call a route by its own URL. {' · '.join(calls)}{rest}"

    def _call(self, route: Route) -> str:
        if (url := self.urls.get(route.name)) is not None:
            return f"{url}/"
        return f"`Host: {next(iter(self.hosts_of(route)), f'{route.name}.localhost')}`"

    def _prefix_of_another_host(self, host: str, path: bytes) -> SidecarError | None:
        """The error for a path with a known prefix under a name for which no prefix counts, such as
        `host.docker.internal`.
        """
        if hosts.is_loopback(host) or hosts.ip_literal(host) is not None:
            return None
        for prefix, route in self._prefixes:
            if prefix != b"/" and _begins(path, prefix):
                return SidecarError(
                    Reason.NO_ROUTE,
                    f"`{prefix.decode('ascii')}` is the `path_prefix` of route `{route.name}`, and prefixes hold where "
                    "the app calls `localhost` or the address that the sidecar listens on, not "
                    f"`{host}`: web pages may get here by such a name. Call it so, or add `{host}` to the route's "
                    "`host`, and leave the prefix out of the path.",
                )
        return None

    def _nearest(self, host: str) -> Route | None:
        if self._known is None:
            by_name = {route.name: route for route in self.routes}
            suffixes = {suffix[1:]: route for suffix, route in self._suffixes}
            exact = {host: route for host, (route, _) in self._exact.items()}
            hosts_too = {**by_name, **exact, **suffixes, **self._upstreams}
            self._known = (_Spellings(by_name), _Spellings(hosts_too))
        names, known = self._known
        return known.nearest(host, cutoff=0.5) or names.nearest(host.partition(".")[0], cutoff=0.4)


@final
class _Spellings:
    """Names of routes, for finding the one that a misspelt name meant."""

    def __init__(self, routes: dict[str, Route]) -> None:
        self._routes = routes
        self._forwards = sorted(routes)
        self._backwards = sorted(name[::-1] for name in routes)

    def nearest(self, name: str, *, cutoff: float) -> Route | None:
        """The route with the most similar name, if one is similar enough."""
        near = get_close_matches(name, self._neighbours(name), n=1, cutoff=cutoff)
        return self._routes[near[0]] if near else None

    def _neighbours(self, name: str) -> Iterable[str]:
        if len(self._forwards) <= 4 * _BESIDE:
            return self._forwards
        begin = bisect(self._forwards, name)
        end = bisect(self._backwards, name[::-1])
        alike = dict.fromkeys(self._forwards[max(0, begin - _BESIDE) : begin + _BESIDE])
        alike.update((other[::-1], None) for other in self._backwards[max(0, end - _BESIDE) : end + _BESIDE])
        return alike


def _remember(memo: dict[bytes, Match], authority: bytes, match: Match) -> Match:
    if len(memo) >= _MEMO_SIZE:
        memo.clear()
    memo[authority] = match
    return match


def match_own(route: Route, authority: bytes, *, any_host: bool) -> Match:
    """The match for a request to a route's own listener.

    `any_host` is for Unix sockets, which no browser can be led to. Elsewhere the Host must be loopback,
    an address to call it by or one of the route's own, or CALLER_REFUSED is raised; BAD_HOST if it is malformed.
    """
    host = request_host(authority)
    if (
        route.dynamic
        and not any(host.endswith(suffix) for suffix in route.wildcards)
        and host not in route.exact
    ):
        raise SidecarError(
            Reason.NO_ROUTE,
            f"Route `{route.name}` takes its upstream from the Host, and `{host}` is none of its hosts.",
        )
    if not any_host and not route.accepts(host):
        raise SidecarError(
            Reason.CALLER_REFUSED,
            f"This listener is route `{route.name}`'s, and `{host}` is neither loopback nor one of its "
            "hosts. If the app must use that name, add it to the route's `host` list.",
        )
    return Match(route.destination(host), b"", Way.LISTENER)


def _begins(path: bytes, prefix: bytes) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in b"/?"


def request_host(authority: bytes) -> str:
    """The normal form of a request's host, port ignored; raises BAD_HOST."""
    try:
        return hosts.parse_authority(authority.decode("ascii")).host
    except (ValueError, UnicodeDecodeError) as error:
        raise SidecarError(
            Reason.BAD_HOST, f"The request's Host cannot be used: {_sentence(error)}."
        ) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        # RFC 9110 section 7.2; folding what only looks like a name would let several spellings in.
        return "it is not ASCII; international names go by their `xn--` form"
    return str(error)
