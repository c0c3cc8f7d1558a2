"""The contenders of a part, side by side; and the first two parts, small requests and streams.

Owns: how instances are started, checked and taken in turn, and the samples of these two parts.
Called by: run, and the other parts.
May not: print results or judge them (report does).
Rule: products take turns within one run (A B C A B C …), so that what disturbs the machine disturbs them all.
"""

import math
import ssl
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import load
from figures import ROWS, Figures, size
from machine import say
from metadata_server import MetadataServer, audience_of
from process import Cores, Process, RunError, core_seconds, free_port, wait_listening
from products import AUDIENCE, Job, Product, Setting
from upstream import BODY, Certificates, SmallAnswers, Streams

WARM_UP_SECONDS = 1
LONGEST_ROUND = 30
"""Seconds."""
BUSY = ("user", "nice", "system", "steal")
INTERRUPTS = ("irq", "softirq")


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it."""

    products: Sequence[Product]
    rounds: int
    requests: int
    memory_requests: int
    """Requests that an instance has served at least before its memory is read."""
    stream_rounds: int
    stream_bytes: int
    quick: bool = False


@dataclass(frozen=True)
class Round:
    """One load of one product."""

    microseconds: float
    """CPU time of the product per request."""
    core: float
    """Busy time of the product's core per request, in microseconds: with what the kernel did in softirqs."""
    load: load.Load
    foreign: float
    """Share of the product's core that others used meanwhile, 0 to 1."""


@dataclass
class SmallRequests:
    """All rounds of one product with one kind of upstream."""

    rounds: list[Round] = field(default_factory=list)
    served: int = 0
    resident: int = 0
    token_fetches: int = 0

    @property
    def microseconds(self) -> float:
        """Median CPU time per request."""
        return statistics.median(each.microseconds for each in self.rounds)


@dataclass
class Results:
    """More about small requests than their figures, by product and whether the upstream speaks TLS."""

    small: dict[tuple[str, bool], SmallRequests] = field(default_factory=dict)


@dataclass(frozen=True)
class Instance:
    """A running product with a metadata server of its own."""

    product: Product
    process: Process
    port: int
    admin_port: int
    metadata: MetadataServer
    answered: float
    """When its first answer came, or it listened (monotonic)."""
    trust: ssl.SSLContext | None = None
    """For connections from the app's side, where those are TLS."""


