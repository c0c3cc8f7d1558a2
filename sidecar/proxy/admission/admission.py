"""What is decided about a request before anything is sent.

Owns the order of the checks, and the plan of which header gets the token. Called once per request by a downstream
connection, in every wire format. Pure: from a method, an authority, a path and header fields it makes an `Admitted`,
or raises the SidecarError for the app. Rule for the token's header: docs/headers.md has the same table.

- `auto` sets Authorization. If the app sent its own, that one stays where the target reads the token from
  another header too: on Cloud Run and functions the token then goes in X-Serverless-Authorization, behind IAP in
  Proxy-Authorization; elsewhere the request is refused.
- `both` sets Authorization and that other header (X-Serverless-Authorization where there is none), with the same
  rule.
- `authorization` sets Authorization, and refuses the request if the app sent its own.
- any other name is set, and replaces what the app sent.

`on_conflict` other than `auto` says what happens to the app's own copy instead: `replace`, `reject`, or `keep`
(it stays; the token goes beside it where `auto` would put it there, and nowhere otherwise).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from sidecar.config.models import RouteConfig
from sidecar.config.targets import FACTS, Target
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.paths import leaves_root
from sidecar.proxy.admission import guard
from sidecar.proxy.admission.allowed import Allowed
from sidecar.proxy.fields import headers
from sidecar.routing.routes import Destination, Route, RouteTable, match_own
from sidecar.tokens import placeholder

AUTHORIZATION: Final = b"Authorization"
SERVERLESS: Final = b"X-Serverless-Authorization"
PROXY: Final = b"Proxy-Authorization"


class HeaderPlan(NamedTuple):
    """Which headers get the token, and which of the app's lines are dropped."""

    names: tuple[bytes, ...]
    """Empty only for `on_conflict: keep`."""
    dropped: frozenset[bytes]
    """Lower case."""
    table: headers.DropTable
    """`dropped` in the form that the header writers need."""


class RoutePlans(NamedTuple):
    """The plans of one route and one kind of target."""

    usual: HeaderPlan
    watched: bytes | None
    """The lower-case name of the header that conflicts with the token if the app sends it."""
    conflict: HeaderPlan | SidecarError
    allowed: Allowed | None
    """What the route permits; None for everything."""


Admitted = tuple[Destination, bytes, bytes, HeaderPlan]
"""An admitted request: the destination, the origin-form target to send, the route's prefix that was stripped from it
(or empty), and the plan. A plain tuple, because one is made for each request.
"""


class Admission:
    """Judges requests against one route table."""

    def __init__(self, table: RouteTable, *, pseudonym: bytes | None, placeholders: bool = False) -> None:
        """`pseudonym` is this instance's name in Via, or None where no Via is sent. `placeholders` says to look for
        placeholder tokens that stand for a route's own. If it is off, requests don't pay for the check.
        """
        self.table = table
        self._placeholders = placeholders
        self.pseudonym = pseudonym
        self._plans = {
            (route, target): plans(route.config, target) for route in table.routes for target in Target
        }

    def upgrades(
        self, authority: bytes, path: bytes, *, absolute: bool, own: Route | None, local_socket: bool
    ) -> frozenset[bytes]:
        """The protocols, in lower case, that the request's route carries; none if no route takes it, which `admit`
        then reports. The arguments are those of `admit`.
        """
        try:
            if own is None:
                match = self.table.match(authority, b"" if absolute else path)
            else:
                match = match_own(own, authority, any_host=local_socket)
        except SidecarError:
            return frozenset()
        return frozenset(name.lower().encode("ascii") for name in match.destination.route.config.upgrades)

    def admit(
        self,
        fields: headers.Fields,
        found: headers.Found,
        *,
        method: bytes,
        authority: bytes,
        path: bytes,
        absolute: bool,
        own: Route | None,
        local_socket: bool,
        scheme: bytes = b"http://",
    ) -> Admitted:
        """Find the way of one request, or raise the SidecarError for the app.

        `authority` is the Host or the authority of an absolute-form target, `path` the origin-form target. `absolute`
        says that the app uses the sidecar as its HTTP proxy; `own` is the route whose listener this is.
        `local_socket` says that the listener is a Unix socket, `scheme` how URLs to it begin.
        """
        try:
            if own is None:
                match = self.table.match(authority, b"" if absolute else path)
            else:
                match = match_own(own, authority, any_host=local_socket)
        except SidecarError as error:
            if error.reason is Reason.NO_ROUTE:
                guard.refuse_stray_browser(fields, found, authority, scheme)
            raise
        destination, prefix, _ = match
        route = destination.route
        if not route.config.allow_cross_site and (b"origin" in found or b"sec-fetch-site" in found):
            guard.refuse_browser(found, authority, scheme)
        if self.pseudonym is not None and b"via" in found:
            guard.refuse_loop(found, self.pseudonym)
        usual, watched, conflict, allowed = self._plans[route, destination.target]
        if prefix:
            path = _stripped(path, prefix)
        if allowed is not None:
            allowed.check(method, path, fields)
        if self._placeholders and _is_in_its_place(fields, path, usual.names, route.name):
            return destination, path, prefix, usual
        if watched is not None and (
            watched in found or (watched not in headers.READ and _has(fields, watched))
        ):
            if isinstance(conflict, SidecarError):
                raise conflict
            usual = conflict
        return destination, path, prefix, usual


