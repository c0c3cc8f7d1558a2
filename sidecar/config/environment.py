"""`${VAR}` and `${VAR:-default}` in values.

Owns the substitution. Called by `load` for every text value of a file. Pure: the environment comes in as a
mapping. What a variable brings is data: it is not read as YAML and not substituted again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sidecar.grammar.contents import place

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def references(text: str) -> frozenset[str]:
    """The variables that a text refers to."""
    found = (match[1] for match in _REFERENCE.finditer(text) if match[1] is not None)
    return frozenset(inner.partition(":-")[0] for inner in found)


def expand(text: str, environ: Mapping[str, str]) -> str:
    """The text with its references replaced; ValueError with a sentence where one can't be.

    `$${` stands for a literal `${`. As in a shell, `:-` also covers a variable that is set but empty.
    """

    def value_of(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if not match[0].endswith("}"):
            raise ValueError("`${` without its `}`; a literal one is written `$${`")
        name, separator, default = match[1].partition(":-")
        if _NAME.match(name) is None:
            # Not quoted: a password may have `${` in it, and a reference a default.
            raise ValueError(
                "a `${…}` in it is not a reference such as `${VAR}` or `${VAR:-default}`; a literal one is "
                "written `$${`"
            )
        value = environ.get(name)
        if separator:
            return value or default
        if value is None:
            raise ValueError(
                f"the environment variable {place(name)} is not set; give a default with `${{{place(name)}:-…}}`"
            )
        return value

    return _REFERENCE.sub(value_of, text)
