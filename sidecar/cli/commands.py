"""The command line.

Owns the commands, their options and how a configuration is found: flag, then environment variable, then
file. Reads files and calls what is below; decides nothing: it is long because options and help are. Exit codes:

    0    done, or told to stop
    1    not ready, not healthy, a demo call that was not verified
    2    the configuration, or the command line, can't be used
    3    an address to listen on is in use
    4    a route that is `required` got no token within `startup_wait`
    126  `exec`: the command can't be run
    127  `exec`: the command was not found
    128+ ended by a signal: a second one while shutting down, or the command's
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from sidecar.config.checks import nearest
from sidecar.config.load import CONFIG_VARIABLE, PREFIX, SETTINGS, ConfigError, Loaded, load
from sidecar.config.tree import MAX_SIZE
from sidecar.grammar.contents import kind_of, place, quoted
from sidecar.grammar.terminal import printable
from sidecar.runtime.regular_files import STANDARD_INPUT, as_text, read, read_standard_input

F = TypeVar("F", bound=Callable[..., Any])

_EXIT_CODES = (
    "\b\nExit codes: 0 done, told to stop · 1 not ready, not verified · 2 configuration · 3 an address can't be used"
    " · 4 no token for a required route"
)
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _configured(function: F) -> F:
    """Options that every command with a configuration has: the file, `--to`, and one for each setting."""
    for setting in reversed(SETTINGS):
        function = click.option(
            setting.flag,
            f"set_{setting.name}",
            metavar="YAML",
            help=f"{setting.description} [{setting.variable}]",
        )(function)
    function = click.option(
        "--to",
        multiple=True,
        metavar="[NAME=]URL",
        help="Add a route to this upstream; repeatable, needs no file.",
    )(function)
    return click.option(
        "-c",
        "--config",
        "file",
        metavar="FILE",
        help=f"The configuration, YAML; `-` for standard input. [{CONFIG_VARIABLE}]",
    )(function)


def _load(file: str | None, to: Sequence[str], settings: dict[str, str | None]) -> Loaded:
    """The configuration, or an end with every problem on a line of its own."""
    try:
        return _read(file or os.environ.get(CONFIG_VARIABLE), to, settings)
    except OSError as error:
        _give_up(str(error))
    except ConfigError as error:
        hint = "Every key is in config.example.yaml; `idtoken-sidecar config schema` prints their schema."
        _give_up(f"{error}\n{hint}")


def _read(file: str | None, to: Sequence[str], settings: dict[str, str | None]) -> Loaded:
    """The configuration; raises ConfigError, and OSError with a sentence."""
    flags = {name.removeprefix("set_"): value for name, value in settings.items() if value is not None}
    text = _text_of(file) if file else None
    return load(text, file=_shown(file) if file else "(no file)", environ=os.environ, flags=flags, to=to)


def _text_of(file: str) -> str:
    """The configuration's text; raises OSError with a sentence, which quotes no contents."""
    if (kind := kind_of(file)) is not None:
        raise OSError(
            f"--config or {CONFIG_VARIABLE}: contents, not a path ({kind}): name the file that holds them"
        )
    limit = 4 * MAX_SIZE  # bytes, of which UTF-8 has four for a character at most
    try:
        data = read_standard_input(limit) if file in STANDARD_INPUT else read(file, limit).data
        return as_text(data)
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is not text in UTF-8 or UTF-16"
        raise OSError(f"{_shown(file)}: {what}") from None


def _shown(file: str) -> str:
    return "(standard input)" if file in STANDARD_INPUT else place(file)


def _give_up(message: str) -> NoReturn:
    _say(message, err=True)
    sys.exit(2)


def _say(text: str, *, err: bool = False) -> None:
    """Print text that may hold words from outside: nothing in a line of it drives the terminal, or fills it."""
    click.echo("\n".join(printable(line) for line in text.split("\n")[:_LINES]), err=err)


def _one_line(text: str) -> str:
    """The same as part of a sentence."""
    return printable(text, limit=1000)


