"""One request and its answer.

Owns a request from its admission until it is counted: the token it waits for, the connection it is sent
on, copying both bodies under backpressure, replay, and the one place where every request ends (`_finish`).
Made by a `DownstreamConnection`, fed by it and by an `UpstreamConnection`; it parses nothing itself.

    QUEUED ─▶ TOKEN ─▶ CONNECT ─▶ SENT ─▶ ANSWERING ─▶ DONE
                 ▲________│________│   └─▶ TUNNEL ────▶ DONE
                  replay, before the first byte of an answer was passed on; and from anywhere ─▶ DONE

One class, though a long one: its states share what is held for replay, and every way through them ends in one
place.

Hot path, on a token hit and an idle connection: no await, no task, no timer, no closure; one write for a
head with what is there of its body, one write for the answer. All of the sidecar's own Python takes 14 µs for
a small request (both parsers, without sockets), of some 36 µs with the kernel's share; benchmarks/ has the numbers.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, final

from sidecar.errors import MEANINGS, Reason, SidecarError
from sidecar.net import peer
from sidecar.observe.trace import Trace, read_trace
from sidecar.proxy.admission.admission import Admitted
from sidecar.proxy.fields import headers, mapping, upgrades
from sidecar.proxy.http1 import answers, framing, heads
from sidecar.proxy.http1.upstream import UpstreamConnection
from sidecar.proxy.pool.pool import Pool
from sidecar.proxy.refusals.diagnosis import may_tell
from sidecar.proxy.refusals.refusals import Sample

if TYPE_CHECKING:
    from sidecar.proxy.http1.downstream import DownstreamConnection

_TUNNEL_RETRY = 10.0
"""Seconds after which to ask again for a tunnel: they live long."""

_OF_A_PIECE = 64
"""Bytes of memory that a piece of a body takes beside its own: an object, its place in a list, a chunk's framing. They
count for small ones that follow another: a body that comes a byte at a time would take thirty times its size."""

_LAST_CHUNK = b"0\r\n\r\n"


class State(Enum):
    """See the diagram above."""

    QUEUED = "queued"
    TOKEN = "token"
    CONNECT = "connect"
    SENT = "sent"
    ANSWERING = "answering"
    TUNNEL = "tunnel"
    DONE = "done"


QUEUED, TOKEN, CONNECT, SENT, ANSWERING, TUNNEL, DONE = State
"""Names for the hot path: reading a member through its class costs 90 ns."""


_DOING = {
    QUEUED: "waiting for its turn",
    TOKEN: "waiting for a token",
    CONNECT: "waiting for a connection",
    SENT: "waiting for the upstream",
    ANSWERING: "being answered",
}


def end_writing(transport: asyncio.Transport) -> None:
    """Send FIN behind what is buffered, on a connection that may be gone already without our having been told."""
    try:
        transport.write_eof()
    except OSError:
        transport.abort()


@final
class Exchange:
    """See the module's docstring."""

    __slots__ = (
        "_answer_body",
        "_answer_out",
        "_authority",
        "_bearer",
        "_body",
        "_connection",
        "_down",
        "_fields",
        "_found",
        "_half_closed",
        "_held",
        "_held_size",
        "_http10",
        "_own_share",
        "_replayed",
        "_request_done",
        "_request_out",
        "_retried",
        "_sample",
        "_span",
        "_status",
        "admitted",
        "began_mono",
        "error",
        "keep_alive",
        "method",
        "pool",
        "progress",
        "received",
        "sent",
        "state",
        "stats",
        "upgrade",
    )

    def __init__(
        self,
        down: DownstreamConnection,
        admitted: Admitted,
        pool: Pool,
        *,
        method: bytes,
        authority: bytes,
        fields: headers.Fields,
        found: headers.Found,
        body: int,
        http10: bool,
        keep_alive: bool,
        upgrade: bytes | None,
        began_mono: float,
        span: Any = None,
    ) -> None:
        """`body` is the request's framing, `authority` its Host as it came, `upgrade` the protocol asked for."""
        self._down = down
        self.admitted = admitted
        self.stats = pool.stats
        self.pool = pool
        self.method = method
        self.began_mono = began_mono
        self._authority = authority
        self._span = span
        self._fields = fields
        self._found = found
        self._body = body
        self._http10 = http10
        self.upgrade = upgrade
        """The protocols that the app asks to switch to."""
        self.keep_alive = keep_alive
        """Whether the app's connection can carry another request after this one."""
        self.state = QUEUED
        self.error: SidecarError | None = None
        # the request on its way
        self._connection: UpstreamConnection | None = None
        self._bearer = b""
        self._request_done = body == framing.NO_BODY
        self._request_out: list[bytes] = []
        self._held: list[bytes] | None = []
        self._held_size = 0
        self._retried = False
        self._replayed = False
        self._half_closed = False
        self._own_share = -1.0
        # the answer on its way
        self._status = 0
        self._sample: Sample | None = None
        self._answer_body = framing.NO_BODY
        self._answer_out: list[bytes] = []
        # counted
        self.sent = 0
        self.received = 0
        self.progress = 0
        """Grows with every event, so that a sweep can tell a stall from slow going."""
        self.stats.in_flight += 1
        pool.users += 1

    def __repr__(self) -> str:
        return f"<Exchange {self.method.decode()} {self.pool.destination.route.name} {self.state.value}>"

    def trace(self) -> Trace | None:
        """The trace that the request belongs to; looked for only where it is logged."""
        found = {name.lower(): value for name, value in self._fields}
        return read_trace(found.get(b"traceparent"), found.get(b"x-cloud-trace-context"))

    # from the app

    def start(self) -> None:
        """Go on as far as is possible now: token, connection, head."""
        if self.upgrade is not None and not self._may_tunnel():
            return
        bearer: bytes | None = b""
        if self.admitted[3].names:
            bearer = self._down.proxy.tokens.bearer(self.pool.token_key, self.began_mono)
        if bearer is None:
            self._await_token()
            return
        self.state = CONNECT
        connection = self.pool.acquire(self, fresh=self._retried)
        if connection is not None:
            self._connection = connection
            self._send(connection, bearer)

    def request_body(self, data: bytes) -> None:
        """A piece of the request's body, as the parser gave it."""
        size = len(data)
        self.sent += size
        self.progress += 1
        if self._body == framing.CHUNKED:
            data = b"%x\r\n%b\r\n" % (size, data)
        self._hold(data, size)

    def request_end(self, trailers: headers.Fields) -> None:
        """The request is complete."""
        self._request_done = True
        self.progress += 1
        if self._body == framing.CHUNKED:
            plan = self.admitted[3]
            self._hold(headers.write_trailers(trailers, plan.dropped) if trailers else _LAST_CHUNK, 0)

    def flush_request(self) -> None:
        """Write what has gathered to the upstream; once for each piece of bytes from the app."""
        if self._request_out and self._connection is not None:
            out = self._request_out
            self._connection.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._request_out = []

    @property
    def had_its_turn(self) -> bool:
        """Whether it held a connection before, and is to be sent once more."""
        return self._retried or self._replayed

    @property
    def request_done(self) -> bool:
        """Whether the whole request has come from the app."""
        return self._request_done

    def writable(self, yes: bool) -> None:
        """The app's connection takes bytes again, or does not."""
        if self._connection is not None:
            if yes:
                self._connection.transport.resume_reading()
            else:
                self._connection.transport.pause_reading()

    def abort(self, error: SidecarError) -> None:
        """The app's side is gone or out of patience; the upstream is told at once."""
        if self.state is DONE:
            return
        tunnelled = self.state is TUNNEL
        self._let_go(flush=tunnelled)
        self._finish(None if tunnelled else error)

    # from the token store and the pool

    def _await_token(self, refused: bytes = b"") -> None:
        """Wait for a token, or for another one than the target has `refused`."""
        self.state = TOKEN
        try:
            self._down.proxy.tokens.join(self.pool.token_key, self._token_settled, refused=refused)
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
        except Exception as fault:  # noqa: BLE001  # `fault` logs and counts it
            self._down.fault(fault)

    def connected(self, connection: UpstreamConnection) -> None:
        """The pool found the connection that was waited for."""
        self._connection = connection
        # Looked up again: the wait may have been longer than the token's life.
        bearer: bytes | None = b""
        if self.admitted[3].names:
            bearer = self._down.proxy.tokens.bearer(self.pool.token_key, self.began_mono)
        if bearer is None:
            self._connection = None
            self.pool.release(connection)
            self._await_token()
            return
        self._send(connection, bearer)
        self.flush_request()

    def not_connected(self, error: SidecarError) -> None:
        """The connection that was waited for could not be made."""
        self._fail(error)

    def _send(self, connection: UpstreamConnection, bearer: bytes) -> None:
        self._bearer = bearer
        connection.begin(self)
        if self._down.is_full:
            connection.transport.pause_reading()
        self.state = SENT
        if self._own_share < 0:
            self._own_share = self._down.proxy.clock.mono() - self.began_mono
        _, path, _, plan = self.admitted
        head = heads.request_head(
            self.method,
            path,
            self.pool.destination.host_header or self._authority,
            self._fields,
            self._found,
            plan=plan,
            bearer=bearer,
            via=self._down.proxy.via[self._http10],
            body=self._body,
            upgrade=self.upgrade,
        )
        self._request_out = [head, *(self._held or ())]
        if self._held_size and self._held_size > self._down.proxy.limits.buffer:
            self._held = None
        self._down.unblock_body()

    # from the upstream

    def interim(self, status: int, reason: bytes, fields: headers.Fields) -> None:
        """Pass a 1xx answer on; an HTTP/1.0 app has no use for one."""
        self.progress += 1
        if not self._http10:
            self._answer_out.append(heads.interim_head(status, reason, fields))

    def answer(
        self, status: int, reason: bytes, fields: headers.Fields, found: headers.Found, body: int
    ) -> bool:
        """The head of the final answer; False where the request is to be sent again with another token."""
        if status == 401 and self._refused_token(found):
            return False
        self.state = ANSWERING
        if self.upgrade is not None:
            self._down.proxy.tunnels.discard(self)
        self._held = None
        self._status = status
        self.progress += 1
        if status >= 300 and self._bearer and may_tell(status, fields):
            self._sample = Sample(status, fields)
        destination, _, prefix, _ = self.admitted
        if b"location" in found or b"content-location" in found or prefix:
            fields = mapping.map_answer(
                fields,
                found,
                origin=destination.origin,
                base=self._down.owner.origin_scheme + self._authority,
                prefix=prefix,
            )
        self.keep_alive = self.keep_alive and not self._down.is_leaving
        if body in (framing.CHUNKED, framing.UNTIL_CLOSE):
            body = framing.CHUNKED
            if self._http10:
                # No chunks for HTTP/1.0: the end of the connection ends the body.
                body = framing.UNTIL_CLOSE
                self.keep_alive = False
        self._answer_body = body
        self._answer_out += heads.answer_head(
            status,
            reason,
            fields,
            found,
            chunked=body == framing.CHUNKED,
            http10=self._http10,
            keep_alive=self.keep_alive,
        )
        return True

    def answer_body(self, data: bytes) -> None:
        """A piece of the answer's body."""
        size = len(data)
        self.received += size
        self.progress += 1
        if self._sample is not None:
            self._sample.feed(data)
        if self._answer_body == framing.CHUNKED:
            self._answer_out += (b"%x\r\n" % size, data, b"\r\n")
        else:
            self._answer_out.append(data)

    def flush_answer(self) -> None:
        """Write what has gathered to the app; once for each piece of bytes from the upstream."""
        if self._answer_out:
            out = self._answer_out
            self._down.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._answer_out = []

    def answer_end(self, trailers: headers.Fields) -> bool:
        """The answer is complete; whether the connection it came on may serve again."""
        if self._answer_body == framing.CHUNKED:
            self._answer_out.append(heads.answer_trailers(trailers) if trailers else _LAST_CHUNK)
        self.flush_answer()
        self._connection = None
        self._finish(None)
        return self._request_done

    def upstream_full(self) -> None:
        """The upstream takes no more for now."""
        self._down.block_body()

    def upstream_writable(self) -> None:
        """The upstream takes bytes again."""
        self._down.unblock_body()

    def fault(self, fault: Exception) -> None:
        """What served this request met a fault of the sidecar's own."""
        if self._down.current is self:
            self._down.fault(fault)
        else:
            self._down.proxy.faults.note(fault, "connection to the upstream")

    def end_by_fault(self, error: SidecarError) -> None:
        """End with the answer that is still possible; what is held is given back, even where the end fails too."""
        self.keep_alive = False
        for end in (self.time_out, self.abort):
            if self.state is DONE:
                return
            try:
                end(error)
            except Exception as again:  # noqa: BLE001  # logged and counted
                self._down.proxy.faults.note(again, "end of a request")
        if self.state is not DONE:
            self.state = DONE
            self.stats.in_flight -= 1
            self.pool.users -= 1
            if self.upgrade is not None:
                self._leave_tunnels()

    def upstream_lost(self, connection: UpstreamConnection, fault: SidecarError | None = None) -> None:
        """The connection ended while it served this request; `fault` where TLS says why."""
        self._connection = None
        if self.state is DONE:
            return  # it ended by a fault that left the connection behind
        if self.state is TUNNEL:
            self._finish(None)
            self._down.transport.close()
        elif self.state is ANSWERING:
            self._truncate(
                fault
                or SidecarError(
                    Reason.UPSTREAM_INCOMPLETE, "The upstream closed the connection in mid-answer."
                )
            )
        elif self._may_retry(connection):
            self._retried = True
            self.stats.retries += 1
            self.start()
            self.flush_request()
        elif fault is not None:
            self._fail(fault)
        else:
            self._fail(
                SidecarError(
                    Reason.UPSTREAM_CLOSED,
                    f"The upstream closed the connection before it answered.{self._why_not_again(connection)} "
                    "If this recurs, its keep-alive time may be below `pool.idle`, or it crashes on this request.",
                )
            )

    def upstream_failed(self, error: SidecarError) -> None:
        """What came from the upstream can't be passed on."""
        self._connection = None
        if self.state in (ANSWERING, TUNNEL):
            self._truncate(error)
        else:
            self._fail(error)

    # upgrades

    def _may_tunnel(self) -> bool:
        """Take a place among the tunnels, before anything is sent: kept until it is declined, or to the end."""
        proxy = self._down.proxy
        if self not in proxy.tunnels:
            if len(proxy.tunnels) >= proxy.limits.tunnels:
                self._fail(
                    SidecarError(
                        Reason.TUNNEL_LIMIT,
                        f"{proxy.limits.tunnels} upgraded connections are open already, or asked for "
                        "(`limits.tunnels`). Close some, or raise it.",
                        retry_after=_TUNNEL_RETRY,
                    )
                )
                return False
            proxy.tunnels.add(self)
        return True

    def _leave_tunnels(self) -> None:
        """The place among them is another's; harmless for whoever holds none."""
        if self in self._down.proxy.tunnels:
            self._down.proxy.tunnels.discard(self)
            self.stats.tunnels -= self._status == 101

    def switch(self, reason: bytes, fields: headers.Fields) -> SidecarError | None:
        """A 101: become a tunnel, or the error where nobody asked for this one."""
        wrong = upgrades.refusal(self.upgrade, self._fields, fields)
        if wrong is not None:
            return SidecarError(
                Reason.UPGRADE_FAILED, f"The upstream answered 101 Switching Protocols {wrong}."
            )
        offered = headers.survey(fields)[b"upgrade"]
        self._answer_out.append(heads.switching_head(reason, fields, offered))
        self.state = TUNNEL
        self._held = None
        self._status = 101
        self.stats.upgrades += 1
        self.stats.tunnels += 1
        self.flush_answer()
        self._down.become_tunnel()
        return None

    def tunnel_from_upstream(self, data: bytes) -> None:
        """Bytes of the other protocol, for the app."""
        self.received += len(data)
        self.progress += 1
        self._down.transport.write(data)

    def tunnel_from_app(self, data: bytes) -> None:
        """Bytes of the other protocol, for the upstream."""
        self.sent += len(data)
        self.progress += 1
        if self._connection is not None:
            self._connection.transport.write(data)

    def upstream_ended(self) -> bool:
        """The upstream sends nothing more; True keeps the other direction open, if there still is one."""
        return self._one_side_ended(self._down.transport)

    def app_ended(self) -> bool:
        """The app sends nothing more; True keeps the other direction open, if there still is one."""
        return self._connection is not None and self._one_side_ended(self._connection.transport)

    def _one_side_ended(self, other: asyncio.Transport) -> bool:
        both, self._half_closed = self._half_closed, True
        if both or not other.can_write_eof():
            other.close()
            return False
        end_writing(other)
        return True

    # what the sweep asks

    def position(self) -> tuple[int, int, int]:
        """Another one whenever anything has moved: what came, and what waits to be sent to either side."""
        return self.progress, self._unsent(), self._down.transport.get_write_buffer_size()

    def overdue(self, quiet: float, now_mono: float) -> SidecarError | None:
        """The error of an exchange in which nothing has moved for `quiet` seconds, if that is too long, or which has
        had its `timeouts.total`. A token and a connection are waited for under limits of their own."""
        total = self.pool.destination.route.config.timeouts.total
        if total is not None and self.state is not TUNNEL and now_mono - self.began_mono >= total:
            return SidecarError(
                Reason.TOTAL_TIMEOUT,
                f"The answer was not complete {total:g} s after the request had come, while it was "
                f"{_DOING[self.state]}. If it may take longer, raise the route's `timeouts.total`.",
            )
        if self.state is SENT:
            # While the app is full of earlier answers, this one is not read.
            return self._client_overdue(quiet) if self._down.is_full else self._answer_overdue(quiet)
        if self.state in (ANSWERING, TUNNEL):
            return self._flow_overdue(quiet)
        return None

    def _answer_overdue(self, quiet: float) -> SidecarError | None:
        timeouts = self.pool.destination.route.config.timeouts
        body_timeout = self._down.proxy.limits.body_timeout
        if self._unsent():
            return self._send_overdue(quiet)
        if not self._request_done:
            if quiet >= body_timeout:
                return SidecarError(
                    Reason.BODY_TIMEOUT,
                    f"No byte of the request's body came for {body_timeout:g} s (`limits.body_timeout`).",
                )
        elif quiet >= timeouts.response:
            return SidecarError(
                Reason.RESPONSE_TIMEOUT,
                f"The upstream did not answer within {timeouts.response:g} s. "
                "If the service may take longer, raise the route's `timeouts.response`.",
            )
        return None

    def _send_overdue(self, quiet: float) -> SidecarError | None:
        limit = self.pool.destination.route.config.timeouts.send
        if quiet < limit:
            return None
        return SidecarError(
            Reason.SEND_TIMEOUT,
            f"The upstream took none of the bytes that wait for it for {limit:g} s. "
            "Find out what keeps it, or raise the route's `timeouts.send`.",
        )

    def _flow_overdue(self, quiet: float) -> SidecarError | None:
        timeouts = self.pool.destination.route.config.timeouts
        if self._down.transport.get_write_buffer_size():
            return self._client_overdue(quiet)
        if self._unsent():
            return self._send_overdue(quiet)
        if self.state is TUNNEL:
            if quiet >= timeouts.tunnel_idle:
                return SidecarError(
                    Reason.TUNNEL_IDLE,
                    f"No byte moved in either direction for {timeouts.tunnel_idle:g} s. "
                    "If long silences are normal here, raise the route's `timeouts.tunnel_idle`.",
                )
        elif quiet >= timeouts.idle:
            return SidecarError(
                Reason.IDLE_TIMEOUT,
                f"No byte moved in either direction for {timeouts.idle:g} s. "
                "If long silences are normal here, raise the route's `timeouts.idle`.",
            )
        return None

    def _client_overdue(self, quiet: float) -> SidecarError | None:
        send_timeout = self._down.proxy.limits.send_timeout
        if quiet < send_timeout:
            return None
        return SidecarError(
            Reason.CLIENT_STALLED,
            f"The app took none of the bytes that wait for it for {send_timeout:g} s (`limits.send_timeout`).",
        )

    def _unsent(self) -> int:
        return 0 if self._connection is None else self._connection.transport.get_write_buffer_size()

    def look_for_peer(self, quiet: float) -> None:
        """Where nothing has moved for as long as connecting may take: see whether the upstream is there at all."""
        connection = self._connection
        limit = self.pool.destination.route.config.timeouts.connect
        if self.state is not SENT or connection is None or quiet < limit:
            return
        if peer.has_vanished(connection.transport, limit):
            # The idle ones lead to the same peer: none of them is to cost a request as much again.
            self.pool.expire(inf)
            self._let_go()
            self.upstream_lost(
                connection,
                SidecarError(
                    Reason.RESPONSE_TIMEOUT,
                    f"For {limit:g} s the upstream has acknowledged nothing of what was sent to it: its machine, or "
                    "the network path to it, is gone.",
                ),
            )

    def time_out(self, error: SidecarError) -> None:
        """Give up, with the answer that is still possible."""
        self._let_go()
        if self.state in (ANSWERING, TUNNEL) or error.reason is Reason.CLIENT_STALLED:
            self._truncate(error)
        else:
            self._fail(error)

    # inside

    def _hold(self, data: bytes, size: int) -> None:
        self._held_size += size
        if 0 < size < _OF_A_PIECE and self._held:
            self._held_size += _OF_A_PIECE
        if self._connection is not None:
            self._request_out.append(data)
            if self._held is not None:
                if self._held_size <= self._down.proxy.limits.buffer:
                    self._held.append(data)
                else:
                    self._held = None
        elif self._held is not None:
            self._held.append(data)
            if self._held_size >= self._down.proxy.limits.buffer:
                self._down.block_body()

    def _may_retry(self, connection: UpstreamConnection) -> bool:
        """Whether a stale connection is the likely cause, and sending twice can do no harm."""
        stale = connection.served > 1 and not connection.heard
        if stale:
            # What has idled as long is most likely stale too.
            self.pool.expire(connection.idle_since_mono)
        return (
            stale
            and not self._retried
            and self.method in heads.IDEMPOTENT
            and self._held is not None
            and self.pool.places.may_retry()
        )

    def _why_not_again(self, connection: UpstreamConnection) -> str:
        if self.method not in heads.IDEMPOTENT:
            return f" {self.method.decode()} is not sent twice."
        if connection.served > 1 and not connection.heard and not self._retried and self._held is not None:
            return " It was not sent again: the route's `retry_budget` is spent."
        return ""

    def _refused_token(self, found: headers.Found) -> bool:
        """Whether a 401 is about the token, and this request starts over with a new one."""
        if not self._bearer or b"invalid_token" not in found.get(b"www-authenticate", b"").lower():
            return False
        renewing = self._down.proxy.tokens.reject(self.pool.token_key, self._bearer)
        if (
            not renewing
            or self._replayed
            or not self._request_done
            or self._held is None
            or self.method not in heads.IDEMPOTENT
            or self.upgrade is not None
            or not self.pool.places.may_retry()
        ):
            return False
        self._replayed = True
        self.stats.replays += 1
        self._connection = None
        self._answer_out = []
        self._await_token(self._bearer)
        return True

    def _let_go(self, *, flush: bool = False) -> None:
        if self.state is TOKEN:
            self._down.proxy.tokens.leave(self.pool.token_key, self._token_settled)
        elif self.state is CONNECT:
            self.pool.forget(self)
        if self._connection is not None:
            self._connection.abandon(flush=flush)
            self._connection = None

    def _fail(self, error: SidecarError) -> None:
        """Answer with the error: nothing of an answer has been passed on yet."""
        self._held = None
        self._request_out = []
        self._answer_out = []
        self._status = MEANINGS[error.reason].status
        if not self._request_done or self._down.is_leaving:
            self.keep_alive = False
        self._down.transport.write(
            answers.answer(
                error,
                route=self.pool.destination.route.name,
                now=self._down.proxy.clock.wall(),
                head=self.method == b"HEAD",
                close=not self.keep_alive,
            )
        )
        self.stats.refused[error.reason] = self.stats.refused.get(error.reason, 0) + 1
        self._finish(error)

    def _truncate(self, error: SidecarError) -> None:
        """End an answer that has begun so that the app can tell that it is not whole."""
        self.flush_answer()
        stats = self.stats
        stats.cut[error.reason] = stats.cut.get(error.reason, 0) + 1
        self._down.break_off(
            reset=self._answer_body == framing.UNTIL_CLOSE, flush=error.reason is not Reason.CLIENT_STALLED
        )
        self._finish(error)

    def _finish(self, error: SidecarError | None) -> None:
        """The one place where a request ends, whatever happened."""
        if self.upgrade is not None:
            self._leave_tunnels()  # before the rest: a second time does no harm
        # First what may happen once only: a fault further down is not to let it happen again, nor not at all.
        stats = self.stats
        self.state = DONE
        stats.in_flight -= 1
        self.pool.users -= 1
        self.error = error
        self._held = None
        proxy = self._down.proxy
        now_mono = proxy.clock.mono()
        total = now_mono - self.began_mono
        own = self._own_share if self._own_share >= 0 else total
        stats.bytes_sent += self.sent
        stats.bytes_received += self.received
        status = self._status or (MEANINGS[error.reason].status if error is not None else 0)
        key = (heads.METHOD_NAMES[self.method], status)
        stats.requests[key] = stats.requests.get(key, 0) + 1
        stats.total.observe(total)
        stats.own.observe(own)
        if self._span is not None and proxy.tracer is not None:
            proxy.tracer.end(self._span, status=status, reason=error.reason if error is not None else None)
        if error is not None:
            proxy.outages.note(error, self.pool.destination.route.name, stats)
        if self._sample is not None:
            proxy.refusals.note(self.pool.destination, self._sample, self._bearer, stats)
        if proxy.access_log.wants(status, own_answer=error is not None):
            proxy.log_request(self, status=status, duration=total, own=own)
        self._down.exchange_done(self, now_mono)
