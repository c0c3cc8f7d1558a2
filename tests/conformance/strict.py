"""A reader of HTTP/1.1 that forgives nothing: what a proxy sends on, either way, is held against it.

Written apart from the product, from the grammar of RFC 9112 alone, for streams that a test has whole. What it can
read in one way only is a message; everything else is an `AmbiguousError`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_START = re.compile(rb"([A-Z-]+) (/[!-\"$-~]*|\*) HTTP/1\.1")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*"
    rb"([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?[ \t]*"
)
_SIZE = re.compile(rb"[0-9a-f]{1,8}")


class AmbiguousError(Exception):
    """Bytes that another reader could take for something else."""


class Request(NamedTuple):
    """One whole request."""

    line: bytes
    fields: list[tuple[bytes, bytes]]
    """Names in lower case."""
    body: bytes
    trailers: list[tuple[bytes, bytes]]

    def all(self, name: bytes) -> list[bytes]:
        """The values of every line of this name."""
        return [value for known, value in self.fields if known == name]


class Answer(NamedTuple):
    """One final answer, as far as it came."""

    status: int
    fields: list[tuple[bytes, bytes]]
    """Names in lower case."""
    whole: bool
    """Whether its framing says that all of it came."""
    framed: bool
    """Whether it has framing; False where only the end of the connection ends it."""
    rest: bytes
    """What came behind a whole one."""


def read(stream: bytes) -> tuple[list[Request], bytes]:
    """The whole requests in `stream`, and what is left of one that is not whole; raises AmbiguousError."""
    requests = []
    while stream:
        head, end, rest = stream.partition(b"\r\n\r\n")
        if not end:
            _lines(stream.rpartition(b"\r\n")[0], _START)
            break
        request = _head(head)
        codings, lengths = request.all(b"transfer-encoding"), request.all(b"content-length")
        if len(codings) + len(lengths) > 1:
            raise AmbiguousError("more than one framing header")
        if codings:
            if codings != [b"chunked"]:
                raise AmbiguousError("a coding other than chunked")
            found = _chunks(rest)
            if found is None:
                break
            body, trailers, rest = found
        else:
            if lengths and not re.fullmatch(rb"[0-9]{1,19}", lengths[0]):
                raise AmbiguousError("a length that is not a number")
            size = int(lengths[0]) if lengths else 0
            if len(rest) < size:
                break
            body, trailers, rest = rest[:size], [], rest[size:]
        requests.append(request._replace(body=body, trailers=trailers))
        stream = rest
    return requests, stream


def read_answer(stream: bytes, method: bytes = b"GET") -> Answer | None:
    """The answer to a request of this method, behind any interim ones; None where its head is not whole; raises
    AmbiguousError."""
    while True:
        head, end, rest = stream.partition(b"\r\n\r\n")
        if not end:
            return None
        first, fields = _lines(head, _STATUS)
        if not first:
            raise AmbiguousError("an empty line before the answer")
        status = int(first[9:12])
        if status >= 200 or status == 101:
            break
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in fields):
            raise AmbiguousError("an interim answer with framing")
        stream = rest
    framing = [(name, value) for name, value in fields if name in (b"content-length", b"transfer-encoding")]
    if len(framing) > 1:
        raise AmbiguousError("more than one framing header")
    if status in (101, 204) and framing:
        raise AmbiguousError("framing where there is no body")
    if status in (101, 204, 304) or method == b"HEAD":
        return Answer(status, fields, True, True, rest)
    if not framing:
        return Answer(status, fields, False, False, b"")
    name, value = framing[0]
    if name == b"transfer-encoding":
        if value.lower() != b"chunked":
            raise AmbiguousError("a coding other than chunked")
        found = _chunks(rest)
        return Answer(status, fields, found is not None, True, found[2] if found else b"")
    if not re.fullmatch(rb"[0-9]{1,19}", value):
        raise AmbiguousError("a length that is not a number")
    size = int(value)
    return Answer(status, fields, len(rest) >= size, True, rest[size:])


def _head(head: bytes) -> Request:
    first, fields = _lines(head, _START)
    request = Request(first, fields, b"", [])
    if len(request.all(b"host")) != 1:
        raise AmbiguousError("not one Host")
    return request


def _lines(head: bytes, start: re.Pattern[bytes]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    first, *lines = head.split(b"\r\n")
    if first and not start.fullmatch(first):
        raise AmbiguousError(f"the start line {first[:80]!r}")
    return first, [_field(line) for line in lines]


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if not match:
        raise AmbiguousError(f"the line {line[:80]!r}")
    return match[1].lower(), match[2] or b""


def _chunks(rest: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    body = b""
    while True:
        size_line, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if not _SIZE.fullmatch(size_line):
            raise AmbiguousError(f"the chunk size {size_line[:80]!r}")
        size = int(size_line, 16)
        if not size:
            break
        if len(rest) < size + 2:
            return None
        if rest[size : size + 2] != b"\r\n":
            raise AmbiguousError("chunk data that ends elsewhere")
        body, rest = body + rest[:size], rest[size + 2 :]
    trailers = []
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if not line:
            return body, trailers, rest
        trailers.append(_field(line))
