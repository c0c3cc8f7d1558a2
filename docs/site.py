"""What the site needs beside the pages as they are; a hook of mkdocs (see mkdocs.yml).

The pages link to files of the repository. On the site those are named, and not linked: it does not know where the repository
is. `sh norun` marks, for the tests, what can't be run on any machine; readers need not see it.

Search knows headings only. A metric and a reason of a target's refusal is a row of a table: each such row gets an anchor and
an entry of its own.
"""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""
    depth = page.file.src_uri.count("/")

    def named(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        above = target.count("../")
        if above <= depth:
            return match[0]
        path = target.replace("../", "")
        return f"{text} (`{path}`)" if path not in text else f"`{path}`"

    return _LINK.sub(named, markdown).replace("```sh norun", "```sh")


_ROWS = ("metrics.md", "errors.md")
"""Pages whose tables begin with a word that people look for."""
_ROW = re.compile(r"<tr>(\s*<td><code>(\w+)</code></td>.*?)</tr>", re.DOTALL)
_entries: dict[str, str] = {}
"""What the rows say, by where they are: what `on_page_content` has found in this build."""


def on_pre_build(**_: Any) -> None:
    """Called by mkdocs before it begins."""
    _entries.clear()


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page, once it is HTML."""
    if page.file.src_uri not in _ROWS:
        return html

    def anchored(match: re.Match[str]) -> str:
        cells, word = match[1], match[2]
        says = re.sub(r"<[^>]+>", " ", cells.partition("</td>")[2])
        _entries[f"{page.url}#{word}"] = " ".join(unescape(says).split())
        return f'<tr id="{word}">{cells}</tr>'

    return _ROW.sub(anchored, html)


def on_post_build(*, config: Any, **_: Any) -> None:
    """Called by mkdocs at the end, when search has written its index."""
    file = Path(config["site_dir"]) / "search/search_index.json"
    index = json.loads(file.read_text("utf-8"))
    index["docs"] += [
        {"location": location, "title": location.partition("#")[2], "text": says}
        for location, says in _entries.items()
    ]
    file.write_text(json.dumps(index, ensure_ascii=False), "utf-8")
