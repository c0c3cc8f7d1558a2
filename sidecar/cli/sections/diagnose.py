"""Find out what is wrong: `check`, `explain`, `token` and `config`."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import Any, Final

import click

from sidecar.cli.near_misses import Command, Group
from sidecar.cli.options import Given, check_route_names, complete_route, configured
from sidecar.cli.output import EXIT_CODES, columns, give_up, patience, say
from sidecar.config.load import ConfigError, Loaded
from sidecar.grammar.contents import place, quoted
from sidecar.grammar.terminal import printable

_COLOURS: Final = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "cyan"}


@click.command(
    "check",
    cls=Command,
    epilog="\b\nExit codes: 0 every route will work · 1 one will not · 2 configuration",
)
@click.argument("routes", nargs=-1, shell_complete=complete_route)
@click.option(
    "--online",
    is_flag=True,
    help="Also send a request to each target: HEAD, then GET if necessary. A gRPC service (`grpc: true`) gets a "
    "health check.",
)
@click.option(
    "--path",
    default="/",
    show_default=True,
    help="The path to request from the targets, with --online. Not for gRPC.",
)
@click.option("--host", metavar="HOST", help="The host to use, for a wildcard route.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@configured
def check_(
    given: Given, routes: tuple[str, ...], online: bool, path: str, host: str | None, as_json: bool
) -> None:
    """Test each route (or ROUTES): get a token, and say whether its target will accept it.

    \b
    idtoken-sidecar check --config config.yaml
    idtoken-sidecar check --config config.yaml --online billing --path /ready

    Looks at the credential, the token and its claims, and the clock; what fails is shown with the command that
    fixes it. No token is printed.
    """
    from sidecar.runtime.hardening import Process

    Process()  # no dumps: it will hold keys and tokens
    loaded = given.load()
    check_route_names(loaded, routes)
    if not path.startswith("/") or not path.isprintable() or " " in path or not path.isascii():
        give_up(f"--path: {quoted(path)} is not a path such as /ready")
    from sidecar.cli.check import check
    from sidecar.cli.run import alone, leave

    with patience(f"asking for the tokens of {len(routes or loaded.config.routes)} route(s) …"):
        reports = alone(check(loaded.config, os.environ, routes, host=host, online=online, path=path))
    failed = any(report.failed for report in reports)
    if as_json:
        click.echo(
            json.dumps({"ok": not failed, "routes": [report.as_json() for report in reports]}, indent=2)
        )
    else:
        for report in reports:
            _print_report(report.as_json())
    leave(1 if failed else 0)


def _print_report(report: dict[str, Any]) -> None:
    width = max(40, min(columns(), 140)) - 27
    click.echo(click.style(report["route"], bold=True))
    for step in report["steps"]:
        reason = f"{step['reason']}: " if step["reason"] else ""
        # A command that is broken over lines can't be copied: it has a line of its own.
        says = (
            step["says"].replace(f"`{step['command']}`", "the command below")
            if step["command"]
            else step["says"]
        )
        text = textwrap.wrap(
            printable(f"{reason}{says}"), width, break_long_words=False, break_on_hyphens=False
        )
        verdict = click.style(f"{step['verdict']:<9}", fg=_COLOURS[step["verdict"]])
        click.echo(f"  {step['name']:<12}{verdict}  " + f"\n{'':<25}".join(text))
        if step["command"]:
            click.echo(f"{'':<25}" + click.style(f"$ {printable(step['command'])}", bold=True))


@click.command(
    cls=Command,
    epilog="\b\nExit codes: 0 a route takes it · 1 it would be refused · 2 configuration",
)
@click.argument("url")
@click.option("-X", "method", default="GET", metavar="METHOD", help="The request's method. Default: GET.")
@click.option("-H", "headers", multiple=True, metavar="LINE", help="A header line that the app would send.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@configured
def explain(given: Given, url: str, method: str, headers: tuple[str, ...], as_json: bool) -> None:
    """Test a request: which route would take URL, by which way in, and which header it would get.

    \b
    idtoken-sidecar explain --config config.yaml http://billing.localhost:8787/invoices
    idtoken-sidecar explain -c config.yaml http://localhost:8787/x -H 'Host: billing.internal' -H 'Authorization: x'

    It reads the configuration only: it sends nothing and fetches no token.
    """
    loaded = given.load()
    from sidecar.proxy.explain import explain as explained

    try:
        found = explained(loaded.config, url, headers, method)
    except ValueError as error:
        give_up(str(error))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            if name != "taken":
                say(f"{name:<12}{', '.join(value) if isinstance(value, list) else value}")
    sys.exit(0 if found["taken"] else 1)


@click.command(cls=Command, epilog=EXIT_CODES)
@click.argument("route", shell_complete=complete_route)
@click.option("--claims", is_flag=True, help="Print the token's claims and not the token.")
@click.option("--host", metavar="HOST", help="The host to use, for a wildcard route.")
@configured
def token(given: Given, route: str, claims: bool, host: str | None) -> None:
    """Print a token of ROUTE, to use by hand.

    \b
    curl -H "Authorization: Bearer $(idtoken-sidecar token billing --config config.yaml)" https://…
    idtoken-sidecar token billing --config config.yaml --claims

    Anyone who has it can call the target as you until it expires.
    """
    from sidecar.runtime.hardening import Process

    Process()  # no dumps: it will hold keys and tokens
    loaded = given.load()
    check_route_names(loaded, (route,))
    from sidecar.cli.check import mint
    from sidecar.cli.run import alone, leave
    from sidecar.errors import SidecarError
    from sidecar.tokens.token import read_claims

    try:
        with patience(f"asking for a token of `{route}` …"):
            minted = alone(mint(loaded.config, os.environ, route, host))
    except SidecarError as error:
        say(f"{route}: {error}", err=True)
        if error.command:
            say(f"$ {error.command}", err=True)
        leave(1)
    value = minted.bearer.partition(b" ")[2].decode("ascii")
    if claims:
        found = read_claims(value)
        click.echo(json.dumps(found or {"scope": minted.audience, "exp": int(minted.expires_at)}, indent=2))
        leave(0)
    if sys.stdout.isatty():
        click.echo("warning: this is a secret on your terminal; --claims shows what is in it", err=True)
    click.echo(value)
    leave(0)


@click.group(cls=Group)
def config() -> None:
    """Check a configuration, show it, print its schema."""


@config.command(epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also of the problems.")
@configured
def validate(given: Given, as_json: bool) -> None:
    """Check a configuration: every problem at once, with file, line and column.

    \b
    idtoken-sidecar config validate --config config.yaml
    """
    from sidecar.config.document import files_of

    loaded = _read_for_json(given) if as_json else given.load()
    names = [route.name for route in loaded.config.routes]
    missing = dict.fromkeys(file for file in files_of(loaded.config) if not os.path.exists(file))
    warnings = [
        *loaded.warnings,
        *(f"there is no file {place(file)}, which the configuration names" for file in missing),
    ]
    if as_json:
        click.echo(json.dumps({"valid": True, "routes": names, "warnings": warnings}, indent=2))
        return
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"valid: {len(names)} route(s): {', '.join(names)}")


def _read_for_json(given: Given) -> Loaded:
    """The configuration; ends the process with its problems as JSON."""
    try:
        return given.read()
    except ConfigError as error:
        problems = [problem._asdict() for problem in error.problems]
    except OSError as error:
        problems = [{"where": "", "path": "", "message": str(error)}]
    click.echo(json.dumps({"valid": False, "problems": problems}, indent=2))
    sys.exit(2)


@config.command()
def schema() -> None:
    """Print the configuration's JSON Schema, for editors."""
    from sidecar.config.document import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@config.command(epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@configured
def show(given: Given, as_json: bool) -> None:
    """Print the configuration as it is used: resolved, with all defaults; secrets are hidden."""
    from sidecar.config.document import plain, shown

    config = given.load().config
    click.echo(json.dumps(plain(config), indent=2) + "\n" if as_json else shown(config), nl=False)
