"""Apps that can't be changed: unmodified clients call an https URL under `exec --transparent`, and the target verifies a token.

Nothing is set for them but what `exec` sets; the host of the URL is in no DNS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from sidecar.emulator.app import Emulator
from tests.clients.libraries import NODE_MODULES, PROGRAMS
from tests.support.forks import stand_in
from tests.support.programs import lines_of
from tests.support.sidecar import clean_environment

LIMIT = 240.0


def new_node() -> str | None:
    """A Node that has NODE_USE_ENV_PROXY: from 22.21, and from 24.5."""
    for found in (NODE_MODULES / "node" / "bin" / "node", shutil.which("node")):
        if found is None or not os.access(found, os.X_OK):
            continue
        text = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        major, minor = (int(part) for part in text.strip().lstrip("v").split(".")[:2])
        if (major, minor) >= (24, 5) or (major == 22 and minor >= 21):
            return str(found)
    return None


class Program(NamedTuple):
    """One program, and the clients that it tries."""

    command: tuple[str, ...]
    clients: tuple[str, ...]
    environ: tuple[tuple[str, str], ...] = ()


_PYTHON: Final = ("requests", "httpx", "aiohttp", "urllib", "grpcio")
_NODE: Final = new_node()
PROGRAMS_OF: Final = {
    "python": Program((sys.executable, str(PROGRAMS / "https_client.py"), *_PYTHON), _PYTHON),
    "curl": Program((sys.executable, str(PROGRAMS / "https_client.py"), "curl"), ("curl",)),
    "node": Program((_NODE or "node", str(PROGRAMS / "https_client.mjs")), ("node-fetch", "node-https")),
    "go": Program(
        ("go", "run", str(PROGRAMS / "https_client.go")),
        ("go",),
        (("GO111MODULE", "off"), ("GOFLAGS", "")),
    ),
    "java": Program(
        ("java", str(PROGRAMS / "HttpsClient.java")), ("java-http-client", "java-url-connection")
    ),
}


def each() -> list[Any]:
    """Every program, with the reason not to run it here."""
    found = []
    for name, program in PROGRAMS_OF.items():
        marks = [] if name == "python" else [pytest.mark.test_all]
        if name == "node" and _NODE is None:
            reason = "Node 24.5 (or 22.21) is not installed here: `make clients`"
            marks.append(pytest.mark.skip(reason=reason))
        elif name == "curl" and not shutil.which("curl"):
            marks.append(pytest.mark.skip(reason="not installed here: curl"))
        elif not shutil.which(program.command[0]):
            packages = {"go": "golang-go", "java": "default-jdk-headless"}
            marks.append(pytest.mark.skip(reason=f"not installed here: {packages[name]}"))
        found.append(pytest.param(program, id=name, marks=marks))
    return found


async def run_transparently(
    google: Emulator, config: Path, command: tuple[str, ...], **environ: str
) -> tuple[list[dict[str, Any]], str]:
    """What a command brings with a sidecar beside it, and what is said on stderr."""
    beside = (*stand_in(), "exec", "--transparent", "--config", str(config), "--", *command)
    return await lines_of(*beside, environ=clean_environment(**google.environment(), **environ), limit=LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("program", each())
async def test_an_unmodified_client_calls_an_https_url(
    google: Emulator, tmp_path: Path, program: Program
) -> None:
    """HTTP/1.1 or HTTP/2, as it likes; gRPC too."""
    billing = await google.add_target("billing")
    health = await google.add_target("health", grpc=True)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
listen: localhost:0
admin: localhost:0
routes:
  - {{name: billing, host: billing.internal, upstream: '{billing.url}', target: cloud_run, audience: '{billing.url}'}}
  - {{name: health, host: health.internal, upstream: '{health.url}', target: cloud_run, audience: '{health.url}'}}
"""
    )
    found, err = await run_transparently(
        google,
        config,
        program.command,
        URL="https://billing.internal/x?y=1",
        GRPC_TARGET="health.internal:443",
        **dict(program.environ),
    )
    wrong = {one.get("client"): one.get("error", one) for one in found if not one["verified"]}
    assert wrong == {}, err[-3000:]
    assert tuple(one["client"] for one in found) == program.clients, err[-3000:]


async def test_what_the_command_finds(google: Emulator, tmp_path: Path) -> None:
    """What went direct before does so still; a route that says `intercept: false` is not read; the CAs go with the command."""
    billing = await google.add_target("billing")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
listen: localhost:0
admin: localhost:0
routes:
  - {{name: billing, host: billing.internal, upstream: '{billing.url}', target: cloud_run, audience: '{billing.url}'}}
  - {{name: left, host: left.internal, upstream: '{billing.url}', target: cloud_run, audience: '{billing.url}', intercept: false}}
"""
    )
    script = (
        "import json, os, urllib.request as u\n"
        "try: left = u.urlopen('https://left.internal/').status\n"
        "except OSError as error: left = str(error)\n"
        "names = ('NO_PROXY', 'HTTPS_PROXY', 'HTTP_PROXY', 'SSL_CERT_FILE')\n"
        "print(json.dumps({'left': left, **{name: os.environ[name] for name in names}}))"
    )
    ((found,), err) = await run_transparently(
        google, config, (sys.executable, "-c", script), NO_PROXY="corp.example"
    )
    assert "501" in found["left"], err
    assert found["NO_PROXY"].startswith("corp.example,localhost,")
    assert found["HTTPS_PROXY"] == found["HTTP_PROXY"]
    parent, _, name = found["SSL_CERT_FILE"].rpartition("/")[0].rpartition("/")
    assert name not in os.listdir(parent)
