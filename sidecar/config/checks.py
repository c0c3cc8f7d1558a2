"""The rules for a configuration beyond the type of each key.

Owns every rule about several keys: names that must exist, settings that may not clash, combinations that can't work.
Called by `load` with everything that parsed, so that all problems come at once. Pure. Each finding names its key,
what is wrong, and what to do. It is long because there are many rules; each is short.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import urlsplit

from sidecar.config import credentials as types
from sidecar.config.addresses import ListenAddress, leads_to
from sidecar.config.combinations import ability_of, refusal
from sidecar.config.credentials import Credential
from sidecar.config.groups import Tls
from sidecar.config.listeners import ListenerConfig
from sidecar.config.models import RouteConfig
from sidecar.config.sharing import refusal_to_share
from sidecar.config.targets import FACTS, Target, TokenKind, default_audience, detect
from sidecar.grammar import hosts, networks
from sidecar.grammar.contents import quoted

Path = tuple[str | int, ...]


class Finding(NamedTuple):
    """One problem, at one key."""

    path: Path
    message: str


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message, or nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else ""


_SWITCHES = frozenset(
    f"{first}{last}"
    for first in ("", "tls", "ssl", "skip", "no", "insecure", "insecureskip", "tlsskip", "sslskip", "disable")
    for last in (
        "verify",
        "verification",
        "verifytls",
        "verifyssl",
        "tlsverify",
        "sslverify",
        "checkhostname",
    )
) | {
    "insecure",
    "insecuretls",
    "validatecerts",
    "rejectunauthorized",
    "tlsinsecure",
    "verifycerts",
    "checkhostname",
}
"""What other programs call a switch that turns verification off, without `_` and `-`."""


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that does not exist."""
    if key.lower().replace("_", "").replace("-", "") in _SWITCHES:
        return (
            "there is no such switch: certificates are always verified. For a private CA, or to trust one certificate, "
            "set the route's `tls.ca_file`; for another name, `tls.server_name`"
        )
    return f"unknown key{nearest(key, known)}"


def check_route(
    route: RouteConfig, at: Path, names: Collection[str], credentials: Mapping[str, Credential]
) -> list[Finding]:
    """What is wrong with one route by itself; `credentials` are those of `names` that could be read."""
    found = []

    def say(key: str, message: str) -> None:
        found.append(Finding((*at, key), message))

    if route.credential not in names:
        say(
            "credential",
            f"no credential is called {quoted(route.credential)}{nearest(route.credential, names)}",
        )
    dynamic = route.is_dynamic
    if dynamic and not route.host:
        say("host", "with `https://{host}` the hosts must be listed, such as `*.a.run.app`")
    for host in route.host:
        if host.startswith("*.") and not dynamic:
            continue
        if dynamic and not host.startswith("*.") and hosts.is_loopback(host):
            say("host", f"`{host}` is loopback: `https://{{host}}` would lead back to this machine")
    if route.audience is not None and "{host}" in route.audience and not dynamic:
        say("audience", "`{host}` works only where `upstream` is `https://{host}`")
    if route.audience is not None and dynamic and re.search("[{}]", route.audience.replace("{host}", "")):
        say("audience", "`{host}` is all that is replaced here: other braces would be sent as they stand")
    if route.required and (dynamic or not route.prefetch):
        say(
            "required",
            "a required route's token is fetched at start: leave `prefetch` on, and give it a fixed `upstream`",
        )
    if dynamic and route.path_prefix is not None:
        say(
            "path_prefix",
            "a path prefix does not say which host is meant: give this route a fixed `upstream`",
        )
    found += [*_check_upstream(route, at), *_check_connecting(route, at)]
    credential = credentials.get(route.credential)
    found += _check_token(route, at, credential)
    if (sharing := refusal_to_share(route, credential)) is not None:
        say(*sharing)
    return found


