"""The load: wrk for small requests, one blocking socket for streams and for the first answer.

Owns: how a request is sent and how an answer is judged.
Called by: run.
May not: measure the product (process does) or run on its core (run pins this process to the others).
Rule: one failed request makes a run worthless, so anything but a complete 200 raises.
"""

import math
import re
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from process import Process, RunError
from upstream import CHUNK, drain

HOST = "bench.internal"
CONNECTIONS = 32
QUICK_SECONDS = 0.5
"""Long enough to see that a load works."""
STREAM_SILENCE_SECONDS = 30.0
PATIENCE = 4.0
"""Seconds: a shorter load without an answer is repeated, twice as long: a busy machine is no wrong answer."""
NOTHING_YET = "\n  0 requests in "
CUT_SHORT = 124
"""What timeout(1) ends with."""
UNIT_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


@dataclass(frozen=True)
class Load:
    """What wrk saw in one run; latencies in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Shape:
    """What wrk sends."""

    connections: int = CONNECTIONS
    path: str = "/"
    close: bool = False
    """A new connection for each request."""
    body: int = 0
    """Bytes to upload by PUT; 0: a GET."""
    host: str = HOST
    secure: bool = False
    """By TLS."""


def small_requests(port: int, seconds: float, cores: Sequence[int], shape: Shape = Shape()) -> Load:
    """Load 127.0.0.1:`port`; RunError on a single error. wrk itself knows whole seconds, and ends earlier at SIGINT."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "PUT"\nwrk.body = string.rep("x", {shape.body})\n')
        script.flush()
        done = subprocess.run(
            [
                *(("timeout", "--signal=INT", f"{seconds}s") if seconds < 1 else ()),
                *("taskset", "--cpu-list", ",".join(map(str, cores))),
                *("wrk", "--threads", "1", "--connections", str(shape.connections), "--latency"),
                *(
                    "--duration",
                    f"{math.ceil(seconds)}s",
                    "--timeout",
                    "10s",
                    "--header",
                    f"Host: {shape.host}",
                ),
                *(("--header", "Connection: close") if shape.close else ()),
                *(("--script", script.name, "--header", f"X-Length: {shape.body}") if shape.body else ()),
                f"{'https' if shape.secure else 'http'}://127.0.0.1:{port}{shape.path}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, CUT_SHORT):
        raise RunError(f"the load on port {port} failed: {done.stdout + done.stderr}")
    if seconds < PATIENCE and NOTHING_YET in done.stdout:
        return small_requests(port, 2 * seconds, cores, shape)
    return parsed(done.stdout)


def parsed(output: str) -> Load:
    """What wrk printed; RunError where a request failed, or there was none."""
    problems = re.findall(r"(?:Non-2xx|Socket errors).*", output)
    total = re.search(r"(\d+) requests in ([\d.]+)(\w+),", output)
    if problems or not total or not int(total[1]):
        raise RunError(f"the load failed: {problems or output}")
    return Load(
        requests=int(total[1]),
        seconds=float(total[2]) * UNIT_MICROSECONDS[total[3]] / 1e6,
        p50=_percentile(output, 50),
        p99=_percentile(output, 99),
    )


def _percentile(output: str, percent: int) -> float:
    found = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m) *$", output, re.MULTILINE)
    if not found:
        raise RunError(f"wrk printed no {percent}% line:\n{output}")
    return float(found[1]) * UNIT_MICROSECONDS[found[2]]


@dataclass(frozen=True)
class Answer:
    """A status and the whole body of a short answer."""

    status: int
    body: bytes


def get(
    port: int, path: str, host: str = HOST, *, trust: ssl.SSLContext | None = None, length: int = 0
) -> Answer:
    """One GET, or a PUT of `length` bytes, on a connection of its own, the answer held in memory.

    By TLS where `trust` is given. OSError when nobody answers.
    """
    line = f"{'PUT' if length else 'GET'} {path}"
    with _request(port, line, length, host, trust) as (connection, status, length, body):
        while len(body) < length and (data := connection.recv(len(CHUNK))):
            body += data
        return Answer(status, bytes(body[:length]))


def wait_first_answer(
    process: Process,
    port: int,
    path: str,
    *,
    host: str = HOST,
    seconds: float = 15.0,
    trust: ssl.SSLContext | None = None,
) -> None:
    """Ask every 2 ms until the first 200; RunError when the process ends or takes longer."""
    deadline = time.monotonic() + seconds
    seen = "nobody listens"
    while time.monotonic() < deadline:
        process.check()
        try:
            answer = get(port, path, host, trust=trust)
        except OSError as error:
            seen = str(error)
        else:
            if answer.status == 200:
                return
            seen = f"{answer.status} {answer.body[:300]!r}"
        time.sleep(0.002)
    raise RunError(f"{process.name} gives no answer ({seen}):\n{process.last_output()}")


def download(port: int, length: int, *, stall: bool) -> None:
    """Read an answer of `length` bytes and drop it, stalling half-way if asked; RunError unless all of it came."""
    with _request(port, f"GET /{length}") as (connection, status, promised, body):
        have = drain(connection, length, len(body), stall=stall)
        if (status, promised, have) != (200, length, length):
            raise RunError(f"a download of {length} bytes gave {status} with {have} of {promised} bytes")


def upload(port: int, length: int, *, stall: bool) -> None:
    """Send a body of `length` bytes, where the upstream stalls if asked; RunError unless it counted all of it."""
    with _request(port, "PUT /stall" if stall else "PUT /", length) as (
        connection,
        status,
        answer_length,
        body,
    ):
        while len(body) < answer_length and (data := connection.recv(len(CHUNK))):
            body += data
        if status != 200 or int(body) != length:
            raise RunError(f"an upload of {length} bytes gave {status}; the upstream counted {bytes(body)!r}")


@contextmanager
def _request(
    port: int, line: str, length: int = 0, host: str = HOST, trust: ssl.SSLContext | None = None
) -> Iterator[tuple[socket.socket, int, int, bytearray]]:
    """Send a request with `length` bytes of body; give connection, status, length, first of the body."""
    with ExitStack() as stack:
        connection = stack.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=STREAM_SILENCE_SECONDS)
        )
        if trust is not None:
            connection = stack.enter_context(trust.wrap_socket(connection, server_hostname="localhost"))
        framing = f"Content-Length: {length}\r\n" if length else ""
        connection.sendall(f"{line} HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n".encode())
        chunk = memoryview(CHUNK)
        while length:
            part = chunk[:length]
            connection.sendall(part)
            length -= len(part)
        received = bytearray()
        while b"\r\n\r\n" not in received:
            if not (data := connection.recv(len(CHUNK))):
                raise ConnectionError("closed without an answer")
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        promised = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
        yield connection, int(head.split(b" ", 2)[1]), int(promised[1]) if promised else 0, body