_LINES = 500
"""Lines of one text: of a configuration's mistakes, for the most part."""


_SECTIONS = (
    ("Run it", ("run", "exec")),
    ("Find out what is wrong", ("check", "explain", "token", "config")),
    ("Talk to one that runs", ("wait", "healthcheck", "renew", "reload", "quit")),
    ("Deploy it", ("manifest", "completion")),
    ("Try it without Google Cloud", ("demo", "emulator")),
)
_SHORT = {
    "run": "Run the sidecar until SIGTERM or Ctrl-C.",
    "exec": "Run a command with a sidecar beside it.",
    "check": "Will each route work? Get a token, ask its target.",
    "explain": "What would become of a request? Asks nobody.",
    "token": "Print a route's token, or its claims.",
    "config": "Validate or show a configuration, print its schema.",
    "wait": "Wait until it is ready.",
    "healthcheck": "Exit with 0 if it is ready.",
    "renew": "Have it fetch tokens now.",
    "reload": "Have it read its configuration again.",
    "quit": "Have it finish what is in flight and end.",
    "manifest": "Print what a platform needs, and the grants.",
    "completion": "Print a shell's completion script.",
    "demo": "Show the whole job on this machine.",
    "emulator": "Be Google on this machine.",
}


@contextmanager
def _quoting_no_contents() -> Iterator[None]:
    """Replace an error of click's own that quotes a secret's contents from the command line."""
    try:
        yield
    except click.UsageError as error:
        kind = _quoted_contents(error.message, sys.argv[1:])
        if kind is None:
            raise
        shown = click.UsageError(
            f"A word of the command line is contents ({kind}), and not what belongs there.", error.ctx
        )
    else:
        return
    # Not raised in there: it would chain the one that quotes.
    raise shown


def _quoted_contents(message: str, words: Sequence[str]) -> str | None:
    """What the word is that a message quotes the beginning of, where that is contents."""
    for word in words:
        for part in (word, word.lstrip("-"), word.partition("=")[2]):
            kind = kind_of(part)
            if kind is not None and any(begun in message for begun in (part[:8], repr(part)[1:9])):
                return kind
    return None