def _check_upstream(route: RouteConfig, at: Path) -> list[Finding]:
    """Whether a token may be sent to the route's upstream, as far as that is known yet."""
    found = []

    def say(key: str, message: str) -> None:
        found.append(Finding((*at, key), message))

    dynamic = route.is_dynamic
    split = urlsplit(route.upstream.replace("{host}", "host"))
    if (
        split.scheme == "http"
        and not route.allow_plaintext
        and (dynamic or not hosts.is_loopback(split.hostname or ""))
    ):
        say(
            "upstream",
            "the token would cross the network in plaintext: use `https://`, or set `allow_plaintext: true`",
        )
    for key, host in _known_hosts(route, split.hostname or ""):
        if (
            why := networks.forbidden_host(host, networks.rules_for(host, allow_private=route.allow_private))
        ) is not None:
            say(key, f"`{host}` is never connected to: {why}")
    if split.scheme == "http" and route.tls != Tls():
        say("tls", "the upstream is `http://`, so `tls` has no effect: use `https://`")
    return found


def _check_connecting(route: RouteConfig, at: Path) -> list[Finding]:
    """Whether the keys of `tls`, `timeouts` and the protocol go together."""
    found = []

    def say(key: str, message: str) -> None:
        found.append(Finding((*at, key), message))

    if route.grpc and route.protocol == "http1":
        say("grpc", "gRPC needs HTTP/2: leave `protocol` out, or set it to `auto` or `http2`")
    if (route.tls.client_cert_file is None) != (route.tls.client_key_file is None):
        say("tls", "`client_cert_file` and `client_key_file` go together")
    if route.tls.crl_check != "chain" and route.tls.crl_file is None:
        say("tls", "`crl_check` is about `crl_file`, which is not set")
    if route.tls.allow_world_readable and route.tls.client_key_file is None:
        say("tls", "`allow_world_readable` is about `client_key_file`, which is not set")
    for phase, limit in (("dns", route.timeouts.dns), ("tls", route.timeouts.tls)):
        if limit is not None and limit > route.timeouts.connect:
            say("timeouts", f"`{phase}` is longer than `connect`, which includes it")
    return found


def _known_hosts(route: RouteConfig, upstream: str) -> list[tuple[str, str]]:
    """The hosts that a route connects to as far as they are known by now, each with the key that names it."""
    if not route.is_dynamic:
        return [("upstream", upstream)]
    return [
        ("host", host) for host in route.host if not host.startswith("*.") and not hosts.is_loopback(host)
    ]


def targets_of(route: RouteConfig) -> dict[str, Target]:
    """What judges a route's tokens, by the host (or wildcard) of its upstream; several only where that follows the
    request's host."""
    if route.is_dynamic:
        found = route.host
    else:
        found = (urlsplit(route.upstream).hostname or "",)
    return {host: detect(host) if route.target == "auto" else Target(route.target) for host in found}


def _check_token(route: RouteConfig, at: Path, credential: Credential | None) -> list[Finding]:
    """Whether the kind of token, its audience, the credential and the target go together."""
    kind = TokenKind(route.token)
    found = []
    ability = None if credential is None else ability_of(credential)
    for host, target in targets_of(route).items():
        why = refusal(ability or "metadata", kind, target)
        if why is not None:
            found.append(Finding((*at, _blamed(route, kind, target)), f"{_by_host(route, host)}{why}"))
        elif (
            kind is not TokenKind.ACCESS
            and route.audience is None
            and default_audience(target, kind, "https", host) is None
        ):
            found.append(Finding((*at, "audience"), f"{_by_host(route, host)}{FACTS[target].no_audience}"))
    if route.scopes and kind is not TokenKind.ACCESS:
        found.append(
            Finding((*at, "scopes"), "scopes are for `token: access`; an ID token has an `audience`")
        )
    if route.audience is not None and kind is TokenKind.ACCESS:
        found.append(Finding((*at, "audience"), "an access token has `scopes` and no audience: leave it out"))
    return found


def _blamed(route: RouteConfig, kind: TokenKind, target: Target) -> str:
    """The key to point at: the credential if the target takes this kind of token, else what chose the kind."""
    if kind in FACTS[target].kinds:
        return "credential"
    return "token" if "token" in route.model_fields_set or route.target == "auto" else "target"


