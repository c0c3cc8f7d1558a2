"""One connection from the app.

Owns the parsing of requests on it, their order, and how the connection ends. Made by a listener for each
accepted socket; every request becomes an `Exchange`, or an answer of the sidecar's own. It decides
nothing about a request beyond its wire form: `admission` does.

    OPEN ──upgrade asked for──▶ WAITING ──101──▶ TUNNEL
     │                            └──any other answer──▶ OPEN
     └──last answer written──▶ LINGER ──app closed, or a moment passed──▶ CLOSED (from anywhere)

LINGER reads and drops what still comes: closing a socket with unread bytes resets it, and the reset may
overtake the answer (RFC 9112 section 9.6).

Long because the parser's callbacks, the queue and the ends of a connection are one state machine; what needs no
state is in `target`, `admission` and `answers`.

Faults: whatever is raised in a callback ends this connection in `fault`, and no other.

What llhttp leaves to its caller (docs/architecture.md): Host, HTTP/0.9, limits, upgrades with a body,
pipelining, methods that are not HTTP's.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec, TypeVar, cast, final

import httptools

from sidecar.errors import Reason, SidecarError
from sidecar.net import peer
from sidecar.net.tls import TlsTransport
from sidecar.proxy.exchange.exchange import Exchange, end_writing
from sidecar.proxy.faults import internal
from sidecar.proxy.fields import headers, upgrades
from sidecar.proxy.http1 import answers, framing
from sidecar.proxy.http1.heads import METHOD_NAMES, method_name
from sidecar.proxy.http1.target import (
    BAD_REQUEST_LINE,
    HTTP2,
    TAB,
    USUAL_CONNECTION,
    check_fields,
    check_scheme,
    check_upgrade,
    empty_lines,
    is_request_line,
    malformed,
    no_method,
    not_http,
    read_target,
    read_version,
    with_escapes,
    without_empty_lines,
    written_anew,
)

if TYPE_CHECKING:
    from sidecar.net.callers import Callers
    from sidecar.net.listeners import Owner
    from sidecar.observe.metrics import RouteStats
    from sidecar.proxy.server import Proxy

P = ParamSpec("P")
R = TypeVar("R")

LINGER_TIME = 2.0
"""Seconds; nginx's lingering_timeout is 5, Apache's 2."""

LEAVE_TIME = 1.0
"""Seconds in which a connection that is to close without having said so still serves a request: one may be on its way,
and clients don't send every request again."""

_PIECE = 64 * 1024
"""Bytes of a body that are parsed at once: bounds what is held before reading stops."""

_HEAD_END = b"\r\n\r\n"

_VERSION = b" HTTP/1.1\r\n"


class State(Enum):
    """See the diagram above."""

    OPEN = "open"
    WAITING = "waiting"
    TUNNEL = "tunnel"
    LINGER = "linger"
    CLOSED = "closed"


OPEN, WAITING, TUNNEL, LINGER, CLOSED = State
"""Names for the hot path, as in `exchange`."""


class _Refused(NamedTuple):
    """A request that is answered by the sidecar itself, in its turn."""

    error: SidecarError
    method: bytes
    keep_alive: bool
    began_mono: float
    fields: headers.Fields = ()
    """The request's, as far as they were read."""
    path: bytes = b""
    """With the query; empty where the target was not read."""


