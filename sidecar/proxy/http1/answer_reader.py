"""Reading answers from bytes.

Owns the parser of one connection to a target, and what llhttp leaves to its caller (docs/architecture.md): how a
HEAD's answer ends, until-close bodies, premature ends, interim answers, an answer without a request. Made by an
`UpstreamConnection`, which feeds it; heads and bodies go to the exchange at once. No I/O.

Long because llhttp's callbacks and the checks beside them read the same bytes together.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, final

import httptools

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.fields import headers
from sidecar.proxy.http1 import framing
from sidecar.proxy.messages import NO_BODY, UNKNOWN
from sidecar.proxy.ports import Relay

_START: Final = b"HTTP/1."
"""How every answer begins. llhttp would also accept RTSP, and empty lines before it."""

_USUAL_START: Final = b"HTTP/1.1 200 OK\r\n"
"""How most answers begin. Such an answer needs no second check."""

_HEAD_END: Final = b"\r\n\r\n"

_NO_CHUNKS: Final = _HEAD_END + b"0\r\n\r\n"
"""How a 204 that claims to be chunked must end. With a chunk or a trailer it would have a body for some programs and
none for others.
"""

_CODING: Final = re.compile(rb"(?i)\r\ntransfer-encoding[ \t]*:")

_PHRASE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
"""A reason phrase (RFC 9112 section 4)."""

_WORTH_COUNTING: Final = 64 * 1024
"""From this many bytes on, counting a body and making a new parser at its end costs less than parsing it."""

_MAX_INTERIM: Final = 32
"""Most 1xx answers to one request. Go's client stops at 5, but 102 and 103 may repeat."""


class Outcome(Enum):
    """What the bytes so far amount to."""

    MORE = "more"
    END = "end"
    """The answer is complete."""
    REFUSED = "refused"
    """It can't be passed on: `refusal` says why."""
    UNWANTED = "unwanted"
    """The exchange starts again: no more of this answer is wanted."""
    SWITCHED = "switched"
    """A 101: `rest` is what followed its head."""


MORE: Final = Outcome.MORE
END: Final = Outcome.END
REFUSED: Final = Outcome.REFUSED
UNWANTED: Final = Outcome.UNWANTED
SWITCHED: Final = Outcome.SWITCHED
"""Names for the hot path, as in `exchange`."""