class _Commands(click.Group):
    """The commands; `emulator` is imported only where it is asked for: it brings a web server and cryptography."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are met."""
        return [name for _, group in _SECTIONS for name in group]

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """See `click.Command.make_context`; an error quotes no contents."""
        with _quoting_no_contents():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Command.invoke`; an error quotes no contents."""
        with _quoting_no_contents():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Grouped by what they are for."""
        for title, group in _SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(name, _SHORT[name]) for name in group])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group.get_command`."""
        if cmd_name != "emulator":
            return super().get_command(ctx, cmd_name)
        from sidecar.emulator.commands import emulator

        return emulator


@click.group(cls=_Commands, context_settings=_CONTEXT, epilog=_EXIT_CODES)
@click.version_option(package_name="idtoken-sidecar", prog_name="idtoken-sidecar")
@click.pass_context
def main(context: click.Context) -> None:
    """Your app calls localhost; the right Google service answers.

    \b
    idtoken-sidecar run --to https://billing-abc123-uc.a.run.app
    curl http://localhost:8787/invoices

    An outbound authenticating reverse proxy: it sets a Google-signed ID token on what it forwards.

    \b
    something is wrong?   idtoken-sidecar check --online --config config.yaml
    what would happen?    idtoken-sidecar explain http://billing.localhost:8787/x --config config.yaml
    what does it do now?  http://localhost:9787/
    """
    if os.environ.get("NO_COLOR"):
        context.color = False


@main.command(epilog=_EXIT_CODES)
@_configured
def run(file: str | None, to: tuple[str, ...], **settings: str | None) -> None:
    """Run the sidecar until SIGTERM or Ctrl-C.

    \b
    idtoken-sidecar run --config config.yaml
    idtoken-sidecar run --to https://svc-abc-uc.a.run.app --to reports=https://reports.example.com

    A setting's flag wins over its environment variable, and that over the file. Values are YAML:
    --listen '[localhost:8787, unix:/run/proxy.sock]', --drain '{max: 20s}'.
    """
    from sidecar.runtime.hardening import Process

    process = Process()
    from sidecar.runtime.file_watch import stamp

    file = file or os.environ.get(CONFIG_VARIABLE)
    watched = None if file in STANDARD_INPUT else file
    seen = stamp(watched) if watched else None
    loaded = _load(file, to, settings)
    from sidecar.cli.run import leave, serve
    from sidecar.service.reload import ConfigSource

    source = ConfigSource(partial(_read, file, to, settings), watched, seen)
    leave(serve(loaded.config, loaded.warnings, os.environ, process=process, source=source))


@main.command(
    "exec",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog=_EXIT_CODES + " · 126, 127 the command can't be run, was not found · else the command's own",
)
@click.option("--http-proxy", is_flag=True, help="Set HTTP_PROXY too, and a NO_PROXY that spares loopback.")
@click.option(
    "--wait/--no-wait", default=True, help="Wait until the sidecar is ready (at most startup_wait)."
)
@click.option(
    "--pass-env",
    "named",
    metavar="NAME",
    multiple=True,
    help="Let COMMAND see this variable, though the sidecar's secrets come from it; may be repeated.",
)
@_configured
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    http_proxy: bool,
    wait: bool,
    named: tuple[str, ...],
    command: tuple[str, ...],
    file: str | None,
    to: tuple[str, ...],
    **settings: str | None,
) -> None:
    """Run COMMAND with a sidecar beside it; ends with its exit code.

    \b
    idtoken-sidecar exec --config config.yaml -- python app.py
    idtoken-sidecar exec --to billing=https://svc-abc-uc.a.run.app -- sh -c 'curl $IDTOKEN_SIDECAR_URL_BILLING'

    COMMAND finds IDTOKEN_SIDECAR_URL, and for each route IDTOKEN_SIDECAR_URL_NAME (upper case, `-` as `_`) with a
    port of its own. Signals are passed on to it; orphans are reaped, so this may be a container's first process.
    Logs go to stderr: stdout is the command's.

    COMMAND sees the environment, but not the sidecar's settings (IDTOKEN_SIDECAR_*), nor the variables that secrets of
    the configuration come from by ${NAME}: name those that it needs with --pass-env.
    """
    from sidecar.runtime.hardening import Process

    process = Process()
    loaded = _load(file, to, settings)
    from sidecar.cli.child import Child, with_own_listeners
    from sidecar.cli.run import leave, serve

    child = Child(command, os.environ, process=process, http_proxy=http_proxy, wait=wait, named=named)
    leave(serve(with_own_listeners(loaded.config), loaded.warnings, os.environ, child, process=process))


def _complete_route(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The names of the routes, as far as the configuration can be read without a word about it."""
    try:
        loaded = _read(
            context.params.get("file") or os.environ.get(CONFIG_VARIABLE), context.params.get("to") or (), {}
        )
    except (OSError, ConfigError):
        return []
    return [route.name for route in loaded.config.routes if route.name.startswith(begun)]


@main.command("check", epilog="\b\nExit codes: 0 every route will work · 1 one will not · 2 configuration")
@click.argument("routes", nargs=-1, shell_complete=_complete_route)
@click.option("--online", is_flag=True, help="Send a request to each target too: HEAD, then GET if need be.")
@click.option("--path", default="/", show_default=True, help="What to ask the targets for, with --online.")
@click.option("--host", metavar="HOST", help="The host to stand for, where a route follows the request's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_configured
def check_(
    routes: tuple[str, ...],
    online: bool,
    path: str,
    host: str | None,
    as_json: bool,
    file: str | None,
    to: tuple[str, ...],
    **settings: str | None,
) -> None:
    """Get a token for each route (or ROUTES) and say whether its target will take it.

    \b
    idtoken-sidecar check --config config.yaml
    idtoken-sidecar check --config config.yaml --online billing --path /healthz

    Looks at the credential, the token and its claims, and the clock; what fails is shown with the command that
    mends it. No token is printed.
    """
    from sidecar.runtime.hardening import Process

    Process()  # no dumps: it will hold keys and tokens
    loaded = _load(file, to, settings)
    _known_routes(loaded, routes)
    if not path.startswith("/") or not path.isprintable() or " " in path or not path.isascii():
        _give_up(f"--path: {quoted(path)} is not a path such as /healthz")
    from sidecar.cli.check import check
    from sidecar.cli.run import alone, leave

    with _patience(f"asking for the tokens of {len(routes or loaded.config.routes)} route(s) …"):
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


_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "cyan"}


