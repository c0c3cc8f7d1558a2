"""Documents that can't rot: examples load, generated pages are current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from docs import generate
from docs.links import pages
from sidecar.cli.advice import WHOSE
from sidecar.cli.commands import main
from sidecar.config.allow import Allow
from sidecar.config.credentials import CREDENTIAL_TYPES
from sidecar.config.groups import Drain, Limits, PoolSettings, Timeouts, Tls, Tracing
from sidecar.config.listeners import ListenerTls
from sidecar.config.load import load
from sidecar.observe.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGES = pages()
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_yaml_blocks_are_configurations(block: str) -> None:
    """A reader may paste them."""
    load(block, environ={})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_metric_that_is_named_exists(page: Path) -> None:
    """As an operator would type it; a rule's own name has a colon."""
    known = {family.name for family in FAMILIES}
    for name in re.findall(r"\bidtoken_sidecar_\w+", page.read_text("utf-8")):
        assert name in known or re.sub("_(bucket|sum|count)$", "", name) in known, name


KEYS: dict[str, set[str]] = {
    "allow": {*Allow.model_fields},
    "drain": {*Drain.model_fields},
    "limits": {*Limits.model_fields},
    "pool": {*PoolSettings.model_fields},
    "timeouts": {*Timeouts.model_fields},
    "tls": {*Tls.model_fields, *ListenerTls.model_fields},
    "tracing": {*Tracing.model_fields},
}
"""Of each section."""


@pytest.mark.parametrize("page", [*PAGES, ROOT / "config.example.yaml"], ids=lambda page: page.name)
def test_every_key_that_is_named_exists(page: Path) -> None:
    """Where it stands with its section: `limits.head`."""
    named = re.findall(rf"`(?:routes\[\]\.)?({'|'.join(KEYS)})\.(\w+)`", page.read_text("utf-8"))
    assert all(key in KEYS[section] for section, key in named), named


ATTACKS = [
    pytest.param(line, id=line[2:40].strip().replace(" ", "-"))
    for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| attack", "| mistake"))
]


@pytest.mark.parametrize("line", ATTACKS)
def test_every_line_of_the_threat_model_has_its_test(line: str) -> None:
    """By path and name, and by the id of its case where there is one."""
    shown = re.findall(r"`(tests/[\w/]+\.py)::(\w+)(?:\[([\w-]+)\])?`", line.split(" | ")[-1])
    assert shown
    cases = {path.stem for path in (ROOT / "tests" / "cases").rglob("*.yaml")}
    for path, name, case in shown:
        text = (ROOT / path).read_text("utf-8")
        assert f"def {name}(" in text, name
        assert not case or case in cases or f'id="{case}"' in text, case


def test_the_readme_is_short() -> None:
    """A page to read in five minutes; what is longer stands in docs/."""
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900


def test_every_type_of_credential_says_whose_token_it_gives() -> None:
    """In the table of docs/targets.md."""
    assert WHOSE.keys() == CREDENTIAL_TYPES.keys()


def test_generated_pages_are_current() -> None:
    """`make docs` writes them."""
    assert generate.main(["--check"]) == 0


def test_every_commands_help_begins_with_what_it_is_for() -> None:
    """And every option of it says what it does."""
    runner = CliRunner()
    for path in (
        [],
        ["run"],
        ["exec"],
        ["config"],
        ["config", "show"],
        ["wait"],
        ["healthcheck"],
        ["quit"],
        ["demo"],
    ):
        result = runner.invoke(main, [*path, "--help"])
        assert result.exit_code == 0
        assert len(result.output.splitlines()) > 5
