"""One connection from the app, which speaks HTTP/1.1 or 1.0.

Owns how the connection begins and ends, and what its transport, its reader and the sweep call. Made by a listener for
each accepted socket. Every request becomes an `Exchange`, or gets one of the sidecar's own answers. `turns` keeps their
order, `request_reader` reads, `answer_writer` writes, and `admission` decides about requests.

Faults: whatever is raised in a callback ends this connection in `fault`, and no other.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.errors import Reason, SidecarError
from sidecar.net import peer
from sidecar.net.listeners import Owner
from sidecar.net.transport import Receiver, Transport
from sidecar.proxy.admission.admission import Admitted
from sidecar.proxy.connections import Connections
from sidecar.proxy.exchange import sweep
from sidecar.proxy.exchange.admitting import admit, admit_tunnel
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.faults import internal
from sidecar.proxy.fields import headers, upgrades
from sidecar.proxy.http1.request import Request, Sink
from sidecar.proxy.http1.request_reader import RequestReader
from sidecar.proxy.http1.target import malformed, read_target
from sidecar.proxy.http1.turns import CLOSED, LINGER, OPEN, TUNNEL, WAITING, RefusedTurn, Turns
from sidecar.proxy.messages import NO_BODY
from sidecar.proxy.ports import Relay

LINGER_TIME: Final = 2.0
"""Seconds; nginx's lingering_timeout is 5, Apache's 2."""

LEAVE_TIME: Final = 1.0
"""Seconds for which a connection that must close, without having announced it, still serves a request: one may be on
its way, and clients don't repeat every request.
"""


@final
class DownstreamConnection(Turns, Sink, Receiver):
    """Speaks HTTP/1.1 and 1.0 as a server."""

    __slots__ = ("_barred", "_connections", "_turned_away", "is_full")

    def __init__(
        self,
        context: Context,
        connections: Connections,
        owner: Owner,
        barred: SidecarError | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        """`owner` is the owner of the listener that accepted it. `barred` is the error for a process that may not
        call there: for each of its requests, or `at_once`, before it sends anything.
        """
        # process
        self.context = context
        self._connections = connections
        self.owner = owner
        # connection
        self._barred = barred
        self._turned_away = at_once
        self.state = OPEN
        self.current = None
        self.reader = RequestReader(self, context)
        self._queue = []
        self.rest = b""
        self.is_blocked = False
        self.is_full = False
        self._quiet_since_mono = context.clock.mono()
        self._seen_position = ()
        # answer
        self.asked = Request(self._quiet_since_mono, b"", ())
        self._out = []
        self._framing = NO_BODY

    def __repr__(self) -> str:
        return f"<DownstreamConnection {self.state.value} current={self.current!r} queued={len(self._queue)}>"

    # what its transport calls

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        try:
            self.transport.set_write_buffer_limits(self.context.limits.buffer)
            self._connections.opened(self)
            if self._turned_away and self._barred is not None:
                self._refuse(RefusedTurn(self._barred, Request(self.context.clock.mono(), b"", ())))
        except Exception as error:  # noqa: BLE001  # logged and counted
            self.context.faults.note(error, "start of a connection from the app")
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            if self.state is OPEN:
                self._feed(data)
            elif self.state is TUNNEL:
                if self.current is not None:
                    self.current.from_app(data)
            elif self.state is WAITING:
                self.rest += data
                self.transport.pause_reading()
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(error)

    def eof_received(self) -> bool | None:
        try:
            if self.state is TUNNEL and self.current is not None:
                return self.current.app_ended()
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(error)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        error = SidecarError(
            Reason.CLIENT_GONE, "The app closed its connection before the answer was complete."
        )
        if exc is None:
            pass
        elif not isinstance(exc, OSError):
            # What the transport caught: it had no memory to read into, for one.
            error = internal()
        elif not self.reader.began_mono:
            # Some clients look at the certificate when the handshake is over, and refuse it then.
            self._connections.lost_unused(self.owner, exc)
        try:
            if self.current is not None:
                self.current.app_gone(error)
            self._drop_queue(error)
        except Exception as fault:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(fault)
        finally:
            self._connections.closed(self)

    def pause_writing(self) -> None:
        self.is_full = True
        try:
            if self.current is not None:
                self.current.app_writable(False)
            elif self.state is OPEN:
                self.transport.pause_reading()
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it, but not within a write of ours
            self.context.call_soon(self.fault, error)

    def resume_writing(self) -> None:
        self.is_full = False
        try:
            if self.current is not None:
                self.current.app_writable(True)
            if self.state is OPEN and not self.transport.is_reading():
                self.context.call_soon(self._go_on)
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it, but not within a write of ours
            self.context.call_soon(self.fault, error)

    # reading

    # what the reader tells and asks

    def admit(self, request: Request) -> Admitted:
        return admit(self.context, self.owner, self._barred, request, absolute=request.absolute)

    def http2(self, data: bytes) -> None:
        self.state = CLOSED
        self._connections.speaks_http2(self, self.transport, self._barred, data)

    def refuse(self, request: Request, error: SidecarError) -> None:
        self._refuse(RefusedTurn(error, request))

    def broken(self, request: Request, error: SidecarError) -> None:
        receiving, self.reader.receiving = self.reader.receiving, None
        if not isinstance(receiving, Exchange):
            self._refuse(RefusedTurn(error, request))
        elif receiving is self.current:
            receiving.time_out(error)
        else:
            receiving.error = error  # for its turn

    def carried(self, request: Request, target: bytes, wish: bytes) -> bytes | None:
        """The protocols of a requested upgrade that the request's route carries.

        None if the upgrade is declined: the head is then parsed again without it, and judged so. A server may ignore
        it (RFC 9110 section 7.8), and clients send it along with every request without needing it (Java's h2c,
        TLS/1.2 of Apache's HttpClient).
        """
        try:
            authority, path, absolute = read_target(request.method, target, request.found)
        except SidecarError:
            return None
        known = self.context.admission.upgrades(
            authority, path, absolute=absolute, own=self.owner.route, local_socket=self.owner.is_unix
        )
        return upgrades.carried(wish, known)

    def connect(self, request: Request, target: bytes) -> None:
        try:
            if self.current is not None or self._queue or self.transport.get_write_buffer_size():
                raise malformed("CONNECT comes before the answers to earlier requests were sent and read.")
            inner = admit_tunnel(
                self.context, self.owner, self._barred, request, target, http10=request.http10
            )
        except SidecarError as error:
            self._refuse(RefusedTurn(error, request))
        else:
            self.state = WAITING
            self.context.call_soon(self._hand_over, inner)

    def _hand_over(self, inner: Owner) -> None:
        try:
            self._give_away(inner)
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(error)

    def _give_away(self, inner: Owner) -> None:
        """Hand the transport over to another connection, if the answer to CONNECT can still be sent."""
        if self.state is not WAITING or self.transport.is_closing():
            return
        if self.rest and inner.origin is not None and inner.origin.is_secure:
            self.state = OPEN
            early = malformed("TLS began before CONNECT was answered. Wait for the answer.")
            self._answer(RefusedTurn(early, Request(self.context.clock.mono(), b"CONNECT", ())))
            return
        try:
            self._connections.tunnels(self, self.transport, inner, self.rest)
        except SidecarError as error:
            self.state = OPEN
            self._answer(RefusedTurn(error, Request(self.context.clock.mono(), b"CONNECT", ())))
            return
        self.state = CLOSED

    def body_ended(self, receiving: Relay, trailers: headers.Fields) -> None:
        if trailers and (callers := self.owner.callers) is not None:
            trailers = callers.without(trailers)
        receiving.request_end(trailers)

    # refusing

    # the app's side of an exchange

    def faulted(self, exchange: Relay, fault: Exception) -> None:
        if self.current is exchange:
            self.fault(fault)
        else:
            self.context.faults.note(fault, "connection to the upstream")

    # ends

    def fault(self, error: Exception) -> None:
        """End after a fault of the sidecar itself: with a 500 if no answer has begun, else in the middle of it.

        Everything that its requests hold is released, once.
        """
        self.context.faults.note(error, "connection from the app")
        told = internal()
        current, receiving = self.current, self.reader.receiving
        has_begun, method = self.reader.has_begun, self.reader.method()
        self.reader.stop()
        try:
            if current is not None:
                self.asked.keep_alive = False
                current.end_by_fault(told)
            elif self.state is OPEN and has_begun and not self._queue:
                self._answer(RefusedTurn(told, Request(self.context.clock.mono(), method, ())))
            if isinstance(receiving, Exchange):
                receiving.end_by_fault(told)
            for entry in self._queue:
                if isinstance(entry, Exchange):
                    entry.end_by_fault(told)
            self.current = self.reader.receiving = None
            self._queue.clear()
            self._linger()
        except Exception as again:  # noqa: BLE001  # logged and counted
            self.context.faults.note(again, "end of a connection from the app")
            self.transport.abort()

    def drain(self, since_mono: float) -> None:
        """Shut down after the current answer or, without one, after the next. If no request comes within `LEAVE_TIME`
        after `since_mono`, when answers began to say `Connection: close`, `sweep` closes the connection.
        """
        if self.state is OPEN and self.current is None:
            self._quiet_since_mono = max(self._quiet_since_mono, since_mono)

    def close_if_idle(self) -> None:
        """Close now, unless it serves a request, or was just opened and has sent none yet."""
        if self.current is None and not self.reader.in_message and self.reader.began_mono:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def sweep(self, now_mono: float) -> None:
        """End what has taken too long; called about once a second for every connection."""
        quiet = now_mono - self._quiet_since_mono
        exchange = self.current
        if exchange is not None:
            if (position := sweep.position(exchange)) != self._seen_position:
                self._seen_position = position
                self._quiet_since_mono = now_mono
                quiet = 0.0
            if (error := sweep.overdue(exchange, quiet, now_mono)) is not None:
                exchange.time_out(error)
            elif not self.transport.is_reading() and peer.has_left(
                self.transport, self.reader.due(len(self.rest))
            ):
                self.transport.abort()
            else:
                sweep.look_for_peer(exchange, quiet)
        else:
            self._sweep_idle(quiet, now_mono)

    def _sweep_idle(self, quiet: float, now_mono: float) -> None:
        limits = self.context.limits
        unsent = self.transport.get_write_buffer_size()
        if unsent and (self.state is LINGER or self.transport.is_closing()):
            # The last bytes, for an app that may never take them.
            if self._seen_position != (unsent,):
                self._seen_position = (unsent,)
                self._quiet_since_mono = now_mono
            elif quiet >= limits.send_timeout:
                self.transport.abort()
        elif self.state is LINGER:
            if quiet >= LINGER_TIME:
                self.transport.abort()
        elif self.reader.in_message:
            if now_mono - self.reader.began_mono >= limits.head_timeout:
                what = f"The head was not complete after {limits.head_timeout:g} s (`limits.head_timeout`)."
                self.reader.give_up(SidecarError(Reason.HEAD_TIMEOUT, what))
        elif quiet >= (LEAVE_TIME if self.context.draining or self.owner.closing else limits.keep_alive):
            if not self.transport.is_closing():
                self.stats.idle_closed += 1
            self.transport.close()