def _print_report(report: dict[str, Any]) -> None:
    width = max(40, min(_columns(), 140)) - 27
    click.echo(click.style(report["route"], bold=True))
    for step in report["steps"]:
        reason = f"{step['reason']}: " if step["reason"] else ""
        text = textwrap.wrap(
            printable(f"{reason}{step['says']}"), width, break_long_words=False, break_on_hyphens=False
        )
        verdict = click.style(f"{step['verdict']:<9}", fg=_COLOURS[step["verdict"]])
        click.echo(f"  {step['name']:<12}{verdict}  " + f"\n{'':<25}".join(text))
        if step["command"]:
            click.echo(f"{'':<25}" + click.style(f"$ {printable(step['command'])}", bold=True))


@main.command(epilog=_EXIT_CODES)
@click.argument("route", shell_complete=_complete_route)
@click.option("--claims", is_flag=True, help="Print the token's claims and not the token.")
@click.option("--host", metavar="HOST", help="The host to stand for, where the route follows the request's.")
@_configured
def token(
    route: str, claims: bool, host: str | None, file: str | None, to: tuple[str, ...], **settings: str | None
) -> None:
    """Print a token of ROUTE, for use by hand.

    \b
    curl -H "Authorization: Bearer $(idtoken-sidecar token billing --config config.yaml)" https://…
    idtoken-sidecar token billing --config config.yaml --claims

    Whoever has it can call the target as you until it expires.
    """
    from sidecar.runtime.hardening import Process

    Process()  # no dumps: it will hold keys and tokens
    loaded = _load(file, to, settings)
    _known_routes(loaded, (route,))
    from sidecar.cli.check import mint
    from sidecar.cli.run import alone, leave
    from sidecar.errors import SidecarError
    from sidecar.tokens.token import read_claims

    try:
        with _patience(f"asking for a token of `{route}` …"):
            minted = alone(mint(loaded.config, os.environ, route, host))
    except SidecarError as error:
        _say(f"{route}: {error}", err=True)
        if error.command:
            _say(f"$ {error.command}", err=True)
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


