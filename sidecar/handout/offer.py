"""Which tokens one server may give to programs.

Decides which token a request for an audience or for scopes gets, or why it gets none. Made by `service` from a
configuration, used by `metadata` and `oauth` for each request. Pure. The rule: the configuration's lists decide, and
no request parameter widens them. A token that a route uses too is one entry in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, final

from sidecar.config.audiences import AudienceList
from sidecar.config.handout_rules import scopes_of, takes_persons
from sidecar.config.handouts import Handout
from sidecar.config.targets import CLOUD_PLATFORM, TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import quoted
from sidecar.routing.routes import Route, RouteTable
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.token import TokenKey

_SHOWN: Final = 5
"""How many entries of a list a refusal names."""


@final
class Offer:
    """The lists of one server, under one configuration."""

    def __init__(self, key: str, config: Handout, table: RouteTable, source: GoogleSource) -> None:
        """`key` is the server's key in the configuration; `source` is the source of its credential."""
        self.key = key
        self.source = source
        self.scopes = scopes_of(config)
        own = [route for route in table.routes if route.source is source and route.config.token == "id"]
        fixed = [one for route in own if (one := route.fixed_key()) is not None]
        self.audiences = AudienceList(
            config.audiences
            if config.audiences is not None
            else (*(one.audience for one in fixed), *_followed(own))
        )
        self._routes = {route.name: route for route in table.routes}
        self._keys = {
            **{audience: self._key(audience) for audience in self.audiences.exact},
            **{one.audience: one for one in fixed if one.audience in self.audiences},
        }

    def keys(self) -> list[TokenKey]:
        """The tokens that are kept fresh."""
        return [*self._keys.values(), *([self.access_key(())] if self.scopes else [])]

    def id_key(self, audience: str) -> TokenKey:
        """The token for an audience; raises NOT_ALLOWED."""
        if (known := self._keys.get(audience)) is not None:
            return known
        if audience in self.audiences:
            return self._key(audience)
        meant = self.audiences.near_miss(audience)
        hint = f" Ask for {quoted(meant)}." if meant is not None else f" {self._listed()}"
        raise SidecarError(
            Reason.NOT_ALLOWED,
            f"{quoted(audience)} is not in the list of audiences that programs get tokens for "
            f"(`{self.key}.audiences`).{hint}",
        )

    def access_key(self, wanted: Sequence[str]) -> TokenKey:
        """The access token for these scopes, or for all listed ones; raises NOT_ALLOWED.

        It has listed scopes only. If `cloud-platform` is listed, other scopes count as covered by it: Google's
        libraries ask for the scopes of their own API, whatever the machine has.
        """
        if not self.scopes:
            raise SidecarError(
                Reason.NOT_ALLOWED,
                f"Programs get no access tokens here, since no scopes are listed (`{self.key}.scopes`).",
            )
        unlisted = [scope for scope in wanted if scope not in self.scopes]
        if unlisted and CLOUD_PLATFORM not in self.scopes:
            raise SidecarError(
                Reason.NOT_ALLOWED,
                f"The scope {quoted(unlisted[0])} is not in the list of those that programs get (`{self.key}.scopes`).",
            )
        given = [scope for scope in self.scopes if scope in wanted or (unlisted and scope == CLOUD_PLATFORM)]
        return TokenKey(self.source, " ".join(given or self.scopes), TokenKind.ACCESS)

    def route_key(self, name: str) -> TokenKey | None:
        """The token of a route; None if there is no such route, or its token follows the request's host."""
        route = self._routes.get(name)
        return None if route is None else route.fixed_key()

    def _key(self, audience: str) -> TokenKey:
        persons = audience in self.audiences.exact and takes_persons(audience)
        return TokenKey(self.source, audience, TokenKind.ID, persons)

    def _listed(self) -> str:
        entries = self.audiences.entries
        if not entries:
            return "The list is empty: add it there."
        shown = ", ".join(quoted(entry) for entry in entries[:_SHOWN])
        more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
        return f"The list has {shown}{more}: ask for one of these, or add it."


def _followed(routes: Iterable[Route]) -> list[str]:
    """The audiences of routes whose upstream follows the request's host: a wildcard for a wildcard."""
    found: list[str] = []
    for route in routes:
        if not route.dynamic:
            continue
        found += [route.destination(host).audience for host in route.exact]
        template = route.config.audience or route.config.upstream
        if template == "https://{host}":
            found += [f"https://*{suffix}" for suffix in route.wildcards]
        elif "{host}" not in template:
            found.append(template)
    return found