def _guarded(
    callback: Callable[Concatenate[DownstreamConnection, P], R],
) -> Callable[Concatenate[DownstreamConnection, P], R | None]:
    """For callbacks that are not on the hot path: what they raise ends the connection, soon and not within them, for
    asyncio calls some of them from a write of ours."""

    @functools.wraps(callback)
    def call(self: DownstreamConnection, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return callback(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it
            self.proxy.call_soon(self.fault, error)
            return None

    return call


@final
class DownstreamConnection(asyncio.Protocol):
    """Speaks HTTP/1.1 and 1.0 as a server."""

    __slots__ = (
        "_barred",
        "_began_mono",
        "_blocked",
        "_body_bytes",
        "_body_left",
        "_broken",
        "_chunks",
        "_declined",
        "_fed",
        "_fields",
        "_in_head",
        "_in_message",
        "_parser",
        "_queue",
        "_quiet_since_mono",
        "_raw",
        "_receiving",
        "_rest",
        "_seen_position",
        "_target",
        "_trailers",
        "_turned_away",
        "current",
        "is_full",
        "owner",
        "proxy",
        "state",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(
        self, proxy: Proxy, owner: Owner, barred: SidecarError | None = None, *, at_once: bool = False
    ) -> None:
        """`owner` says whose listener accepted it; `barred` is what a process is answered that may not call there: to
        each of its requests, or `at_once`, whatever it sends."""
        # process
        self.proxy = proxy
        self.owner = owner
        # connection
        self._barred = barred
        self._turned_away = at_once
        self.state = OPEN
        self.current: Exchange | None = None
        self._parser = httptools.HttpRequestParser(self)
        # Not a deque: an empty one takes 0.6 kB, and this is empty but for pipelining, and short then.
        self._queue: list[Exchange | _Refused] = []
        self._rest = b""
        """Bytes that are not parsed yet: behind a bound, or of another protocol."""
        self._blocked = False
        self.is_full = False
        """The app takes no more for now: an answer that begins now must wait too."""
        self._broken = False
        """The bytes stopped making sense, or are no longer wanted: nothing more is parsed."""
        self._quiet_since_mono = proxy.clock.mono()
        self._seen_position: tuple[int, ...] = ()
        """Where things stood at the last sweep."""
        # message
        self._began_mono = 0.0
        self._in_message = False
        self._in_head = False
        self._declined = False
        self._receiving: Exchange | None = None
        """The exchange whose body is being parsed."""
        self._fed = 0
        self._raw = b""
        """The head that is being read, as it came: the parser forgives what it should not."""
        self._body_left = framing.CHUNKED
        """Bytes of the body that are still due, or CHUNKED."""
        self._body_bytes = 0
        self._chunks: framing.Chunks | None = None
        """Where the body ends, if it is a chunked one of which anything came."""
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []

    def __repr__(self) -> str:
        return f"<DownstreamConnection {self.state.value} current={self.current!r} queued={len(self._queue)}>"

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        try:
            self.transport.set_write_buffer_limits(self.proxy.limits.buffer)
            self.proxy.opened(self)
            if self._turned_away and self._barred is not None:
                self._refuse(_Refused(self._barred, b"", False, self.proxy.clock.mono()))
        except Exception as error:  # noqa: BLE001  # logged and counted
            self.proxy.faults.note(error, "start of a connection from the app")
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            if self.state is OPEN:
                self._feed(data)
            elif self.state is TUNNEL:
                if self.current is not None:
                    self.current.tunnel_from_app(data)
            elif self.state is WAITING:
                self._rest += data
                self.transport.pause_reading()
        except Exception as error:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(error)

    @_guarded
    def eof_received(self) -> bool | None:
        if self.state is TUNNEL and self.current is not None:
            return self.current.app_ended()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        error = SidecarError(
            Reason.CLIENT_GONE, "The app closed its connection before the answer was complete."
        )
        if exc is None:
            pass
        elif not isinstance(exc, OSError):
            # What asyncio caught: it had no memory to read into, for one.
            error = internal()
        elif not self._began_mono:
            # Some clients look at the certificate when the handshake is over, and refuse it then.
            self.proxy.acceptors.lost_unused(self.owner, exc)
        try:
            if self.current is not None:
                self.current.abort(error)
            self._drop_queue(error)
        except Exception as fault:  # noqa: BLE001  # `fault` logs and counts it
            self.fault(fault)
        finally:
            self.proxy.closed(self)

    @_guarded
    def pause_writing(self) -> None:
        self.is_full = True
        if self.current is not None:
            self.current.writable(False)
        elif self.state is OPEN:
            self.transport.pause_reading()

    @_guarded
    def resume_writing(self) -> None:
        self.is_full = False
        if self.current is not None:
            self.current.writable(True)
        if self.state is OPEN and not self.transport.is_reading():
            self.proxy.call_soon(self._go_on)

    # feeding the parser

    def _feed(self, data: bytes) -> None:
        if (
            not self._raw
            and not self._in_message
            and not self._broken
            and data.find(_HEAD_END) == len(data) - len(_HEAD_END)
        ):
            # One whole head and nothing else, as most reads are.
            self._raw = data
            rest = self._parse_piece(data)
        else:
            rest = self._parse(data)
        if rest and self.state is not LINGER:
            self._rest = rest
            self.transport.pause_reading()
        if self.current is not None:
            self.current.flush_request()

    def _due(self) -> int:
        """Bytes of the request that the app has still to send, as far as they are known."""
        return 0 if self._receiving is None else max(0, self._body_left - len(self._rest))

    def _may_parse(self) -> bool:
        if self.state is not OPEN or self._blocked or self._must_read_first():
            return False
        if not self._queue:
            return True
        last = self._queue[-1]
        # What follows a request to upgrade is of another protocol, if it is granted.
        upgrade = isinstance(last, Exchange) and last.upgrade is not None
        return not upgrade and len(self._queue) < self.proxy.limits.pipelined

    def _must_read_first(self) -> bool:
        """Whether the app should take the answers that it has before it asks for more: each of them is kept here."""
        return self.is_full and self.state is OPEN and not self._in_message

    def _parse(self, data: bytes) -> bytes:
        """Parse, a head or a piece of a body at a time; what comes back must wait, or belongs behind an upgrade."""
        while not self._broken:
            if self._in_message and not self._in_head:
                if self._body_left < 0:
                    if self._chunks is None:
                        self._chunks = framing.Chunks()
                    size = self._chunks.end(data, _PIECE)
                elif not self._body_left:
                    # Fail closed where the parser waits for more of a body than `framing` has read of its length.
                    self._break(
                        SidecarError(Reason.INTERNAL, "The sidecar read a body's length in two ways.")
                    )
                    break
                else:
                    size = min(self._body_left, _PIECE)
                    self._body_left -= min(size, len(data))
            else:
                size = self._head_end(data)
            if size >= len(data):
                return self._parse_piece(data)
            piece, data = data[:size], data[size:]
            rest = self._parse_piece(piece)
            if rest or not self._may_parse():
                if len(self._queue) >= self.proxy.limits.pipelined:
                    self.stats.pipelining_stopped += 1
                return rest + data
        return b""

    def _head_end(self, data: bytes) -> int:
        """How much of `data` belongs to the head that is being read, which is kept: its bytes are looked at as a
        whole."""
        if not self._raw:
            end = data.find(_HEAD_END) + 4
            if end == 4:
                # Empty lines before the request: all of them at once, or each would cost a copy of the rest.
                end = data.find(_HEAD_END, empty_lines(data)) + 4
            if end <= 3:
                end = len(data)
            self._raw = data[:end]
            return end
        known = len(self._raw)
        raw = self._raw + data
        end = raw.find(_HEAD_END, max(0, known - 3)) + 4
        if end <= 3:
            end = len(raw)
        self._raw = raw[:end]
        return end - known

    def _parse_piece(self, data: bytes) -> bytes:
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._upgrade_asked(data[upgrade.args[0] :])
        except httptools.HttpParserInvalidMethodError:
            self._break(no_method(self._raw))
        except httptools.HttpParserInvalidURLError as error:
            return self._parse_with_escapes(error)
        except httptools.HttpParserCallbackError:
            raise  # a fault in a callback of ours, which may be anywhere in the request's life
        except httptools.HttpParserError as error:
            self._break(not_http(error, self._raw))
        if self._in_message and not self._in_head:
            # Chunk lines and trailers: many small chunks are fine, long lines that bring no byte are not.
            if self._fed - 17 * self._body_bytes > self.proxy.limits.head and self._body_left < 0:
                self._break(self._too_large())
        elif self._raw:
            self._look_at_start()
            if self._fed > self.proxy.limits.head:
                self._break(self._too_large())
        return b""

    def _parse_with_escapes(self, error: Exception) -> bytes:
        """Parse what there is of a head again, with escapes in its target in place of bytes that are no ASCII, where
        those are what the parser can't read. Not before: most heads have none, and are to pay nothing for it."""
        raw = without_empty_lines(self._raw)
        if self._fed > self.proxy.limits.head:
            self._target = raw.partition(b" ")[2].partition(b" ")[0]
            self._break(self._too_large())
            return b""
        head = with_escapes(raw)
        if head is None:
            self._break(not_http(error, raw))
            return b""
        began_mono = self._began_mono
        self._parser = httptools.HttpRequestParser(self)
        self._raw = head
        self._fed = 1
        self._parser.feed_data(head[:1])
        self._began_mono = began_mono  # it has no longer than any other
        return self._parse_piece(head[1:])

    def _look_at_start(self) -> None:
        """Judge what there is of a head that is not complete: nobody should wait for more of a bad one."""
        begin = without_empty_lines(self._raw)
        line, end, _ = begin.partition(b"\r\n")
        if begin.startswith(b"PRI "):
            self._break(malformed(HTTP2))
        elif not self._in_message:
            self._raw = begin
            if begin not in (b"", b"\r"):
                self._break(malformed(BAD_REQUEST_LINE))
        elif begin[:1] in (b"\r", b"\n") or (end and not is_request_line(line)):
            self._break(malformed(BAD_REQUEST_LINE))

    # the parser's callbacks; raising here would only come out as a parser error

    def on_message_begin(self) -> None:
        self._began_mono = self.proxy.clock.mono()
        self._in_message = self._in_head = True
        self._target = b""
        self._fields = []
        self._body_left = framing.CHUNKED
        self._body_bytes = 0
        self._chunks = None
        if self._trailers:
            self._trailers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._fields.append((name, value))
        elif len(self._trailers) < self.proxy.limits.headers:
            self._trailers.append((name, value))
        else:
            self._break(self._too_many())

    def on_headers_complete(self) -> None:
        self._in_head = False
        raw, self._raw = self._raw, b""
        if self._broken:
            return
        parser = self._parser
        has_tab = TAB in raw
        padded = b" \r\n" in raw or (has_tab and b"\t\r\n" in raw)
        fields: headers.Fields = headers.trimmed(self._fields) if padded else self._fields
        method = parser.get_method()
        body, path = None, b""
        try:
            limits = self.proxy.limits
            if (size := len(raw)) > limits.target or size > limits.head or len(fields) > limits.headers:
                self._check_size(size)
            http10 = False
            end = len(method) + 1 + len(self._target)
            if raw[end : end + len(_VERSION)] != _VERSION:
                http10 = read_version(raw, method, self._target) == b"1.0"
            found = headers.survey(fields)
            upgrade = found.get(b"upgrade") if parser.should_upgrade() else None
            if (
                upgrade is not None
                and (upgrade := self._carried(method, found, upgrade, http10=http10)) is None
            ):
                self._declined = True
                return
            # HTTP/1.0 may come without a Host; a route's own listener says as much.
            default = b"localhost" if http10 and self.owner.route is not None else None
            authority, path, absolute = read_target(
                method, self._target, found, http10=http10, default_host=default
            )
            if absolute:
                check_scheme(self._target, secure=self.owner.certificate is not None)
            if (
                found.get(b"connection") not in USUAL_CONNECTION
                or b"expect" in found
                or headers.TWIN in found
                or has_tab
            ):
                check_fields(found, raw)
            body = framing.request_body(found, http10=http10)
            self._body_left = body
            length = found.get(b"content-length")
            if (length is not None and not (length.isdigit() and length >= b"1")) or b"max-forwards" in found:
                fields = written_anew(method, fields, found)
            if upgrade is not None and body != framing.NO_BODY:
                raise malformed("A request to upgrade the connection may not have a body here.")
            if self.owner.callers is not None:
                fields = self._fields = self._admit_caller(self.owner.callers, fields)
            admitted = self.proxy.admission.admit(
                fields,
                found,
                method=method,
                authority=authority,
                path=path,
                absolute=absolute,
                own=self.owner.route,
                local_socket=self.owner.is_unix,
                scheme=self.owner.origin_scheme,
            )
        except SidecarError as error:
            self._refuse_head(error, method, path, fields, body)
            return
        span = None
        if (tracer := self.proxy.tracer) is not None:
            destination = admitted[0]
            span, fields = tracer.begin(
                METHOD_NAMES[method], fields, route=destination.route.name, origin=destination.origin
            )
        exchange = Exchange(
            self,
            admitted,
            self.proxy.pools.get(admitted[0]),
            method=method,
            authority=authority,
            fields=fields,
            found=found,
            body=body,
            http10=http10,
            keep_alive=parser.should_keep_alive(),
            upgrade=upgrade,
            began_mono=self._began_mono,
            span=span,
        )
        if body != framing.NO_BODY:
            self._receiving = exchange
        if self.current is None and not self._queue:
            self.current = exchange
            self._seen_position = ()  # the quiet before it does not count against it
            exchange.start()
        else:
            self._queue.append(exchange)
            self.transport.pause_reading()

    def _carried(self, method: bytes, found: headers.Found, wish: bytes, *, http10: bool) -> bytes | None:
        """What of a wish to upgrade the request's route carries; MALFORMED_REQUEST where it is none.

        None where it is declined: the head is then parsed again as one that never had it, and judged as such. A server
        may ignore it (RFC 9110 section 7.8), and clients send it along with every request without needing it (Java's
        h2c, TLS/1.2 of Apache's HttpClient). HTTP/1.0 has no upgrade.
        """
        check_upgrade(wish, found.get(b"connection", b""))
        if http10:
            return None
        try:
            authority, path, absolute = read_target(method, self._target, found)
        except SidecarError:
            return None
        known = self.proxy.admission.upgrades(
            authority, path, absolute=absolute, own=self.owner.route, local_socket=self.owner.is_unix
        )
        return upgrades.carried(wish, known)

    def _admit_caller(self, callers: Callers, fields: headers.Fields) -> list[tuple[bytes, bytes]]:
        """The fields without what only callers and this listener should know; CALLER_REFUSED for a stranger."""
        if self._barred is not None:
            raise self._barred
        return callers.admit(fields)

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._receiving is not None:
            self._receiving.request_body(data)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._fed = 0
        if self._receiving is not None:
            exchange, self._receiving = self._receiving, None
            if self._trailers and (callers := self.owner.callers) is not None:
                self._trailers = callers.without(self._trailers)
            exchange.request_end(self._trailers)

    # reading a head

    def _check_size(self, size: int) -> None:
        limits = self.proxy.limits
        if size > limits.head or len(self._target) > limits.target:
            raise self._too_large()
        if len(self._fields) > limits.headers:
            raise self._too_many()

    def _too_many(self) -> SidecarError:
        return SidecarError(
            Reason.HEAD_TOO_LARGE, f"More than {self.proxy.limits.headers} header lines (`limits.headers`)."
        )

    def _too_large(self) -> SidecarError:
        limits = self.proxy.limits
        if len(self._target) > limits.target:
            return SidecarError(
                Reason.TARGET_TOO_LONG, f"The target is longer than {limits.target} bytes (`limits.target`)."
            )
        return SidecarError(
            Reason.HEAD_TOO_LARGE, f"The head is larger than {limits.head} bytes (`limits.head`)."
        )

    # refusing

    def _refuse_head(
        self, error: SidecarError, method: bytes, path: bytes, fields: headers.Fields, body: int | None
    ) -> None:
        """Answer a request by its head. The connection may go on only where the framing is beyond doubt (`body` was
        read, and the request is not malformed) and no body follows."""
        keep = (
            body == framing.NO_BODY
            and error.reason not in (Reason.BAD_HOST, Reason.MALFORMED_REQUEST)
            and not self._parser.should_upgrade()
            and self._parser.should_keep_alive()
        )
        self._refuse(_Refused(error, method, keep, self._began_mono, fields, path))

    def _refuse(self, refused: _Refused) -> None:
        """Answer without an upstream, after the requests before this one."""
        if not refused.keep_alive:
            self._broken = True
        if self.current is None and not self._queue:
            self._answer(refused)
        else:
            self._queue.append(refused)
            self.transport.pause_reading()

    def _break(self, error: SidecarError) -> None:
        """The bytes make no sense any more: end the request under way, or answer in its turn, and close."""
        if self._broken:
            return
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            # An answer to HEAD has no body, however the rest of its request reads.
            method = b"HEAD" if without_empty_lines(self._raw).startswith(b"HEAD ") else b""
            began_mono = self._began_mono if self._in_message else self.proxy.clock.mono()
            self._refuse(_Refused(error, method, False, began_mono))
            return
        self._broken = True
        if exchange is self.current:
            exchange.time_out(error)
        else:
            exchange.error = error  # for its turn

    def _answer(self, refused: _Refused) -> None:
        error, method, keep_alive, began_mono, fields, path = refused
        keep_alive = keep_alive and not self.is_leaving
        self.proxy.refused(error, method_name(method), fields, path, self.owner.route, began_mono)
        self.transport.write(
            answers.answer(
                error,
                route=self.owner.route.name if self.owner.route is not None else None,
                now=self.proxy.clock.wall(),
                head=method == b"HEAD",
                close=not keep_alive,
            )
        )
        self._quiet_since_mono = self.proxy.clock.mono()
        if not keep_alive:
            self._linger()

    # what an exchange calls

    def block_body(self) -> None:
        """Take no more of the body for now."""
        self._blocked = True
        self.transport.pause_reading()

    def unblock_body(self) -> None:
        """Take the body again."""
        if self._blocked:
            self._blocked = False
            self.proxy.call_soon(self._go_on)

    def exchange_done(self, exchange: Exchange, now_mono: float) -> None:
        """The current exchange is over; its answer is written."""
        self._quiet_since_mono = now_mono
        if exchange is not self.current:
            return
        self.current = None
        self._blocked = False
        if self._receiving is exchange:
            self._receiving = None
        if self.state in (CLOSED, TUNNEL):
            return
        if self.state is WAITING:
            self.state = OPEN
        if not exchange.request_done:
            self._linger()
        elif not exchange.keep_alive:
            if self._queue or self._rest or self._in_message:
                self._linger()
            else:
                self.transport.close()
        elif not self.transport.is_reading():
            self.proxy.call_soon(self._go_on)
        elif self.is_full and not self._in_message:
            self.transport.pause_reading()

    @_guarded
    def _go_on(self) -> None:
        """Go on with the next pipelined request, and with what was kept back."""
        while self._queue and self.current is None and self.state is OPEN:
            entry = self._queue.pop(0)
            if isinstance(entry, _Refused):
                self._answer(entry)
            else:
                if entry.upgrade is not None:
                    self.state = WAITING
                self.current = entry
                self._seen_position = ()
                if entry.error is None:
                    entry.start()
                    entry.flush_request()
                else:
                    entry.time_out(entry.error)
        if self._rest and self._may_parse():
            rest, self._rest = self._rest, b""
            self._feed(rest)
        if self._rest or self._blocked or self._queue or self._must_read_first():
            return
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def break_off(self, *, reset: bool, flush: bool = True) -> None:
        """Close in mid-answer; `reset` where only that can tell the app that something is missing. Unless `flush`, what
        it has not taken is dropped."""
        sock = self.transport.get_extra_info("socket")
        if reset and sock is not None and not self.owner.is_unix:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif flush:
            self.transport.close()
        else:
            self.transport.abort()

    # upgrades

    def _upgrade_asked(self, rest: bytes) -> bytes:
        """The parser stopped after a head that asks for an upgrade; returns what of `rest` must wait."""
        declined = self._head_without_upgrade() if self._declined else b""
        self._declined = False
        self._parser = httptools.HttpRequestParser(self)
        if declined:
            return self._parse(declined + rest)
        if self._queue:
            return rest
        if self.current is not None:
            self.state = WAITING
            return rest
        return self._parse(rest)

    def _head_without_upgrade(self) -> bytes:
        """The head that was just parsed as it reads without its wish to upgrade: the parser frames its body then."""
        version = self._parser.get_http_version().encode("ascii")
        out = [self._parser.get_method(), b" ", self._target, b" HTTP/", version, b"\r\n"]
        for name, value in self._fields:
            lower = name.lower()
            if lower == b"connection":
                kept = [m for m in headers.list_members(value) if m not in (b"upgrade", b"http2-settings")]
                value = b", ".join(kept)
            if lower not in (b"upgrade", b"http2-settings"):
                out += (name, b":", value, b"\r\n")  # no blank: it must not grow over `limits.head`
        return b"".join([*out, b"\r\n"])

    def become_tunnel(self) -> None:
        """The upstream switched: from now on bytes pass as they are."""
        self.state = TUNNEL
        rest, self._rest = self._rest, b""
        if rest and self.current is not None:
            self.current.tunnel_from_app(rest)
        if not self._blocked:
            self.transport.resume_reading()

    # ends

    def _linger(self) -> None:
        if self.state in (CLOSED, LINGER):
            return
        self.state = LINGER
        self._broken = True
        self._rest = b""
        self._drop_queue(
            SidecarError(
                Reason.CLIENT_GONE, "The connection closed before this pipelined request had its turn."
            )
        )
        self._quiet_since_mono = self.proxy.clock.mono()
        if self.transport.is_closing():
            return
        if isinstance(self.transport, TlsTransport):
            self.transport.end()
        elif self.transport.can_write_eof():
            end_writing(self.transport)
        self.transport.resume_reading()

    def _drop_queue(self, error: SidecarError) -> None:
        while self._queue:
            entry = self._queue.pop(0)
            if isinstance(entry, Exchange):
                entry.abort(error)

    def fault(self, error: Exception) -> None:
        """End after a fault of the sidecar's own: with a 500 where no answer has begun, else in the middle of it.

        All that its requests hold is given back, once.
        """
        self.proxy.faults.note(error, "connection from the app")
        told = internal()
        current, receiving = self.current, self._receiving
        self._broken = True
        try:
            if current is not None:
                current.end_by_fault(told)
            elif self.state is OPEN and (self._in_message or self._raw) and not self._queue:
                method = self._parser.get_method() if self._in_message and self._target else b""
                self._answer(_Refused(told, method, False, self.proxy.clock.mono()))
            if receiving is not None:
                receiving.end_by_fault(told)
            for entry in self._queue:
                if isinstance(entry, Exchange):
                    entry.end_by_fault(told)
            self.current = self._receiving = None
            self._queue.clear()
            self._linger()
        except Exception as again:  # noqa: BLE001  # logged and counted
            self.proxy.faults.note(again, "end of a connection from the app")
            self.transport.abort()

    @property
    def stats(self) -> RouteStats:
        """What is counted of a connection rather than of a request."""
        route = self.owner.route
        return self.proxy.unrouted if route is None else self.proxy.stats[route.name]

    @property
    def is_leaving(self) -> bool:
        """Whether the connection ends with its next answer: the sidecar stops, or the listener is gone."""
        return self.proxy.is_leaving or self.owner.closing

    def drain(self, since_mono: float) -> None:
        """Shut down: after the current answer, or where there is none, after the next one. Where none is asked for
        within `LEAVE_TIME` after `since_mono`, when answers began to say `Connection: close`, `sweep` closes it."""
        if self.state is OPEN and self.current is None:
            self._quiet_since_mono = max(self._quiet_since_mono, since_mono)

    def close_if_idle(self) -> None:
        """End now, unless it serves a request, or was just opened and has asked for nothing yet."""
        if self.current is None and not self._in_message and self._began_mono:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def sweep(self, now_mono: float) -> None:
        """End what has taken too long; called about once a second for every connection."""
        quiet = now_mono - self._quiet_since_mono
        exchange = self.current
        limits = self.proxy.limits
        unsent = self.transport.get_write_buffer_size()
        if exchange is not None:
            if (position := exchange.position()) != self._seen_position:
                self._seen_position = position
                self._quiet_since_mono = now_mono
                quiet = 0.0
            if (error := exchange.overdue(quiet, now_mono)) is not None:
                exchange.time_out(error)
            elif not self.transport.is_reading() and peer.has_left(self.transport, self._due()):
                self.transport.abort()
            else:
                exchange.look_for_peer(quiet)
        elif unsent and (self.state is LINGER or self.transport.is_closing()):
            # The last bytes, for an app that may never take them.
            if self._seen_position != (unsent,):
                self._seen_position = (unsent,)
                self._quiet_since_mono = now_mono
            elif quiet >= limits.send_timeout:
                self.transport.abort()
        elif self.state is LINGER:
            if quiet >= LINGER_TIME:
                self.transport.abort()
        elif self._in_message:
            if now_mono - self._began_mono >= limits.head_timeout:
                what = f"The head was not complete after {limits.head_timeout:g} s (`limits.head_timeout`)."
                self._break(SidecarError(Reason.HEAD_TIMEOUT, what))
        elif quiet >= (LEAVE_TIME if self.proxy.draining or self.owner.closing else limits.keep_alive):
            if not self.transport.is_closing():
                self.stats.idle_closed += 1
            self.transport.close()
