"""The stand-in on the command line: `idtoken-sidecar emulator`, and calls by the connecting services.

Owns the words and options. Called by `cli`; everything that it starts is `running` and `app`. What it writes makes a
sidecar, an app or a test find the stand-in: an environment, credential files, a configuration.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import shlex
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

import click
import yaml

from sidecar.emulator.app import Emulator
from sidecar.emulator.connecting import EMAIL, Service
from sidecar.emulator.instance import Platform
from sidecar.emulator.kinds import TargetKind, Wanted
from sidecar.emulator.running import serve
from sidecar.emulator.scopes import CLOUD_PLATFORM

CONTROL_VARIABLE: Final = "IDTOKEN_EMULATOR_CONTROL"
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@click.group(invoke_without_command=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65000),
    default=0,
    metavar="PORT",
    help="The first of consecutive ports, beginning with the metadata server's. Default: free ports.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME[=KIND][,grpc]",
    help=f"A target service; repeatable. KIND is one of {', '.join(get_args(TargetKind))}. "
    "With `,grpc` it speaks gRPC: all but cloud_functions and googleapis. Default: `service=cloud_run`.",
)
@click.option(
    "--tls", is_flag=True, help="Make the targets speak TLS, with certificates of the emulator's own CA."
)
@click.option(
    "--token-lifetime",
    default="1h",
    show_default=True,
    metavar="TIME",
    help="How long every token is valid: 20s, 5m, 1h.",
)
@click.option(
    "--platform",
    type=click.Choice(get_args(Platform)),
    default="compute_engine",
    show_default=True,
    help="Which platform's metadata server to emulate.",
)
@click.option(
    "--write",
    "directory",
    metavar="DIR",
    help="Write environment variables, credential files and a sidecar's configuration there.",
)
@click.pass_context
def emulator(
    context: click.Context,
    host: str,
    port: int,
    targets: tuple[str, ...],
    tls: bool,
    token_lifetime: str,
    platform: Platform,
    directory: str | None,
) -> None:
    """Emulate Google on this machine until Ctrl-C: metadata server, OAuth, STS, IAM Credentials, and services that
    verify tokens.

    \b
    idtoken-sidecar emulator --target billing=cloud_run --target reports=iap --write emulated
    . emulated/env && idtoken-sidecar run --config emulated/config.yaml

    For tests and first steps. Its tokens are valid here only.
    """
    if context.invoked_subcommand is not None:
        return
    wanted = _targets(targets or ("service=cloud_run",))
    lifetime = _seconds(token_lifetime)
    try:
        asyncio.run(_run(wanted, host, port, tls, lifetime, platform, directory))
    except OSError as error:
        _give_up(f"cannot listen or write: {error}", 3 if error.errno == errno.EADDRINUSE else 2)


async def _run(
    wanted: Collection[Wanted],
    host: str,
    port: int,
    tls: bool,
    lifetime: float,
    platform: Platform,
    directory: str | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def announce(google: Emulator) -> None:
        written = None if directory is None else _write(google, Path(directory))
        for line in _words(google, written):
            click.echo(line)
        sys.stdout.flush()

    await serve(
        announce,
        targets=wanted,
        stop=stop,
        tls=tls,
        token_lifetime=lifetime,
        host=host,
        port=port,
        platform=platform,
    )


def _words(google: Emulator, written: Path | None) -> list[str]:
    lines = [
        f"metadata server    {google.metadata_address}",
        f"OAuth              {google.oauth_url}",
        f"STS                {google.sts_url}",
        f"IAM Credentials    {google.iam_url}",
        f"certificates       {google.certs_url}",
        f"IAP's keys         {google.iap_keys_url}",
        f"control            {google.control_url}",
        f"CA of the targets  {google.ca_file}",
    ]
    for name, target in google.targets.items():
        kind = f"{target.settings.kind}, gRPC" if target.settings.grpc else target.settings.kind
        lines.append(f"target {name:<11} {target.url}  {kind}, audience {target.audience}")
    if written is not None:
        lines += [
            "",
            f"written to {written}: . {written}/env && idtoken-sidecar run --config {written}/config.yaml",
        ]
    lines += ["", *(f"export {name}={shlex.quote(value)}" for name, value in _environment(google).items())]
    return [*lines, "", "Ctrl-C ends it."]


def _environment(google: Emulator) -> dict[str, str]:
    return {**google.environment(), CONTROL_VARIABLE: google.control_url}


def _write(google: Emulator, directory: Path) -> Path:
    """Files for every kind of credential, and a configuration that has a route to every target."""
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    user = google.oauth.add_user("me@example.com")
    provider = google.sts.add_provider()
    acted_as = f"acted-as@{google.project}.iam.gserviceaccount.com"
    google.principals.add(acted_as)
    for member in (user.member, provider.principal_set, f"serviceAccount:{google.metadata.email}"):
        google.principals.grant(member, "roles/iam.serviceAccountTokenCreator", on=acted_as)
    google.write_key(directory / "key.json")
    google.write_login(directory / "login.json", user)
    google.write_federation(
        directory / "federation.json", provider, google.url_source(provider), service_account=acted_as
    )
    configuration = {
        "endpoints": {
            "metadata": google.metadata_address,
            "oauth": google.oauth_url,
            "sts": google.sts_url,
            "iam_credentials": google.iam_url,
        },
        "credentials": {
            "default": {"type": "metadata"},
            "key": {"type": "service_account_key", "file": str(directory / "key.json")},
            "me": {"type": "user", "file": str(directory / "login.json")},
            "acting": {"type": "impersonate", "source": "default", "service_account": acted_as},
            "federated": {
                "type": "workload_identity_federation",
                "file": str(directory / "federation.json"),
            },
        },
        "routes": [_route(google, name) for name in google.targets],
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False), "utf-8")
    # Last: a program that waits for this file finds the others there.
    variables = _environment(google).items()
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables)
    (directory / "env").write_text(text, "utf-8")
    return directory


def _route(google: Emulator, name: str) -> dict[str, Any]:
    target = google.targets[name]
    kind = target.settings.kind
    route: dict[str, Any] = {
        "name": name,
        "upstream": target.url,
        "host": f"{name}.internal",
        "target": "other" if kind == "open" else kind,
    }
    if target.url.startswith("https:"):
        route["tls"] = {"ca_file": str(google.ca_file)}
    if target.settings.grpc:
        route["grpc"] = True
    if kind == "googleapis":
        return {**route, "token": "access", "scopes": [CLOUD_PLATFORM]}
    return {**route, "audience": target.audience}


@emulator.command()
@click.option(
    "--as", "service", type=click.Choice(get_args(Service)), required=True, help="Which service calls."
)
@click.option("--to", "url", required=True, metavar="URL", help="The URL to call.")
@click.option("--audience", help="The token's audience. Default: the URL.")
@click.option("--email", default=EMAIL, show_default=True, help="The service account to call as.")
@click.option(
    "--data", default="{}", show_default=True, help="The data to send: the body, or the message in it."
)
@click.option(
    "--ca-file", metavar="FILE", help="A CA to trust besides the system's. Default: the emulator's."
)
@click.option(
    "--control",
    envvar=CONTROL_VARIABLE,
    required=True,
    metavar="URL",
    help=f"The control address that the emulator prints. [{CONTROL_VARIABLE}]",
)
def call(
    service: str, url: str, audience: str | None, email: str, data: str, ca_file: str | None, control: str
) -> None:
    """Make a connecting service call a target with its own ID token, from a running emulator.

    \b
    idtoken-sidecar emulator call --as scheduler --to http://127.0.0.1:8085/run --audience http://127.0.0.1:8085

    Prints the answer. Exits with 1 unless it is a 2xx.
    """
    asked: dict[str, str] = {"service": service, "url": url, "email": email, "data": data}
    if ca_file is not None:
        asked["ca_file"] = str(Path(ca_file).resolve())
    if audience is not None:
        asked["audience"] = audience
    if not control.startswith(("http://", "https://")):
        _give_up(f"--control: `{control}` is not a URL", 2)
    request = urllib.request.Request(  # noqa: S310 - looked at above
        f"{control}/call", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    try:
        # Never by a proxy: the stand-in is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=90) as answer:
            called = json.load(answer)
    except urllib.error.HTTPError as error:
        _give_up(error.read().decode("utf-8", "replace").strip(), 1)
    except OSError as error:
        _give_up(f"no stand-in answers at {control} ({error}): start one with `idtoken-sidecar emulator`", 1)
    click.echo(f"{called['status']} to {service} as {called['email']}, aud {called['audience']}")
    click.echo(called["body"])
    sys.exit(0 if 200 <= called["status"] < 300 else 1)


def _targets(given: tuple[str, ...]) -> list[Wanted]:
    try:
        found = [Wanted.of(word) for word in given]
    except ValueError as error:
        _give_up(f"--target: {error}", 2)
    # If two have the same name, the last counts.
    return list({wanted.name: wanted for wanted in found}.values())


def _seconds(text: str) -> float:
    if re.fullmatch(r"(\d+(ms|s|m|h))+", text) is None:
        _give_up(f"--token-lifetime: `{text}` is not a time such as 20s, 5m, 1h30m", 2)
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h)", text))


def _give_up(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.stdout.flush()
    sys.exit(code)
