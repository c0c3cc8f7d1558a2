"""One request and its answer, in any wire format.

Owns a request from its admission until it is counted: the token it waits for, the connection it is sent
on, copying both bodies under backpressure, replay, and the one place where every request ends (`_finish`).
Made by a connection from the app, which is its `AppSide`; the pool gives it a `Link`, which opens its
`UpstreamSide`. It parses nothing and frames nothing: a body is bytes and a length.

    QUEUED ─▶ TOKEN ─▶ CONNECT ─▶ SENT ─▶ ANSWERING ─▶ DONE
                 ▲________│________│   └─▶ TUNNEL ────▶ DONE
                  replay, before the first byte of an answer was passed on; and from anywhere ─▶ DONE

Timeouts are in `deadlines`, which `sweep` holds it to; what may be sent again in `replay` and `held`, tunnels in
`tunnel`, what is written down at the end in `ledger`.

Hot path, on a token hit and an idle connection: no await, no task, no timer, no closure. docs/performance.md has the
numbers.
"""

from __future__ import annotations

from typing import final

from sidecar.errors import MEANINGS, Reason, SidecarError
from sidecar.proxy.admission.admission import Admitted
from sidecar.proxy.exchange import replay, tunnel
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.deadlines import (
    ANSWERING,
    CONNECT,
    DONE,
    QUEUED,
    SENT,
    TOKEN,
    TUNNEL,
    ExchangeState,
)
from sidecar.proxy.exchange.held import NOTHING, HeldBody
from sidecar.proxy.exchange.tunnel import Tunnel
from sidecar.proxy.fields import headers, mapping, proxy_status, upgrades
from sidecar.proxy.messages import NO_BODY, RequestHead
from sidecar.proxy.pool.places import unspoken
from sidecar.proxy.ports import AppSide, Link, Loss, Relay, UpstreamSide
from sidecar.proxy.refusals.diagnosis import may_tell
from sidecar.proxy.refusals.refusals import Sample


