"""The image: the Dockerfile built by buildah on bases that debootstrap makes, and run without a shell, read-only.

Takes about two minutes, root, and packages from the network, so it is part of `make test-all`. No registry is asked: the
two bases of the Dockerfile are made here, under their names, from Debian 12 itself, which both of them are made of.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.running import EmulatorThread
from tests.deploy.test_tutorials import called, process
from tests.support.process import SidecarProcess
from tests.support.sidecar import COMMAND, free_port

ROOT = Path(__file__).parents[2]
BUILDER = "docker.io/library/python:3.11-slim-bookworm"
BASE = "gcr.io/distroless/python3-debian12:nonroot"
SIZE_LIMIT = 80_000_000
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

pytestmark = [
    pytest.mark.test_all,
    pytest.mark.skipif(
        not all(map(shutil.which, ("buildah", "debootstrap", "unshare"))) or os.geteuid() != 0,
        reason="buildah, debootstrap and root are needed",
    ),
]


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, check=False, **options
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout.strip()


class Buildah:
    """Buildah with storage of its own, so that nothing is left."""

    def __init__(self, directory: Path) -> None:
        self._options = (
            "--root",
            directory / "root",
            "--runroot",
            directory / "run",
            "--storage-driver",
            "vfs",
        )

    def __call__(self, command: str, *arguments: str | Path) -> str:
        return run("buildah", *self._options, command, *arguments, cwd=ROOT)


def built(buildah: Buildah, name: str) -> dict[str, Any]:
    """Its file system and its settings."""
    container = buildah("from", "--pull-never", name)
    inspected = json.loads(buildah("inspect", "--type", "image", name))["Docker"]
    return {"root": Path(buildah("mount", container)), "config": inspected["config"]}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("image")
    buildah = Buildah(directory)
    system = directory / "debian"
    mirror = next(
        line
        for line in run("apt-get", "indextargets", "--format", "$(REPO_URI)").splitlines()
        if "security" not in line
    )
    run(
        "debootstrap",
        "--variant=minbase",
        "--include=python3,python3-pip,python3-venv,python3-dev,gcc,libc6-dev,ca-certificates",
        "bookworm",
        system,
        mirror,
    )
    for name in (BUILDER, BASE):
        container = buildah("from", "scratch")
        buildah("add", "-q", container, system, "/")
        if name == BASE:
            # Like the real one: Python, and nothing that could run a script.
            buildah(
                "run",
                "--isolation",
                "chroot",
                container,
                "--",
                "rm",
                "-f",
                "/bin/bash",
                "/bin/dash",
                "/bin/sh",
            )
        buildah("commit", "-q", "--rm", container, name)
    buildah(
        *("bud", "--isolation", "chroot", "--network", "host", "--format", "docker", "--pull-never"),
        # The test's own way to packages: its certificates and its pip's settings.
        *(
            f"--volume={path}:{path}:ro"
            for path in ("/etc/ssl/certs", "/etc/pip.conf")
            if Path(path).exists()
        ),
        *("--build-arg", "REVISION=abc", "--tag", "idtoken-sidecar", "."),
    )
    buildah(
        *("bud", "--isolation", "chroot", "--format", "docker", "--pull-never"),
        *("--tag", "example-app", "deploy/example-app"),
    )
    yield {**built(buildah, "idtoken-sidecar"), "example-app": built(buildah, "example-app")}
    buildah("rm", "--all")
    shutil.rmtree(directory, ignore_errors=True)


def test_its_settings_are_what_platforms_want(image: dict[str, Any]) -> None:
    config = image["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["python3", "-m", "sidecar"]
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "-m", "sidecar", "healthcheck"]
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["Labels"]["org.opencontainers.image.base.name"] == BASE
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert list(config["ExposedPorts"]) == ["9787/tcp"]


def test_it_is_small_and_compiled(image: dict[str, Any]) -> None:
    added = image["root"] / "opt/idtoken-sidecar"
    size = sum(path.stat().st_size for path in added.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"over the base: {size / 1e6:.1f} MB")
    assert size < SIZE_LIMIT
    sources = [path for path in (added / "sidecar").rglob("*.py")]
    compiled = {path.name.partition(".")[0] for path in (added / "sidecar").rglob("*.pyc")}
    assert len(sources) > 100
    assert {path.stem for path in sources} == compiled
    assert not (added / "hatchling").exists()
    assert list((added / "sidecar/proxy/exchange").glob("exchange.*.so"))
    assert not (added / "bin").exists()


def contained(root: Path, user: str, command: list[str]) -> list[str]:
    """`NAME=VALUE … COMMAND …` in a root file system that can only be read, as that user."""
    script = (
        'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && '
        'exec chroot --userspec="$1" "$0" /usr/bin/env -i "${@:2}"'
    )
    return ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, str(root), user, *command]


def test_it_says_its_version(image: dict[str, Any]) -> None:
    settings = image["config"]
    words = [*settings["Env"], *settings["Entrypoint"], "--version"]
    assert (
        run(*contained(image["root"], settings["User"], words))
        == f"idtoken-sidecar, version {VERSION} (compiled)"
    )


class Contained(SidecarProcess):
    """The image's entry point in its root file system: read-only, as its user, without anything of ours around it."""

    def __init__(
        self, root: Path, image: dict[str, Any], config: str, directory: Path, environ: dict[str, str]
    ) -> None:
        super().__init__(config, directory, environ)
        settings = image["config"]
        variables = [*settings["Env"], *(f"{name}={value}" for name, value in environ.items())]
        user, command = settings["User"], [*settings["Entrypoint"], "run", "--config", "/etc/config.yaml"]
        target = root / "etc/config.yaml"
        shutil.copy(directory / "config.yaml", target)
        target.chmod(0o644)
        self.command = contained(root, user, [*variables, *command])


