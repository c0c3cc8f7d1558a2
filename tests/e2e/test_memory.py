"""What connections cost in memory: measured, stated in docs/memory.md, and held here at half as much again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import Authority
from sidecar.observe.heap import LOOK, own_heap
from tests.support.eventually import eventually
from tests.support.sidecar import LIMIT, Sidecar, Start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.test_all,
    pytest.mark.skipif(
        not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc/PID/smaps_rollup"
    ),
]

IDLE = 10_000
IDLE_BYTES = 5_000
"""Private memory for each idle keep-alive connection."""

SECURE = 2_000
SECURE_BYTES = 27_000
"""The same where the listener serves https."""

READERS = 500
READER_BYTES = 290_000
"""Private memory for each slow reader of a large body."""

STREAMS, ON = 1_000, 10
STREAM_BYTES = 5_500
"""Private memory for each of a thousand HTTP/2 streams that wait, on ten connections."""

STOPPED = 100
STOPPED_BYTES = 490_000
"""The same for each stream that takes nothing more of a large body, all on one connection."""

KEPT = 20_000_000
"""Private memory that may be left of what slow readers needed: 8 MiB are not worth the work, and some is Python's."""

BODY = 16 * 1024 * 1024

CALLERS = """
import select, socket, ssl, sys
port, count, rcvbuf, path, body_too = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
context = ssl.create_default_context(cafile=sys.argv[6]) if sys.argv[6:] else None
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
ends = []
for _ in range(count):
    end = socket.socket()
    if rcvbuf:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    end.connect(("127.0.0.1", port))
    if context is not None:
        end = context.wrap_socket(end, server_hostname="localhost")
    end.sendall(f"GET {path} HTTP/1.1\\r\\nHost: billing.localhost\\r\\n\\r\\n".encode())
    ends.append(end)
    if body_too == "whole":
        got = b""
        while not got.endswith(b"\\r\\n\\r\\nok"):
            got += end.recv(65536)
for end in ends:
    if body_too == "head":
        end.recv(1)
print("there", flush=True)
sys.stdin.read()
"""


