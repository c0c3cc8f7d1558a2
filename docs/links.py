"""The link checker of `make lint`: `python -m docs.links [PAGE…]` names each link of the documents that leads nowhere.

It looks at links to files of the repository and to their headings; it makes no network calls, so `https://` links are not
followed. A finding is a line `FILE:LINE: …`, and the exit code is then 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "deploy/**/*.md")

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)|^\[[^\]]+\]: +(\S+)", re.MULTILINE)


def pages() -> list[Path]:
    """Every document with links."""
    return sorted({page for pattern in PAGES for page in ROOT.glob(pattern)})


def findings(page: Path) -> Iterator[tuple[int, str]]:
    """The line and the text of each link that leads to no file, or to no heading of it."""
    text = page.read_text("utf-8")
    for found in _LINK.finditer(text):
        link: str = found[1] or found[2]
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        line = text.count("\n", 0, found.start()) + 1
        if not target.exists():
            yield line, f"`{link}`: there is no such file"
        elif anchor and anchor not in _anchors(target.read_text("utf-8")):
            yield line, f"`{link}`: the file has no such heading"


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def main(names: Iterable[str]) -> int:
    """Print what is wrong in these pages, or in all; 1 if something is."""
    wrong = False
    for page in [Path(name).resolve() for name in names] or pages():
        for line, says in findings(page):
            shown = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
            print(f"{shown}:{line}: {says}")
            wrong = True
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
