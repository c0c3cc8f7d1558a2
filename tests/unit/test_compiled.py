"""What compiled code takes in another way than Python does, looked for in the source of what is compiled.

mypyc believes mypy: an attribute that a test has narrowed to None is None to the compiled code, and a call in between
that has set it comes out as a TypeError. `warn_unreachable` finds what mypy takes for dead; this finds the rest.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from release.compiled import modules

ROOT = Path(__file__).parents[2]


def path_of(node: ast.expr) -> str | None:
    """`self.a.b`, of such an expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) and parts else None


def none_where(test: ast.expr) -> tuple[set[str], set[str]]:
    """The attributes that are None where a test fails, and where it holds."""
    if isinstance(test, ast.Compare) and isinstance(test.comparators[0], ast.Constant):
        path = path_of(test.left)
        if path is not None and test.comparators[0].value is None:
            if isinstance(test.ops[0], ast.IsNot):
                return {path}, set()
            if isinstance(test.ops[0], ast.Is):
                return set(), {path}
    if isinstance(test, ast.BoolOp):
        parts = [none_where(value) for value in test.values]
        if isinstance(test.op, ast.Or):
            return set().union(*(failed for failed, _ in parts)), set()
        return set(), set().union(*(held for _, held in parts))
    return set(), set()


class Reading:
    """One function: which attributes are narrowed to None, and which of those a call may have set since."""

    def __init__(self) -> None:
        self.found: list[int] = []
        """The lines where such a one is read."""

    def statements(self, body: Sequence[ast.stmt], none: set[str], stale: set[str]) -> None:
        none = set(none)
        for statement in body:
            if isinstance(statement, ast.If):
                self.look(statement.test, none, stale)
                failed, held = none_where(statement.test)
                self.statements(statement.body, none | held, set(stale))
                self.statements(statement.orelse, none | failed, set(stale))
                if any(isinstance(node, ast.Call) for node in ast.walk(statement)):
                    stale |= none
                none |= (failed if leaves(statement.body) else set()) | (
                    held if leaves(statement.orelse) else set()
                )
            elif isinstance(statement, ast.For | ast.While | ast.Try | ast.With | ast.AsyncWith):
                for name in ("body", "orelse", "finalbody"):
                    self.statements(getattr(statement, name, []), none, stale)
                for handler in getattr(statement, "handlers", []):
                    self.statements(handler.body, none, stale)
            else:
                self.look(statement, none, stale)
                for node in ast.walk(statement):
                    targets = node.targets if isinstance(node, ast.Assign) else []
                    none -= {path for target in targets if (path := path_of(target)) is not None}

    def look(self, node: ast.AST, none: set[str], stale: set[str]) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load):
                path = path_of(part)
                if path in none and path in stale:
                    self.found.append(part.lineno)
        if any(isinstance(part, ast.Call) for part in ast.walk(node)):
            stale |= none


def leaves(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def stale_reads(source: str) -> list[int]:
    """The lines of a module in which an attribute is read that a test has narrowed to None and a call may have set."""
    reading = Reading()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            reading.statements(node.body, set(), set())
    return reading.found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        pytest.param("if self.a is not None:\n  return\n self.f()\n return self.a", [5], id="after-a-return"),
        pytest.param("if self.a is None:\n  self.f()\n  g(self.a)", [4], id="in-the-branch"),
        pytest.param("if x or self.a is not None:\n  return\n self.f()\n return self.a or b", [5], id="or"),
        pytest.param("if self.a is not None:\n  return\n return self.a", [], id="no-call-between"),
        pytest.param(
            "if self.a is not None:\n  return\n self.f()\n self.a = b\n return self.a", [], id="set"
        ),
        pytest.param("if self.a is None:\n  return\n self.f()\n return self.a", [], id="not-None"),
    ],
)
def test_what_is_looked_for(body: str, found: list[int]) -> None:
    assert stale_reads(f"def h(self, x, b):\n {body}") == found


@pytest.mark.parametrize("module", modules(ROOT))
def test_nothing_narrowed_is_read_again_behind_a_call(module: str) -> None:
    """Where it must be: in a method of its own, to which nothing is narrowed yet."""
    assert stale_reads((ROOT / module).read_text("utf-8")) == []


def test_mypy_says_what_it_takes_for_dead() -> None:
    """mypyc leaves it out."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    assert config["warn_unreachable"] is True


def test_the_whole_data_path_is_compiled() -> None:
    """But for what only sets up, and what is not pure of asyncio's coroutines: named here, so that a new module of the
    proxy is not left out by oversight."""
    interpreted = {"acceptor", "explain", "faults", "handshakes", "server", "__init__"}
    interpreted |= {"diagnosis", "outages", "problem", "refusals"}
    proxy = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sidecar/proxy").rglob("*.py")}
    left = {name for name in proxy - set(modules(ROOT)) if Path(name).stem not in interpreted}
    assert left == set()


class Declared:
    """Which attributes each class of the compiled modules declares: in its body, or by an annotation in a method."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.bases: dict[str, list[str]] = {}
        self.attributes: dict[str, set[str]] = {}
        self.traits: set[str] = set()
        for source in sources:
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ClassDef):
                    self._add(node)

    def _add(self, node: ast.ClassDef) -> None:
        self.bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if any(isinstance(one, ast.Name) and one.id == "trait" for one in node.decorator_list):
            self.traits.add(node.name)
        own = self.attributes[node.name] = set()
        for part in ast.walk(node):
            if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.dump(part.annotation):
                if part in node.body and isinstance(part.target, ast.Name):
                    own.add(part.target.id)
                elif (
                    isinstance(part.target, ast.Attribute)
                    and path_of(part.target) == f"self.{part.target.attr}"
                ):
                    own.add(part.target.attr)

    def again(self) -> list[str]:
        """What a class declares that a base does already."""
        return sorted(
            f"{name}.{attribute}"
            for name, own in self.attributes.items()
            for base in self._above(name)
            for attribute in own & self.attributes[base]
        )

    def _above(self, name: str) -> set[str]:
        bases = {base for base in self.bases[name] if base in self.attributes and base not in self.traits}
        return bases.union(*(self._above(base) for base in bases))


def test_no_attribute_is_declared_again() -> None:
    """mypyc would have the collector visit it twice, and so keep every object of the class, and all it holds, forever."""
    twice = "class A:\n a: int\n b: int\nclass B(A):\n c: int\n def __init__(self):\n  self.a: int = 0\n  self.b = 1"
    assert Declared([twice]).again() == ["B.a"]
    assert Declared([(ROOT / module).read_text("utf-8") for module in modules(ROOT)]).again() == []


def test_constants_are_final() -> None:
    """Compiled code then reads them where they are. Else it looks each up by its name, every time: that was 8 % of the
    instructions of a request.
    """
    assert open_constants("A = 1\n_B, C = 1, 2\nD: Final = 3\nE: int = 4\nf = 5\nclass G:\n    H = 1\n") == [
        "A",
        "_B",
        "C",
        "E",
    ]
    found = {module: open_constants((ROOT / module).read_text("utf-8")) for module in modules(ROOT)}
    assert {module: names for module, names in found.items() if names} == {}


def open_constants(source: str) -> list[str]:
    """The names in capitals that a module assigns without `Final`."""
    targets: list[ast.expr] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign) and "Final" not in ast.dump(node.annotation):
            targets.append(node.target)
    names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    return [name for name in names if name.isupper()]
