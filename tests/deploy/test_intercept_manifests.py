"""Manifests of a configuration with `intercept`: the app's container trusts what the sidecar writes, and calls through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sidecar.config.load import load
from tests.deploy.test_deploy import (
    COMMAND,
    IMAGES,
    PROJECT,
    check_kubernetes,
    check_pod,
    documents,
    pods,
    run,
    schema,
)

BUNDLE = "/run/idtoken-sidecar/ca-bundle.pem"
CONFIG = f"""
listen: localhost:8787
intercept: {{bundle_file: {BUNDLE}}}
routes:
  - {{name: billing, upstream: "https://billing-abc123-uc.a.run.app", intercept: true}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG, "utf-8")
    return file


def led(container: dict[str, Any]) -> None:
    """Its environment leads https through the sidecar, and names the bundle."""
    found = {entry["name"]: entry["value"] for entry in container["env"]}
    assert (found["HTTPS_PROXY"], found["http_proxy"]) == ("http://localhost:8787",) * 2
    assert "169.254.169.254" in found["NO_PROXY"].split(",")
    assert {name for name, value in found.items() if value == BUNDLE} == {
        *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    }


def shared(app: dict[str, Any], sidecar: dict[str, Any], volumes: list[dict[str, Any]]) -> dict[str, Any]:
    """The app's mount of the directory that the sidecar writes to, which is a volume in memory."""
    (written,) = (it for it in sidecar["volumeMounts"] if it["mountPath"] == str(Path(BUNDLE).parent))
    (volume,) = (it for it in volumes if it["name"] == written["name"])
    assert volume["emptyDir"]["medium"] == "Memory"
    (mount,) = app["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (written["name"], written["mountPath"])
    found: dict[str, Any] = mount
    return found


@pytest.mark.parametrize("arguments", [(), ("--job",)])
def test_on_kubernetes(config: Path, arguments: tuple[str, ...]) -> None:
    """The app can read the bundle, and not replace it."""
    resources = documents(run(*COMMAND, "manifest", "gke", *IMAGES, *arguments, "--config", config))
    for resource in resources:
        check_kubernetes(resource)
    (template,) = pods(resources)
    check_pod(template)
    spec = template["spec"]
    (app,) = spec["containers"]
    led(app)
    assert shared(app, spec["initContainers"][0], spec["volumes"])["readOnly"] is True


def test_googles_token_endpoints_are_a_reason_by_themselves(config: Path) -> None:
    """No route has its https read, and the app is to ask by https for placeholders."""
    text = CONFIG.replace(", intercept: true", "")
    for more, are_led in (("", False), ("google_token_endpoints: {}\n", True)):
        config.write_text(text + more, "utf-8")
        (template,) = pods(documents(run(*COMMAND, "manifest", "gke", *IMAGES, "--config", config)))
        (app,) = template["spec"]["containers"]
        assert ("volumeMounts" in app) is are_led
        if are_led:
            led(app)


@pytest.mark.parametrize("arguments", [(), ("--job",)])
def test_on_cloud_run(config: Path, arguments: tuple[str, ...]) -> None:
    """A service and a job; the sidecar is up before the app starts."""
    (document,) = documents(
        run(*COMMAND, "manifest", "cloud-run", *IMAGES, *PROJECT, *arguments, "--config", config)
    )
    jsonschema.validate(document, schema("cloud-run"))
    spec = document["spec"]["template"]["spec"]
    spec = spec["template"]["spec"] if arguments else spec
    app, sidecar = spec["containers"]
    led(app)
    shared(app, sidecar, spec["volumes"])


def test_as_a_kustomize_component(config: Path, tmp_path: Path) -> None:
    """Its ConfigMap has the variables, and a comment what to mount."""
    run(*COMMAND, "manifest", "gke", "--component", tmp_path / "out", *IMAGES[:2], "--config", config)
    text = (tmp_path / "out" / "kustomization.yaml").read_text("utf-8")
    assert f"- SSL_CERT_FILE={BUNDLE}" in text
    assert "{name: idtoken-sidecar-ca, mountPath: /run/idtoken-sidecar, readOnly: true}" in text


def test_with_compose(config: Path) -> None:
    """The stand-in's target is behind the same host, the sidecar reads its https, and the app trusts what it writes."""
    config.write_text(CONFIG + "google_token_endpoints: {scopes: [a]}\n", "utf-8")
    (document,) = documents(run(*COMMAND, "manifest", "compose", *IMAGES, "--config", config))
    sidecar, app = document["services"]["sidecar"], document["services"]["app"]
    led({"env": [{"name": name, "value": value} for name, value in app["environment"].items()]})
    assert (sidecar["volumes"], app["volumes"]) == (
        ["ca:/run/idtoken-sidecar"],
        ["ca:/run/idtoken-sidecar:ro"],
    )
    assert document["volumes"]["ca"]["driver_opts"]["type"] == "tmpfs"
    found = load(document["configs"]["idtoken-sidecar"]["content"].replace("$$", "$"), environ={}).config
    assert found.intercept is not None
    assert found.google_token_endpoints is not None
    assert (found.intercept.bundle_file, found.google_token_endpoints.scopes) == (BUNDLE, ("a",))
    (route,) = found.routes
    assert (route.host, route.intercept) == (("billing-abc123-uc.a.run.app",), True)


@pytest.mark.parametrize(
    ("directory", "lines"),
    [
        pytest.param("/run/idtoken-sidecar", ["RuntimeDirectory=idtoken-sidecar"], id="of-systemds-making"),
        pytest.param("/srv/trust", ["ReadWritePaths=/srv/trust"], id="another"),
    ],
)
def test_under_systemd(config: Path, directory: str, lines: list[str]) -> None:
    """The unit may write there, and nowhere else."""
    config.write_text(CONFIG.replace("/run/idtoken-sidecar", directory), "utf-8")
    text = run(*COMMAND, "manifest", "systemd", "--config", config)
    found = [it for it in text.splitlines() if it.startswith(("RuntimeDirectory=", "ReadWritePaths="))]
    assert found == lines
