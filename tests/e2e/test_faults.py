"""Faults of what is around the sidecar, with real processes: a killed upstream, a silent one, a vanished one, no
descriptors, a stopped process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from tests.support.openssl import authority, issue
from tests.support.sampling import sampled
from tests.support.sidecar import COMMAND, LIMIT, Sidecar, Start, ask, clean_environment, free_port, freeze

pytestmark = pytest.mark.slow

UPSTREAM = """
import socket, ssl, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=0)
context = None
if sys.argv[3:]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3])
print("listening", flush=True)
def serve(peer):
    if context is not None:
        peer = context.wrap_socket(peer, server_side=True)
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
        elif path == b"/deaf":
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\nhalf")
            peer.recv(1, socket.MSG_PEEK)
            print("unread", flush=True)
            threading.Event().wait()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def upstream(host: str, port: int, *before: str, pem: Path | None = None) -> subprocess.Popen[str]:
    """An upstream process that listens; `before` is what starts it, and with `pem` it serves https."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", UPSTREAM, host, str(port), *([str(pem)] if pem else [])],
        stdout=subprocess.PIPE,
        text=True,
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


@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        pytest.param("plain", True, id="plain-the-kernel-says-goodbye-as-for-a-whole-one"),
        pytest.param("deaf", False, id="plain-with-a-request-that-it-had-not-read"),
        pytest.param("tls", False, id="tls-without-close_notify"),
    ],
)
async def test_a_body_without_a_length_is_whole_unless_tcp_or_tls_says_otherwise(
    start: Start, tmp_path: Path, kind: str, whole: bool
) -> None:
    """The end of the connection ends such a body (RFC 9112 section 6.3), and the kernel of a killed process ends it
    properly, unless there were bytes that it had not read. Over TLS nobody says close_notify for it: the app sees the
    cut."""
    port = free_port()
    root, pem, scheme, tls = authority("root"), None, "http", ""
    if kind == "tls":
        leaf = issue(root)
        (tmp_path / "root.pem").write_bytes(root.pem)
        pem, scheme, tls = tmp_path / "leaf.pem", "https", f", tls: {{ca_file: {tmp_path}/root.pem}}"
        pem.write_bytes(leaf.pem + leaf.key_pem)
    process = upstream("127.0.0.1", port, pem=pem)
    try:
        sidecar = await start(f"routes:\n  - {{name: billing, upstream: '{scheme}://localhost:{port}'{tls}}}")
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        path = "deaf" if kind == "deaf" else "until-close"
        writer.write(
            f"POST /{path} HTTP/1.1\r\nHost: billing.localhost\r\nContent-Length: 9\r\n\r\n".encode()
        )
        async with asyncio.timeout(LIMIT):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"half")
        if kind == "deaf":
            writer.write(b"unread")
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "unread\n"
        end(process)
        rest = b""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(LIMIT):
                while piece := await reader.read(100):
                    rest += piece
        assert rest.endswith(b"0\r\n\r\n") is whole
        writer.close()
        cut = await sidecar.metric("idtoken_sidecar_answers_cut_total", reason="upstream_incomplete")
        assert cut == (0 if whole else 1)
    finally:
        end(process)


# a peer that is silent, or has vanished


async def test_a_silent_peer_costs_no_more_than_the_timeouts_and_nobody_else(
    google: Emulator, start: Start
) -> None:
    """The upstream stops in its tracks: its kernel acknowledges what is sent until the queue of new connections is full,
    and then answers nothing. Every request ends with the reason of the phase that it was in, other routes go on, and
    when the upstream goes on, so does its route."""
    other = await google.add_target("other")
    port = free_port()
    process = upstream("127.0.0.1", port)
    try:
        sidecar = await start(
            f"routes:\n  - name: billing\n    upstream: http://127.0.0.1:{port}\n"
            "    timeouts: {connect: 500ms, response: 500ms}\n"
            f"  - {{name: other, host: other.internal, upstream: '{other.url}'}}\n"
        )
        async with asyncio.timeout(LIMIT):  # on a busy machine it may take longer than it has
            while (await ask(sidecar.port, "GET", "/whole", host="billing.localhost"))[0] != 200:
                pass
        freeze(process.pid)
        errors = set()
        for _ in range(3):
            got = [ask(sidecar.port, "GET", "/whole", host="billing.localhost") for _ in range(3)]
            for status, fields, _ in await asyncio.gather(*got):
                assert status == 504
                errors.add(fields["proxy-status"].split("error=")[1].split(";")[0])
            assert (await ask(sidecar.port, "GET", "/x", host="other.localhost"))[0] == 200
        assert errors == {"http_response_timeout", "connection_timeout"}
        assert await sidecar.metric("idtoken_sidecar_requests_in_flight", route="billing") == 0
        process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(LIMIT):
            while (await ask(sidecar.port, "GET", "/whole", host="billing.localhost"))[0] != 200:
                pass
    finally:
        end(process)


@contextlib.contextmanager
def namespace() -> Iterator[tuple[str, str, str]]:
    """A network namespace behind a pair of interfaces: its name, this end's address, the other end's."""
    chosen = uuid.uuid4()
    name = f"t{chosen.hex[:6]}"
    # Of the network for tests between devices (RFC 2544), on no other machine's path.
    net = f"198.{18 + chosen.int % 2}.{chosen.bytes[0]}"
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
        pytest.skip("no network namespaces here (needs root and `ip`): a peer can be silent, and not vanish")
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


def lowest_free(pid: int) -> int:
    """The next descriptor that a process would get."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in itertools.count() if number not in taken)