class Bench:
    """One run: a directory to work in, the cores, the certificates, the figures."""

    def __init__(self, plan: Plan, work: Path, cores: Cores) -> None:
        """Everything that is written goes below `work`."""
        self.plan = plan
        self.products = plan.products
        self.work = work
        self.cores = cores
        self.certificates = Certificates.make(work / "certificates")
        self.results = Results()
        self.figures = Figures()
        self.foreign = 0.0
        """The largest share of the product's core that others took during a load of `cost`."""

    # -- contenders, side by side

    @contextmanager
    def field(
        self,
        part: str,
        upstream_port: int,
        *,
        tls: bool = False,
        first: str | None = "/authorization",
        job: Job = Job(),  # noqa: B008  # frozen
        among: Sequence[Product] | None = None,
    ) -> Iterator[list[Instance]]:
        """Run every contender at once. One that can't be set up, or sends no token, is out of this part."""
        with ExitStack() as stack:
            made = []
            for product in self.contenders(job) if among is None else among:
                with self.judged(part, product.name):
                    running = self.instance(product, upstream_port, tls=tls, first=first, job=job)
                    instance = stack.enter_context(running)
                    if first == "/authorization":
                        check_token(instance)
                    made.append(instance)
            yield made

    def contenders(self, job: Job = Job()) -> list[Product]:  # noqa: B008  # frozen
        """Those who can do this job at all."""
        return [product for product in self.products if (product.http2 if job.http2 else product.http1)]

    @contextmanager
    def judged(self, what: str, product: str) -> Iterator[None]:
        """What goes wrong in here is the product's fault: it is out of this row or part, and the run goes on."""
        try:
            yield
        except (RunError, OSError) as error:
            self.figures.out[what, product] = str(error)
            say(f"  {product} is OUT of `{what}`: {error}")

    def turn(self, row: str, instances: Sequence[Instance], take: Callable[[Instance], float]) -> None:
        """One round of a row: each contender that is still in takes its turn."""
        for instance in instances:
            name = instance.product.name
            if self.figures.is_out(row, name):
                continue
            with self.judged(row, name):
                value = take(instance)
                self.figures.add(row, name, value)
                say(f"  {row}: {name} {value:.{ROWS[row].digits}f} {ROWS[row].unit}")

    @contextmanager
    def instance(
        self,
        product: Product,
        upstream_port: int,
        *,
        tls: bool,
        first: str | None,
        job: Job = Job(),  # noqa: B008  # frozen
        metadata_port: int | None = None,
    ) -> Iterator[Instance]:
        """Run a product until its first answer (to the path `first`; None: until it listens) and beyond."""
        # One product may run twice at a time, with few routes and with many: each reads its configuration again.
        directory = self.work / (product.name if job.routes == 1 else f"{product.name}-{job.routes}-routes")
        directory.mkdir(parents=True, exist_ok=True)
        trust = ssl.create_default_context(cafile=str(self.certificates.ca)) if job.secure else None
        with MetadataServer() as metadata:
            setting = Setting(
                directory=directory,
                port=free_port(),
                admin_port=free_port(),
                upstream_port=upstream_port,
                metadata_port=metadata.port if metadata_port is None else metadata_port,
                ca_file=self.certificates.ca if tls else None,
                server=self.certificates,
                job=job,
            )
            launch = product.prepare(setting)
            with Process(
                product.title,
                launch.argv,
                cores=[self.cores.product],
                directory=directory,
                environ=launch.environ,
            ) as process:
                if first is None:
                    wait_listening(process, setting.port)
                else:
                    # A thousand routes and more take their time.
                    seconds = 15.0 + job.routes / 50
                    load.wait_first_answer(process, setting.port, first, trust=trust, seconds=seconds)
                answered = time.monotonic()
                yield Instance(product, process, setting.port, setting.admin_port, metadata, answered, trust)

    # -- small requests

    def small_requests(self, *, tls: bool) -> None:
        """CPU per small request, latency, and memory after many of them."""
        kind = "tls" if tls else "plain"
        with self.small_answers() as upstream:
            port = upstream.tls_port if tls else upstream.port
            with self.field("small", port, tls=tls) as instances:
                seconds = {each.product.name: self._warm_up(each, tls=tls) for each in instances}
                for number in range(1, self.plan.rounds + 1):
                    say(f"small requests, {kind} upstream: round {number} of {self.plan.rounds}")
                    self.turn(
                        f"small {kind}",
                        instances,
                        lambda each: self._round(each, seconds[each.product.name], tls),
                    )
                say(f"small requests, {kind} upstream: memory after {self.plan.memory_requests:,} requests")
                self.turn(
                    f"memory {kind}",
                    instances,
                    lambda each: self._resident_after(each, seconds[each.product.name], tls) / 2**20,
                )

    @contextmanager
    def small_answers(self) -> Iterator[SmallAnswers]:
        """The upstream with 1 kB, which has shown that it refuses requests without a token."""
        with SmallAnswers(self.work / "upstream", self.certificates, self.cores.load) as upstream:
            if load.get(upstream.port, "/").status != 403:
                raise RunError("the upstream answers without a bearer token: nothing would be proved")
            yield upstream

    def _collected(self, instance: Instance, tls: bool) -> SmallRequests:
        return self.results.small.setdefault((instance.product.name, tls), SmallRequests())

    def _warm_up(self, instance: Instance, *, tls: bool) -> float:
        """Fill pools and caches; return how many seconds a round takes."""
        if self.plan.quick:
            return load.QUICK_SECONDS
        warm = load.small_requests(instance.port, WARM_UP_SECONDS, self.cores.load)
        self._collected(instance, tls).served += warm.requests
        return whole_seconds(warm, self.plan.requests)

    def _round(self, instance: Instance, seconds: float, tls: bool) -> float:
        check_answer(instance, "/", len(BODY))
        done = self.cost(instance, seconds)
        self._collected(instance, tls).rounds.append(done)
        self._collected(instance, tls).served += done.load.requests
        return done.microseconds

    def cost(self, instance: Instance, seconds: float, shape: load.Shape = load.Shape()) -> Round:  # noqa: B008
        """One load of one product."""
        began = time.monotonic()
        cpu, core = instance.process.cpu_seconds(), core_seconds(self.cores.product)
        seen = load.small_requests(instance.port, seconds, self.cores.load, shape)
        used = instance.process.cpu_seconds() - cpu
        after = core_seconds(self.cores.product)
        seconds_busy = sum(after[name] - core[name] for name in BUSY)
        foreign = max(0.0, seconds_busy - used) / (time.monotonic() - began)
        self.foreign = max(self.foreign, foreign)
        interrupts = sum(after[name] - core[name] for name in INTERRUPTS)
        scale = 1e6 / seen.requests
        return Round(used * scale, (seconds_busy + interrupts) * scale, seen, foreign)

    def _resident_after(self, instance: Instance, seconds: float, tls: bool) -> int:
        collected = self._collected(instance, tls)
        while collected.served < self.plan.memory_requests:
            more = load.small_requests(instance.port, seconds, self.cores.load)
            collected.served += more.requests
        collected.resident = instance.process.resident()
        collected.token_fetches = instance.metadata.fetches
        return collected.resident

    # -- streams

    def streams(self, *, tls: bool) -> None:
        """One large transfer each way, on a fresh instance each: memory where the reader stalls, then CPU and time."""
        kind = "tls" if tls else "plain"
        rounds = self.plan.stream_rounds
        with Streams(self.certificates if tls else None) as upstream:
            for number in range(1, rounds + 1):
                for direction, transfer in (("download", load.download), ("upload", load.upload)):
                    say(
                        f"{direction}s of {size(self.plan.stream_bytes)}, {kind} upstream: round {number} of {rounds}"
                    )
                    row = f"{direction} {kind}"
                    for product in self.contenders():
                        if self.figures.is_out(f"{row} cpu", product.name):
                            continue
                        with (
                            self.judged("streams", product.name),
                            self.instance(product, upstream.port, tls=tls, first="/16") as instance,
                        ):
                            self._stream(row, instance, transfer)

    def _stream(self, row: str, instance: Instance, transfer: Callable[..., None]) -> None:
        process, length, name = instance.process, self.plan.stream_bytes, instance.product.name
        process.reset_peak()
        before = process.resident()
        transfer(instance.port, length, stall=not self.plan.quick)
        growth = process.peak_resident() - before
        began, cpu = time.monotonic(), process.cpu_seconds()
        transfer(instance.port, length, stall=False)
        seconds, used = time.monotonic() - began, process.cpu_seconds() - cpu
        for what, value in (("cpu", used), ("wall", seconds), ("memory", growth / 2**20)):
            self.figures.add(f"{row} {what}", name, value)
        say(f"  {row}: {name} {used:.2f} CPU s, {seconds:.2f} s, {growth / 2**20:.1f} MiB more at the most")


