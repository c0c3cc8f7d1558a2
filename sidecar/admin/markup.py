"""The small pieces of HTML in the status page: sentences, times, numbers, commands.

Called by `page`, `rows` and `plots`. Pure. All values are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from sidecar.admin.status import Note
from sidecar.errors import MEANINGS
from sidecar.grammar.moments import in_words

Document = Mapping[str, Any]

_CODE: Final = re.compile(r"`([^`]+)`")
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def escape(text: str) -> str:
    """As `html.escape` does it. That module also has a table of all 2,231 names of characters, 0.4 MiB."""
    return text.translate(_ESCAPES)


def prose(text: str) -> str:
    """One of our sentences, with the parts in backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def notice(html: str, *, worse: bool = False) -> str:
    """A paragraph that stands out."""
    return f'<p class="notice{" worse" if worse else ""}">{html}</p>'


def reason(word: str) -> str:
    """A reason code, with its title if it is one of the sidecar's own."""
    known = next((meaning.title for key, meaning in MEANINGS.items() if key == word), "")
    return f"<code>{escape(word)}</code>" + (f" {escape(known)}" if known else "")


def command(problem: Document) -> str:
    """The shell command that fixes it, unless the sentence before has it already."""
    found = problem["command"]
    return f"<br><code>$ {escape(found)}</code>" if found and found not in problem["detail"] else ""


def moment(text: str) -> float:
    """A time of the document in Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


def time(text: str) -> str:
    """A time of the document for people. The date is in the title."""
    return when(text, "at ")


def when(text: str, before: str = "") -> str:
    """The same with another word in front."""
    return f'<time datetime="{quote(text, safe=":-.+")}" title="{escape(text)}">{before}{escape(text[11:19])} UTC</time>'


def copyable(text: str) -> str:
    """A piece of code with a button that copies it."""
    written = escape(text)
    return (
        f'<code>{written}</code> <button type="button" class="copy" data-text="{written}" '
        f'aria-label="Copy {written}">Copy</button>'
    )


def about(seconds: float) -> str:
    """A duration from now or until now, in words that change as seldom as possible."""
    return in_words(
        seconds // 60 * 60 if seconds >= 120 else seconds // 10 * 10 if seconds >= 10 else seconds
    )


def number(value: float) -> str:
    """A rate."""
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def short(seconds: float | None) -> str:
    """A duration in its unit."""
    if seconds is None:
        return "–"
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size * 0.9995:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def drawn(
    rows: Iterable[Document], draw: Callable[[Document], str], broken: Callable[[Document], str], note: Note
) -> list[str]:
    """Each row by itself; `broken` for a row that can't be drawn or written."""
    found = []
    for row in rows:
        try:
            found.append(broken(row) if "fault" in row else draw(row))
        except Exception as fault:  # noqa: BLE001  # logged and counted by `note`, and told in the row's place
            note(fault, "status page")
            found.append(broken(row))
    return found