async def test_no_descriptor_to_connect_with_is_no_fault_of_the_upstream(
    google: Emulator, start: Start
) -> None:
    """Connecting, resolving and fetching a token each say that the sidecar has no descriptor left, and to raise the limit;
    nobody is blamed or held off for it: with descriptors there again, the next request is served."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux can change the limits of a process that runs")
    billing, named = await google.add_target("billing"), await google.add_target("named")
    sidecar = await start(
        f"pool: {{idle: 100ms}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}\n"
        f"  - {{name: named, upstream: '{named.url.replace('127.0.0.1', 'localhost')}', audience: '{named.url}'}}\n"
        f"  - {{name: any, host: '*.svc.localhost', upstream: 'https://{{host}}', audience: 'https://{{host}}'}}\n"
    )
    pid = sidecar.process.pid
    ends = [await asyncio.open_connection("127.0.0.1", sidecar.port) for _ in range(3)]

    async def asked(place: int, host: str) -> tuple[int, str]:
        reader, writer = ends[place]
        writer.write(f"GET /x HTTP/1.1\r\nHost: {host}.localhost\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.readexactly(int(head.lower().split("content-length:")[1].split("\r\n")[0]))
        return int(head.split(" ")[1]), head + body.decode()

    for place, host in enumerate(("billing", "billing", "billing")):
        assert (await asked(place, host))[0] == 200
    async with asyncio.timeout(LIMIT):
        while await sidecar.metric("idtoken_sidecar_upstream_connections", state="idle"):
            pass
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free(pid), hard))
    for place, host in enumerate(("billing", "named", "stranger.svc")):
        for _ in range(4):
            status, text = await asked(place, host)
            assert (status, "no_descriptors" in text, "ulimit -n" in text) == (503, True, True)
            assert "retry-after: " in text.lower()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert (await asked(0, "billing"))[0] == 200
    assert (await asked(1, "named"))[0] == 200
    async with asyncio.timeout(LIMIT):
        while (await asked(2, "stranger.svc"))[0] == 503:
            pass  # the token's backoff
    await sidecar.logged("request", reason="no_descriptors")
    failed = "idtoken_sidecar_upstream_connect_failures_total"
    assert await sidecar.metric(failed, route="billing", reason="no_descriptors") == 4
    assert await sidecar.metric(failed, route="named", reason="no_descriptors") == 4
    for _, writer in ends:
        writer.close()


# a process that was stopped


@pytest.mark.parametrize("times", sampled((1, 3), [1]))
async def test_a_token_that_expired_while_the_process_stood_still_is_not_sent(
    start: Start, times: int
) -> None:
    """SIGSTOP until past the token's expiry, then SIGCONT, with requests waiting: the target, which checks `exp` with no
    leeway, never sees the old token. The watchdog tells that the process did not run, and does not call it blocked."""
    life = 3.0
    async with Emulator(token_lifetime=life, cache_margin=0.0) as google:
        billing = await google.add_target("billing")
        config = f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}\n"
        sidecar = await start(config, emulator=google)
        # While nobody is connected, the heart beats too seldom to notice each of them.
        _, connected = await asyncio.open_connection("127.0.0.1", sidecar.port)
        for _ in range(times):
            assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 200
            freeze(sidecar.process.pid)
            waiting = asyncio.gather(
                *(ask(sidecar.port, "GET", "/x", host="billing.localhost") for _ in range(20))
            )
            await asyncio.sleep(life + 0.2)  # the fault itself: so long it stands still
            sidecar.send_signal(signal.SIGCONT)
            assert {status for status, _, _ in await waiting} == {200}
        # More, where the machine was too busy to let it run.
        connected.close()
        assert await sidecar.metric("idtoken_sidecar_event_loop_stalls_total", reason="frozen") >= times