def check_token(instance: Instance) -> None:
    """RunError unless the upstream sees a token for the audience."""
    answer = load.get(instance.port, "/authorization", trust=instance.trust)
    scheme, _, token = answer.body.decode("latin-1").partition(" ")
    try:
        good = answer.status == 200 and scheme == "Bearer" and audience_of(token) == AUDIENCE
    except (ValueError, KeyError):
        good = False
    if not good:
        raise RunError(f"{instance.product.title} sends no token for {AUDIENCE}: {answer.status}")


def check_answer(instance: Instance, path: str, length: int, upload: int = 0) -> None:
    """RunError unless this path gives 200 with so many bytes; an upload, the number of its own."""
    answer = load.get(instance.port, path, trust=instance.trust, length=upload)
    if upload and answer != load.Answer(200, str(upload).encode()):
        raise RunError(
            f"{instance.product.title} answered an upload with {answer.status} {answer.body[:80]!r}"
        )
    if not upload and (answer.status, len(answer.body)) != (200, length):
        raise RunError(
            f"{instance.product.title} answered {path} with {answer.status} and {len(answer.body)} bytes, not {length}"
        )


def whole_seconds(warm: load.Load, requests: int) -> int:
    """How many of them hold so many requests: wrk knows no other durations. No more than a slow start can spoil."""
    return min(LONGEST_ROUND, max(1, math.ceil(requests * warm.seconds / warm.requests)))
