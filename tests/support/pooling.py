"""Both sides of a pool, played by the test: requests that ask for a connection, and dials that end when it says so."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from sidecar.config.load import load
from sidecar.errors import SidecarError
from sidecar.net.transport import Transport
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.messages import HTTP1
from sidecar.proxy.pool.pools import Pools
from sidecar.proxy.ports import Link, Relay
from sidecar.routing.routes import Route
from sidecar.runtime.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource
from tests.support.sides import FAULT, FakeLink


class Asker(Relay):
    """What the pool knows of an exchange."""

    def __init__(self, pool: Any, number: int, *, again: bool = False) -> None:
        self.pool = pool
        self.number = number
        self.again = again
        self.outcomes: list[Link | SidecarError] = []
        self.faults: list[BaseException] = []
        self.broken = False
        """Whether it has a fault of its own when it is told something."""
        self.tokenless: SidecarError | None = None
        """What becomes of it, where it gives a connection back at once: its token has run out meanwhile."""

    def __repr__(self) -> str:
        return f"<Asker {self.number} {self.pool.destination.host} {self.outcomes}>"

    def had_its_turn(self) -> bool:
        return self.again

    def connected(self, link: Link) -> None:
        if self.broken:
            raise FAULT
        assert isinstance(link, FakeLink)
        assert link.keeper is self.pool  # a connection to another host would carry the request astray
        if self.tokenless is not None:
            self.outcomes.append(self.tokenless)
            self.pool.release(link)
            return
        link.open(self)
        self.outcomes.append(link)

    def not_connected(self, error: SidecarError) -> None:
        if self.broken:
            raise FAULT
        self.outcomes.append(error)

    def faulted(self, fault: BaseException) -> None:
        self.faults.append(fault)

    @property
    def link(self) -> FakeLink:
        """The connection that it has."""
        (outcome,) = self.outcomes
        assert isinstance(outcome, FakeLink)
        return outcome

    @property
    def error(self) -> SidecarError:
        """What it was told instead."""
        (outcome,) = self.outcomes
        assert isinstance(outcome, SidecarError)
        return outcome


class FakeTransport(Transport):
    """Keeps what is written, and says how it ended."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False
        self.aborted = False
        self.ended = False
        self.halves = True
        self.unsent = 0
        self.high: int | None = None
        self.paused = 0
        self.resumed = 0

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_socket(self) -> Any:
        return None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.paused += 1

    def resume_reading(self) -> None:
        self.resumed += 1

    def can_write_eof(self) -> bool:
        return self.halves

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Dials(Tasks):
    """Dials that end when the test says so; the dialler and its tasks in one."""

    def __init__(self) -> None:
        self.under_way: list[Coroutine[Any, Any, None]] = []
        self.outcome: Exception | None = None
        self.asked: list[tuple[object, ...]] = []
        """With which destination, session and counters."""
        self.changed: list[Any] = []
        """Routes whose files are found changed."""
        self.forgotten: list[object] = []
        self.meanwhile: Callable[[], object] = bool
        """What happens while one is dialled."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> Any:
        self.under_way.append(coroutine)

    async def connect(self, destination: object, make: Any, *rest: object, http2: bool) -> Any:
        self.asked.append((destination, *rest))
        self.meanwhile()
        if self.outcome is not None:
            raise self.outcome
        return make(http2)

    def look(self) -> list[Any]:
        """What was found since the last call."""
        found, self.changed = self.changed, []
        return found

    def forget(self, routes: Any) -> None:
        """What is kept for these is dropped."""
        self.forgotten += routes

    def end(self, index: int, outcome: Exception | None) -> None:
        """One dial is over."""
        self.outcome = outcome
        try:
            self.under_way.pop(index % len(self.under_way)).send(None)
        except StopIteration:
            return
        raise AssertionError("a dial waited")


class Bench:
    """The pools of a route for any host, and its requests."""

    def __init__(self, pool: str, route: str = "", make_link: Any = FakeLink) -> None:
        config = load(
            f"routes: [{{name: any, host: '*.example.com', upstream: 'https://{{host}}'{route}}}]\npool: {{{pool}}}",
            environ={},
        ).config
        self.clock = FakeClock()
        self.dials: Any = Dials()
        self.pools = Pools(
            self.dials, make_link, self.clock, self.dials, settings=config.pool, limits=config.limits
        )
        self.route = Route(config.routes[0], NamedSource("default"))
        self.stats = self.pools.stats["any"] = RouteStats()
        self.places = self.pool("a").places

    def pool(self, host: str) -> Any:
        return self.pools.get(self.route.destination(f"{host}.example.com"), HTTP1)

    def ask(self, host: str = "a", *, again: bool = False) -> Asker:
        """A request; given what is idle, as an exchange would take it."""
        pool = self.pool(host)
        pool.users += 1
        asker = Asker(pool, 0, again=again)
        if (link := pool.acquire(asker, fresh=False)) is not None:
            asker.connected(link)
        return asker

    def busy(self, host: str = "a") -> Asker:
        """A request that has a connection."""
        asker = self.ask(host)
        self.dials.end(0, None)
        assert asker.link
        return asker

    def free(self, asker: Asker) -> None:
        """It has ended well."""
        asker.link.streams -= 1
        asker.pool.release(asker.link)

    def sweep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pools.sweep(self.clock.mono())


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench() -> Iterator[MakeBench]:
    """Makes a bench; the dials that are under way at the end are over."""
    made: list[Bench] = []

    def make(pool: str, route: str = "", make_link: Any = FakeLink) -> Bench:
        made.append(Bench(pool, route, make_link))
        return made[-1]

    yield make
    for bench in made:
        for dial in bench.dials.under_way:
            dial.close()
