"""The prose linter of `make lint`: `python -m docs.prose [FILE…]` reads what people read, and names each sentence to write again.

It takes the prose out of a file (paragraphs of Markdown; docstrings, comments and messages of Python; comments of YAML and
Terraform; the text of HTML), has proselint look at it with the checks of `PROSELINT` and the phrases of `INSTEAD`, and counts
the words of each sentence. It makes no network calls. A finding is a line `FILE:LINE: …`, and the exit code is then 1.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proselint.checks import __register__ as proselint_checks
from proselint.registry.checks import Check
from proselint.registry.checks.engine import Fancy
from proselint.registry.checks.types import ExistenceSimple

ROOT = Path(__file__).parents[1]
READ = ("*.md", "*.py", "*.yaml", "*.yml", "*.tf", "*.tpl", "*.html")
SKIPPED = re.compile(
    r"tests/cases/|tests/docs/test_words\.py|docs/(prose\.py|conformance.*\.md)|sidecar/(emulator/scopes|grammar/lookalikes)\.py"
)
"""Mistakes of users with the answers to them, the files that quote bad sentences, tables of bytes, and lists of words."""
LONGEST = 40
"""Words of a sentence. Longer ones are read twice."""
COUNTED = re.compile(r"README|CHANGELOG|CONTRIBUTING|SECURITY|docs/|sidecar/|deploy/|config\.example")
"""The files whose sentences are counted, and begin as sentences should: all but those of tests and benchmarks."""

PROSELINT = (
    "archaism",
    "cliches",
    "hedging",
    "industrial_language",
    "malapropisms",
    "mixed_metaphors",
    "mondegreens",
    "needless_variants",
    "nonwords",
    "oxymorons",
    "redundancy",
    "skunked_terms",
    "social_awareness",
    "spelling",
    "terms",
    "weasel_words",
)
"""The checks of proselint that are used. Those of typography and of repeated words take code for prose."""
LEFT_OUT = ("spelling.consistency",)
"""It takes the names of options and of OpenSSL's errors for spellings."""

INSTEAD = {
    r"(?i:whoever)": "everyone who, the program that",  # bookish, and it hides who is meant
    r"(?i:mend(?:s|ed|ing)?)": "fix",  # rare in software
    r"(?i:(?:asks?|phones?|tells?) nobody)": "makes no network calls, tells no one else",  # a riddle
    r"(?i:phones? home)": "makes no network calls",  # slang
    r"become of": "what happens to, test a request",  # a riddle
    r"nor not": "and not",  # two negations
    r"(?i:of (?:its|their) own kind)": "its own",  # says nothing more
    r"(?i:told of)": "logged, reported",  # does not say how
    r"(?i:mostly)": "usually",  # of the share, where the frequency is meant
    r"not spoken here": "not supported",  # wordplay
    r"put right": "corrected",  # idiom
    r"(?i:(a|an|and|are|as|by|for|in|is|it|of|on|or|that|the|to|with) \1)": "one of the two words",  # a slip
}
"""Phrases that readers stumbled over, as patterns for whole words: what to write instead, and why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence to write again: where it stands, and why."""

    name: str
    line: int
    why: str


class Prose:
    """The words of files, as paragraphs in which a code span is one word. Each word knows its line."""

    def __init__(self) -> None:
        self.name = ""
        """The file that is being read."""
        self._words: list[str] = []
        self._starts: list[int] = []
        self._places: list[tuple[str, int]] = []
        self._length = 0

    @property
    def text(self) -> str:
        """All paragraphs, with one space between words and a line with ¶ alone behind each paragraph."""
        return "".join(self._words)

    def place(self, position: int) -> tuple[str, int]:
        """The file and the line of the word at `position` of the text."""
        return self._places[bisect_right(self._starts, position) - 1]

    def add(self, lines: Iterable[tuple[int, str]]) -> None:
        """One paragraph, given as numbered lines of the file."""
        space, number = "", 0
        for number, line in lines:
            for word in line.split():
                self._append(number, space + word)
                space = " "
        if space:
            self._append(number, "\n¶\n")

    def _append(self, number: int, text: str) -> None:
        self._words.append(text)
        self._starts.append(self._length)
        self._places.append((self.name, number))
        self._length += len(text)


_CODE = re.compile(r"``.+?``|`[^`\n]+`")
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)\s]*\)|(?=\[))")
_STARTS = re.compile(r"^\s*(?:[-*+]|\d+\.|#{1,6}|>) +")
_FENCE = re.compile(r"\s*```")


def _plain(line: str) -> str:
    """Without what is no prose: a code span and a URL become a single word, of a link the text is left."""
    line = _CODE.sub("§", line)
    line = _LINK.sub(r"\1", line)
    return re.sub(r"<[^>]+>|\*\*", "", re.sub(r"<?\bhttps?://\S+", "§", line))


def _markdown(lines: Iterable[tuple[int, str]], prose: Prose) -> None:
    """Paragraphs, items, headings and the cells of tables, without blocks of code."""
    paragraph: list[tuple[int, str]] = []
    fenced = False

    def end() -> None:
        prose.add(paragraph)
        paragraph.clear()

    for number, line in lines:
        if _FENCE.match(line):
            fenced = not fenced
            end()
        elif fenced or (not paragraph and line.startswith("    ")):
            continue
        elif line.lstrip().startswith("|"):
            end()
            for cell in _CODE.sub("§", line).split("|"):
                prose.add([(number, _plain(cell))])
        else:
            if not line.strip() or _STARTS.match(line):
                end()
            if line.strip():
                paragraph.append((number, _plain(_STARTS.sub("", line))))
            if line.startswith("#"):
                end()
    end()


