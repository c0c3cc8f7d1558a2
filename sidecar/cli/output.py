"""What the commands say: text made fit for a terminal, and the ends that a mistake has."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NoReturn

import click

from sidecar.grammar.terminal import printable

EXIT_CODES: Final = (
    "\b\nExit codes: 0 done, told to stop · 1 not ready, not verified · 2 configuration · 3 an address can't be used"
    " · 4 no token for a required route"
)
"""The last line of most commands' help; `commands` has the whole table."""

_LINES: Final = 500
"""Lines of one text: of a configuration's mistakes, for the most part."""


def say(text: str, *, err: bool = False) -> None:
    """Print text that may hold words from outside: nothing in a line of it drives the terminal, or fills it."""
    click.echo("\n".join(printable(line) for line in text.split("\n")[:_LINES]), err=err)


def one_line(text: str) -> str:
    """Text from outside, made fit to be part of a sentence."""
    return printable(text, limit=1000)


def give_up(message: str) -> NoReturn:
    """End with exit code 2: the configuration, or the command line, can't be used."""
    say(message, err=True)
    sys.exit(2)


def fail(message: str) -> NoReturn:
    """End with exit code 1: what was asked for did not work."""
    say(message, err=True)
    sys.exit(1)


@contextmanager
def patience(text: str) -> Iterator[None]:
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


def columns() -> int:
    """The width of the terminal."""
    return shutil.get_terminal_size((100, 24)).columns
