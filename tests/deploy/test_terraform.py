"""deploy/terraform and `manifest iam --terraform`: each argument by the google provider's schema.

`terraform validate` would take the provider from a registry of its own. Instead HCL is parsed, and held against what the
provider's bindings say (`terraform_schema.py`); what is computed from a configuration is computed by terraform itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import load
from sidecar.manifest.plan import Plan
from tests.deploy.test_deploy import DEPLOY, manifest, schema

MODULE = DEPLOY / "terraform/cloud-run"
RESOURCES: dict[str, Any] = schema("terraform-google")["resources"]
META = {"count", "for_each", "depends_on", "lifecycle", "provider"}
"""What Terraform itself takes in every resource."""

TERRAFORM = shutil.which("terraform") or shutil.which("tofu")
needs_terraform = pytest.mark.skipif(TERRAFORM is None, reason="neither terraform nor tofu is installed")


def parsed(text: str) -> dict[str, Any]:
    hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed (`make test-all` does it)")
    found: dict[str, Any] = hcl2.loads(text)
    return found


def resources(text: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (kind.strip('"'), body)
        for resource in parsed(text).get("resource", [])
        for kind, named in resource.items()
        for body in named.values()
    ]


def check(
    where: str, body: dict[str, Any], known: dict[str, Any], extra: frozenset[str] = frozenset()
) -> None:
    """No argument that is not there, none missing that must be; blocks within, and those that `dynamic` makes."""
    given = {name: value for name, value in body.items() if not name.startswith("__")}
    for dynamic in given.pop("dynamic", []):
        for name, block in dynamic.items():
            if not name.startswith("__"):
                given.setdefault(name.strip('"'), []).extend(block["content"])
    assert set(given) <= set(known) | extra, (where, set(given) - set(known))
    assert {name for name, entry in known.items() if entry["required"]} <= set(given), where
    for name, value in given.items():
        blocks = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
        assert bool(blocks) == ("block" in known.get(name, {})), (where, name)
        for block in blocks:
            check(f"{where}.{name}", block, known[name]["block"])


def check_all(found: list[tuple[str, dict[str, Any]]]) -> None:
    for kind, body in found:
        check(kind, body, RESOURCES[kind], frozenset(META))


def test_the_provider_knows_every_argument_of_the_module() -> None:
    found = resources((MODULE / "main.tf").read_text("utf-8"))
    assert len(found) == 3
    check_all(found)


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        pytest.param("container_port", "port", id="an-argument-that-is-not-there"),
        pytest.param('  role     = "roles/run.invoker"\n', "", id="one-that-must-be"),
        pytest.param("startup_probe {", "startup_prob {", id="a-block-that-is-not-there"),
    ],
)
def test_what_the_provider_does_not_know_is_found(written: str, wrong: str) -> None:
    text = (MODULE / "main.tf").read_text("utf-8")
    assert written in text
    with pytest.raises(AssertionError):
        check_all(resources(text.replace(written, wrong)))


def test_the_provider_knows_every_argument_of_the_grants() -> None:
    text = manifest(
        *("iam", "--terraform", "--member", "serviceAccount:app@p.iam.gserviceaccount.com"),
        *("--service", "reports", "--resource-type", "backend-services"),
    )
    found = resources(text)
    assert [kind for kind, _ in found] == [
        "google_cloud_run_v2_service_iam_member",
        "google_iap_web_backend_service_iam_member",
    ]
    check_all(found)


def test_the_module_probes_where_manifest_does() -> None:
    """The same paths, periods and limits as deploy/cloudrun/service.yaml."""
    text = (MODULE / "main.tf").read_text("utf-8")
    (service,) = (body for kind, body in resources(text) if kind == "google_cloud_run_v2_service")
    app, sidecar = service["template"][0]["containers"]
    assert app["depends_on"] == ['"idtoken-sidecar"']
    assert sidecar["args"] == ['"run"']
    assert "ports" not in sidecar  # the ingress container is the one with a port
    manifested = (DEPLOY / "cloudrun/service.yaml").read_text("utf-8")
    for probe in ("startup_probe", "liveness_probe"):
        (block,) = sidecar[probe]
        path = block["http_get"][0]["path"].strip('"')
        assert f"path: {path}, " in manifested
        for ours, theirs in (("period_seconds", "periodSeconds"), ("timeout_seconds", "timeoutSeconds")):
            assert f"{theirs}: {block[ours]}\n" in manifested.partition(path)[2]


CONFIG = """\
routes:
  - {name: billing, upstream: 'https://billing-123456789012.europe-west1.run.app', listen: localhost:8801}
  - {name: price-list, upstream: 'https://prices.example.com', listen: ['127.0.0.1:8802'], target: iap, audience: a}
  - {name: shared, upstream: 'https://shared-123456789012.us-east1.run.app'}
