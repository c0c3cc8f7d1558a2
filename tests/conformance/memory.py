"""The proxy without sockets: the same classes between two transports in memory, one turn at a time.

For what has to be tried tens of thousands of times: every split of every case, and fuzzing. Nothing of the product is
replaced but what the operating system would do: the transports, the dialling, the loop's turns.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from sidecar.config.load import load
from sidecar.net.listeners import Owner
from sidecar.net.transport import Receiver, Transport
from sidecar.observe.logs import AccessLog
from sidecar.observe.metrics import TokenStatsTable
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.http1.downstream import DownstreamConnection
from sidecar.proxy.pool.pools import Pools
from sidecar.proxy.server import Proxy, make_link
from sidecar.routing.routes import Destination, RouteTable
from sidecar.runtime.tasks import Tasks
from sidecar.tokens.store import TokenStore
from tests.conformance import strict
from tests.conformance.play import ANSWER
from tests.support.clock import FakeClock
from tests.support.source import LIMIT, Source

ROUTE = """
routes:
  - {name: billing, host: billing.internal, upstream: "https://billing.example", audience: "https://billing.example"}
"""


class Turns:
    """What the proxy knows of a loop: what is due next."""

    def __init__(self) -> None:
        self.taken = 0
        """How many there were: a bound on the work that some bytes may cause."""
        self._due: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Have it called in a later turn."""
        self._due.append((callback, args))

    def run(self) -> None:
        """Until nothing is due."""
        last = self.taken + 100_000
        while self._due:
            assert self.taken < last, "turns without end"
            self.step()

    def step(self) -> None:
        """The next one alone."""
        callback, args = self._due.popleft()
        self.taken += 1
        callback(*args)


class Socket:
    """What is asked of a socket: that a close become a reset."""

    def setsockopt(self, *option: object) -> None:
        """Nothing to set."""


class Line(Transport):
    """A transport that keeps what is written."""

    def __init__(self, turns: Turns, protocol: Receiver, on_write: Callable[[], None] | None = None) -> None:
        self.written = b""
        self.reading = True
        self.ended = False
        self.gone = False
        self.reset = False
        self._turns = turns
        self._protocol = protocol
        self._on_write = on_write
        protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        self.written += data
        if self._on_write is not None:
            self._turns.call_soon(self._on_write)

    def read_ahead(self) -> None:
        """It does."""

    def end(self) -> None:
        self.write_eof()
        self.resume_reading()

    def get_socket(self) -> Any:
        return Socket()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is ever kept here."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def set_protocol(self, receiver: Receiver) -> None:
        self._protocol = receiver

    def is_closing(self) -> bool:
        return self.gone

    def close(self) -> None:
        if not self.gone:
            self.gone = True
            self._turns.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.reset = self.reset or not self.gone
        self.close()

    def deliver(self, data: bytes) -> None:
        """Bytes from the other end."""
        if not self.gone:
            self._protocol.data_received(data)


class Upstream:
    """Answers every whole request that is unambiguous, and keeps them."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.answer = ANSWER
        self.pieces: tuple[int, ...] = ()
        """Where an answer is cut."""
        self.end = False
        """Whether the connection ends with the answer."""
        self.waits = False
        """Whether it leaves what comes unread."""
        self.requests: list[strict.Request] = []
        self.ambiguous: list[str] = []
        self.lines: list[Line] = []
        """The connections to it."""

    def look(self) -> list[Any]:
        """No files."""
        return []

    async def connect(
        self, destination: Destination, make: Callable[[bool], Any], *_: object, http2: bool
    ) -> Any:
        """As a Dialer does."""
        protocol = make(http2)
        line = Line(self._turns, protocol, lambda: self.read(line))
        self.lines = [known for known in self.lines if not known.gone]
        self.lines.append(line)
        return protocol

    def hang_up(self) -> None:
        """Close every connection."""
        for line in self.lines:
            line.close()
        self._turns.run()
        self.lines.clear()

    def read(self, line: Line) -> None:
        """Take what came on a connection, unless it waits, and answer every whole request of it."""
        if self.waits:
            return
        try:
            requests, line.written = strict.read(line.written)
        except strict.AmbiguousError as what:
            self.ambiguous.append(str(what))
            line.written = b""
            line.close()
            return
        self.requests += requests
        for _ in requests:
            for start, end in zip((0, *self.pieces), (*self.pieces, len(self.answer)), strict=True):
                self._turns.call_soon(line.deliver, self.answer[start:end])
            if self.end:
                self._turns.call_soon(self._ended, line)

    def _ended(self, line: Line) -> None:
        if not line.gone:
            line._protocol.eof_received()  # the two are one thing
            line.close()


class Now(Tasks):
    """Tasks that never wait, and so are done at once."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> Any:
        try:
            coroutine.send(None)
        except StopIteration:
            return None
        raise AssertionError(f"{name} waits")


