"""deploy/: every file by its platform's own schema, tool or client, and every configuration in it by the sidecar."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sidecar.config.load import PREFIX, load
from sidecar.config.models import Config
from tests.support import forks
from tests.support.sidecar import COMMAND

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.33"
LIMIT = 120.0

KUBECTL, GCLOUD, ANALYZE = (shutil.which(name) for name in ("kubectl", "gcloud", "systemd-analyze"))
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
needs_gcloud = pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def run(*command: str | Path | None, code: int = 0, directory: Path = ROOT) -> str:
    done = forks.run([str(part) for part in command], timeout=LIMIT, cwd=directory)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


IMAGE = "registry.example/idtoken-sidecar:1"
IMAGES = ("--image", IMAGE, "--app-image", "registry.example/app:1")
PROJECT = ("--project", "my-project", "--name", "my-app")


def manifest(*arguments: str) -> str:
    return run(*COMMAND, "manifest", *arguments, "--config", DEPLOY / "config.yaml")


def refused(*arguments: str) -> str:
    """What `manifest` says where it can't write one."""
    done = forks.run([*COMMAND, "manifest", *arguments], timeout=LIMIT)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    return done.stderr


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


# Kubernetes


def check_kubernetes(resource: dict[str, Any]) -> None:
    """By Kubernetes' OpenAPI, strictly; what Google added to it by its own schema."""
    if resource["kind"] == "PodMonitoring":
        jsonschema.validate(resource, schema("pod-monitoring"))
    else:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def pods(resources: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for resource in resources:
        if resource["kind"] in ("Deployment", "Job"):
            yield resource["spec"]["template"]


def check_pod(template: dict[str, Any]) -> None:
    """A native sidecar, as restricted as Pod Security asks for, with probes on a port that is there."""
    assert template["metadata"]["labels"]["idtoken-sidecar"] == "true"
    spec = template["spec"]
    (sidecar,) = (container for container in spec["initContainers"] if container["name"] == "idtoken-sidecar")
    assert sidecar["restartPolicy"] == "Always"
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert sidecar[probe]["httpGet"]["port"] in ports
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True
    assert sidecar["securityContext"]["runAsUser"] == 65532
    (admin,) = (entry["value"] for entry in sidecar["env"] if entry["name"] == f"{PREFIX}ADMIN")
    assert int(admin.rpartition(":")[2]) == ports["idtoken-admin"]
    assert spec["terminationGracePeriodSeconds"] > 25
    for container in [*spec["initContainers"], *spec["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["runAsNonRoot"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["seccompProfile"]["type"] == "RuntimeDefault"


@needs_kubectl
@pytest.mark.parametrize("overlay", ["example", "example-job"])
def test_the_component_makes_a_pod_with_a_sidecar(overlay: str) -> None:
    resources = documents(run(KUBECTL, "kustomize", DEPLOY / "gke" / overlay))
    for resource in resources:
        check_kubernetes(resource)
    assert sorted(
        resource["kind"] for resource in resources if resource["kind"] not in ("Deployment", "Job")
    ) == ["ConfigMap", "ConfigMap", "PodMonitoring"]
    (template,) = pods(resources)
    check_pod(template)
    maps = {
        resource["metadata"]["name"]: resource["data"]
        for resource in resources
        if resource["kind"] == "ConfigMap"
    }
    (volume,) = template["spec"]["volumes"]
    load(maps[volume["configMap"]["name"]]["config.yaml"], environ={})
    (app,) = template["spec"]["containers"]
    (source,) = app["envFrom"]
    assert maps[source["configMapRef"]["name"]] == {
        "IDTOKEN_SIDECAR_URL_BILLING": "http://localhost:8801",
        "IDTOKEN_SIDECAR_URL_REPORTS": "http://localhost:8802",
    }


@pytest.mark.parametrize("arguments", [(), ("--job",)])
def test_manifest_gke_is_whole(arguments: tuple[str, ...]) -> None:
    resources = documents(manifest("gke", *IMAGES, *arguments))
    assert {resource["kind"] for resource in resources} == {
        "ConfigMap",
        "PodMonitoring",
        "Job" if arguments else "Deployment",
    }
    for resource in resources:
        check_kubernetes(resource)
    (template,) = pods(resources)
    check_pod(template)
    environment = {entry["name"]: entry["value"] for entry in template["spec"]["containers"][0]["env"]}
    assert environment == {
        "IDTOKEN_SIDECAR_URL_BILLING": "http://localhost:8801",
        "IDTOKEN_SIDECAR_URL_REPORTS": "http://localhost:8802",
    }


@needs_kubectl
def test_the_patch_fits_a_deployment(tmp_path: Path) -> None:
    patch = tmp_path / "sidecar.yaml"
    patch.write_text(manifest("gke", "--patch", "--name", "shop", "--image", IMAGE), "utf-8")
    out = run(
        *(KUBECTL, "patch", "--local", "--filename", DEPLOY / "gke/example/deployment.yaml"),
        *("--patch-file", patch, "--output", "yaml"),
    )
    (deployment,) = documents(out)
    check_kubernetes(deployment)
    check_pod(deployment["spec"]["template"])
    (app,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {entry["name"] for entry in app["env"]} == {
        "LOG_LEVEL",
        "IDTOKEN_SIDECAR_URL_BILLING",
        "IDTOKEN_SIDECAR_URL_REPORTS",
    }


@needs_kubectl
def test_the_component_is_written_from_ones_own_configuration(tmp_path: Path) -> None:
    (image,) = re.findall(r"image: (.*)", (DEPLOY / "gke/component/sidecar.yaml").read_text("utf-8"))
    manifest("gke", "--component", str(tmp_path), "--image", image)
    written = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text("utf-8") for path in (DEPLOY / "gke/component").iterdir()}


@needs_kubectl
def test_a_network_policy_comes_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """It sees pods and not containers, so it cuts off what the app itself calls."""
    assert "NetworkPolicy" not in manifest("gke", *IMAGES)
    whole = manifest("gke", *IMAGES, "--network-policy")
    policy = documents(whole)[-1]
    check_kubernetes(policy)
    assert policy == yaml.safe_load((DEPLOY / "gke/network-policy.yaml").read_text("utf-8"))
    assert "WARNING: this cuts off what the APP calls, too" in whole
    manifest("gke", "--component", str(tmp_path / "component"), *IMAGES, "--network-policy")
    (tmp_path / "kustomization.yaml").write_text("components: [component]\n", "utf-8")
    kinds = [resource["kind"] for resource in documents(run(KUBECTL, "kustomize", tmp_path))]
    assert "NetworkPolicy" in kinds


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        pytest.param(("cloud-run",), {"--image", "--app-image", "--project"}, id="cloud-run"),
        pytest.param(("cloud-run", "--job"), {"--image", "--app-image", "--project"}, id="cloud-run-job"),
        pytest.param(("cloud-run", *IMAGES), {"--project"}, id="cloud-run-project"),
        pytest.param(("gke",), {"--image", "--app-image"}, id="gke"),
        pytest.param(("gke", "--patch"), {"--image"}, id="gke-patch"),
        pytest.param(("gke", "--component", "/nonexistent/component"), {"--image"}, id="gke-component"),
        pytest.param(("compose",), {"--image", "--app-image"}, id="compose"),
    ],
)
def test_what_nobody_said_is_an_error_and_not_a_placeholder(
    arguments: tuple[str, ...], missing: set[str]
) -> None:
    said = refused(*arguments, "--to", "https://a-1-uc.a.run.app")
    assert {line.split()[0] for line in said.splitlines() if line.startswith("  --")} == missing


def test_a_name_that_no_service_account_can_have_is_an_error() -> None:
    said = refused("cloud-run", *IMAGES, *PROJECT, "--name", "app", "--to", "https://a-1-uc.a.run.app")
    assert "6 to 30 characters" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("--image", "a b"), ("--app-image", "a\nb: c"), ("--project", "$(id)"), ("--name", "é")],
)
def test_a_value_that_is_no_image_or_name_is_an_error(option: str, value: str) -> None:
    said = refused("cloud-run", *IMAGES, *PROJECT, option, value, "--to", "https://a-1-uc.a.run.app")
    assert said.startswith(f"{option}: ")


