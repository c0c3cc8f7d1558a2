"""What the bytes of an app or an upstream say, by the grammar alone.

Written apart from the product, from RFC 9112 and RFC 9110: the judge of what may be made of a stream. Whatever these
readers can't read, the sidecar may not pass on; whatever it passes on is what they read. `strict` reads what the
sidecar itself writes to an upstream, and is narrower.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

Fields = list[tuple[bytes, bytes]]
"""Names in lower case."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
"""With bytes in the target that are no ASCII, which some clients send: they stand for their escapes."""
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*"
)
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
"""Blanks behind a size are in no grammar, and in no doubt: a server may pad with them."""
_NO_CHUNKS: Final = b"0\r\n\r\n"
_NUMBER = re.compile(rb"[0-9]+")
_LARGEST: Final = 2**64 - 1
"""Of a length: what no reader can count is no length."""


class Malformed(Exception):  # noqa: N818 - a verdict
    """What no grammar allows; `method` as far as it was known."""

    def __init__(self, what: str, method: bytes = b"") -> None:
        super().__init__(what)
        self.method = method


class Incomplete(Exception):  # noqa: N818 - a verdict
    """A message that has begun; `body` is what is there of it."""

    def __init__(self, body: bytes = b"") -> None:
        super().__init__()
        self.body = body


class Request(NamedTuple):
    """One whole request."""

    method: bytes
    target: bytes
    http10: bool
    fields: Fields
    body: bytes
    trailers: Fields

    def persists(self) -> bool:
        """Whether another request may follow (RFC 9112 section 9.3)."""
        options = members(self.fields, b"connection")
        return b"close" not in options and (not self.http10 or b"keep-alive" in options)

    def path(self) -> bytes:
        """The target in origin form, in ASCII."""
        target = b"".join(b"%%%02X" % octet if octet > 0x7F else bytes((octet,)) for octet in self.target)
        if target[:1] == b"/" or target == b"*":
            return target
        rest = target.partition(b"://")[2]
        if self.method == b"OPTIONS" and not set(rest) & set(b"/?"):
            return b"*"  # RFC 9112 section 3.2.4
        path = rest[min(end for end in (rest.find(b"/"), rest.find(b"?"), len(rest)) if end >= 0) :]
        return path if path[:1] == b"/" else b"/" + path


class Read(NamedTuple):
    """What a stream of requests says."""

    requests: list[Request]
    bad: Malformed | None
    """What came next makes no sense."""
    partial: bool
    """What came next is not whole."""
    rest: bytes
    """What came behind a request that ends its connection: nothing that anybody may act on."""


def read_requests(stream: bytes) -> Read:
    """Every whole request in order, up to what is no request."""
    requests: list[Request] = []
    while True:
        while stream.startswith(b"\r\n"):
            stream = stream[2:]
        if not stream or stream == b"\r":
            return Read(requests, None, False, b"")
        try:
            request, stream = _request(stream)
        except Malformed as bad:
            return Read(requests, bad, False, b"")
        except Incomplete:
            return Read(requests, None, True, b"")
        requests.append(request)
        if not request.persists():
            return Read(requests, None, False, stream)


def _request(stream: bytes) -> tuple[Request, bytes]:
    first, fields, rest = _head(stream)
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Malformed("the request line")
    method, target, http10 = match[1], match[2], match[3] == b"0"
    if fields is None:
        raise Malformed("a header line", method)
    hosts = sum(name == b"host" for name, _ in fields)
    if hosts > 1 or (hosts == 0 and not http10):  # beside an absolute target, too
        raise Malformed("Host", method)
    length = _framing(fields, method, http10=http10)
    body, trailers, rest = _body(rest, length, method)
    return Request(method, target, http10, fields, body, trailers), rest


def _head(stream: bytes) -> tuple[bytes, Fields | None, bytes]:
    """The first line, the fields (None: some line is none), and what follows the head."""
    head, end, rest = stream.partition(b"\r\n\r\n")
    if not end:
        raise Incomplete
    first, *lines = head.split(b"\r\n")
    return first, _fields(lines), rest


def _fields(lines: list[bytes]) -> Fields | None:
    fields = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1].lower(), match[2]))
    return fields


