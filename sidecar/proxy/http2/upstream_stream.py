"""One request to a target, on its stream.

Owns the upstream's side of one exchange in HTTP/2: how the request is written, which parts of the answer are passed
on, and how flow control credits its body. Made by a `Http2Upstream` for each exchange that it carries.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import trait

from sidecar.errors import Reason, SidecarError
from sidecar.net.transport import Transport
from sidecar.proxy.admission.admission import HeaderPlan
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.fields.headers import Fields
from sidecar.proxy.http2 import fields as lines
from sidecar.proxy.http2.connection import CANCEL, Answer, Data, Http2Connection, Interim, Trailers
from sidecar.proxy.messages import RequestHead
from sidecar.proxy.ports import Loss, Relay, UpstreamSide

_MAX_INTERIM: Final = 32
"""Most 1xx answers to one request, as in HTTP/1."""


@trait
class StreamLink:
    """What a stream asks of its connection."""

    __slots__ = ()

    buffer: int
    """How many bytes may wait to be sent before the app is held up."""
    http2: Http2Connection
    limits: Bounds
    transport: Transport

    def begin(
        self,
        stream: UpstreamStream,
        request: RequestHead,
        path: bytes,
        host: bytes,
        plan: HeaderPlan,
        bearer: bytes,
    ) -> None:
        """Send a request's head."""
        raise NotImplementedError

    def left(self, stream: UpstreamStream) -> None:
        """The stream no longer carries its exchange: there is room for another."""
        raise NotImplementedError

    def count_reset(self, direction: str, code: int) -> None:
        """A stream was reset before its end."""
        raise NotImplementedError

    def watch(self, stream: UpstreamStream) -> None:
        """Call the stream's `emptied` when few bytes wait on it."""
        raise NotImplementedError

    def loss(self) -> Loss:
        """What would be known of each request if the connection were lost now."""
        raise NotImplementedError

    def note_fault(self, fault: Exception) -> None:
        """A fault of the sidecar itself ended a stream that no exchange waits for."""
        raise NotImplementedError

    def has_vanished(self, seconds: float) -> bool:
        """Whether the target has acknowledged nothing for so long. If so, it gets no further request."""
        raise NotImplementedError

    def write(self) -> None:
        """Send what is framed and can be sent."""
        raise NotImplementedError

    def write_soon(self) -> None:
        """Send it at the end of this turn of the event loop."""
        raise NotImplementedError


