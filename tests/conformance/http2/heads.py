"""Heads of requests, and what belongs to them, as RFC 9113 section 8 has them and as it does not.

Each case is one request on a connection of its own. `REFUSED`: the stream ends by an answer of 400 or by
RST_STREAM(PROTOCOL_ERROR), the connection lives, and nothing whole reaches the target. `PASSES`: one request reaches the
target that can be read in one way only. A number is the status that the sidecar answers in place of 400.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tests.conformance.http2.sections import HOST, get, post
from tests.support.h2_frames import Fields, block, data, headers, long_headers

REFUSED: Final = "refused"
PASSES: Final = "passes"
BOUNDED: Final = "bounded"
"""So large that the connection may end too."""


class Head(NamedTuple):
    """One request."""

    name: str
    why: str
    data: bytes
    verdict: str

    @property
    def key(self) -> bytes:
        """All that a proxy is sent."""
        return self.data


def _head(name: str, why: str, fields: Fields, verdict: str = REFUSED) -> Head:
    return Head(name, why, headers(1, fields), verdict)


def _without(name: bytes) -> Fields:
    return [field for field in get() if field[0] != name]


def _with(name: bytes, value: bytes) -> Fields:
    """Another value for a pseudo-header field."""
    return [(known, value if known == name else old) for known, old in get()]


_PSEUDO: Final = "a request has :method, :scheme and :path, each once and before the fields (section 8.3.1)"
_NAMES: Final = "a name is a token in lower case (section 8.2.1)"
_VALUES: Final = "a value has no control characters, and no blanks around it (section 8.2.1)"
_CONNECTION: Final = "there are no connection-specific fields (section 8.2.2)"
_LENGTH: Final = "content-length is what the DATA frames hold (section 8.1.1)"
_HOST: Final = "host and :authority are the same (section 8.3.1)"
_PATH: Final = "a path begins with a slash, and is ASCII without blanks (section 8.3.1)"
_SCHEME: Final = "a scheme that the sidecar takes is http or https (section 8.3.1)"
_TRAILERS: Final = "trailers have no pseudo-header fields, and do not frame (sections 8.1 and 8.3)"
_METHOD: Final = "only registered methods are carried; CONNECT and TRACE are not"
_AUTHORITY: Final = "an authority is one name or address, with a port at most (section 8.3.1)"


# fmt: off
def _pseudo() -> Iterable[Head]:
    for name in (b":method", b":scheme", b":path"):
        yield _head(f"pseudo-no-{name[1:].decode()}", _PSEUDO, _without(name))
        yield _head(f"pseudo-two-{name[1:].decode()}", _PSEUDO, get(b"/x", *[f for f in get() if f[0] == name]))
        yield _head(f"pseudo-empty-{name[1:].decode()}", _PSEUDO, _with(name, b""))
    yield _head("pseudo-two-authority", _PSEUDO, [*get()[:4], (b":authority", HOST)])
    yield _head("pseudo-two-authority-other", _PSEUDO, [*get()[:4], (b":authority", b"other.internal")])
    yield _head("pseudo-none", _PSEUDO, [(b"host", HOST), (b"x-a", b"b")])
    yield _head("pseudo-no-fields", _PSEUDO, [])
    yield _head("pseudo-behind-a-field", _PSEUDO, [*get()[:3], (b"x-a", b"b"), get()[3]])
    yield _head("pseudo-method-behind-a-field", _PSEUDO, [(b"x-a", b"b"), *get()])
    yield _head("pseudo-unknown", _PSEUDO, [*get(), (b":unknown", b"x")])
    yield _head("pseudo-unknown-first", _PSEUDO, [(b":unknown", b"x"), *get()])
    yield _head("pseudo-status", _PSEUDO, [*get(), (b":status", b"200")])
    yield _head("pseudo-colon-alone", _PSEUDO, [*get(), (b":", b"x")])
    yield _head("pseudo-upper-case", _PSEUDO, [(b":Method", b"GET"), *get()[1:]])
    yield _head("pseudo-protocol", _PSEUDO, [*get(), (b":protocol", b"websocket")])


_IN_NAMES: Final = {
    "upper-case": b"X-Test",
    "last-letter-upper-case": b"x-tesT",
    "nul": b"x\0a",
    "lf": b"x\na",
    "cr": b"x\ra",
    "crlf": b"x: b\r\ny",
    "colon": b"x:a",
    "blank": b"x a",
    "tab": b"x\ta",
    "blank-first": b" x",
    "blank-last": b"x ",
    "delete": b"x\x7fa",
    "high-byte": b"x\xe4a",
    "comma": b"x,a",
    "slash": b"x/a",
    "parenthesis": b"x(a",
    "quote": b'x"a',
    "at": b"x@a",
}
_IN_VALUES: Final = {
    "nul": b"a\0b",
    "lf": b"a\nb",
    "cr": b"a\rb",
    "crlf": b"a\r\nx-smuggled: 1",
    "crlf-request": b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: billing.internal\r\n\r\n",
    "lf-last": b"a\n",
    "cr-last": b"a\r",
    "nul-alone": b"\0",
    "blank-first": b" a",
    "blank-last": b"a ",
    "tab-first": b"\ta",
    "tab-last": b"a\t",
    "delete": b"a\x7fb",
    "bell": b"a\x07b",
    "escape": b"a\x1bb",
}
_FINE_VALUES: Final = {"empty": b"", "tab-inside": b"a\tb", "high-byte": b"a\xe4b", "utf8": "grüße".encode()}


def _names_and_values() -> Iterable[Head]:
    yield _head("name-empty", _NAMES, get(b"/x", (b"", b"b")))
    for name, found in _IN_NAMES.items():
        yield _head(f"name-{name}", _NAMES, get(b"/x", (found, b"b")))
    for name, found in _IN_VALUES.items():
        yield _head(f"value-{name}", _VALUES, get(b"/x", (b"x-a", found)))
        if name not in ("blank-first", "blank-last", "tab-first", "tab-last"):
            yield _head(f"cookie-{name}", _VALUES, get(b"/x", (b"cookie", found)))
    for name, found in _FINE_VALUES.items():
        yield _head(f"value-{name}", _VALUES, get(b"/x", (b"x-a", found)), PASSES)
    yield _head("cookie-crumbs", "several cookies are one (section 8.2.3)", get(b"/x", (b"cookie", b"a=1"), (b"cookie", b"b=2")), PASSES)


def _connection_fields() -> Iterable[Head]:
    for name, value in (
        (b"connection", b"close"),
        (b"connection", b"x-a"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ):
        label = f"connection-{name.decode()}-{value.decode().replace(', ', '-and-').replace('=', '-')}"
        yield _head(label, _CONNECTION, get(b"/x", (name, value)))
    yield _head("connection-te-trailers", _CONNECTION, get(b"/x", (b"te", b"trailers")), PASSES)
    yield Head(
        "connection-chunked-hides-a-request",
        _CONNECTION,
        headers(1, post((b"transfer-encoding", b"chunked")), end=False)
        + data(1, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: billing.internal\r\n\r\n"),
        REFUSED,
    )


def _lengths() -> Iterable[Head]:
    def sent(name: str, lengths: Iterable[bytes], body: bytes, verdict: str = REFUSED) -> Head:
        fields = post(*((b"content-length", length) for length in lengths))
        return Head(f"length-{name}", _LENGTH, headers(1, fields, end=False) + data(1, body), verdict)

    yield sent("right", [b"4"], b"test", PASSES)
    yield sent("none", [], b"test", PASSES)
    yield sent("below", [b"3"], b"test")
    yield sent("above", [b"5"], b"test")
    yield sent("zero-with-a-body", [b"0"], b"GET /smuggled HTTP/1.1\r\nHost: billing.internal\r\n\r\n")
    zero = headers(1, post((b"content-length", b"0")), end=False)
    yield Head("length-zero-then-an-empty-end", _LENGTH, zero + data(1, b""), PASSES)
    yield Head("length-zero-with-trailers", _LENGTH, zero + headers(1, [(b"x-a", b"b")]), PASSES)
    yield sent("twice", [b"4", b"4"], b"test")
    yield sent("two", [b"4", b"5"], b"test")
    for name, value in (("list", b"4, 4"), ("plus", b"+4"), ("minus", b"-4"), ("hex", b"0x4"), ("blank", b"4 4"), ("letters", b"four"), ("empty", b""), ("huge", b"9" * 30), ("point", b"4.0")):
        yield sent(name, [value], b"test")
    yield _head("length-without-a-body", _LENGTH, post((b"content-length", b"4")))
    yield _head("length-zero-without-a-body", _LENGTH, post((b"content-length", b"0")), PASSES)
    yield Head("length-below-with-trailers", _LENGTH, headers(1, post((b"content-length", b"3")), end=False) + data(1, b"test", end=False) + headers(1, [(b"x-a", b"b")]), REFUSED)
    yield Head("length-above-with-trailers", _LENGTH, headers(1, post((b"content-length", b"5")), end=False) + data(1, b"test", end=False) + headers(1, [(b"x-a", b"b")]), REFUSED)


def _hosts() -> Iterable[Head]:
    yield _head("host-same", _HOST, get(b"/x", (b"host", HOST)), PASSES)
    yield _head("host-other", _HOST, get(b"/x", (b"host", b"other.internal")))
    yield _head("host-twice", _HOST, get(b"/x", (b"host", HOST), (b"host", HOST)))
    yield _head("host-empty", _HOST, get(b"/x", (b"host", b"")))
    yield _head("host-alone", _HOST, [*_without(b":authority"), (b"host", HOST)], PASSES)
    yield _head("host-alone-twice", _HOST, [*_without(b":authority"), (b"host", HOST), (b"host", b"other.internal")])
    yield _head("host-none", _HOST, _without(b":authority"))
    for name, value in (
        ("empty", b""), ("userinfo", b"me@billing.internal"), ("path", b"billing.internal/x"), ("blank", b"billing.internal x"),
        ("crlf", b"billing.internal\r\nx-a: b"), ("bad-port", b"billing.internal:http"), ("huge-port", b"billing.internal:70000"),
        ("list", b"billing.internal,other.internal"), ("query", b"billing.internal?x"), ("fragment", b"billing.internal#x"), ("high-byte", b"b\xe4lling.internal"),
    ):
        yield _head(f"authority-{name}", _AUTHORITY, _with(b":authority", value))
    yield _head("authority-upper-case", _AUTHORITY, _with(b":authority", HOST.upper()), PASSES)
    yield _head("authority-with-port", _AUTHORITY, _with(b":authority", HOST + b":80"), PASSES)


def _paths() -> Iterable[Head]:
    for name, value in (
        ("without-slash", b"x"), ("absolute", b"http://other.internal/x"), ("blank", b"/a b"), ("tab", b"/a\tb"), ("nul", b"/a\0b"),
        ("lf", b"/a\nb"), ("cr", b"/a\rb"), ("crlf-request", b"/x HTTP/1.1\r\nHost: billing.internal\r\n\r\nGET /smuggled"),
        ("version", b"/x HTTP/1.1"), ("fragment", b"/x#y"), ("delete", b"/a\x7f"), ("asterisk", b"*"),
        ("out-of-root", b"/../x"), ("encoded-nul", b"/a%00b"), ("bad-escape", b"/a%zz"), ("question-mark-first", b"?x"),
    ):
        yield _head(f"path-{name}", _PATH, _with(b":path", value))
    yield _head("path-query", _PATH, get(b"/x?y=/z"), PASSES)
    yield _head("path-asterisk-for-options", _PATH, get(b"*", method=b"OPTIONS"), PASSES)
    for name, value in (("ftp", b"ftp"), ("blank", b"ht tp"), ("crlf", b"http\r\nx-a: b"), ("url", b"http://other.internal/"), ("upper-case-ftp", b"FTP"), ("nul", b"http\0")):
        yield _head(f"scheme-{name}", _SCHEME, _with(b":scheme", value))
    for name, value in (("lower-case", b"get"), ("unknown", b"GETS"), ("blank", b"GET "), ("crlf", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\nGET"), ("nul", b"GE\0T"), ("trace", b"TRACE")):
        yield _head(f"method-{name}", _METHOD, _with(b":method", value), "501" if name in ("lower-case", "unknown", "trace") else REFUSED)
    yield _head("method-connect", _METHOD, [(b":method", b"CONNECT"), (b":authority", b"billing.internal:443")], "501")
    yield _head("method-connect-with-path", _METHOD, _with(b":method", b"CONNECT"))
    yield _head("method-extended-connect", _METHOD, [*_with(b":method", b"CONNECT"), (b":protocol", b"websocket")])


def _trailing() -> Iterable[Head]:
    def sent(name: str, trailers: Fields, verdict: str = REFUSED) -> Head:
        made = headers(1, post(), end=False) + data(1, b"test", end=False) + headers(1, trailers)
        return Head(f"trailer-{name}", _TRAILERS, made, verdict)

    yield sent("plain", [(b"x-a", b"b")], PASSES)
    yield sent("pseudo", [(b":path", b"/y")])
    yield sent("status", [(b":status", b"200")])
    yield sent("content-length", [(b"content-length", b"4")], PASSES)  # without it, as in HTTP/1.1
    yield sent("transfer-encoding", [(b"transfer-encoding", b"chunked")])
    yield sent("connection", [(b"connection", b"close")])
    yield sent("upper-case", [(b"X-A", b"b")])
    yield sent("nul", [(b"x-a", b"a\0b")])
    yield sent("crlf", [(b"x-a", b"a\r\nb: c")])
    yield sent("crlf-in-name", [(b"x-a: b\r\ny", b"c")])


def _sizes() -> Iterable[Head]:
    def sent(name: str, why: str, fields: Fields, verdict: str) -> Head:
        return Head(f"size-{name}", f"heads are bounded (`limits.{why}`)", long_headers(1, block(fields)), verdict)

    many = get(b"/x", *((b"x-%d" % n, b"a") for n in range(5000)))
    yield sent("300-fields", "headers", many[:304], "431")
    yield sent("5000-fields", "headers", many, BOUNDED)
    yield sent("80-fields-of-1000-bytes", "head", get(b"/x", *((b"x-%d" % n, b"a" * 1000) for n in range(80))), "431")
    yield sent("field-of-200000-bytes", "head", get(b"/x", (b"x-a", b"a" * 200_000)), BOUNDED)
    yield sent("path-of-40000-bytes", "head", get(b"/" + b"a" * 40_000), "414")
    yield sent("path-of-100000-bytes", "head", get(b"/" + b"a" * 100_000), BOUNDED)


# fmt: on

HEADS: Final = (
    *_pseudo(),
    *_names_and_values(),
    *_connection_fields(),
    *_lengths(),
    *_hosts(),
    *_paths(),
    *_trailing(),
    *_sizes(),
)
