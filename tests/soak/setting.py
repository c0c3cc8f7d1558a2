"""What the soak's sidecar is configured to do: its routes, listeners and limits (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.emulator.accounts import ADC_CLIENT_ID
from tests.soak.client import Route
from tests.soak.faults import IAM, METADATA, OAUTH, STS, A, B
from tests.soak.namespace import ADDRESS, HOSTS

CACHE = 30
"""Tokens of the wildcard route that are kept: fewer than it has hosts, so that they leave and come again, and more than
there are clients, so that none is turned away for what the others wait for."""
SECRET = "X-Local-Caller: the-soak"
"""What the listener on a Unix socket requires, and no upstream may see."""
_SCOPE = "https://www.googleapis.com/auth/"


class Plan(NamedTuple):
    """One route."""

    credential: str
    upstream: str
    """The process that serves it."""
    tls: bool
    servers: frozenset[str]
    """The token servers that its tokens depend on."""
    scope: str | None = None
    """Of its access tokens; None: it has ID tokens."""
    person: bool = False
    """Whether its ID tokens are a person's, for gcloud's client id."""
    wild: bool = False
    """Whether it follows the request's host, with a token for each."""
    protocol: str = "auto"
    """What the upstream is spoken to in: as the app does, or one of the two whatever the app speaks."""


ROUTES: Mapping[str, Plan] = {
    "meta": Plan("default", A, False, frozenset({METADATA})),
    "meta-tls": Plan("default", B, True, frozenset({METADATA})),
    "key": Plan("key", A, False, frozenset({OAUTH})),
    "key-tls": Plan("key", B, True, frozenset({OAUTH})),
    "acting": Plan("acting", A, False, frozenset({METADATA, IAM})),
    "federated-tls": Plan("federated", B, True, frozenset({STS, IAM})),
    "me": Plan("me", A, False, frozenset({OAUTH}), person=True),
    "access": Plan("default", A, False, frozenset({METADATA}), scope=f"{_SCOPE}pubsub"),
    "access-tls": Plan("key", B, True, frozenset({OAUTH}), scope=f"{_SCOPE}devstorage.read_only"),
    "to-http1": Plan("default", B, True, frozenset({METADATA}), protocol="http1"),
    "to-http2": Plan("key", A, False, frozenset({OAUTH}), protocol="http2"),
    "wild": Plan("default", B, True, frozenset({METADATA}), wild=True),
}
CONCERNS = {name: plan.servers | {plan.upstream} for name, plan in ROUTES.items()}
"""By route: what a fault must be of to concern it."""


def routes(*, wild: bool) -> list[Route]:
    """The routes as clients know them, a wildcard with each of its hosts; without wildcards unless `wild`."""
    found = []
    for name, plan in ROUTES.items():
        if plan.wild:
            found += [Route(name, host, f"https://{host}") for host in HOSTS if wild]
            continue
        audience = ADC_CLIENT_ID if plan.person else plan.scope or f"https://{name}.soak"
        found.append(Route(name, f"{name}.test", audience, plan.protocol))
    return found


def place(name: str, ports: Mapping[str, int]) -> tuple[str, int]:
    """Address and port where a route's upstream listens."""
    return (ADDRESS, 443) if ROUTES[name].wild else ("127.0.0.1", ports[name])


def configuration(
    directory: Path, ports: Mapping[str, int], google: Mapping[str, Any], *, wild: bool, extra: bool
) -> dict[str, Any]:
    """The sidecar's; `google` are the endpoints and credentials of the stand-in. `extra` is what a reload changes."""
    shown = [
        _route(name, plan, directory, ports, extra) for name, plan in ROUTES.items() if wild or not plan.wild
    ]
    if extra:
        shown.append({**shown[0], "name": "extra", "host": "extra.test", "audience": "https://extra.soak"})
    name, _, value = SECRET.partition(": ")
    certificate = {"cert_file": str(directory / "listener.pem"), "key_file": str(directory / "listener.pem")}
    return {
        "listen": [
            "127.0.0.1:0",
            {"address": f"unix:{directory}/proxy.sock", "require_header": {name: value}},
            {"address": "127.0.0.1:0", "tls": certificate},
        ],
        "admin": "127.0.0.1:0",
        "log_format": "json",
        "access_log": "all",
        # Twice what a busy machine makes of it: nothing here may run into a limit but by a fault.
        "token_wait": "6s",
        "token_cache": CACHE,
        "limits": {"head_timeout": "10s", "body_timeout": "10s", "keep_alive": "10s"},
        "pool": {"connections": 200, "idle": "2s"},
        "endpoints": google["endpoints"],
        "credentials": google["credentials"],
        "routes": shown,
    }


def _route(name: str, plan: Plan, directory: Path, ports: Mapping[str, int], extra: bool) -> dict[str, Any]:
    scheme = "https" if plan.tls else "http"
    route: dict[str, Any] = {
        "name": name,
        "host": "*.wild.test" if plan.wild else f"{name}.test",
        "upstream": "https://{host}" if plan.wild else f"{scheme}://localhost:{ports[name]}",
        "credential": plan.credential,
        "target": "other",
        "on_conflict": "replace",
        "protocol": plan.protocol,
        # What a reload changes, so that the route's connections are new ones.
        "timeouts": {"connect": "10s", "response": "8s", "idle": "11s" if extra else "10s"},
    }
    if plan.scope is not None:
        route |= {"target": "googleapis", "token": "access", "scopes": [plan.scope]}
    else:
        route["audience"] = "https://{host}" if plan.wild else f"https://{name}.soak"
    if plan.person:
        route |= {"target": "cloud_run", "header": "authorization"}
    if plan.tls:
        route["tls"] = {"ca_file": str(directory / "ca.pem")}
    return route
