"""The prose linter of `make lint` finds a bad sentence wherever people read it, and says where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.prose import INSTEAD, LONGEST, ROOT, findings, main

LONG = " ".join(["word"] * LONGEST)

BAD = {
    "a paragraph": ("docs/x.md", "# Page\n\nFine so far.\nAsk whoever\nwrote it.\n", 4),
    "an item": ("docs/x.md", "- good\n- more of that: it is\n  put right\n", 3),
    "a cell": ("SECURITY.md", "| a | b |\n|---|---|\n| attack | it is told of |\n", 3),
    "across lines": ("docs/x.md", "It is neither here nor\nnot there.\n", 1),
    "a module's docstring": ("sidecar/x.py", '"""What becomes of it.\n\nAsk whoever.\n"""\n', 3),
    "a docstring": (
        "sidecar/x.py",
        'def f() -> None:\n    """One.\n\n    It mends\n    things.\n    """\n',
        4,
    ),
    "a message of two parts": (
        "sidecar/x.py",
        'x = (\n    "the file is now "\n    f"put {1} put right again"\n)\n',
        3,
    ),
    "a comment": ("sidecar/x.py", "x = 1  # mostly\n# one\n# two whoever\n", 1),
    "a test's name": ("tests/x.py", "\n\nasync def test_whoever_waits() -> None: ...\n", 3),
    "a comment of YAML": ("config.example.yaml", "a: 1\nb: 2   # asks nobody\n", 2),
    "a page of HTML": ("sidecar/x.html", "<p>\n<b>It mends</b>\n", 2),
    "a cliché": ("README.md", "\nIt is fast, at the end of the day.\n", 2),
    "a word for another": ("docs/x.md", "It is very fast.\n", 1),
    "a word twice": ("docs/x.md", "It is in\nin the file.\n", 1),
    "a long sentence": ("docs/x.md", f"One.\n\n{LONG} more.\n", 3),
    "a long message": ("sidecar/x.py", f'x = """{LONG}\nmore."""\n', 1),
    "a sentence without a subject": ("sidecar/x.py", '"""Of one route."""\n', 1),
}

GOOD = {
    "a sentence of forty words": ("docs/x.md", f"{LONG}.\n"),
    "two short ones": ("docs/x.md", f"{LONG}. {LONG}.\n"),
    "code": ("docs/x.md", "Say `whoever mends` it:\n\n    mends whoever\n\n```sh\nwhoever\n```\n"),
    "a link's address": ("docs/x.md", "See [the page](whoever.md).\n"),
    "parts of words": ("docs/x.md", "It recommends almonds for every commendable reason.\n"),
    "a pattern": ("sidecar/x.py", 'x = r"is it whoever that mends"\n'),
    "names": ("sidecar/x.py", "mends = whoever\n"),
    "a long sentence of a test": ("tests/x.py", f'"""{LONG} more."""\n'),
    "a script": ("sidecar/x.html", "<script>\nwhoever\n</script>\n"),
}


@pytest.mark.parametrize(("name", "text", "line"), BAD.values(), ids=BAD)
def test_a_bad_sentence_is_found_where_it_stands(name: str, text: str, line: int) -> None:
    """By the line at which it goes wrong."""
    found = findings([("docs/other.md", "Good.\n"), (name, text), ("docs/last.md", "Good.\n")])
    assert (name, line) in {(each.name, each.line) for each in found}, found


@pytest.mark.parametrize(("name", "text"), GOOD.values(), ids=GOOD)
def test_a_good_one_is_not(name: str, text: str) -> None:
    """Code is not prose, and a word is a whole word."""
    assert findings([(name, text)]) == []


def test_every_phrase_says_what_to_write_instead() -> None:
    """Its finding has those words."""
    (found,) = findings([("docs/x.md", "It mends.\n")])
    assert found.why == f'"mends": write {INSTEAD["(?i:mend(?:s|ed|ing)?)"]} (words)'


def test_the_exit_code_says_whether_there_was_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make lint` stops at it."""
    page = tmp_path / "page.md"
    page.write_text("It works.\n", "utf-8")
    assert main([str(page)]) == 0
    page.write_text("It works.\n\nIt mends.\n", "utf-8")
    assert main([str(page)]) == 1
    assert capsys.readouterr().out.startswith(f"{page}:3: ")
    assert "\t@$(BIN)/python -m docs.prose\n" in (ROOT / "Makefile").read_text("utf-8")
