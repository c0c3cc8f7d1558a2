"""One connection to a target.

Owns the parsing of answers on it and the judgement whether it may serve again. Made by the pool; while
it serves, an `Exchange` gets what it parses. It decides nothing about the request. Long because asyncio's and the
parser's callbacks are one state machine.

    IDLE ──begin──▶ BUSY ──answer complete, reusable──▶ IDLE
     │               ├──101 as asked──▶ TUNNEL
     └───────────────┴──────────────────┴──closed, for whatever reason──▶ CLOSED

What llhttp leaves to its caller (docs/architecture.md): how a HEAD's answer ends, until-close bodies,
premature ends, interim answers, an answer that nobody asked for.
"""

from __future__ import annotations

import asyncio
import re
from enum import Enum
from typing import TYPE_CHECKING, cast, final

import httptools

from sidecar.errors import Reason, SidecarError
from sidecar.net import peer
from sidecar.proxy.faults import internal
from sidecar.proxy.fields import headers
from sidecar.proxy.http1 import framing

if TYPE_CHECKING:
    from sidecar.config.models import Limits
    from sidecar.proxy.exchange.exchange import Exchange
    from sidecar.proxy.pool.pool import Pool

_START = b"HTTP/1."
"""How every answer begins; llhttp would take RTSP and empty lines before it, too."""

_USUAL_START = b"HTTP/1.1 200 OK\r\n"
"""How most answers begin: what begins so needs no second look."""

_HEAD_END = b"\r\n\r\n"

_NO_CHUNKS = _HEAD_END + b"0\r\n\r\n"
"""How a 204 that says it is chunked must end. With a chunk or a trailer there it would have a body to some and none to
others."""

_CODING = re.compile(rb"(?i)\r\ntransfer-encoding[ \t]*:")

_PHRASE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
"""A reason phrase (RFC 9112 section 4)."""

_MAX_INTERIM = 32
"""1xx answers to one request; Go's client stops at 5, but 102 and 103 may repeat."""


class State(Enum):
    """See the diagram above."""

    IDLE = "idle"
    BUSY = "busy"
    TUNNEL = "tunnel"
    CLOSED = "closed"


IDLE, BUSY, TUNNEL, CLOSED = State
"""Names for the hot path, as in `exchange`."""


