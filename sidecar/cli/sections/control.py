"""Commands for a running sidecar: `urls`, `wait`, `healthcheck`, `renew`, `reload` and `quit`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import click

from sidecar.cli.near_misses import Command
from sidecar.cli.options import complete_route, with_admin
from sidecar.cli.output import EXIT_CODES, fail, give_up, one_line, say
from sidecar.cli.probe import LONGEST_REPLY, LONGEST_STATUS, Reply, ask, readiness, wait_until_ready
from sidecar.config.addresses import ListenAddress
from sidecar.config.checks import nearest
from sidecar.grammar.contents import quoted


def _ask(
    address: ListenAddress, method: str, path: str, timeout: float, *, longest: int = LONGEST_REPLY
) -> Reply:
    """The admin server's answer; ends the process if there is none."""
    import http.client

    try:
        return ask(address, method, path, timeout=timeout, longest=longest)
    except (OSError, http.client.HTTPException) as error:
        fail(f"nothing answers at {address} ({one_line(str(error))})")


_as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _print_json(document: Mapping[str, Any], *, good: bool = True) -> NoReturn:
    click.echo(json.dumps(document, indent=2))
    sys.exit(0 if good else 1)


def _fail_as_another(address: ListenAddress, reply: Reply) -> NoReturn:
    fail(f"what answers at {address} ({reply.status}) is not a sidecar's admin server")


@click.command(cls=Command, epilog=EXIT_CODES)
@with_admin
@click.argument("routes", nargs=-1, shell_complete=complete_route)
@_as_json
def urls(address: ListenAddress, routes: tuple[str, ...], as_json: bool) -> None:
    """Print the URL by which to call each route (or ROUTES) of a running sidecar.

    \b
    idtoken-sidecar urls
    idtoken-sidecar urls billing --json

    With `listen: auto`, each has a port of its own. Other ways in are on the status page, the admin server's `/`.
    """
    found = _ask(address, "GET", "/status.json", timeout=5.0, longest=LONGEST_STATUS)
    rows = found.document.get("routes")
    if not isinstance(rows, list):
        _fail_as_another(address, found)
    calls = {
        row["name"]: row.get("url")
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("name"), str)
    }
    for name in routes:
        if name not in calls:
            fail(f"no route is called {quoted(name)} there{nearest(name, calls)}")
    shown = {name: url for name, url in calls.items() if not routes or name in routes}
    if as_json:
        _print_json(shown)
    width = max((len(name) for name in shown), default=0)
    for name, url in shown.items():
        say(
            f"{name:<{width}}  {one_line(url) if isinstance(url, str) else 'no URL: it is called by its host'}"
        )


@click.command(cls=Command, epilog=EXIT_CODES)
@with_admin
@click.option(
    "--timeout", metavar="DURATION", default="60s", show_default=True, help="Give up after this long."
)
def wait(address: ListenAddress, timeout: str) -> None:
    """Wait until a sidecar is ready.

    \b
    idtoken-sidecar wait --timeout 30s && ./app
    """
    from sidecar.config.quantities import parse_duration

    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        give_up(f"--timeout: {error}")
    why = wait_until_ready(address, seconds, lambda why: say(f"waiting: {one_line(why)}", err=True))
    if why is not None:
        fail(f"not ready after {timeout}: {one_line(why)}")
    click.echo("ready")


@click.command(cls=Command, epilog=EXIT_CODES)
@with_admin
@click.option("--live", is_flag=True, help="Check whether it is alive, not whether it is ready.")
@_as_json
def healthcheck(address: ListenAddress, live: bool, as_json: bool) -> None:
    """Exit with 0 if the sidecar is ready, else with 1: for HEALTHCHECK and exec probes.

    It also says which tokens are missing, and which routes refuse requests. That doesn't change the exit code, because
    a restart would not help.
    """
    shortfall, why = "", None
    if not live:
        why, shortfall = readiness(address)
    elif _ask(address, "GET", "/healthz/live", timeout=5.0).status != 200:
        why = "it is not alive"
    if as_json:
        _print_json({"ok": why is None, "why": why, "shortfall": shortfall or None}, good=why is None)
    if why is not None:
        fail(one_line(why))
    say(f"ready; {one_line(shortfall)}" if shortfall else "ok")


@click.command(cls=Command, epilog=EXIT_CODES)
@with_admin
@click.argument("route", required=False, shell_complete=complete_route)
@_as_json
def renew(address: ListenAddress, route: str | None, as_json: bool) -> None:
    """Make a sidecar fetch the tokens of a route, or of all routes, now. It prints the result.

    \b
    idtoken-sidecar renew billing

    Use it when you have fixed the cause of failed fetches and don't want to wait: the sidecar also tries again by
    itself. It uses the tokens that it has until the new ones are there. It takes one such call in five seconds for a
    token.
    """
    from urllib.parse import urlencode

    query = f"?{urlencode({'route': route})}" if route is not None else ""
    reply = _ask(address, "POST", f"/renew{query}", timeout=60.0)
    tokens, detail = reply.document.get("tokens"), reply.document.get("detail")
    if not isinstance(tokens, list):
        if isinstance(detail, str):
            fail(one_line(detail))
        _fail_as_another(address, reply)
    if as_json:
        _print_json(reply.document, good=reply.status == 200)
    for token in tokens:
        if isinstance(token, dict):
            failed = token.get("result") != "ok"
            what = f"{token.get('reason')}: {token.get('detail')}" if failed else "renewed"
            say(one_line(f"{token.get('route')}: {token.get('audience')}: {what}"), err=failed)
    if not tokens:
        say("no token is in use there")
    if reply.status != 200:
        sys.exit(1)


@click.command("reload", cls=Command, epilog=EXIT_CODES)
@with_admin
@_as_json
def reload_(address: ListenAddress, as_json: bool) -> None:
    """Make a sidecar read its configuration again. It prints the result.

    \b
    idtoken-sidecar reload && echo "in force"

    It also does so by itself when the file changes, and on SIGHUP. If the new configuration can't be used, the old
    one stays in force.
    """
    reply = _ask(address, "POST", "/reload", timeout=60.0)
    result, detail = reply.document.get("result", ""), reply.document.get("detail")
    if not isinstance(result, str) or not isinstance(detail, str):
        _fail_as_another(address, reply)
    if as_json:
        _print_json({"result": result, "detail": detail}, good=reply.status == 200)
    if reply.status != 200:
        fail(f"not reloaded, the old configuration stays in force:\n{detail}")
    say(result + (f": {detail}" if detail else ""))


@click.command("quit", cls=Command, epilog=EXIT_CODES)
@with_admin
def quit_(address: ListenAddress) -> None:
    """Make a sidecar finish its current requests and stop; for jobs whose work is done."""
    reply = _ask(address, "POST", "/quit", timeout=5.0)
    if reply.status >= 300:
        fail(f"refused ({reply.status}): {one_line(reply.text.strip())}")
    click.echo("quitting")
