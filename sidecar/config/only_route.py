"""One route in place of a file's, and a sidecar that nobody else reaches: what `mcp` and `check --online` run.

Owns what a URL and some flags of a command come to as a route, and the private listener. Called by `load` before it
judges anything, so that a mistake in a flag is found like one in a file, and by the commands. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sidecar.config.addresses import parse_listen
from sidecar.config.checks import Path
from sidecar.config.listeners import plain_listener
from sidecar.config.models import Config, RouteConfig
from sidecar.config.tree import Tree

_PLAIN_TYPES: Final = ("adc", "gcloud", "metadata", "user")
"""Types of credential that need no key but `type`."""


class OnlyRoute(NamedTuple):
    """A route that the command line says by itself."""

    name: str
    upstream: str
    """Scheme, host and port."""
    audience: str | None = None
    credential: str | None = None
    """One of the file's by its name, or a type that needs no more."""
    impersonate: str | None = None
    """E-mail of a service account to act as, by that credential."""
    patience: str = "1h"
    """How long an answer may take, and be silent."""

    def put(self, tree: Tree, data: dict[str, Any]) -> None:
        """Make it the one route of what was read: that of the file with this upstream, where no flag says otherwise."""
        given = data.get("routes")
        flags = (self.audience, self.credential, self.impersonate)
        if isinstance(given, list) and flags == (None, None, None):
            for index, route in enumerate(given):
                if isinstance(route, dict) and _origin(route.get("upstream")) == self.upstream.lower():
                    # The others stay as places only: a problem's line is found by the index.
                    data["routes"] = [*given[: index + 1]]
                    return
        at: Path = ("routes", 0)
        for path, source in ((at, "the command line"), ((*at, "audience"), "--audience")):
            tree.put(path, source)
        route = {
            "name": self.name,
            "upstream": tree.add_text((*at, "upstream"), "the URL", self.upstream),
            "timeouts": {"response": self.patience, "idle": self.patience},
        }
        if self.audience is not None:
            route["audience"] = tree.add_text((*at, "audience"), "--audience", self.audience)
        if (credential := self._credential(tree, data)) is not None:
            route["credential"] = credential
            tree.put((*at, "credential"), "--credential")
        data["routes"] = [route]

    def _credential(self, tree: Tree, data: dict[str, Any]) -> str | None:
        credentials = data.setdefault("credentials", {"default": {"type": "adc"}})
        if not isinstance(credentials, dict):
            return self.credential
        credential = self.credential
        if credential in _PLAIN_TYPES and credential not in credentials:
            tree.put(("credentials", credential), "--credential")
            credentials[credential] = {"type": credential}
        if self.impersonate is None:
            return credential
        name = next(name for name in _names("impersonated") if name not in credentials)
        at: Path = ("credentials", name)
        tree.put(at, "--impersonate")
        credentials[name] = {
            "type": "impersonate",
            "service_account": tree.add_text((*at, "service_account"), "--impersonate", self.impersonate),
            "source": credential or "default",
        }
        return name


def _names(first: str) -> Iterable[str]:
    yield first
    number = 2
    while True:
        yield f"{first}-{number}"
        number += 1


def _origin(upstream: Any) -> str | None:
    return upstream.lower().removesuffix("/") if isinstance(upstream, str) else None


def behind_a_socket(config: Config, directory: str, routes: Iterable[RouteConfig]) -> tuple[Config, str]:
    """The same configuration with these routes, reached by two Unix sockets in `directory` and nothing else; and the
    path of the first, where requests go. `directory` is to be this user's alone."""
    socket = f"{directory}/proxy.sock"
    update = {
        "listen": (plain_listener(f"unix:{socket}"),),
        "admin": (parse_listen(f"unix:{directory}/admin.sock"),),
        "routes": tuple(route.model_copy(update={"listen": ()}) for route in routes),
        "metadata_server": None,
        "token_endpoint": None,
        "google_token_endpoints": None,
        "access_log": "off",
        "drain": config.drain.model_copy(update={"min": 0.0}),
    }
    return config.model_copy(update=update), socket
