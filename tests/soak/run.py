"""One soak: phases, judgement, report."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from sidecar.observe.heap import LOOK
from tests.soak import faults
from tests.soak.faults import Window
from tests.soak.judge import Failure, Quiet, judge_journal, judge_leaks, judge_requests, starved
from tests.soak.setting import CONCERNS
from tests.soak.worker import HANG
from tests.soak.world import World, spawn

WORKERS = 24
THINK = 0.03
"""Seconds, on average, between two requests of one worker."""
SHOWN = 25
"""Findings that the report shows."""
COUNTED = (
    *("requests", "refused", "retries", "token_replays", "upgrades", "upstream_connections_opened"),
    *("http2_requests", "grpc_calls", "http2_resets", "flow_control_stalls"),
    *("token_fetches", "token_invalidated", "config_reloads"),
)


class Clients:
    """The process of the clients, and what it tells."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.counts: Counter[str] = Counter()
        self.routes: dict[str, int] = {}
        self.ways: dict[str, int] = {}
        self.paused: asyncio.Queue[None] = asyncio.Queue()

    async def start(self, world: World) -> None:
        told = {
            "seed": world.seed,
            "ways": world.ways,
            "routes": world.routes,
            "workers": WORKERS,
            "think": THINK,
        }
        self.process = await spawn(
            *("-m", "tests.soak.load", json.dumps(told)),
            environ=world.environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.reading = asyncio.create_task(self._read())  # noqa: TID251

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            found: Any = json.loads(line)
            if isinstance(found, list):
                self.failures.append(Failure(*found))
            else:
                self.counts = Counter(found["counts"])
                self.routes, self.ways = found["routes"], found["ways"]
                self.paused.put_nowait(None)

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n".encode())

    async def rest(self, order: str = "pause") -> None:
        """No request is under way after this."""
        self.tell(order)
        await asyncio.wait_for(self.paused.get(), 3 * HANG)

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self.reading


async def soak(seconds: float, seed: int, *, wild: bool) -> tuple[str, int]:
    """A soak of about so many seconds; its report, and how many findings there are. `wild`: with wildcard hosts."""
    with tempfile.TemporaryDirectory(prefix="idtoken-soak-") as name:
        world, clients = World(Path(name), seed, wild=wild), Clients()
        findings: list[str] = []
        windows: list[Window] = []
        quiet: list[Quiet] = []
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await world.start()
            await clients.start(world)
            # A tenth without a fault, for the base; then two halves with a quiet moment in between.
            for phase, share in (("base", 0.1), ("middle", 0.45), ("end", 0.45)):
                clients.tell("go")
                until = loop.time() + share * seconds
                if phase != "base":
                    await inflict_all(world, seed, phase, seconds, until, windows)
                await asyncio.sleep(max(until - loop.time(), 0))
                await clients.rest("end" if phase == "end" else "pause")
                quiet.append(await world.quiet(phase, min(LOOK + 1, seconds / 20)))
            counters = await world.counters(COUNTED)
        finally:
            await clients.stop() if hasattr(clients, "process") else None
            code = await world.stop()
        journal = world.journal.read_text().splitlines()
        windows += starved(journal)
        explained, unexplained = judge_requests(clients.failures, windows, CONCERNS)
        findings += judge_leaks(*quiet)
        findings += judge_journal(journal)
        logged = Counter(world.faults_logged)
        findings += [f"logged {times} times: {line[:600]}" for line, times in logged.items()]
        if code != 0:
            findings.append(f"the sidecar ended with exit code {code}")
        # Last, since these may be many.
        findings += unexplained
        took = loop.time() - began
        return report(seed, took, clients, windows, quiet, explained, counters, findings, world), len(
            findings
        )


async def inflict_all(
    world: World, seed: int, phase: str, seconds: float, until: float, windows: list[Window]
) -> None:
    """Every group's faults, side by side; a short run has shorter ones."""
    scale = min(1.0, seconds / 300)
    await asyncio.gather(
        *(
            faults.inflict(group, seed * 1000 + len(phase), scale, until, world.switch, windows)
            for group in faults.KINDS
        )
    )


def report(
    seed: int,
    took: float,
    clients: Clients,
    windows: list[Window],
    quiet: list[Quiet],
    explained: Counter[tuple[str, str]],
    counters: dict[str, float],
    findings: list[str],
    world: World,
) -> str:
    """One page of numbers."""
    counts = clients.counts
    total = sum(counts.values())
    lines = [
        f"soak: seed {seed}, {took:.0f} s, {total} requests of clients ({total / took:.0f}/s), {len(windows)} faults"
    ]
    lines += ["", "  clients           well   not well"]
    for operation in sorted({name.rpartition(" ")[0] for name in counts}):
        lines.append(f"  {operation:<16}{counts[f'{operation} ok']:>6}{counts[f'{operation} not']:>11}")
    for label, by in (("route", clients.routes), ("way", clients.ways)):
        lines.append(f"  by {label:<6}" + ", ".join(f"{name} {count}" for name, count in sorted(by.items())))
    lines += ["", "  what faults explain"]
    by_fault = Counter(window.kind.name for window in windows)
    for name, times in sorted(by_fault.items()):
        found = {what: count for (fault, what), count in explained.items() if fault == name}
        text = ", ".join(f"{what} ×{count}" for what, count in sorted(found.items())) or "–"
        lines.append(f"  {name:<26}{times:>3}×  {text}")
    lines += ["", f"  {'quiet':<24}" + "".join(f"{q.name:>10}" for q in quiet)]
    for label, values in (
        ("resident, MiB", [f"{q.resident:.1f}" for q in quiet]),
        ("  in use of malloc's", ["–" if q.used is None else f"{q.used:.1f}" for q in quiet]),
        ("  blocks", [q.blocks for q in quiet]),
        ("descriptors", [q.descriptors for q in quiet]),
        ("threads", [q.threads for q in quiet]),
        ("tasks", [q.tasks for q in quiet]),
        ("timers", [q.timers for q in quiet]),
        ("  of cached tokens", [q.cache_timers for q in quiet]),
        ("objects", [q.tracked for q in quiet]),
        *((f"  {name}", [q.objects[name] for q in quiet]) for name in quiet[0].objects),
        *((name, [f"{q.gauges[name]:g}" for q in quiet]) for name in quiet[0].gauges),
    ):
        lines.append(f"  {label:<24}" + "".join(f"{value:>10}" for value in values))
    lines += [
        "",
        "  sidecar counted   " + ", ".join(f"{name} {value:.0f}" for name, value in counters.items()),
    ]
    lines.append(f"  log lines         {world.log_lines}")
    lines += ["", f"  {len(findings)} findings" + (":" if findings else "")]
    lines += [f"  - {finding}" for finding in findings[:SHOWN]]
    if len(findings) > SHOWN:
        lines.append(f"  … and {len(findings) - SHOWN} more")
    return "\n".join(lines)
