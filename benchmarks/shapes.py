"""Small requests in other shapes: few and many connections, new ones, 64 KiB, TLS on the app's side, the access log.

Owns: the loads of this part.
Called by: run.
May not: print results or judge them (report does).
Rule: as for small requests, with a plain upstream: the contenders run at the same time, and are loaded in turn.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from load import QUICK_SECONDS, Shape, small_requests
from machine import say
from measure import Bench, Instance, check_answer, whole_seconds
from peer import serving
from products import Job

PART = "shapes"
LARGE = 64 * 1024
QUICK_CONNECTIONS = 64
LOADS: tuple[tuple[Job, Mapping[str, Shape]], ...] = (
    (
        Job(),
        {
            "c1": Shape(connections=1),
            "c512": Shape(connections=512),
            "new": Shape(close=True),
            "down 64k": Shape(path=f"/bytes/{LARGE}"),
            "up 64k": Shape(path="/count", body=LARGE),
        },
    ),
    (Job(secure=True), {"listener": Shape(secure=True)}),
    (Job(access_log=True), {"log": Shape()}),
)
"""What the contenders are asked to do, and the rows that are measured then."""


SHARE = {"c512": 2, "listener": 2, "log": 2, "c1": 5}
"""Of the requests that a round has otherwise, one in so many; one in ten where they are not named."""


def measure(bench: Bench, program: str) -> None:
    """All rows, those of one job in the same rounds."""
    with serving(program, "upstream", bench.work / "upstream-peer", bench.cores.load) as upstream:
        for job, loads in LOADS:
            with bench.field(PART, upstream, job=job) as instances:
                seconds: dict[str, float] = {}
                for number in range(1, bench.plan.rounds + 1):
                    say(f"{', '.join(loads)}: round {number} of {bench.plan.rounds}")
                    for row, shape in loads.items():
                        bench.turn(row, instances, partial(_cost, bench, row, shape, seconds))


def _cost(bench: Bench, row: str, shape: Shape, seconds: dict[str, float], instance: Instance) -> float:
    """CPU µs a request; `seconds` keeps how long a round takes of each row and contender."""
    length = LARGE if shape.path.startswith("/bytes/") else 1024
    check_answer(instance, shape.path, length, shape.body)
    key = f"{row} {instance.product.name}"
    if bench.plan.quick:
        seconds[key] = QUICK_SECONDS
        shape = replace(shape, connections=min(shape.connections, QUICK_CONNECTIONS))
    elif key not in seconds:
        warm = small_requests(instance.port, 1, bench.cores.load, shape)
        seconds[key] = whole_seconds(warm, bench.plan.requests // SHARE.get(row, 10))
    done = bench.cost(instance, seconds[key], shape)
    check_answer(instance, shape.path, length, shape.body)
    return done.microseconds
