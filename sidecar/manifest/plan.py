"""The facts behind every platform's files.

Reads a configuration for deployment: the base URL that the app calls for each route, the port for probes, how long a
start may take, and whether the configuration may be part of a manifest. Made by the `manifest` command. Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import Any, Final

import yaml
from pydantic import SecretStr

from sidecar.config.base_urls import configured_urls, first_url, variable
from sidecar.config.listeners import ListenerConfig
from sidecar.config.models import Config
from sidecar.config.transparent import by_http, by_https, spared_beside

ADMIN_PORT: Final = 9787
CONFIG_DIRECTORY: Final = "/etc/idtoken-sidecar"
USER: Final = 65532
"""The numeric user of the image; see Dockerfile."""

_OPTIONS: Final = {
    "image": "--image IMAGE: the sidecar's, such as europe-west1-docker.pkg.dev/my-project/images/idtoken-sidecar:1",
    "app_image": "--app-image IMAGE: your app's",
    "project": "--project PROJECT: the ID of the Google Cloud project, such as my-project",
}
_HOLDS_SECRET: Final = {"static": "token", "service_account_key": "json_"}


PORTS: Final = "[localhost:8787, auto]"
"""The `listen` that gives each route a port of its own, from 8801 on in the file's order."""


def by_name(config: Config) -> bool:
    """Whether an app would have to call a route by `NAME.localhost`, which not every resolver knows, although the
    configuration does not ask for it. A manifest then gives each route a port.
    """
    urls = configured_urls(config).values()
    return "listen" not in config.model_fields_set and any(".localhost:" in url for url in urls)


def with_ports(text: str) -> str:
    """A configuration's text with `PORTS`; empty if no line can be put before it (a document mark, a flow mapping)."""
    found = f"listen: {PORTS}     # a port for each route: 8801, 8802, …\n{text}"
    try:
        read = yaml.safe_load(found)
    except yaml.YAMLError:
        return ""
    return found if isinstance(read, dict) and "routes" in read else ""


class ManifestError(ValueError):
    """A configuration that can't become a manifest; says what to do."""


@dataclass(frozen=True)
class Plan:
    """A configuration, and the deployment around it."""

    config: Config
    text: str
    """The configuration as the user wrote it, YAML."""
    name: str = "app"
    """The name of the service, deployment or job."""
    image: str = ""
    """The sidecar's image; empty if not given."""
    app_image: str = ""
    project: str = ""
    """The Google Cloud project that it runs in."""

    def require(self, *fields: str) -> None:
        """Raise ManifestError with the option for each of these fields that is empty."""
        if missing := [_OPTIONS[field] for field in fields if not getattr(self, field)]:
            raise ManifestError(
                "the manifest needs what the configuration does not tell. Give it:\n  " + "\n  ".join(missing)
            )

    @property
    def admin_port(self) -> int:
        """The port for probes."""
        ports = [address.port for address in self.config.admin if address.path is None and address.port]
        return ports[0] if ports else ADMIN_PORT

    @property
    def startup_seconds(self) -> int:
        """How long the sidecar may be unready at start, with spare time for the process itself."""
        return ceil(self.config.startup_wait) + 10

    def listeners(self) -> list[ListenerConfig]:
        """The shared listeners, and those of routes."""
        return [*self.config.listen, *(it for route in self.config.routes for it in route.listen)]

    def base_urls(self) -> dict[str, str]:
        """For the app: the variable of each route, as `exec` names it, and the base URL to call."""
        return {variable(name): url for name, url in configured_urls(self.config).items()}

    @property
    def ca_directory(self) -> str | None:
        """Where the sidecar writes the CAs for the app; None if it intercepts nothing."""
        group = self.config.intercept
        if group is None or group.bundle_file is None:
            return None
        if self.config.google_token_endpoints is None and not any(it.intercept for it in self.config.routes):
            return None
        return posixpath.dirname(group.bundle_file) or "."

    def app_environment(self) -> dict[str, str]:
        """The app's variables: its base URLs, and those that lead its https through the sidecar if that intercepts."""
        proxy = first_url(self.config.listen)
        if self.ca_directory is None or proxy is None or self.config.intercept is None:
            return self.base_urls()
        bundle = self.config.intercept.bundle_file or ""
        return {**self.base_urls(), **by_http(proxy, spared_beside("")), **by_https(proxy, bundle)}

    def settings(self) -> dict[str, Any]:
        """The configuration as YAML data, for platforms where one variable for each setting is simplest.

        Raises ManifestError if it may not be part of a manifest.
        """
        if (why := self.not_in_variables()) is not None:
            raise ManifestError(why)
        read = yaml.safe_load(self.text)
        return read if isinstance(read, dict) else {}

    def not_in_variables(self) -> str | None:
        """Why the configuration can't be given by variables; None where it can."""
        if (why := self.secret()) is not None:
            return why
        if "${" in self.text:
            return "it has ${VARIABLES}, which work in a file only"
        return None

    def secret(self) -> str | None:
        """Why the configuration itself is a secret; None if it contains none."""
        for name, credential in self.config.credentials.items():
            held = getattr(credential, _HOLDS_SECRET.get(credential.type, ""), None)
            if isinstance(held, SecretStr) and "${" not in self.text:
                return f"credential `{name}` is written out in it"
        if "${" not in self.text and any(listener.require_header for listener in self.listeners()):
            return "the value of a `require_header` is written out in it"
        return None


class Written(str):
    """YAML's literal block, for text that readers should see unchanged."""

    __slots__ = ()


class Quoted(str):
    """A scalar in double quotes."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Knows the two above. Indents a list below its key only where a template does."""


_Dumper.add_representer(
    Written, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "|")
)
_Dumper.add_representer(
    Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, '"')
)


def as_yaml(value: object, *, width: float = 110) -> str:
    """A value as YAML, in its own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def variables(values: Mapping[str, str]) -> str:
    """A container's `env`, as a list of names and values."""
    return as_yaml([{"name": name, "value": value} for name, value in values.items()], width=inf)
