"""Which hosts of a route would get the same token.

Each of these hosts could use the token at the others, so a wildcard route shares one only if it says
`wildcard_audience: shared`. Called by `checks` (an error for a wildcard), by `cautions` (a warning for listed hosts),
and by those who ask for tokens, for facts that only the credential's file shows. Pure.
"""

from __future__ import annotations

from typing import Literal

from sidecar.config.combinations import ABILITIES, ability_of
from sidecar.config.credentials import Credential
from sidecar.config.models import RouteConfig
from sidecar.config.targets import FACTS, Target


def shares_token(route: RouteConfig) -> Literal["token", "audience"] | None:
    """The key by which all hosts of a route get one token; None if each gets its own, or if they are one upstream."""
    if not route.is_dynamic:
        return None
    if route.token == "access":
        return "token"
    return "audience" if route.audience is not None and "{host}" not in route.audience else None


def takes_persons(route: RouteConfig, target: Target) -> bool:
    """Whether a person's ID token will do, which has the same audience wherever it is sent."""
    refused = route.is_dynamic and route.is_wildcard and route.wildcard_audience != "shared"
    return FACTS[target].persons and route.token == "id" and not refused


def refusal_to_share(route: RouteConfig, credential: Credential | None) -> tuple[str, str] | None:
    """The key to fix and what is wrong, if a wildcard would share a token and the route does not permit it, or if the
    route permits it and has nothing to share; else None.
    """
    if route.wildcard_audience == "shared":
        if route.is_dynamic and (route.is_wildcard or len(route.host) > 1):
            return None
        return "wildcard_audience", (
            "it is about several hosts that get the same token: only a route with `https://{host}` has them"
        )
    if not route.is_dynamic or not route.is_wildcard:
        return None
    matched = ", ".join(f"`{host}`" for host in route.host if host.startswith("*."))
    advice = "list the hosts one by one, or set `wildcard_audience: shared` if you trust all of them with it"
    match shares_token(route):
        case "token":
            return "token", (
                f"every host that {matched} matches would get the same access token, and could use it as you: {advice}"
            )
        case "audience":
            return "audience", (
                f"every host that {matched} matches would get the same token, and could use it at the others: "
                f"write `{{host}}` into it, {advice}"
            )
    ability = None if credential is None else ability_of(credential)
    if ability is not None and ABILITIES[ability].person and route.token == "id":
        return "credential", (
            f"every host that {matched} matches would get the same ID token of a person, and could use it as you: "
            f"put an `impersonate` credential on top of it, {advice}"
        )
    return None
