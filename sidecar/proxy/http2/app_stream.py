"""One request from the app, on its stream.

Owns the app's side of one exchange in HTTP/2: how an answer is written, how flow control credits the request's body,
and how the stream ends. Made by a `Http2Downstream` for each request. The connection handles the end of the stream,
which it learns from an event.

    RECEIVING ──the exchange is over──▶ ENDING ──the last byte was framed, the app may stop sending──▶ (closed)

A gRPC call gets the sidecar's own answers as a gRPC status. It also gets a target's refusal in HTML in that form,
because a client would drop the page, and with it the reason.
"""

from __future__ import annotations

from typing import final

from mypy_extensions import trait

from sidecar.errors import MEANINGS, Reason, SidecarError
from sidecar.proxy.exchange import sweep
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.faults import internal
from sidecar.proxy.fields.headers import Fields, Found
from sidecar.proxy.http2 import fields as lines
from sidecar.proxy.http2 import grpc
from sidecar.proxy.http2.connection import CANCEL, INTERNAL_ERROR, NO_ERROR, Http2Connection
from sidecar.proxy.messages import NO_BODY, RequestHead
from sidecar.proxy.ports import AppSide, Relay


@trait
class Writer:
    """What a stream asks of its connection."""

    __slots__ = ()

    context: Context
    http2: Http2Connection

    def write(self) -> None:
        """Send what is framed and can be sent."""
        raise NotImplementedError

    def write_soon(self) -> None:
        """Send it at the end of this turn of the event loop."""
        raise NotImplementedError

    def watch(self, stream: AppStream) -> None:
        """Call the stream's `emptied` when few bytes wait on it."""
        raise NotImplementedError

    def note_fault(self, fault: Exception) -> None:
        """A fault of the sidecar itself ended a stream."""
        raise NotImplementedError

    def unsent(self) -> int:
        """Bytes that are framed and wait for the app to take them."""
        raise NotImplementedError

    def ended(self, stream: AppStream, now_mono: float) -> None:
        """Its exchange is over."""
        raise NotImplementedError