@final
class Exchange(Relay):
    """See the module's docstring."""

    __slots__ = (
        "_replayed",
        "_retried",
        "_tunnel",
        "app",
        "context",
        "held",
        "progress",
        "side",
        "state",
    )

    def __init__(self, context: Context, app: AppSide, request: RequestHead, admitted: Admitted) -> None:
        """Call `start` when it is the request's turn."""
        self.context = context
        self.app = app
        self.request = request
        self.admitted = admitted
        destination = admitted[0]
        self.pool = pool = context.pools.get(destination, request.wire)
        self.span = None
        if context.ledger.tracer is not None:
            self.span, request.fields = context.ledger.begun(request, destination)
        self.state: ExchangeState = QUEUED
        self.error = None
        # the request on its way
        self.side: UpstreamSide | None = None
        self.bearer = b""
        self.request_done = request.body == NO_BODY
        self.held: HeldBody | None = NOTHING if request.body == NO_BODY else HeldBody()
        self._retried = False
        self._replayed = False
        self.own_share = -1.0
        """Seconds until it was sent: the time that the sidecar itself took. Negative before that."""
        # the answer on its way
        self.status = 0
        self.sample = None
        self._tunnel: Tunnel | None = None
        # counted
        self.sent = 0
        self.received = 0
        self.progress = 0
        """Grows with every event, so that a sweep can tell a stall from slow progress."""
        pool.stats.in_flight += 1
        pool.users += 1

    def __repr__(self) -> str:
        return (
            f"<Exchange {self.request.method.decode()} {self.pool.destination.route.name} {self.state.value}>"
        )

    # from the app's side

    def start(self) -> None:
        """Go on as far as is possible now: token, connection, head."""
        if self.request.upgrade is not None and not self._may_tunnel():
            return
        bearer: bytes | None = b""
        if self.admitted[3].names:
            bearer = self.context.tokens.bearer(self.pool.token_key, self.request.began_mono)
        if bearer is None:
            self._await_token()
            return
        self.state = CONNECT
        link = self.pool.acquire(self, fresh=self._retried)
        if link is None:
            return
        try:
            self._send(link, bearer)
        except BaseException:
            if self.side is None and (link.capacity == 1 or not link.streams):
                link.abort()  # nobody else knows of it now
            raise

    def request_body(self, data: bytes) -> None:
        self.sent += len(data)
        self.progress += 1
        side, held, limit = self.side, self.held, self.context.limits.buffer
        if side is not None:
            side.body(data)
            if held is not None and not held.add(data, limit):
                self.held = None
        elif held is not None:
            held.add(data, limit)
            if held.size >= limit:
                self.app.pause_request()

    def request_end(self, trailers: headers.Fields) -> None:
        self.request_done = True
        self.progress += 1
        if trailers:
            trailers = headers.kept_trailers(trailers, self.admitted[3].dropped)
        if self.held is not None:
            self.held.trailers = trailers
        if self.side is not None:
            self.side.end(trailers)

    def flush_request(self) -> None:
        if self.side is not None:
            self.side.flush()

    def had_its_turn(self) -> bool:
        return self._retried or self._replayed

    def app_writable(self, yes: bool) -> None:
        if self.side is not None:
            if yes:
                self.side.resume_answer()
            else:
                self.side.pause_answer()

    def app_gone(self, error: SidecarError) -> None:
        if self.state is DONE:
            return
        tunnelled = self.state is TUNNEL
        self.let_go(flush=tunnelled)
        self._finish(None if tunnelled else error)

    # from the token store and the pool

    def _await_token(self, refused: bytes = b"") -> None:
        """Wait for a token, or for another one than `refused`."""
        self.state = TOKEN
        try:
            self.context.tokens.join(self.pool.token_key, self._token_settled, refused=refused)
        except SidecarError as error:
            self._fail(error)

    def _token_settled(self, error: SidecarError | None) -> None:
        if self.state is not TOKEN:
            return
        try:
            if error is not None:
                self._fail(error)
            else:
                self.start()
                self.flush_request()
        except Exception as fault:  # noqa: BLE001  # `faulted` logs and counts it
            self.app.faulted(self, fault)

    def connected(self, link: Link) -> None:
        bearer: bytes | None = b""
        if self.admitted[3].names:  # again, since the wait may have been longer than the token's life
            bearer = self.context.tokens.bearer(self.pool.token_key, self.request.began_mono)
        if bearer is None:
            self.pool.release(link)
            self._await_token()
            return
        self._send(link, bearer)
        self.flush_request()

    def not_connected(self, error: SidecarError) -> None:
        self._fail(error)

    def _send(self, link: Link, bearer: bytes) -> None:
        if self.request.is_bound and link.wire != self.request.wire:
            self._fail(unspoken(self.pool.destination))
            self.pool.release(link)
            return
        self.bearer = bearer
        self.side = side = link.open(self)
        if self.app.is_full:
            side.pause_answer()
        self.state = SENT
        context, request = self.context, self.request
        if self.own_share < 0:
            self.own_share = context.clock.mono() - request.began_mono
        destination, path, _, plan = self.admitted
        side.head(request, path, destination.host_header or request.authority, plan, bearer)
        held = self.held
        if request.body != NO_BODY and held is not None:
            for data in held.pieces:
                side.body(data)
            if self.request_done:
                side.end(held.trailers)
            if held.size > context.limits.buffer:
                self.held = None
            self.app.resume_request()
        elif self._retried or self._replayed:
            self.app.resume_request()  # the connection before may have been full

    # from the upstream's side

    def interim(self, status: int, reason: bytes, fields: headers.Fields) -> None:
        self.progress += 1
        self.app.interim(status, reason, proxy_status.foreign(fields))

    def answer(
        self, status: int, reason: bytes, fields: headers.Fields, found: headers.Found, body: int
    ) -> bool:
        if status == 401 and self._refused_token(found):
            return False
        self.state = ANSWERING
        if self.request.upgrade is not None:
            self.context.tunnels.discard(self)
        self.held = None
        self.status = status
        self.progress += 1
        if status >= 300 and self.bearer and may_tell(status, fields):
            self.sample = Sample(status, fields)
        if b"proxy-status" in found:
            fields = proxy_status.foreign(fields)
        destination, _, prefix, _ = self.admitted
        if b"location" in found or b"content-location" in found or prefix:
            base = self.request.scheme + self.request.authority
            fields = mapping.map_answer(fields, found, origin=destination.origin, base=base, prefix=prefix)
        self.app.head(status, reason, fields, found, body)
        return True

    def answer_body(self, data: bytes) -> None:
        self.received += len(data)
        self.progress += 1
        if self.sample is not None:
            self.sample.feed(data)
        self.app.body(data)

    def explained(self) -> str:
        """Why the target refused the request, for an app that can't get the target's own answer."""
        if self.sample is None:
            return ""
        return self.context.ledger.refusals.explain(self.pool.destination, self.sample, self.bearer)

    def flush_answer(self) -> None:
        self.app.flush()

    def answer_end(self, trailers: headers.Fields) -> bool:
        if trailers:
            trailers = headers.kept_trailers(proxy_status.foreign(trailers), frozenset())
        self.side = None
        self.app.end(trailers)
        self._finish(None)
        return self.request_done

    def upstream_full(self) -> None:
        self.app.pause_request()

    def upstream_writable(self) -> None:
        self.app.resume_request()

    def faulted(self, fault: Exception) -> None:
        self.app.faulted(self, fault)

    def end_by_fault(self, error: SidecarError) -> None:
        """End with the answer that is still possible. Everything it holds is released, even if that fails too."""
        for end in (self.time_out, self.app_gone):
            if self.state is DONE:
                return
            try:
                end(error)
            except Exception as again:  # noqa: BLE001  # logged and counted
                self.context.faults.note(again, "end of a request")
        if self.state is not DONE:
            self.state = DONE
            self.pool.stats.in_flight -= 1
            self.pool.users -= 1
            if self.request.upgrade is not None:
                self._leave_tunnels()

    def lost(self, loss: Loss, error: SidecarError | None) -> None:
        self.side = None
        if self.state is DONE:
            return  # it ended by a fault that left the connection behind
        if self.state is TUNNEL:
            self._finish(None)
            self.app.tunnel_close()
        elif self.state is ANSWERING:
            self._cut(error or replay.closed_in_answer())
        elif not self._retried and replay.after_loss(self.request, loss, self.held) and self.pool.may_retry():
            self._retried = True
            self.pool.stats.retries += 1
            self.start()
            self.flush_request()
        else:
            self._fail(error or replay.closed(self.request, loss, self.held, retried=self._retried))

    def failed(self, error: SidecarError) -> None:
        self.side = None
        if self.state in (ANSWERING, TUNNEL):
            self._cut(error)
        else:
            self._fail(error)

    # tunnels

    def _may_tunnel(self) -> bool:
        """Take a place for a tunnel before anything is sent. It is held until the upgrade is declined, or the end."""
        tunnels = self.context.tunnels
        if self not in tunnels:
            if (error := tunnel.no_room(tunnels, self.context.limits.tunnels)) is not None:
                self._fail(error)
                return False
            tunnels.add(self)
        return True

    def _leave_tunnels(self) -> None:
        if self in self.context.tunnels:
            self.context.tunnels.discard(self)
            self.pool.stats.tunnels -= self.status == 101

    def switch(self, reason: bytes, fields: headers.Fields) -> SidecarError | None:
        wrong = upgrades.refusal(self.request.upgrade, self.request.fields, fields)
        if wrong is None and self.side is None:
            wrong = "to a request that had ended"
        if wrong is not None or self.side is None:
            return tunnel.failed(wrong)
        self.state = TUNNEL
        self._tunnel = Tunnel(self.app, self.side)
        self.held = None
        self.status = 101
        self.pool.stats.upgrades += 1
        self.pool.stats.tunnels += 1
        self.app.switch(reason, proxy_status.foreign(fields), headers.survey(fields)[b"upgrade"])
        return None

    def from_upstream(self, data: bytes) -> None:
        self.received += len(data)
        self.progress += 1
        if self._tunnel is not None:
            self._tunnel.app.tunnel_write(data)

    def from_app(self, data: bytes) -> None:
        self.sent += len(data)
        self.progress += 1
        if self._tunnel is not None and self.side is not None:
            self._tunnel.upstream.tunnel_write(data)

    def upstream_ended(self) -> bool:
        return self._tunnel is not None and self._tunnel.ended(self._tunnel.app)

    def app_ended(self) -> bool:
        return self._tunnel is not None and self.side is not None and self._tunnel.ended(self.side)

    def time_out(self, error: SidecarError) -> None:
        """Give up, with the answer that is still possible."""
        self.let_go()
        if self.state in (ANSWERING, TUNNEL) or error.reason is Reason.CLIENT_STALLED:
            self._cut(error)
        else:
            self._fail(error)

    # inside

    def _refused_token(self, found: headers.Found) -> bool:
        """Whether a 401 is about the token, so that this request starts again with a new one."""
        if not self.bearer or not replay.calls_token_invalid(found):
            return False
        renewing = self.context.tokens.reject(self.pool.token_key, self.bearer)
        if (
            not renewing
            or self._replayed
            or not replay.after_refusal(self.request, self.held, request_done=self.request_done)
            or not self.pool.may_retry()
        ):
            return False
        self._replayed = True
        self.pool.stats.replays += 1
        self.side = None
        self._await_token(self.bearer)
        return True

    def let_go(self, *, flush: bool = False) -> None:
        """Stop waiting, and cancel what is in progress."""
        if self.state is TOKEN:
            self.context.tokens.leave(self.pool.token_key, self._token_settled)
        elif self.state is CONNECT:
            self.pool.forget(self)
        if self.side is not None:
            self.side.cancel(flush=flush)
            # Not before: where that meets a fault, it is cancelled again.
            self.side = None

    def _fail(self, error: SidecarError) -> None:
        """Answer with the error: no part of an answer has been passed on yet."""
        self.held = None
        self.status = MEANINGS[error.reason].status
        self.app.fail(self.request, error, self.pool.destination.route.name)
        refused = self.pool.stats.refused
        refused[error.reason] = refused.get(error.reason, 0) + 1
        self._finish(error)

    def _cut(self, error: SidecarError) -> None:
        """Break off an answer that has begun, so that the app can see that it is incomplete."""
        cut = self.pool.stats.cut
        cut[error.reason] = cut.get(error.reason, 0) + 1
        self.app.cut(error)
        self._finish(error)

    def _finish(self, error: SidecarError | None) -> None:
        """The one place where every request ends."""
        if self.request.upgrade is not None:
            self._leave_tunnels()  # before the rest: a second time does no harm
        # What may happen once only comes first: a fault further down must neither repeat nor prevent it.
        self.state = DONE
        self.pool.stats.in_flight -= 1
        self.pool.users -= 1
        self.error = error
        self.held = None
        now_mono = self.context.clock.mono()
        self.context.ledger.finished(self, now_mono)
        self.app.done(self, now_mono)