H2_CALLERS = """
import socket, sys
from tests.support.h2_frames import DATA, PREFACE, FrameReader, headers, settings, window_update
port, count, on, path, authority, kind = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:7]
lines = [(b":method", b"POST" if kind == "call" else b"GET"), (b":scheme", b"http"), (b":path", path.encode())]
lines += [(b":authority", authority.encode())] + [(b"content-type", b"application/grpc")] * (kind == "call")
ends = []
for _ in range(on):
    end = socket.create_connection(("127.0.0.1", port))
    end.sendall(PREFACE + settings() + window_update(0, 1 << 24))
    ends.append(end)
    reader, heard = FrameReader(), set()
    for stream in range(1, 2 * count // on, 2):
        call = b"" if kind != "call" else bytes.fromhex("0000050001") + stream.to_bytes(4, "big") + bytes(5)
        end.sendall(headers(stream, lines, end=kind != "call") + call)
    while len(heard) < count // on:
        heard |= {frame.stream for frame in reader.feed(end.recv(65536)) if frame.kind == DATA and frame.payload}
print("there", flush=True)
sys.stdin.read()
"""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream: `ok`, or a large body as fast as it is taken."""
    piece = bytes(64 * 1024)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /large "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY)
                for _ in range(BODY // len(piece)):
                    writer.write(piece)
                    await writer.drain()
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def private_bytes(sidecar: Sidecar) -> int:
    """Memory that is the process's own, in bytes: what would be free without it."""
    text = Path(f"/proc/{sidecar.process.pid}/smaps_rollup").read_text("ascii")
    sizes = (
        line.split() for line in text.splitlines() if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
    return sum(int(kib) * 1024 for _, kib, _ in sizes)


async def callers(
    sidecar: Sidecar, count: int, *, rcvbuf: int, path: str, wait_for: str, ca_file: Path | None = None
) -> asyncio.subprocess.Process:
    """A process with so many connections, all of them where they shall be; over TLS where it is given a CA."""
    trusted = [] if ca_file is None else [str(ca_file)]
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-c",
            CALLERS,
            str(sidecar.port),
            str(count),
            str(rcvbuf),
            path,
            wait_for,
            *trusted,
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(10 * LIMIT):
        assert await process.stdout.readline() == b"there\n"
    return process


CONFIG = """
limits: {{connections: 11000}}
pool: {{connections: 600}}
routes:
  - {{name: billing, upstream: 'http://127.0.0.1:{port}', audience: 'https://billing.example'}}
"""


async def test_idle_connections(google: Emulator, start: Start) -> None:
    """Ten thousand connections that have been served once and are kept alive."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sidecar = await start(CONFIG.format(port=server.sockets[0].getsockname()[1]))
    (await callers(sidecar, 200, rcvbuf=0, path="/x", wait_for="whole")).kill()
    before = private_bytes(sidecar)
    process = await callers(sidecar, IDLE, rcvbuf=0, path="/x", wait_for="whole")
    each = (private_bytes(sidecar) - before) / IDLE
    process.kill()
    await process.wait()
    server.close()
    print(f"{each:.0f} bytes for each idle connection, {before / 1e6:.1f} MB without")
    assert 0 < each <= IDLE_BYTES


async def test_idle_connections_over_tls(google: Emulator, start: Start, tmp_path: Path) -> None:
    """Two thousand of them, to a listener that serves https."""
    authority = Authority()
    pem, ca_file = tmp_path / "both.pem", tmp_path / "ca.pem"
    pem.write_bytes(authority.issue(["localhost"]))
    pem.chmod(0o600)
    ca_file.write_bytes(authority.pem)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    listen = f"{{address: '127.0.0.1:0', tls: {{cert_file: {pem}, key_file: {pem}}}}}"
    config = CONFIG.format(port=server.sockets[0].getsockname()[1])
    sidecar = await start(config, IDTOKEN_SIDECAR_LISTEN=listen)
    warm = await callers(sidecar, 20, rcvbuf=0, path="/x", wait_for="whole", ca_file=ca_file)
    warm.kill()
    before = private_bytes(sidecar)
    process = await callers(sidecar, SECURE, rcvbuf=0, path="/x", wait_for="whole", ca_file=ca_file)
    each = (private_bytes(sidecar) - before) / SECURE
    process.kill()
    await process.wait()
    server.close()
    print(f"{each:.0f} bytes for each idle connection over TLS, {before / 1e6:.1f} MB without")
    assert 0 < each <= SECURE_BYTES


async def settled(sidecar: Sidecar) -> None:
    """Wait until nothing moves any more; being asked costs some CPU, too."""
    spent = [-1.0]

    async def rests() -> bool:
        spent.append(await sidecar.metric("process_cpu_seconds_total"))
        return spent[-1] - spent[-2] <= 0.02

    await eventually(rests, why="it does not say that it has nothing to do", every=0.5)


@asynccontextmanager
async def slow_readers(start: Start) -> AsyncIterator[tuple[Sidecar, asyncio.subprocess.Process, int]]:
    """A sidecar, five hundred apps that take next to nothing of 16 MiB each, and its private memory before them."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sidecar = await start(CONFIG.format(port=server.sockets[0].getsockname()[1]))
    (await callers(sidecar, 20, rcvbuf=0, path="/x", wait_for="whole")).kill()
    before = private_bytes(sidecar)
    process = await callers(sidecar, READERS, rcvbuf=4096, path="/large", wait_for="head")
    await settled(sidecar)
    try:
        yield sidecar, process, before
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        server.close()


async def test_slow_readers(google: Emulator, start: Start) -> None:
    """What is held for them is buffers, not bodies."""
    async with slow_readers(start) as (sidecar, _, before):
        each = (private_bytes(sidecar) - before) / READERS
    print(f"{each:.0f} bytes for each slow reader, {before / 1e6:.1f} MB without")
    assert 0 < each <= READER_BYTES


@pytest.mark.skipif(
    own_heap() is None, reason="needs glibc 2.33 or newer, which can be told to give memory back"
)
async def test_memory_comes_back(google: Emulator, start: Start) -> None:
    """What they needed is the system's again soon after they have gone."""
    async with slow_readers(start) as (sidecar, process, before):
        high = private_bytes(sidecar)
        process.kill()
        await process.wait()
        await eventually(
            lambda: private_bytes(sidecar) - before <= KEPT,
            why="the kernel sends no event",
            limit=LIMIT + LOOK,
        )
        low = private_bytes(sidecar)
    print(f"{(high - before) / 1e6:.0f} MB more, and {(low - before) / 1e6:.1f} MB once they have gone")
    assert high - before > 2 * KEPT, "there was something to give back"


async def streams(
    sidecar: Sidecar, count: int, on: int, *, path: str, authority: str, kind: str
) -> asyncio.subprocess.Process:
    """A process with so many streams of HTTP/2 on so many connections, each with the first bytes of its answer."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", H2_CALLERS, str(sidecar.port), str(count), str(on), path, authority, kind),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(10 * LIMIT):
        assert await process.stdout.readline() == b"there\n"
    return process


async def test_streams_that_wait(google: Emulator, start: Start) -> None:
    """A thousand calls on ten connections that watch the health of a gRPC service."""
    target = await google.add_target("health", grpc=True)
    sidecar = await start(f"routes:\n  - {{name: health, upstream: '{target.url}'}}\n")
    watch = {"path": "/grpc.health.v1.Health/Watch", "authority": "health.localhost", "kind": "call"}
    warm = await streams(sidecar, 20, 1, **watch)
    warm.kill()
    await warm.wait()
    before = private_bytes(sidecar)
    process = await streams(sidecar, STREAMS, ON, **watch)
    each = (private_bytes(sidecar) - before) / STREAMS
    process.kill()
    await process.wait()
    print(f"{each:.0f} bytes for each stream that waits, {before / 1e6:.1f} MB without")
    assert 0 < each <= STREAM_BYTES


async def test_streams_that_stop_reading(google: Emulator, start: Start) -> None:
    """A hundred on one connection, each with its window full: what is held is buffers, not bodies."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sidecar = await start(CONFIG.format(port=server.sockets[0].getsockname()[1]))
    large = {"path": "/large", "authority": "billing.localhost", "kind": "get"}
    (await callers(sidecar, 20, rcvbuf=0, path="/x", wait_for="whole")).kill()
    before = private_bytes(sidecar)
    process = await streams(sidecar, STOPPED, 1, **large)
    await settled(sidecar)
    each = (private_bytes(sidecar) - before) / STOPPED
    process.kill()
    await process.wait()
    server.close()
    print(f"{each:.0f} bytes for each stream that stopped, {before / 1e6:.1f} MB without")
    assert 0 < each <= STOPPED_BYTES
