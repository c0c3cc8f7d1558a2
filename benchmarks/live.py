"""What is open for long: a thousand streams of events, and WebSocket messages.

Owns: the loads of this part.
Called by: run.
May not: print results or judge them (report does).
Rule: CPU is counted only from when every connection has had its first answer.
"""

from collections.abc import Mapping

from machine import say
from measure import Bench, Instance
from peer import load, serving
from products import Job

PART = "live"
STREAMS, QUICK_STREAMS = 1000, 100
"""With ten events a second each."""
EVENT_SECONDS, QUICK_EVENT_SECONDS = 5, 0.5
MESSAGES, QUICK_MESSAGES = 50_000, 2_000
CONNECTIONS = 32


def measure(bench: Bench, program: str) -> None:
    """Events, then messages, in each round."""
    quick = bench.plan.quick
    streams = QUICK_STREAMS if quick else STREAMS
    events = {"connections": streams, "seconds": QUICK_EVENT_SECONDS if quick else EVENT_SECONDS}
    echo = {"connections": CONNECTIONS, "count": QUICK_MESSAGES if quick else MESSAGES}
    with (
        serving(program, "upstream", bench.work / "upstream-peer", bench.cores.load) as upstream,
        bench.field(PART, upstream, job=Job(live=True)) as instances,
    ):
        for number in range(1, bench.plan.rounds + 1):
            say(f"{streams} streams of events; WebSocket messages: round {number} of {bench.plan.rounds}")
            bench.turn("events", instances, lambda each: _cost(bench, each, program, "events", events))
            bench.turn("echo", instances, lambda each: _cost(bench, each, program, "echo", echo))


def _cost(
    bench: Bench, instance: Instance, program: str, command: str, options: Mapping[str, float]
) -> float:
    """CPU µs for one of what the load counted."""
    before: list[float] = []
    cores = bench.cores.load
    found = load(
        program, command, instance.port, cores, options, lambda: before.append(instance.process.cpu_seconds())
    )
    used = instance.process.cpu_seconds() - before[0]
    return used * 1e6 / next(iter(found.values()))