def plans(config: RouteConfig, target: Target) -> RoutePlans:
    """The plans of a route towards one kind of target, by the table in the module's docstring."""
    mode, rule = config.header, config.on_conflict
    second = (FACTS[target].beside or SERVERLESS.decode()).encode("ascii")
    own = {
        "auto": (AUTHORIZATION,),
        "authorization": (AUTHORIZATION,),
        "both": (AUTHORIZATION, second),
        "x-serverless-authorization": (SERVERLESS,),
        "proxy-authorization": (PROXY,),
    }.get(mode) or (config.header.encode("ascii"),)
    watched = own[0].lower()
    beside = FACTS[target].beside is not None and mode in ("auto", "both")
    refused = SidecarError(
        Reason.HEADER_CONFLICT,
        f"The app sent its own `{own[0].decode()}`, which is where route `{config.name}` puts the token. "
        "Set the route's `on_conflict` to `replace` or `keep`, or its `header` to another one.",
    )
    conflict: HeaderPlan | SidecarError
    if rule == "reject" or (rule == "auto" and watched == b"authorization" and not beside):
        conflict = refused
    elif rule in ("auto", "keep") and beside:
        conflict = _plan((second,))
    elif rule == "keep":
        conflict = _plan((), kept=watched)
    else:
        conflict = _plan(own)
    usual = _plan(own)
    allowed = None if config.allow is None else Allowed(config.name, config.allow)
    return RoutePlans(usual, None if conflict == usual else watched, conflict, allowed)


@lru_cache(maxsize=256)
def _plan(names: tuple[bytes, ...], kept: bytes = b"") -> HeaderPlan:
    # Kept, since thousands of routes have the same few.
    # X-Serverless-Authorization speaks for the caller to Google's front ends: the app's never passes.
    dropped = headers.REQUEST_DROPPED | {SERVERLESS.lower()} | {name.lower() for name in names}
    # With dashes as well: that is how other spellings are looked for.
    dropped = dropped | {name.replace(b"_", b"-") for name in dropped}
    dropped -= {kept}
    return HeaderPlan(names, dropped, headers.drop_table(dropped))


def _is_in_its_place(fields: headers.Fields, path: bytes, names: tuple[bytes, ...], route: str) -> bool:
    """Whether the app sent a placeholder in the header where the route puts its own token; the app's line is then
    dropped. False if it sent none. Raises HEADER_CONFLICT for one in any other header, or beside another value of
    the same header.
    """
    seen = {name.lower() for name, value in fields if placeholder.is_in(value)}
    if not seen and not placeholder.is_in(path):
        return False
    own = {name.lower() for name in names}
    lines = [value for name, value in fields if name.lower() in own]
    if not placeholder.is_in(path) and seen <= own and all(map(placeholder.is_in, lines)):
        return True
    where = names[0].decode("ascii") if names else "its header"
    raise SidecarError(
        Reason.HEADER_CONFLICT,
        f"The app sent a placeholder of a token, which a sidecar had given it, and not, or not alone, in "
        f"`{where}`, where route `{route}` puts the token in its place. Send it there, or set the route's `header` to "
        "where the app's library sends it; it is worth nothing anywhere else.",
    )


def _has(fields: headers.Fields, lower: bytes) -> bool:
    return any(name.lower() == lower for name, _ in fields)


def _stripped(path: bytes, prefix: bytes) -> bytes:
    rest = path[len(prefix) :]
    if leaves_root(rest.partition(b"?")[0]):
        raise SidecarError(
            Reason.MALFORMED_REQUEST,
            f"The request's path leads out of the route's `path_prefix`, which is `{prefix.decode('ascii')}` (`..`).",
        )
    return rest if rest.startswith(b"/") else b"/" + rest
