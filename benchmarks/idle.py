"""Ten thousand idle connections: the memory that they take.

Owns: these connections.
Called by: run.
May not: print results or judge them (report does).
Rule: each has been served once before it waits; one contender runs at a time.
"""

import resource
import socket
from contextlib import ExitStack

from load import HOST
from machine import say
from measure import Bench, Instance
from process import RunError
from products import Job
from upstream import BODY

PART = "idle"
CONNECTIONS, QUICK_CONNECTIONS = 10_000, 500
OPEN_FILES_BESIDE = 500


def measure(bench: Bench) -> None:
    """Resident memory while every connection has been served once and waits."""
    count = QUICK_CONNECTIONS if bench.plan.quick else CONNECTIONS
    if (reached := _open_files(count + OPEN_FILES_BESIDE)) < count + OPEN_FILES_BESIDE:
        say(f"  idle connections are left out: {reached} open files are allowed here (`ulimit -n`)")
        return
    say(f"{count:,} idle connections")
    with bench.small_answers() as upstream:
        for product in bench.contenders():
            with (
                bench.field(PART, upstream.port, job=Job(connections=count), among=[product]) as instances,
                ExitStack() as opened,
            ):
                bench.turn("idle connections", instances, lambda each: _crowded(each, count, opened))


def _crowded(instance: Instance, count: int, opened: ExitStack) -> float:
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    for _ in range(count):
        connection = opened.enter_context(socket.create_connection(("127.0.0.1", instance.port), timeout=30))
        connection.sendall(request)
        received = b""
        while not received.endswith(BODY.encode()):
            if not (data := connection.recv(4096)):
                raise RunError(f"a connection was closed after {received[:80]!r}")
            received += data
    return instance.process.resident() / 2**20


def _open_files(wanted: int) -> int:
    """Raise the limit, which the products inherit, as far as it goes; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else soft
