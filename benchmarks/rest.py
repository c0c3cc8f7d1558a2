"""What a product costs when nothing happens: its start, its memory at rest, how often it wakes up.

Owns: these measurements.
Called by: run.
May not: set up a product (`products`) or start a process by itself (`measure.Bench.instance`).
Rule: products start in turn, the first of a round another one each time, and a ratio is taken within a round.
"""

import time

import load
from machine import say
from measure import Bench, Instance
from products import OWN, Job, Product

PART = "rest"
SETTLE_SECONDS, QUICK_SETTLE_SECONDS = 3.0, 0.5
"""From the first answer to what is called rest."""
IDLE_SECONDS, QUICK_IDLE_SECONDS = 10.0, 1.0
ROUTES = 10
"""Of the sidecar; the others have the one that is asked."""
PROBE = "/healthz/startup"


def measure(bench: Bench) -> None:
    """Start every product once a round; look at it at rest in the last."""
    products, rounds = bench.contenders(), bench.plan.rounds
    with bench.small_answers() as upstream:
        for number in range(rounds):
            say(f"starts: round {number + 1} of {rounds}")
            turn = number % len(products)
            for product in [*products[turn:], *products[:turn]]:
                if not bench.figures.is_out("start", product.name):
                    with bench.judged(PART, product.name):
                        _start(bench, product, upstream.port, last=number == rounds - 1)


def _start(bench: Bench, product: Product, port: int, *, last: bool) -> None:
    add, name = bench.figures.add, product.name
    began = time.monotonic()
    with bench.instance(product, port, tls=False, first="/", job=Job(routes=ROUTES)) as instance:
        add("start", name, (instance.answered - began) * 1e3)
        add("start cpu", name, instance.process.cpu_seconds() * 1e3)
        if name in OWN:
            load.wait_first_answer(instance.process, instance.admin_port, PROBE, host="localhost")
            add("probe", name, (time.monotonic() - began) * 1e3)
        say(f"  start: {name} {(instance.answered - began) * 1e3:.0f} ms")
        if last:
            _look_at_rest(bench, instance)


def _look_at_rest(bench: Bench, instance: Instance) -> None:
    name, quick = instance.product.name, bench.plan.quick
    time.sleep(QUICK_SETTLE_SECONDS if quick else SETTLE_SECONDS)
    resident = instance.process.resident() / 2**20
    before, began = instance.process.switches(), time.monotonic()
    time.sleep(QUICK_IDLE_SECONDS if quick else IDLE_SECONDS)
    wakeups = (instance.process.switches() - before) / (time.monotonic() - began)
    bench.figures.add("memory at rest", name, resident)
    bench.figures.add("wake-ups", name, wakeups)
    say(f"  at rest: {name} {resident:.1f} MiB, {wakeups:.1f} wake-ups a second")