class Played(NamedTuple):
    """What became of some bytes."""

    statuses: list[int]
    requests: list[strict.Request]
    ambiguous: list[str]
    data: bytes
    """All that the app got."""
    closed: bool
    reset: bool = False


class Memory:
    """The proxy, and its tokens in their store."""

    def __init__(
        self, proxy: Proxy, turns: Turns, upstream: Upstream, clock: FakeClock, tasks: tuple[Tasks, ...]
    ) -> None:
        self.proxy = proxy
        self.turns = turns
        self.upstream = upstream
        self.clock = clock
        self.owner = Owner(None, is_unix=False)
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()

    def settle(self) -> None:
        """Until nothing is due, tokens that are fetched again and dials included (where the loop is not running)."""
        self.turns.run()
        while any(self._tasks) and not self._loop.is_running():
            self._loop.run_until_complete(asyncio.sleep(0))
            self.turns.run()

    def play(self, data: bytes, cuts: Iterable[int] = ()) -> Played:
        """Feed `data`, cut there, to a connection of its own, and end it."""
        self.upstream.requests, self.upstream.ambiguous = [], []
        connection = DownstreamConnection(self.proxy.context, self.proxy, self.owner)
        app = Line(self.turns, connection)
        start = 0
        for end in (*cuts, len(data)):
            if app.gone or not app.reading:
                break
            app.deliver(data[start:end])
            start = end
            self.settle()
        if app.reading and start < len(data):
            app.deliver(data[start:])
            self.settle()
        closed = app.gone or app.ended
        reset = app.reset
        app.close()
        self.settle()
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] ([2-5]\d\d) ", app.written)]
        return Played(statuses, self.upstream.requests, self.upstream.ambiguous, app.written, closed, reset)


async def make(
    text: str = ROUTE, target: Callable[[Turns], Upstream] = Upstream, dials: type[Tasks] = Now
) -> Memory:
    """A proxy of this configuration; its tokens are there. Where a `target` speaks HTTP/2, its `dials` are tasks that wait."""
    clock, turns = FakeClock(), Turns()
    config = load(text, environ={}).config
    source = Source(clock)
    table = RouteTable.compile(config, {"default": source})
    loop = asyncio.get_running_loop()
    tasks = Tasks(loop)
    tokens = TokenStore(
        [source],
        clock,
        tasks,
        TokenStatsTable(100).record,
        jitter=lambda: 0.5,
        wait=10,
        size=10,
    )
    for route in table.routes:
        if (fixed := route.fixed()) is not None:
            done: asyncio.Future[Any] = loop.create_future()
            tokens.join(fixed.token_key(), done.set_result)
            async with asyncio.timeout(LIMIT):
                await done
    upstream = target(turns)
    dialling = dials(loop)
    pools = Pools(
        upstream,  # type: ignore[arg-type]  # all that is asked of a Dialer here
        make_link,
        clock,
        dialling,
        settings=config.pool,
        limits=config.limits,
    )
    proxy = Proxy(
        turns,  # type: ignore[arg-type]  # all that is asked of a loop here
        clock,
        admission=Admission(table, pseudonym=b"sidecar-under-test"),
        tokens=tokens,
        pools=pools,
        limits=config.limits,
        access_log=AccessLog("off"),
    )
    return Memory(proxy, turns, upstream, clock, (tasks, dialling))
