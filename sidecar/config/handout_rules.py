"""What the keys that give tokens to programs must satisfy beside the rest of a configuration, and what is unsafe.

Owns the errors about them (`checked`) and the warnings (`cautions`). Called by `load` with whatever parsed. Pure. The
rule: a program that gets a token from here holds it, and can use it past every other rule of the configuration; where
one of those rules would promise more than is kept, that is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sidecar.config.addresses import leads_to
from sidecar.config.audiences import AudienceList
from sidecar.config.checks import Finding, Path, nearest
from sidecar.config.combinations import ABILITIES, ability_of, cannot_give
from sidecar.config.credentials import Adc, Credential, Metadata
from sidecar.config.handouts import (
    GOOGLE_TOKEN_HOSTS,
    HANDOUTS,
    GoogleTokenEndpoints,
    Handout,
    MetadataServer,
    TokenEndpoint,
)
from sidecar.config.listeners import ListenerConfig
from sidecar.config.models import RouteConfig
from sidecar.config.targets import FACTS, TokenKind, detect
from sidecar.config.variables import METADATA_VARIABLES, metadata_address, metadata_variable
from sidecar.grammar import hosts
from sidecar.grammar.contents import quoted

_SHORTEST_SECRET = 16
"""Characters; fewer can be tried out by any process of the machine."""


def handouts_in(parsed: Mapping[str, Any]) -> dict[str, Handout]:
    """What gives tokens to programs, as far as it could be read, by its key."""
    found = ((key, parsed.get(key)) for key in HANDOUTS)
    return {key: it for key, it in found if isinstance(it, Handout)}


def takes_persons(audience: str) -> bool:
    """Whether what has this audience takes a person's ID token, whose `aud` is gcloud's client id."""
    scheme, separator, host = audience.partition("://")
    return bool(separator) and scheme == "https" and FACTS[detect(host.partition("/")[0])].persons


def scopes_of(handout: Handout) -> tuple[str, ...]:
    """The scopes of the access tokens that it gives."""
    return () if isinstance(handout, TokenEndpoint) else handout.scopes


def routes_of(handout: Handout, routes: Iterable[RouteConfig]) -> Iterator[RouteConfig]:
    """The routes whose audiences it gives tokens for by default."""
    return (route for route in routes if route.credential == handout.credential and route.token == "id")


def checked(
    handouts: Mapping[str, Handout],
    routes: Collection[RouteConfig],
    credentials: Mapping[str, Credential],
    names: Collection[str],
    *,
    is_intercepting: bool,
) -> list[Finding]:
    """What is wrong with them; `credentials` are those of `names` that could be read. `is_intercepting`: there is
    `intercept`."""
    found: list[Finding] = []
    for key, it in handouts.items():
        found += _listening(key, it)
        if it.credential not in names:
            message = f"no credential is called {quoted(it.credential)}{nearest(it.credential, names)}"
            found.append(Finding((key, "credential"), message))
        found += _what_is_given(key, it, routes, credentials.get(it.credential))
        if isinstance(it, GoogleTokenEndpoints):
            found += _by_https(key, routes, is_intercepting=is_intercepting)
    return found


def _by_https(key: str, routes: Collection[RouteConfig], *, is_intercepting: bool) -> Iterator[Finding]:
    if not is_intercepting:
        yield Finding(
            (key,),
            "libraries ask these hosts by https, and have to trust a CA for that: write `intercept: {bundle_file: "
            "PATH}` at the top level, and have the app trust that file",
        )
    for route in routes:
        both = sorted(GOOGLE_TOKEN_HOSTS.intersection((*route.host, route.default_host or "")))
        if route.intercept and both:
            yield Finding(
                (key,),
                f"https to `{both[0]}` is answered here, and route `{route.name}` takes it, too: take one of the two "
                "away",
            )


def _listening(key: str, it: Handout) -> Iterator[Finding]:
    for address in it.listen:
        if address.is_remote:
            yield Finding(
                (key, "listen"),
                f"{address} can be reached from other machines, and tokens would cross the network in plaintext: write "
                f"`localhost:{address.port}`; each machine, or pod, has a sidecar of its own",
            )
    peers = it.peers
    if peers is None:
        return
    if not peers.uid and not peers.gid:
        yield Finding((key, "peers"), "nobody is named, so nobody could ask: give `uid` or `gid`")
    elif peers.gid and isinstance(it, GoogleTokenEndpoints):
        yield Finding(
            (key, "peers"),
            "apps come by the port of the proxy, whose other end tells its user and no groups: give `uid`",
        )
    elif peers.gid and any(address.path is None for address in it.listen):
        yield Finding(
            (key, "peers"),
            "the other end of a port tells its user and no groups: give `uid` alone, or listen on a Unix socket",
        )


def _what_is_given(
    key: str, it: Handout, routes: Collection[RouteConfig], credential: Credential | None
) -> Iterator[Finding]:
    scopes = scopes_of(it)
    ability = None if credential is None else ability_of(credential)
    if it.audiences is None and not scopes and not any(routes_of(it, routes)):
        if not isinstance(it, TokenEndpoint):
            yield Finding(
                (key,),
                f"it would give no tokens: no route has credential `{it.credential}` and `token: id`. List "
                "`audiences`, or `scopes` for access tokens",
            )
    if ability is None:
        return
    if scopes and (why := cannot_give(ability, TokenKind.ACCESS, persons=True)) is not None:
        yield Finding((key, "scopes"), f"credential `{it.credential}` gives no access tokens: {why}")
    for audience in it.audiences or ():
        wildcard = AudienceList([audience]).has_wildcards()
        if wildcard and ABILITIES[ability].person:
            yield Finding(
                (key, "audiences"),
                f"every audience under `{audience}` would get the same ID token of a person: list them one by one, or "
                "put an `impersonate` credential on top of it",
            )
        elif why := cannot_give(ability, TokenKind.ID, persons=takes_persons(audience)):
            yield Finding((key, "audiences"), f"credential `{it.credential}`, audience `{audience}`: {why}")


def own_metadata(
    handouts: Mapping[str, Handout],
    credentials: Collection[Credential],
    configured: str | None,
    environ: Mapping[str, str],
) -> Iterator[tuple[Path, str | None, str]]:
    """Where this sidecar's own credentials would ask its own metadata server: the key, or the variable, and what to
    say. `configured` is `endpoints.metadata`."""
    it = handouts.get("metadata_server")
    name = metadata_variable(environ)
    text = configured if configured is not None or name is None else environ[name]
    if it is None or text is None or not any(isinstance(one, Adc | Metadata) for one in credentials):
        return
    try:
        authority = hosts.parse_authority(metadata_address(text))
    except ValueError:
        return  # told elsewhere
    if any(leads_to(authority.host, authority.port or 80, address) for address in it.listen):
        message = (
            "it leads to this sidecar's own metadata server, which would ask itself for tokens: set "
            f"{METADATA_VARIABLES[0]} for the app alone, as `exec` does"
        )
        yield (("endpoints", "metadata"), None, message) if configured is not None else ((), name, message)


def cautions(
    handouts: Mapping[str, Handout],
    routes: Sequence[RouteConfig],
    shared: Sequence[ListenerConfig],
) -> list[Finding]:
    """What is unsafe about them, and valid."""
    found = [finding for key, it in handouts.items() for finding in _unsafe(key, it, routes, shared)]
    return [*found, *_real_beside_placeholders(handouts)]


def _real_beside_placeholders(handouts: Mapping[str, Handout]) -> Iterator[Finding]:
    """Another way to the tokens that programs are not to hold."""
    placeholders = handouts.get("google_token_endpoints")
    server = handouts.get("metadata_server")
    if placeholders is not None and isinstance(server, MetadataServer) and server.tokens == "real":
        yield Finding(
            ("google_token_endpoints",),
            "it gives placeholders, and `metadata_server` gives the same programs real tokens: set `tokens: "
            "placeholder` there",
        )


def _unsafe(
    key: str, it: Handout, routes: Sequence[RouteConfig], shared: Sequence[ListenerConfig]
) -> Iterator[Finding]:
    if isinstance(it, TokenEndpoint) and len(it.secret.get_secret_value()) < _SHORTEST_SECRET:
        yield Finding(
            (key, "secret"),
            f"it has fewer than {_SHORTEST_SECRET} characters, which other processes can try out: take more, such as "
            "`openssl rand -hex 32` gives",
        )
    if isinstance(it, GoogleTokenEndpoints) or (
        isinstance(it, MetadataServer) and it.tokens == "placeholder"
    ):
        yield from _useless_placeholders(key, it, routes)
        return
    guarded = [
        one for one in (*shared, *(one for route in routes for one in route.listen)) if _is_guarded(one)
    ]
    if isinstance(it, MetadataServer) and it.peers is None and guarded:
        yield Finding(
            (key,),
            f"the listener {guarded[0].address} tells callers apart (`require_header`, `peers`, `client_ca_file`), and "
            "every process of this machine gets tokens here: set `peers` here too, or give this a `credential` of its "
            "own",
        )
    limited = [
        route
        for route in routes
        if route.allow is not None
        and route.token == "id"
        and (route.credential == it.credential or isinstance(it, TokenEndpoint))
        and _is_given_for(it, route)
    ]
    if limited:
        yield Finding(
            (key,),
            f"route `{limited[0].name}` lets only some requests through (`allow`), and a token from here is good for "
            "all of them: leave its audience out of `audiences`, or give the route a `credential` of its own",
        )


def _useless_placeholders(
    key: str, it: MetadataServer | GoogleTokenEndpoints, routes: Sequence[RouteConfig]
) -> Iterator[Finding]:
    """Placeholders that no route puts a token in the place of."""
    sent = [route for route in routes if route.token == "id"]
    for audience in it.audiences or ():
        one = AudienceList([audience])
        if not any(
            _is_given_for(it.model_copy(update={"audiences": one.entries}), route) or route.is_dynamic
            for route in sent
        ):
            yield Finding(
                (key, "audiences"),
                f"no route sends a token for `{audience}`, so a placeholder for it is worth nothing anywhere: add a "
                "route, or leave it out",
            )
    if it.scopes and not any(route.token == "access" for route in routes):
        yield Finding(
            (key, "scopes"),
            "no route sends access tokens, so a placeholder of one is worth nothing anywhere: add a route with `token: "
            "access`, or leave them out",
        )


def _is_guarded(listener: ListenerConfig) -> bool:
    has_ca = listener.tls is not None and listener.tls.client_ca_file is not None
    return listener.require_header is not None or listener.peers is not None or has_ca


def _is_given_for(it: Handout, route: RouteConfig) -> bool:
    if it.audiences is None or isinstance(it, TokenEndpoint):
        return True
    known = AudienceList(it.audiences)
    audience = route.audience or route.upstream
    if "{host}" not in audience:
        return audience in known
    return any(audience.replace("{host}", host.replace("*.", "any.")) in known for host in route.host)