@final
class UpstreamConnection(asyncio.Protocol):
    """Speaks HTTP/1.1 as a client; one request at a time."""

    __slots__ = (
        "_begun",
        "_body",
        "_body_bytes",
        "_buffer",
        "_complete",
        "_exchange",
        "_fed",
        "_fields",
        "_head_limit",
        "_header_limit",
        "_held",
        "_in_head",
        "_interim",
        "_interim_fed",
        "_is_usual",
        "_parser",
        "_pool",
        "_reason",
        "_refusal",
        "_reusable",
        "_start",
        "_trailers",
        "generation",
        "idle_since_mono",
        "served",
        "state",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Pool, limits: Limits) -> None:
        # connection
        self._pool = pool
        self._buffer = limits.buffer
        self._head_limit = limits.head
        self._header_limit = limits.headers
        self._parser = self._new_parser()
        self.state = IDLE
        self.served = 0
        """Requests that were begun on it."""
        self.idle_since_mono = 0.0
        self.generation = 0
        """The pool's when it was dialled."""
        # request
        self._exchange: Exchange | None = None
        self._interim = 0
        self._interim_fed = 0
        """Bytes of the interim answers: the head behind them is bounded by itself."""
        self._fed = 0
        self._begun = False
        """Whether the final answer has begun, as far as its first bytes tell."""
        self._start = b""
        """What came of a head before that was clear, or of an interim one."""
        self._is_usual = False
        self._body_bytes = 0
        self._reusable = False
        self._complete = False
        self._refusal: SidecarError | None = None
        self._held: headers.Found | None = None
        """What matters of the head of a 204 that waits for its last chunk; its connection serves no other request."""
        # message
        self._fields: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._in_head = True
        self._body = framing.NO_BODY

    def __repr__(self) -> str:
        origin = self._pool.destination.origin.decode()
        return f"<UpstreamConnection {origin} {self.state.value} served={self.served}>"

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # Servers of old pad a size to a fixed width (Apache 1.3). With blanks behind it, before CRLF or `;`, it has one
        # reading only; blanks before the digits or within an extension are still refused.
        parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return parser

    def is_closing(self) -> bool:
        """Whether it can serve nobody any more."""
        return self.state is CLOSED or self.transport.is_closing()

    @property
    def heard(self) -> bool:
        """Whether a single byte of the answer has come."""
        return self._fed > 0

    def begin(self, exchange: Exchange) -> None:
        """Serve this exchange; only when idle. The caller writes to `transport`."""
        self._exchange = exchange
        self.state = BUSY
        self.served += 1
        self._interim = 0
        self._interim_fed = 0
        self._fed = 0
        self._begun = False
        self._start = b""
        self._is_usual = False
        self._body_bytes = 0
        self._in_head = True
        self._complete = False
        self._pool.stats.connections_active += 1

    def close(self) -> None:
        """Send what is buffered, then close."""
        self.transport.close()

    def abandon(self, *, flush: bool) -> None:
        """The exchange is over; nothing that still comes is wanted. `flush` sends what is buffered first."""
        if self._exchange is not None:
            self._exchange = None
            self._pool.stats.connections_active -= 1
        if flush:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._pool.flush(self)
        else:
            self.transport.abort()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(self._buffer)

    def data_received(self, data: bytes) -> None:  # noqa: C901  # hot path: no calls that could be spared
        exchange = self._exchange
        if exchange is None:
            # An idle upstream has nothing to say: what it sends now could be taken for the next answer.
            self.transport.abort()
            return
        try:
            if self.state is TUNNEL:
                exchange.tunnel_from_upstream(data)
                return
            if not self._begun:
                if not self._start and data.startswith(_USUAL_START):
                    self._begun = self._is_usual = True
                elif self._begins(data):
                    return
            self._fed += len(data)
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._switched(exchange, data[upgrade.args[0] :])
                return
            except httptools.HttpParserCallbackError:
                raise  # a fault in a callback of ours
            except httptools.HttpParserError as error:
                if not self._complete and self._refusal is None:
                    self._refusal = _malformed(str(error))
                self._reusable = False
            if self._exchange is not exchange:
                return
            if self._fed > self._head_limit and self._refusal is None:
                self._check_size()
            if self._refusal is not None:
                self._refuse(exchange)
            elif self._complete:
                self._end(exchange)
            else:
                exchange.flush_answer()
        except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
            self._fault(exchange, fault)

    def _begins(self, data: bytes) -> bool:
        """Look at the first bytes of an answer that came in pieces, are not what they should be, or are an interim
        one's. True where `data` holds the end of an interim one's head: then it is parsed, and so is what follows it,
        looked at in its turn. Also where it is, or holds, what follows a 204 that says it is chunked."""
        if self._held is not None:
            self._follow_no_content(data)
            return True
        known = len(self._start)
        raw = self._start + data
        self._begun = True
        if not (raw.startswith(_START) or _START.startswith(raw)):
            if self._refusal is None:
                self._refusal = _malformed("it does not begin with `HTTP/1.`")
        elif len(raw) <= 9 or raw[9:10] == b"1":
            end = raw.find(_HEAD_END, max(0, known - 3)) + 4 - known
            if end <= 3 - known:
                self._begun = False
                self._start = raw
                return False
            self._start = b""
            self.data_received(data[:end])
            self._interim_fed = self._fed
            self._begun = False
            if data[end:]:
                self.data_received(data[end:])
            return True
        elif raw[9:12] == b"204" or b"204".startswith(raw[9:12]):
            return self._begins_no_content(raw, data)
        self._start = b""
        return False

    def _begins_no_content(self, raw: bytes, data: bytes) -> bool:
        """The same for a 204: one that says it is chunked ends with its head for the parser, so that what follows has
        to be looked at here."""
        end = raw.find(_HEAD_END, max(0, len(raw) - len(data) - 3)) + 4
        if end == 3:
            self._begun = False
            self._start = raw
            return False
        self._start = b""
        if _CODING.search(raw, 0, end) is None:
            return False
        exchange, behind = self._exchange, end - (len(raw) - len(data))
        self.data_received(data[:behind])
        if self._held is not None and self._exchange is exchange:
            self._begun = False
            self._start = _HEAD_END
            if data[behind:]:
                self._follow_no_content(data[behind:])
        elif data[behind:]:
            # No request has this connection any more: it ends with what nobody asked for.
            self.transport.abort()
        return True

    def _follow_no_content(self, data: bytes) -> None:
        """What follows a 204 that says it is chunked: with the last chunk, and nothing before it, it is whole. What
        comes behind that is read by nobody: the connection ends."""
        exchange = self._exchange
        self._fed += len(data)
        self._start += data[: len(_NO_CHUNKS)]
        if exchange is None or not self._start.startswith(_NO_CHUNKS[: len(self._start)]):
            self._refusal = _malformed("a 204 has no body, and this one has chunks or trailers")
            if exchange is not None:
                self._refuse(exchange)
        elif len(self._start) >= len(_NO_CHUNKS):
            self._end_no_content(exchange)

    def _end_no_content(self, exchange: Exchange) -> None:
        found, self._held = self._held, None
        self._reusable = False
        exchange.answer(204, self._reason, self._fields, found or {}, framing.NO_BODY)
        self._end(exchange)

    def _check_size(self) -> None:
        """Bound what is not body: a head that has no end, chunk lines and trailers that bring no byte."""
        if self._in_head:
            if not self._complete and self._fed - self._interim_fed > self._head_limit:
                self._refusal = self._too_large()
        elif self._body == framing.CHUNKED:
            spent = self._fed - 17 * self._body_bytes
            if spent > self._head_limit and spent > self._head_limit + _size(self._fields):
                self._refusal = self._too_large()

    def _too_large(self) -> SidecarError:
        return SidecarError(
            Reason.UPSTREAM_HEAD_TOO_LARGE,
            f"The head of the answer, or its chunk lines and trailers, are larger than `limits.head` "
            f"({self._head_limit} bytes) or have more than `limits.headers` ({self._header_limit}) lines.",
        )

    def eof_received(self) -> bool | None:
        exchange = self._exchange
        if exchange is None:
            return None
        try:
            if self.state is TUNNEL:
                return exchange.upstream_ended()
            if self._held is not None and self._start == _HEAD_END:
                self._end_no_content(exchange)  # no chunk at all: nothing to be read in two ways
            elif self._body == framing.UNTIL_CLOSE and not self._in_head:
                self._reusable = False
                self._end(exchange)
        except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
            self._fault(exchange, fault)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self._exchange
        if exc is not None and exchange is not None:
            try:
                self._hear_out()
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                self._fault(exchange, fault)
        self.state = CLOSED
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._pool.stats.connections_active -= 1
        try:
            # Before the place is given away: whoever is to be sent once more has had its turn.
            if exchange is None:
                pass
            elif exc is None or isinstance(exc, OSError):
                why = self._pool.fault(self.transport, exc) if exc is not None else None
                exchange.upstream_lost(self, why)
            else:
                # What the transport caught, and the event loop's handler logged: no memory to read into, for one.
                exchange.upstream_failed(internal())
        except Exception as fault:  # noqa: BLE001  # logged and counted there
            self._fault(exchange, fault)
        finally:
            self._pool.lost(self)

    def _hear_out(self) -> None:
        """Take the answer of an upstream that read no more of the request and closed: writing the rest may fail before
        the answer is read, and asyncio reads nothing then."""
        if data := peer.unread(self.transport):
            self.data_received(data)

    def pause_writing(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.upstream_full()
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                self._fault_soon(exchange, fault)

    def resume_writing(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.upstream_writable()
            except Exception as fault:  # noqa: BLE001  # the exchange logs and counts it
                self._fault_soon(exchange, fault)

    def _fault_soon(self, exchange: Exchange, fault: Exception) -> None:
        """For what asyncio calls from within a write of the exchange's own, which is not to end in the middle of it."""

        def end() -> None:
            if self._exchange is exchange:
                self._fault(exchange, fault)
            else:
                exchange.fault(fault)

        asyncio.get_running_loop().call_soon(end)

    def fault(self, fault: Exception) -> bool:
        """What handles this connection met a fault: it ends, with the request that it serves; whether it serves one."""
        exchange = self._exchange
        self._fault(exchange, fault)
        return exchange is not None

    def _fault(self, exchange: Exchange | None, fault: Exception) -> None:
        """End after a fault of the sidecar's own, with the request that this connection served, and no other."""
        serving, self._exchange = self._exchange, None
        if serving is not None:
            self._pool.stats.connections_active -= 1
        self.transport.abort()
        if serving is not None and serving is not exchange:
            serving.upstream_lost(self)  # it had just been given this connection
        if exchange is not None:
            exchange.fault(fault)
        else:
            self._pool.faults.note(fault, "connection to the upstream")

    # the parser's callbacks; raising here would only come out as a parser error, so they set `_refusal`

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False
        self._fields = []
        self._in_head = True
        self._body = framing.NO_BODY
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._fields.append((name, value))
        elif self._complete:
            pass  # of a message that nobody asked for: it ends the connection, and is no part of this answer
        elif len(self._trailers) < self._header_limit:
            self._trailers.append((name, value))
        elif self._refusal is None:
            self._refusal = self._too_large()

    def on_headers_complete(self) -> None:  # noqa: C901  # hot path: no calls that could be spared
        self._in_head = False
        exchange = self._exchange
        if exchange is None or self._complete or self._refusal is not None:
            return
        status = self._parser.get_status_code()
        http10 = False
        if self._is_usual:
            # That was said of this head only.
            self._is_usual = False
        elif (wrong := self._wrong_first_line(status)) is not None:
            self._refusal = _malformed(wrong)
            return
        else:
            http10 = self._parser.get_http_version() == "1.0"
        found = headers.survey(self._fields)
        if b"connection" in found and headers.is_long_list(found[b"connection"]):
            self._refusal = SidecarError(
                Reason.UPSTREAM_HEAD_TOO_LARGE,
                f"The answer's `Connection` names more than {headers.MOST_MEMBERS} headers, and nobody needs as many.",
            )
            return
        if status < 200:
            self._interim += 1
            self._look_at_interim(found, status)
            if status == 101 and http10:
                # HTTP/1.0 has no 1xx and no upgrade (RFC 9110 sections 15.2 and 7.8): what follows may be anything.
                self._refusal = _malformed("it switches protocols in HTTP/1.0")
            if status == 101 or self._refusal is not None:
                return
            if self._interim > _MAX_INTERIM:
                self._refusal = _malformed(f"more than {_MAX_INTERIM} interim answers")
            else:
                exchange.interim(status, self._reason, self._fields)
            return
        if len(self._fields) > self._header_limit or (
            self._fed > self._head_limit and _size(self._fields) > self._head_limit
        ):
            self._refusal = self._too_large()
            return
        try:
            self._body = framing.response_body(
                found, status=status, head=exchange.method == b"HEAD", http10=http10
            )
        except SidecarError as error:
            self._refusal = error
            return
        fields: headers.Fields = self._fields
        length = found.get(b"content-length")
        if length is not None and not (length.isdigit() and length >= b"1"):
            fields = headers.plain_length(fields, found)
        self._trailers = []
        self._reusable = self._parser.should_keep_alive() and self._body != framing.UNTIL_CLOSE
        if self._body == framing.CHUNKED and status == 204:
            self._held = found
            return
        if not exchange.answer(status, self._reason, fields, found, self._body):
            # It will be asked again with another token: this answer is of no further use.
            self._exchange = None
            self._pool.stats.connections_active -= 1
            self.transport.abort()
        elif exchange.method == b"HEAD":
            # llhttp can't be told that this answer has no body, so its parser is of no further use.
            self._parser = self._new_parser()
            self._complete = True
            if status == 204 and b"transfer-encoding" in found:
                self._reusable = False  # it may send its last chunk still

    def _look_at_interim(self, found: headers.Found, status: int) -> None:
        try:
            framing.response_body(found, status=status, head=False, http10=False)
        except SidecarError as error:
            self._refusal = error

    def _wrong_first_line(self, status: int) -> str | None:
        """What llhttp lets pass in a first line and HTTP/1.1 does not."""
        if not 100 <= status <= 599:
            return f"its status is {status}"
        if not self._reason.isalpha() and _PHRASE.fullmatch(self._reason) is None:
            return "its reason phrase has control characters"
        if (version := self._parser.get_http_version()) not in ("1.1", "1.0"):
            return f"its version is HTTP/{version}"
        return None

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._complete or self._exchange is None:
            self._reusable = False
        elif self._refusal is None:
            self._exchange.answer_body(data)

    def on_message_complete(self) -> None:
        if self._exchange is not None and self._parser.get_status_code() >= 200 and self._held is None:
            self._complete = True
            if self._trailers and not self._parser.should_keep_alive():
                # A `Connection: close` among them: the parser would take no further answer.
                self._reusable = False

    # ends

    def _end(self, exchange: Exchange) -> None:
        self._exchange = None
        self._pool.stats.connections_active -= 1
        # Not with bytes of the last request unsent: the next one's backpressure would start from a full buffer.
        reusable = (
            exchange.answer_end(self._trailers)
            and self._reusable
            and not self.transport.is_closing()
            and not self.transport.get_write_buffer_size()
        )
        self.state = IDLE
        if reusable:
            self.transport.resume_reading()
            self._pool.release(self)
        elif self.transport.get_write_buffer_size():
            # What it has not read of the request it need not read any more: nothing waits for it to do so.
            self.transport.abort()
        else:
            self.transport.close()

    def _refuse(self, exchange: Exchange) -> None:
        error = self._refusal
        self._exchange = None
        self._pool.stats.connections_active -= 1
        self.transport.abort()
        exchange.upstream_failed(error or _malformed("it could not be parsed"))

    def _switched(self, exchange: Exchange, rest: bytes) -> None:
        if self._refusal is None and self._parser.get_status_code() == 101:
            error = exchange.switch(self._reason, self._fields)
            if error is None:
                self.state = TUNNEL
                if rest:
                    exchange.tunnel_from_upstream(rest)
                return
            self._refusal = error
        self._refuse(exchange)


def _malformed(what: str) -> SidecarError:
    return SidecarError(
        Reason.UPSTREAM_MALFORMED,
        f"The upstream's answer is not valid HTTP/1.1: {what}.",
    )


def _size(fields: headers.Fields) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)
