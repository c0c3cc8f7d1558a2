"""Run it for a client of MCP: `mcp`."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from sidecar.cli.near_misses import Command
from sidecar.cli.options import Given, check_route_names, complete_route, configured
from sidecar.cli.output import EXIT_CODES, give_up
from sidecar.config.load import Loaded
from sidecar.config.models import RouteConfig
from sidecar.config.only_route import OnlyRoute, behind_a_socket
from sidecar.grammar.contents import quoted


class _Url(NamedTuple):
    """A server's URL, as given on the command line."""

    origin: str
    """Empty where only a path is given."""
    path: str
    """With the query."""


def _read(url: str) -> _Url:
    try:
        parts = urlsplit(url)
    except ValueError:
        give_up(f"{quoted(url)} is no URL such as https://tools-abc123-uc.a.run.app/mcp")
    if not url.isascii() or not url.isprintable() or " " in url:
        give_up(f"{quoted(url)}: write what is not ASCII, and spaces, with escapes such as %20")
    if parts.fragment or "@" in parts.netloc:
        give_up(f"{quoted(url)}: a fragment or a user name has no place in a server's URL")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if url.startswith("/"):
        return _Url("", path)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        give_up(f"{quoted(url)} is no URL: begin with `https://`")
    return _Url(f"{parts.scheme}://{parts.netloc}", path)


@click.command("mcp", cls=Command, epilog=EXIT_CODES)
@click.argument("url")
@click.option("--audience", metavar="AUDIENCE", help="The token's `aud`. Default: by the kind of server.")
@click.option(
    "--credential",
    metavar="NAME",
    help="One of the file's credentials, or `adc`, `gcloud`, `metadata`, `user`. Default: `default`.",
)
@click.option("--impersonate", metavar="EMAIL", help="Act as this service account, by that credential.")
@click.option(
    "--route",
    metavar="NAME",
    shell_complete=complete_route,
    help="Use this route of the configuration; URL may then be a path.",
)
@click.option("--sse", is_flag=True, help="The server speaks the old HTTP+SSE transport (2024-11-05).")
@configured
def mcp(given: Given, url: str, route: str | None, sse: bool, **flags: str | None) -> None:
    """Connect an MCP client that uses stdio to the MCP server at URL, on Cloud Run or behind IAP.

    \b
    idtoken-sidecar mcp https://tools-abc123-uc.a.run.app/mcp
    idtoken-sidecar mcp --config config.yaml --route tools /mcp
    idtoken-sidecar mcp https://tools.example.com/mcp --audience CLIENT_ID --impersonate sa@p.iam.gserviceaccount.com

    Put this line into the configuration of your editor or agent. Each message goes to the server with a fresh token.
    If the server refuses it, the client gets an error that says why and how to fix it. Logs go to stderr.

    If a route of the configuration has this upstream, and no flag changes it, that route is used. Needs the extra:
    pip install 'idtoken-sidecar[mcp]'.
    """
    from sidecar.runtime.hardening import Process

    process = Process()
    if find_spec("mcp") is None:
        give_up("`mcp` needs the MCP SDK, which is an extra: pip install 'idtoken-sidecar[mcp]'")
    server = _read(url)
    loaded, used = _configuration(given, server, route, flags)
    from sidecar.cli.run import leave, serve
    from sidecar.mcp.bridge import Place, carry

    with tempfile.TemporaryDirectory(prefix="idtoken-mcp-") as directory:
        alone, socket = behind_a_socket(loaded.config, directory, (used,))
        quiet: dict[str, Any] = {
            name: value
            for name, value in (("log_level", "warning"), ("log_format", "text"))
            if name not in alone.model_fields_set
        }
        origin = server.origin or used.upstream
        host = (urlsplit(origin).hostname or "") if used.is_dynamic else f"{used.name}.localhost"
        place = Place(origin + server.path, used.name, host, socket, sse)
        alone = alone.model_copy(update=quiet)
        code = serve(alone, loaded.warnings, os.environ, partial(carry, place), process=process)
    leave(code)


def _configuration(
    given: Given, server: _Url, route: str | None, flags: dict[str, str | None]
) -> tuple[Loaded, RouteConfig]:
    """The configuration and its route to the server; ends the process if there is none."""
    if route is None:
        if not server.origin:
            give_up(f"{quoted(server.path)} is a path: name the route that it is on with --route")
        only = OnlyRoute("mcp", server.origin, flags["audience"], flags["credential"], flags["impersonate"])
        loaded = given.load(only)
        return loaded, loaded.config.routes[-1]
    if named := [f"--{name}" for name, value in flags.items() if value is not None]:
        give_up(f"{' and '.join(named)} can't be given with --route: set it in the route `{route}`")
    loaded = given.load()
    check_route_names(loaded, (route,))
    (used,) = (it for it in loaded.config.routes if it.name == route)
    if used.is_dynamic and not server.origin:
        give_up(f"route `{route}` follows the request's host: give the whole URL")
    if server.origin and not used.is_dynamic and server.origin.lower() != used.upstream.lower():
        give_up(f"route `{route}` leads to {used.upstream}, and not to {server.origin}: give a path only")
    return loaded, used