def _by_host(route: RouteConfig, host: str) -> str:
    return f"`{host}`: " if route.target == "auto" and route.is_dynamic else ""


def check_credentials(credentials: Mapping[str, Credential], names: Collection[str]) -> list[Finding]:
    """What is wrong among the credentials: sources that are not there, go round in circles or can't act as others."""
    found = []
    for name, credential in credentials.items():
        at: Path = ("credentials", name)
        if isinstance(credential, types.Gcloud) and credential.service_account is not None:
            beginning = credential.account
        elif isinstance(credential, types.Impersonate):
            source = credentials.get(credential.source)
            beginning = None if source is None else _email_of(source)
            if (message := _source_fault(name, credential, credentials, names)) is not None:
                found.append(Finding((*at, "source"), message))
                continue
        else:
            continue
        chain = [beginning, *credential.delegates, credential.service_account]
        if (why := chain_fault([email for email in chain if email is not None])) is not None:
            found.append(Finding((*at, "service_account"), why))
    return found


def _source_fault(
    name: str,
    credential: types.Impersonate,
    credentials: Mapping[str, Credential],
    names: Collection[str],
) -> str | None:
    if credential.source not in names:
        return f"no credential is called {quoted(credential.source)}{nearest(credential.source, names)}"
    if _goes_round(name, credentials):
        return f"`{name}` would be its own source: name another credential"
    if isinstance(credentials.get(credential.source), types.File | types.Static):
        return f"`{credential.source}` is a ready ID token; to act as another account takes an access token"
    return None


def chain_fault(chain: Sequence[str]) -> str | None:
    """Why a chain of service accounts, each of which acts as the next, comes back to one that is in it already; None
    where it does not."""
    again = next((email for index, email in enumerate(chain) if email in chain[:index]), None)
    if again is None:
        return None
    return (
        f"{again} would impersonate itself, which would let its tokens be renewed forever after a leak: "
        "use its own credential directly, and leave it out of `delegates`"
    )


def _email_of(credential: Credential) -> str | None:
    """The service account that a credential is, where the configuration says so."""
    match credential:
        case types.Metadata():
            return None if credential.account == "default" else credential.account
        case types.Impersonate() | types.WorkloadIdentityFederation() | types.Gcloud():
            return credential.service_account
    return None


def _goes_round(name: str, credentials: Mapping[str, Credential]) -> bool:
    seen = set()
    at: str | None = name
    while at is not None and at not in seen:
        seen.add(at)
        credential = credentials.get(at)
        at = credential.source if isinstance(credential, types.Impersonate) else None
    return at == name


def check_clashes(
    routes: Mapping[int, RouteConfig], shared: Mapping[str, tuple[ListenAddress, ...]]
) -> list[Finding]:
    """What two routes, or a route and a shared listener, both claim. `routes` are those that parsed, by index."""
    found: list[Finding] = []
    names = {index: route.name for index, route in routes.items()}

    def claim(key: str, what: Callable[[int, str], str], claims: Iterable[tuple[int, str]]) -> None:
        owners: dict[str, int] = {}
        for index, value in claims:
            first = owners.setdefault(value, index)
            if first != index:
                message = f"route `{names[first]}` has {what(index, f'`{value}`')}"
                found.append(Finding(("routes", index, key), message))

    def host(index: int, value: str) -> str:
        if routes[index].host:
            return f"the host {value} too: a host selects one route only"
        return f"the host {value} too, which is this route's by its `upstream`: give each a `host` of its own"

    claim("name", lambda _, value: f"the name {value} too: give each route its own", names_of(routes))
    # Without a `host` of its own, a route lives by its upstream's.
    hosts_of = ((i, it) for i, route in routes.items() for it in route.host or (route.default_host,) if it)
    claim("host", host, hosts_of)
    claim(
        "path_prefix",
        lambda _, value: f"the prefix {value} too: a prefix selects one route only",
        ((index, route.path_prefix) for index, route in routes.items() if route.path_prefix is not None),
    )
    by_name = {f"{route.name}.localhost": index for index, route in routes.items() if not route.is_dynamic}
    found += [
        Finding(("routes", index, "host"), f"the host `{host}` is route `{names[by_name[host]]}`'s name")
        for index, route in routes.items()
        for host in route.host
        if by_name.get(host, index) != index
    ]
    return found + _clashing_addresses(routes, shared)


