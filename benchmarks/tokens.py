"""A thousand tokens that are due together: what the requests meanwhile feel of it.

Owns: the load of this part.
Called by: run.
May not: print results or judge them (report does).
Rule: the sidecar is compared with itself, just before; the load is open, as in `latency`.
"""

import time
from typing import NamedTuple

import load
import peer
from machine import say
from measure import Bench, Instance, check_token
from process import RunError
from products import OWN, Job, Product

PART = "tokens"
TOKENS, QUICK_TOKENS = 1_000, 50
RATE = 1_000
"""Requests a second: no contender is near its limit then."""


class Pace(NamedTuple):
    """How long a token lives, how much of it is left when it comes, and when the sidecar renews it; seconds."""

    life: float
    left: float
    due: float
    spread: float
    """Within which all of them are renewed."""
    calm: float
    """How long is looked before they are due."""


PACE = Pace(life=3600, left=300, due=75, spread=45, calm=20)
"""225 s before its end, and up to 45 s later."""
QUICK_PACE = Pace(life=10, left=10, due=7.5, spread=0.5, calm=2)
"""A life under 15 minutes: after three quarters, and up to a twentieth later."""


def measure(bench: Bench, program: str) -> None:
    """One contender after the other."""
    for product in bench.contenders():
        if product.name in OWN:
            with bench.judged(PART, product.name):
                _tokens(bench, product, program)


def _tokens(bench: Bench, product: Product, program: str) -> None:
    """p99 of an open load while nothing is due, then while every token is renewed."""
    count, pace = (QUICK_TOKENS, QUICK_PACE) if bench.plan.quick else (TOKENS, PACE)
    cores, directory = bench.cores.load, bench.work / "metadata-peer"
    life = {"life": pace.life, "left": pace.left, "due": pace.due}
    job = Job(routes=count + 1, tokens=True)
    with (
        bench.small_answers() as upstream,
        peer.serving(program, "metadata", directory, cores, **life) as metadata,
        bench.instance(
            product, upstream.port, tls=False, first="/authorization", job=job, metadata_port=metadata
        ) as instance,
    ):
        check_token(instance)
        _settle(metadata, count)
        for number in range(1, max(1, bench.plan.rounds // 3) + 1):
            say(f"{count:,} tokens of {product.name}: round {number}")
            _wait_for_age(metadata, pace.due - 2 - pace.calm, "calm")
            calm = _open(bench, instance, program, pace.calm)
            before = _state(metadata)["fetches"]
            _wait_for_age(metadata, pace.due - 1, "due")
            busy = _open(bench, instance, program, pace.spread + 3)
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
