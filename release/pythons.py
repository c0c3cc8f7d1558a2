"""The tests on every version of Python that is supported, with the interpreters that are on this machine.

`python -m release.pythons [--others] [PYTEST ARGUMENTS]`, from the repository; `make test-pythons` and `make test-all`
call it. The versions are those of pyproject.toml's classifiers; `--others` leaves out the one that this runs on. An
interpreter is looked for on the PATH, then where pyenv, uv and asdf put theirs; each is asked who it is, since a shim
on the PATH may lead nowhere. Each version gets an environment in build/pythons with the pinned packages, which is kept
as long as the pins are the same. The last lines say what became of each version, and for which no interpreter was
found. Ends with 1 where one that was found failed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = ("tests/unit", "tests/wire", "tests/conformance")
LOCKS: Final = ("requirements.lock", "requirements-dev.lock")
_ASK: Final = (
    "import platform as p, sys;"
    "print(p.python_implementation(), '{}.{}'.format(*sys.version_info), p.python_version(), sys.executable)"
)
_HOMES: Final = (
    ("PYENV_ROOT", ".pyenv", "versions/{version}.*/bin/python"),
    ("UV_PYTHON_INSTALL_DIR", ".local/share/uv/python", "cpython-{version}.*/bin/python"),
    ("ASDF_DATA_DIR", ".asdf", "installs/python/{version}.*/bin/python"),
)
"""A variable with a tool's folder, where it is in the home directory without it, and the interpreters below it."""


def supported() -> list[str]:
    """The versions of pyproject.toml's classifiers, such as `3.11`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = (
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one) for one in project["classifiers"]
    )
    return [match[1] for match in found if match]


def find(version: str, environ: Mapping[str, str]) -> tuple[str, Path] | None:
    """The whole version and the path of a CPython of `version`, such as `3.12`; None where there is none."""
    for candidate in _candidates(version, environ):
        try:
            done = subprocess.run(  # noqa: S603 - that is what is asked for
                [candidate, "-c", _ASK], capture_output=True, text=True, timeout=60, check=False, env=environ
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        name, minor, whole, path = (*done.stdout.strip().split(" ", 3), "", "", "", "")[:4]
        if (done.returncode, name, minor) == (0, "CPython", version):
            return whole, Path(path)
    return None


def _candidates(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    for directory in environ.get("PATH", "").split(os.pathsep):
        if directory and (found := shutil.which(f"python{version}", path=directory)):
            yield Path(found)
    home = Path(environ.get("HOME", "/nonexistent"))
    for variable, below, pattern in _HOMES:
        root = Path(environ[variable]) if variable in environ else home / below
        yield from sorted(root.glob(pattern.format(version=version)), key=_patch, reverse=True)


def _patch(interpreter: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", interpreter.parts[-3])]


def environment(version: str, interpreter: Path) -> Path:
    """The interpreter of an environment with the pinned packages; raises CalledProcessError."""
    directory = ROOT / "build" / "pythons" / version
    python, stamp = directory / "bin" / "python", directory / ".made"
    pins = [*LOCKS, "pyproject.toml"]
    state = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in pins)).hexdigest() + str(
        interpreter
    )
    if stamp.exists() and stamp.read_text("utf-8") == state:
        return python
    print(f"==> making an environment of {interpreter} in {directory.relative_to(ROOT)}", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    pip = [python, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-deps"]
    for command in (
        [interpreter, "-m", "venv", directory],
        *([*pip, "--require-hashes", "-r", lock] for lock in LOCKS),
        [*pip, "--no-build-isolation", "--editable", "."],
    ):
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603
    stamp.write_text(state, "utf-8")
    return python


def main(arguments: Sequence[str]) -> int:
    """Run the tests and say what became of each version."""
    others = "--others" in arguments
    options = [one for one in arguments if one != "--others"]
    own = "{}.{}".format(*sys.version_info)
    said, failed = [], False
    for version in supported():
        if others and version == own:
            continue
        if (found := find(version, os.environ)) is None:
            said.append(f"Python {version}: NOT FOUND, so not tested")
            continue
        whole, interpreter = found
        try:
            python = environment(version, interpreter)
        except (subprocess.CalledProcessError, OSError) as error:
            said.append(f"Python {whole} ({interpreter}): FAILED, no environment could be made: {error}")
            failed = True
            continue
        print(f"==> Python {whole}: {' '.join(TESTS)}", flush=True)
        command = [python, "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", *options, *TESTS]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603
        failed = failed or code != 0
        said.append(
            f"Python {whole} ({interpreter}): {'passed' if code == 0 else f'FAILED (pytest ended with {code})'}"
        )
    print("\n".join(["==> unit, wire and conformance tests", *said]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
