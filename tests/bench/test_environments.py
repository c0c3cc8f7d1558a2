"""Which Python is measured, how it was built, and when what is installed for it is made anew."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import charts
import environments
import pytest
import report
from figures import Figures
from interpreter import Interpreter, judged, laid_out
from machine import describe
from measure import Plan, Results
from process import RunError
from products import REPOSITORY, Installed, Job, Setting, catalogue
from upstream import Certificates

IMAGE = Path("/debian/usr/bin/python3.11")
DEBIAN = Interpreter(
    version="3.11.2",
    said="3.11.2 (main, Oct  7 2026, 12:35:07) [GCC 12.2.0]",
    executable="/usr/bin/python3.11",
    compiler="GCC 12.2.0",
    level="",
    shared=False,
    pgo=True,
    lto=None,
    headers=True,
    venv=True,
)
PLAIN = replace(DEBIAN, level="-O3", shared=True, pgo=False, lto=False)


@pytest.mark.parametrize(
    ("release", "there", "found"),
    [
        pytest.param('ID=debian\nVERSION_ID="12"\n', True, True, id="debian 12"),
        pytest.param('ID=debian\nVERSION_ID="12"\n', False, False, id="without Python"),
        pytest.param('ID=debian\nVERSION_ID="13"\n', True, False, id="another Debian"),
        pytest.param('ID=other\nVERSION_ID="12"\nID_LIKE=debian\n', True, False, id="like Debian"),
        pytest.param("# VERSION_ID\nID=debian\nVARIANT=\n", True, False, id="unstable"),
        pytest.param(None, True, False, id="nameless"),
    ],
)
def test_the_image_s_python_is_debian_12_s(
    tmp_path: Path, release: str | None, there: bool, found: bool
) -> None:
    python = tmp_path / "usr/bin/python3.11"
    for path, content in ((tmp_path / "etc/os-release", release), (python, "" if there else None)):
        path.parent.mkdir(parents=True)
        if content is not None:
            path.write_text(content)
    assert environments.of_image(tmp_path) == (python if found else None)


def test_the_image_still_stands_on_it() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    assert "ARG BASE=gcr.io/distroless/python3-debian12:nonroot" in lines
    assert f"ARG BUILDER=docker.io/library/python:{environments.MINOR}-slim-bookworm" in lines


@pytest.mark.parametrize(
    ("asked", "image", "chosen"),
    [
        pytest.param(None, IMAGE, IMAGE, id="the image's"),
        pytest.param("image", IMAGE, IMAGE, id="the image's by name"),
        pytest.param("own", IMAGE, None, id="own, beside the image's"),
        pytest.param("own", None, None, id="own"),
        pytest.param(sys.executable, IMAGE, Path(sys.executable), id="a file"),
    ],
)
def test_which_python_is_measured(
    capsys: pytest.CaptureFixture[str], asked: str | None, image: Path | None, chosen: Path | None
) -> None:
    assert environments.choose(asked, image) == chosen
    assert capsys.readouterr().err == ""


def test_a_run_says_that_it_measures_another_python_than_the_image_s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert environments.choose(None, None) is None
    assert (
        "the image's Python is not here, which is Debian 12's /usr/bin/python3.11" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        pytest.param("image", "not here, .* give --python own", id="no image"),
        pytest.param("/nowhere/python", "--python /nowhere/python: no program there", id="no file"),
    ],
)
def test_a_python_that_is_not_here_ends_the_run(asked: str, says: str) -> None:
    with pytest.raises(RunError, match=says):
        environments.choose(asked, None)


def test_what_is_installed_is_made_anew_when_a_source_has_changed(tmp_path: Path) -> None:
    """Each step gives another digest, but what Python itself writes does not."""
    source, project = tmp_path / "sidecar", tmp_path / "pyproject.toml"
    (source / "proxy").mkdir(parents=True)
    (source / "a.py").write_text("a")
    project.write_text("[project]")
    seen = [environments.digest([source, project])]

    def changed() -> bool:
        seen.append(environments.digest([source, project]))
        return seen[-1] not in seen[:-1]

    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "a.pyc").write_bytes(b"0")
    assert not changed()
    (source / "a.py").write_text("b")
    assert changed()
    (source / "proxy" / "page.html").write_text("")
    assert changed()
    (source / "a.py").rename(source / "b.py")
    assert changed()
    project.write_text("[tool]")
    assert changed()


def test_each_build_of_python_has_environments_of_its_own(tmp_path: Path) -> None:
    builds = [
        DEBIAN,
        PLAIN,
        replace(DEBIAN, said="3.11.2 (main, Nov  9 2026)"),
        replace(DEBIAN, executable="/x"),
    ]
    homes = [environments.home(tmp_path, build).name for build in builds]
    assert len(set(homes)) == len(builds)
    assert homes[0].startswith("3.11.2-static-PGO-")
    assert homes[1].startswith("3.11.2-O3-")


def test_a_python_says_who_it_is() -> None:
    found = environments.ask(Path(sys.executable))
    assert (found.version, found.compiler) == (platform.python_version(), platform.python_compiler().strip())
    assert found.said == sys.version
    assert Path(found.executable).name.startswith("python")


def test_a_program_that_is_no_python_is_named() -> None:
    with pytest.raises(RunError, match="/bin/sh"):
        environments.ask(Path("/bin/sh"))


@pytest.mark.parametrize(
    ("lacks", "compiled", "needs"),
    [
        pytest.param({}, False, None, id="nothing"),
        pytest.param({"headers": False}, False, None, id="headers, which the pure build does without"),
        pytest.param({}, True, "install gcc libc6-dev ", id="a compiler"),
        pytest.param(
            {"headers": False, "venv": False},
            True,
            r"install python3\.11-venv python3\.11-dev gcc libc6-dev .*, or with --python own",
            id="all of it",
        ),
        pytest.param(
            {"venv": False, "executable": "/opt/python"},
            False,
            r"/opt/python lacks what Debian has in python3\.11-venv: take another Python",
            id="another Python's",
        ),
    ],
)
def test_what_is_needed_and_not_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: dict[str, Any], compiled: bool, needs: str | None
) -> None:
    """Where there is no apt-get, nor any other program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    python = replace(DEBIAN, **lacks)
    if needs is None:
        environments.require(python, compiled=compiled)
    else:
        with pytest.raises(RunError, match=needs):
            environments.require(python, compiled=compiled)


