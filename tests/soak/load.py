"""The clients of the soak, a process of its own: a closed loop of workers, each with one request after the other.

Told by JSON lines on its standard input (`go`, `pause`, `end`); writes a line for each request that did not come out well,
and on `pause` and `end` one with what it counted. Times are those of the monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
from collections import Counter
from typing import Any

from tests.soak.client import CutError, Outcome, Route, Way
from tests.soak.operations import NOT_CARRIED, OPERATIONS
from tests.soak.worker import HANG, Worker


class Load:
    """All workers, and what is reported about them."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.routes: dict[str, list[Route]] = {}
        for route in (Route(*route) for route in told["routes"]):
            self.routes.setdefault(route.name, []).append(route)
        ways = [Way(*way) for way in told["ways"]]
        self.ways = {
            way: None if way.ca_file is None else ssl.create_default_context(cafile=way.ca_file)
            for way in ways
        }
        self.going = asyncio.Event()
        self.changed = asyncio.Event()
        self.resting = 0
        self.counts: Counter[str] = Counter()
        self.by_route: Counter[str] = Counter()
        self.by_way: Counter[str] = Counter()

    def tell(
        self, operation: str, route: str, way: str, began: float, ended: float, outcome: Outcome
    ) -> None:
        self.counts[f"{operation} {'ok' if outcome.what == 'ok' else 'not'}"] += 1
        self.by_route[route] += 1
        self.by_way[way] += 1
        if outcome.what != "ok":
            detail = f"by {way}: {outcome.detail}"
            print(json.dumps([operation, route, began, ended, outcome.what, detail]), flush=True)

    async def work(self, worker: Worker) -> None:
        """One request after the other, at any time but in a pause."""
        loop = asyncio.get_running_loop()
        operations, weights = zip(*OPERATIONS.items(), strict=True)
        while True:
            if not self.going.is_set():
                worker.leave()
                self.resting += 1
                self.changed.set()
                await self.going.wait()
                self.resting -= 1
            (operation,) = worker.random.choices(operations, weights)
            route = worker.route()
            while route.protocol == NOT_CARRIED.get(operation):
                route = worker.route()
            began = loop.time()
            try:
                async with asyncio.timeout(HANG):
                    outcomes = await operation(worker, route)
            except CutError as error:
                outcomes = [Outcome("cut", str(error))]
            except TimeoutError:
                outcomes = [Outcome("hang")]
            except OSError as error:
                outcomes = [Outcome("cut", f"connecting or writing: {error!r}")]
            except (ValueError, LookupError) as error:
                outcomes = [Outcome("wrong", f"no HTTP: {error!r}")]
            if outcomes[-1].what != "ok":
                worker.leave()
            if worker.way == "unix" and outcomes[-1].what == "short":
                # An answer without a length is broken off by a reset, of which such a socket has none.
                outcomes = [Outcome("cut", "as nobody can tell")]
            for outcome in outcomes:
                worker.tell(operation.__name__, route, began, outcome)
            await asyncio.sleep(worker.random.expovariate(1 / self.told["think"]))

    async def run(self) -> None:
        workers = [
            asyncio.create_task(  # noqa: TID251
                self.work(Worker(number, self.told["seed"], self.routes, self.ways, self.tell))
            )
            for number in range(self.told["workers"])
        ]
        loop = asyncio.get_running_loop()
        while True:
            order = (await loop.run_in_executor(None, sys.stdin.readline)).strip()
            if order == "go":
                self.going.set()
                continue
            self.going.clear()
            while self.resting < len(workers):
                self.changed.clear()
                if dead := [worker for worker in workers if worker.done()]:
                    dead[0].result()
                await asyncio.wait_for(self.changed.wait(), 2 * HANG)
            counted = {"counts": self.counts, "routes": self.by_route, "ways": self.by_way}
            print(json.dumps(counted), flush=True)
            if order != "pause":
                break
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


if __name__ == "__main__":
    # asyncio complains of writes to connections that are gone, which is what many of these are about.
    logging.disable(logging.WARNING)
    asyncio.run(Load(json.loads(sys.argv[1])).run())