token_wait: 7s
allow_remote: false
"""


def terraform(
    directory: Path, *words: str, text: str = "", **values: Any
) -> subprocess.CompletedProcess[str]:
    """With the module's variables and locals, which take no provider, and these values for the variables."""
    for name in ("variables.tf", "locals.tf"):
        shutil.copy(MODULE / name, directory)
    given = {
        "project": "my-project",
        "region": "europe-west1",
        "name": "shop-app",
        "image": "i",
        "app_image": "a",
    }
    (directory / "terraform.tfvars.json").write_text(
        json.dumps({**given, "config": CONFIG, **values}), "utf-8"
    )
    return subprocess.run(
        [str(TERRAFORM), *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=directory,
        env={**os.environ, "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull},
    )


def computed(directory: Path, expression: str, **values: Any) -> Any:
    """By terraform itself."""
    done = terraform(directory, "console", text=f"jsonencode({expression})\n", **values)
    assert done.returncode == 0, done.stderr
    return json.loads(json.loads(done.stdout.strip().splitlines()[-1]))


@needs_terraform
def test_the_module_computes_what_manifest_writes(tmp_path: Path) -> None:
    found = computed(tmp_path, "{urls = local.urls, environment = local.environment, called = local.called}")
    config = load(CONFIG, environ={"K_SERVICE": "shop"}).config
    urls = Plan(config, CONFIG).base_urls()
    assert found["urls"] == {name: url for name, url in urls.items() if ".localhost" not in url}
    assert len(found["urls"]) == 2
    assert found["called"] == {
        "billing": {"service": "billing", "location": "europe-west1", "project": None},
        "shared": {"service": "shared", "location": "us-east1", "project": None},
    }
    read = load(None, environ={**found["environment"], "K_SERVICE": "shop"}).config
    assert read.routes == config.routes
    assert (read.token_wait, read.allow_remote, str(read.admin[0])) == (7.0, False, "0.0.0.0:9787")


@needs_terraform
def test_what_a_host_does_not_tell_can_be_said(tmp_path: Path) -> None:
    said = {"shared": {"service": "other", "location": "us-east4", "project": "elsewhere"}}
    assert computed(tmp_path, "local.called", services=said)["shared"] == said["shared"]


@needs_terraform
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"config": "routes: []"}, "needs YAML with `routes`"),
        (
            {"config": CONFIG + 'credentials: {default: {type: static, token: "${TOKEN}"}}'},
            "No secret may stand here",
        ),
        ({"name": "Shop"}, "lower-case letters"),
    ],
    ids=["no-routes", "variables", "name"],
)
def test_what_can_not_work_is_refused(tmp_path: Path, values: dict[str, str], said: str) -> None:
    done = terraform(tmp_path, "plan", "-no-color", "-input=false", **values)
    assert done.returncode == 1
    assert said in re.sub(r"[\s│]+", " ", done.stderr)


@needs_terraform
def test_terraform_would_write_the_module_as_it_is() -> None:
    done = subprocess.run(
        [str(TERRAFORM), "fmt", "-check", "-diff", str(MODULE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TF_CLI_CONFIG_FILE": os.devnull},
    )
    assert done.returncode == 0, done.stdout
