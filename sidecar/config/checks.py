"""What a configuration must satisfy beyond each key's own type.

Owns every rule that concerns several keys: names that must exist, things that may not clash, combinations
that can't work. Called by `load` with whatever parsed, so that all problems come at once. Pure. Each
finding names the key it is about, what is wrong, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import urlsplit

from sidecar import hosts
from sidecar.config.addresses import ListenAddress
from sidecar.config.models import RouteConfig

Path = tuple[str | int, ...]


class Finding(NamedTuple):
    """One problem, at one key."""

    path: Path
    message: str


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message, or nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else ""


def check_route(route: RouteConfig, at: Path, credentials: Collection[str]) -> list[Finding]:
    """What is wrong with one route by itself."""
    found = []

    def say(key: str, message: str) -> None:
        found.append(Finding((*at, key), message))

    if route.credential not in credentials:
        say(
            "credential",
            f"no credential is called `{route.credential}`{nearest(route.credential, credentials)}",
        )
    dynamic = "{host}" in route.upstream
    if dynamic and not route.host:
        say("host", "with `https://{host}` the hosts must be listed, such as `*.a.run.app`")
    for host in route.host:
        if host.startswith("*.") and not dynamic:
            continue
        if dynamic and not host.startswith("*.") and hosts.is_loopback(host):
            say("host", f"`{host}` is loopback: `https://{{host}}` would lead back to this machine")
    if route.audience is not None and "{host}" in route.audience and not dynamic:
        say("audience", "`{host}` works only where `upstream` is `https://{host}`")
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
    if split.scheme == "http" and route.tls.model_fields_set:
        say("tls", "the upstream is `http://`, so `tls` has no effect: use `https://`")
    if (route.tls.client_cert_file is None) != (route.tls.client_key_file is None):
        say("tls", "`client_cert_file` and `client_key_file` go together")
    if dynamic and route.path_prefix is not None:
        say(
            "path_prefix",
            "a path prefix does not say which host is meant: give this route a fixed `upstream`",
        )
    return found


def check_clashes(
    routes: Mapping[int, RouteConfig], shared: Mapping[str, tuple[ListenAddress, ...]]
) -> list[Finding]:
    """What two routes, or a route and a shared listener, both claim. `routes` are those that parsed, by index."""
    found: list[Finding] = []
    names = {index: route.name for index, route in routes.items()}

    def claim(key: str, what: Callable[[str], str], claims: Iterable[tuple[int, str]]) -> None:
        owners: dict[str, int] = {}
        for index, value in claims:
            first = owners.setdefault(value, index)
            if first != index:
                found.append(
                    Finding(("routes", index, key), what(f"`{value}`") + f" route `{names[first]}` has too")
                )

    claim("name", lambda value: f"the name {value} must be unique; a", names_of(routes))
    claim(
        "host",
        lambda value: f"the host {value}",
        ((i, host) for i, route in routes.items() for host in route.host),
    )
    claim(
        "path_prefix",
        lambda value: f"the prefix {value}",
        ((index, route.path_prefix) for index, route in routes.items() if route.path_prefix is not None),
    )
    by_name = {
        f"{route.name}.localhost": index for index, route in routes.items() if "{host}" not in route.upstream
    }
    found += [
        Finding(("routes", index, "host"), f"the host `{host}` is route `{names[by_name[host]]}`'s name")
        for index, route in routes.items()
        for host in route.host
        if by_name.get(host, index) != index
    ]
    taken: list[tuple[str, ListenAddress]] = [
        (key, address) for key, group in shared.items() for address in group
    ]
    for number, (key, address) in enumerate(taken):
        for other_key, other in taken[:number]:
            if address.clashes(other):
                found.append(Finding((key,), f"{address} and {other} of `{other_key}` are the same place"))
    for index, route in routes.items():
        for address in route.listen:
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


def names_of(routes: Mapping[int, RouteConfig]) -> Iterable[tuple[int, str]]:
    """Each route's index and name."""
    return ((index, route.name) for index, route in routes.items())


def _who(owner: str) -> str:
    return owner if owner.startswith("route") else f"`{owner}`"
