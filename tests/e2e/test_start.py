"""What is loaded by when: the proxy serves before the admin server's parts are there, and nothing is loaded that is not used."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from tests.support.sidecar import LIMIT, ask, clean_environment, free_port

ACTED_AS = "acted-as@emulated-project.iam.gserviceaccount.com"

HELD = """
import importlib.util, json, os, sys, threading

released = threading.Event()

class Held:
    def find_spec(self, name, path=None, target=None):
        if name != "sidecar.admin.app":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            released.wait()
            run(module)

        spec.loader.exec_module = exec_module
        return spec

def tell():
    for line in sys.stdin:
        os.write(1, json.dumps(sorted(sys.modules)).encode() + b"\\n")
        released.set()

sys.meta_path.insert(0, Held())
threading.Thread(target=tell, daemon=True).start()

from sidecar.cli.commands import main
main(["run", "--config", sys.argv[1], "--log-level", "error"], prog_name="idtoken-sidecar")
"""
"""A sidecar that says which modules are loaded, for each line of stdin; until the first, the import of the admin server
waits."""

ADMIN = ("sidecar.admin.control", "sidecar.admin.page", "sidecar.serving")
"""What only the servers of the control plane need."""
METRICS = "prometheus_client"
"""What a scrape needs."""
AIOHTTP = ("aiohttp", "aiosignal", "attr", "frozenlist", "multidict", "propcache", "yarl")
"""What the emulator's servers are made of, and no server of the sidecar's own."""
NEVER = (
    *AIOHTTP,
    "pydantics_plugin",
    "google",
    "cryptography",
    "html",
    "opentelemetry",
    "mcp",
    "sidecar.emulator",
    "sidecar.handout.metadata",
    "sidecar.handout.oauth",
    "sidecar.manifest",
    "sidecar.mcp",
    "sidecar.cli.advice",
    "sidecar.cli.check",
    "sidecar.cli.online",
)
"""What a sidecar that only forwards does not use."""
HTTPS = ("certifi", "charset_normalizer", "encodings.idna", "requests", "urllib3")
"""What asks token endpoints, other than the metadata server."""


class Held:
    """A sidecar that has not loaded the admin server yet, until it is asked what it has loaded."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, admin_port: int) -> None:
        self._process = process
        self.port = port
        self.admin_port = admin_port

    async def loaded(self) -> set[str]:
        """The modules that are loaded now; the admin server may be, from then on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        async with asyncio.timeout(LIMIT):
            return set(json.loads(await self._process.stdout.readline()))

    async def served(self) -> int:
        """The status of a request through the proxy, sent again until it listens."""
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    return (await ask(self.port, "GET", "/x", host="svc.localhost"))[0]
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)


Begin = Callable[..., Awaitable[Held]]


@pytest.fixture
async def begin(google: Emulator, tmp_path: Path) -> AsyncIterator[Begin]:
    """Start one with these credentials, and further keys."""
    started = []

    async def beginning(credentials: str, more: str = "") -> Held:
        target = await google.add_target("svc")
        port, admin_port = free_port(), free_port()
        package = tmp_path / "another-1.dist-info"
        package.mkdir()
        (package / "entry_points.txt").write_text("[pydantic]\nanother = pydantics_plugin:plugin\n")
        (tmp_path / "pydantics_plugin.py").write_text("plugin = None\n")
        file = tmp_path / "config.yaml"
        file.write_text(
            f"listen: localhost:{port}\nadmin: localhost:{admin_port}\n"
            f"endpoints: {{iam_credentials: '{google.iam_url}'}}\ncredentials: {{{credentials}}}\n"
            f"routes: [{{name: svc, upstream: '{target.url}'}}]\n{more}"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HELD, str(file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
            env=clean_environment(**google.environment(), PYTHONPATH=str(tmp_path)),
        )
        started.append(process)
        return Held(process, port, admin_port)

    yield beginning
    for process in started:
        process.kill()
        await process.communicate()


def among(names: tuple[str, ...], loaded: set[str]) -> list[str]:
    """Which of these, or of what is in them, is loaded."""
    return sorted({name for name in names for module in loaded if f"{module}.".startswith(f"{name}.")})


async def test_the_proxy_serves_before_the_admin_servers_parts_are_loaded(begin: Begin) -> None:
    """With a token. Who has asked the admin server meanwhile is answered as soon as it is there."""
    sidecar = await begin("default: {type: metadata}")
    assert await sidecar.served() == 200
    async with asyncio.TaskGroup() as probes:
        probe = probes.create_task(ask(sidecar.admin_port, "GET", "/healthz/startup"))
        assert not among((*ADMIN, METRICS), await sidecar.loaded())
    assert probe.result()[0] == 200


@pytest.mark.parametrize(
    ("credentials", "unused"),
    [
        ("default: {type: metadata}", (*NEVER, *HTTPS)),
        (
            f"a: {{type: metadata}}, default: {{type: impersonate, source: a, service_account: {ACTED_AS}}}",
            NEVER,
        ),
    ],
    ids=["metadata", "impersonation"],
)
async def test_nothing_is_loaded_that_is_not_used(
    google: Emulator, begin: Begin, credentials: str, unused: tuple[str, ...]
) -> None:
    """Memory and the time to start are paid for with every instance. Metrics are loaded by the first scrape."""
    for email in (google.metadata.email or "", ACTED_AS):
        google.principals.add(email)
    google.principals.grant(
        f"serviceAccount:{google.metadata.email}", "roles/iam.serviceAccountTokenCreator", on=ACTED_AS
    )
    sidecar = await begin(credentials)
    assert await sidecar.served() == 200
    assert not among(unused, await sidecar.loaded())
    for path in ("/healthz/ready", "/status.json", "/"):
        assert (await ask(sidecar.admin_port, "GET", path))[0] == 200
    loaded = await sidecar.loaded()
    assert not among((*unused, METRICS), loaded)
    assert len(among(ADMIN, loaded)) == len(ADMIN)
    assert (await ask(sidecar.admin_port, "GET", "/metrics"))[0] == 200
    loaded = await sidecar.loaded()
    assert not set(among(unused, loaded)) - {
        "html"
    }  # prometheus_client has a server of its own, which loads it
    assert among((METRICS,), loaded)


async def test_the_servers_that_give_tokens_need_no_more(begin: Begin) -> None:
    """Each is a small program on the sidecar's own server."""
    metadata, oauth = free_port(), free_port()
    sidecar = await begin(
        "default: {type: metadata}",
        f"metadata_server: {{listen: 'localhost:{metadata}'}}\n"
        f"token_endpoint: {{listen: 'localhost:{oauth}', secret: {'s' * 40}}}\n",
    )
    assert await sidecar.served() == 200
    assert not among(("sidecar.handout.metadata", "sidecar.handout.oauth"), await sidecar.loaded())
    assert (await ask(metadata, "GET", "/"))[0] == 200
    assert (await ask(oauth, "GET", "/"))[0] == 404
    loaded = await sidecar.loaded()
    assert among(("sidecar.handout.metadata", "sidecar.handout.oauth"), loaded)
    assert not among(AIOHTTP, loaded)
