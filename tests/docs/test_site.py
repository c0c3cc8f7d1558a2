"""The site of the documents, as mkdocs builds it"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sidecar.cli.commands import main
from sidecar.errors import Reason
from sidecar.observe.families import FAMILIES
from sidecar.proxy.refusals.diagnosis import Cause
from tests.docs.test_docs import ROOT

pytestmark = pytest.mark.test_all


def commands() -> list[str]:
    """The name of each command, with those above it."""

    def walk(command: click.Command, path: str) -> list[str]:
        inner = command.commands.items() if isinstance(command, click.Group) else ()
        return [path, *(name for part, one in inner for name in walk(one, f"{path} {part}"))]

    context = click.Context(main)
    names = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return [path for name, one in names.items() if one for path in walk(one, f"idtoken-sidecar {name}")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_it_builds(site: Path) -> None:
    """`make docs`: every page in the navigation, every link to a page and a heading that is there."""
    assert (site / "tutorials" / "laptop.html").exists()


def test_search_finds_every_reason_metric_and_command(site: Path) -> None:
    """By its name, as a result of its own that leads to where it is explained; and by a part of its name."""
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    found = {re.sub(r"<[^>]+>", "", entry["title"]): entry["location"] for entry in index["docs"]}
    wanted = [*map(str, Reason), *map(str, Cause), *(family.name for family in FAMILIES), *commands()]
    assert [word for word in wanted if word not in found] == []
    for word in wanted:
        page, _, anchor = found[word].partition("#")
        assert f'id="{anchor}"' in (site / page).read_text("utf-8"), word
    assert "denied" in re.split(index["config"]["separator"], "token_denied")
