"""A connection to a server of the control plane, until a whole request has arrived, and its limits from then on.

Decides how much is read, for how long, and from how many at once. Made by `site` for each connection. An application
gets a request only when its head, and its body if it may have one, is complete and `intake` accepts it. It does not
look into answers. Rules: a connection has one request, so that nothing piles up behind it.
Each turn of the event loop accepts one connection and begins one request, so that the data path has its turns in
between. A refused request gets a whole answer (RFC 9112 section 9.6), at no more than the cost of its head.

    READING ──whole──▶ WAITING ──its turn──▶ SERVED ──answered──▶ closed
       └──refused, late──▶ ENDING ──the peer's end, a moment──▶ closed
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Final, cast, final

from sidecar.runtime.clock import Clock, TimerHandle
from sidecar.runtime.descriptors import SERVED
from sidecar.serving import callers, intake, problems
from sidecar.serving.request import WholeRequest, decoded

_REQUEST_TIME: Final = 10.0
"""Seconds from the connection to the end of the request; as `limits.head_timeout`."""
_SEND_TIME: Final = 15.0
"""Seconds: an answer that waits at two looks this far apart is broken off."""
_UNSENT: Final = 16 * 1024 * 1024
"""Bytes of answers that wait to be taken, of all connections together."""
_ENDING_TIME: Final = 1.0
"""Seconds that the peer gets to read a refusal."""
_DROPPED: Final = 64 * 1024
"""Bytes read behind a request, for nothing; after those reading stops."""


class GateState(enum.Enum):
    """See the module's docstring."""

    READING = "reading"
    WAITING = "waiting"
    SERVED = "served"
    ENDING = "ending"


_ASKED: Final = (GateState.WAITING, GateState.SERVED)
_FIRST_TO_GO: Final = {GateState.ENDING: 0, GateState.READING: 1}