def test_no_image_is_a_placeholder() -> None:
    found = [
        (image, path)
        for path in DEPLOY.rglob("*.yaml")
        for image in re.findall(r"image: (\S+)", path.read_text("utf-8"))
    ]
    assert found
    assert [(image, path) for image, path in found if re.search(r"REGION|PROJECT|VERSION", image)] == []


def test_the_network_policy_lets_out_to_tokens_targets_and_names_only() -> None:
    policy = yaml.safe_load((DEPLOY / "gke/network-policy.yaml").read_text("utf-8"))
    assert policy["spec"]["policyTypes"] == ["Egress"]
    ways = {
        (port["protocol"], port["port"]): [peer.get("ipBlock", {}).get("cidr") for peer in rule.get("to", [])]
        for rule in policy["spec"]["egress"]
        for port in rule["ports"]
    }
    assert set(ways) == {("UDP", 53), ("TCP", 53), ("TCP", 80), ("TCP", 988), ("TCP", 443)}
    assert ways["TCP", 80] == ways["TCP", 988] == ["169.254.169.254/32", "169.254.169.252/32"]


# Cloud Run

CLOUD_RUN = ["service.yaml", "service-with-metrics.yaml", "job.yaml"]


def containers(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = document["spec"]["template"]["spec"]
    found = spec["template"]["spec"]["containers"] if document["kind"] == "Job" else spec["containers"]
    return {container["name"]: container for container in found}


def configured(container: dict[str, Any], **environ: str) -> Config:
    """What the sidecar makes of a container's environment."""
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert not [name for name in variables if name.startswith(PREFIX) and "URL" in name]
    return load(None, environ={**variables, **environ}).config


@pytest.mark.parametrize("name", CLOUD_RUN)
def test_cloud_run_knows_every_field(name: str) -> None:
    (document,) = documents((DEPLOY / "cloudrun" / name).read_text("utf-8"))
    jsonschema.validate(document, schema("cloud-run"))


def test_a_field_that_cloud_run_does_not_know_is_found() -> None:
    (document,) = documents((DEPLOY / "cloudrun/service.yaml").read_text("utf-8"))
    containers(document)["my-app"]["restartPolicy"] = "Always"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema("cloud-run"))


