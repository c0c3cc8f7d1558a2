"""Latency at half of what Envoy can do, for every contender the same rate.

Owns: the rate, and the load of this part.
Called by: run.
May not: print results or judge them (report does).
Rule: open loop: a request is due at its moment, whatever the ones before it do, and its latency counts from then.
"""

from load import QUICK_SECONDS, small_requests
from machine import say
from measure import Bench, Instance
from peer import load

PART = "latency"
SECONDS = 5
CONNECTIONS = 64
REFERENCE = "envoy"


def measure(bench: Bench, program: str, *, tls: bool) -> None:
    """All contenders in turn, at one rate."""
    kind = "tls" if tls else "plain"
    with bench.small_answers() as upstream:
        port = upstream.tls_port if tls else upstream.port
        with bench.field(PART, port, tls=tls) as instances:
            if not instances:
                return
            rate = _half_of_saturation(bench, instances)
            for number in range(1, bench.plan.rounds + 1):
                say(f"{rate:,} requests a second, {kind} upstream: round {number} of {bench.plan.rounds}")
                _round(bench, instances, program, kind, rate)


def _half_of_saturation(bench: Bench, instances: list[Instance]) -> int:
    by_name = {instance.product.name: instance for instance in instances}
    reference = by_name.get(REFERENCE, instances[0])
    if reference.product.name != REFERENCE:
        say(f"  without {REFERENCE}: half of what {reference.product.name} can do")
    seen = small_requests(reference.port, QUICK_SECONDS if bench.plan.quick else 3, bench.cores.load)
    return max(1, int(seen.requests / seen.seconds / 2))


def _round(bench: Bench, instances: list[Instance], program: str, kind: str, rate: int) -> None:
    found: dict[str, dict[str, float]] = {}
    seconds = QUICK_SECONDS if bench.plan.quick else SECONDS
    options = {"rate": rate, "seconds": seconds, "connections": CONNECTIONS}

    def take(instance: Instance) -> float:
        seen = load(program, "open", instance.port, bench.cores.load, options)
        found[instance.product.name] = seen
        return seen["p99"] * 1e3

    bench.turn(f"p99 {kind}", instances, take)
    for name, seen in found.items():
        bench.figures.add(f"p50 {kind}", name, seen["p50"] * 1e3)
        bench.figures.add(f"p99.9 {kind}", name, seen["p999"] * 1e3)
