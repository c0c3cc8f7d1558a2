"""What imports what in the package: one direction, no circle, and no wire format in an exchange"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sidecar

ROOT = Path(sidecar.__file__).parent


def modules(root: Path) -> dict[str, Path]:
    """Each module of the package by its full name."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: Mapping[str, object]) -> Iterator[str]:
    """The package's modules that one imports, wherever it says so: in a function or under TYPE_CHECKING, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            if node.module is not None and node.module in known:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    yield submodule if submodule in known else node.module


def graph(root: Path) -> dict[str, set[str]]:
    """What each module imports."""
    known = modules(root)
    return {name: {*imported(path, known)} - {name} for name, path in known.items()}


def test_no_module_imports_itself_by_a_detour() -> None:
    """Nobody can be read alone who is in a circle."""
    imports = graph(ROOT)
    assert len(imports) > 100  # it has looked
    assert "sidecar.proxy.ports" in imports["sidecar.proxy.exchange.exchange"]
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(circle.args[1]))}")


def test_an_exchange_knows_no_wire_format() -> None:
    """It is one request and its answer, whatever they are written in; nor does what it is told by."""
    imports = graph(ROOT)
    inside = [name for name in imports if name.startswith("sidecar.proxy.exchange.")]
    for name in (*inside, "sidecar.proxy.ports", "sidecar.proxy.messages"):
        assert not [other for other in imports[name] if other.startswith("sidecar.proxy.http")], name
    assert "sidecar.proxy.exchange.held" in inside


def test_a_circle_is_seen(tmp_path: Path) -> None:
    """Also one that is for types alone, or hides in a function."""
    package = tmp_path / "sidecar"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "one.py").write_text("from sidecar import two\n", encoding="utf-8")
    (package / "two.py").write_text("if TYPE_CHECKING:\n    from sidecar.three import X\n", encoding="utf-8")
    (package / "three.py").write_text("def f():\n    import sidecar.one\n", encoding="utf-8")
    with pytest.raises(CycleError):
        TopologicalSorter(graph(package)).prepare()
