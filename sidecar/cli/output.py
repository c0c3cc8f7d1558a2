"""What the commands print: text made safe for a terminal, and the exits after a mistake."""

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
"""The last line of most commands' help. `commands` has the whole table."""

_LINES: Final = 500
"""Most lines of one text, usually of a configuration's mistakes."""


def say(text: str, *, err: bool = False) -> None:
    """Print text that may contain outside words, without anything that drives or floods the terminal."""
    click.echo("\n".join(printable(line) for line in text.split("\n")[:_LINES]), err=err)


def one_line(text: str) -> str:
    """Text from outside, made safe as part of a sentence."""
    return printable(text, limit=1000)


def give_up(message: str) -> NoReturn:
    """End with exit code 2: the configuration, or the command line, can't be used."""
    say(message, err=True)
    sys.exit(2)


def fail(message: str) -> NoReturn:
    """End with exit code 1: it did not work."""
    say(message, err=True)
    sys.exit(1)


@contextmanager
def patience(text: str) -> Iterator[None]:
    """On a terminal, say what the command waits for, once that takes more than a second."""
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
