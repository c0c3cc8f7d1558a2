"""One machine: systemd units for a VM, a Compose file for a laptop.

Owns those files. Sources: systemd.exec(5), systemd.socket(5), sd_notify(3); https://compose-spec.io; metadata server
of Compute Engine at 169.254.169.254.
"""

from __future__ import annotations

import json
from math import inf
from typing import Any, Final

from sidecar.config.addresses import ListenAddress
from sidecar.config.checks import targets_of
from sidecar.config.models import Config, RouteConfig
from sidecar.config.targets import Target
from sidecar.manifest.plan import CONFIG_DIRECTORY, USER, Plan, as_yaml
from sidecar.manifest.templates import filled

_PREFIX: Final = "/opt/idtoken-sidecar"


def service_unit(plan: Plan) -> str:
    """idtoken-sidecar.service"""
    return filled(
        "machine/idtoken-sidecar.service",
        prefix=_PREFIX,
        config_directory=CONFIG_DIRECTORY,
        startup_seconds=plan.startup_seconds,
        grace=round(plan.config.drain.max) + 5,
        ca_directory=plan.ca_directory,
        runtime_directory=_below_run(plan.ca_directory),
        told_apart=any(listener.peers is not None for listener in plan.listeners()),
    )


def _below_run(directory: str | None) -> str | None:
    """A directory that systemd creates, such as `idtoken-sidecar` for /run/idtoken-sidecar; None for any other."""
    return None if directory is None or not directory.startswith("/run/") else directory.removeprefix("/run/")


def socket_unit(plan: Plan) -> str:
    """idtoken-sidecar.socket: the listeners, which are open before the process starts and during its restarts."""
    addresses = [*(listener.address for listener in plan.config.listen), *plan.config.admin]
    addresses += [listener.address for route in plan.config.routes for listener in route.listen]
    addresses += [address for it in plan.config.handouts.values() for address in it.listen]
    lines = [line for address in addresses if address.path or address.port for line in _streams(address)]
    groups = [gid for it in plan.listeners() if it.peers is not None for gid in it.peers.gid] or ["GROUP"]
    return filled(
        "machine/idtoken-sidecar.socket",
        config_directory=CONFIG_DIRECTORY,
        streams="\n".join(f"ListenStream={line}" for line in lines),
        group=str(groups[0]) if any(address.path is not None for address in addresses) else None,
    )


def compose(plan: Plan) -> str:
    """For a laptop: the app, the sidecar, and an emulator of Google with a target for each route.

    Raises ManifestError.
    """
    plan.require("image", "app_image")
    emulated = [route for route in plan.config.routes if not route.is_dynamic]
    targets = [f"--target={route.name}={_emulated_kind(route)}" for route in emulated]
    return filled(
        "machine/compose.yaml",
        name=plan.name,
        image=plan.image,
        app_image=plan.app_image,
        admin_port=plan.admin_port,
        config_directory=CONFIG_DIRECTORY,
        user=USER,
        startup_seconds=plan.startup_seconds,
        emulator=json.dumps(["emulator", f"--port={_EMULATOR_PORT}", *targets]),
        ca_directory=plan.ca_directory,
        app_environment=as_yaml(plan.app_environment(), width=inf),
        configuration=as_yaml(_emulated(plan, emulated)).replace("$", "$$"),  # which Compose makes `$` again
    )


_EMULATOR_PORT: Final = 8085
_SERVERS: Final = 5
"""The emulator's own servers, which come before its targets: metadata, OAuth, STS, IAM Credentials, control."""


def _reading_https(config: Config) -> dict[str, Any]:
    """What has the sidecar read https; its tokens are the stand-in's."""
    found: dict[str, Any] = {}
    if config.intercept is not None and config.intercept.bundle_file is not None:
        found["intercept"] = {"bundle_file": config.intercept.bundle_file}
    if config.google_token_endpoints is not None:
        given = config.google_token_endpoints.model_dump(include={"scopes"}, exclude_defaults=True)
        found["google_token_endpoints"] = {name: list(value) for name, value in given.items()}
    return found


def _emulated(plan: Plan, routes: list[RouteConfig]) -> dict[str, Any]:
    """The same routes and ways in, with the emulator's targets behind them."""
    entries = []
    for number, route in enumerate(routes, _EMULATOR_PORT + _SERVERS):
        url = f"http://127.0.0.1:{number}"
        hosts = list(route.host or filter(None, [route.default_host]))
        entry: dict[str, Any] = {"name": route.name, **({"host": hosts} if hosts else {}), "upstream": url}
        if (kind := _emulated_kind(route)) != "open":
            entry["target"] = kind
        if route.token == "access":
            entry["token"] = "access"
        else:
            entry["audience"] = url
        if route.path_prefix is not None:
            entry["path_prefix"] = route.path_prefix
        if route.intercept:
            entry["intercept"] = True
        if route.listen:
            entry["listen"] = [str(listener.address) for listener in route.listen]
        entries.append(entry)
    return {
        "listen": [str(listener.address) for listener in plan.config.listen],
        **({"allow_remote": True} if plan.config.allow_remote else {}),
        "admin": f"0.0.0.0:{plan.admin_port}",
        "endpoints": {"metadata": f"127.0.0.1:{_EMULATOR_PORT}"},
        "credentials": {"default": {"type": "metadata"}},
        **_reading_https(plan.config),
        "routes": entries,
    }


def _emulated_kind(route: RouteConfig) -> str:
    (target,) = targets_of(route).values()
    return "open" if target is Target.OTHER else str(target)


def _streams(address: ListenAddress) -> list[str]:
    if address.path is not None:
        return [address.path]
    return [f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}" for host in address.hosts]
