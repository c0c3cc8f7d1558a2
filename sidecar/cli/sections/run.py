"""Run it: `run` and `exec`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from tempfile import TemporaryDirectory

import click

from sidecar.cli.near_misses import Command
from sidecar.cli.options import Given, configured
from sidecar.cli.output import EXIT_CODES, give_up
from sidecar.grammar.contents import place, quoted
from sidecar.runtime.regular_files import STANDARD_INPUT


@click.command(cls=Command, epilog=EXIT_CODES)
@configured
@click.argument("targets", nargs=-1, metavar="[[NAME=]URL]...")
def run(given: Given, targets: tuple[str, ...]) -> None:
    """Run the sidecar until SIGTERM or Ctrl-C. URL works like --to.

    \b
    idtoken-sidecar run https://svc-abc-uc.a.run.app
    idtoken-sidecar run --config config.yaml
    idtoken-sidecar run --to https://svc-abc-uc.a.run.app --to reports=https://reports.example.com

    A setting's flag wins over its environment variable, and that over the file. Values are YAML:
    --listen '[localhost:8787, unix:/run/proxy.sock]', --drain '{max: 20s}'.
    """
    from sidecar.runtime.hardening import Process

    process = Process()
    # Plugins of pydantic would see secrets. To find that there are none takes 2 ms with 40 packages: it looks into all.
    # Not for `exec`, whose command would inherit it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for target in targets:
        if "://" not in target and target.endswith((".yaml", ".yml", ".json")):
            give_up(f"{quoted(target)} is no URL; did you mean `--config {place(target)}`?")
    given = given._replace(to=(*given.to, *targets))
    from sidecar.runtime.file_watch import stamp

    watched = None if given.file in STANDARD_INPUT else given.file
    seen = stamp(watched) if watched else None
    loaded = given.load()
    from sidecar.cli.run import leave, serve
    from sidecar.service.reload import ConfigSource

    source = ConfigSource(given.read, watched, seen)
    leave(serve(loaded.config, loaded.warnings, os.environ, process=process, source=source))


@click.command(
    "exec",
    cls=Command,
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog=EXIT_CODES + " · 126, 127 the command can't be run, was not found · else the command's own",
)
@click.option("--http-proxy", is_flag=True, help="Also set HTTP_PROXY, and NO_PROXY for loopback.")
@click.option(
    "--transparent",
    is_flag=True,
    help="Lead the https of COMMAND through the sidecar too, and have it trust the sidecar's CA.",
)
@click.option(
    "--wait/--no-wait", default=True, help="Wait until the sidecar is ready (at most startup_wait)."
)
@click.option(
    "--pass-env",
    "named",
    metavar="NAME",
    multiple=True,
    help="Let COMMAND see this variable although a secret of the sidecar comes from it; repeatable.",
)
@configured
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    given: Given,
    http_proxy: bool,
    transparent: bool,
    wait: bool,
    named: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Run COMMAND with a sidecar beside it; ends with its exit code.

    \b
    idtoken-sidecar exec --config config.yaml -- python app.py
    idtoken-sidecar exec --to billing=https://svc-abc-uc.a.run.app -- sh -c 'curl $IDTOKEN_SIDECAR_URL_BILLING'

    COMMAND gets IDTOKEN_SIDECAR_URL, and for each route IDTOKEN_SIDECAR_URL_NAME (upper case, `-` as `_`) with its
    own port. Signals are passed on to it; orphans are reaped, so this may be a container's first process.

    If you don't set addresses and the default ones are taken, others are used, so several can run side by side.
    Only warnings are logged, to stderr, unless you set --log-level: stdout is the command's.

    COMMAND does not see the sidecar's settings (IDTOKEN_SIDECAR_*), nor the variables that secrets of the
    configuration come from (${NAME}). Name those that it needs with --pass-env.

    With a `metadata_server` in the configuration, Google's libraries in COMMAND find it: GCE_METADATA_HOST,
    GCE_METADATA_IP and METADATA_SERVER_DETECTION are set. GOOGLE_APPLICATION_CREDENTIALS, which they would read
    first, is left out unless you name it with --pass-env.

    With --transparent COMMAND can call https://svc-abc-uc.a.run.app as it is: HTTPS_PROXY leads to the sidecar.
    SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, NODE_EXTRA_CA_CERTS, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH and, where
    Java is found, JAVA_TOOL_OPTIONS make it trust a CA that is valid for the hosts of the routes only. Every route is
    intercepted unless it says `intercept: false`. COMMAND gets 501 for other https hosts: name those that it may
    reach directly in NO_PROXY.
    """
    _beside(given, command, named, http_proxy=http_proxy, transparent=transparent, wait=wait)


def _beside(
    given: Given,
    command: tuple[str, ...],
    named: tuple[str, ...],
    *,
    http_proxy: bool,
    transparent: bool,
    wait: bool,
) -> None:
    from sidecar.runtime.hardening import Process

    process = Process()
    loaded = given.load()
    from sidecar.cli.exec_command import Child, beside_a_command
    from sidecar.cli.run import leave, serve
    from sidecar.cli.transparent import intercepting

    with TemporaryDirectory(prefix="idtoken-sidecar-") if transparent else nullcontext() as directory:
        child = Child(
            command,
            os.environ,
            process=process,
            http_proxy=http_proxy,
            wait=wait,
            named=named,
            transparent=directory,
        )
        config = beside_a_command(loaded.config)
        if directory is not None:
            config = intercepting(config, directory)
        code = serve(config, loaded.warnings, os.environ, child, process=process)
    leave(code)
