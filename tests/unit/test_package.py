"""The package as a whole: what its classes are called, and how long its parts are."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import sidecar

ROOT = Path(sidecar.__file__).parent


def test_a_class_has_a_name_of_its_own() -> None:
    """No name stands for two classes; the emulator is apart, since it imports none of the others."""
    owners = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        if not where.startswith("emulator/"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    owners[node.name].add(where)
    assert {name: where for name, where in owners.items() if len(where) > 1} == {}


LONGEST_MODULE, LONGEST_FUNCTION, MOST_ARGUMENTS, MOST_SLOTS = 450, 50, 8, 20

WITH_A_REASON = {"AnswerReader", "Entry"}
"""Classes with more slots: the docstring of each says why."""


def test_a_part_of_the_package_fits_on_a_few_screens() -> None:
    """Modules, functions, constructors and classes have a size that one can keep in mind."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text("utf-8")
        where = path.relative_to(ROOT).as_posix()
        if (lines := text.count("\n")) > LONGEST_MODULE:
            found.append(f"{where}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found += _oversize(where, node)
            elif isinstance(node, ast.ClassDef) and node.name not in WITH_A_REASON:
                found += [
                    f"{where}: {node.name} has {slots} slots" for slots in _slots(node) if slots > MOST_SLOTS
                ]
    assert found == []


def _oversize(where: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    found = []
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > LONGEST_FUNCTION:
        found.append(f"{where}: {node.name} has {lines} lines")
    arguments = len(node.args.args) + len(node.args.kwonlyargs) - 1
    if node.name == "__init__" and arguments > MOST_ARGUMENTS:
        found.append(f"{where}:{node.lineno}: __init__ has {arguments} arguments")
    return found


def _slots(node: ast.ClassDef) -> list[int]:
    return [
        len(entry.value.elts)
        for entry in node.body
        if isinstance(entry, ast.Assign)
        and isinstance(entry.value, ast.Tuple)
        and [ast.unparse(target) for target in entry.targets] == ["__slots__"]
    ]
