"""`check` and `token`: whether each route will work, and what fixes it if not.

Owns the steps and their verdicts: the credential, a fetched token, its claims, and the clock; `online` calls the
target. Called by the commands, in a process of its own. Only `token` shows a token. The rule: every failed step has
the reason code that log, metric and answer share, and the command that fixes it, if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.cli.online import ask_targets, destination_of
from sidecar.cli.steps import RouteReport, Step, Verdict, failed
from sidecar.config.credentials import is_email
from sidecar.config.models import Config
from sidecar.config.targets import FACTS, GCLOUD_CLIENT_IDS, TokenKind, default_audience
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.refusals.diagnosis import Cause
from sidecar.routing.routes import Destination, Route, RouteTable
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.refused import SET_CLOCK
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.grants.user import LOGIN
from sidecar.tokens.sources import build_sources, inspect
from sidecar.tokens.token import Token, read_claims

CLOCK_TOLERANCE: Final = 10.0
"""Seconds by which this machine's clock may be off without a warning: as much as Google's libraries tolerate."""
CLOCK_LIMIT: Final = 60.0
"""From this many seconds off, requests will fail sooner or later."""


async def check(
    config: Config,
    environ: Mapping[str, str],
    names: Sequence[str] = (),
    *,
    host: str | None = None,
    online: bool = False,
    path: str = "/",
) -> list[RouteReport]:
    """The report of every route, or of those in `names`. `host` replaces the request's host if a route follows it."""
    loop = asyncio.get_running_loop()
    clock = SystemClock(loop)
    sources = _sources(config, environ, clock)
    table = RouteTable.compile(config, sources)
    routes = [route for route in table.routes if not names or route.name in names]
    found = await asyncio.gather(
        *(_without_target(route, sources[route.config.credential], host, clock) for route in routes)
    )
    if online:
        asked = await ask_targets(config, environ, routes, found, host, path)
        found = [[*steps, asked[route.name]] for route, steps in zip(routes, found, strict=True)]
    return [RouteReport(route.name, tuple(steps)) for route, steps in zip(routes, found, strict=True)]


async def mint(config: Config, environ: Mapping[str, str], name: str, host: str | None) -> Token:
    """A token of one route; raises `SidecarError`."""
    clock = SystemClock(asyncio.get_running_loop())
    sources = _sources(config, environ, clock)
    (route,) = (route for route in RouteTable.compile(config, sources).routes if route.name == name)
    destination = destination_of(route, host)
    if destination is None:
        raise SidecarError(Reason.NO_ROUTE, _FOLLOWS.format(route=name))
    return await sources[route.config.credential].mint(destination.token_key())


def _sources(config: Config, environ: Mapping[str, str], clock: SystemClock) -> dict[str, GoogleSource]:
    return build_sources(
        config.credentials,
        clock=clock,
        environ=environ,
        endpoints=config.endpoints,
        withheld=config.secret_variables,
        listening=config.listening,
    )


_FOLLOWS: Final = "Route `{route}` follows the request's host: name one with `--host`."


async def _without_target(
    route: Route, source: GoogleSource, host: str | None, clock: SystemClock
) -> list[Step]:
    """Credential, token, claims and clock."""
    try:
        looked = source.grant.look()
    except SidecarError as error:
        return [failed("credential", error)]
    named = f"`{route.config.credential}`: {source.describe()}"
    steps = [
        Step("credential", Verdict.OK, named)
        if looked
        else Step("credential", Verdict.SKIPPED, f"{named}, which shows only by asking for a token")
    ]
    if (allow := route.config.allow) is not None:
        methods, paths = ", ".join(allow.methods) or "every method", ", ".join(allow.paths) or "every path"
        steps.append(Step("allow", Verdict.OK, f"{methods} of {paths}; the rest is refused"))
    destination = destination_of(route, host)
    if destination is None:
        return [*steps, Step("token", Verdict.SKIPPED, _FOLLOWS.format(route=route.name))]
    if destination.proxy is not None:
        says = f"through {destination.proxy}, which looks up `{destination.host}` by itself"
        steps.append(Step("egress", Verdict.OK, says))
    key = destination.token_key()
    seen = inspect(source.grant, [key], universe=source.universe, upstream=destination.host)
    if seen.fault is not None:
        return [failed("credential", seen.fault)]
    if seen.warning is not None:
        steps.append(Step("credential", Verdict.WARNING, seen.warning))
    try:
        token = await source.mint(key)
    except SidecarError as error:
        if not looked and error.command == LOGIN:  # what was asked is not there, and nobody has logged in
            return [failed("credential", error)]
        return [*steps, failed("token", error)]
    steps[0] = Step("credential", Verdict.OK, named)
    left = token.expires_at - clock.wall()
    what = "scopes" if key.kind is TokenKind.ACCESS else "aud"
    steps.append(
        Step("token", Verdict.OK, f"{key.kind}, {what} {token.audience}, {left / 60:.0f} min to live")
    )
    if key.kind is not TokenKind.ACCESS:
        steps += _claims(destination, read_claims(token.bearer.partition(b" ")[2].decode("ascii")) or {})
    if source.clock_ahead is not None:
        steps.append(_clock(source.clock_ahead))
    return steps


def _claims(destination: Destination, claims: Mapping[str, Any]) -> list[Step]:
    """Whether the target will accept the token."""
    facts = FACTS[destination.target]
    steps = []
    suggested = default_audience(
        destination.target,
        destination.token_kind,
        "https" if destination.tls else "http",
        destination.authority.decode("ascii"),
    )
    audience = claims.get("aud")
    if audience in GCLOUD_CLIENT_IDS:
        steps.append(
            Step("claims", Verdict.OK, f"the token is a person's; {facts.title} takes those for development")
        )
    elif suggested is not None and destination.audience.rstrip("/") != suggested.rstrip("/"):
        steps.append(
            Step(
                "claims",
                Verdict.WARNING,
                f"the audience is {destination.audience}, and the target's host suggests {suggested}: right only if "
                f"it is {facts.audience}",
            )
        )
    email = claims.get("email") or (
        claims.get("iss") if destination.token_kind is TokenKind.SELF_SIGNED_JWT else None
    )
    if isinstance(email, str) and is_email(email):
        steps.append(Step("claims", Verdict.OK, f"as {email}"))
    elif facts.needs_email:
        steps.append(
            Step(
                "claims",
                Verdict.FAILED,
                f"the token has no e-mail, and {facts.title} wants one: have it made with `includeEmail` "
                "(`--include-email`)",
                Cause.EMAIL_MISSING,
            )
        )
    else:
        steps.append(Step("claims", Verdict.WARNING, "the token has no e-mail; some targets want one"))
    return steps


def _clock(ahead: float) -> Step:
    side = "ahead of" if ahead > 0 else "behind"
    says = f"this machine's clock is {abs(ahead):.0f} s {side} the token endpoint's"
    if abs(ahead) <= CLOCK_TOLERANCE:
        return Step("clock", Verdict.OK, "agrees with the token endpoint's")
    verdict = Verdict.FAILED if abs(ahead) > CLOCK_LIMIT else Verdict.WARNING
    return Step("clock", verdict, says, Reason.CLOCK_OFF, SET_CLOCK)