@final
class AppStream(AppSide):
    """See the module's docstring."""

    __slots__ = (
        "_buffer",
        "_connection",
        "_is_blocked",
        "_is_foreign",
        "_quiet_since_mono",
        "_seen",
        "_uncredited",
        "end_code",
        "exchange",
        "http2",
        "id",
        "is_full",
        "request",
    )

    def __init__(self, connection: Writer, stream_id: int, request: lines.Http2Request, buffer: int) -> None:
        """`buffer` is how many bytes may wait to be sent before the target is held up."""
        self._connection = connection
        self.http2 = connection.http2
        self.id = stream_id
        self.request = request
        self._buffer = buffer
        self.exchange: Exchange | None = None
        self.is_full = False
        self._is_blocked = False
        self._uncredited = 0
        """Bytes of the request's body that were not passed on yet: the app's window is smaller by as many."""
        self._is_foreign = False
        """The answer is a refusal that is not gRPC's."""
        self.end_code: int | None = None
        """The code with which to reset the stream once all waiting bytes are sent. None: it ends normally."""
        self._quiet_since_mono = request.began_mono
        self._seen: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<AppStream {self.id} {self.exchange!r}>"

    # the request's body, from the connection

    def received(self, data: bytes, *, end: bool) -> None:
        """A piece of the request's body."""
        exchange = self.exchange
        if exchange is None:
            self.http2.credit(self.id, len(data))
            return
        if data:
            self._uncredited += len(data)
            exchange.request_body(data)
            if (end or self._uncredited >= self.http2.credit_least) and not self._is_blocked:
                self.http2.credit(self.id, self._uncredited)
                self._uncredited = 0
        if end and self.exchange is not None:
            exchange.request_end(())

    def pause_request(self) -> None:
        self._is_blocked = True

    def resume_request(self) -> None:
        if self._is_blocked:
            self._is_blocked = False
            self._credit()

    def _credit(self) -> None:
        if self._uncredited:
            self.http2.credit(self.id, self._uncredited)
            self._uncredited = 0
            self._connection.write_soon()

    # the answer

    def interim(self, status: int, reason: bytes, fields: Fields) -> None:
        self.http2.interim(self.id, lines.interim_lines(status, fields))

    def head(self, status: int, reason: bytes, fields: Fields, found: Found, body: int) -> None:
        request = self.request
        if request.is_bound:
            if (
                (exchange := self.exchange) is not None
                and exchange.sample is not None
                and not _is_call(fields)
            ):
                self._is_foreign = True
                return
            if body == NO_BODY:
                request.grpc_status = grpc.status_of(fields) if status == 200 else _of_http(status)
        self.http2.answer(self.id, lines.answer_lines(status, fields, found), end=body == NO_BODY)
        if body == NO_BODY:
            self.end_code = NO_ERROR

    def body(self, data: bytes) -> None:
        if not self._is_foreign:
            self.http2.body(self.id, data)

    def end(self, trailers: Fields) -> None:
        if self._is_foreign:
            self._refuse_call()
        elif self.end_code is None:
            if self.request.is_bound:
                self.request.grpc_status = grpc.status_of(trailers)
            self.http2.end(self.id, lines.bare(trailers))
        self.end_code = NO_ERROR

    def flush(self) -> None:
        self._connection.write()
        if not self.is_full and self.exchange is not None and self.http2.unsent(self.id) > self._buffer:
            self.is_full = True
            self._connection.watch(self)
            self.exchange.app_writable(False)

    def emptied(self) -> bool:
        """Whether so few bytes wait now that the target may go on; if so, the exchange is told."""
        if self.http2.unsent(self.id) > self._buffer // 4:
            return False
        self.is_full = False
        if self.exchange is not None:
            self.exchange.app_writable(True)
        return True

    def fail(self, request: RequestHead, error: SidecarError, route: str | None) -> None:
        if self.request.is_bound:
            self.request.grpc_status = grpc.name_of(MEANINGS[error.reason].grpc)
            self.http2.answer(self.id, grpc.own_answer(error, route=route), end=True)
        else:
            self._answer(error, route)
        self.end_code = NO_ERROR
        self._connection.write_soon()

    def _answer(self, error: SidecarError, route: str | None) -> None:
        head, body = lines.own_answer(error, route=route, now=self._connection.context.clock.wall())
        is_head = self.request.method == b"HEAD"
        self.http2.answer(self.id, head, end=is_head)
        if not is_head:
            self.http2.body(self.id, body)
            self.http2.end(self.id)

    def _refuse_call(self) -> None:
        exchange = self.exchange
        if exchange is None or exchange.sample is None:
            return
        status = grpc.of_http(exchange.sample.status)
        self.request.grpc_status = grpc.name_of(status)
        self.http2.answer(self.id, grpc.refusal(status, exchange.explained()), end=True)

    def cut(self, error: SidecarError) -> None:
        if error.reason is Reason.CLIENT_STALLED:
            self.http2.reset(self.id, CANCEL)
        elif self._is_foreign:
            self._refuse_call()
            self.end_code = NO_ERROR
        elif self.request.is_bound:
            status = MEANINGS[error.reason].grpc
            self.request.grpc_status = grpc.name_of(status)
            self.http2.end(self.id, grpc.end(status, f"{error.reason}: {error.detail}"))
            self.end_code = NO_ERROR
        else:
            self.end_code = INTERNAL_ERROR
        self._connection.write_soon()

    def unsent(self) -> int:
        waiting = self.http2.unsent(self.id)
        return waiting + self._connection.unsent() if waiting or self.is_full else waiting

    # ends

    def done(self, exchange: Relay, now_mono: float) -> None:
        self.exchange = None
        self._quiet_since_mono = now_mono
        self._seen = ()
        self._connection.ended(self, now_mono)
        self._credit()

    def faulted(self, exchange: Relay, fault: Exception) -> None:
        self._connection.note_fault(fault)
        self.end_by_fault()
        self._connection.write_soon()

    def _is_done(self) -> bool:
        return self.exchange is None

    def end_by_fault(self) -> None:
        """Answer with the error if that is still possible. End the stream in any case."""
        if self.exchange is not None:
            self.exchange.end_by_fault(internal())
            if self._is_done():
                return
            self.exchange = None
        self.http2.reset(self.id, INTERNAL_ERROR)

    def gone(self, error: SidecarError) -> None:
        """The app has ended the stream or its connection. Bytes not yet credited are credited now, or other streams
        would miss them.
        """
        if self.exchange is not None:
            self.request.grpc_status = "CANCELLED" if self.request.is_bound else ""
            self.exchange.app_gone(error)
        self._credit()

    def may_reset(self) -> bool:
        """Whether this side is done with the stream, and nothing waits to be sent on it."""
        return self.end_code is not None and self.exchange is None and self.http2.is_sent(self.id)

    def sweep(self, now_mono: float, send_timeout: float) -> None:
        """End what has taken too long."""
        exchange = self.exchange
        position = sweep.position(exchange) if exchange is not None else (self.http2.unsent(self.id),)
        if position != self._seen:
            self._seen = position
            self._quiet_since_mono = now_mono
        quiet = now_mono - self._quiet_since_mono
        if exchange is None:
            if quiet >= send_timeout:
                self.http2.reset(self.id, CANCEL)
                self._connection.write_soon()
        elif (error := sweep.overdue(exchange, quiet, now_mono)) is not None:
            exchange.time_out(error)
        else:
            sweep.look_for_peer(exchange, quiet)


def _is_call(fields: Fields) -> bool:
    return any(grpc.is_call(value) for name, value in fields if name.lower() == b"content-type")


def _of_http(status: int) -> str:
    return grpc.name_of(grpc.of_http(status))
