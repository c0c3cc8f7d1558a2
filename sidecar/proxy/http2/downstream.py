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
from typing import Any, Final, final

from sidecar.errors import Reason, SidecarError
from sidecar.net.listeners import Owner
from sidecar.net.transport import Receiver, Transport
from sidecar.proxy.connections import Connection, Connections
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.faults import internal
from sidecar.proxy.http2.app_streams import AppStreams
from sidecar.proxy.http2.connection import (
    DATA,
    ENDED,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    INTERNAL_ERROR,
    KINDS,
    OTHER,
    PONG,
    REQUEST,
    RESET,
    STREAM_CLOSED,
    TRAILERS,
    Http2Connection,
    code_name,
)

LINGER_TIME: Final = 2.0
"""Seconds, as in HTTP/1."""

LEAVE_TIME: Final = 1.0
"""Seconds after which a connection that has to close takes no further request, even if its app has not read the
announcement.
"""


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
class Http2Downstream(AppStreams, Connection, Receiver):
    """Speaks HTTP/2 as a server."""

    __slots__ = (
        "_connections",
        "_head_since_mono",
        "_heads",
        "_is_full",
        "_last_call_mono",
        "_moved_mono",
        "_scheduled",
        "_seen_unsent",
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
        self._streams = {}
        self._watched = set()
        self._done = set()
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
            kind = KINDS.get(type(event), OTHER)
            if kind == DATA:
                self.http2.earn()
                stream = self._streams.get(event.stream_id)
                if stream is None:
                    self.http2.credit(event.stream_id, len(event.data))
                else:
                    self._body(stream, event, to_flush)
            elif kind == REQUEST:
                self._request(event, to_flush)
            else:
                self._other(kind, event, to_flush)
        for exchange in to_flush:
            try:
                exchange.flush_request()
            except Exception as fault:  # noqa: BLE001  # the exchange's app side logs and counts it
                exchange.faulted(fault)
        self.write()

    def _other(self, kind: int, event: Any, to_flush: list[Exchange]) -> None:
        if kind == STREAM_CLOSED:
            self._closed(event)
        elif kind == TRAILERS:
            self._trailers(event, to_flush)
        elif kind == RESET:
            self._reset(event)
        elif kind == PONG:
            self._last_call()
        elif kind == GOAWAY:
            self.http2.peer_code = event.error_code
            if self.state is OPEN:
                self.state = LEAVING
        elif kind == ENDED:
            self._over(event.error_code)
        else:
            self._spend(event)

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
                    kind = KINDS.get(type(event), OTHER)
                    if kind == STREAM_CLOSED:
                        self._closed(event)
                    elif kind == ENDED:
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

    def write_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.context.call_soon(self._write_now)

    def _write_now(self) -> None:
        self._scheduled = False
        self.write()

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    # ends

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