@final
class AnswerReader:
    """See the module's docstring. Many slots, since what the parser's callbacks gather of one answer stands in them."""

    __slots__ = (
        "_begun",
        "_body",
        "_body_bytes",
        "_complete",
        "_counted",
        "_fed",
        "_head_limit",
        "_header_limit",
        "_held",
        "_in_head",
        "_interim",
        "_interim_fed",
        "_is_usual",
        "_parser",
        "_relay",
        "_start",
        "fields",
        "is_head",
        "reason",
        "refusal",
        "rest",
        "reusable",
        "trailers",
    )

    def __init__(self, limits: Bounds) -> None:
        self._head_limit = limits.head
        self._header_limit = limits.headers
        self._parser = self._new_parser()
        # request
        self._relay: Relay | None = None
        self.is_head = False
        """The request is a HEAD."""
        self._interim = 0
        self._interim_fed = 0
        """Bytes of the interim answers. The head after them has a limit of its own."""
        self._fed = 0
        self._begun = False
        """Whether the final answer has begun, as far as its first bytes show."""
        self._start = b""
        """The part of a head that came before that was clear, or of an interim answer."""
        self._is_usual = False
        self._body_bytes = 0
        self._counted = 0
        """Bytes of the body that are still missing, if they are counted and not parsed."""
        self.reusable = False
        """Whether the connection can carry another request after this answer."""
        self._complete = False
        self.refusal: SidecarError | None = None
        self._held: headers.Found | None = None
        """The important fields of a 204's head that waits for its last chunk. The connection serves no other request.
        """
        self.rest = b""
        # message
        self.fields: list[tuple[bytes, bytes]] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.reason = b""
        self._in_head = True
        self._body = NO_BODY

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # Servers of old pad a size to a fixed width (Apache 1.3). With blanks behind it, before CRLF or `;`, it has one
        # reading only; blanks before the digits or within an extension are still refused.
        parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return parser

    @property
    def heard(self) -> bool:
        """Whether any byte of the answer has arrived."""
        return self._fed > 0

    def begin(self, relay: Relay) -> None:
        """The next answer is this exchange's."""
        self._relay = relay
        self._interim = 0
        self._interim_fed = 0
        self._fed = 0
        self._begun = False
        self._start = b""
        self._is_usual = False
        self._body_bytes = 0
        self._counted = 0
        self._in_head = True
        self._complete = False

    def leave(self) -> None:
        """The answer is no longer wanted."""
        self._relay = None

    def feed(self, data: bytes) -> Outcome:
        """Read on."""
        if self._counted:
            return self._count(data)
        if not self._begun:
            if not self._start and data.startswith(_USUAL_START):
                self._begun = self._is_usual = True
            elif (outcome := self._begins(data)) is not None:
                return outcome
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
            return SWITCHED if self.refusal is None and self._parser.get_status_code() == 101 else REFUSED
        except httptools.HttpParserCallbackError:
            raise  # a fault in a callback of ours
        except httptools.HttpParserError as error:
            if not self._complete and self.refusal is None:
                self.refusal = malformed(str(error))
            self.reusable = False
        if self._relay is None:
            return UNWANTED
        if self._fed > self._head_limit and self.refusal is None:
            self._check_size()
        if self.refusal is not None:
            return REFUSED
        if self._complete:
            return END
        if self._body > _WORTH_COUNTING and not self._in_head:
            self._counted = self._body - self._body_bytes
        return MORE

    def _count(self, data: bytes) -> Outcome:
        """Pass on a piece of a body whose length is known. The parser would only copy it."""
        relay = self._relay
        if relay is None:
            return UNWANTED
        self._fed += len(data)
        if len(data) > self._counted:
            # It goes on with what nobody asked for.
            data = data[: self._counted]
            self.reusable = False
        self._counted -= len(data)
        self._body_bytes += len(data)
        relay.answer_body(data)
        if self._counted:
            return MORE
        # The old one would wait for this body still.
        self._parser = self._new_parser()
        self._complete = True
        return END

    def feed_end(self) -> Outcome:
        """The connection has ended."""
        if self._held is not None and self._start == _HEAD_END:
            return self._end_no_content()  # no chunk at all: nothing to be read in two ways
        if self._body == framing.UNTIL_CLOSE and not self._in_head:
            self.reusable = False
            return END
        return MORE

    def _begins(self, data: bytes) -> Outcome | None:
        """Check the first bytes of an answer that came in pieces, are unusual, or belong to an interim answer. Not
        None if `data` holds the end of an interim answer's head: then that is read, and what follows it is checked
        in turn. Also not None if `data` is or holds what follows a 204 that claims to be chunked.
        """
        if self._held is not None:
            return self._follow_no_content(data)
        known = len(self._start)
        raw = self._start + data
        self._begun = True
        if not (raw.startswith(_START) or _START.startswith(raw)):
            if self.refusal is None:
                self.refusal = malformed("it does not begin with `HTTP/1.`")
        elif len(raw) <= 9 or raw[9:10] == b"1":
            end = raw.find(_HEAD_END, max(0, known - 3)) + 4 - known
            if end <= 3 - known:
                self._begun = False
                self._start = raw
                return None
            self._start = b""
            outcome = self.feed(data[:end])
            self._interim_fed = self._fed
            self._begun = False
            if outcome is SWITCHED:
                self.rest += data[end:]
            elif outcome is MORE and data[end:]:
                outcome = self.feed(data[end:])
            return outcome
        elif raw[9:12] == b"204" or b"204".startswith(raw[9:12]):
            return self._begins_no_content(raw, data)
        self._start = b""
        return None

    def _begins_no_content(self, raw: bytes, data: bytes) -> Outcome | None:
        """The same for a 204. For the parser, one that claims to be chunked ends with its head, so what follows must
        be checked here.
        """
        end = raw.find(_HEAD_END, max(0, len(raw) - len(data) - 3)) + 4
        if end == 3:
            self._begun = False
            self._start = raw
            return None
        self._start = b""
        if _CODING.search(raw, 0, end) is None:
            return None
        behind = end - (len(raw) - len(data))
        outcome = self.feed(data[:behind])
        if self._held is not None and outcome is MORE:
            self._begun = False
            self._start = _HEAD_END
            return self._follow_no_content(data[behind:]) if data[behind:] else MORE
        if data[behind:]:
            self.reusable = False  # it goes on with what nobody asked for
        return outcome

    def _follow_no_content(self, data: bytes) -> Outcome:
        """What follows a 204 that claims to be chunked. It is complete if the last chunk comes next. No byte after
        that is read: the connection ends.
        """
        self._fed += len(data)
        self._start += data[: len(_NO_CHUNKS)]
        if not self._start.startswith(_NO_CHUNKS[: len(self._start)]):
            self.refusal = malformed("a 204 has no body, and this one has chunks or trailers")
            return REFUSED
        return self._end_no_content() if len(self._start) >= len(_NO_CHUNKS) else MORE

    def _end_no_content(self) -> Outcome:
        found, self._held = self._held, None
        self.reusable = False
        if self._relay is not None:
            self._relay.answer(204, self.reason, self.fields, found or {}, NO_BODY)
        return END

    def _check_size(self) -> None:
        """Limit all that is not body: a head without an end, chunk lines, and trailers."""
        if self._in_head:
            if not self._complete and self._fed - self._interim_fed > self._head_limit:
                self.refusal = self._too_large()
        elif self._body == framing.CHUNKED:
            spent = self._fed - 17 * self._body_bytes
            if spent > self._head_limit and spent > self._head_limit + _size(self.fields):
                self.refusal = self._too_large()

    def _too_large(self) -> SidecarError:
        return SidecarError(
            Reason.UPSTREAM_HEAD_TOO_LARGE,
            f"The head of the answer, or its chunk lines and trailers, are larger than `limits.head` "
            f"({self._head_limit} bytes) or have more than `limits.headers` ({self._header_limit}) lines.",
        )

    # the parser's callbacks; raising here would only come out as a parser error, so they set `_refusal`

    def on_message_begin(self) -> None:
        if self._complete:
            self.reusable = False
        self.fields = []
        self._in_head = True
        self._body = NO_BODY
        self.reason = b""

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.fields.append((name, value))
        elif self._complete:
            pass  # of a message that nobody asked for: it ends the connection, and is no part of this answer
        elif len(self.trailers) < self._header_limit:
            self.trailers.append((name, value))
        elif self.refusal is None:
            self.refusal = self._too_large()

    def on_headers_complete(self) -> None:  # hot path: no calls that could be spared
        self._in_head = False
        relay = self._relay
        if relay is None or self._complete or self.refusal is not None:
            return
        status = self._parser.get_status_code()
        http10 = False
        if self._is_usual:
            # That was said of this head only.
            self._is_usual = False
        elif (wrong := self._wrong_first_line(status)) is not None:
            self.refusal = malformed(wrong)
            return
        else:
            http10 = self._parser.get_http_version() == "1.0"
        found = headers.survey(self.fields)
        if b"connection" in found and headers.is_long_list(found[b"connection"]):
            self.refusal = _too_many_nominated()
            return
        if status < 200:
            self._interim_head(relay, found, status, http10=http10)
            return
        if len(self.fields) > self._header_limit or (
            self._fed > self._head_limit and _size(self.fields) > self._head_limit
        ):
            self.refusal = self._too_large()
            return
        try:
            self._body = framing.response_body(found, status=status, head=self.is_head, http10=http10)
        except SidecarError as error:
            self.refusal = error
            return
        fields: headers.Fields = self.fields
        length = found.get(b"content-length")
        if length is not None and not (length.isdigit() and length >= b"1"):
            fields = headers.plain_length(fields, found)
        self.trailers = []
        self.reusable = self._parser.should_keep_alive() and self._body != framing.UNTIL_CLOSE
        if self._body == framing.CHUNKED and status == 204:
            self._held = found
            return
        body = UNKNOWN if self._body == framing.UNTIL_CLOSE else self._body
        if not relay.answer(status, self.reason, fields, found, body):
            self._relay = None  # it will be asked again with another token
        elif self.is_head:
            # llhttp can't be told that this answer has no body, so its parser is of no further use.
            self._parser = self._new_parser()
            self._complete = True
            if status == 204 and b"transfer-encoding" in found:
                self.reusable = False  # it may send its last chunk still

    def _interim_head(self, relay: Relay, found: headers.Found, status: int, *, http10: bool) -> None:
        self._interim += 1
        try:
            framing.response_body(found, status=status, head=False, http10=False)
        except SidecarError as error:
            self.refusal = error
            return
        if status == 101:
            if http10:
                # HTTP/1.0 has no 1xx and no upgrade (RFC 9110 sections 15.2 and 7.8): what follows may be anything.
                self.refusal = malformed("it switches protocols in HTTP/1.0")
        elif self._interim > _MAX_INTERIM:
            self.refusal = malformed(f"more than {_MAX_INTERIM} interim answers")
        else:
            relay.interim(status, self.reason, self.fields)

    def _wrong_first_line(self, status: int) -> str | None:
        """What llhttp accepts in a first line and HTTP/1.1 does not."""
        if not 100 <= status <= 599:
            return f"its status is {status}"
        if not self.reason.isalpha() and _PHRASE.fullmatch(self.reason) is None:
            return "its reason phrase has control characters"
        if (version := self._parser.get_http_version()) not in ("1.1", "1.0"):
            return f"its version is HTTP/{version}"
        return None

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._complete or self._relay is None:
            self.reusable = False
        elif self.refusal is None:
            self._relay.answer_body(data)

    def on_message_complete(self) -> None:
        if self._relay is not None and self._parser.get_status_code() >= 200 and self._held is None:
            self._complete = True
            if self.trailers and not self._parser.should_keep_alive():
                # A `Connection: close` among them: the parser would take no further answer.
                self.reusable = False


def _too_many_nominated() -> SidecarError:
    return SidecarError(
        Reason.UPSTREAM_HEAD_TOO_LARGE,
        f"The answer's `Connection` names more than {headers.MOST_MEMBERS} headers, and nobody needs as many.",
    )


def malformed(what: str) -> SidecarError:
    """The error for bytes that are no HTTP/1.1 answer."""
    return SidecarError(
        Reason.UPSTREAM_MALFORMED,
        f"The upstream's answer is not valid HTTP/1.1: {what}.",
    )


def _size(fields: headers.Fields) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)
