"""One connection to a target, which speaks HTTP/1.1.

Owns the writing of requests on it, and the decision whether it may serve again. Made by the pool. The exchange that
it serves gets what `answer_reader` reads, and writes its request through it.

    IDLE ──open──▶ BUSY ──answer complete, reusable──▶ IDLE
     │              ├──101 as asked──▶ TUNNEL
     └──────────────┴──────────────────┴──closed, for whatever reason──▶ CLOSED
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.net import peer, tls
from sidecar.net.transport import Receiver, Transport
from sidecar.proxy.admission.admission import HeaderPlan
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.faults import internal
from sidecar.proxy.fields import headers
from sidecar.proxy.http1 import heads
from sidecar.proxy.http1.answer_reader import END, MORE, REFUSED, SWITCHED, AnswerReader, Outcome, malformed
from sidecar.proxy.messages import UNKNOWN, RequestHead
from sidecar.proxy.ports import Keeper, Link, Loss, Relay, UpstreamSide


class UpstreamState(Enum):
    """See the diagram above."""

    IDLE = "idle"
    BUSY = "busy"
    TUNNEL = "tunnel"
    CLOSED = "closed"


IDLE: Final = UpstreamState.IDLE
BUSY: Final = UpstreamState.BUSY
TUNNEL: Final = UpstreamState.TUNNEL
CLOSED: Final = UpstreamState.CLOSED
"""Names for the hot path, as in `exchange`."""


@final
class UpstreamConnection(Link, UpstreamSide, Receiver):
    """Speaks HTTP/1.1 as a client; one request at a time."""

    __slots__ = (
        "_buffer",
        "_exchange",
        "_out",
        "_pool",
        "_reader",
        "_request_chunked",
        "state",
        "transport",
    )

    transport: Transport

    def __init__(self, pool: Keeper, limits: Bounds) -> None:
        # connection
        self._pool = pool
        self._buffer = limits.buffer
        self._reader = AnswerReader(limits)
        self.state: UpstreamState = IDLE
        self.served = 0
        self.capacity = 1
        self.streams = 0
        self.idle_since_mono = 0.0
        self.generation = 0
        # request
        self._exchange: Relay | None = None
        self._out: list[bytes] = []
        self._request_chunked = False

    def __repr__(self) -> str:
        origin = self._pool.destination.origin.decode()
        return f"<UpstreamConnection {origin} {self.state.value} served={self.served}>"

    def is_closing(self) -> bool:
        """Whether it can serve no further request."""
        return self.state is CLOSED or self.transport.is_closing()

    def open(self, exchange: Relay) -> UpstreamSide:
        """Serve this exchange; only when idle."""
        self._exchange = exchange
        self.state = BUSY
        self.streams = 1
        self.served += 1
        self._reader.begin(exchange)
        self._pool.stats.connections_active += 1
        return self

    def _leave(self) -> None:
        """It no longer serves the exchange."""
        self._exchange = None
        self._reader.leave()
        self.streams = 0
        self._pool.stats.connections_active -= 1

    def read_session(self) -> object | None:
        return tls.session_of(self.transport)

    def close(self) -> None:
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # the upstream's side of an exchange

    def head(self, request: RequestHead, path: bytes, host: bytes, plan: HeaderPlan, bearer: bytes) -> None:
        self._request_chunked = request.body == UNKNOWN
        self._reader.is_head = request.method == b"HEAD"
        self._out = [heads.request_head(request, path, host, plan, bearer)]

    def body(self, data: bytes) -> None:
        if self._request_chunked:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def end(self, trailers: headers.Fields) -> None:
        if self._request_chunked:
            self._out.append(heads.last_chunk(trailers))

    def flush(self) -> None:
        if self._out:
            out = self._out
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []

    def cancel(self, *, flush: bool) -> None:
        if self._exchange is not None:
            self._leave()
        if flush:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._pool.flush(self)
        else:
            self.transport.abort()

    def pause_answer(self) -> None:
        self.transport.pause_reading()

    def resume_answer(self) -> None:
        self.transport.resume_reading()

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def loss(self) -> Loss:
        return Loss.STALE if self.served > 1 and not self._reader.heard else Loss.UNKNOWN

    def has_vanished(self, seconds: float) -> bool:
        return peer.has_vanished(self.transport, seconds)

    def tunnel_write(self, data: bytes) -> None:
        self.transport.write(data)

    def tunnel_end(self) -> bool:
        if not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def tunnel_close(self) -> None:
        self.transport.close()

    # what its transport calls

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(self._buffer)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # An idle upstream has nothing to say: what it sends now could be taken for the next answer.
            self.transport.abort()
            return
        try:
            if self.state is TUNNEL:
                exchange.from_upstream(data)
                return
            outcome = self._reader.feed(data)
            if self._exchange is not exchange:
                return
            if outcome is MORE:
                exchange.flush_answer()
            else:
                self._settle(exchange, outcome)
        except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
            self._fault(exchange, fault)

    def _settle(self, exchange: Relay, outcome: Outcome) -> None:
        if outcome is END:
            self._end(exchange)
        elif outcome is SWITCHED:
            self._switched(exchange)
        else:
            error = self._reader.refusal
            self._leave()
            self.transport.abort()
            if outcome is REFUSED:
                exchange.failed(error or malformed("it could not be parsed"))

    def eof_received(self) -> bool | None:
        exchange = self._exchange
        if exchange is None:
            return None
        try:
            if self.state is TUNNEL:
                return exchange.upstream_ended()
            if self._reader.feed_end() is END:
                self._end(exchange)
        except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
            self._fault(exchange, fault)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self._exchange
        if exc is not None and exchange is not None:
            try:
                self._hear_out()
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                self._fault(exchange, fault)
        self.state = CLOSED
        exchange = self._exchange
        if exchange is not None:
            self._leave()
        try:
            # Before the place is given away: a request that is sent a second time has had its turn.
            if exchange is None:
                pass
            elif exc is None or isinstance(exc, OSError):
                why = self._pool.later_fault(self.transport, exc) if exc is not None else None
                self._lose(exchange, why)
            else:
                # What the transport caught, and the event loop's handler logged: no memory to read into, for one.
                exchange.failed(internal())
        except Exception as fault:  # noqa: BLE001  # logged and counted there
            self._fault(exchange, fault)
        finally:
            self._pool.lost(self)

    def _lose(self, exchange: Relay, error: SidecarError | None) -> None:
        """Tell the exchange that its connection is gone."""
        loss = self.loss()
        if loss is Loss.STALE:
            # What has idled as long is most likely stale too.
            self._pool.expire(self.idle_since_mono)
        exchange.lost(loss, error)

    def _hear_out(self) -> None:
        """Read the answer of an upstream that stopped reading the request and closed. Writing the rest may fail
        before the answer is read, and then the transport reads nothing.
        """
        if data := peer.unread(self.transport):
            self.data_received(data)

    def pause_writing(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.upstream_full()
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                self._fault_soon(exchange, fault)

    def resume_writing(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.upstream_writable()
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                self._fault_soon(exchange, fault)

    def _fault_soon(self, exchange: Relay, fault: Exception) -> None:
        """For calls of the transport from within the exchange's own write, which has to end first."""

        def end() -> None:
            if self._exchange is exchange:
                self._fault(exchange, fault)
            else:
                exchange.faulted(fault)

        asyncio.get_running_loop().call_soon(end)

    def fault(self, fault: Exception) -> bool:
        """A fault happened while handling this connection: close it and end its request. Returns whether it served
        one.
        """
        exchange = self._exchange
        self._fault(exchange, fault)
        return exchange is not None

    def _fault(self, exchange: Relay | None, fault: Exception) -> None:
        """End after a fault of the sidecar itself, with the request that this connection serves and no other."""
        serving = self._exchange
        if serving is not None:
            self._leave()
        self.transport.abort()
        if serving is not None and serving is not exchange:
            self._lose(serving, None)  # it had just been given this connection
        if exchange is not None:
            exchange.faulted(fault)
        else:
            self._pool.faults.note(fault, "connection to the upstream")

    # ends

    def _end(self, exchange: Relay) -> None:
        self._leave()
        reader = self._reader
        # Not with bytes of the last request unsent: the next one's backpressure would start from a full buffer.
        request_done = exchange.answer_end(reader.trailers)
        exchange.flush_answer()
        reusable = (
            request_done
            and reader.reusable
            and not self.transport.is_closing()
            and not self.transport.get_write_buffer_size()
        )
        self.state = IDLE
        if reusable:
            self.transport.resume_reading()
            self._pool.release(self)
        elif self.transport.get_write_buffer_size():
            # What it has not read of the request it need not read any more: nothing waits for it to do so.
            self.transport.abort()
        else:
            self.transport.close()

    def _switched(self, exchange: Relay) -> None:
        reader = self._reader
        error = exchange.switch(reader.reason, reader.fields)
        if error is not None:
            self._leave()
            self.transport.abort()
            exchange.failed(error)
            return
        self.state = TUNNEL
        if reader.rest:
            exchange.from_upstream(reader.rest)
