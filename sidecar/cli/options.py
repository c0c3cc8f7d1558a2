"""The options that several commands share, each defined once.

`configured` gives a command the configuration's options, `with_admin` those for the address of a running sidecar's
admin server. The command gets their result as its first argument, not the options themselves. A flag names the
configuration, or else an environment variable; its mistakes end the command with exit code 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, NamedTuple

import click

from sidecar.cli.near_misses import SettingOption
from sidecar.cli.output import give_up
from sidecar.config.addresses import ListenAddress
from sidecar.config.checks import nearest
from sidecar.config.load import CONFIG_VARIABLE, PREFIX, SETTINGS, ConfigError, Loaded, load
from sidecar.config.only_route import OnlyRoute
from sidecar.config.tree import MAX_SIZE
from sidecar.grammar.contents import kind_of, place, quoted
from sidecar.runtime.regular_files import STANDARD_INPUT, as_text, read, read_standard_input

_ADMIN_VARIABLE: Final = f"{PREFIX}ADMIN"


class Given(NamedTuple):
    """What the command line and the environment say about the configuration."""

    file: str | None
    """`-` for standard input; None: there is no file."""
    to: Sequence[str]
    """The upstreams of `--to`."""
    flags: Mapping[str, str]
    """By setting."""

    def load(self, only: OnlyRoute | None = None) -> Loaded:
        """The configuration. Ends the process with one line for each mistake. `only` replaces its routes."""
        try:
            return self.read(only)
        except OSError as error:
            give_up(str(error))
        except ConfigError as error:
            by_key = any(problem.is_of_key for problem in error.problems)
            hint = (
                "\n`idtoken-sidecar config schema` prints every key with its description." if by_key else ""
            )
            give_up(f"{error}{hint}")

    def read(self, only: OnlyRoute | None = None) -> Loaded:
        """The configuration. Raises ConfigError, or OSError with a sentence."""
        text = self.text() if self.file else None
        shown = _shown(self.file) if self.file else "(no file)"
        return load(text, file=shown, environ=os.environ, flags=self.flags, to=self.to, only=only)

    def text(self) -> str:
        """The file's text. Raises OSError with a sentence that quotes no contents."""
        if self.file is None:
            return ""
        if (kind := kind_of(self.file)) is not None:
            raise OSError(
                f"--config or {CONFIG_VARIABLE}: contents, not a path ({kind}): name the file that holds them"
            )
        limit = 4 * MAX_SIZE  # bytes, of which UTF-8 has four for a character at most
        try:
            from_input = self.file in STANDARD_INPUT
            return as_text(read_standard_input(limit) if from_input else read(self.file, limit).data)
        except (OSError, UnicodeDecodeError) as error:
            what = getattr(error, "strerror", None) or "it is not text in UTF-8 or UTF-16"
            raise OSError(f"{_shown(self.file)}: {what}") from None


def _shown(file: str) -> str:
    return "(standard input)" if file in STANDARD_INPUT else place(file)


def _file_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("-c", "--config", "file", metavar="FILE", help=text)


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the file, `--to` and an option for each setting. It is called with a `Given`."""

    @wraps(command)
    def called(*, file: str | None, to: tuple[str, ...], **others: Any) -> None:
        flags = {
            setting.name: value
            for setting in SETTINGS
            if (value := others.pop(f"set_{setting.name}")) is not None
        }
        command(Given(file or os.environ.get(CONFIG_VARIABLE), to, flags), **others)

    function: Callable[..., None] = called
    for setting in reversed(SETTINGS):
        function = click.option(
            setting.flag,
            f"set_{setting.name}",
            cls=SettingOption,
            metavar="YAML",
            help=f"{setting.description} [{setting.variable}]",
        )(function)
    function = click.option(
        "--to",
        multiple=True,
        metavar="[NAME=]URL",
        help="Add a route to this upstream; repeatable, needs no file.",
    )(function)
    return _file_option(f"The configuration, YAML; `-` for standard input. [{CONFIG_VARIABLE}]")(function)


def with_admin(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--admin` and `--config`. It is called with the address of the admin server."""

    @wraps(command)
    def called(*, admin: str | None, file: str | None, **others: Any) -> None:
        command(_admin_address(admin, file), **others)

    return click.option(
        "--admin",
        metavar="ADDRESS",
        help=f"The admin server: `localhost:9787`, `unix:/path`. [{_ADMIN_VARIABLE}]",
    )(_file_option("Take the address from this configuration.")(called))


def _admin_address(admin: str | None, file: str | None) -> ListenAddress:
    from sidecar.config.addresses import parse_listens
    from sidecar.config.models import Config

    file = file or os.environ.get(CONFIG_VARIABLE)
    text = admin or os.environ.get(_ADMIN_VARIABLE)
    if text is None and file:
        return Given(file, (), {}).load().config.admin[0]
    try:
        return parse_listens(_read_as_setting(text))[0] if text else Config.model_construct().admin[0]
    except (ValueError, IndexError) as error:
        give_up(f"{'--admin' if admin else _ADMIN_VARIABLE}: {error}")


def _read_as_setting(text: str) -> Any:
    """The value of a flag or variable as `run` reads it: YAML, so that lists work. A text that is not YAML is an
    address.
    """
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return found if isinstance(found, list) else text


def complete_route(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The names of the routes that begin with this text; none, and no message, if the configuration can't be read."""
    file, to = context.params.get("file"), context.params.get("to")
    try:
        routes = Given(file or os.environ.get(CONFIG_VARIABLE), to or (), {}).read().config.routes
    except (OSError, ConfigError):
        return []
    return [route.name for route in routes if route.name.startswith(begun)]


def check_route_names(loaded: Loaded, names: Sequence[str]) -> None:
    """End the process with exit code 2 if a name is not a route's."""
    known = [route.name for route in loaded.config.routes]
    for name in names:
        if name not in known:
            give_up(f"no route is called {quoted(name)}{nearest(name, known)} (there are {', '.join(known)})")
