"""Plain words: what users and developers read has none of the phrases that readers stumbled over.

A phrase is listed with what to write instead. codespell, in `make lint`, has the spelling.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTEAD = {
    r"(?i)\bwhoever\b": "everyone who, the program that",
    r"\b[Mm]end(s|ed|ing)?\b": "fix",
    r"\basks nobody\b": "makes no network calls",
    r"\bbecome of a request\b": "test a request",
    r"\bnor not\b": "and not",
    r"\bof its own kind\b": "its own",
    r"\b[Tt]old of\b": "logged, reported",
    r"\bit is told\b": "it is reported",
    r"\bphones? (home|nobody)\b": "makes no network calls",
    r"\bnot spoken here\b": "not supported",
    r"\bput right\b": "corrected",
}
"""A pattern, and what to write instead."""
READ = ("sidecar/", "docs/", "deploy/", "README.md", "SECURITY.md", "CONTRIBUTING.md", "config.example.yaml")
FILES = [
    name
    for name in subprocess.run(
        ["git", "ls-files", *READ], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    if name.endswith((".py", ".md", ".yaml", ".html", ".tpl", ".tf"))
]


@pytest.mark.parametrize("pattern", INSTEAD)
def test_a_phrase_that_readers_stumbled_over_is_not_used(pattern: str) -> None:
    """In code, help, errors, documents and manifests."""
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in FILES
        for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"write {INSTEAD[pattern]} instead: {found}"
