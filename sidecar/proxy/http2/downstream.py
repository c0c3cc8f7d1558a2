"""One connection from the app, which speaks HTTP/2.

Owns the streams on it, and how the connection ends. Made by the proxy when a connection of `http1.downstream` starts
as HTTP/2. `connection` has the framing, `fields` reads heads, each request is an `AppStream`, and `admission` decides
about requests.

    OPEN ──the sidecar stops, or the app says GOAWAY──▶ LEAVING ──no stream is left──▶ LINGER ──app closed──▶ CLOSED

LEAVING goes on taking requests until the app has read that the end is near (RFC 9113 section 6.8): the first of two
GOAWAYs, then the second when a PING has come back, or a moment later.

LINGER, from anywhere, when all is said: what still comes is dropped, since closing a socket with unread bytes resets
it, and the reset may overtake the last GOAWAY.

The transport is read all the time: what may come is bounded by the windows and by `limits.streams`.

Faults: whatever is raised while an event is handled ends its stream; what belongs to none ends the connection.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, cast, final

from sidecar.errors import Reason, SidecarError
from sidecar.net.listeners import Owner
from sidecar.net.transport import Receiver, Transport
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.exchange.admitting import admit
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.faults import internal
from sidecar.proxy.fields import headers
from sidecar.proxy.http2 import fields as lines
from sidecar.proxy.http2.app_stream import AppStream, Writer
from sidecar.proxy.http2.connection import (
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    Closed,
    Data,
    Ended,
    Event,
    GoAway,
    Http2Connection,
    Pong,
    Request,
    Reset,
    Trailers,
    code_name,
)
from sidecar.proxy.messages import METHOD_NAMES
from sidecar.proxy.ports import Connection, Connections

LINGER_TIME = 2.0
"""Seconds, as in HTTP/1."""

LEAVE_TIME = 1.0
"""Seconds after which a connection that has to close takes no further request, even if its app has not read the
announcement.
"""


_MALFORMED: Final = (
    "The request is not valid HTTP/2: its head breaks RFC 9113 section 8 (pseudo-headers, upper case, connection "
    "fields, characters that are none), or its body is not as long as its Content-Length."
)


class Http2DownstreamState(Enum):
    """See the diagram above."""

    OPEN = "open"
    LEAVING = "leaving"
    LINGER = "linger"
    CLOSED = "closed"


OPEN: Final = Http2DownstreamState.OPEN
LEAVING: Final = Http2DownstreamState.LEAVING
LINGER: Final = Http2DownstreamState.LINGER
CLOSED: Final = Http2DownstreamState.CLOSED
"""Names for the hot path, as in `exchange`."""


@final
class Http2Downstream(Connection, Writer, Receiver):
    """Speaks HTTP/2 as a server."""

    __slots__ = (
        "_barred",
        "_connections",
        "_done",
        "_head_since_mono",
        "_heads",
        "_is_full",
        "_last_call_mono",
        "_moved_mono",
        "_quiet_since_mono",
        "_scheduled",
        "_seen_unsent",
        "_streams",
        "_watched",
        "context",
        "http2",
        "owner",
        "state",
        "transport",
    )

    def __init__(
        self,
        context: Context,
        connections: Connections,
        owner: Owner,
        barred: SidecarError | None,
        transport: Transport,
    ) -> None:
        """`barred` is the error for a process that may not call at this owner's listener."""
        self.context = context
        self._connections = connections
        self.owner = owner
        self._barred = barred
        self.transport = transport
        transport.read_ahead()
        now_mono = context.clock.mono()
        self.http2 = Http2Connection(
            context.limits, now_mono, is_client=False, streams=context.limits.streams
        )
        self.state: Http2DownstreamState = OPEN
        self._streams: dict[int, AppStream] = {}
        self._watched: set[AppStream] = set()
        """Streams on which many bytes wait to be sent."""
        self._done: set[AppStream] = set()
        """Streams that were answered, until both sides have ended them."""
        self._is_full = False
        self._scheduled = False
        self._quiet_since_mono = now_mono
        self._seen_unsent = 0
        self._moved_mono = now_mono
        """When the app last took bytes, as far as sweeps have seen."""
        self._heads = 0
        self._head_since_mono = 0.0
        """The number of the head that is incomplete, and when that was first seen; 0: none."""
        self._last_call_mono = 0.0
        """When the end was announced; 0 before that, and once no further request is taken."""

    def __repr__(self) -> str:
        return f"<Http2Downstream {self.state.value} streams={len(self._streams)}>"

    # what its transport calls

    def data_received(self, data: bytes) -> None:
        if self.state in (LINGER, CLOSED):
            return
        try:
            self._feed(data)
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(error)

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        error = SidecarError(
            Reason.CLIENT_GONE, "The app closed its connection before the answer was complete."
        )
        if exc is not None and not isinstance(exc, OSError):
            error = internal()
        try:
            self._all_gone(error)
            self._streams.clear()
        finally:
            self._connections.closed(self)

    def _all_gone(self, error: SidecarError) -> None:
        for stream in list(self._streams.values()):
            try:
                stream.gone(error)
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                self._stream_fault(stream, fault)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.write_soon()

    # reading

    def _feed(self, data: bytes) -> None:
        to_flush: list[Exchange] = []
        for event in self.http2.feed(data):
            if self.http2.is_dead:
                break
            if isinstance(event, Data):
                stream = self._streams.get(event.stream_id)
                if stream is None:
                    self.http2.credit(event.stream_id, len(event.data))
                else:
                    self._body(stream, event, to_flush)
            elif isinstance(event, Request):
                self._request(event, to_flush)
            else:
                self._other(event, to_flush)
        for exchange in to_flush:
            try:
                exchange.flush_request()
            except Exception as fault:  # noqa: BLE001  # the exchange's app side logs and counts it
                exchange.faulted(fault)
        self.write()

    def _body(self, stream: AppStream, event: Data, to_flush: list[Exchange]) -> None:
        exchange = stream.exchange
        try:
            if not event.data and not event.end_stream:
                self._spend(event)
            stream.received(event.data, end=event.end_stream)
        except Exception as fault:  # noqa: BLE001  # the stream logs and counts it
            self._stream_fault(stream, fault)
        else:
            if exchange is not None and exchange not in to_flush:
                to_flush.append(exchange)

    def _request(self, event: Request, to_flush: list[Exchange]) -> None:
        context = self.context
        request = lines.Http2Request(context.clock.mono())
        stream = AppStream(self, event.stream_id, request, context.limits.buffer)
        self._streams[event.stream_id] = stream
        try:
            try:
                lines.read_request(request, event.headers, context.limits, end=event.end_stream)
                request.scheme = self.owner.origin_scheme
                request.via = context.via[2]
                admitted = admit(context, self.owner, self._barred, request, absolute=False)
            except SidecarError as error:
                self._refuse(stream, error)
                return
            stream.exchange = exchange = Exchange(context, stream, request, admitted)
            exchange.start()
            to_flush.append(exchange)
        except Exception as fault:  # noqa: BLE001  # the stream logs and counts it
            self._stream_fault(stream, fault)

    def _refuse(self, stream: AppStream, error: SidecarError) -> None:
        request, own = stream.request, self.owner.route
        self.context.ledger.refused(
            error,
            route="" if own is None else own.name,
            method=METHOD_NAMES.get(request.method, ""),
            fields=request.fields,
            path=request.path,
            began_mono=request.began_mono,
        )
        stream.fail(request, error, None if own is None else own.name)
        self._done.add(stream)
        self._quiet_since_mono = request.began_mono

    def _other(self, event: Event, to_flush: list[Exchange]) -> None:
        if isinstance(event, Closed):
            self._closed(event)
        elif isinstance(event, Trailers):
            self._trailers(event, to_flush)
        elif isinstance(event, Reset):
            self._reset(event)
        elif isinstance(event, Pong):
            self._last_call()
        elif isinstance(event, GoAway):
            if self.state is OPEN:
                self.state = LEAVING
        elif isinstance(event, Ended):
            self._over(event.error_code)
        else:
            self._spend(event)

    def _trailers(self, event: Trailers, to_flush: list[Exchange]) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or (exchange := stream.exchange) is None:
            return
        trailers: headers.Fields = event.headers
        try:
            limits = self.context.limits
            if len(trailers) > limits.headers or lines.size_of(trailers) > limits.head:
                what = f"The trailers are larger than `limits.head` ({limits.head} bytes) or have too many lines."
                exchange.time_out(SidecarError(Reason.HEAD_TOO_LARGE, what))
                return
            if trailers and (callers := self.owner.callers) is not None:
                trailers = callers.without(trailers)
            exchange.request_end(trailers)
        except Exception as fault:  # noqa: BLE001  # the stream logs and counts it
            self._stream_fault(stream, fault)
        else:
            to_flush.append(exchange)

    def _reset(self, event: Reset) -> None:
        stream = self._streams.get(event.stream_id)
        self._count_reset("from_app", event.error_code)
        if stream is None:
            self._spend(event)
            return
        try:
            stream.gone(
                SidecarError(
                    Reason.CLIENT_GONE,
                    f"The app cancelled the request ({code_name(event.error_code)}) before the answer was complete.",
                )
            )
        except Exception as fault:  # noqa: BLE001  # the stream logs and counts it
            self._stream_fault(stream, fault)

    def _closed(self, event: Closed) -> None:
        """Both sides have ended a stream, possibly one that libnghttp2 refused before it was a request."""
        stream = self._streams.pop(event.stream_id, None)
        if event.error_code and (stream is None or stream.exchange is not None):
            self._count_reset("to_app", event.error_code)
        if stream is None:
            if event.error_code == PROTOCOL_ERROR:
                self._note(SidecarError(Reason.MALFORMED_REQUEST, _MALFORMED))
            return
        self._watched.discard(stream)
        if stream.exchange is not None:
            what = f"The app's stream was ended for {code_name(event.error_code)}."
            reason = Reason.MALFORMED_REQUEST if event.error_code else Reason.CLIENT_GONE
            try:
                stream.gone(SidecarError(reason, what))
            except Exception as fault:  # noqa: BLE001  # the stream logs and counts it
                self._stream_fault(stream, fault)
        self._done.discard(stream)  # the end of its exchange has put it there
        if not self._streams:
            self._quiet_since_mono = self.context.clock.mono()

    def _spend(self, event: Event) -> None:
        self.http2.spend(event, self.context.clock.mono())

    def _count_reset(self, direction: str, code: int) -> None:
        resets = self.stats.resets
        key = direction, code_name(code)
        resets[key] = resets.get(key, 0) + 1

    # writing

    def write(self) -> None:
        """Write. A fault ends the connection, because framed bytes may be lost, and with them the state that both
        sides share.
        """
        if self._is_full or self.state in (LINGER, CLOSED):
            return
        try:
            http2 = self.http2
            while True:
                if data := http2.take():
                    self.transport.write(data)
                for event in http2.events():
                    if isinstance(event, Closed):
                        self._closed(event)
                    elif isinstance(event, Ended):
                        self._over(event.error_code)
                if not self._done or not self._reset_done():
                    break
            if http2.is_dead:
                self._over(ENHANCE_YOUR_CALM)
            if self._watched:
                for stream in list(self._watched):
                    try:
                        if stream.emptied():
                            self._watched.discard(stream)
                    except Exception as fault:  # noqa: BLE001  # the stream logs and counts it
                        self._watched.discard(stream)
                        self._stream_fault(stream, fault)
        except Exception as fault:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(fault)

    def _reset_done(self) -> bool:
        """Tell the app that no more bytes are wanted on streams that were fully answered. Returns whether there was
        one.
        """
        found = False
        for stream in list(self._done):
            if stream.may_reset():
                found = True
                self._done.discard(stream)
                code = cast(int, stream.end_code)
                stream.end_code = None
                self.http2.reset(stream.id, code)
        return found

    def write_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.context.call_soon(self._write_now)

    def _write_now(self) -> None:
        self._scheduled = False
        self.write()

    def watch(self, stream: AppStream) -> None:
        self._watched.add(stream)
        self.stats.flow_control_stalls += 1

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    # ends

    def ended(self, stream: AppStream, now_mono: float) -> None:
        self._quiet_since_mono = now_mono
        self._done.add(stream)

    def note_fault(self, fault: Exception) -> None:
        self.context.faults.note(fault, "stream from the app")

    def _stream_fault(self, stream: AppStream, fault: Exception) -> None:
        self.note_fault(fault)
        stream.end_by_fault()

    def _over(self, code: int) -> None:
        """The framing has ended with this error code: send the rest, and close."""
        if self.state in (LINGER, CLOSED):
            return
        http2 = self.http2
        self.transport.write(http2.take() or (http2.last_words() if http2.is_dead else b""))
        if http2.is_dead:
            what = f"The app's connection was ended: {http2.fault} ({code_name(code)})."
            self._broken(SidecarError(http2.reason, what))
        elif code and code != http2.peer_code:
            what = f"The app's connection broke HTTP/2's rules, and was ended with {code_name(code)}."
            self._broken(SidecarError(Reason.MALFORMED_REQUEST, what))
        self._linger()

    def _broken(self, error: SidecarError) -> None:
        self._note(error)
        self._all_gone(error)

    def _note(self, error: SidecarError) -> None:
        """Count and log what is no request."""
        own, ledger = self.owner.route, self.context.ledger
        ledger.refused(
            error,
            route="" if own is None else own.name,
            method="",
            fields=(),
            path=b"",
            began_mono=self.context.clock.mono(),
        )

    def _linger(self) -> None:
        if self.state in (LINGER, CLOSED):
            return
        self.state = LINGER
        self._quiet_since_mono = self.context.clock.mono()
        if self.transport.is_closing():
            return
        self.transport.end()

    def _last_call(self) -> None:
        """The app has read that the end is near: take no further request."""
        if self._last_call_mono:
            self._last_call_mono = 0.0
            self.http2.goaway()
            self.write_soon()

    def drain(self, since_mono: float) -> None:
        if self.state is OPEN:
            self.state = LEAVING
            self._last_call_mono = self.context.clock.mono()
            self.http2.announce_end()
            self.write_soon()

    def close_if_idle(self) -> None:
        if not self._streams:
            self.http2.goaway(final=True)
            self.write()
            self._linger()

    def abort(self) -> None:
        self.transport.abort()

    def fault(self, error: Exception) -> None:
        self.context.faults.note(error, "connection from the app")
        try:
            for stream in list(self._streams.values()):
                stream.end_by_fault()
            if self.state not in (LINGER, CLOSED):
                self.http2.goaway(INTERNAL_ERROR, final=True)
                self.transport.write(self.http2.take())
                self._linger()
        except Exception as again:  # noqa: BLE001  # logged and counted
            self.context.faults.note(again, "end of a connection from the app")
            self.transport.abort()

    @property
    def stats(self) -> RouteStats:
        """The counters of things that belong to a connection, not to a request."""
        route, ledger = self.owner.route, self.context.ledger
        return ledger.unrouted if route is None else ledger.stats[route.name]

    def sweep(self, now_mono: float) -> None:
        if (self.context.is_leaving or self.owner.closing) and self.state is OPEN:
            self.drain(now_mono)
        limits = self.context.limits
        for stream in list(self._streams.values()):
            try:
                stream.sweep(now_mono, limits.send_timeout)
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                self._stream_fault(stream, fault)
        self._sweep_head(now_mono, limits.head_timeout)
        if self.state is LEAVING and self._last_call_mono and now_mono - self._last_call_mono >= LEAVE_TIME:
            self._last_call()
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._seen_unsent:
            self._seen_unsent = unsent
            self._moved_mono = now_mono
        if unsent:
            # This counts all its streams, because framed bytes go out in one order.
            if now_mono - self._moved_mono >= limits.send_timeout:
                self.transport.abort()
        elif not self._streams or self.state is LINGER:
            self._sweep_idle(now_mono - max(self._quiet_since_mono, self._moved_mono))

    def _sweep_head(self, now_mono: float, head_timeout: float) -> None:
        """Give up a head that is incomplete for too long: nothing else can arrive on the connection before its end."""
        walk = self.http2.walk
        if walk is None or not walk.in_head:
            self._heads = 0
        elif walk.heads != self._heads:
            self._heads = walk.heads
            self._head_since_mono = now_mono
        elif now_mono - self._head_since_mono >= head_timeout and self.state is not LINGER:
            why = f"a head that was not complete after {head_timeout:g} s (`limits.head_timeout`)"
            self.http2.give_up(ENHANCE_YOUR_CALM, why, Reason.HEAD_TIMEOUT)
            self.write()

    def _sweep_idle(self, quiet: float) -> None:
        if self.state is LINGER:
            if quiet >= LINGER_TIME:
                self.transport.abort()
        elif self.state is LEAVING:
            if quiet >= LEAVE_TIME:
                self.close_if_idle()
        elif quiet >= self.context.limits.keep_alive:
            self.stats.idle_closed += 1
            self.close_if_idle()
