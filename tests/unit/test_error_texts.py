"""The texts of errors: what happened, in words, and never the name of an exception's class"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidecar

_SOURCES = Path(sidecar.__file__).parent
_OWN_REPORTS = {"logs.py": "a crash of the sidecar itself is logged with its kind, in the field `fault`"}
_CLASSES = {
    name
    for name, found in vars(builtins).items()
    if isinstance(found, type) and issubclass(found, BaseException)
} | {
    "RefreshError",
    "TransportError",
    "MalformedError",
    "ClientCertError",
    "DefaultCredentialsError",
    "SSLError",
}
_NAMED = re.compile(rf"\b({'|'.join(sorted(_CLASSES))})\b")


def sources() -> Iterator[Path]:
    return (file for file in sorted(_SOURCES.rglob("*.py")) if file.name not in _OWN_REPORTS)


def documentation(tree: ast.AST) -> set[int]:
    """Texts that stand by themselves: docstrings, and what is said of attributes."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


@pytest.mark.parametrize(
    "file", [pytest.param(file, id=str(file.relative_to(_SOURCES))) for file in sources()]
)
def test_no_text_has_the_name_of_an_exception(file: Path) -> None:
    """`(OSError)` tells a developer of this program where to look; an operator it tells nothing."""
    tree = ast.parse(file.read_text())
    spoken = documentation(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
            found += [(node.lineno, name) for name in _NAMED.findall(node.value)]
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("__name__", "__qualname__")
            and isinstance(node.value, ast.Call | ast.Attribute)
        ):
            found.append((node.lineno, ast.unparse(node)))
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
            name = ast.unparse(node.value)
            found += [(node.lineno, f"{name}!r")] if name in ("error", "exception", "exc") else []
    assert not found
