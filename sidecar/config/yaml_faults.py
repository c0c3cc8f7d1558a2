"""What is wrong with a text that is not YAML, in words for people. Called by `tree`.

Pure. The rule: of the text only YAML's own signs are quoted, because a secret may be anywhere in it. PyYAML's
messages are in its scanner.py and parser.py; an unknown one is passed on.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

_INDENTED: Final = (
    "this line is indented differently from its neighbours: the keys of one mapping, and the items of one list, begin "
    "in the same column"
)
_PART_IN_QUOTES: Final = re.compile(r"'[^'<][^']{2,}'")
"""In what PyYAML says: a tag, an anchor, a directive. Its names of tokens are in angle brackets."""
_SIGNS: Final = "@`%*&!|>?{}[],"
"""Signs that have a meaning at the beginning of a value."""


def fault(error: yaml.MarkedYAMLError, text: str) -> str:
    """A sentence: what is wrong at the place of `error`, and how to write it."""
    problem, context = error.problem or "", error.context or ""
    mark = error.problem_mark or error.context_mark
    line = text.splitlines()[mark.line] if mark is not None and mark.line < len(text.splitlines()) else ""
    began = error.context_mark.line + 1 if error.context_mark is not None else 0
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem:
        return "a tab stands here, and YAML is indented by spaces only"
    if "scanning an alias" in context:
        return 'a value that begins with `*` is an alias in YAML: put it in quotes, such as "*.a.run.app"'
    if "scanning an anchor" in context:
        return "a value that begins with `&` is an anchor in YAML: put it in quotes"
    if "cannot start any token" in problem:
        sign = line[mark.column : mark.column + 1] if mark is not None else ""
        return f"a value can't begin with {f'`{sign}`' if sign in _SIGNS and sign else 'this sign'}: put it in quotes"
    if "mapping values are not allowed" in problem:
        return (
            "a second `:` stands in this line, or the line is indented differently from its neighbours: put a "
            "value with `: ` in it in quotes"
        )
    if "quoted scalar" in context:
        if "escape" in problem:
            return "in double quotes `\\` begins an escape: use single quotes"
        return f"the quotation mark of line {began} is not closed"
    for kind, closing in (("mapping", "}"), ("sequence", "]")):
        if f"flow {kind}" in context or (f"flow {kind}" in problem):
            opening = "{" if closing == "}" else "["
            return (
                f"the `{opening}` of line {began} has no `{closing}`, or a comma is missing before this: put a value "
                f"with `{opening}` or `{closing}` in it in quotes"
            )
    if "block end" in problem or "block mapping" in context or "document start" in problem:
        return _INDENTED
    if "could not find expected ':'" in problem:
        return "a key has no `:` behind it, or this line is indented differently from its neighbours"
    if "stream end" in problem:
        return "the text ends in the middle of a value"
    return f"not valid YAML: {_PART_IN_QUOTES.sub('what stands there', problem or context)}"
