"""What is released: the same bytes each time, with what belongs in it and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from release import sbom

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = PROJECT["version"]
EPOCH = "1700000000"


def tracked() -> list[str]:
    """What a clone holds, and what would be in it after the next commit."""
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in out.splitlines() if (ROOT / name).is_file()]


def built(directory: Path, source: Path | None = None) -> Mapping[str, Path]:
    """A wheel and a source distribution, built from a copy of the tree."""
    tree = directory / "tree"
    if source is None:
        for name in tracked():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    else:
        with tarfile.open(source) as archive:
            archive.extractall(tree, filter="data")
        (tree,) = tree.iterdir()
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory / "dist"), str(tree)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {path.suffix: path for path in (directory / "dist").iterdir()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return built(tmp_path_factory.mktemp("first"))


@pytest.mark.test_all
def test_two_builds_are_the_same_bytes(first: Mapping[str, Path], tmp_path: Path) -> None:
    again = built(tmp_path)
    assert {kind: (path.name, digest(path)) for kind, path in first.items()} == {
        kind: (path.name, digest(path)) for kind, path in again.items()
    }


@pytest.mark.test_all
def test_the_source_distribution_builds_the_same_wheel(first: Mapping[str, Path], tmp_path: Path) -> None:
    again = built(tmp_path, first[".gz"])
    assert digest(again[".whl"]) == digest(first[".whl"])


def test_the_wheel_holds_the_package_and_nothing_else(first: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(first[".whl"]) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"idtoken_sidecar-{VERSION}.dist-info/METADATA").decode()
        entry_points = wheel.read(f"idtoken_sidecar-{VERSION}.dist-info/entry_points.txt").decode()
    package = {name for name in tracked() if name.startswith("sidecar/")}
    about = f"idtoken_sidecar-{VERSION}.dist-info/"
    data = f"idtoken_sidecar-{VERSION}.data/"
    assert {name for name in names if not name.startswith((about, data))} == package
    assert "sidecar/py.typed" in names
    assert about + "licenses/LICENSE" in names
    assert {name.removeprefix(data) for name in names if name.startswith(data)} == {
        name for name in tracked() if name.startswith("data/")
    }
    assert f"\nVersion: {VERSION}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "idtoken-sidecar=sidecar.cli.commands:main" in entry_points.replace(" ", "")


@pytest.mark.test_all
def test_the_wheel_works_where_it_is_installed(first: Mapping[str, Path], tmp_path: Path) -> None:
    """Its own code, beside the dependencies that are here; no index is asked."""
    target = tmp_path / "installed"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            str(target),
            str(first[".whl"]),
        ],
        check=True,
        timeout=120,
    )
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sidecar; print(sidecar.__path__[0]); from sidecar.cli.commands import main; main(['--version'])",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert done.stdout.splitlines() == [
        str(target / "sidecar"),
        f"idtoken-sidecar, version {VERSION} (pure)",
    ], done.stderr
    assert (target / "share/man/man1/idtoken-sidecar.1").exists()


def test_the_version_stands_in_one_place() -> None:
    for name in tracked():
        if name.endswith((".py", ".toml")) and not name.startswith("tests/"):
            text = (ROOT / name).read_text("utf-8")
            found = re.findall(rf'version\w*\s*=\s*"{re.escape(VERSION)}"', text)
            assert len(found) == (1 if name == "pyproject.toml" else 0), name


def test_the_changelog_begins_with_this_version() -> None:
    """Under its heading with a date, unless something newer is unreleased; with what to change when one comes to it."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = [line for line in re.findall(r"^## (.+)$", text, re.MULTILINE) if line != "Unreleased"]
    assert re.fullmatch(rf"{re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)", headings[0])
    assert "### Upgrade notes" in text


def test_documents_and_manifests_name_the_image_of_this_version() -> None:
    """Those that `make docs` does not write, too."""
    for name in tracked():
        if name.startswith(("docs/", "deploy/")) and name.endswith((".md", ".yaml")):
            text = (ROOT / name).read_text("utf-8")
            named = re.findall(r"/idtoken-sidecar:(\d[\w.]*)", text) + re.findall(r"newTag: (\S+)", text)
            assert set(named) <= {VERSION}, name


# the bill of materials


def pins() -> dict[str, str]:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", lock, re.MULTILINE))


def test_the_bill_of_materials_is_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    document = sbom.document(PROJECT, lock, made_at=int(EPOCH))
    found = {component["name"]: component["version"] for component in document["components"]}
    assert found == {name: version for name, version in pins().items() if name not in sbom.NOT_INSTALLED}
    hashes = [item["content"] for component in document["components"] for item in component["hashes"]]
    assert all(component["hashes"] for component in document["components"])
    assert set(hashes) <= set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    (relation,) = document["dependencies"]
    assert len(relation["dependsOn"]) == len(found)
    again = sbom.document(PROJECT, lock, made_at=int(EPOCH))
    assert json.dumps(again) == json.dumps(document)
    assert sbom.document(PROJECT, lock + "x==1\n", made_at=0)["serialNumber"] != document["serialNumber"]


def test_a_pin_for_some_interpreters_only_says_so() -> None:
    (component,) = sbom.components(
        'cffi==2.0.0 ; platform_python_implementation != "PyPy" \\\n    --hash=sha256:' + "a" * 64 + "\n"
    )
    assert component["purl"] == "pkg:pypi/cffi@2.0.0"
    assert component["properties"][0]["value"].startswith("platform_python_implementation")


def test_a_wheel_can_be_made_of_what_the_dockerfile_copies(tmp_path: Path) -> None:
    """And of what .dockerignore lets into the build's context."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
        for name in line.split()
        if not name.startswith("requirements")
    ]
    let_in = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for name in copied:
        assert f"!{name}" in let_in
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
