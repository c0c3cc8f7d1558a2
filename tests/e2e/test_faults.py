"""Faults of what is around the sidecar, with real processes: a killed upstream, a vanished one, no descriptors, a stopped
process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from tests.support.sidecar import COMMAND, LIMIT, Sidecar, Start, ask, clean_environment, free_port

pytestmark = pytest.mark.slow

UPSTREAM = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
def serve(peer):
    while True:
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            data = peer.recv(65536)
            if not data:
                return
            head += data
        path = head.split(b" ")[1]
        if path == b"/whole":
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        elif path == b"/length":
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\nhalf")
        elif path == b"/chunked":
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n4\\r\\nhalf\\r\\n")
        elif path == b"/until-close":
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\nhalf")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def upstream(host: str, port: int, *before: str) -> subprocess.Popen[str]:
    """An upstream process that listens; `before` is what starts it."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", UPSTREAM, host, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upstream_killed_in_mid_body_is_seen_by_the_app(start: Start, framing: str) -> None:
    """What has come is passed on and the connection ends without the end of a body; once the upstream is back, the next
    request is served."""
    port = free_port()
    process = upstream("127.0.0.1", port)
    try:
        sidecar = await start(f"routes:\n  - {{name: billing, upstream: 'http://127.0.0.1:{port}'}}")
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        writer.write(f"GET /{framing} HTTP/1.1\r\nHost: billing.localhost\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"half")
        end(process)
        async with asyncio.timeout(LIMIT):
            rest = await reader.read()
        assert b"0\r\n\r\n" not in rest
        writer.close()
        assert await sidecar.metric("idtoken_sidecar_requests_in_flight", route="billing") == 0
        assert (await ask(sidecar.port, "GET", "/whole", host="billing.localhost"))[0] == 502
        process = upstream("127.0.0.1", port)
        assert (await ask(sidecar.port, "GET", "/whole", host="billing.localhost"))[0] == 200
    finally:
        end(process)


# a peer that has vanished


@contextlib.contextmanager
def namespace() -> Iterator[tuple[str, str, str]]:
    """A network namespace behind a pair of interfaces: its name, this end's address, the other end's."""
    name = f"t{uuid.uuid4().hex[:6]}"
    net = f"10.211.{os.getpid() % 250}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add {net}.1/24 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add {net}.2/24 dev {name}b",
        f"ip -n {name} link set {name}b up",
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield name, f"{net}.1", f"{net}.2"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def can_make_namespaces() -> bool:
    if shutil.which("ip") is None:
        return False
    try:
        with namespace():
            return True
    except subprocess.CalledProcessError:
        return False


def blackhole(name: str, change: str, address: str) -> None:
    """Have the namespace drop all that it sends to this address, acknowledgements among it, or no longer."""
    subprocess.run(["ip", "-n", name, "route", change, "blackhole", f"{address}/32"], check=True)


async def test_a_vanished_peer_costs_no_request_its_whole_timeout(start: Start) -> None:
    """The upstream's packets stop coming, without a FIN or an RST. Idle connections to it are found dead by what is not
    acknowledged within `timeouts.connect`, all of them at once; the request goes out again as far as the retry budget
    allows, on a new connection which can't be made; when the peer is back, requests are served."""
    if not can_make_namespaces():
        pytest.skip("no network namespaces here (needs root and `ip`): a peer can't be made to vanish")
    with namespace() as (name, here, there):
        process = upstream(there, 8080, "ip", "netns", "exec", name)
        try:
            sidecar = await start(
                f"routes:\n  - name: billing\n    upstream: http://{there}:8080\n    allow_plaintext: true\n"
                "    audience: https://billing.example\n    timeouts: {connect: 1s, response: 1h}\n"
            )
            got = [ask(sidecar.port, "GET", "/whole", host="billing.localhost") for _ in range(3)]
            assert [status for status, _, _ in await asyncio.gather(*got)] == [200] * 3
            idle = await sidecar.metric("idtoken_sidecar_upstream_connections", route="billing", state="idle")
            assert idle >= 1
            blackhole(name, "add", here)
            got = [ask(sidecar.port, "GET", "/whole", host="billing.localhost") for _ in range(3)]
            for status, fields, _ in await asyncio.gather(*got):
                assert status == 504
                assert any(
                    e in fields["proxy-status"] for e in ("connection_timeout", "http_response_timeout")
                )
            idle = await sidecar.metric("idtoken_sidecar_upstream_connections", route="billing", state="idle")
            assert idle == 0
            blackhole(name, "del", here)
            assert (await ask(sidecar.port, "GET", "/whole", host="billing.localhost"))[0] == 200
        finally:
            end(process)


# no descriptors


DESCRIPTORS = 64


@pytest.fixture
async def limited(google: Emulator, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a sidecar that may have so many descriptors and no more."""
    running: list[Sidecar] = []

    async def begin(config: str) -> Sidecar:
        file = tmp_path / "config.yaml"
        file.write_text("listen: localhost:0\nadmin: localhost:0\nlog_format: json\n" + config, "utf-8")
        process = await asyncio.create_subprocess_exec(
            *("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", *COMMAND, "run", "--config", str(file)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=clean_environment(**google.environment()),
        )
        running.append(Sidecar(process))
        await running[0].listening()
        await running[0].ready()
        return running[0]

    yield begin
    for sidecar in running:
        await sidecar.stop()


async def test_a_full_descriptor_table_is_recovered_from(google: Emulator, limited: Start) -> None:
    """More connections than there are descriptors: the sidecar lives, what it can't connect it answers with a reason, and
    when some are closed it serves as before."""
    billing = await google.add_target("billing")
    sidecar = await limited(f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}\n")
    ends = [await asyncio.open_connection("127.0.0.1", sidecar.port) for _ in range(2 * DESCRIPTORS)]
    for _, writer in ends:
        writer.write(b"GET /x HTTP/1.1\r\nHost: billing.localhost\r\n\r\n")
    statuses = set()
    async with asyncio.timeout(LIMIT):
        for reader, _ in ends[:8]:
            head = await reader.readuntil(b"\r\n\r\n")
            statuses.add(int(head.split(b" ")[1]))
            if b" 200 " not in head:
                assert b"proxy-status: idtoken-sidecar; error=" in head.lower()
    for _, writer in ends:
        writer.transport.abort()
    async with asyncio.timeout(LIMIT):
        while (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] != 200:
            pass
    assert sidecar.process.returncode is None


# a process that was stopped


async def test_a_token_that_expired_while_the_process_stood_still_is_not_sent(start: Start) -> None:
    """SIGSTOP until past the token's expiry, then SIGCONT, with requests waiting: the target, which checks `exp` with no
    leeway, never sees the old token. The watchdog tells that the process did not run, and does not call it blocked."""
    life = 3.0
    async with Emulator(token_lifetime=life, cache_margin=0.0) as google:
        billing = await google.add_target("billing")
        config = f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}\n"
        sidecar = await start(config, emulator=google)
        for _ in range(3):
            assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 200
            sidecar.send_signal(signal.SIGSTOP)
            waiting = asyncio.gather(
                *(ask(sidecar.port, "GET", "/x", host="billing.localhost") for _ in range(20))
            )
            await asyncio.sleep(life + 0.2)  # the fault itself: so long it stands still
            sidecar.send_signal(signal.SIGCONT)
            assert {status for status, _, _ in await waiting} == {200}
        assert await sidecar.metric("idtoken_sidecar_event_loop_stalls_total", reason="frozen") == 3
