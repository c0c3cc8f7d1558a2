"""What `intercept` must satisfy beside the rest of a configuration, and what is unsafe about it.

Owns the errors (`checked`) and the warnings (`cautions`). Called by `load` with whatever parsed. Pure: what the CA's
files hold is found out when they are read, at start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from sidecar.config.checks import Finding, Path
from sidecar.config.groups import Intercept
from sidecar.config.listeners import ListenerConfig
from sidecar.config.models import RouteConfig
from sidecar.grammar import hosts
from sidecar.grammar.contents import place

Routes = Mapping[int, RouteConfig]


def checked(
    group: Intercept | None, routes: Routes, shared: Sequence[ListenerConfig], files: Collection[str]
) -> Iterator[Finding]:
    """What is wrong; `files` are those that the rest of the configuration reads."""
    if group is not None:
        yield from _group(group, files)
    any_route = any(route.intercept for route in routes.values())
    for index, route in routes.items():
        at: Path = ("routes", index)
        if route.intercept and group is None:
            yield Finding(
                (*at, "intercept"),
                "the app has to trust a CA for this: write `intercept: {bundle_file: PATH}` at the top level, and have "
                "the app trust that file",
            )
        elif route.intercept and not route.host and route.default_host is None:
            yield Finding(
                (*at, "intercept"),
                "no host leads to this route, so no https can be read for it: give it a `host`",
            )
        for number, listener in enumerate(route.listen):
            if listener.intercept and not route.intercept:
                yield Finding(
                    (*at, "listen", number, "intercept"), "set `intercept: true` on the route itself, too"
                )
            yield from _listener(listener, (*at, "listen", number))
    for number, listener in enumerate(shared):
        if listener.intercept and not any_route:
            yield Finding(
                ("listen", number, "intercept"),
                "no route says `intercept: true`, so nobody could be served here",
            )
        yield from _listener(listener, ("listen", number))


def _group(group: Intercept, files: Collection[str]) -> Iterator[Finding]:
    at: Path = ("intercept",)
    if (group.ca_cert_file is None) != (group.ca_key_file is None):
        yield Finding(at, "`ca_cert_file` and `ca_key_file` go together")
    elif group.bundle_file is None and group.ca_cert_file is None:
        yield Finding(
            at,
            "name a `bundle_file`, which is written for apps to trust; or `ca_cert_file` and `ca_key_file` of a CA "
            "that they trust already",
        )
    if group.allow_world_readable and group.ca_key_file is None:
        yield Finding((*at, "allow_world_readable"), "this is about `ca_key_file`, which is not set")
    if group.bundle_file is not None and group.bundle_file in files:
        yield Finding(
            (*at, "bundle_file"),
            f"{place(group.bundle_file)} is read elsewhere in this configuration, and would be overwritten: name "
            "another file",
        )


def _listener(listener: ListenerConfig, at: Path) -> Iterator[Finding]:
    if not listener.intercept:
        return
    if listener.tls is not None:
        yield Finding(
            (*at, "tls"),
            "`intercept` has certificates of its own, by the name that is asked for: leave `tls` out",
        )
    if listener.address.path is not None or listener.address.auto:
        yield Finding(
            (*at, "address"),
            "`intercept` is for apps that connect to port 443 of a name: write an address such as `127.0.0.1:443`",
        )


def cautions(
    group: Intercept | None, routes: Routes, shared: Sequence[ListenerConfig], *, answers: bool = False
) -> Iterator[Finding]:
    """What is unsafe, and valid. `answers`: Google's token endpoints are answered here."""
    if group is None:
        return
    if not answers and not any(route.intercept for route in routes.values()):
        yield Finding(
            ("intercept",), "no route says `intercept: true`, so no CA is made and no bundle is written"
        )
        return
    if answers and all(one.tls is not None or one.intercept for one in shared):
        yield Finding(
            ("google_token_endpoints",),
            "apps ask these hosts through their proxy (HTTPS_PROXY), and no shared listener can be one: add one "
            "without `tls` and `intercept`, such as `listen: localhost:8787`",
        )
    yield from _doubtful_routes(routes)
    all_listeners = [*shared, *(one for route in routes.values() for one in route.listen)]
    guarded = next((one for one in all_listeners if one.require_header or one.peers), None)
    for number, listener in enumerate(shared):
        at: Path = ("listen", number)
        if listener.address.is_remote:
            yield Finding(
                at,
                f"other machines reach {listener.address}, and what they ask of the intercepted hosts by https is read "
                "here: give each machine a sidecar of its own",
            )
        if listener.intercept and guarded is not None and listener.require_header is None:
            yield Finding(
                (*at, "intercept"),
                f"the listener {guarded.address} tells callers apart (`require_header`, `peers`), and this one takes "
                "every process of this machine: use the proxy way with `peers` on a Unix socket, or accept that",
            )


def _doubtful_routes(routes: Routes) -> Iterator[Finding]:
    for index, route in routes.items():
        if not route.intercept:
            continue
        split = urlsplit(route.upstream)
        if split.scheme == "http" and not hosts.is_loopback(split.hostname or ""):
            yield Finding(
                ("routes", index, "intercept"),
                "the app asks for https, and the upstream is `http://`: what it sends goes on in plaintext, and it "
                "can't tell. Use an `https://` upstream",
            )
        for host in route.host:
            if host.startswith("*."):
                yield Finding(
                    ("routes", index, "intercept"),
                    f"the CA may speak for every name under `{host[2:]}`, also for those of others: list the hosts "
                    "that you call, where you know them",
                )
