"""Where the log goes: a full disk, a reader that is gone, one that is slow. Real processes; requests go on in all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.app import Emulator
from tests.support.forks import stand_in
from tests.support.sidecar import LIMIT, ask, clean_environment, free_port

pytestmark = pytest.mark.slow

LONG = "/x?" + "q" * 6000
"""A target whose line in the access log is as long as lines get."""


class Mute:
    """A sidecar whose log the test leads where it wants."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, admin_port: int) -> None:
        self.process = process
        self.port = port
        self._admin_port = admin_port

    async def get(self, path: str = "/x") -> int:
        return (await ask(self.port, "GET", path, host="billing.localhost"))[0]

    async def lost(self, reason: str) -> float:
        """How many lines it says that it lost."""
        text = (await ask(self._admin_port, "GET", "/metrics"))[2].decode()
        name = f'idtoken_sidecar_log_lines_lost_total{{reason="{reason}"}} '
        return next(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))

    async def lost_more_than(self, least: float, reason: str) -> None:
        async with asyncio.timeout(LIMIT):
            while await self.lost(reason) <= least:
                await self.get(LONG)

    async def ready(self) -> None:
        async with asyncio.timeout(LIMIT):
            while True:
                with contextlib.suppress(OSError):
                    if (await ask(self._admin_port, "GET", "/healthz/ready"))[0] == 200:
                        return
                await asyncio.sleep(0.01)

    async def ended(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def running(google: Emulator, directory: Path, stdout: Any) -> AsyncIterator[Mute]:
    billing = await google.add_target("billing")
    port, admin_port = free_port(), free_port()
    file = directory / "config.yaml"
    file.write_text(
        f"listen: 127.0.0.1:{port}\nadmin: 127.0.0.1:{admin_port}\nlog_format: json\naccess_log: all\nlog_query: true\n"
        "drain: {min: 0s}\n"
        f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(*stand_in(), "run", "--config", str(file)),
        stdout=stdout,
        env=clean_environment(**google.environment()),
    )
    sidecar = Mute(process, port, admin_port)
    try:
        await sidecar.ready()
        yield sidecar
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
async def test_a_full_disk_costs_lines_only(google: Emulator, tmp_path: Path) -> None:
    """Every write fails for want of space: requests are answered, the lines counted, and the end is an orderly one."""
    full = os.open("/dev/full", os.O_WRONLY)
    async with running(google, tmp_path, full) as sidecar:
        os.close(full)
        assert await sidecar.get() == 200
        await sidecar.lost_more_than(3, "no_space")
        assert await sidecar.ended() == 0


async def test_a_reader_that_is_gone_costs_lines_only(google: Emulator, tmp_path: Path) -> None:
    """The pipe is broken: requests are answered, the lines counted, and the end is an orderly one."""
    reader, writer = os.pipe()
    async with running(google, tmp_path, writer) as sidecar:
        os.close(writer)
        os.close(reader)
        assert await sidecar.get() == 200
        await sidecar.lost_more_than(3, "gone")
        assert await sidecar.ended() == 0


async def test_a_slow_reader_holds_up_nothing_and_is_told_what_it_missed(
    google: Emulator, tmp_path: Path
) -> None:
    """Nobody reads: requests are answered, and lines dropped once there are too many. Then somebody does: every line is
    whole, and one says how many are missing."""
    reader, writer = os.pipe()
    async with running(google, tmp_path, writer) as sidecar:
        os.close(writer)
        await sidecar.lost_more_than(3, "full")
        loop = asyncio.get_running_loop()
        lines = asyncio.StreamReader(limit=1 << 20)
        protocol = asyncio.StreamReaderProtocol(lines)
        pipe, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(reader, "rb", 0))
        told = 0
        async with asyncio.timeout(LIMIT):
            while not told or told != await sidecar.lost("full"):
                await sidecar.get()
                entry = json.loads(await lines.readline())
                if entry["message"] == "log lines were lost":
                    told += entry["lost_full"]
        assert told > 3
        pipe.close()
        assert await sidecar.ended() == 0