@final
class Gates:
    """All connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        serve: Callable[[Gate, WholeRequest], None],
        takes: intake.Takes,
    ) -> None:
        """`serve` begins to answer a request; `takes` is what may come in."""
        self._loop = loop
        self.clock = clock
        self.serve = serve
        self.takes = takes
        self._open: dict[Gate, None] = {}
        self._waiting: deque[Gate] = deque()
        self._closed = asyncio.Event()
        """Set when one has ended."""

    def __call__(self) -> Gate:
        """The gate of one more connection."""
        return Gate(self)

    async def answered(self) -> None:
        """Wait until every request that is there has its answer."""
        while any(gate.state in _ASKED for gate in self._open):
            self._closed.clear()
            await self._closed.wait()

    def close(self) -> None:
        """Break off what is open."""
        for gate in list(self._open):
            gate.transport.abort()

    # what gates call

    def opened(self, gate: Gate) -> None:
        """At the limit one connection is closed: the oldest refused one, else the oldest without a request, else the
        oldest.
        """
        if len(self._open) >= SERVED:
            oldest = min(self._open, key=lambda it: _FIRST_TO_GO.get(it.state, len(_FIRST_TO_GO)))
            self._open.pop(oldest)
            oldest.transport.abort()
        self._open[gate] = None

    def closed(self, gate: Gate) -> None:
        """It is gone."""
        self._open.pop(gate, None)
        self._closed.set()

    def wait(self, gate: Gate) -> None:
        """Serve it in its turn."""
        if not self._waiting:
            self._loop.call_soon(self._next)
        self._waiting.append(gate)

    def bound_unsent(self) -> None:
        """Break off answers, the oldest first, until the bytes that wait are within their limit."""
        unsent = {gate: gate.transport.get_write_buffer_size() for gate in self._open}
        over = sum(unsent.values()) - _UNSENT
        for gate, size in unsent.items():
            if over <= 0:
                break
            if size:
                over -= size
                gate.transport.abort()

    def _next(self) -> None:
        gate = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._next)
        gate.serve()


@final
class Gate(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_dropped",
        "_gates",
        "_head",
        "_received",
        "_timer",
        "_unsent",
        "_whole",
        "_writable",
        "state",
        "transport",
    )

    transport: asyncio.Transport
    _timer: TimerHandle
    _head: intake.Head

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.state = GateState.READING
        self._received = bytearray()
        self._whole = 0
        """Bytes of the request; 0 until its head is there."""
        self._dropped = 0
        self._unsent = False
        self._writable = asyncio.Event()
        self._writable.set()

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._timer = self._gates.clock.call_later(_REQUEST_TIME, self._too_late)
        self._gates.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.state is not GateState.READING:
            self._drop(len(data))
            return
        self._received += data
        try:
            if not self._whole and not self._read_head(len(self._received) - len(data)):
                return
        except problems.RefusedError as refusal:
            self._refuse(refusal.status, refusal.detail)
            return
        if len(self._received) >= self._whole:
            self.state = GateState.WAITING
            self._drop(len(self._received) - self._whole)
            del self._received[self._whole :]
            self._gates.wait(self)

    def eof_received(self) -> bool:
        # Who asked and says no more is answered.
        return self.state in _ASKED

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._gates.closed(self)
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._gates.bound_unsent()

    def resume_writing(self) -> None:
        self._writable.set()

    # its life

    def serve(self) -> None:
        """Pass the request on. Further bytes from the peer are dropped."""
        if self.transport.is_closing():
            return
        self.state = GateState.SERVED
        self._timer.cancel()
        self._timer = self._gates.clock.call_later(_SEND_TIME, self._look)
        head, body, self._received = self._head, bytes(self._received[self._head.size :]), bytearray()
        known = self.transport.get_extra_info
        path, query = head.asked
        request = WholeRequest(
            *(head.method, decoded(path), query.decode("ascii"), head.fields, body, head.http10),
            *(known("peername"), known("socket"), known("owner")),
        )
        self._gates.serve(self, request)

    async def send(self, data: bytes) -> None:
        """Write to the peer once it has taken most of what was written before; ConnectionResetError if it has left."""
        await self._writable.wait()
        if self.transport.is_closing():
            raise ConnectionResetError
        self.transport.write(data)

    def _read_head(self, known: int) -> bool:
        """Whether it is there; `known` bytes were looked at before."""
        received = self._received
        if not received[:1].isalpha():
            raise problems.RefusedError(400, "This is not an HTTP/1.1 request.")
        end = received.find(intake.END, max(0, known - 3), intake.HEAD)
        if end < 0:
            if len(received) >= intake.HEAD:
                raise problems.RefusedError(431, f"The head of a request has at most {intake.HEAD} bytes.")
            return False
        end += len(intake.END)
        data = bytes(received[:end])
        if data.count(b"\n") > intake.LINES + 2:
            raise problems.RefusedError(431, f"A request has at most {intake.LINES} header lines.")
        self._head = found = intake.Head(data)
        try:
            intake.refuse_head(found, self._gates.takes)
            local = callers.is_local(self.transport.get_extra_info("peername"))
            self._whole = end + intake.body_due(found, self._gates.takes, local=local)
        except problems.RefusedError as refusal:
            self._refuse(refusal.status, refusal.detail, head=found.method == "HEAD")
            return False
        return True

    def _refuse(self, status: int, detail: str, *, head: bool = False) -> None:
        self.state = GateState.ENDING
        self._received = bytearray()
        self._timer.cancel()
        self._timer = self._gates.clock.call_later(_ENDING_TIME, self.transport.abort)
        if not self.transport.is_closing():
            self.transport.write(problems.answer(status, detail, head=head, now=self._gates.clock.wall()))
            self.transport.write_eof()

    def _drop(self, size: int) -> None:
        before, self._dropped = self._dropped, self._dropped + size
        if before <= _DROPPED < self._dropped and not self.transport.is_closing():
            self.transport.pause_reading()

    def _too_late(self) -> None:
        if self._received:
            self._refuse(408, f"A request has {_REQUEST_TIME:.0f} seconds to arrive.")
        else:
            self.transport.abort()

    def _look(self) -> None:
        waits = self.transport.get_write_buffer_size() > 0
        if waits and self._unsent:
            self.transport.abort()
            return
        self._unsent = waits
        self._timer = self._gates.clock.call_later(_SEND_TIME, self._look)
