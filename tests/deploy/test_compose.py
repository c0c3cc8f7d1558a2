"""deploy/compose: what the file's containers run, run here, makes verified calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import yaml

from tests.support.forks import stand_in
from tests.support.sidecar import LIMIT, Sidecar, ask, clean_environment

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/compose/compose.yaml"
IN_THE_IMAGE = ["python3", "-m", "sidecar"]
"""What stands for `idtoken-sidecar` there: the image has no such script."""


def free_row(count: int) -> int:
    """The first of some ports in a row that are free; another run of the tests looks for its own elsewhere."""
    for first in range(20000 + os.getpid() % 200 * 50, 60000, 50):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise AssertionError("no ports are free")


@contextlib.asynccontextmanager
async def running(*arguments: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(*stand_in(), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=clean_environment(**environ),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_containers_commands_work_together(tmp_path: Path) -> None:
    first = free_row(20)
    moved = {8085: first, 8787: first + 10, 9787: first + 11, 8801: first + 12, 8802: first + 13}
    moved |= {8090: first + 5, 8091: first + 6}
    text = re.sub(r"\d{4,5}", lambda match: str(moved.get(int(match[0]), match[0])), FILE.read_text("utf-8"))
    services = yaml.safe_load(text)["services"]
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_load(text)["configs"]["idtoken-sidecar"]["content"].replace("$$", "$"), "utf-8"
    )
    assert services["google"]["network_mode"] == services["app"]["network_mode"] == "service:sidecar"
    async with running(*services["google"]["command"]) as google:
        assert google.stdout is not None
        async with asyncio.timeout(LIMIT):
            while b"Ctrl-C" not in await google.stdout.readline():
                pass

        def here(word: str) -> str:
            return word.replace("/etc/idtoken-sidecar/config.yaml", str(config))

        command = map(here, services["sidecar"]["command"])
        async with running(*command, IDTOKEN_SIDECAR_LOG_FORMAT="json") as process:
            sidecar = Sidecar(process)
            await sidecar.listening()
            await sidecar.ready()
            cmd, *check = services["sidecar"]["healthcheck"]["test"]
            assert (cmd, check[:3]) == ("CMD", IN_THE_IMAGE)
            async with running(*map(here, check[3:])) as health:
                assert await health.wait() == 0
            for url in services["app"]["environment"].values():
                status, _, body = await ask(int(url.rpartition(":")[2]), "GET", "/x")
                assert (status, b'"aud"' in body or b"verified" in body) == (200, True), body[:300]
            sidecar.send_signal(signal.SIGTERM)
            assert await sidecar.ended() == 0
