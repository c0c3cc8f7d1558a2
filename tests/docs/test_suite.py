"""Where the tests run: `make test` and `make test-all` leave none out between them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SAMPLE = """
import pytest

def test_every_day(): pass

@pytest.mark.test_all
def test_at_length(): pass

@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.test_all)])
def test_seeds(seed): pass
"""


@pytest.mark.parametrize(
    ("everything", "found"), [(False, "2 passed, 2 skipped"), (True, "4 passed")], ids=["test", "test-all"]
)
def test_what_is_marked_runs_in_test_all_and_nowhere_else(
    tmp_path: Path, everything: bool, found: str
) -> None:
    """By the suite's own conftest; the skipped ones are one line of the summary."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text("utf-8"), "utf-8")
    (tmp_path / "test_sample.py").write_text(SAMPLE, "utf-8")
    environ = {name: value for name, value in os.environ.items() if name != "IDTOKEN_TEST_ALL"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider", tmp_path],
        cwd=ROOT,
        env={**environ, **({"IDTOKEN_TEST_ALL": "1"} if everything else {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f" {found} " in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("run by `make test-all`") == (0 if everything else 1)


def test_both_take_the_whole_suite() -> None:
    """No path, no choice and nothing left out, in the commands, in pytest's settings or by a conftest."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    runs = {
        target: re.findall(r"^\t@(.*-m pytest.*)$", rule, re.MULTILINE)
        for target, rule in re.findall(r"^(test|test-all):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    }
    assert runs == {
        "test": ["$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)"],
        "test-all": ["IDTOKEN_TEST_ALL=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)"],
    }
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    assert settings["testpaths"] == ["tests"]
    assert set(settings["addopts"].split()) == {
        *("-ra", "--strict-markers", "--strict-config", "--import-mode=importlib")
    }
    assert [path for path in settings if path.startswith(("norecurse", "python_"))] == []
    conftests = [path for path in ROOT.glob("tests/**/*.py") if "collect_ignore" in path.read_text("utf-8")]
    assert conftests == [Path(__file__)]


def test_every_test_is_in_a_file_that_is_collected() -> None:
    """One in a file of another name would run nowhere."""
    for path in ROOT.glob("tests/**/*.py"):
        if not path.name.startswith("test_"):
            named = [
                node.name
                for node in ast.parse(path.read_text("utf-8")).body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            ]
            assert named == [], path


def test_only_the_mark_sends_a_test_to_test_all() -> None:
    """A look at the variable by hand would be in neither, once it is mistyped. Proxies fail where one is missing, and
    `forks` has every command started anew."""
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("tests/**/*.py")
        if "IDTOKEN_TEST_ALL" in path.read_text("utf-8") and path != Path(__file__)
    }
    assert readers == {"tests/conftest.py", "tests/support/forks.py", "tests/wire/test_real_proxies.py"}
