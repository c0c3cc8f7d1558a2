"""docs/links.py: links of the documents that lead nowhere fail `make lint`."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.links import ROOT, main, pages


def test_every_link_leads_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """To a file, and to a heading of it."""
    assert len(pages()) > 40
    assert main([]) == 0, capsys.readouterr().out


def test_links_that_lead_nowhere_are_named_with_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.md").write_text("# One thing\n\n```sh\n# a comment\n```\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#one-thing) [c](https://example.com/)\n[d](missing.md)\n\n![e](other.md#a-comment)\n\n[f]: gone.md\n",
        "utf-8",
    )
    assert main([str(page)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{page}:2: `missing.md`: there is no such file",
        f"{page}:4: `other.md#a-comment`: the file has no such heading",
        f"{page}:6: `gone.md`: there is no such file",
    ]


def test_make_lint_runs_it() -> None:
    assert "\t@$(BIN)/python -m docs.links\n" in (ROOT / "Makefile").read_text("utf-8")
