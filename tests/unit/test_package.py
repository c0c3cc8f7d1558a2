"""The package as a whole: what its classes are called."""

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
