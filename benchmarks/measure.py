"""The measurements: small requests in alternating rounds, then streams on fresh instances.

Owns: the order of things in a run, and the samples that come out.
Called by: run.
May not: print results or judge them (report does).
Rule: products take turns within one run (A B C A B C …), so that what disturbs the machine disturbs them all.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import load
from machine import say
from metadata_server import MetadataServer, audience_of
from process import Cores, Process, RunError, core_seconds, free_port, wait_listening
from products import AUDIENCE, Product, Setting
from upstream import Certificates, SmallAnswers, Streams

WARM_UP_SECONDS = 1
BUSY = ("user", "nice", "system", "steal")
INTERRUPTS = ("irq", "softirq")
Transfer = Callable[[int, int], None]


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


@dataclass(frozen=True)
class Stream:
    """One transfer through a fresh instance: CPU seconds, memory added at the peak in bytes."""

    cpu_seconds: float
    seconds: float
    growth: int


@dataclass
class Results:
    """Everything that was measured; keys are (product, TLS) and (product, TLS, direction)."""

    small: dict[tuple[str, bool], SmallRequests] = field(default_factory=dict)
    streams: dict[tuple[str, bool, str], list[Stream]] = field(default_factory=dict)
    starts: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from start to the first answer, plain upstream."""


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


class Bench:
    """One run: a directory to work in, the cores, the certificates."""

    def __init__(self, plan: Plan, work: Path, cores: Cores) -> None:
        """Everything that is written goes below `work`."""
        self._plan = plan
        self.products = plan.products
        self._http1 = [product for product in plan.products if product.http1]
        self.work = work
        self.cores = cores
        self.certificates = Certificates.make(work / "certificates")
        self.results = Results()

    def small_requests(self, *, tls: bool) -> None:
        """CPU per small request, latency, and memory after many of them."""
        kind = "TLS" if tls else "plain"
        say(f"small requests, {kind} upstream")
        with ExitStack() as stack:
            upstream = stack.enter_context(
                SmallAnswers(self.work / "upstream", self.certificates, self.cores.load)
            )
            if load.get(upstream.port, "/").status != 403:
                raise RunError("the upstream answers without a bearer token: nothing would be proved")
            port = upstream.tls_port if tls else upstream.port
            instances = [
                stack.enter_context(self.instance(product, port, tls=tls, first="/"))
                for product in self._http1
            ]
            seconds = {instance.product.name: self._warm_up(instance, tls=tls) for instance in instances}
            for number in range(1, self._plan.rounds + 1):
                for instance in instances:
                    done = self._round(instance, seconds[instance.product.name])
                    self._collected(instance, tls).rounds.append(done)
                    self._collected(instance, tls).served += done.load.requests
                    say(f"  round {number}: {instance.product.name} {done.microseconds:.1f} µs a request")
            for instance in instances:
                self._read_memory(instance, seconds[instance.product.name], self._collected(instance, tls))

    def _collected(self, instance: Instance, tls: bool) -> SmallRequests:
        return self.results.small.setdefault((instance.product.name, tls), SmallRequests())

    def _warm_up(self, instance: Instance, *, tls: bool) -> int:
        """Check that tokens arrive, fill pools and caches; return how many whole seconds a round takes."""
        answer = load.get(instance.port, "/authorization")
        scheme, _, token = answer.body.decode().partition(" ")
        if answer.status != 200 or scheme != "Bearer" or audience_of(token) != AUDIENCE:
            raise RunError(f"{instance.product.title} doesn't send a token for {AUDIENCE}: {answer.status}")
        warm = load.small_requests(instance.port, WARM_UP_SECONDS, self.cores.load)
        self._collected(instance, tls).served += warm.requests
        return max(1, math.ceil(self._plan.requests * warm.seconds / warm.requests))

    def _round(self, instance: Instance, seconds: int) -> Round:
        began = time.monotonic()
        cpu, core = instance.process.cpu_seconds(), core_seconds(self.cores.product)
        seen = load.small_requests(instance.port, seconds, self.cores.load)
        used = instance.process.cpu_seconds() - cpu
        after = core_seconds(self.cores.product)
        seconds_busy = sum(after[name] - core[name] for name in BUSY)
        foreign = max(0.0, seconds_busy - used) / (time.monotonic() - began)
        interrupts = sum(after[name] - core[name] for name in INTERRUPTS)
        scale = 1e6 / seen.requests
        return Round(used * scale, (seconds_busy + interrupts) * scale, seen, foreign)

    def _read_memory(self, instance: Instance, seconds: int, collected: SmallRequests) -> None:
        while collected.served < self._plan.memory_requests:
            more = load.small_requests(instance.port, seconds, self.cores.load)
            collected.served += more.requests
        collected.resident = instance.process.resident()
        collected.token_fetches = instance.metadata.fetches

    def streams(self, *, tls: bool) -> None:
        """CPU and memory of one large transfer each way, on a fresh instance each; start-up times with it."""
        kind = "TLS" if tls else "plain"
        with Streams(self.certificates if tls else None) as upstream:
            for number in range(1, self._plan.stream_rounds + 1):
                for direction, transfer in (("download", load.download), ("upload", load.upload)):
                    say(f"{direction}s of {size(self._plan.stream_bytes)}, {kind} upstream, {number}")
                    for product in self._http1:
                        with self.instance(product, upstream.port, tls=tls, first="/16") as instance:
                            done = self._stream(instance, transfer)
                        self.results.streams.setdefault((product.name, tls, direction), []).append(done)

    def _stream(self, instance: Instance, transfer: Transfer) -> Stream:
        process = instance.process
        process.reset_peak()
        began, before, cpu = time.monotonic(), process.resident(), process.cpu_seconds()
        transfer(instance.port, self._plan.stream_bytes)
        seconds = time.monotonic() - began
        return Stream(process.cpu_seconds() - cpu, seconds, process.peak_resident() - before)

    @contextmanager
    def instance(
        self, product: Product, upstream_port: int, *, tls: bool, first: str | None, http2: bool = False
    ) -> Iterator[Instance]:
        """Run a product until its first answer (to the path `first`; None: until it listens) and beyond."""
        directory = self.work / product.name
        directory.mkdir(parents=True, exist_ok=True)
        with MetadataServer() as metadata:
            setting = Setting(
                directory=directory,
                port=free_port(),
                admin_port=free_port(),
                upstream_port=upstream_port,
                metadata_port=metadata.port,
                ca_file=self.certificates.ca if tls else None,
                http2=http2,
            )
            launch = product.prepare(setting)
            began = time.monotonic()
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
                    load.wait_first_answer(process, setting.port, first)
                answered = time.monotonic()
                if not tls and not http2:
                    self.results.starts.setdefault(product.name, []).append(answered - began)
                yield Instance(product, process, setting.port, setting.admin_port, metadata, answered)


def size(count: int) -> str:
    """Bytes as people say them: 1 GiB, 64 MiB."""
    return f"{count / 2**30:g} GiB" if count >= 2**30 else f"{count / 2**20:g} MiB"
