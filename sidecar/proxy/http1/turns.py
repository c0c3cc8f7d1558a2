"""The order of the requests on one connection from the app, which speaks HTTP/1.1 or 1.0.

Owns whose turn it is: pipelined requests wait here, as an `Exchange` or as one of the sidecar's own answers, and go on
in the order in which they came. The base of `DownstreamConnection`, which is what the transport and the sweep call.

    OPEN ──upgrade asked for──▶ WAITING ──101──▶ TUNNEL
     │                            └──any other answer──▶ OPEN
     └──last answer written──▶ LINGER ──app closed, or a moment passed──▶ CLOSED (from anywhere)

LINGER reads and drops what still comes: closing a socket with unread bytes resets it, and the reset may
overtake the answer (RFC 9112 section 9.6).
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.admission.admission import Admitted
from sidecar.proxy.connections import Connection
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.fields import headers
from sidecar.proxy.http1 import heads
from sidecar.proxy.http1.answer_writer import AnswerWriter
from sidecar.proxy.http1.request import Request
from sidecar.proxy.http1.request_reader import RequestReader
from sidecar.proxy.messages import NO_BODY
from sidecar.proxy.ports import Relay


class DownstreamState(Enum):
    """See the diagram above."""

    OPEN = "open"
    WAITING = "waiting"
    TUNNEL = "tunnel"
    LINGER = "linger"
    CLOSED = "closed"


OPEN: Final = DownstreamState.OPEN
WAITING: Final = DownstreamState.WAITING
TUNNEL: Final = DownstreamState.TUNNEL
LINGER: Final = DownstreamState.LINGER
CLOSED: Final = DownstreamState.CLOSED
"""Names for the hot path, as in `exchange`."""


class RefusedTurn(NamedTuple):
    """A request that the sidecar answers itself, in its turn."""

    error: SidecarError
    request: Request


class Turns(AnswerWriter, Connection):
    """See the module's docstring; its attributes are the connection's."""

    __slots__ = ("_queue", "_quiet_since_mono", "_seen_position", "is_blocked", "reader", "rest", "state")

    state: DownstreamState
    reader: RequestReader
    _queue: list[Exchange | RefusedTurn]
    """Not a deque: an empty one takes 0.6 kB, and this is empty but for pipelining, and short then."""
    rest: bytes
    """Bytes that are not parsed yet: behind a bound, or of another protocol."""
    is_blocked: bool
    """The target takes no more of the request's body for now."""
    _quiet_since_mono: float
    _seen_position: tuple[int, ...]
    """Where things stood at the last sweep."""

    # reading

    def _feed(self, data: bytes) -> None:
        rest = self.reader.feed(data)
        if rest and self.state is not LINGER:
            self.rest = rest
            self.transport.pause_reading()
            if len(self._queue) >= self.context.limits.pipelined:
                self.stats.pipelining_stopped += 1
        if self.current is not None and (side := self.current.side) is not None:
            side.flush()

    def may_parse(self) -> bool:
        if self.state is not OPEN or self.is_blocked or self._must_read_first():
            return False
        if not self._queue:
            return True
        last = self._queue[-1]
        # What follows a request to upgrade is of another protocol, if it is granted.
        upgrade = isinstance(last, Exchange) and last.request.upgrade is not None
        return not upgrade and len(self._queue) < self.context.limits.pipelined

    def _must_read_first(self) -> bool:
        """Whether the app should take its answers before more requests are read, because each answer is kept here."""
        return self.is_full and self.state is OPEN and not self.reader.in_message

    # the order

    def request(self, request: Request, admitted: Admitted) -> None:
        exchange = Exchange(self.context, self, request, admitted)
        if request.body != NO_BODY:
            self.reader.receiving = exchange
        if self.current is None and not self._queue:
            self.current = exchange
            self.asked = request
            self._seen_position = ()  # the quiet before it does not count against it
            exchange.start()
        else:
            self._queue.append(exchange)
            self.transport.pause_reading()

    def _refuse(self, refused: RefusedTurn) -> None:
        """Answer without an upstream, after the requests before this one."""
        if not refused.request.keep_alive:
            self.reader.stop()
        if self.current is None and not self._queue:
            self._answer(refused)
        else:
            self._queue.append(refused)
            self.transport.pause_reading()

    def _answer(self, refused: RefusedTurn) -> None:
        error, request = refused
        keep_alive = request.keep_alive and not self.is_leaving
        own = self.owner.route
        self.context.ledger.refused(
            error,
            route="" if own is None else own.name,
            method=heads.method_name(request.method),
            fields=request.fields,
            path=request.path,
            began_mono=request.began_mono,
        )
        self.write_own(error, None if own is None else own.name, request.method, keep_alive)
        self._quiet_since_mono = self.context.clock.mono()
        if not keep_alive:
            self._linger()

    def upgrade_waits(self) -> bool:
        if self._queue or self.state is WAITING:
            return True
        if self.current is not None:
            self.state = WAITING
            return True
        return False

    def _go_on(self) -> None:
        try:
            self._take_up()
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(error)

    def _take_up(self) -> None:
        """Go on with the next pipelined request, and with the bytes that were kept back."""
        while self._queue and self.current is None and self.state is OPEN:
            entry = self._queue.pop(0)
            if isinstance(entry, RefusedTurn):
                self._answer(entry)
            else:
                if entry.request.upgrade is not None:
                    self.state = WAITING
                self.current = entry
                if isinstance(entry.request, Request):
                    self.asked = entry.request
                self._seen_position = ()
                if entry.error is None:
                    entry.start()
                    entry.flush_request()
                else:
                    entry.time_out(entry.error)
        if self.rest and self.may_parse():
            rest, self.rest = self.rest, b""
            self._feed(rest)
        if self.rest or self.is_blocked or self._queue or self._must_read_first():
            return
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def done(self, exchange: Relay, now_mono: float) -> None:
        self._quiet_since_mono = now_mono
        current = self.current
        if current is None or exchange is not current:
            return
        self.current = None
        self.is_blocked = False
        if self.reader.receiving is exchange:
            self.reader.receiving = None
        if self.state in (CLOSED, TUNNEL):
            return
        if self.state is WAITING:
            self.state = OPEN
        if not current.request_done:
            self._linger()
        elif not self.asked.keep_alive:
            if self._queue or self.rest or self.reader.in_message:
                self._linger()
            else:
                self.transport.close()
        elif not self.transport.is_reading():
            self.context.call_soon(self._go_on)
        elif self.is_full and not self.reader.in_message:
            self.transport.pause_reading()

    # the app's side of an exchange

    def pause_request(self) -> None:
        self.is_blocked = True
        self.transport.pause_reading()

    def resume_request(self) -> None:
        if self.is_blocked:
            self.is_blocked = False
            self.context.call_soon(self._go_on)

    def switch(self, reason: bytes, fields: headers.Fields, protocol: bytes) -> None:
        self._out.append(heads.switching_head(reason, fields, protocol))
        self.flush()
        self.state = TUNNEL
        rest, self.rest = self.rest, b""
        if rest and self.current is not None:
            self.current.from_app(rest)
        if not self.is_blocked:
            self.transport.resume_reading()

    # the end

    def _linger(self) -> None:
        if self.state in (CLOSED, LINGER):
            return
        self.state = LINGER
        self.reader.stop()
        self.rest = b""
        self._drop_queue(
            SidecarError(
                Reason.CLIENT_GONE, "The connection closed before this pipelined request had its turn."
            )
        )
        self._quiet_since_mono = self.context.clock.mono()
        if self.transport.is_closing():
            return
        self.transport.end()

    def _drop_queue(self, error: SidecarError) -> None:
        while self._queue:
            entry = self._queue.pop(0)
            if isinstance(entry, Exchange):
                entry.app_gone(error)

    @property
    def stats(self) -> RouteStats:
        """The counters of things that belong to a connection, not to a request."""
        route, ledger = self.owner.route, self.context.ledger
        return ledger.unrouted if route is None else ledger.stats[route.name]
