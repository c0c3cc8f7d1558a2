"""The load: wrk for small requests, one blocking socket for streams and for the first answer.

Owns: how a request is sent and how an answer is judged.
Called by: run.
May not: measure the product (process does) or run on its core (run pins this process to the others).
Rule: one failed request makes a run worthless, so anything but a complete 200 raises.
"""

import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from process import Process, RunError
from upstream import CHUNK, drain

HOST = "bench.internal"
CONNECTIONS = 32
STREAM_SILENCE_SECONDS = 30.0
UNIT_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


@dataclass(frozen=True)
class Load:
    """What wrk saw in one run; latencies in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


def small_requests(port: int, seconds: int, cores: Sequence[int]) -> Load:
    """Load 127.0.0.1:`port` for whole `seconds` over 32 connections; RunError on a single error."""
    done = subprocess.run(
        [
            *("taskset", "--cpu-list", ",".join(map(str, cores))),
            *("wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s"),
            *("--latency", "--timeout", "10s", "--header", f"Host: {HOST}", f"http://127.0.0.1:{port}/"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    problems = re.findall(r"(?:Non-2xx|Socket errors).*", done.stdout)
    total = re.search(r"(\d+) requests in ([\d.]+)(\w+),", done.stdout)
    if done.returncode or problems or not total or not int(total[1]):
        raise RunError(f"the load on port {port} failed: {problems or done.stdout + done.stderr}")
    return Load(
        requests=int(total[1]),
        seconds=float(total[2]) * UNIT_MICROSECONDS[total[3]] / 1e6,
        p50=_percentile(done.stdout, 50),
        p99=_percentile(done.stdout, 99),
    )


def _percentile(output: str, percent: int) -> float:
    found = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
    if not found:
        raise RunError(f"wrk printed no {percent}% line:\n{output}")
    return float(found[1]) * UNIT_MICROSECONDS[found[2]]


@dataclass(frozen=True)
class Answer:
    """A status and the whole body of a short answer."""

    status: int
    body: bytes


def get(port: int, path: str, host: str = HOST) -> Answer:
    """One GET on a connection of its own, the answer held in memory; OSError when nobody answers."""
    with _request(port, f"GET {path}", host=host) as (connection, status, length, body):
        while len(body) < length and (data := connection.recv(len(CHUNK))):
            body += data
        return Answer(status, bytes(body[:length]))


def wait_first_answer(
    process: Process, port: int, path: str, *, host: str = HOST, seconds: float = 15.0
) -> None:
    """Ask every 2 ms until the first 200; RunError when the process ends or takes longer."""
    deadline = time.monotonic() + seconds
    seen = "nobody listens"
    while time.monotonic() < deadline:
        process.check()
        try:
            answer = get(port, path, host)
        except OSError as error:
            seen = str(error)
        else:
            if answer.status == 200:
                return
            seen = f"{answer.status} {answer.body[:300]!r}"
        time.sleep(0.002)
    raise RunError(f"{process.name} gives no answer ({seen}):\n{process.last_output()}")


def download(port: int, length: int) -> None:
    """Read an answer of `length` bytes and drop it; RunError unless all of it came."""
    with _request(port, f"GET /{length}") as (connection, status, promised, body):
        have = drain(connection, length, len(body))
        if (status, promised, have) != (200, length, length):
            raise RunError(f"a download of {length} bytes gave {status} with {have} of {promised} bytes")


def upload(port: int, length: int) -> None:
    """Send a body of `length` bytes; RunError unless the upstream counted all of it."""
    with _request(port, "PUT /", length) as (connection, status, answer_length, body):
        while len(body) < answer_length and (data := connection.recv(len(CHUNK))):
            body += data
        if status != 200 or int(body) != length:
            raise RunError(f"an upload of {length} bytes gave {status}; the upstream counted {bytes(body)!r}")


@contextmanager
def _request(
    port: int, line: str, length: int = 0, host: str = HOST
) -> Iterator[tuple[socket.socket, int, int, bytearray]]:
    """Send a request with `length` bytes of body; give connection, status, length, first of the body."""
    with socket.create_connection(("127.0.0.1", port), timeout=STREAM_SILENCE_SECONDS) as connection:
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
