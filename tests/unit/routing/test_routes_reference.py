"""sidecar.routing.routes against a slow reading of its own rule, over random tables"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.config.load import ConfigError, load
from sidecar.errors import Reason, SidecarError
from sidecar.routing.routes import RouteTable
from tests.support.sampling import examples

NAMES = ["a", "b", "run", "x"]
HOSTS = [
    "a.internal",
    "b.internal",
    "a.run.app",
    "x.run.app",
    "a.x.run.app",
    "b.localhost",
    "10.0.0.1",
    "u.example",
]
WILDCARDS = ["*.run.app", "*.x.run.app", "*.internal", "*.localhost"]
UPSTREAMS = [
    "https://u.example",
    "https://v.example",
    "https://a.run.app",
    "https://10.0.0.1",
    "http://127.0.0.1:80",
    "http://[::1]:8",
]
PREFIXES = ["/", "/a", "/a/b", "/b"]

ASKED = [
    *(
        *HOSTS,
        "localhost",
        "127.0.0.1",
        "::1",
        "a.localhost",
        "x.localhost",
        "run.app",
        "internal",
        "c.a.internal",
    ),
    *(
        "v.example",
        "w.example",
        "evil.example",
        "xrun.app",
        "y.x.run.app",
        "u.example.evil.example",
        "ainternal",
    ),
]
PATHS = ["/", "/a", "/a/", "/ab", "/a/b", "/a/b/c", "/a?q", "/b/x", ""]


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to four routes that do not claim the same host or prefix."""
    patterns = draw(st.permutations([*HOSTS, *WILDCARDS]))
    prefixes = draw(st.permutations([*PREFIXES, "", "", ""]))
    routes = []
    for number in range(draw(st.integers(1, 4))):
        claimed = [patterns.pop() for _ in range(draw(st.integers(0, 3)))]
        dynamic = bool(claimed) and draw(st.booleans())
        route = {
            "name": NAMES[number],
            "upstream": "https://{host}" if dynamic else draw(st.sampled_from(UPSTREAMS)),
            **({"host": claimed} if claimed else {}),
        }
        if not dynamic and (prefix := prefixes.pop()):
            route["path_prefix"] = prefix
        routes.append(route)
    return routes


def by_the_rule(routes: list[dict[str, Any]], host: str, path: str) -> tuple[str, str] | None:
    """Name and upstream's host by the order that the module's docstring gives, one route after the other; None where
    nothing matches."""
    fixed = [one for one in routes if "{host}" not in one["upstream"]]
    literal = host in ("10.0.0.1", "127.0.0.1", "::1")
    loopback = host in ("127.0.0.1", "::1") or host.split(".")[-1] == "localhost"

    def to(one: dict[str, Any]) -> tuple[str, str]:
        end = one["upstream"].replace("{host}", host).partition("://")[2]
        return one["name"], end[1:].partition("]")[0] if end[0] == "[" else end.partition(":")[0]

    for one in routes:
        if host in one.get("host", ()):
            return to(one)
    for one in fixed:
        if host == one["name"] + ".localhost":
            return to(one)
    best, labels = None, host.split(".")
    for one in routes:
        for entry in one.get("host", ()):
            suffix = entry.split(".")[1:]
            inside = entry[0] == "*" and len(labels) > len(suffix) and labels[-len(suffix) :] == suffix
            if inside and not literal and (best is None or len(suffix) > best[0]):
                best = len(suffix), one
    if best is not None:
        return to(best[1])
    if (loopback or literal) and path:
        starts = [one for one in fixed if one.get("path_prefix")]
        for one in sorted(starts, key=lambda one: -len(one["path_prefix"])):
            prefix = one["path_prefix"]
            if prefix == "/" or path.split("?")[0] == prefix or path.startswith(prefix + "/"):
                return to(one)
        if len(routes) == 1 and fixed and not starts:
            return to(fixed[0])
    owners = [one for one in fixed if to(one)[1] == host and not loopback]
    owners = [one for one in owners if "host" not in one] or owners
    return to(owners[0]) if len(owners) == 1 else None


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(tables(), st.sampled_from(["{}", "{}:80", "{}:8787"]), st.booleans())
def test_every_match_is_the_rules(routes: list[dict[str, Any]], form: str, capitals: bool) -> None:
    """Whatever the table and the spelling of the host, the second time too; what no route names goes nowhere."""
    text = yaml.safe_dump(
        {"routes": [{**one, "audience": "https://aud.example", "allow_plaintext": True} for one in routes]}
    )
    try:
        compiled = RouteTable.compile(load(text, environ={}).config)
    except ConfigError:
        assume(False)
    for host, path in itertools.product(ASKED, PATHS):
        expected = by_the_rule(routes, host, path)
        shown = form.format(f"[{host}]" if ":" in host else host.upper() if capitals else host)
        for _ in range(2):
            try:
                match = compiled.match(shown.encode(), path.encode())
                found = match.destination.route.name, match.destination.host
            except SidecarError as error:
                found = error.reason
            assert found == (expected or Reason.NO_ROUTE), (shown, path, text)
