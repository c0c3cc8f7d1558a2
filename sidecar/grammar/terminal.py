"""Text from outside, for a person's eyes and for a shell.

Owns how text is shown that somebody else may have written (a target, a token endpoint, a file, whatever answers on a
port), and how a line of shell is made of words. Called by whatever logs, prints, or suggests a command. Pure. The rule:
nothing that is shown drives a terminal, starts a line, turns the reading direction or is longer than a person reads;
and a command that is suggested is, to a shell, exactly the words that it was made of.
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
