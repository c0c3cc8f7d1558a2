"""One connection to a target, which speaks HTTP/2.

Owns the requests on it, and the decision whether it may carry further ones. Made by the pool. Each exchange that it
carries writes its request, and gets the answer, through a `UpstreamStream`.

    SETTLING ──SETTINGS──▶ OPEN ──GOAWAY, or the peer has vanished──▶ LEAVING ──no stream is left──▶ CLOSED
       └──an answer in HTTP/1──▶ CLOSED                                                    (CLOSED from anywhere)

Nothing is sent before the target's SETTINGS have come, as grpc-go does it: they say how many requests it takes, and
only they show that a target without TLS speaks HTTP/2. The transport is read all the time: the windows limit what may
arrive, and they are credited as the app takes it.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, Final, final

from sidecar.errors import SidecarError
from sidecar.net import peer, tls
from sidecar.net.transport import Receiver, Transport
from sidecar.proxy.admission.admission import HeaderPlan
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.faults import internal
from sidecar.proxy.http2 import fields as lines
from sidecar.proxy.http2 import upstream_errors
from sidecar.proxy.http2.connection import (
    ANSWER,
    DATA,
    ENDED,
    GOAWAY,
    HTTP_1_1_REQUIRED,
    INTERIM,
    KINDS,
    MAX_CONCURRENT_STREAMS,
    OTHER,
    REFUSED_STREAM,
    RESET,
    SETTINGS,
    STREAM_CLOSED,
    TRAILERS,
    Http2Connection,
    Settings,
    code_name,
)
from sidecar.proxy.http2.upstream_stream import StreamLink, UpstreamStream
from sidecar.proxy.messages import HTTP2, NO_BODY, RequestHead
from sidecar.proxy.ports import Keeper, Link, Loss, Relay, UpstreamSide


class Http2UpstreamState(Enum):
    """See the diagram above."""

    SETTLING = "settling"
    OPEN = "open"
    LEAVING = "leaving"
    CLOSED = "closed"


SETTLING: Final = Http2UpstreamState.SETTLING
OPEN: Final = Http2UpstreamState.OPEN
LEAVING: Final = Http2UpstreamState.LEAVING
CLOSED: Final = Http2UpstreamState.CLOSED
"""Names for the hot path, as in `exchange`."""


@final
class Http2Upstream(Link, StreamLink, Receiver):
    """Speaks HTTP/2 as a client."""

    __slots__ = (
        "_by_id",
        "_heard",
        "_is_full",
        "_is_link",
        "_most",
        "_pool",
        "_reused",
        "_scheduled",
        "_settled",
        "_tokens",
        "_watched",
        "buffer",
        "http2",
        "limits",
        "state",
        "transport",
    )

    wire = HTTP2
    transport: Transport

    def __init__(self, pool: Keeper, limits: Bounds, streams: int) -> None:
        """`streams` is how many requests it may carry at once, if the target permits as many."""
        self._pool = pool
        self.limits = limits
        self.buffer = limits.buffer
        self._most = streams
        self.http2 = Http2Connection(limits, pool.clock.mono(), is_client=True, streams=streams)
        self.state: Http2UpstreamState = SETTLING
        self._is_link = False
        """Whether the pool has it. Before that, the dial handles whatever happens to it."""
        self._settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.served = 0
        self.capacity = streams
        self.streams = 0
        self.idle_since_mono = 0.0
        self.generation = 0
        self._by_id: dict[int, UpstreamStream] = {}
        self._tokens = lines.TokenLines()
        self._watched: set[UpstreamStream] = set()
        self._is_full = False
        self._scheduled = False
        self._heard = False
        """Whether anything arrived since a request was started with no other in progress."""
        self._reused = False
        """Whether it was idle between requests."""

    def __repr__(self) -> str:
        return f"<Http2Upstream {self._name()} {self.state.value} streams={self.streams}>"

    # as a link

    async def settled(self) -> bool:
        limit = self._pool.destination.route.config.timeouts.connect
        try:
            async with asyncio.timeout(limit):
                speaks = await self._settled
        except TimeoutError as error:
            raise upstream_errors.said_nothing(self._name(), limit) from error
        finally:
            if self.state is SETTLING:
                self.abort()
        if speaks and self.is_closing():
            self.abort()
            raise upstream_errors.never_settled(self._name())
        self._is_link = speaks
        return speaks

    def is_closing(self) -> bool:
        return self.state is not OPEN or self.transport.is_closing() or not self.http2.can_begin

    def open(self, exchange: Relay) -> UpstreamSide:
        stream = UpstreamStream(self, exchange)
        if not self.streams:
            self._heard = False
            self._pool.stats.connections_active += 1
        self.streams += 1
        self.served += 1
        self._pool.stats.upstream_streams += 1
        return stream

    def read_session(self) -> object | None:
        return tls.session_of(self.transport)

    def close(self) -> None:
        self.state = LEAVING
        self.http2.goaway()
        self.write()
        self.transport.close()

    def abort(self) -> None:
        self.state = CLOSED
        self.transport.abort()

    def fault(self, fault: Exception) -> bool:
        """End with all requests after a fault of the sidecar's own. Returns whether there was any."""
        self.note_fault(fault)
        carried = self.streams > 0
        if not self._settled.done():
            self._settled.set_exception(internal())
        self.abort()
        self._lose_all(Loss.UNKNOWN, internal())
        return carried

    def note_fault(self, fault: Exception) -> None:
        self._pool.faults.note(fault, "connection to the upstream")

    # what its streams call

    def begin(
        self,
        stream: UpstreamStream,
        request: RequestHead,
        path: bytes,
        host: bytes,
        plan: HeaderPlan,
        bearer: bytes,
    ) -> None:
        now_mono = 0.0 if request.time_limit is None else self._pool.clock.mono()
        tokens = self._tokens.of(plan.names, bearer)
        fields = lines.request_lines(
            request, path, host, plan, tokens, tls=self._pool.destination.tls, now_mono=now_mono
        )
        stream.id = self.http2.request(fields, end=request.body == NO_BODY)
        self._by_id[stream.id] = stream

    def left(self, stream: UpstreamStream) -> None:
        if not stream.is_carried:  # a fault came between
            return
        stream.is_carried = False
        self._by_id.pop(stream.id, None)
        self._watched.discard(stream)
        stats = self._pool.stats
        stats.upstream_streams -= 1
        self.streams -= 1
        if not self.streams:
            stats.connections_active -= 1
            self._reused = True
        if self.state is OPEN and not self.http2.can_begin:
            self.state = LEAVING  # by what came in the same read, and is still to be handled
        if self.state is OPEN:
            try:
                self._pool.release(self)
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                self.fault(fault)
        elif self.state is LEAVING and not self.streams:
            self.write()
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # nobody waits for the target to take it, and it may have vanished
            else:
                self.transport.close()

    def count_reset(self, direction: str, code: int) -> None:
        resets = self._pool.stats.resets
        key = direction, code_name(code)
        resets[key] = resets.get(key, 0) + 1

    def watch(self, stream: UpstreamStream) -> None:
        self._watched.add(stream)
        self._pool.stats.flow_control_stalls += 1

    def loss(self) -> Loss:
        return Loss.STALE if self._reused and not self._heard else Loss.UNKNOWN

    def has_vanished(self, seconds: float) -> bool:
        if vanished := peer.has_vanished(self.transport, seconds):
            self.state = LEAVING
        return vanished

    # what its transport calls

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(self.buffer)
        transport.read_ahead()
        self.write()

    def data_received(self, data: bytes) -> None:
        if self.state is CLOSED:
            return
        try:
            if self.state is SETTLING and data.startswith(b"HTTP/"):
                self._settled.set_result(False)
                self.abort()
                return
            self._heard = True
            self._feed(data)
        except Exception as fault:  # noqa: BLE001  # logged and counted there
            self.fault(fault)

    def _feed(self, data: bytes) -> None:
        to_flush: list[Relay] = []
        try:
            for event in self.http2.feed(data):
                kind = KINDS.get(type(event), OTHER)
                if kind > INTERIM:
                    self._on_connection(kind, event)
                elif (stream := self._by_id.get(event.stream_id)) is not None:
                    relay = stream.relay
                    if relay is not None and relay not in to_flush:
                        to_flush.append(relay)
                    try:
                        self._on_stream(stream, kind, event)
                    except Exception as fault:  # noqa: BLE001  # logged and counted there
                        stream.faulted(fault, relay)
                elif kind == DATA:
                    self.http2.credit(event.stream_id, len(event.data))
                elif kind != STREAM_CLOSED:
                    self.http2.spend(event, self._pool.clock.mono())
        finally:
            for relay in to_flush:
                try:
                    relay.flush_answer()
                except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                    relay.faulted(fault)
        self.write()

    def _on_connection(self, kind: int, event: Any) -> None:
        if kind == SETTINGS:
            self._settings(event)
        elif kind == GOAWAY:
            self._goaway()
        elif kind == ENDED:
            self._over()
        else:
            self.http2.spend(event, self._pool.clock.mono())

    def _on_stream(self, stream: UpstreamStream, kind: int, event: Any) -> None:
        if kind == DATA:
            self.http2.earn()
            if not event.data and not event.end_stream:
                self.http2.spend(event, self._pool.clock.mono())
            stream.data(event)
        elif kind == ANSWER:
            stream.answer(event)
        elif kind == TRAILERS:
            stream.trailers(event)
        elif kind == INTERIM:
            stream.interim(event)
        elif kind == RESET:
            self._reset(stream, event.error_code)
        elif kind == STREAM_CLOSED:
            self._closed(stream, event.error_code)

    def _reset(self, stream: UpstreamStream, code: int) -> None:
        """The target has reset the stream."""
        self.count_reset("from_upstream", code)
        error = upstream_errors.was_reset(code, answered=stream.answered)
        loss = Loss.UNTOUCHED if code in (REFUSED_STREAM, HTTP_1_1_REQUIRED) else Loss.UNKNOWN
        if code == HTTP_1_1_REQUIRED:
            self._pool.declined_http2()
            self.state = LEAVING
        # Before the place is given away: a request that is sent a second time has had its turn.
        stream.lost(loss, error)
        self.left(stream)

    def _closed(self, stream: UpstreamStream, code: int) -> None:
        """A stream ended, and neither side has told the exchange so far."""
        if code == REFUSED_STREAM:
            # Above the last one that a GOAWAY has named.
            stream.lost(Loss.UNTOUCHED, None)
            self.left(stream)
        else:
            self.count_reset("to_upstream", code)
            stream.refuse(lines.malformed_answer(f"its stream was ended for {code_name(code)}"))

    def _settings(self, event: Settings) -> None:
        self.http2.spend(event, self._pool.clock.mono())
        most = event.settings.get(MAX_CONCURRENT_STREAMS, self._most)
        if self.state is SETTLING:
            self.capacity = min(most, self._most)
            self.state = OPEN
            self._settled.set_result(True)
            return
        if MAX_CONCURRENT_STREAMS not in event.settings:
            return
        before, self.capacity = self.capacity, min(most, self._most)
        if self.capacity > before and self.state is OPEN and self.streams:
            self._pool.release(self)

    def _goaway(self) -> None:
        """It takes no further request. Those that it has not seen are sent elsewhere: their streams are `_closed`."""
        self.state = LEAVING
        if not self.streams:
            self.transport.close()

    def _lose_all(self, loss: Loss, error: SidecarError | None) -> None:
        for stream in list(self._by_id.values()):
            relay = stream.relay
            try:
                stream.lost(loss, error)
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                stream.faulted(fault, relay)
            else:
                self.left(stream)

    def _over(self) -> None:
        """The framing has ended: send the rest, and close."""
        if self.state is CLOSED:
            return
        http2 = self.http2
        self.transport.write(http2.take() or (http2.last_words() if http2.is_dead else b""))
        if self.state is SETTLING:
            self.transport.close()
            return
        self.state = CLOSED
        why = http2.fault or "it broke the rules of framing"
        self._lose_all(Loss.UNKNOWN, lines.malformed_answer(why))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        state, self.state = self.state, CLOSED
        if not self._is_link:
            if not self._settled.done():
                self._settled.set_exception(upstream_errors.never_settled(self._name()))
            return
        error, loss = None, Loss.UNKNOWN
        try:
            if exc is not None and not isinstance(exc, OSError):
                error = internal()
            elif exc is not None:
                error = self._pool.later_fault(self.transport, exc)
            loss = self.loss()
            if loss is Loss.STALE and state is not CLOSED and self._by_id:
                # What has idled as long is most likely stale too.
                self._pool.expire(self.idle_since_mono)
        except Exception as fault:  # noqa: BLE001  # logged and counted there
            self.note_fault(fault)
            error = internal()
        try:
            self._lose_all(loss, error)
        finally:
            self._pool.lost(self)

    def _name(self) -> str:
        return self._pool.destination.origin.decode()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.write_soon()

    def write(self) -> None:
        """Write. A fault ends the connection: framed bytes may be lost, and with them the state that both share."""
        if self._is_full or self.state is CLOSED:
            return
        try:
            if data := self.http2.take():
                self.transport.write(data)
            for event in self.http2.events():
                kind = KINDS.get(type(event), OTHER)
                if kind == ENDED:
                    self._over()
                elif kind == STREAM_CLOSED and (stream := self._by_id.get(event.stream_id)) is not None:
                    self._closed(stream, event.error_code)
                    self.write_soon()
            if self.http2.is_dead:
                self._over()
            if self._watched:
                for stream in list(self._watched):
                    try:
                        if stream.emptied():
                            self._watched.discard(stream)
                    except Exception as fault:  # noqa: BLE001  # logged and counted there
                        stream.faulted(fault, stream.relay)
        except Exception as fault:  # noqa: BLE001  # logged and counted there
            self.fault(fault)

    def write_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._write_now)

    def _write_now(self) -> None:
        self._scheduled = False
        self.write()
