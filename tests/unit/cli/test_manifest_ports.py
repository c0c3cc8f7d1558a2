"""`manifest`: a route that has no port of its own gets one, in the configuration and for the app"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sidecar.cli.commands import main
from sidecar.config.base_urls import configured_urls
from sidecar.config.load import load

ROUTES = """# ours
routes:
  - {name: billing, upstream: "https://billing-abc123-uc.a.run.app"}
  - {name: reports, upstream: "https://reports.example", target: iap, audience: x}
"""
URLS = {"billing": "http://localhost:8801", "reports": "http://localhost:8802"}
IMAGES = ["--image", "r/sidecar:1", "--app-image", "r/app:1"]
COMMANDS = [
    pytest.param(["cloud-run", "--project", "my-project", "--name", "my-app", *IMAGES], id="cloud-run"),
    pytest.param(["gke", "--name", "my-app", *IMAGES], id="gke"),
    pytest.param(["compose", "--name", "my-app", *IMAGES], id="compose"),
]


def manifest(words: list[str], text: str, directory: Path) -> str:
    file = directory / "config.yaml"
    file.write_text(text, "utf-8")
    done = CliRunner().invoke(main, ["manifest", words[0], "--config", str(file), *words[1:]])
    assert done.exit_code == 0, done.output
    return done.output


def configuration(output: str) -> str:
    """That of the sidecar, as a manifest gives it to it: in a ConfigMap, in Compose's, or by variables."""
    documents = [it for it in yaml.safe_load_all(output) if it]
    for document in documents:
        if document.get("kind") == "ConfigMap":
            return str(document["data"]["config.yaml"])
        if "configs" in document:
            return str(next(iter(document["configs"].values()))["content"]).replace("$$", "$")
    (containers,) = (
        it["spec"]["template"]["spec"]["containers"] for it in documents if it["kind"] == "Service"
    )
    given: dict[str, Any] = {}
    for variable in containers[1]["env"]:
        if variable["name"].startswith("IDTOKEN_SIDECAR_"):
            name = variable["name"].removeprefix("IDTOKEN_SIDECAR_").lower()
            given[name] = yaml.safe_load(variable["value"])
    return yaml.safe_dump({"allow_remote": True, **given})


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("text", [ROUTES, f"---\n{ROUTES}"], ids=["plain", "document-mark"])
def test_each_route_has_a_port(words: list[str], text: str, tmp_path: Path) -> None:
    """The app's variables and the sidecar's configuration say the same one; no name has to be resolved."""
    output = manifest(words, text, tmp_path)
    for name, url in URLS.items():
        assert re.search(rf"IDTOKEN_SIDECAR_URL_{name.upper()}\W+(value: )?{url}", output), name
    assert ".localhost:" not in output
    assert configured_urls(load(configuration(output), environ={}).config) == URLS


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize(
    "listen",
    [
        pytest.param("listen: localhost:9000\n", id="a-listener-of-their-own"),
        pytest.param("listen: [localhost:9000, auto]\n", id="ports-already"),
    ],
)
def test_what_is_written_down_stays(words: list[str], listen: str, tmp_path: Path) -> None:
    config = load(listen + ROUTES, environ={}).config
    output = manifest(words, listen + ROUTES, tmp_path)
    for url in configured_urls(config).values():
        assert url in output


def test_one_route_keeps_the_shared_port(tmp_path: Path) -> None:
    text = 'routes: [{name: billing, upstream: "https://billing-abc123-uc.a.run.app"}]\n'
    assert "http://localhost:8787" in manifest(["gke", "--name", "my-app", *IMAGES], text, tmp_path)
