"""What the site needs beside the pages as they are; a hook of mkdocs (see mkdocs.yml).

The pages link to files of the repository. On the site those are named, and not linked: it does not know where the repository
is. `sh norun` marks, for the tests, what can't be run on any machine; readers need not see it.
"""

from __future__ import annotations

import re
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