@final
class UpstreamStream(UpstreamSide):
    """One request on the connection."""

    __slots__ = (
        "_interim",
        "_link",
        "_uncredited",
        "answered",
        "id",
        "is_carried",
        "is_full",
        "is_head",
        "is_paused",
        "relay",
    )

    def __init__(self, link: StreamLink, relay: Relay) -> None:
        self._link = link
        self.relay: Relay | None = relay
        """The exchange, for as long as it wants the answer."""
        self.id = 0
        self.is_carried = True
        """Whether the connection counts it."""
        self.is_head = False
        self.is_full = False
        self.is_paused = False
        self.answered = False
        """Whether the head of the final answer was passed on."""
        self._uncredited = 0
        self._interim = 0

    # what the exchange calls

    def head(self, request: RequestHead, path: bytes, host: bytes, plan: HeaderPlan, bearer: bytes) -> None:
        self.is_head = request.method == b"HEAD"
        self._link.begin(self, request, path, host, plan, bearer)

    def body(self, data: bytes) -> None:
        self._link.http2.body(self.id, data)

    def end(self, trailers: Fields) -> None:
        self._link.http2.end(self.id, lines.bare(trailers))

    def flush(self) -> None:
        link = self._link
        link.write()
        if not self.is_full and self.relay is not None and link.http2.unsent(self.id) > link.buffer:
            self.is_full = True
            link.watch(self)
            self.relay.upstream_full()

    def cancel(self, *, flush: bool) -> None:
        if self.relay is not None:
            try:
                self.leave()
                if self.id:
                    self._link.http2.reset(self.id, CANCEL)
                    self._link.count_reset("to_upstream", CANCEL)
            finally:
                self._link.left(self)
            self._link.write()

    def pause_answer(self) -> None:
        self.is_paused = True

    def resume_answer(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._credit()
            self._link.write_soon()

    def unsent(self) -> int:
        waiting = self._link.http2.unsent(self.id)
        return waiting + self._link.transport.get_write_buffer_size() if waiting else waiting

    def loss(self) -> Loss:
        return self._link.loss()

    def has_vanished(self, seconds: float) -> bool:
        return self._link.has_vanished(seconds)

    # what comes from the target

    def interim(self, event: Interim) -> None:
        """An interim answer."""
        if (relay := self.relay) is None:
            return
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            self.refuse(lines.malformed_answer(f"more than {_MAX_INTERIM} interim answers"))
            return
        status = int(event.headers[0][1])
        relay.interim(status, lines.PHRASES[status], event.headers[1:])

    def answer(self, event: Answer) -> None:
        """The head of the final answer."""
        relay = self.relay
        if relay is None:
            return
        end = event.end_stream
        try:
            status, fields, found, body = lines.read_answer(
                event.headers, self._link.limits, head=self.is_head, end=end
            )
        except SidecarError as error:
            self.refuse(error)
            return
        self.answered = True
        if not relay.answer(status, lines.PHRASES[status], fields, found, body):
            # It will be asked again with another token.
            self.leave()
            if not end:
                self._link.http2.reset(self.id, CANCEL)
            self._link.left(self)
        elif end:
            self.finish(relay, ())

    def data(self, event: Data) -> None:
        """A piece of the answer's body."""
        relay, size = self.relay, len(event.data)
        if relay is None:
            self._link.http2.credit(self.id, size)
            return
        if size:
            self._uncredited += size
            relay.answer_body(event.data)
            if self._uncredited >= self._link.http2.credit_least and not self.is_paused:
                self._credit()
        if event.end_stream:
            self.finish(relay, ())

    def trailers(self, event: Trailers) -> None:
        """The last lines of the answer."""
        if (relay := self.relay) is None:
            return
        limits = self._link.limits
        if len(event.headers) > limits.headers or lines.size_of(event.headers) > limits.head:
            self.refuse(
                SidecarError(
                    Reason.UPSTREAM_HEAD_TOO_LARGE,
                    f"The trailers of the answer are larger than `limits.head` ({limits.head} bytes) or have more than "
                    f"`limits.headers` ({limits.headers}) lines.",
                )
            )
            return
        self.finish(relay, event.headers)

    def finish(self, relay: Relay, trailers: Fields) -> None:
        """The answer is complete."""
        self.leave()
        if not relay.answer_end(trailers):
            self._link.http2.reset(self.id, CANCEL)
        self._link.left(self)

    def refuse(self, error: SidecarError) -> None:
        """The answer can't be passed on."""
        relay = self.relay
        self.leave()
        self._link.http2.reset(self.id, CANCEL)
        if relay is not None:
            relay.failed(error)
        self._link.left(self)

    def lost(self, loss: Loss, error: SidecarError | None) -> None:
        """The stream or its connection is gone."""
        relay = self.relay
        self.leave()
        if relay is not None:
            relay.lost(loss, error)

    def emptied(self) -> bool:
        """Whether so few bytes wait now that the app may go on; if so, the exchange is told."""
        if self._link.http2.unsent(self.id) > self._link.buffer // 4:
            return False
        self.is_full = False
        if self.relay is not None:
            self.relay.upstream_writable()
        return True

    def faulted(self, fault: Exception, relay: Relay | None) -> None:
        """A fault of the sidecar itself happened while handling the stream: it ends, and no other does. `relay` is
        the exchange it carried before.
        """
        self.leave()
        self._link.http2.reset(self.id, CANCEL)
        if relay is not None:
            relay.faulted(fault)
        else:
            self._link.note_fault(fault)
        self._link.left(self)

    def leave(self) -> None:
        """The exchange is no longer carried. All bytes are credited, or other streams would miss them; the caller
        writes.
        """
        self.relay = None
        self.is_paused = False
        self._credit()

    def _credit(self) -> None:
        if self._uncredited:
            self._link.http2.credit(self.id, self._uncredited)
            self._uncredited = 0
