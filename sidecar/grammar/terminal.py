"""Makes text from outside safe for people and for a shell.

Owns how to show text from a target, a token endpoint, a file or another program, and how to make a shell command from
words. Called by code that logs, prints, or suggests a command. Pure. The rule: shown text can't drive a terminal,
start a line, turn the reading direction or grow too long; a shell reads a suggested command as exactly the words it
was made from.
"""

from __future__ import annotations

import shlex
from typing import Final

SHOWN: Final = 4000
"""Characters of one text; the longest sentence of ours has some 700."""
_COMMAND: Final = 1000
"""Characters of a command: an account, a role, an audience of 200."""


def printable(text: str, *, limit: int | None = SHOWN) -> str:
    """`text` with what is not printable spelled out (control characters, line ends, marks that turn the reading
    direction; a tab stays), and cut after `limit` characters (None: whole)."""
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in shown)
    if limit is not None and max(len(text), len(shown)) > limit:
        shown = shown[: limit - 1] + "…"
    return shown


def command(*words: str) -> str:
    """A line of shell that is these words; empty where one can't be shown as it is: a person is to see what is run."""
    line = shlex.join(words)
    return line if line.isascii() and line.isprintable() and len(line) <= _COMMAND else ""
