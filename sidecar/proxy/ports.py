"""The interfaces of an exchange: what it calls, and what calls it.

Owns the interfaces between the rooms of the proxy, so that an exchange knows no wire format, and a codec knows nothing
of tokens, routes, retries or deadlines. A connection implements its side itself: nothing is allocated for it.

    the app ── AppSide ◀──▶ Relay (the exchange) ◀──▶ UpstreamSide ── the target
                                 ▲ connected, not_connected
                                 │
                               the pool, which holds Links ◀── Keeper: what a link tells it

Base classes and traits (what a class may have beside one base), and not `typing.Protocol`: a compiled call through one
of those is a look-up by name.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar

from mypy_extensions import mypyc_attr, trait

from sidecar.errors import SidecarError
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.admission.admission import Admitted, HeaderPlan
from sidecar.proxy.faults import Faults
from sidecar.proxy.fields.headers import Fields, Found
from sidecar.proxy.messages import HTTP1, RequestHead
from sidecar.proxy.refusals.refusals import Sample
from sidecar.routing.routes import Destination
from sidecar.runtime.clock import Clock
from sidecar.tokens.token import TokenKey


class Loss(Enum):
    """What is known of a request whose connection is lost."""

    UNTOUCHED = "untouched"
    """The target has provably not processed it: any method may be sent once more."""
    STALE = "stale"
    """The connection had served before, and ended before the first byte of the answer: most likely it was closed
    while idle.
    """
    UNKNOWN = "unknown"
    """It may have been processed."""


@trait
@mypyc_attr(allow_interpreted_subclasses=True)
class TunnelEnd:
    """One end of a tunnel: a connection that carries another protocol."""

    __slots__ = ()

    def tunnel_write(self, data: bytes) -> None:
        """Send bytes of the other protocol."""
        raise NotImplementedError

    def tunnel_end(self) -> bool:
        """Say that no more will be sent. False if this end can't close one direction only."""
        raise NotImplementedError

    def tunnel_close(self) -> None:
        """Send what is buffered, then close."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class AppSide(TunnelEnd):
    """What an exchange calls on the app's side. Every call is about the request whose turn it is."""

    __slots__ = ()

    is_full: bool
    """The app takes no more bytes for now, so an answer that begins now must wait."""

    def interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """An interim answer (1xx)."""
        raise NotImplementedError

    def head(self, status: int, reason: bytes, fields: Fields, found: Found, body: int) -> None:
        """The head of the final answer; `body` is the length of what follows, NO_BODY or UNKNOWN."""
        raise NotImplementedError

    def body(self, data: bytes) -> None:
        """A piece of the answer's body."""
        raise NotImplementedError

    def end(self, trailers: Fields) -> None:
        """The answer is complete; `flush` follows."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what has been collected. Called once for each piece of bytes from the target."""
        raise NotImplementedError

    def switch(self, reason: bytes, fields: Fields, protocol: bytes) -> None:
        """Answer that the protocol is `protocol` from now on, and become one end of a tunnel."""
        raise NotImplementedError

    def fail(self, request: RequestHead, error: SidecarError, route: str) -> None:
        """Answer with the error, in the app's own form. So far at most interim answers were sent."""
        raise NotImplementedError

    def cut(self, error: SidecarError) -> None:
        """Break off an answer that has begun, so that the app can see that it is incomplete."""
        raise NotImplementedError

    def pause_request(self) -> None:
        """Stop taking the request's body for now."""
        raise NotImplementedError

    def resume_request(self) -> None:
        """Take the request's body again."""
        raise NotImplementedError

    def unsent(self) -> int:
        """Bytes that wait to be sent to the app."""
        raise NotImplementedError

    def done(self, exchange: Relay, now_mono: float) -> None:
        """The exchange is over."""
        raise NotImplementedError

    def faulted(self, exchange: Relay, fault: Exception) -> None:
        """The exchange met a fault of the sidecar's own."""
        raise NotImplementedError


