"""What a product costs when nothing happens: its start, its memory at rest, how often it wakes up.

Owns: these measurements and their limits.
Called by: run.
May not: set up a product (`products`) or start a process by itself (`measure.Bench.instance`).
Rule: products start in turn, the first of a round another one each time, and a ratio is taken within a round.
"""

import statistics
import time
from dataclasses import dataclass, field

import load
from machine import say
from measure import Bench, Instance
from products import Product
from upstream import SmallAnswers

SETTLE_SECONDS = 3.0
"""From the first answer to what is called rest."""
IDLE_SECONDS = 10.0
PROBE = "/healthz/startup"
HAS_PROBE = ("sidecar", "compiled", "earlier")


@dataclass
class Rest:
    """Of one product; seconds from the start of the process, one entry a round."""

    answered: list[float] = field(default_factory=list)
    """To the first answer through it."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds by then, in steps of 10 ms."""
    probed: list[float] = field(default_factory=list)
    """To the first good answer to its start-up probe, where it has one."""
    resident: int = 0
    wakeups: float = 0.0
    """Of all its threads, a second."""


class RestBench:
    """One run of this part."""

    def __init__(self, bench: Bench, *, rounds: int) -> None:
        self._bench = bench
        self._rounds = rounds
        self._products = [product for product in bench.products if product.http1]
        self.found: dict[str, Rest] = {product.name: Rest() for product in self._products}

    def measure(self) -> None:
        """Start every product once a round; look at it at rest in the last."""
        say("starts, and rest")
        bench = self._bench
        with SmallAnswers(bench.work / "upstream", bench.certificates, bench.cores.load) as upstream:
            for number in range(self._rounds):
                turn = number % len(self._products)
                for product in [*self._products[turn:], *self._products[:turn]]:
                    self._start(product, upstream.port, last=number == self._rounds - 1)

    def _start(self, product: Product, port: int, *, last: bool) -> None:
        rest = self.found[product.name]
        began = time.monotonic()
        with self._bench.instance(product, port, tls=False, first="/") as instance:
            rest.answered.append(instance.answered - began)
            rest.cpu.append(instance.process.cpu_seconds())
            if product.name in HAS_PROBE:
                load.wait_first_answer(instance.process, instance.admin_port, PROBE, host="localhost")
                rest.probed.append(time.monotonic() - began)
            if last:
                self._look_at_rest(rest, instance)

    def _look_at_rest(self, rest: Rest, instance: Instance) -> None:
        time.sleep(SETTLE_SECONDS)
        rest.resident = instance.process.resident()
        before, began = instance.process.switches(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        rest.wakeups = (instance.process.switches() - before) / (time.monotonic() - began)

    def ratio(self, subject: str, reference: str) -> float:
        """How many times the reference's the time to the first answer is: the median over the rounds."""
        mine, theirs = self.found[subject].answered, self.found[reference].answered
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
