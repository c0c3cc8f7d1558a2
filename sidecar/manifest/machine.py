"""One machine: systemd units for a VM, a Compose file for a laptop.

Owns those files. Sources: systemd.exec(5), systemd.socket(5), sd_notify(3); https://compose-spec.io; metadata server
of Compute Engine at 169.254.169.254.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from sidecar.config.addresses import ListenAddress
from sidecar.config.checks import targets_of
from sidecar.config.models import RouteConfig
from sidecar.config.targets import Target
from sidecar.manifest.plan import CONFIG_DIRECTORY, USER, Plan, indented

_PREFIX: Final = "/opt/idtoken-sidecar"


def service_unit(plan: Plan) -> str:
    """idtoken-sidecar.service"""
    grace = round(plan.config.drain.max) + 5
    command = f"{_PREFIX}/bin/idtoken-sidecar"
    users = "PrivateUsers=yes"
    if any(listener.peers is not None for listener in plan.listeners()):
        users = "# `peers`: in a namespace of its own every caller would have the same user.\nPrivateUsers=no"
    return f"""\
# /etc/systemd/system/idtoken-sidecar.service
[Unit]
Description=idtoken-sidecar: ID tokens for calls to Google Cloud services
Requires=idtoken-sidecar.socket
After=network-online.target idtoken-sidecar.socket
Wants=network-online.target

[Service]
# Ready once the tokens came, so that `After=idtoken-sidecar.service` means something to the app's unit.
Type=notify
ExecStart={command} run --config={CONFIG_DIRECTORY}/config.yaml
ExecReload={command} reload --config={CONFIG_DIRECTORY}/config.yaml
Restart=always
RestartSec=1s
# 2: the configuration can't be used. Starting again would not mend it.
RestartPreventExitStatus=2
TimeoutStartSec={plan.startup_seconds}s
TimeoutStopSec={grace}s
Environment=PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1

# A user that exists only while it runs, and sees only what it needs.
DynamicUser=yes
User=idtoken-sidecar
ConfigurationDirectory=idtoken-sidecar
ConfigurationDirectoryMode=0750
UMask=0077
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
{users}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
DevicePolicy=closed
LimitCORE=0
LimitNOFILE=65536
MemoryMax=512M
TasksMax=256

[Install]
WantedBy=multi-user.target
"""


def socket_unit(plan: Plan) -> str:
    """idtoken-sidecar.socket: the listeners, open before the process is and across its restarts."""
    addresses = [*(listener.address for listener in plan.config.listen), *plan.config.admin]
    addresses += [listener.address for route in plan.config.routes for listener in route.listen]
    lines = [line for address in addresses if address.path or address.port for line in _streams(address)]
    streams = "\n".join(f"ListenStream={line}" for line in lines)
    group = ""
    if any(address.path is not None for address in addresses):
        groups = [gid for it in plan.listeners() if it.peers is not None for gid in it.peers.gid]
        known = f"SocketGroup={groups[0]}" if groups else "SocketGroup=GROUP"
        group = f"\n# Those who may connect, unless `peers` says otherwise: members of\n{known}"
    return f"""\
# /etc/systemd/system/idtoken-sidecar.socket
# The same addresses as in {CONFIG_DIRECTORY}/config.yaml. Calls made while the service starts or restarts wait and
# are answered; none is refused.
[Unit]
Description=idtoken-sidecar: its listeners

[Socket]
{streams}
BindIPv6Only=ipv6-only
Backlog=2048
SocketMode=0660{group}
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""


def compose(plan: Plan) -> str:
    """A laptop: the app, the sidecar, and a stand-in for Google with a target for each route."""
    environment = "\n".join(f"{name}: {url}" for name, url in plan.base_urls().items()) or "{}"
    emulated = [route for route in plan.config.routes if not route.is_dynamic]
    targets = [f"--target={route.name}={_emulated_kind(route)}" for route in emulated]
    arguments = ", ".join(f'"{argument}"' for argument in ["emulator", f"--port={_EMULATOR_PORT}", *targets])
    text = yaml.safe_dump(_emulated(plan, emulated), sort_keys=False, allow_unicode=True, width=110)
    return f"""\
# docker compose up
#
# The app calls the base URLs in its environment; the targets are stand-ins, which verify real signatures. All
# containers share one loopback, so the app's own port is published by `sidecar`.
services:
  sidecar:
    image: {plan.image}
    command: [run, "--config={CONFIG_DIRECTORY}/config.yaml"]
    configs:
      - source: idtoken-sidecar
        target: {CONFIG_DIRECTORY}/config.yaml
    ports:
      - "127.0.0.1:8080:8080"                   # the app
      - "127.0.0.1:{plan.admin_port}:{plan.admin_port}"                   # the sidecar's status page
    read_only: true
    user: "{USER}:{USER}"
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    healthcheck:
      test: [CMD, python3, "-m", sidecar, healthcheck, "--config={CONFIG_DIRECTORY}/config.yaml"]
      interval: 10s
      timeout: 5s
      start_period: {plan.startup_seconds}s
    restart: unless-stopped

  google:
    image: {plan.image}
    command: [{arguments}]
    network_mode: service:sidecar

  {plan.name}:
    image: {plan.app_image}
    network_mode: service:sidecar
    environment:
{indented(environment, 6)}
    depends_on:
      sidecar: {{condition: service_healthy}}

configs:
  idtoken-sidecar:
    content: |
{indented(text.replace("$", "$$"), 6)}
"""


_EMULATOR_PORT: Final = 8085
_SERVERS: Final = 5
"""The stand-in's own servers, which come before its targets: metadata, OAuth, STS, IAM Credentials, control."""


def _emulated(plan: Plan, routes: list[RouteConfig]) -> dict[str, Any]:
    """The same routes and ways in, with the stand-in's targets behind them."""
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
        if route.listen:
            entry["listen"] = [str(listener.address) for listener in route.listen]
        entries.append(entry)
    return {
        "listen": [str(listener.address) for listener in plan.config.listen],
        **({"allow_remote": True} if plan.config.allow_remote else {}),
        "admin": f"0.0.0.0:{plan.admin_port}",
        "endpoints": {"metadata": f"127.0.0.1:{_EMULATOR_PORT}"},
        "credentials": {"default": {"type": "metadata"}},
        "routes": entries,
    }


def _emulated_kind(route: RouteConfig) -> str:
    (target,) = targets_of(route).values()
    return "open" if target is Target.OTHER else str(target)


def _streams(address: ListenAddress) -> list[str]:
    if address.path is not None:
        return [address.path]
    return [f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}" for host in address.hosts]
