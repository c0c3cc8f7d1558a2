"""Who may call: real listeners of a real sidecar, and callers of every kind"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from tests.support.sidecar import COMMAND, LIMIT, Start, clean_environment

pytestmark = pytest.mark.slow

ROUTES = "routes:\n  - {name: billing, upstream: 'https://a.example', prefetch: off}\n"


async def test_an_address_that_others_reach_is_refused_without_allow_remote(tmp_path: Path) -> None:
    """Exit code 2, and what to write instead; nothing was bound."""
    file = tmp_path / "config.yaml"
    file.write_text("listen: 0.0.0.0:0\nadmin: localhost:0\n" + ROUTES)
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "--config", str(file)), stderr=asyncio.subprocess.PIPE, env=clean_environment()
    )
    async with asyncio.timeout(LIMIT):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert b"listen: 0.0.0.0:0 can be reached from other machines" in said
    assert b"or set `allow_remote: true`" in said


async def test_listeners_that_others_reach_are_named_in_warnings(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """At start and at each reload: the shared one, a route's own, and the admin server's."""
    config = f"allow_remote: on\n{ROUTES}"
    sidecar = await start(config, "--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0")
    apps = "this listener is reachable from other machines: whoever reaches it calls with this identity"
    entry = await sidecar.logged(apps, listen=f"0.0.0.0:{sidecar.port}")
    assert entry["severity"] == "WARNING"
    admin = "the admin server is reachable from other machines: they can read metrics and status"
    await sidecar.logged(admin, admin=f"0.0.0.0:{sidecar.admin_port}")
    file = tmp_path / "config-0.yaml"
    os.replace(_written(tmp_path / "new", file.read_text() + "token_wait: 3s\n"), file)
    await sidecar.admin("/reload", "POST")
    assert [entry["message"] for entry in sidecar.log if entry["severity"] == "WARNING"] == [apps, admin] * 2


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file
