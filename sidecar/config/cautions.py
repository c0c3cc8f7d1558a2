"""Warnings about a valid configuration that may not do what its author intended.

They are about ways in that overlap in part, and about hosts that share a token. Called by `load` if there are no
errors. Pure. Each warning says which route takes what, and what to write to change that. The ways in come in the
order of `routes`; if two routes claim the same one, that is an error in `checks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from sidecar.config.checks import Finding, targets_of
from sidecar.config.models import RouteConfig
from sidecar.config.sharing import shares_token
from sidecar.config.targets import Target
from sidecar.grammar import hosts

_SHOWN = 3
"""Names in one warning; a wildcard may cover thousands."""


def cautions(routes: Mapping[int, RouteConfig]) -> list[Finding]:
    """The warnings; `routes` by index."""
    return [
        *_under_wildcards(routes),
        *_under_prefixes(routes),
        *_before_prefixes(routes),
        *_shared_tokens(routes),
        *_paths_in_audiences(routes),
    ]


def _paths_in_audiences(routes: Mapping[int, RouteConfig]) -> Iterable[Finding]:
    """Audiences with a path, which Cloud Run accepts only if the service lists them."""
    for index, route in routes.items():
        split = urlsplit(route.audience or "")
        if split.path in ("", "/") or not split.scheme or Target.CLOUD_RUN not in targets_of(route).values():
            continue
        yield Finding(
            ("routes", index, "audience"),
            f"it has a path, and Cloud Run takes a service's URL without one: write `{split.scheme}://{split.netloc}` "
            "or leave the key out, unless this is one of the service's custom audiences",
        )


def _under_wildcards(routes: Mapping[int, RouteConfig]) -> Iterable[Finding]:
    """Hosts of other routes that a wildcard covers, by whether they were written."""
    wildcards = {
        host[1:]: index for index, route in routes.items() for host in route.host if host.startswith("*.")
    }
    covered: dict[str, list[str]] = {}
    for index, route in routes.items():
        for host in route.host:
            if (suffix := _covering(host.removeprefix("*"), wildcards)) is not None:
                if wildcards[suffix] != index:
                    covered.setdefault(suffix, []).append(f"`{host}` (route `{route.name}`)")
        if (
            not route.host
            and route.default_host is not None
            and (suffix := _covering(route.default_host, wildcards)) is not None
        ):
            yield Finding(
                ("routes", index),
                f"requests for its upstream's host, `{route.default_host}`, go to route "
                f"`{routes[wildcards[suffix]].name}`, whose `*{suffix}` covers it: write `host: {route.default_host}` "
                "here to have them",
            )
    for suffix, others in covered.items():
        yield Finding(
            ("routes", wildcards[suffix], "host"),
            f"`*{suffix}` covers {_some(others)} too: requests for that go there, all others come here",
        )


def _covering(host: str, suffixes: Mapping[str, int]) -> str | None:
    """The longest of the suffixes (with their leading dots) that a host, or the suffix of a wildcard, lies under."""
    if hosts.ip_literal(host) is not None:
        return None
    rest = host[1:]
    while (dot := rest.find(".")) >= 0:
        rest = rest[dot:]
        if rest in suffixes:
            return rest
        rest = rest[1:]
    return None


def _under_prefixes(routes: Mapping[int, RouteConfig]) -> Iterable[Finding]:
    owners = {route.path_prefix: route for route in routes.values() if route.path_prefix is not None}
    for index, route in routes.items():
        if route.path_prefix in (None, "/"):
            continue
        above = route.path_prefix
        while above := above.rpartition("/")[0]:
            if above in owners:
                break
        above = above or "/"
        if above in owners:
            yield Finding(
                ("routes", index, "path_prefix"),
                f"`{route.path_prefix}` lies under `{above}` of route `{owners[above].name}`: what is below the longer "
                "one comes here, the rest goes there",
            )


def _before_prefixes(routes: Mapping[int, RouteConfig]) -> Iterable[Finding]:
    """Hosts by which apps call the shared listener itself, where prefixes are to be found under them."""
    prefixes = [
        f"`{route.path_prefix}` (route `{route.name}`)"
        for route in routes.values()
        if route.path_prefix is not None
    ]
    if not prefixes:
        return
    for index, route in routes.items():
        for host in route.host:
            if host == "localhost" or hosts.is_own_address(host):
                yield Finding(
                    ("routes", index, "host"),
                    f"`{host}` is how apps call the listener itself: with it every request comes to this route, and "
                    f"none to a `path_prefix` such as {_some(prefixes)}. Leave it out, and give this route "
                    "`path_prefix: /` if it should get the rest",
                )


def _shared_tokens(routes: Mapping[int, RouteConfig]) -> Iterable[Finding]:
    """Named hosts that get the token of one audience; a wildcard that does is an error, in `checks`."""
    for index, route in routes.items():
        if len(route.host) > 1 and route.wildcard_audience != "shared" and shares_token(route) == "audience":
            yield Finding(
                ("routes", index, "audience"),
                f"{_some([f'`{host}`' for host in route.host])} get one token, which each of them could use at the "
                "others: write `{host}` into it, give each a route of its own, or set `wildcard_audience: shared`",
            )


def _some(names: list[str]) -> str:
    shown = names[:_SHOWN] + ([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
