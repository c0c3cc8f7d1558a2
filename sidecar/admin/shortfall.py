"""What is wrong although the sidecar is ready, in one line.

Owns that line. `service` calls it with its parts' reports for `/healthz/ready`, and so for `healthcheck` and `wait`.
Pure. The rules: each cause once, with the routes it concerns and the first detail; texts about failures pass the
redaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sidecar.errors import MEANINGS, Source
from sidecar.observe.logs import redact
from sidecar.proxy.refusals.diagnosis import Cause
from sidecar.proxy.refusals.outages import Refusing
from sidecar.proxy.refusals.refusals import LastRefusal
from sidecar.tokens.entry import TokenState, TokenStatus
from sidecar.tokens.token import TokenKey

_WITHOUT: Final = (TokenState.FAILING, TokenState.FETCHING, TokenState.EXPIRED)
_NAMED: Final = 3
"""So many routes are named; of the others only the number is."""


class RouteTrouble(NamedTuple):
    """A route, with what it refuses and what its target refuses."""

    name: str
    refusing: Refusing | None
    refusal: LastRefusal | None


def shortfall(
    tokens: Sequence[TokenStatus],
    routes: Sequence[RouteTrouble] = (),
    of_route: Mapping[TokenKey, str] | None = None,
    reload_error: str | None = None,
) -> str:
    """Missing tokens, routes that refuse requests or whose target does, and a changed configuration that can't be used.

    `of_route` has the route that a token is for. Empty if nothing is wrong.
    """
    said = [_without_tokens(tokens, of_route or {}), *_refusing(routes), *_refused(routes)]
    if reload_error is not None:
        first, *others = redact(reload_error).splitlines() or [""]
        more = f" (and {len(others)} more)" if others else ""
        said.append(
            f"the configuration file was changed and can't be used, so the old one stays in force: {first}{more}"
        )
    return "; ".join(filter(None, said))


def _without_tokens(tokens: Sequence[TokenStatus], of_route: Mapping[TokenKey, str]) -> str:
    """`2 of 3 tokens missing (routes `a`, `b`): token_denied: …`: the tokens whose fetch has failed and that can't be
    served.
    """
    missing = [token for token in tokens if token.last_error is not None and token.state in _WITHOUT]
    if not missing:
        return ""
    causes: dict[str, str] = {}
    for token in missing:
        if token.last_error is not None:
            causes.setdefault(str(token.last_error.reason), redact(token.last_error.detail))
    why = "; ".join(f"{reason}: {detail}" for reason, detail in causes.items())
    names = [name for token in missing if (name := of_route.get(token.key)) is not None]
    whose = f" ({_routes(names)})" if names else ""
    return f"{len(missing)} of {len(tokens)} tokens missing{whose}: {why}"


def _refusing(routes: Sequence[RouteTrouble]) -> list[str]:
    """For each reason: who refuses requests with it. Without a token is in `_without_tokens`."""
    found: dict[str, tuple[list[str], str]] = {}
    for route in routes:
        why = route.refusing
        if why is not None and MEANINGS[why.reason].source is not Source.TOKEN:
            found.setdefault(str(why.reason), ([], why.detail))[0].append(route.name)
    return [
        f"{_routes(names)} refuse{'s' if len(names) == 1 else ''} requests: {reason}: {redact(detail)}"
        for reason, (names, detail) in found.items()
    ]


def _refused(routes: Sequence[RouteTrouble]) -> list[str]:
    """For each cause: whose target refuses the token, and has given no good answer since. What is most likely the
    target's own 401 or 403 is left out.
    """
    found: dict[str, tuple[list[str], str]] = {}
    for route in routes:
        last = route.refusal
        if last is not None and not last.good_since and last.diagnosis.cause is not Cause.UNEXPLAINED:
            found.setdefault(str(last.diagnosis.cause), ([], last.diagnosis.detail))[0].append(route.name)
    return [
        f"the {'target' if len(names) == 1 else 'targets'} of {_routes(names)} "
        f"refuse{'s' if len(names) == 1 else ''} requests: {cause}: {redact(detail)}"
        for cause, (names, detail) in found.items()
    ]


def _routes(names: Sequence[str]) -> str:
    """`route `a``, `routes `a`, `b`, `c` and 7 more`."""
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"route{'s' if len(names) > 1 else ''} {shown}{more}"
