"""release/pythons: which interpreters the tests run on."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from release import pythons

OWN = "{}.{}".format(*sys.version_info)


def put(file: Path, script: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def says(version: str, name: str = "CPython", file: str = "/there/python") -> str:
    return f"echo {name} {version.rpartition('.')[0]} {version} {file}"


def test_the_versions_are_those_of_the_classifiers_and_of_requires_python() -> None:
    """From 3.11 on without a gap."""
    found = pythons.supported()
    assert found == [f"3.{minor}" for minor in range(11, 11 + len(found))]
    assert len(found) >= 3


def test_a_shim_that_leads_nowhere_is_passed_over(tmp_path: Path) -> None:
    """The next one on the PATH is asked."""
    put(tmp_path / "shims/python3.12", "echo no such version >&2; exit 127")
    put(tmp_path / "bin/python3.12", says("3.12.4"))
    path = f"{tmp_path}/shims:{tmp_path}/bin"
    assert pythons.find("3.12", {"PATH": path}) == ("3.12.4", Path("/there/python"))


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("PYENV_ROOT", "versions/3.12.{}/bin/python"),
        ("UV_PYTHON_INSTALL_DIR", "cpython-3.12.{}-linux-x86_64-gnu/bin/python"),
        ("ASDF_DATA_DIR", "installs/python/3.12.{}/bin/python"),
    ],
)
def test_the_newest_one_of_a_version_manager_is_taken(tmp_path: Path, variable: str, below: str) -> None:
    """By number, so that 3.12.10 is newer than 3.12.9."""
    for patch in (1, 9, 10):
        put(tmp_path / below.format(patch), says(f"3.12.{patch}"))
    found = pythons.find("3.12", {"PATH": "", variable: str(tmp_path)})
    assert found == ("3.12.10", Path("/there/python"))
    assert pythons.find("3.13", {"PATH": "", variable: str(tmp_path)}) is None


def test_a_version_manager_is_looked_for_in_the_home_directory(tmp_path: Path) -> None:
    put(tmp_path / ".pyenv/versions/3.12.1/bin/python", says("3.12.1"))
    assert pythons.find("3.12", {"HOME": str(tmp_path)}) == ("3.12.1", Path("/there/python"))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(says("3.11.9"), id="another-version"),
        pytest.param(says("3.12.9", "PyPy"), id="another-implementation"),
        pytest.param("exit 1", id="fails"),
        pytest.param("true", id="says-nothing"),
    ],
)
def test_what_is_not_what_its_name_says_is_none(tmp_path: Path, script: str) -> None:
    put(tmp_path / "python3.12", script)
    assert pythons.find("3.12", {"PATH": str(tmp_path)}) is None


def test_a_real_one_is_found(tmp_path: Path) -> None:
    (tmp_path / f"python{OWN}").symlink_to(sys.executable)
    found = pythons.find(OWN, {"PATH": str(tmp_path)})
    assert found is not None
    assert found[0] == platform.python_version()
