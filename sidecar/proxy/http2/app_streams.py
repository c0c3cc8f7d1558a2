"""The streams of one connection from the app, which speaks HTTP/2.

Owns which there are, and what becomes of each event of theirs. The base of `Http2Downstream`, which is what the
transport and the sweep call. Each request is an `AppStream`.

Faults: whatever is raised while an event of a stream is handled ends that stream.
"""

from __future__ import annotations

from typing import Final, cast

from sidecar.errors import Reason, SidecarError
from sidecar.net.listeners import Owner
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.exchange.admitting import admit
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.fields import headers
from sidecar.proxy.http2 import fields as lines
from sidecar.proxy.http2.app_stream import AppStream, Writer
from sidecar.proxy.http2.connection import (
    PROTOCOL_ERROR,
    Closed,
    Data,
    Event,
    Request,
    Reset,
    Trailers,
    code_name,
)
from sidecar.proxy.messages import METHOD_NAMES

_MALFORMED: Final = (
    "The request is not valid HTTP/2: its head breaks RFC 9113 section 8 (pseudo-headers, upper case, connection "
    "fields, characters that are none), or its body is not as long as its Content-Length."
)


class AppStreams(Writer):
    """See the module's docstring; its attributes are the connection's."""

    __slots__ = ("_barred", "_done", "_quiet_since_mono", "_streams", "_watched", "context", "http2", "owner")

    owner: Owner
    _barred: SidecarError | None
    _streams: dict[int, AppStream]
    _watched: set[AppStream]
    """Streams on which many bytes wait to be sent."""
    _done: set[AppStream]
    """Streams that were answered, until both sides have ended them."""
    _quiet_since_mono: float

    # what becomes of events

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

    # what its streams call

    def watch(self, stream: AppStream) -> None:
        self._watched.add(stream)
        self.stats.flow_control_stalls += 1

    def ended(self, stream: AppStream, now_mono: float) -> None:
        self._quiet_since_mono = now_mono
        self._done.add(stream)

    def note_fault(self, fault: Exception) -> None:
        self.context.faults.note(fault, "stream from the app")

    # ends

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

    def _stream_fault(self, stream: AppStream, fault: Exception) -> None:
        self.note_fault(fault)
        stream.end_by_fault()

    def _all_gone(self, error: SidecarError) -> None:
        for stream in list(self._streams.values()):
            try:
                stream.gone(error)
            except Exception as fault:  # noqa: BLE001  # logged and counted there
                self._stream_fault(stream, fault)

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

    @property
    def stats(self) -> RouteStats:
        """The counters of things that belong to a connection, not to a request."""
        route, ledger = self.owner.route, self.context.ledger
        return ledger.unrouted if route is None else ledger.stats[route.name]
