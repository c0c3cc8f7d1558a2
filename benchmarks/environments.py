"""The product as people run it: installed, pure and compiled, for the Python that is measured.

Owns: which Python that is, and the environments below `.work/pythons` with the product of this checkout in them.
Called by: run, instructions.
May not: touch the checkout's .venv and build/compiled.
Rule: the image's Python counts, where it is here. An environment is made as the Dockerfile and `make compiled` do it,
from the same locked packages, and made anew when what it was made of has changed, and only then.
"""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from interpreter import Interpreter
from machine import execute, provide_packages, say
from process import RunError
from products import REPOSITORY, Installed

BUILDS = ("pure", "compiled")
IMAGE, OWN = "image", "own"
"""Of `--python`: the image's Python, the checkout's own."""
MINOR = "3.11"
"""Of Debian 12, which the image stands on (Dockerfile)."""
PACKAGES = REPOSITORY / "requirements.lock"
BUILD_PACKAGES = REPOSITORY / "requirements-compile.lock"
SOURCES = ("sidecar", "data", "pyproject.toml", "release/compiled.py")
"""What the wheel is made of, and with."""
SHOW = "import sidecar.proxy.http1.downstream as module; print(module.__file__)"
"""Of a module that is compiled."""


def of_image(root: Path = Path("/")) -> Path | None:
    """The image's Python on this machine: the one of Debian 12. None elsewhere."""
    try:
        lines = (root / "etc/os-release").read_text().splitlines()
    except OSError:
        return None
    release = dict("".join(shlex.split(line)).split("=", 1) for line in lines if "=" in line)
    python = root / f"usr/bin/python{MINOR}"
    is_it = (release.get("ID"), release.get("VERSION_ID")) == ("debian", "12")
    return python if is_it and python.exists() else None


def choose(asked: str | None, image: Path | None) -> Path | None:
    """The Python to install the product for; None: the checkout's own. `asked` None: whatever there is.

    RunError where the one that was asked for isn't there.
    """
    absent = f"the image's Python is not here, which is Debian 12's /usr/bin/python{MINOR}"
    if asked is None and image is None:
        say(f"{absent}: the checkout's own is measured, which may be another build (docs/performance.md)")
    if asked == OWN or (asked is None and image is None):
        return None
    if asked in (IMAGE, None):
        if image is None:
            raise RunError(f"{absent}: give --python {OWN} for the checkout's own, or a file")
        return image
    if (found := shutil.which(asked)) is None:
        raise RunError(f"--python {asked}: no program there. It is a file, {IMAGE} or {OWN}")
    return Path(found).absolute()


def ask(python: Path) -> Interpreter:
    """How it was built; RunError where it can't be run."""
    script = str(Path(__file__).with_name("interpreter.py"))
    try:
        return Interpreter(**json.loads(execute([str(python), "-I", script], _environ())))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{python} doesn't say how it was built: {error}") from error


def digest(paths: Iterable[Path]) -> str:
    """Of the names and the contents of these files, and of all files below these folders but bytecode."""
    found = hashlib.sha256()
    for path in paths:
        for file in _files(path):
            content = file.read_bytes()
            found.update(f"{file.relative_to(path.parent).as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def home(work: Path, python: Interpreter) -> Path:
    """Where the environments of this Python are, by its version and build."""
    of_build = hashlib.sha256(f"{python.said}\0{python.executable}".encode()).hexdigest()[:8]
    return (
        work
        / "pythons"
        / "-".join([python.version, *(mark.lstrip("-") for mark in python.marks()), of_build])
    )


def provide(work: Path, python: Path, builds: Sequence[str] = BUILDS) -> Installed:
    """The product of this checkout for `python`, in environments below `work` that are kept.

    RunError says what is needed for that and can't be had.
    """
    found = ask(python)
    folder = home(work, found)
    say(f"the product runs on Python {found.version}, {found.executable} ({found.sentence()})")
    require(found, compiled="compiled" in builds)
    for build in builds:
        _install(python, folder, build)
    return Installed(*(folder / build / "bin" / "idtoken-sidecar" for build in BUILDS))


def require(python: Interpreter, *, compiled: bool) -> None:
    """Install what Debian has apart from its Python; RunError where that can't be, or another Python lacks it."""
    name = f"python{python.version.rpartition('.')[0]}"
    packages = [f"{name}-venv"] if not python.venv else []
    if compiled and not python.headers:
        packages.append(f"{name}-dev")
    if packages and python.executable != f"/usr/bin/{name}":
        raise RunError(
            f"{python.executable} lacks what Debian has in {' and '.join(packages)}: take another Python"
        )
    if compiled and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        packages += ["gcc", "libc6-dev"]
    provide_packages(packages, f", or with --python {OWN}")


def _install(python: Path, folder: Path, build: str) -> None:
    """One build into its environment, unless it is there."""
    place = folder / build
    _environment(python, place, PACKAGES)
    made_of = [*(REPOSITORY / name for name in SOURCES), *([BUILD_PACKAGES] if build == "compiled" else [])]
    stamp, state = place / "product", digest(made_of)
    if _said(stamp) == state:
        return
    stamp.unlink(missing_ok=True)
    say(f"building the {build} wheel for {folder.name}{' (a minute or two)' if build == 'compiled' else ''}")
    wheel = _wheel(python, folder, build)
    execute([*_pip(place), "--no-deps", "--force-reinstall", str(wheel)], _environ())
    module = execute([str(place / "bin" / "python"), "-I", "-c", SHOW], _environ(), place).strip()
    if module.endswith(".py") != (build == "pure") or not module.startswith(str(place)):
        raise RunError(f"the {build} build in {place} runs {module}")
    stamp.write_text(state)


def _wheel(python: Path, folder: Path, build: str) -> Path:
    """The package of this checkout, made by hatchling, which the locked packages bring."""
    builder, into = folder / build, folder / "wheel"
    environ = _environ()
    if build == "compiled":
        builder = folder / "build"
        _environment(python, builder, BUILD_PACKAGES)
        environ["IDTOKEN_SIDECAR_COMPILED"] = "1"
    shutil.rmtree(into, ignore_errors=True)
    command = [str(builder / "bin" / "python"), "-m", "hatchling", "build", "--target", "wheel"]
    execute([*command, "--directory", str(into)], environ, REPOSITORY)
    [wheel] = into.glob("*.whl")
    return wheel


def _environment(python: Path, place: Path, packages: Path) -> None:
    """A virtual environment with these packages and no others, unless it is there."""
    stamp, state = place / "packages", digest([packages])
    if _said(stamp) == state:
        return
    say(f"installing the packages of {packages.name} into {os.path.relpath(place)}")
    shutil.rmtree(place, ignore_errors=True)
    execute([str(python), "-m", "venv", str(place)], _environ())
    execute([*_pip(place), "--no-deps", "--require-hashes", "-r", str(packages)], _environ())
    stamp.write_text(state)


def _pip(place: Path) -> list[str]:
    return [str(place / "bin" / "python"), "-m", "pip", "-qq", "--disable-pip-version-check", "install"]


def _said(stamp: Path) -> str:
    """What it was made of the last time; empty when it wasn't, or not to its end."""
    return stamp.read_text() if stamp.exists() else ""


def _environ() -> dict[str, str]:
    """This one, without what would lead a Python to the packages of another or to other flags of the compiler."""
    ours = ("PYTHONPATH", "PYTHONHOME", "IDTOKEN_SIDECAR_COMPILED", "CFLAGS", "LDFLAGS", "CC")
    return {name: value for name, value in os.environ.items() if name not in ours}