@needs_gcloud
def test_the_schema_is_what_gcloud_sends() -> None:
    """The schema is written down from gcloud's own client, and here compared with the one that is installed."""
    assert GCLOUD is not None
    library = Path(GCLOUD).resolve().parents[1] / "lib"
    now = json.loads(run(sys.executable, Path(__file__).parent / "cloud_run_schema.py", library))
    kept = schema("cloud-run")["$defs"]
    assert len(kept) > 30
    for name, definition in kept.items():
        missing = set(definition.get("properties", {})) - set(now["$defs"][name].get("properties", {}))
        assert not missing, (name, missing)


@pytest.mark.parametrize("name", CLOUD_RUN)
def test_cloud_run_starts_the_sidecar_first_and_probes_where_it_answers(name: str) -> None:
    (document,) = documents((DEPLOY / "cloudrun" / name).read_text("utf-8"))
    found = containers(document)
    annotations = document["spec"]["template"]["metadata"]["annotations"]
    dependencies = json.loads(annotations["run.googleapis.com/container-dependencies"])
    assert dependencies == {other: ["idtoken-sidecar"] for other in found if other != "idtoken-sidecar"}
    sidecar = found["idtoken-sidecar"]
    config = configured(sidecar, K_SERVICE="app")
    assert [str(address) for address in config.admin] == ["0.0.0.0:9787"]
    for probe in (sidecar["startupProbe"], sidecar.get("livenessProbe", sidecar["startupProbe"])):
        assert probe["httpGet"]["port"] == 9787
        assert probe.get("timeoutSeconds", 1) <= probe["periodSeconds"]
    startup = sidecar["startupProbe"]
    assert config.startup_wait < startup["periodSeconds"] * startup["failureThreshold"] <= 240
    assert config.drain.max < 10
    assert [route.name for route in config.routes] == ["billing", "reports"]
    ports = [container for container, content in found.items() if "ports" in content]
    assert ports == (["my-app"] if document["kind"] == "Service" else [])