def _clashing_addresses(
    routes: Mapping[int, RouteConfig], shared: Mapping[str, tuple[ListenAddress, ...]]
) -> list[Finding]:
    found: list[Finding] = []
    taken = [(key, address) for key, group in shared.items() for address in group]
    for number, (key, address) in enumerate(taken):
        for other_key, other in taken[:number]:
            if address.clashes(other):
                found.append(Finding((key,), f"{address} and {other} of `{other_key}` are the same place"))
    for index, route in routes.items():
        for address in _addresses(route):
            for owner, other in taken:
                if address.clashes(other):
                    found.append(
                        Finding(
                            ("routes", index, "listen"),
                            f"{address} and {other} of {_who(owner)} are the same place",
                        )
                    )
            taken.append((f"route `{route.name}`", address))
    return found


def check_remote(
    allowed: bool,
    routes: Mapping[int, RouteConfig],
    shared: Sequence[ListenerConfig],
) -> list[Finding]:
    """The listeners of apps that other machines reach, unless that is `allowed`."""
    if allowed:
        return []
    return [
        Finding(
            at,
            f"{listener.address} can be reached from other machines, and all callers there use this identity: "
            f"write `localhost:{listener.address.port}`, or set `allow_remote: true`",
        )
        for at, listener in _places(routes, shared)
        if listener.address.is_remote
    ]


def check_loops(
    routes: Mapping[int, RouteConfig], shared: Mapping[str, tuple[ListenAddress, ...]]
) -> list[Finding]:
    """Which upstreams are the sidecar itself, as far as their addresses are known before they are resolved."""
    listening = [(f"`{key}`", address) for key, group in shared.items() for address in group]
    listening += [
        (f"route `{route.name}`", address) for route in routes.values() for address in _addresses(route)
    ]
    found = []
    for index, route in routes.items():
        split = urlsplit(route.upstream)
        host, port = split.hostname or "", split.port or (443 if split.scheme == "https" else 80)
        for owner, address in listening:
            if leads_to(host, port, address):
                found.append(
                    Finding(
                        ("routes", index, "upstream"),
                        f"it leads back to the sidecar itself: {owner} listens on {address}",
                    )
                )
                break
    return found


def check_listeners(routes: Mapping[int, RouteConfig], shared: Sequence[ListenerConfig]) -> list[Finding]:
    """Settings of listeners that can't be kept there."""
    beside_auto = [
        Finding(
            ("listen", number),
            "beside the shared listeners, `auto` has no settings: its ports require their header",
        )
        for number, listener in enumerate(shared)
        if listener.address.auto and not listener.is_plain
    ]
    return beside_auto + [
        Finding((*at, "peers"), "only a Unix socket tells which process calls: use `address: unix:/path`")
        if listener.peers.uid or listener.peers.gid
        else Finding((*at, "peers"), "nobody is named, so nobody could call: give `uid` or `gid`")
        for at, listener in _places(routes, shared)
        if listener.peers is not None
        and (listener.address.path is None or not (listener.peers.uid or listener.peers.gid))
    ]


def _addresses(route: RouteConfig) -> list[ListenAddress]:
    return [listener.address for listener in route.listen]


def _places(
    routes: Mapping[int, RouteConfig], shared: Sequence[ListenerConfig]
) -> Iterable[tuple[Path, ListenerConfig]]:
    """Every listener of apps, each with its key."""
    for number, listener in enumerate(shared):
        yield ("listen", number), listener
    for index, route in routes.items():
        for number, listener in enumerate(route.listen):
            yield ("routes", index, "listen", number), listener


def names_of(routes: Mapping[int, RouteConfig]) -> Iterable[tuple[int, str]]:
    """Each route's index and name."""
    return ((index, route.name) for index, route in routes.items())


def _who(owner: str) -> str:
    return owner if owner.startswith("route") else f"`{owner}`"
