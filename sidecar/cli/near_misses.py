"""Groups that suggest the right command for a mistyped one, and commands whose help shows their own options first.

Owns the words that people know from other programs. Used by all our groups of commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

import click

from sidecar.grammar.contents import quoted
from sidecar.grammar.terminal import printable

_MEANT: Final = {
    "version": "--version",
    "kubernetes": "manifest gke",
    "k8s": "manifest gke",
    "cloudrun": "manifest cloud-run",
    "docker": "manifest compose",
    "docker-compose": "manifest compose",
    "terraform": "manifest iam --terraform",
    "start": "run",
    "serve": "run",
    "stop": "quit",
    "health": "healthcheck",
    "doctor": "check",
    "test": "check",
    "routes": "urls",
    "status": "urls",
    "login": "check",
}
"""What to use instead of a word that is no command."""


class SettingOption(click.Option):
    """An option for a setting of the configuration, which many commands have. Help shows it after a command's own
    options.
    """


class Command(click.Command):
    """A command whose help shows its own options first, and the settings in a separate list."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`. Routes are arguments: `--route billing` is told so."""
        try:
            return super().parse_args(ctx, [*args])
        except click.NoSuchOption as error:
            if error.option_name != "--route" or not any(
                it.name in ("route", "routes") for it in self.params
            ):
                raise
            at = next(index for index, word in enumerate(args) if word.partition("=")[0] == "--route")
            name = args[at].partition("=")[2] or "".join(args[at + 1 : at + 2])
            meant = f"; did you mean `{ctx.command_path} {printable(name)}`?" if name else ""
            raise click.UsageError(
                f"there is no option --route: write the route's name by itself{meant}", ctx
            ) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command.format_options`."""
        own: list[tuple[str, str]] = []
        settings: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                (settings if isinstance(param, SettingOption) else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        if settings:
            with formatter.section("Settings, each a key of the file too"):
                formatter.write_dl(settings)


class Group(click.Group):
    """A group that suggests the intended command, at any level."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group.resolve_command`."""
        word = str(args[0])
        if not ctx.resilient_parsing and not word.startswith("-") and self.get_command(ctx, word) is None:
            raise click.UsageError(f"no command is called {quoted(word)}{self._suggestion(ctx, word)}", ctx)
        return super().resolve_command(ctx, args)

    def _suggestion(self, ctx: click.Context, word: str) -> str:
        root = ctx.find_root()
        here = ctx.command_path.removeprefix(root.command_path).strip()
        known = {path.rpartition(" ")[2]: path for path in _paths(root.command, root)}
        # What is near is meant before what is elsewhere.
        known |= {name: f"{here} {name}".strip() for name in self.list_commands(ctx)}
        meant = _MEANT.get(word.lower()) or known.get(word)
        if meant is None and (near := get_close_matches(word, known, n=1, cutoff=0.6)):
            meant = known[near[0]]
        return "" if meant is None else f"; did you mean `idtoken-sidecar {meant}`?"


def _paths(command: click.Command, ctx: click.Context, before: str = "") -> Iterator[str]:
    """The words after the program's name for each command under this one, the deepest first."""
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(ctx):
        inner = command.get_command(ctx, name)
        if inner is not None:
            yield from _paths(inner, ctx, f"{before}{name} ")
            yield f"{before}{name}"