def test_the_collector_reads_the_port_that_the_sidecar_has() -> None:
    (document,) = documents((DEPLOY / "cloudrun/run-monitoring.yaml").read_text("utf-8"))
    jsonschema.validate(document, schema("run-monitoring"))
    (endpoint,) = document["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (9787, "/metrics")


@pytest.mark.parametrize(
    "text",
    [
        "credentials: {default: {type: adc}}\nroutes: [{name: a, upstream: 'https://${HOST}'}]",
        "credentials: {default: {type: static, token: s3cret-token}}\nroutes: [{name: a, upstream: 'https://a.example'}]",
    ],
    ids=["variables", "secret"],
)
def test_what_may_not_stand_in_a_manifest_comes_from_secret_manager(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "a.example")
    config = tmp_path / "config.yaml"
    config.write_text(text, "utf-8")
    out = run(*COMMAND, "manifest", "cloud-run", *IMAGES, *PROJECT, "--config", config)
    assert "s3cret" not in out
    (document,) = documents(out)
    jsonschema.validate(document, schema("cloud-run"))
    sidecar = containers(document)["idtoken-sidecar"]
    assert sidecar["args"] == ["run", "--config=/etc/idtoken-sidecar/config.yaml"]
    assert sidecar["volumeMounts"] == [{"name": "config", "mountPath": "/etc/idtoken-sidecar"}]
    assert (
        document["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"] == "idtoken-sidecar-config"
    )


def test_a_drain_that_cloud_run_would_cut_short_is_refused() -> None:
    to = ("--to", "https://a-1-uc.a.run.app")
    said = refused("cloud-run", *IMAGES, *PROJECT, *to, "--drain", "{max: 20s}")
    assert "Cloud Run kills an instance 10 s after SIGTERM" in said


# a VM


@needs_systemd
def test_systemd_finds_the_units_good_and_safe(tmp_path: Path) -> None:
    for unit in (DEPLOY / "compute-engine").glob("idtoken-sidecar.s*"):
        text = unit.read_text("utf-8").replace("/opt/idtoken-sidecar/bin/idtoken-sidecar", "/bin/true")
        (tmp_path / unit.name).write_text(text, "utf-8")
    files = sorted(tmp_path.iterdir())
    assert [file.suffix for file in files] == [".service", ".socket"]
    done = subprocess.run(
        [str(ANALYZE), "verify", *map(str, files)], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    judged = run(ANALYZE, "security", "--offline=true", DEPLOY / "compute-engine/idtoken-sidecar.service")
    exposure = re.search(r"Overall exposure level for idtoken-sidecar.service: ([0-9.]+)", judged)
    assert exposure is not None
    assert float(exposure[1]) < 2.0


def test_the_socket_unit_has_the_configurations_addresses() -> None:
    text = (DEPLOY / "compute-engine/idtoken-sidecar.socket").read_text("utf-8")
    config = load((DEPLOY / "config.yaml").read_text("utf-8"), environ={}).config
    ports = {int(port) for port in re.findall(r"^ListenStream=.*:(\d+)$", text, re.MULTILINE)}
    assert ports == {8787, 9787, 8801, 8802}
    assert len(config.routes) == 2


@needs_systemd
@pytest.mark.parametrize(
    ("peers", "group"),
    [
        pytest.param("peers: {uid: [1000]}", "SocketGroup=GROUP", id="users"),
        pytest.param("peers: {gid: [1234, 1235]}", "SocketGroup=1234", id="groups"),
        pytest.param("", "SocketGroup=GROUP", id="anybody-whom-the-mode-lets"),
    ],
)
def test_the_units_let_callers_of_a_unix_socket_be_told_apart(tmp_path: Path, peers: str, group: str) -> None:
    """With `peers` the service has no users of its own, or it would see one user only; the socket has a group."""
    file = tmp_path / "config.yaml"
    file.write_text(
        f"listen: [{{address: 'unix:/run/idtoken-sidecar/s', {peers}}}]\n"
        "routes: [{name: billing, upstream: 'https://billing-abc123-uc.a.run.app'}]\n"
    )
    command = (*COMMAND, "manifest", "systemd", "--config", file)
    service, socket = run(*command), run(*command, "--socket")
    assert f"\nPrivateUsers={'no' if peers else 'yes'}\n" in service
    assert f"\n{group}\n" in socket
    for name, text in (("service", service), ("socket", socket)):
        text = text.replace("/opt/idtoken-sidecar/bin/idtoken-sidecar", "/bin/true").replace("GROUP", "root")
        (tmp_path / f"idtoken-sidecar.{name}").write_text(text)
    done = subprocess.run(
        [str(ANALYZE), "verify", *(str(it) for it in sorted(tmp_path.glob("idtoken-sidecar.*")))],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# where no sidecar can be


@pytest.mark.parametrize(
    ("file", "vendored"),
    [
        ("compose/compose.yaml", "compose-spec"),
        ("cloud-build/cloudbuild.yaml", "cloudbuild"),
        ("github-actions/workflow.yaml", "github-workflows"),
    ],
)
def test_the_platforms_schema_accepts(file: str, vendored: str) -> None:
    packaged = resources.files("check_jsonschema.builtin_schemas.vendor").joinpath(f"{vendored}.json")
    typed = yaml.safe_load((DEPLOY / file).read_text("utf-8"))
    if True in typed:  # YAML 1.1 takes `on:` for a boolean
        typed["on"] = typed.pop(True)
    found = json.loads(packaged.read_text("utf-8"))
    jsonschema.validators.validator_for(found)(found).validate(typed)


@needs_gcloud
@pytest.mark.parametrize("kind", ["standard", "flexible"])
def test_gclouds_own_parser_reads_the_app_yaml(kind: str) -> None:
    assert GCLOUD is not None
    library = Path(GCLOUD).resolve().parents[1] / "lib"
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/third_party'];"
        "from googlecloudsdk.appengine.api import appinfo;"
        "found = appinfo.LoadSingleAppInfo(open(sys.argv[2]));"
        "print(found.runtime, found.entrypoint)"
    )
    out = run(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        script,
        library,
        DEPLOY / f"app-engine/{kind}/app.yaml",
    )
    assert "idtoken-sidecar exec --config=sidecar.yaml -- gunicorn" in out


@pytest.mark.parametrize(
    "file",
    sorted(
        path for path in DEPLOY.rglob("*.yaml") if path.parent.name != "templates"
    ),  # Helm's are no YAML yet
    ids=lambda path: str(path.relative_to(DEPLOY)),
)
def test_every_configuration_is_valid(file: Path) -> None:
    if file.name not in ("config.yaml", "sidecar.yaml") or "component/sidecar" in str(file):
        documents(file.read_text("utf-8"))
        return
    load(file.read_text("utf-8"), file=str(file), environ={"GOOGLE_APPLICATION_CREDENTIALS": "/run/wif.json"})


def test_the_commands_in_deploy_exist() -> None:
    """`exec`, `check`, `wait` with options that are there."""
    import click

    from sidecar.cli.commands import main

    found = 0
    for file in sorted(DEPLOY.rglob("*")):
        if file.suffix not in (".yaml", ".service", ".socket", ".py"):
            continue
        text = file.read_text("utf-8")
        lines = re.findall(
            r"(?<![\w/.-])idtoken-sidecar ((?:exec|run|check|wait|reload|manifest|emulator)\b[^\n`]*)", text
        )
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.List) and isinstance(node.elts[0], ast.Constant):
                    words = [element.value for element in node.elts if isinstance(element, ast.Constant)]
                    if words[0] == "idtoken-sidecar":
                        lines.append(" ".join(words[1:]))
        for line in lines:
            name, *arguments = line.partition(" -- ")[0].split()
            command = main.get_command(click.Context(main), name)
            assert command is not None, line
            options = {option for parameter in command.params for option in parameter.opts}
            given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
            assert given <= options, line
            found += 1
    assert found > 8