_PIECE = re.compile(r"""([rbfu]*)(\"\"\"|\'\'\'|"|\')((?:\\.|(?!\2).)*?)\2""", re.DOTALL | re.IGNORECASE)


def _python(source: str, prose: Prose) -> None:
    """Docstrings and other texts, names of tests, and comments."""
    lines = source.encode().splitlines(keepends=True)
    inside: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            prose.add([(node.lineno, node.name.replace("_", " "))])
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
        elif not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            continue
        if id(node) not in inside:
            _markdown(_written(node, lines), prose)
    _comments(source, prose)


def _written(node: ast.Constant | ast.JoinedStr, lines: list[bytes]) -> Iterator[tuple[int, str]]:
    """The lines of a text as it stands in the source, several literals in a row as one; none of a pattern or of bytes."""
    taken = lines[node.lineno - 1 : node.end_lineno]
    taken[-1] = taken[-1][: node.end_col_offset]
    taken[0] = taken[0][node.col_offset :]
    segment = b"".join(taken).decode()
    pieces = list(_PIECE.finditer(segment))
    if segment.count(" ") < 2 or any({"r", "b"} & set(piece[1].lower()) for piece in pieces):
        return
    for piece in pieces:
        body = re.sub(r"\{[^{}]*\}", "§", piece[3]) if "f" in piece[1].lower() else piece[3]
        first = node.lineno + segment.count("\n", 0, piece.start(3))
        written = body.split("\n")
        margin = min((len(line) - len(line.lstrip()) for line in written[1:] if line.strip()), default=0)
        for number, line in enumerate(written, first):
            for part in (line if number == first else line[margin:]).replace('\\"', '"').split("\\n"):
                yield number, part
                if part is not line and "\\n" in line:
                    yield number, ""


def _comments(source: str, prose: Prose) -> None:
    """What stands behind `#` in YAML, Terraform and the like."""
    comment: list[tuple[int, str]] = []
    for number, line in enumerate(source.splitlines(), 1):
        text = re.match(r"\s*#+( .*|$)", line)
        if text:
            comment.append((number, text[1][1:]))
        else:
            _markdown(comment, prose)
            comment = []
            if trailing := re.search(r"\s# (.*)$", line):
                _markdown([(number, trailing[1])], prose)
    _markdown(comment, prose)


def _html(source: str, prose: Prose) -> None:
    """The text between tags, without scripts and styles."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = re.sub(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>", blank, source, flags=re.DOTALL)
    for number, line in enumerate(text.splitlines(), 1):
        prose.add([(number, line)])


def read(files: Iterable[tuple[str, str]]) -> Prose:
    """The prose of files, given as names and texts."""
    prose = Prose()
    for name, source in files:
        prose.name = name
        match Path(name).suffix:
            case ".md":
                _markdown(enumerate(source.splitlines(), 1), prose)
            case ".py":
                _python(source, prose)
            case ".html":
                _html(source, prose)
            case _:
                _comments(source, prose)
    return prose


CHECKS = [
    check
    for check in proselint_checks
    if check.path.split(".")[0] in PROSELINT and not check.path.startswith(LEFT_OUT)
] + [
    Check(ExistenceSimple(rf"\b(?:{pattern})\b"), Fancy(), "words", f'"{{}}": write {instead}')
    for pattern, instead in INSTEAD.items()
]
_END = re.compile(r"(?<!e\.g)(?<!i\.e)[.!?][\"')]*(?=\s)|\n¶\n")


def findings(files: Iterable[tuple[str, str]]) -> list[Finding]:
    """What is to be written again in these files, given as names and texts."""
    prose = read(files)
    text = prose.text
    found = [
        Finding(*prose.place(result.span[0]), f"{result.message} ({result.check_path})")
        for check in CHECKS
        for result in check.check_with_flags(text)
        # proselint 0.16 looks for a list of words without their bounds: it finds "for ever" in "for every".
        if not re.match(r"\w\w|\W\W", text[result.span[1] - 1 : result.span[1] + 1])
    ]
    begin = 0
    for end in (match.end() for match in _END.finditer(text)):
        words = text[begin:end].split()
        place = prose.place(begin)
        if COUNTED.match(place[0]):
            beginning = " ".join(words[:8])
            if len(words) > LONGEST:
                found.append(Finding(*place, f"{len(words)} words in a sentence: {beginning} …"))
            if words[:1] == ["Of"]:
                found.append(Finding(*place, f"begin with what it is about: {beginning} …"))
        begin = end
    return sorted(found, key=lambda each: (each.name, each.line))


def main(names: list[str]) -> int:
    """Print what is found in these files, or in all that git knows."""
    if not names:
        command = ["git", "ls-files", *READ]
        names = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    files = [name for name in names if not SKIPPED.match(name) and (ROOT / name).exists()]
    found = findings((name, (ROOT / name).read_text("utf-8")) for name in files)
    for finding in found:
        print(f"{finding.name}:{finding.line}: {finding.why}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