def test_it_serves_read_only_without_a_shell_as_nobody(image: dict[str, Any], tmp_path: Path) -> None:
    root = image["root"]
    assert not any((root / "bin" / shell).exists() for shell in ("sh", "bash", "dash"))
    with EmulatorThread() as google:
        billing = google.add_target("billing")
        config = f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}\n"
        container = Contained(root, image, config, tmp_path, dict(google.google.environment()))
        began = time.perf_counter()
        with container as sidecar:
            took = time.perf_counter() - began
            fields = Path(f"/proc/{sidecar.process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime and stime
            print(f"it listens {took:.2f} s after its start, with {cpu:.2f} s of CPU")
            run(*COMMAND, "wait", "--admin", f"localhost:{sidecar.admin_port}", "--timeout", "30s")
            assert sidecar.get("billing").status == 200
            assert billing.requests[-1].verified is not None
            status = Path(f"/proc/{sidecar.process.pid}/status").read_text("utf-8")
            assert "Uid:\t65532\t65532" in status
            check = [*container.command[: container.command.index("run")], "healthcheck"]
            environ = f"IDTOKEN_SIDECAR_ADMIN=localhost:{sidecar.admin_port}"
            place = check.index("python3")
            run(*check[:place], environ, *check[place:])


def test_the_tutorials_app_calls_through_it(image: dict[str, Any], tmp_path: Path) -> None:
    """Both images beside each other, as in a pod."""
    app = image["example-app"]
    assert app["config"]["User"] == "65532:65532"
    (app["root"] / "etc/hosts").write_text(
        "127.0.0.1 localhost\n", "utf-8"
    )  # as whatever runs a container does
    with EmulatorThread() as google:
        billing = google.add_target("billing")
        listen, port = free_port(), free_port()
        config = f"routes:\n  - {{name: billing, upstream: '{billing.url}', listen: 'localhost:{listen}'}}\n"
        environ = dict(google.google.environment())
        with Contained(image["root"], image, config, tmp_path, environ):
            words = [
                *(app["config"].get("Env") or []),
                f"IDTOKEN_SIDECAR_URL_BILLING=http://localhost:{listen}",
                f"PORT={port}",
                *app["config"]["Cmd"],
            ]
            with process(contained(app["root"], app["config"]["User"], words), {}):
                assert called(f"http://127.0.0.1:{port}/").startswith("billing answered 200\n")
        assert billing.requests[-1].verified is not None


HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    run(str(HADOLINT), ROOT / "Dockerfile", ROOT / "deploy/example-app/Dockerfile")
