"""The command line.

Owns the list of commands, their order, and the help above them; each section's commands are in a module of `sections`,
which is imported when one of them is asked for. To add a command: write it there, and add its line here. Exit codes:

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

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from sidecar.cli.near_misses import Group
from sidecar.cli.output import EXIT_CODES
from sidecar.grammar.contents import kind_of
from sidecar.runtime import built

_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

_SECTIONS: Final = {
    "Run it": (
        ("run", "cli.sections.run:run", "Run the sidecar until SIGTERM or Ctrl-C."),
        ("exec", "cli.sections.run:exec_", "Run a command with a sidecar beside it."),
        ("mcp", "cli.sections.mcp:mcp", "Connect an MCP client to a server that needs tokens."),
    ),
    "Find out what is wrong": (
        ("check", "cli.sections.diagnose:check_", "Test each route: get a token, ask its target."),
        ("explain", "cli.sections.diagnose:explain", "Test a request. Sends nothing."),
        ("token", "cli.sections.diagnose:token", "Print a route's token, or its claims."),
        ("help", "cli.sections.explanations:help_", "Say what a reason means, and what to do."),
        ("config", "cli.sections.diagnose:config", "Validate or show a configuration, print its schema."),
    ),
    "Control a running sidecar": (
        ("urls", "cli.sections.control:urls", "Print the URL of each route."),
        ("wait", "cli.sections.control:wait", "Wait until it is ready."),
        ("healthcheck", "cli.sections.control:healthcheck", "Exit with 0 if it is ready."),
        ("renew", "cli.sections.control:renew", "Make it fetch tokens now."),
        ("reload", "cli.sections.control:reload_", "Make it read its configuration again."),
        ("quit", "cli.sections.control:quit_", "Stop it after its current requests."),
    ),
    "Deploy it": (
        ("manifest", "cli.sections.deploy:manifest", "Print what a platform needs, and the grants."),
        ("completion", "cli.sections.deploy:completion", "Print a shell's completion script."),
    ),
    "Try it without Google Cloud": (
        ("demo", "cli.sections.offline:demo", "Show every feature on this machine."),
        ("emulator", "emulator.commands:emulator", "Emulate Google on this machine."),
    ),
}
"""The sections of `--help`: for each command its name, its module, and its line."""


@contextmanager
def _quoting_no_contents() -> Iterator[None]:
    """Replace an error of click's that quotes a secret's contents from the command line."""
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
    """What kind of secret the beginning of a word that a message quotes is, if it is one."""
    for word in words:
        for part in (word, word.lstrip("-"), word.partition("=")[2]):
            kind = kind_of(part)
            if kind is not None and any(begun in message for begun in (part[:8], repr(part)[1:9])):
                return kind
    return None


class _Commands(Group):
    """The commands of `_SECTIONS`. Each is imported only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which users need them."""
        return [name for section in _SECTIONS.values() for name, _, _ in section]

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """See `click.Command.make_context`; an error quotes no contents."""
        with _quoting_no_contents():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Command.invoke`; an error quotes no contents."""
        with _quoting_no_contents():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Grouped by purpose."""
        for title, section in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, says) for name, _, says in section])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group.get_command`."""
        for section in _SECTIONS.values():
            for name, where, _ in section:
                if name == cmd_name:
                    module, _, attribute = where.partition(":")
                    command: click.Command = getattr(import_module(f"sidecar.{module}"), attribute)
                    return command
        return None


@click.group(cls=_Commands, context_settings=_CONTEXT, epilog=EXIT_CODES)
@click.version_option(
    package_name="idtoken-sidecar",
    prog_name="idtoken-sidecar",
    message=f"%(prog)s, version %(version)s ({built.kind()})",
)
@click.pass_context
def main(context: click.Context) -> None:
    """Your app calls localhost; the right Google service answers.

    \b
    idtoken-sidecar run --to https://billing-abc123-uc.a.run.app
    curl http://localhost:8787/invoices

    An outbound authenticating reverse proxy: it sets a Google-signed ID token on what it forwards.

    \b
    something is wrong?   idtoken-sidecar check --online --config config.yaml
    test a request:       idtoken-sidecar explain http://billing.localhost:8787/x --config config.yaml
    see what it does:     http://localhost:9787/
    """
    if os.environ.get("NO_COLOR"):
        context.color = False
