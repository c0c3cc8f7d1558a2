"""Socket activation and notification, with systemd's own tools."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.running import EmulatorThread
from tests.support.process import SidecarProcess
from tests.support.sidecar import COMMAND, LIMIT, Sidecar, ask, clean_environment, free_port

ACTIVATE = shutil.which("systemd-socket-activate")
needs_activate = pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")


def configuration(directory: Path, listen: str, admin: str, upstream: str) -> str:
    file = directory / "config.yaml"
    file.write_text(
        f"listen: {listen}\nadmin: {admin}\nlog_format: json\ndrain: {{min: 0s}}\n"
        f"routes:\n  - {{name: billing, upstream: '{upstream}', path_prefix: /}}\n",
        "utf-8",
    )
    return str(file)


@pytest.fixture
async def activated(google: Emulator) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    started: list[asyncio.subprocess.Process] = []
    yield started
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def activate(
    started: list[asyncio.subprocess.Process], google: Emulator, config: str, *listen: str
) -> asyncio.subprocess.Process:
    assert ACTIVATE is not None
    environ = clean_environment(**google.environment())
    process = await asyncio.create_subprocess_exec(
        *(ACTIVATE, *(f"--listen={address}" for address in listen)),
        *(f"--setenv={name}={value}" for name, value in environ.items()),
        *(*COMMAND, "run", "--config", config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ,
    )
    started.append(process)
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT):
        for _ in listen:
            assert b"Listening on" in await process.stdout.readline()
    return process


@needs_activate
async def test_the_first_request_starts_it_and_none_is_refused(
    google: Emulator, activated: list[asyncio.subprocess.Process], tmp_path: Path
) -> None:
    """The socket is there before the process: who calls early waits, and is answered."""
    billing = await google.add_target("billing")
    port, path = free_port(), tmp_path / "proxy.sock"
    config = configuration(tmp_path, f"['127.0.0.1:{port}', 'unix:{path}']", "localhost:0", billing.url)
    process = await activate(activated, google, config, f"127.0.0.1:{port}", str(path))
    status, _, _ = await ask(port, "GET", "/x")
    assert status == 200
    assert billing.requests[-1].verified is not None
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(LIMIT):
        assert await process.wait() == 0
    assert path.exists(), "the socket's file is systemd's"


@needs_activate
async def test_a_socket_that_the_configuration_does_not_name_is_an_error(
    google: Emulator, activated: list[asyncio.subprocess.Process], tmp_path: Path
) -> None:
    billing = await google.add_target("billing")
    port = free_port()
    config = configuration(tmp_path, "localhost:0", "localhost:0", billing.url)
    process = await activate(activated, google, config, f"127.0.0.1:{port}")
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT):
        text = (await process.stdout.read()).decode()
        assert await process.wait() == 3
    assert f"the socket unit listens on 127.0.0.1:{port}, which no `listen`" in text
    writer.close()


async def test_it_says_when_it_is_ready_and_when_it_stops(google: Emulator, tmp_path: Path) -> None:
    """Type=notify: what is ordered after it starts when tokens are there."""
    billing = await google.add_target("billing")
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    class Manager(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            heard.put_nowait(data)

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Manager, sock=sock)
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "--config", configuration(tmp_path, "localhost:0", "localhost:0", billing.url)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=clean_environment(**google.environment(), NOTIFY_SOCKET=str(tmp_path / "notify")),
    )
    sidecar = Sidecar(process)
    try:
        await sidecar.listening()
        async with asyncio.timeout(LIMIT):
            assert await heard.get() == b"READY=1\nSTATUS=serving 1 route(s)"
        assert (await sidecar.admin("/healthz/ready"))[0] == 200
        sidecar.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            assert await heard.get() == b"STOPPING=1"
        assert await sidecar.ended() == 0
    finally:
        await sidecar.stop()
        transport.close()


async def test_a_command_run_by_exec_does_not_get_what_is_the_sidecars(
    google: Emulator, tmp_path: Path
) -> None:
    billing = await google.add_target("billing")
    config = configuration(tmp_path, "localhost:0", "localhost:0", billing.url)
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "exec", "--config", config, "--", "env"),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(
            **google.environment(), NOTIFY_SOCKET="/nowhere", LISTEN_FDS="0", LISTEN_PID=str(os.getpid())
        ),
    )
    async with asyncio.timeout(LIMIT):
        out, _ = await process.communicate()
    assert b"IDTOKEN_SIDECAR_URL=" in out
    assert b"NOTIFY_SOCKET" not in out
    assert b"LISTEN_" not in out


DENY = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
if sys.argv[1:]:
    os.execv(sys.argv[1], sys.argv[1:])
"""


def test_it_needs_no_memory_that_is_written_and_executed(tmp_path: Path) -> None:
    """`MemoryDenyWriteExecute=yes` of the unit: what the process forbids itself, it can forbid there too."""
    if subprocess.run([sys.executable, "-c", DENY], check=False).returncode == 77:
        pytest.skip("this kernel can't forbid it (Linux 6.3 can)")
    with EmulatorThread() as thread:
        billing = thread.add_target("billing")
        config = f"log_level: debug\nroutes: [{{name: billing, upstream: '{billing.url}'}}]\n"
        sidecar = SidecarProcess(config, tmp_path, thread.google.environment())
        sidecar.command = [sys.executable, "-c", DENY, *sidecar.command]
        with sidecar:
            assert sidecar.get("billing").status == 200
            (limits,) = (entry for entry in sidecar.log if entry["message"].startswith("process limits"))
            assert limits["dumpable"] is False