def _framing(fields: Fields, method: bytes, *, http10: bool) -> int:
    """The length of the body, -1 for chunks, -2 where nothing is said."""
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    if len(codings) + len(lengths) > 1:
        raise Malformed("more than one framing header", method)
    if codings:
        if codings[0].lower() != b"chunked" or http10:
            raise Malformed("the transfer coding", method)
        return -1
    if lengths:
        if _NUMBER.fullmatch(lengths[0]) is None or int(lengths[0][-4000:]) > _LARGEST:
            raise Malformed("the length", method)
        return int(lengths[0])
    return -2


def _body(rest: bytes, length: int, method: bytes) -> tuple[bytes, Fields, bytes]:
    """A body, its trailers, and what follows."""
    if length == -1:
        return _chunks(rest, method)
    size = max(0, length)
    if len(rest) < size:
        raise Incomplete(rest)
    return rest[:size], [], rest[size:]


def _chunks(rest: bytes, method: bytes) -> tuple[bytes, Fields, bytes]:
    body = b""
    while True:
        line, end, after = rest.partition(b"\r\n")
        if not end:
            raise Incomplete(body)
        match = _CHUNK.fullmatch(line)
        if match is None or int(match[1][-4000:], 16) > _LARGEST:
            raise Malformed("a chunk's size", method)
        size = int(match[1], 16)
        if not size:
            break
        body += after[:size]
        if len(after) < size + 2:
            if not b"\r\n".startswith(after[size:]):
                raise Malformed("a chunk's end", method)
            raise Incomplete(body)
        if after[size : size + 2] != b"\r\n":
            raise Malformed("a chunk's end", method)
        rest = after[size + 2 :]
    if after.startswith(b"\r\n"):
        return body, [], after[2:]
    section, end, after = after.partition(b"\r\n\r\n")
    if not end:
        raise Incomplete(body)
    trailers = _fields(section.split(b"\r\n"))
    if trailers is None:
        raise Malformed("a trailer", method)
    return body, trailers, after


class Answer(NamedTuple):
    """One answer, as far as it is there."""

    interim: list[int]
    status: int
    fields: Fields
    body: bytes
    whole: bool
    trailers: Fields
    rest: bytes
    """What follows it: part of nothing."""
    malformed: bool = False
    """It is not whole because its chunks make no sense."""


def read_answer(stream: bytes, method: bytes, *, ended: bool) -> Answer:
    """The answer to a request with `method`; `ended` says that the connection is at its end.

    Raises Malformed for a head that is none, Incomplete where no final head is there.
    """
    interim: list[int] = []
    while True:
        first, fields, rest = _head(stream)
        match = _STATUS_LINE.fullmatch(first)
        if match is None or fields is None:
            raise Malformed("the head")
        status, http10 = int(match[2]), match[1] == b"0"
        if status >= 200 or status == 101:
            break
        interim.append(status)
        stream = rest
    if status == 101:
        return Answer(interim, status, fields, b"", True, [], rest)
    if status == 204 and method != b"HEAD" and members(fields, b"transfer-encoding") == [b"chunked"]:
        # It ends with its head (RFC 9112 section 6.3); whether its chunks say otherwise shows in what follows.
        if len(rest) < len(_NO_CHUNKS) and _NO_CHUNKS.startswith(rest) and not ended:
            raise Incomplete
    if method == b"HEAD" or status in (204, 304):
        return Answer(interim, status, fields, b"", True, [], rest)
    length = _framing(fields, method, http10=http10)
    if length == -2:
        return Answer(interim, status, fields, rest, ended, [], b"")
    try:
        body, trailers, rest = _body(rest, length, method)
    except Incomplete as partial:
        return Answer(interim, status, fields, partial.body, False, [], b"")
    except Malformed:
        return Answer(interim, status, fields, b"", False, [], b"", malformed=True)
    return Answer(interim, status, fields, body, True, trailers, rest)


def members(fields: Fields, name: bytes) -> list[bytes]:
    """The members of a list field, lower case."""
    joined = b",".join(value for known, value in fields if known == name)
    return [member for part in joined.lower().split(b",") if (member := part.strip(b" \t"))]
