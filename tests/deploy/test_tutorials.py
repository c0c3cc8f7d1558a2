"""The Cloud Run and GKE tutorials: what they write is checked, and what it would run is run, up to the verified call."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
import yaml
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from sidecar.emulator.running import EmulatorThread
from sidecar.service.build import own_version
from tests.deploy.test_deploy import (
    DEPLOY,
    KUBECTL,
    ROOT,
    check_kubernetes,
    check_pod,
    documents,
    needs_kubectl,
    run,
    schema,
)
from tests.docs.test_commands import FENCED, GCLOUD_TREE, check_gcloud
from tests.support.forks import stand_in
from tests.support.sidecar import COMMAND, LIMIT, clean_environment, free_port

VARIABLES = {
    "PROJECT": "my-project",
    "REGION": "europe-west1",
    "IMAGES": "europe-west1-docker.pkg.dev/my-project/images",
}
NOT_RUN = "# Not run by our tests"
TUTORIALS = ("cloud-run", "gke")
UPSTREAM = "https://billing-123456789012.europe-west1.run.app"


def text_of(page: str) -> str:
    return (ROOT / f"docs/tutorials/{page}.md").read_text("utf-8")


def followed(page: str, directory: Path) -> None:
    """Its configuration written, and every block run that does not say that it isn't."""
    (config,) = re.findall(r"```yaml\n(.*?)```", text_of("cloud-run"), re.DOTALL)
    assert UPSTREAM in config
    (directory / "config.yaml").write_text(config, "utf-8")
    ran = [block for _, block in FENCED.findall(text_of(page)) if not block.startswith(NOT_RUN)]
    assert ran
    for block in ran:
        done = subprocess.run(
            ["sh", "-eu"],
            input=block,
            capture_output=True,
            text=True,
            timeout=LIMIT * 3,
            cwd=directory,
            env={**os.environ, **VARIABLES, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_step_that_is_not_run_says_so(page: str) -> None:
    """And it is one that takes gcloud, a cluster, or what they gave."""
    for _, block in FENCED.findall(text_of(page)):
        needs_google = re.search(r"^(gcloud|kubectl|curl|sh grants.sh)\b", block, re.MULTILINE)
        assert block.startswith(NOT_RUN) == bool(needs_google), block


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_no_grants_are_piped_into_a_shell_unread(page: Path) -> None:
    assert not re.search(r"manifest iam\b.*\| *(sudo )?sh", page.read_text("utf-8"))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_a_service_account_may_be_named_so(page: Path) -> None:
    """Six to thirty characters: https://cloud.google.com/iam/docs/service-accounts-create"""
    text = page.read_text("utf-8")
    names = re.findall(r"service-accounts create (\S+)|serviceAccount:([\w-]+)@", text)
    assert [name for found in names for name in found if name and not 6 <= len(name) <= 30] == []


@contextlib.contextmanager
def process(command: list[str], environ: Mapping[str, str]) -> Iterator[None]:
    started = subprocess.Popen(command, env=clean_environment(**environ))
    try:
        yield
    finally:
        started.kill()
        started.wait()


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def verified_call(sidecar: dict[str, Any], app: dict[str, Any], config: str | None, directory: Path) -> str:
    """What the app says, where these containers share a loopback with a stand-in for Google, on ports of this test."""
    with EmulatorThread() as google:
        billing = google.add_target("billing")
        moved = {"8801": str(free_port()), "9787": str(free_port()), UPSTREAM: billing.url}

        def here(text: str) -> str:
            for old, new in moved.items():
                text = text.replace(old, new)
            return text.replace("/etc/idtoken-sidecar/config.yaml", str(directory / "mounted.yaml"))

        if config is not None:
            (directory / "mounted.yaml").write_text(here(config), "utf-8")
        environ = {name: here(value) for name, value in variables(sidecar).items()} | {
            **google.google.environment(),
            "IDTOKEN_SIDECAR_LISTEN": "localhost:0",
        }
        port = free_port()
        with process([*stand_in(), *map(here, sidecar["args"])], environ):
            run(*COMMAND, "wait", "--admin", f"localhost:{moved['9787']}", "--timeout", "30s")
            urls = {name: here(value) for name, value in variables(app).items()}
            with process([sys.executable, str(DEPLOY / "example-app/app.py")], {**urls, "PORT": str(port)}):
                answer = called(f"http://127.0.0.1:{port}/")
        assert billing.requests[-1].verified is not None
        return answer


def called(url: str) -> str:
    """Once the app listens."""
    patience = Retry(total=60, connect=60, read=0, redirect=0, status=0, backoff_factor=0.1, backoff_max=0.5)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=patience))
        answer = session.get(url, timeout=LIMIT)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_cloud_run_ends_in_a_verified_call(tmp_path: Path) -> None:
    followed("cloud-run", tmp_path)
    (service,) = documents((tmp_path / "service.yaml").read_text("utf-8"))
    jsonschema.validate(service, schema("cloud-run"))
    spec = service["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "my-app@my-project.iam.gserviceaccount.com"
    app, sidecar = spec["containers"]
    assert (app["image"], sidecar["image"]) == (
        f"{VARIABLES['IMAGES']}/example-app:1",
        f"{VARIABLES['IMAGES']}/idtoken-sidecar:{own_version()}",
    )
    assert verified_call(sidecar, app, None, tmp_path).startswith("billing answered 200\n")


def test_the_grants_are_whole_commands(tmp_path: Path) -> None:
    followed("cloud-run", tmp_path)
    script = (tmp_path / "grants.sh").read_text("utf-8").replace("\\\n", " ")
    (line,) = (line for line in script.splitlines() if line.startswith("gcloud "))
    assert shlex.split(line)[4:] == [
        "billing",
        "--region=europe-west1",
        "--member=serviceAccount:my-app@my-project.iam.gserviceaccount.com",
        "--role=roles/run.invoker",
    ]
    if GCLOUD_TREE.exists():
        check_gcloud(shlex.split(line))


@pytest.mark.test_all
@needs_kubectl
def test_gke_ends_in_a_verified_call(tmp_path: Path) -> None:
    followed("gke", tmp_path)
    resources = documents((tmp_path / "shop.yaml").read_text("utf-8"))
    for resource in resources:
        check_kubernetes(resource)
    kinds = {resource["kind"]: resource for resource in resources}
    template = kinds["Deployment"]["spec"]["template"]
    check_pod(template)
    assert template["spec"]["serviceAccountName"] == "shop"
    (sidecar,), (app,) = template["spec"]["initContainers"], template["spec"]["containers"]
    config = kinds["ConfigMap"]["data"]["config.yaml"]
    assert verified_call(sidecar, app, config, tmp_path).startswith("billing answered 200\n")

    (tmp_path / "bare.yaml").write_text(
        run(KUBECTL, "create", "deployment", "shop", "--image=i:1", "--dry-run=client", "--output=yaml"),
        "utf-8",
    )
    patched = run(
        *(KUBECTL, "patch", "--local", "--filename", tmp_path / "bare.yaml"),
        *("--patch-file", tmp_path / "sidecar.yaml", "--output", "yaml"),
    )
    spec = yaml.safe_load(patched)["spec"]["template"]["spec"]
    assert [container["name"] for container in spec["containers"]] != []
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text("resources: [bare.yaml]\ncomponents: [../idtoken-sidecar]\n")
    (overlay / "bare.yaml").write_text((tmp_path / "bare.yaml").read_text("utf-8"), "utf-8")
    built = documents(run(KUBECTL, "kustomize", overlay))
    (deployment,) = (resource for resource in built if resource["kind"] == "Deployment")
    (added,) = deployment["spec"]["template"]["spec"]["initContainers"]
    assert added == {**sidecar, "volumeMounts": added["volumeMounts"]}