@trait
class UpstreamSide(TunnelEnd):
    """What an exchange calls on the target's side."""

    __slots__ = ()

    def head(self, request: RequestHead, path: bytes, host: bytes, plan: HeaderPlan, bearer: bytes) -> None:
        """The request's head: `path` and `host` as they go out, `bearer` for the headers of the plan."""
        raise NotImplementedError

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""
        raise NotImplementedError

    def end(self, trailers: Fields) -> None:
        """The request is complete; only for one that has a body."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what has been collected. Called once for each piece of bytes from the app."""
        raise NotImplementedError

    def cancel(self, *, flush: bool) -> None:
        """Further bytes of the answer are not wanted. `flush` first sends what is buffered."""
        raise NotImplementedError

    def pause_answer(self) -> None:
        """Take no more of the answer for now."""
        raise NotImplementedError

    def resume_answer(self) -> None:
        """Take the answer again."""
        raise NotImplementedError

    def unsent(self) -> int:
        """Bytes that wait to be sent to the target."""
        raise NotImplementedError

    def loss(self) -> Loss:
        """What would be known about the request if the connection were lost now."""
        raise NotImplementedError

    def has_vanished(self, seconds: float) -> bool:
        """Whether the target has acknowledged nothing of what was sent to it for this long."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class Link:
    """A connection to a target, as a pool holds it."""

    __slots__ = ("capacity", "generation", "idle_since_mono", "served", "streams")

    wire: ClassVar[int] = HTTP1
    """HTTP1 or HTTP2: what it speaks."""
    capacity: int
    """How many requests it can carry at once."""
    streams: int
    """How many it carries."""
    generation: int
    """The pool's generation when it was dialled."""
    idle_since_mono: float

    served: int
    """How many requests were begun on it."""

    def open(self, exchange: Relay) -> UpstreamSide:
        """Carry this exchange; only while `streams` is below `capacity`."""
        raise NotImplementedError

    async def settled(self) -> bool:
        """Wait until it is known how many requests it can carry; False where the target does not speak what it was
        asked to, and no request was sent. Raises SidecarError if it ended meanwhile, or stayed silent for too long.
        Until then it counts as a dial, and reports nothing to its keeper.
        """
        return True

    def is_closing(self) -> bool:
        """Whether it can carry no further request."""
        raise NotImplementedError

    def read_session(self) -> object | None:
        """The TLS session, for the next connection to resume; None where there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Send what is buffered, then close."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError

    def fault(self, fault: Exception) -> bool:
        """A fault happened while handling it: close it, with its requests. Returns whether it carried any."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class Keeper:
    """What a link reports to the pool that holds it."""

    __slots__ = ("clock", "destination", "faults", "stats", "token_key", "users", "wire")

    clock: Clock

    destination: Destination
    stats: RouteStats
    faults: Faults
    token_key: TokenKey
    wire: int
    """HTTP1 or HTTP2: what its connections are asked to speak."""
    users: int
    """Exchanges that use this pool, with or without a connection yet."""

    @property
    def capacity(self) -> int:
        """How many requests a connection may carry at once, if it can carry several and the target allows as many."""
        raise NotImplementedError

    def acquire(self, exchange: Relay, *, fresh: bool) -> Link | None:
        """A connection now, or None: then `connected` or `not_connected` is called, later or at once.

        `fresh` asks for one that has served no request yet: the request has just met a stale one.
        """
        raise NotImplementedError

    def forget(self, exchange: Relay) -> None:
        """The exchange no longer waits."""
        raise NotImplementedError

    def may_retry(self) -> bool:
        """Whether one more request may be sent again. Counts it in either case."""
        raise NotImplementedError

    def expire(self, before_mono: float) -> None:
        """Close connections that have been idle since before that time."""
        raise NotImplementedError

    def release(self, link: Link) -> None:
        """The link can carry another request."""
        raise NotImplementedError

    def lost(self, link: Link) -> None:
        """The link is gone."""
        raise NotImplementedError

    def declined_http2(self) -> None:
        """The target refuses HTTP/2: HTTP/1.1 is used from now on."""
        raise NotImplementedError

    def flush(self, link: Link) -> None:
        """The link ends when its last bytes are sent, within `timeouts.send`."""
        raise NotImplementedError

    def later_fault(self, link: Any, error: Exception) -> SidecarError | None:
        """The error of a connection that ended in a TLS error; None for every other end."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class Relay:
    """What both sides and the pool report to an exchange, and the facts that they report about."""

    __slots__ = (
        "admitted",
        "bearer",
        "error",
        "own_share",
        "pool",
        "received",
        "request",
        "request_done",
        "sample",
        "sent",
        "span",
        "status",
    )

    request: RequestHead
    admitted: Admitted
    pool: Keeper
    error: SidecarError | None
    sent: int
    received: int
    bearer: bytes
    sample: Sample | None
    span: Any
    status: int
    own_share: float
    request_done: bool
    """Whether the whole request has come from the app."""

    def had_its_turn(self) -> bool:
        """Whether it held a connection before and has to be sent once more."""
        raise NotImplementedError

    # from the app's side

    def request_body(self, data: bytes) -> None:
        """A piece of the request's body."""
        raise NotImplementedError

    def request_end(self, trailers: Fields) -> None:
        """The request is complete; only for one that has a body."""
        raise NotImplementedError

    def flush_request(self) -> None:
        """Send what has been collected. Called once for each piece of bytes from the app."""
        raise NotImplementedError

    def app_gone(self, error: SidecarError) -> None:
        """The app has left, or waits no longer. The request is cancelled at the target at once."""
        raise NotImplementedError

    def app_writable(self, yes: bool) -> None:
        """The app takes bytes again, or does not."""
        raise NotImplementedError

    # from the upstream's side

    def interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """An interim answer (1xx)."""
        raise NotImplementedError

    def answer(self, status: int, reason: bytes, fields: Fields, found: Found, body: int) -> bool:
        """The head of the final answer. Returns False if it is not wanted because the request is sent again with
        another token.
        """
        raise NotImplementedError

    def answer_body(self, data: bytes) -> None:
        """A piece of the answer's body."""
        raise NotImplementedError

    def flush_answer(self) -> None:
        """Write to the app what has been collected. Called once for each piece of bytes from the target."""
        raise NotImplementedError

    def answer_end(self, trailers: Fields) -> bool:
        """The answer is complete, and `flush_answer` follows. Returns whether the request was complete too."""
        raise NotImplementedError

    def switch(self, reason: bytes, fields: Fields) -> SidecarError | None:
        """A 101: become a tunnel, or fail if the app did not ask for this protocol."""
        raise NotImplementedError

    def upstream_full(self) -> None:
        """The target takes no more for now."""
        raise NotImplementedError

    def upstream_writable(self) -> None:
        """The target takes bytes again."""
        raise NotImplementedError

    def lost(self, loss: Loss, error: SidecarError | None) -> None:
        """The connection ended while it carried this request; `error` if the cause is known."""
        raise NotImplementedError

    def failed(self, error: SidecarError) -> None:
        """What came from the target can't be passed on."""
        raise NotImplementedError

    def faulted(self, fault: Exception) -> None:
        """What carried this request met a fault of the sidecar's own."""
        raise NotImplementedError

    # from the pool

    def connected(self, link: Link) -> None:
        """The connection it waited for."""
        raise NotImplementedError

    def not_connected(self, error: SidecarError) -> None:
        """The connection it waited for could not be made."""
        raise NotImplementedError

    # both ways, once it is a tunnel

    def from_app(self, data: bytes) -> None:
        """Bytes of the other protocol, for the target."""
        raise NotImplementedError

    def from_upstream(self, data: bytes) -> None:
        """Bytes of the other protocol, for the app."""
        raise NotImplementedError

    def app_ended(self) -> bool:
        """The app sends nothing more; True keeps the other direction open, if there still is one."""
        raise NotImplementedError

    def upstream_ended(self) -> bool:
        """The target sends nothing more; True keeps the other direction open, if there still is one."""
        raise NotImplementedError
