"""The proxy as the fuzzers play on it: made once, small limits, every fault of its own a finding.

Owns what `request` and `answer` share. A finding is a `Finding`, raised from the target; the stage is made anew after one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from sidecar.runtime.tasks import Tasks
from tests.conformance import strict
from tests.conformance.memory import Memory, Now, Played, make

ROUTES: Final = """
limits: {head: 1KiB, headers: 16, target: 256B, pipelined: 4}
routes:
  - {name: billing, host: billing.internal, upstream: "https://billing.example", audience: "https://billing.example", protocol: http1}
  - {name: both, host: both.internal, upstream: "https://both.example", audience: "https://both.example", header: both, protocol: http1}
  - {name: own, path_prefix: /own, upstream: "https://own.example", audience: "https://own.example", header: X-Token,
     protocol: http1}
"""
"""Small limits: short inputs reach them. In HTTP/1.1 whatever comes, but for `http2_answer`: what reads it is strict."""

SET_BY: Final = {
    b"billing.example": {b"authorization"},
    b"both.example": {b"authorization", b"x-serverless-authorization"},
    b"own.example": {b"x-token"},
}
"""The headers that carry the token, by upstream."""

HEAD: Final = 1024
SLACK: Final = 2048
"""Bytes that the sidecar may add to a head: two tokens, Via, Host."""

TURNS_PER_BYTE: Final = 8
"""Turns of the loop: more than so many for a byte (and a hundred at least) are a finding."""


class Finding(Exception):  # noqa: N818 - what a fuzzer looks for
    """The sidecar did what it may not."""


def expect(holds: object, what: str, *shown: object) -> None:
    """Raise a Finding unless it `holds`."""
    if not holds:
        raise Finding(" ".join([what, *map(repr, shown)]))


class _Faults(logging.Handler):
    """Whatever the sidecar logs as an error is a fault of its own, but for routes that refuse requests."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "sidecar.proxy.refusals.outages":
            self.texts.append(logging.Formatter().format(record))


class Stage:
    """The proxy in memory, its tokens by upstream, and what it logged."""

    def __init__(self, protocol: str) -> None:
        """`protocol` is what it speaks with its upstreams."""
        self.loop = asyncio.new_event_loop()
        routes = ROUTES.replace("protocol: http1", f"protocol: {protocol}")
        self.memory: Memory = self.loop.run_until_complete(
            make(routes, dials=Now if protocol == "http1" else Tasks)
        )
        self.faults = _Faults()
        self.destinations = {
            fixed.host.encode(): fixed
            for route in self.memory.proxy.context.admission.table.routes
            if (fixed := route.fixed()) is not None
        }

    def close(self) -> None:
        """Let go of its event loop."""
        self.loop.close()

    def begin(self) -> None:
        """No connection is left from before, and nothing is counted."""
        self.memory.upstream.hang_up()
        self.memory.turns.taken = 0

    def bearer(self, host: bytes) -> bytes | None:
        """The token that a request to this upstream carries."""
        return self.memory.proxy.context.tokens.bearer(self.destinations[host].token_key())

    def check(self, size: int) -> None:
        """What holds after every play: no fault logged, nothing held on to, no more work than `size` bytes explain."""
        memory = self.memory
        expect(not self.faults.texts, "a fault in the sidecar", *self.faults.texts)
        expect(not memory.proxy.connections, "a connection that is still there")
        for route, stats in memory.proxy.stats.items():
            expect(not stats.in_flight, "an exchange that never ended", route)
            expect(not stats.connections_active, "an upstream connection that is still busy", route)
        turns = memory.turns.taken
        expect(turns <= 100 + TURNS_PER_BYTE * size, "turns", turns, size)
        for line in memory.upstream.lines:
            expect(line.gone or not line.written, "part of a request before the next one", line.written)

    def bearers(self) -> dict[bytes, bytes | None]:
        """Those of all upstreams, by host."""
        return {host: self.bearer(host) for host in SET_BY}

    def check_forwarded(
        self, request: strict.Request, earlier: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        """Whom a request went to, and that it carries that one's token, once, and nobody else's; `earlier` has those
        that the targets may have refused since."""
        host = request.all(b"host")[0]
        expect(host in SET_BY, "an upstream that no route has", host)
        bearers = {self.bearer(host), (earlier or {}).get(host)} - {None}
        carried = [(name, value) for name, value in request.fields if value in bearers]
        expect(sorted(name for name, _ in carried) == sorted(SET_BY[host]), "its token", carried, host)
        expect(len({value for _, value in carried}) == 1, "two tokens", carried)
        for name, value in request.fields:
            if name in SET_BY[host] or name == b"x-serverless-authorization":
                expect(value in bearers, "another credential beside the token", name, value)
            expect(value in bearers or not value.startswith(b"Bearer eyJhbGciOiAi"), "another's token", name)
        size = len(request.line) + sum(len(name) + len(value) + 4 for name, value in request.fields)
        expect(size <= HEAD + SLACK, "a head beyond its bound", size)


_LOG: Final = logging.getLogger("sidecar")
_stages: Final[dict[str, Stage]] = {}


def on_stage(play: Callable[[Stage, bytes], None], data: bytes, protocol: str = "http1") -> None:
    """Play on the one stage of this protocol, made when it is first needed; what a finding left of it is thrown away."""
    if protocol not in _stages:
        _stages[protocol] = Stage(protocol)
    stage = _stages[protocol]
    propagated, _LOG.propagate = _LOG.propagate, False
    _LOG.addHandler(stage.faults)
    try:
        stage.begin()
        play(stage, data)
    except BaseException:
        leave_stage()
        raise
    finally:
        _LOG.propagate = propagated
        _LOG.removeHandler(stage.faults)


def leave_stage() -> None:
    """Close all that there are."""
    while _stages:
        _stages.popitem()[1].close()


def places(data: bytes, size: int) -> tuple[int, ...]:
    """Where to cut `size` bytes, from the four first of an input; none where they are zero, everywhere where they
    are the same number."""
    first, second = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
    if size < 2 or not (first or second):
        return ()
    if first == second and size <= 200:
        return tuple(range(1, size))
    return tuple(sorted({1 + first % (size - 1), 1 + second % (size - 1)}))


def head_of(played: Played) -> bytes:
    """For a message: the beginning of what the app got."""
    return played.data[:300]