@pytest.mark.parametrize(
    ("configured", "fits", "seen", "judgement"),
    [
        pytest.param(False, True, None, False, id="not configured"),
        pytest.param(True, True, None, True, id="configured"),
        pytest.param(False, False, None, None, id="configured for another build"),
        pytest.param(True, False, None, True, id="asked of every build"),
        pytest.param(False, False, True, True, id="seen"),
        pytest.param(True, True, False, True, id="configured, and its linker leaves no trace"),
        pytest.param(False, False, False, False, id="not seen"),
    ],
)
def test_what_is_known_of_a_build(
    configured: bool, fits: bool, seen: bool | None, judgement: bool | None
) -> None:
    assert judged(configured, fits, seen) is judgement


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed here")
@pytest.mark.parametrize("kind", [["-shared", "-fPIC"], ["-pie", "-fPIE"], ["-no-pie"]], ids="".join)
@pytest.mark.parametrize("told", [True, False], ids=["with a profile", "without"])
def test_the_order_of_the_code_tells_whether_there_was_a_profile(
    tmp_path: Path, kind: list[str], told: bool
) -> None:
    """Attributes have the compiler do with a function what a profile would."""
    cold, hot = "__attribute__((cold))", "__attribute__((hot))"
    attributes = [cold, hot, ""] if told else [cold, *[""] * 19]
    lines = [
        f"{attributes[n % len(attributes)]} int f{n}(int a) {{ return a * {n} + a / 7; }}" for n in range(200)
    ]
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text("\n".join([*lines, "int main(void) { return f1(2); }", ""]))
    subprocess.run(["gcc", "-O2", *kind, "-o", str(program), str(source)], check=True)
    assert laid_out(program) is told


@pytest.mark.skipif(environments.of_image() is None, reason="this is not Debian 12")
def test_the_image_s_python_has_a_profile_and_no_library() -> None:
    """As docs/performance.md says, whatever its configuration says."""
    assert environments.ask(Path("/usr/bin/python3.11")).marks() == ["static", "PGO"]


def test_what_is_no_program_tells_nothing(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    assert laid_out(text) is None
    assert laid_out(tmp_path / "nothing") is None
    text.write_bytes(b"\x7fELF\x02\x01" + bytes(100))
    assert laid_out(text) is None


@pytest.mark.parametrize(
    ("python", "marks", "sentence"),
    [
        (DEBIAN, ["static", "PGO"], "GCC 12.2.0, PGO, LTO not known, not in a shared library"),
        (PLAIN, ["-O3"], "GCC 12.2.0, -O3, no PGO, no LTO, in libpython"),
        (
            replace(PLAIN, shared=None, pgo=None, lto=True),
            ["-O3", "LTO"],
            "GCC 12.2.0, -O3, PGO not known, LTO",
        ),
    ],
    ids=["debian", "plain", "unknown"],
)
def test_the_words_for_a_build(python: Interpreter, marks: list[str], sentence: str) -> None:
    assert python.marks() == marks
    assert python.sentence() == sentence


def test_the_report_and_its_charts_say_which_python_and_how_it_was_built() -> None:
    facts = describe(REPOSITORY, DEBIAN, "")
    text = report.render("Benchmark", facts, Plan([], 1, 1, 0, 1, 1), Results(), Figures())
    assert (
        "- product's Python: Python 3.11.2 (main, Oct 7 2026, 12:35:07) [GCC 12.2.0], /usr/bin/python3.11\n"
        "- built with: GCC 12.2.0, PGO, LTO not known, not in a shared library\n"
    ) in text
    data = report.document("Benchmark", facts, Figures(), quick=True)
    assert dict(facts)["built with"] == DEBIAN.sentence()
    assert data["facts"] == dict(facts)
    [line] = [line for line in charts.notes("today", dict(facts)) if "Python" in line]
    assert f"; Python 3.11.2: {DEBIAN.sentence()};" in line


def test_all_that_is_ours_runs_on_the_same_python(tmp_path: Path) -> None:
    """An earlier commit is compared with this one, and not one Python with another."""
    keys = Certificates(*(tmp_path / name for name in ("ca", "server", "key")))
    setting = Setting(tmp_path, 1, 2, 3, 4, None, keys, Job())
    installed = Installed(tmp_path / "pure/bin/idtoken-sidecar", tmp_path / "compiled/bin/idtoken-sidecar")
    known = catalogue(envoy="", go="", sidecar_command="", earlier=tmp_path / "earlier", installed=installed)
    commands = {product.name: product.prepare(setting).argv for product in known[:3]}
    assert commands["sidecar"][0] == str(installed.sidecar)
    assert commands["compiled"][0] == str(installed.compiled)
    assert commands["earlier"][:3] == [
        "env", f"PYTHONPATH={tmp_path / 'earlier'}", str(tmp_path / "pure/bin/python"),
    ]  # fmt: skip
    given = catalogue(envoy="", go="", sidecar_command="true {port}", earlier=None, installed=installed)[0]
    assert (given.title, given.prepare(setting).argv) == ("the command given", ["true", "1"])
