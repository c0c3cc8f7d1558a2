"""Ten thousand routes beside ten: what a small request costs then.

Owns: the load of this part.
Called by: run.
May not: print results or judge them (report does).
Rule: the sidecar is compared with itself; the other contenders have nothing like its routes.
"""

from load import QUICK_SECONDS, small_requests
from machine import say
from measure import Bench, Instance, check_answer, whole_seconds
from products import OWN, Job
from upstream import BODY

PART = "routes"
FEW = 10
MANY, QUICK_MANY = 10_000, 300


def measure(bench: Bench) -> None:
    """The last of few routes, and the last of many, in the same rounds."""
    own = [product for product in bench.contenders() if product.name in OWN]
    count = QUICK_MANY if bench.plan.quick else MANY
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
        return bench.cost(instance, QUICK_SECONDS).microseconds
    warm = small_requests(instance.port, 1, bench.cores.load)
    return bench.cost(instance, whole_seconds(warm, bench.plan.requests)).microseconds
