"""Ten thousand routes, a thousand tokens that are due together, ten thousand idle connections.

Owns: the loads of this part.
Called by: run.
May not: print results or judge them (report does).
Rule: routes and tokens compare the sidecar with itself; the other contenders have nothing like them.
"""

import resource
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

import load
import peer
from machine import say
from measure import Bench, Instance, check_answer, check_token, whole_seconds
from process import RunError
from products import Job, Product
from upstream import BODY

PART = "many"
OWN = ("sidecar", "compiled", "earlier")
FEW = 10
ROUTES, QUICK_ROUTES = 10_000, 300
TOKENS, QUICK_TOKENS = 1_000, 50
LIFE, QUICK_LIFE = 60, 10
"""Seconds that a token lives; they are renewed after three quarters of it, within a twentieth."""
RATE = 1_000
"""Requests a second while tokens are renewed: no contender is near its limit then."""
IDLE, QUICK_IDLE = 10_000, 500
OPEN_FILES_BESIDE = 500


def measure(bench: Bench, program: str) -> None:
    """Routes, tokens, connections."""
    own = [product for product in bench.contenders() if product.name in OWN]
    if own:
        _routes(bench, own)
    for product in own:
        with bench.judged(PART, product.name):
            _tokens(bench, product, program)
    _idle_connections(bench)


def _routes(bench: Bench, own: Sequence[Product]) -> None:
    count = QUICK_ROUTES if bench.plan.quick else ROUTES
    with (
        bench.small_answers() as upstream,
        bench.field(PART, upstream.port, job=Job(routes=FEW), among=own) as few,
        bench.field(PART, upstream.port, job=Job(routes=count), among=own) as many,
    ):
        for number in range(1, bench.plan.rounds + 1):
            say(f"{FEW} routes, {count:,} routes: round {number} of {bench.plan.rounds}")
            for row, instances in (("few routes", few), ("many routes", many)):
                bench.turn(row, instances, lambda each: _cost(bench, each))


def _cost(bench: Bench, instance: Instance) -> float:
    check_answer(instance, "/", len(BODY))
    if bench.plan.quick:
        return bench.cost(instance, load.QUICK_SECONDS).microseconds
    warm = load.small_requests(instance.port, 1, bench.cores.load)
    return bench.cost(instance, whole_seconds(warm, bench.plan.requests)).microseconds


def _tokens(bench: Bench, product: Product, program: str) -> None:
    """p99 of an open load while nothing is due, then while every token is renewed."""
    count, life = (QUICK_TOKENS, QUICK_LIFE) if bench.plan.quick else (TOKENS, LIFE)
    cores, directory = bench.cores.load, bench.work / "metadata-peer"
    job = Job(routes=count + 1, tokens=True)
    with (
        bench.small_answers() as upstream,
        peer.serving(program, "metadata", directory, cores, life=life) as metadata,
        bench.instance(
            product, upstream.port, tls=False, first="/authorization", job=job, metadata_port=metadata
        ) as instance,
    ):
        check_token(instance)
        _settle(metadata, count)
        # From before the first renewal may come until after the last.
        window = life / 8 + 1
        for number in range(1, max(1, bench.plan.rounds // 2) + 1):
            say(f"{count:,} tokens of {product.name}: round {number}")
            _wait_for_age(metadata, life * 3 / 4 - 2 - window, "calm")
            calm = _open(bench, instance, program, window)
            before = _state(metadata)["fetches"]
            _wait_for_age(metadata, life * 3 / 4 - 1, "due")
            busy = _open(bench, instance, program, window)
            if (renewed := _state(metadata)["fetches"] - before) < count:
                raise RunError(f"only {renewed:.0f} of {count} tokens were renewed while it was looked")
            for row, p99 in (("calm p99", calm), ("due p99", busy)):
                bench.figures.add(row, product.name, p99 * 1e3)
                say(f"  {row}: {product.name} {p99 * 1e3:.2f} ms")


def _open(bench: Bench, instance: Instance, program: str, seconds: float) -> float:
    options = {"rate": RATE, "seconds": seconds, "connections": 16}
    return peer.load(program, "open", instance.port, bench.cores.load, options)["p99"]


def _settle(metadata: int, count: int) -> None:
    """Return when the first tokens are all there."""
    deadline = time.monotonic() + 30
    while (fetches := _state(metadata)["fetches"]) <= count:
        if time.monotonic() > deadline:
            raise RunError(f"of {count + 1} tokens, {fetches:.0f} were fetched in 30 s")
        time.sleep(0.05)


def _state(metadata: int) -> dict[str, float]:
    """How many tokens were fetched, and how old the present ones are."""
    return peer.parsed(load.get(metadata, "/state").body.decode())


def _wait_for_age(metadata: int, age: float, what: str) -> None:
    left = max(0.0, age - _state(metadata)["age"])
    say(f"  {what} in {left:.0f} s")
    time.sleep(left)


def _idle_connections(bench: Bench) -> None:
    """Resident memory while every connection has been served once and waits."""
    count = QUICK_IDLE if bench.plan.quick else IDLE
    if (reached := _open_files(count + OPEN_FILES_BESIDE)) < count + OPEN_FILES_BESIDE:
        say(f"  idle connections are left out: {reached} open files are allowed here (`ulimit -n`)")
        return
    say(f"{count:,} idle connections")
    with bench.small_answers() as upstream:
        for product in bench.contenders():
            with (
                bench.judged(PART, product.name),
                bench.field(PART, upstream.port, job=Job(connections=count), among=[product]) as instances,
                ExitStack() as opened,
            ):
                bench.turn("idle connections", instances, lambda each: _crowded(each, count, opened))


def _crowded(instance: Instance, count: int, opened: ExitStack) -> float:
    request = f"GET / HTTP/1.1\r\nHost: {load.HOST}\r\n\r\n".encode()
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
