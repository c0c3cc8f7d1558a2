"""Reading requests from bytes.

Owns the parser of one connection from the app, and what llhttp leaves to its caller (docs/architecture.md): Host,
HTTP/0.9, limits, upgrades with a body, methods that are not HTTP's, where a body ends. Made by a
`DownstreamConnection`, which feeds it and gets the results (`Sink`). No I/O.

    BETWEEN ──first byte──▶ HEAD ──whole, with a body──▶ BODY ──its end──▶ BETWEEN
       ▲                     └──whole, without one──────────────────────────▲
       └─ from anywhere ──the bytes stopped making sense, or are no longer wanted──▶ BROKEN

Long because llhttp's callbacks and the checks beside them read the same bytes together. Code without state is in
`target` and `framing`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, final

import httptools

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.fields import headers
from sidecar.proxy.fields.semantics import written_anew
from sidecar.proxy.http1 import framing, heads
from sidecar.proxy.http1.request import Request, Sink
from sidecar.proxy.http1.target import (
    BAD_REQUEST_LINE,
    BROKEN_PREFACE,
    TAB,
    USUAL_CONNECTION,
    check_fields,
    check_scheme,
    check_size,
    check_upgrade,
    empty_lines,
    is_request_line,
    malformed,
    no_method,
    not_http,
    read_target,
    read_version,
    too_large,
    too_many_lines,
    with_escapes,
    without_empty_lines,
)
from sidecar.proxy.messages import NO_BODY
from sidecar.proxy.ports import Relay

_PIECE: Final = 64 * 1024
"""Bytes of a body that are parsed at once. Limits how much is held before reading stops."""

_HEAD_END: Final = b"\r\n\r\n"

_VERSION: Final = b" HTTP/1.1\r\n"

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PREFACE_STARTS: Final = frozenset({b"P", b"PR", b"PRI"})


class ReaderState(Enum):
    """See the diagram above."""

    BETWEEN = "between"
    HEAD = "head"
    BODY = "body"
    BROKEN = "broken"


BETWEEN: Final = ReaderState.BETWEEN
HEAD: Final = ReaderState.HEAD
BODY: Final = ReaderState.BODY
BROKEN: Final = ReaderState.BROKEN
"""Names for the hot path, as in `exchange`."""


@final
class RequestReader:
    """See the module's docstring."""

    __slots__ = (
        "_body_bytes",
        "_body_left",
        "_chunks",
        "_context",
        "_counted",
        "_declined",
        "_fed",
        "_fields",
        "_parser",
        "_raw",
        "_sink",
        "_target",
        "_trailers",
        "began_mono",
        "receiving",
        "state",
    )

    def __init__(self, sink: Sink, context: Context) -> None:
        self._sink = sink
        self._context = context
        self._parser = httptools.HttpRequestParser(self)
        self.state: ReaderState = BETWEEN
        self.began_mono = 0.0
        """When the first byte of the latest message arrived; 0 before the first message."""
        self.receiving: Relay | None = None
        """The exchange whose body is being read."""
        # message
        self._fed = 0
        self._raw = b""
        """The head that is being read, as received: the parser accepts more than it should."""
        self._declined = False
        """The head asks for an upgrade that is not carried."""
        self._body_left = framing.CHUNKED
        """Bytes of the body that are still missing, or CHUNKED."""
        self._counted = False
        """The rest of the body is counted. The parser does not see it, and does not know about it."""
        self._body_bytes = 0
        self._chunks: framing.Chunks | None = None
        """Where the body ends, once a chunked body has begun."""
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []

    # what the connection asks

    @property
    def in_message(self) -> bool:
        """Whether a request has begun and is not complete."""
        return self.state is HEAD or self.state is BODY

    @property
    def has_begun(self) -> bool:
        """Whether any part of a request has arrived, be it part of its first line."""
        return self.in_message or bool(self._raw)

    def due(self, waiting: int) -> int:
        """Bytes of the body that are still to come, as far as known, beside the `waiting` ones."""
        return 0 if self.receiving is None else max(0, self._body_left - waiting)

    def method(self) -> bytes:
        """The method of the request that has begun, as far as known."""
        return self._parser.get_method() if self.in_message and self._target else b""

    def stop(self) -> None:
        """Stop reading."""
        self.state = BROKEN

    # feeding the parser

    def feed(self, data: bytes) -> bytes:
        """Read one head or piece of a body. The bytes returned must wait, or belong to what follows an upgrade."""
        if not self.began_mono and (data := self._without_preface(data)) == b"":
            return b""
        if self.state is BETWEEN and not self._raw and data.find(_HEAD_END) == len(data) - len(_HEAD_END):
            # One whole head and nothing else, as most reads are.
            self._raw = data
            return self._parse_piece(data)
        while self.state is not BROKEN:
            if self.state is BODY:
                if self._body_left < 0:
                    if self._chunks is None:
                        self._chunks = framing.Chunks()
                    size = self._chunks.end(data, _PIECE)
                elif not self._body_left:
                    # Fail closed where the parser waits for more of a body than `framing` has read of its length.
                    self.give_up(
                        SidecarError(Reason.INTERNAL, "The sidecar read a body's length in two ways.")
                    )
                    break
                elif self._counted or self._body_left > min(len(data), _PIECE):
                    data = self._count(data)
                    if not data or not self._sink.may_parse():
                        return data
                    continue
                else:
                    size = self._body_left
                    self._body_left = 0
            else:
                size = self._head_end(data)
            if size >= len(data):
                return self._parse_piece(data)
            piece, data = data[:size], data[size:]
            rest = self._parse_piece(piece)
            if rest or not self._sink.may_parse():
                return rest + data
        return b""

    def _count(self, data: bytes) -> bytes:
        """Pass on a piece of a body whose length is known, without a copy if possible. Returns the rest of `data`."""
        self._counted = True
        piece = data[: min(self._body_left, _PIECE)]
        self._body_left -= len(piece)
        self.on_body(piece)
        if not self._body_left and self.state is BODY:
            is_last = not self._parser.should_keep_alive()
            # The old one would wait for this body still.
            self._parser = httptools.HttpRequestParser(self)
            self._counted = False
            self.on_message_complete()
            if is_last:
                self.stop()  # as the parser does
        return data[len(piece) :]

    def _without_preface(self, data: bytes) -> bytes:
        """The first bytes of a connection. Empty if they are, or may become, the preface that begins HTTP/2 (RFC 9113
        section 3.4).
        """
        held = self._raw if self._raw[:1] == b"P" else b""
        whole = held + data
        if whole[:3] not in _PREFACE_STARTS or not _PREFACE.startswith(whole[: len(_PREFACE)]):
            if held:
                self._raw = b""
            return whole
        self._raw = whole
        if len(whole) >= len(_PREFACE):
            self.stop()
            self._raw = b""
            self._sink.http2(whole)
        return b""

    def _head_end(self, data: bytes) -> int:
        """How much of `data` belongs to the head that is being read. That part is kept, because the head is checked
        as a whole.
        """
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
            self.give_up(no_method(self._raw))
        except httptools.HttpParserInvalidURLError as error:
            return self._parse_with_escapes(error)
        except httptools.HttpParserCallbackError:
            raise  # a fault in a callback of ours, which may be anywhere in the request's life
        except httptools.HttpParserError as error:
            self.give_up(not_http(error, self._raw))
        if self.state is BODY:
            if self._spends_too_much():
                self.give_up(too_large(self._context.limits, self._target))
        elif self._raw:
            self._look_at_start()
            if self._fed > self._context.limits.head:
                self.give_up(too_large(self._context.limits, self._target))
        return b""

    def _parse_with_escapes(self, error: Exception) -> bytes:
        """Parse the partial head again, with escapes in its target in place of bytes that are not ASCII, if those are
        what the parser can't read. Done only then, because most heads have none and should not pay for it.
        """
        raw = without_empty_lines(self._raw)
        if self._fed > self._context.limits.head:
            self._target = raw.partition(b" ")[2].partition(b" ")[0]
            self.give_up(too_large(self._context.limits, self._target))
            return b""
        head = with_escapes(raw)
        if head is None:
            self.give_up(not_http(error, raw))
            return b""
        began_mono = self.began_mono
        self._parser = httptools.HttpRequestParser(self)
        self._raw = head
        self._fed = 1
        self._parser.feed_data(head[:1])
        self.began_mono = began_mono  # it has no longer than any other
        return self._parse_piece(head[1:])

    def _look_at_start(self) -> None:
        """Check a head that is not complete, so that a bad one is refused early."""
        begin = without_empty_lines(self._raw)
        line, end, _ = begin.partition(b"\r\n")
        if begin.startswith(b"PRI "):
            self.give_up(malformed(BROKEN_PREFACE))
        elif not self.in_message:
            self._raw = begin
            if begin not in (b"", b"\r"):
                self.give_up(malformed(BAD_REQUEST_LINE))
        elif begin[:1] in (b"\r", b"\n") or (end and not is_request_line(line)):
            self.give_up(malformed(BAD_REQUEST_LINE))

    def give_up(self, error: SidecarError) -> None:
        """Stop reading, and report why."""
        if self.state is BROKEN:
            return
        # An answer to HEAD has no body, however the rest of its request reads.
        method = b"HEAD" if without_empty_lines(self._raw).startswith(b"HEAD ") else b""
        began_mono = self.began_mono if self.in_message else self._context.clock.mono()
        self.state = BROKEN
        self._sink.broken(Request(began_mono, method, ()), error)

    # the parser's callbacks; raising here would only come out as a parser error

    def on_message_begin(self) -> None:
        self.began_mono = self._context.clock.mono()
        if self.state is not BROKEN:
            self.state = HEAD
        self._target = b""
        self._fields = []
        self._body_left = framing.CHUNKED
        self._counted = False
        self._body_bytes = 0
        self._chunks = None
        if self._trailers:
            self._trailers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state is HEAD:
            self._fields.append((name, value))
        elif len(self._trailers) < self._context.limits.headers:
            self._trailers.append((name, value))
        else:
            self.give_up(too_many_lines(self._context.limits))

    def on_headers_complete(self) -> None:
        raw, self._raw = self._raw, b""
        if self.state is BROKEN:
            return
        self.state = BODY
        parser = self._parser
        has_tab = TAB in raw
        padded = b" \r\n" in raw or (has_tab and b"\t\r\n" in raw)
        request = Request(
            self.began_mono,
            parser.get_method(),
            headers.trimmed(self._fields) if padded else self._fields,
        )
        try:
            if not self._read_head(request, raw, has_tab=has_tab):
                self._declined = True
                return
            admitted = self._sink.admit(request)
        except SidecarError as error:
            if request.method == b"CONNECT" and error.reason is Reason.METHOD_NOT_CARRIED:
                self.stop()
                self._sink.connect(request, self._target)
                return
            # The connection may go on only where the framing is beyond doubt and no body follows.
            request.keep_alive = (
                request.body == NO_BODY
                and error.reason not in (Reason.BAD_HOST, Reason.MALFORMED_REQUEST)
                and not parser.should_upgrade()
                and parser.should_keep_alive()
            )
            self._sink.refuse(request, error)
            return
        request.keep_alive = parser.should_keep_alive()
        self._sink.request(request, admitted)

    def _read_head(self, request: Request, raw: bytes, *, has_tab: bool) -> bool:
        """Read a whole head into `request`. False if its upgrade is declined. Raises SidecarError."""
        context, owner, method, fields = self._context, self._sink.owner, request.method, request.fields
        limits = context.limits
        if (size := len(raw)) > limits.target or size > limits.head or len(fields) > limits.headers:
            check_size(limits, size, self._target, fields)
        end = len(method) + 1 + len(self._target)
        if raw[end : end + len(_VERSION)] != _VERSION:
            request.http10 = read_version(raw, method, self._target) == b"1.0"
        http10 = request.http10
        request.found = found = headers.survey(fields)
        wish = found.get(b"upgrade") if self._parser.should_upgrade() else None
        if wish is not None:
            check_upgrade(wish, found.get(b"connection", b""))
            # HTTP/1.0 has no upgrade (RFC 9110 section 7.8).
            request.upgrade = None if http10 else self._sink.carried(request, self._target, wish)
            if request.upgrade is None:
                return False
        # HTTP/1.0 may come without a Host; a route's own listener says as much.
        default = b"localhost" if http10 and owner.route is not None else None
        request.authority, request.path, request.absolute = read_target(
            method, self._target, found, http10=http10, default_host=default
        )
        if request.absolute:
            check_scheme(self._target, secure=owner.origin_scheme == b"https://")
        if (
            found.get(b"connection") not in USUAL_CONNECTION
            or b"expect" in found
            or headers.TWIN in found
            or has_tab
        ):
            check_fields(found, raw)
        request.body = self._body_left = framing.request_body(found, http10=http10)
        length = found.get(b"content-length")
        if (length is not None and not (length.isdigit() and length >= b"1")) or b"max-forwards" in found:
            request.fields = written_anew(method, fields, found)
        if request.upgrade is not None and request.body != NO_BODY:
            raise malformed("A request to upgrade the connection may not have a body here.")
        request.scheme = owner.origin_scheme
        request.via = context.via[http10]
        return True

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self.receiving is not None:
            self.receiving.request_body(data)

    def _spends_too_much(self) -> bool:
        """Whether chunk lines and trailers are too long: many small chunks are fine, long empty lines are not."""
        return self._fed - 17 * self._body_bytes > self._context.limits.head and self._body_left < 0

    def on_message_complete(self) -> None:
        if self.receiving is not None and self._spends_too_much():
            self.give_up(too_large(self._context.limits, self._target))
        if self.state is not BROKEN:
            self.state = BETWEEN
        self._fed = 0
        if self.receiving is not None:
            receiving, self.receiving = self.receiving, None
            self._sink.body_ended(receiving, self._trailers)

    # upgrades

    def _upgrade_asked(self, rest: bytes) -> bytes:
        """The parser stopped after a head that asks for an upgrade. Returns the part of `rest` that must wait."""
        declined = b""
        if self._declined:
            self._declined = False
            parser = self._parser
            version = parser.get_http_version().encode("ascii")
            declined = heads.without_upgrade(parser.get_method(), self._target, version, self._fields)
        self._parser = httptools.HttpRequestParser(self)
        if declined:
            return self.feed(declined + rest)
        if self._sink.upgrade_waits():
            return rest
        return self.feed(rest) if rest else b""