@main.command(epilog="\b\nExit codes: 0 a route takes it · 1 it would be refused · 2 configuration")
@click.argument("url")
@click.option("-X", "method", default="GET", metavar="METHOD", help="The request's method. Default: GET.")
@click.option("-H", "headers", multiple=True, metavar="LINE", help="A header line that the app would send.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_configured
def explain(
    url: str,
    method: str,
    headers: tuple[str, ...],
    as_json: bool,
    file: str | None,
    to: tuple[str, ...],
    **settings: str | None,
) -> None:
    """Say which route would take a request for URL, by which way in, and which header it would get; asks nobody.

    \b
    idtoken-sidecar explain --config config.yaml http://billing.localhost:8787/invoices
    idtoken-sidecar explain -c config.yaml http://localhost:8787/x -H 'Host: billing.internal' -H 'Authorization: x'
    """
    loaded = _load(file, to, settings)
    from sidecar.proxy.admission.explain import explain as explained

    try:
        found = explained(loaded.config, url, headers, method)
    except ValueError as error:
        _give_up(str(error))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            if name != "taken":
                _say(f"{name:<12}{', '.join(value) if isinstance(value, list) else value}")
    sys.exit(0 if found["taken"] else 1)


@contextmanager
def _patience(text: str) -> Iterator[None]:
    """Say on a terminal what is being waited for, once that takes over a second."""
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(1.0, partial(click.echo, text, err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _columns() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _known_routes(loaded: Loaded, names: Sequence[str]) -> None:
    known = [route.name for route in loaded.config.routes]
    for name in names:
        if name not in known:
            _give_up(
                f"no route is called {quoted(name)}{nearest(name, known)} (there are {', '.join(known)})"
            )


@main.group()
def config() -> None:
    """Check a configuration, show it, print its schema."""


@config.command(epilog=_EXIT_CODES)
@_configured
def validate(file: str | None, to: tuple[str, ...], **settings: str | None) -> None:
    """Check a configuration: every problem at once, with file, line and column.

    \b
    idtoken-sidecar config validate --config config.yaml
    """
    loaded = _load(file, to, settings)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    names = ", ".join(route.name for route in loaded.config.routes)
    click.echo(f"valid: {len(loaded.config.routes)} route(s): {names}")


@config.command()
def schema() -> None:
    """Print the configuration's JSON Schema, for editors."""
    from sidecar.config.document import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@config.command(epilog=_EXIT_CODES)
@_configured
def show(file: str | None, to: tuple[str, ...], **settings: str | None) -> None:
    """Print the configuration as it is used: resolved, with all defaults; secrets are hidden."""
    from sidecar.config.document import shown

    click.echo(shown(_load(file, to, settings).config), nl=False)


@main.group()
def manifest() -> None:
    """Print what a platform needs to run the sidecar, from your own configuration.

    \b
    idtoken-sidecar manifest cloud-run --config config.yaml > service.yaml
    idtoken-sidecar manifest iam --config config.yaml --member serviceAccount:app@p.iam.gserviceaccount.com | sh
    """


def _planned(function: F) -> F:
    """Options that every manifest has, beside the configuration's."""
    for name, default, text in (
        ("app-image", "", "The app's image."),
        ("image", "", "The sidecar's image."),
        ("name", "app", "Name of the service, deployment or job."),
    ):
        function = click.option(f"--{name}", metavar=name.upper(), default=default, help=text)(function)
    return _configured(function)


def _plan(
    file: str | None,
    to: Sequence[str],
    settings: dict[str, str | None],
    name: str,
    image: str,
    app_image: str,
) -> Any:
    from sidecar.config.document import given
    from sidecar.manifest.plan import Plan

    loaded = _load(file, to, settings)
    file = file or os.environ.get(CONFIG_VARIABLE)
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?", name) is None:
        _give_up(f"--name: {quoted(name)} is not a name of lower-case letters, digits and `-`")
    changed = to or any(value is not None for value in settings.values())
    text = given(loaded.config) if changed or not file else _text_of(file)
    images = {key: value for key, value in (("image", image), ("app_image", app_image)) if value}
    return Plan(loaded.config, text, name=name, **images)


def _print_manifest(write: Callable[[], str]) -> None:
    from sidecar.manifest.plan import ManifestError

    try:
        click.echo(write(), nl=False)
    except ManifestError as error:
        _give_up(str(error))


@manifest.command("cloud-run", epilog=_EXIT_CODES)
@click.option("--job", is_flag=True, help="A job instead of a service.")
@click.option("--metrics", is_flag=True, help="With the collector of Managed Service for Prometheus.")
@click.option("--run-monitoring", is_flag=True, help="Print what that collector reads.")
@_planned
def manifest_cloud_run(
    job: bool,
    metrics: bool,
    run_monitoring: bool,
    name: str,
    image: str,
    app_image: str,
    file: str | None,
    to: tuple[str, ...],
    **settings: str | None,
) -> None:
    """A Cloud Run service (or job) with the sidecar as its second container.

    \b
    idtoken-sidecar manifest cloud-run --config config.yaml > service.yaml
    gcloud run services replace service.yaml --region=europe-west1
    """
    plan = _plan(file, to, settings, name, image, app_image)
    from sidecar.manifest import cloud_run

    if run_monitoring:
        _print_manifest(lambda: cloud_run.run_monitoring(plan))
    elif job:
        _print_manifest(lambda: cloud_run.job(plan))
    else:
        _print_manifest(lambda: cloud_run.service(plan, metrics=metrics))


@manifest.command("gke", epilog=_EXIT_CODES)
@click.option("--job", is_flag=True, help="A Job instead of a Deployment.")
@click.option("--patch", is_flag=True, help="Only the patch for a workload that is there already.")
@click.option("--component", metavar="DIR", help="Write a kustomize component into this directory instead.")
@_planned
def manifest_gke(
    job: bool,
    patch: bool,
    component: str | None,
    name: str,
    image: str,
    app_image: str,
    file: str | None,
    to: tuple[str, ...],
    **settings: str | None,
) -> None:
    """A Deployment (or Job) with the sidecar as a native one, its ConfigMap, PodMonitoring and NetworkPolicy.

    \b
    idtoken-sidecar manifest gke --config config.yaml | kubectl apply -f -
    idtoken-sidecar manifest gke --config config.yaml --patch --name billing > sidecar.yaml
    kubectl patch deployment billing --patch-file=sidecar.yaml
    """
    plan = _plan(file, to, settings, name, image, app_image)
    from sidecar.manifest import kubernetes

    if component is not None:
        _write_files(component, kubernetes.component(plan))
    else:
        _print_manifest(lambda: kubernetes.pod_patch(plan) if patch else kubernetes.whole(plan, job=job))


def _write_files(directory: str, files: Mapping[str, str]) -> None:
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (Path(directory) / name).write_text(text, "utf-8")
            click.echo(str(Path(directory) / name))
    except OSError as error:
        _give_up(f"{place(directory)}: {error.strerror}")


@manifest.command("systemd", epilog=_EXIT_CODES)
@click.option("--socket", "sockets", is_flag=True, help="Print the socket unit instead of the service.")
@_planned
def manifest_systemd(
    sockets: bool,
    name: str,
    image: str,
    app_image: str,
    file: str | None,
    to: tuple[str, ...],
    **settings: str | None,
) -> None:
    """A hardened, socket-activated systemd service for a VM.

    \b
    idtoken-sidecar manifest systemd --config config.yaml > /etc/systemd/system/idtoken-sidecar.service
    idtoken-sidecar manifest systemd --config config.yaml --socket > /etc/systemd/system/idtoken-sidecar.socket
    """
    plan = _plan(file, to, settings, name, image, app_image)
    from sidecar.manifest import machine

    _print_manifest(lambda: machine.socket_unit(plan) if sockets else machine.service_unit(plan))


@manifest.command("compose", epilog=_EXIT_CODES)
@_planned
def manifest_compose(
    name: str, image: str, app_image: str, file: str | None, to: tuple[str, ...], **settings: str | None
) -> None:
    """A Compose file for a laptop: the app, the sidecar and a stand-in for Google.

    \b
    idtoken-sidecar manifest compose --config config.yaml > compose.yaml && docker compose up
    """
    plan = _plan(file, to, settings, name, image, app_image)
    from sidecar.manifest import machine

    _print_manifest(lambda: machine.compose(plan))


@manifest.command("iam", epilog=_EXIT_CODES)
@click.option(
    "--member",
    default="serviceAccount:APP@PROJECT.iam.gserviceaccount.com",
    show_default=True,
    help="Who the sidecar runs as: the principal that `adc` and `metadata` stand for.",
)
@click.option("--terraform", is_flag=True, help="Terraform resources instead of gcloud lines.")
@_configured
def manifest_iam(
    member: str, terraform: bool, file: str | None, to: tuple[str, ...], **settings: str | None
) -> None:
    """What must be granted for the routes to work, and nothing more.

    \b
    idtoken-sidecar manifest iam --config config.yaml --member serviceAccount:app@p.iam.gserviceaccount.com
    """
    loaded = _load(file, to, settings)
    if (
        re.fullmatch(r"(serviceAccount|user|group|domain):[^\s'\"\\]+|principal(Set)?://[^\s'\"\\]+", member)
        is None
    ):
        _give_up(
            f"--member: {quoted(member)} is not a principal such as serviceAccount:app@p.iam.gserviceaccount.com"
        )
    from sidecar.manifest import grants

    write = grants.as_terraform if terraform else grants.as_gcloud
    click.echo(write(loaded.config, member), nl=False)


def _admin(function: F) -> F:
    return click.option(
        "--admin",
        metavar="ADDRESS",
        help="The admin server: `localhost:9787`, `unix:/path`. [IDTOKEN_SIDECAR_ADMIN]",
    )(
        click.option(
            "-c", "--config", "file", metavar="FILE", help="Take the address from this configuration."
        )(function)
    )


_ADMIN_VARIABLE = f"{PREFIX}ADMIN"


def _admin_address(admin: str | None, file: str | None) -> Any:
    from sidecar.config.addresses import parse_listens
    from sidecar.config.models import Config

    file = file or os.environ.get(CONFIG_VARIABLE)
    text = admin or os.environ.get(_ADMIN_VARIABLE)
    if text is None and file:
        return _load(file, (), {}).config.admin[0]
    try:
        return parse_listens(_read_as_setting(text))[0] if text else Config().admin[0]
    except (ValueError, IndexError) as error:
        _give_up(f"{'--admin' if admin else _ADMIN_VARIABLE}: {error}")


def _read_as_setting(text: str) -> Any:
    """A flag's or variable's value as `run` reads it: YAML, so that a list is one. What is no YAML is an address."""
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return found if isinstance(found, list) else text


@main.command(epilog=_EXIT_CODES)
@_admin
@click.option(
    "--timeout", metavar="DURATION", default="60s", show_default=True, help="Give up after this long."
)
def wait(admin: str | None, file: str | None, timeout: str) -> None:
    """Wait until a sidecar is ready.

    \b
    idtoken-sidecar wait --timeout 30s && ./app
    """
    from sidecar.cli.probe import wait_until_ready
    from sidecar.config.quantities import parse_duration

    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        _give_up(f"--timeout: {error}")
    address = _admin_address(admin, file)
    if (
        why := wait_until_ready(address, seconds, lambda why: _say(f"waiting: {_one_line(why)}", err=True))
    ) is not None:
        _say(f"not ready after {timeout}: {_one_line(why)}", err=True)
        sys.exit(1)
    click.echo("ready")


@main.command(epilog=_EXIT_CODES)
@_admin
@click.option("--live", is_flag=True, help="Ask whether it lives, not whether it is ready.")
def healthcheck(admin: str | None, file: str | None, live: bool) -> None:
    """Exit with 0 if the sidecar is ready, else with 1: for HEALTHCHECK and exec probes.

    It says which tokens are missing, too. That does not change the exit code: to restart a sidecar mends no token.
    """
    import http.client

    from sidecar.cli.probe import ask, readiness

    address = _admin_address(admin, file)
    shortfall = ""
    if live:
        try:
            why = None if ask(address, "GET", "/healthz/live").status == 200 else "it is not alive"
        except (OSError, http.client.HTTPException) as error:
            why = f"nothing answers at {address} ({error})"
    else:
        why, shortfall = readiness(address)
    if why is not None:
        _say(_one_line(why), err=True)
        sys.exit(1)
    _say(f"ready; {_one_line(shortfall)}" if shortfall else "ok")


@main.command("renew", epilog=_EXIT_CODES)
@_admin
@click.argument("route", required=False, shell_complete=_complete_route)
def renew(admin: str | None, file: str | None, route: str | None) -> None:
    """Have a sidecar fetch the tokens of a route now, or of all routes, and say what came of it.

    \b
    idtoken-sidecar renew billing

    For when the cause of failed fetches is mended: otherwise the sidecar tries again by itself. The tokens that it has
    are used until others are there. The same can be asked for every five seconds.
    """
    import http.client
    from urllib.parse import urlencode

    from sidecar.cli.probe import ask

    address = _admin_address(admin, file)
    query = f"?{urlencode({'route': route})}" if route is not None else ""
    try:
        reply = ask(address, "POST", f"/renew{query}", timeout=60.0)
    except (OSError, http.client.HTTPException) as error:
        _say(f"nothing answers at {address} ({_one_line(str(error))})", err=True)
        sys.exit(1)
    tokens, detail = reply.document.get("tokens"), reply.document.get("detail")
    if not isinstance(tokens, list):
        known = isinstance(detail, str)
        said = detail if known else f"what answers at {address} ({reply.status}) is no sidecar's admin server"
        _say(_one_line(str(said)), err=True)
        sys.exit(1)
    for token in tokens:
        if isinstance(token, dict):
            failed = token.get("result") != "ok"
            what = f"{token.get('reason')}: {token.get('detail')}" if failed else "renewed"
            _say(_one_line(f"{token.get('route')}: {token.get('audience')}: {what}"), err=failed)
    if not tokens:
        _say("no token is in use there")
    if reply.status != 200:
        sys.exit(1)


@main.command("quit", epilog=_EXIT_CODES)
@_admin
def quit_(admin: str | None, file: str | None) -> None:
    """Tell a sidecar to finish what is in flight and end; for jobs whose work is done."""
    import http.client

    from sidecar.cli.probe import ask

    address = _admin_address(admin, file)
    try:
        reply = ask(address, "POST", "/quit")
    except (OSError, http.client.HTTPException) as error:
        _say(f"nothing answers at {address} ({_one_line(str(error))})", err=True)
        sys.exit(1)
    if reply.status >= 300:
        _say(f"refused ({reply.status}): {_one_line(reply.text.strip())}", err=True)
        sys.exit(1)
    click.echo("quitting")


@main.command("reload", epilog=_EXIT_CODES)
@_admin
def reload_(admin: str | None, file: str | None) -> None:
    """Tell a sidecar to read its configuration again, and say what came of it.

    \b
    idtoken-sidecar reload && echo "in force"

    It does so by itself when its file changes, and on SIGHUP. One that can't be used leaves the old one in force.
    """
    import http.client

    from sidecar.cli.probe import ask

    address = _admin_address(admin, file)
    try:
        reply = ask(address, "POST", "/reload", timeout=60.0)
    except (OSError, http.client.HTTPException) as error:
        _say(f"nothing answers at {address} ({_one_line(str(error))})", err=True)
        sys.exit(1)
    outcome = reply.document
    result, detail = outcome.get("result", ""), outcome.get("detail")
    if not isinstance(result, str) or not isinstance(detail, str):
        _say(f"what answers at {address} ({reply.status}) is no sidecar's admin server", err=True)
        sys.exit(1)
    if reply.status != 200:
        _say(f"not reloaded, the old configuration stays in force:\n{detail}", err=True)
        sys.exit(1)
    _say(result + (f": {detail}" if detail else ""))


@main.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell; it knows commands, options and the names of routes.

    \b
    idtoken-sidecar completion bash > /etc/bash_completion.d/idtoken-sidecar
    idtoken-sidecar completion zsh > "${fpath[1]}/_idtoken-sidecar"
    idtoken-sidecar completion fish > ~/.config/fish/completions/idtoken-sidecar.fish
    """
    click.echo(completion_script(shell), nl=False)


def completion_script(shell: str) -> str:
    """What a shell is to read, so that it asks this command for completions."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"no completion for `{shell}`")
    return kind(main, {}, "idtoken-sidecar", "_IDTOKEN_SIDECAR_COMPLETE").source().rstrip("\n") + "\n"


@main.command(epilog=_EXIT_CODES)
@click.option("--once", is_flag=True, help="Do it once and exit: 0 if every call was verified.")
def demo(once: bool) -> None:
    """Show the whole job on this machine, against an embedded stand-in for Google."""
    from sidecar.cli.demo import show_all

    sys.exit(show_all(once=once))
