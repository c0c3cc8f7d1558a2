"""Answers that try to be two things at once, each with what becomes of it.

Owns the table for the other direction, as `requests` does for the app's: an upstream is trusted with a token, but not
with the app's connection. The verdict: 502, nothing of the answer passed on; CUT, where its head had been passed on and
the app can tell that it is not whole; PASSES, one unambiguous answer. After any but PASSES the upstream's connection is
not used again. Run by test_hostile and by peers. Sources: RFC 9112 sections 4 to 7, RFC 9110 sections 7.6, 15.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PASSES: Final = 200
CUT: Final = 0
"""The answer began, and breaks off."""


class Answer(NamedTuple):
    """One case."""

    name: str
    data: bytes
    verdict: int
    method: bytes = b"GET"
    end: bool = False
    """Whether the upstream closes after it."""
    ask: bytes = b""
    """Further lines of the request."""


def ask(case: Answer) -> bytes:
    """The request that is answered so."""
    return case.method + b" /x HTTP/1.1\r\nHost: billing.internal\r\n" + case.ask + b"\r\n"


def ok(*lines: bytes, body: bytes = b"hello", first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """An answer with these lines."""
    return b"\r\n".join([first, *lines]) + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    """An answer whose body is these bytes."""
    return ok(b"Transfer-Encoding: chunked", body=body)


def _no_content(*lines: bytes, body: bytes) -> bytes:
    return ok(*lines, first=b"HTTP/1.1 204 No Content", body=body)


_CODING = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 5"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Second: 1\r\n\r\nsecond"

_EARLY = b"HTTP/1.1 103 Early Hints\r\n\r\n"

_FIRST = {
    "two-spaces": b"HTTP/1.1  200 OK",
    "tab": b"HTTP/1.1\t200 OK",
    "space-before": b" HTTP/1.1 200 OK",
    "lower-case": b"http/1.1 200 OK",
    "version-0.9": b"HTTP/0.9 200 OK",
    "version-1.2": b"HTTP/1.2 200 OK",
    "version-2.0": b"HTTP/2.0 200 OK",
    "version-2": b"HTTP/2 200 OK",
    "version-1": b"HTTP/1 200 OK",
    "version-1.10": b"HTTP/1.10 200 OK",
    "other-protocol": b"ICY 200 OK",
    "rtsp": b"RTSP/1.0 200 OK",
    "status-missing": b"HTTP/1.1 OK",
    "status-two-digits": b"HTTP/1.1 20 OK",
    "status-four-digits": b"HTTP/1.1 2000 OK",
    "status-000": b"HTTP/1.1 000 OK",
    "status-099": b"HTTP/1.1 099 OK",
    "status-600": b"HTTP/1.1 600 OK",
    "status-999": b"HTTP/1.1 999 OK",
    "status-minus": b"HTTP/1.1 -20 OK",
    "status-letters": b"HTTP/1.1 2xx OK",
    "status-with-point": b"HTTP/1.1 200.1 OK",
    "phrase-with-nul": b"HTTP/1.1 200 O\x00K",
    "phrase-with-control": b"HTTP/1.1 200 O\x01K",
    "phrase-with-bare-cr": b"HTTP/1.1 200 O\rK",
    "phrase-with-delete": b"HTTP/1.1 200 O\x7fK",
    "phrase-with-vertical-tab": b"HTTP/1.1 200 OK\x0bSet-Cookie: a=b",
    "phrase-splits-by-two-cr": b"HTTP/1.1 200 OK\r\rSet-Cookie: a=b",
    "version-two-spaces-after": b"HTTP/1.1 200  OK\r",
    "phrase-with-bare-lf": b"HTTP/1.1 200 O\nX: y",
    "empty-line-before": b"\r\nHTTP/1.1 200 OK",
    "nothing": b"",
}

_LENGTHS = {
    "plus": b"+5",
    "minus": b"-5",
    "hexadecimal": b"0x5",
    "list-same": b"5, 5",
    "list-other": b"5, 6",
    "empty": b"",
    "inner-space": b"1 0",
    "letters": b"five",
    "overflow": b"18446744073709551621",
    "fraction": b"5.0",
    "nul": b"5\x00",
    "quoted": b'"5"',
}

_CODINGS = {
    "gzip": b"gzip",
    "identity": b"identity",
    "gzip-chunked": b"gzip, chunked",
    "chunked-gzip": b"chunked, gzip",
    "chunked-twice": b"chunked, chunked",
    "unknown": b"cow",
    "x-prefixed": b"xchunked",
    "parameter": b"chunked;q=1",
    "quoted": b'"chunked"',
    "trailing-comma": b"chunked,",
    "empty": b"",
    "vertical-tab": b"\x0bchunked",
    "nul": b"chunked\x00",
    "ends-in-tab": b"chunked\t",
    "ends-in-tab-between-blanks": b"chunked \t ",
}

_LINES = {
    "space-before-colon": b"X-A : 1",
    "no-colon": b"X-A",
    "empty-name": b": 1",
    "non-token-name": b"X(A): 1",
    "space-in-name": b"X A: 1",
    "nul-in-name": b"X\x00A: 1",
    "high-byte-in-name": b"X\xe4: 1",
    "nul-in-value": b"X-A: a\x00b",
    "control-in-value": b"X-A: a\x01b",
    "delete-in-value": b"X-A: a\x7fb",
    "bare-cr-in-value": b"X-A: a\rb",
    "bare-cr-hides-a-cookie": b"X-A: a\rSet-Cookie: a=b",
    "bare-lf": b"X-A: a\nX-B: b",
    "fold-by-space": b"X-A: a\r\n b",
    "fold-by-tab": b"X-A: a\r\n\tb",
    "space-before-name": b" X-A: 1",
    "double-cr": b"X-A: a\r\r\nX-B: b",
}

_SIZES = {
    "letters": b"zz",
    "minus": b"-5",
    "hex-prefix": b"0x5",
    "leading-space": b" 5",
    "empty": b"",
    "overflow": b"10000000000000005",
    "nul": b"5\x00",
    "extension-with-nul": b"5;a\x00b",
    "extension-with-bare-lf": b"5;a\nb",
    "extension-with-bare-cr": b"5;a\rb",
    "blank-only": b" ",
    "two-sizes": b"5 5",
    "vertical-tab-behind": b"5\x0b",
    "cr-behind-blank": b"5 \r",
    "lf-behind-blank": b"5 \n",
    "blank-behind-extension": b"5;a ",
    "blank-before-extension-name": b"5; a",
    "plus": b"+5",
    "underscore": b"0_5",
    "ends-by-bare-cr": b"5\rX",
}

_PADDED = {
    "trailing-space": b"5 ",
    "trailing-spaces": b"5       ",
    "trailing-tab": b"5\t",
    "trailing-blanks-mixed": b"5 \t ",
    "trailing-space-before-extension": b"5 ;a=b",
}
"""As Apache 1.3 and others of its time pad a size to a fixed width."""

RESPONSES: Final[tuple[Answer, ...]] = (
    *(Answer(f"first-line-{name}", ok(LENGTH, first=line), 502) for name, line in _FIRST.items()),
    Answer("first-line-http-0.9-body-only", b"<html>hello</html>", 502, end=True),
    Answer("first-line-of-a-request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 502),
    Answer("first-line-tls-alert", b"\x15\x03\x01\x00\x02\x02\x46", 502),
    Answer("first-line-http2-settings", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", 502),
    *(Answer(f"length-{name}", ok(b"Content-Length: " + value), 502) for name, value in _LENGTHS.items()),
    Answer("length-twice-same", ok(LENGTH, LENGTH), 502),
    Answer("length-twice-other", ok(LENGTH, b"Content-Length: 6"), 502),
    Answer("length-and-coding", ok(LENGTH, b"Transfer-Encoding: chunked", body=CHUNKS), 502),
    Answer("coding-and-length", ok(b"Transfer-Encoding: chunked", LENGTH, body=CHUNKS), 502),
    Answer("length-and-identity", ok(LENGTH, b"Transfer-Encoding: identity"), 502),
    *(
        Answer(f"coding-{name}", ok(b"Transfer-Encoding: " + value, body=CHUNKS), 502, end=True)
        for name, value in _CODINGS.items()
    ),
    Answer("coding-two-lines", ok(*[b"Transfer-Encoding: chunked"] * 2, body=CHUNKS), 502),
    Answer("coding-space-before-colon", ok(b"Transfer-Encoding : chunked", body=CHUNKS), 502),
    *(Answer(f"header-{name}", ok(LENGTH, value), 502) for name, value in _LINES.items()),
    Answer("header-lines-end-by-lf", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 502),
    Answer("head-without-end", ok(*[b"X: y"] * 20_000), 502),
    Answer("header-of-100000-bytes", ok(LENGTH, b"X: " + b"y" * 100_000), 502),
    Answer("headers-5000", ok(LENGTH, *[b"X: y"] * 5000), 502),
    *(
        Answer(f"chunk-size-{name}", chunked(value + b"\r\nhello\r\n0\r\n\r\n"), CUT)
        for name, value in _SIZES.items()
    ),
    *(
        Answer(f"chunk-size-{name}", chunked(value + b"\r\nhello\r\n0" + value[1:] + b"\r\n\r\n"), PASSES)
        for name, value in _PADDED.items()
    ),
    Answer(
        "chunk-size-trailing-blanks-100000", chunked(b"5" + b" " * 100_000 + b"\r\nhello\r\n0\r\n\r\n"), CUT
    ),
    Answer("chunk-data-ends-by-nothing", chunked(b"5\r\nhello0\r\n\r\n"), CUT),
    Answer("chunk-data-ends-by-lf", chunked(b"5\r\nhello\n0\r\n\r\n"), CUT),
    Answer("chunk-data-too-long", chunked(b"5\r\nhello world\r\n0\r\n\r\n"), CUT),
    Answer("chunk-last-missing", chunked(b"5\r\nhello\r\n"), CUT, end=True),
    Answer("chunk-last-ends-by-lf", chunked(b"5\r\nhello\r\n0\r\n\n"), CUT),
    Answer(
        "chunk-extension-of-100000-bytes", chunked(b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"), CUT
    ),
    Answer("chunk-size-of-100000-zeros", chunked(b"0" * 100_000 + b"5\r\nhello\r\n0\r\n\r\n"), CUT),
    Answer("trailers-of-100000-bytes", chunked(b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"), CUT),
    Answer("trailer-of-100000-bytes", chunked(b"5\r\nhello\r\n0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), CUT),
    Answer("trailer-no-colon", chunked(b"5\r\nhello\r\n0\r\nX\r\n\r\n"), CUT),
    Answer("trailer-fold", chunked(b"5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n"), CUT),
    Answer("trailer-length", chunked(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"), CUT),
    Answer("trailer-coding", chunked(b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), PASSES),
    Answer("trailer-cookie", chunked(b"5\r\nhello\r\n0\r\nSet-Cookie: a=b\r\n\r\n"), PASSES),
    Answer("trailer-connection", chunked(b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n"), PASSES),
    Answer("length-too-long", ok(b"Content-Length: 50"), CUT, end=True),
    Answer("length-too-short", ok(b"Content-Length: 2"), PASSES),
    Answer("second-answer-behind", ok(LENGTH) + SECOND, PASSES),
    Answer("second-answer-behind-chunks", chunked(CHUNKS) + SECOND, PASSES),
    Answer("second-answer-behind-no-content", ok(first=b"HTTP/1.1 204 No Content", body=b"") + SECOND, 204),
    Answer("no-content-with-length", ok(LENGTH, first=b"HTTP/1.1 204 No Content"), 502),
    Answer("no-content-with-length-and-no-body", ok(LENGTH, first=b"HTTP/1.1 204 No Content", body=b""), 502),
    Answer(
        "no-content-with-length-zero",
        ok(b"Content-Length: 0", first=b"HTTP/1.1 204 No Content", body=b""),
        204,
    ),
    Answer(
        "no-content-with-chunks",
        ok(b"Transfer-Encoding: chunked", first=b"HTTP/1.1 204 No Content", body=CHUNKS),
        502,
    ),
    Answer("no-content-with-empty-chunks", _no_content(_CODING, body=b"0\r\n\r\n"), 204),
    Answer("no-content-with-empty-chunks-and-close", _no_content(_CODING, body=b"0\r\n\r\n"), 204, end=True),
    Answer("no-content-with-coding-and-close", _no_content(_CODING, body=b""), 204, end=True),
    Answer("no-content-with-half-a-chunk-and-close", _no_content(_CODING, body=b"0\r\n"), 502, end=True),
    Answer(
        "no-content-with-empty-chunks-and-second-answer",
        _no_content(_CODING, body=b"0\r\n\r\n" + SECOND),
        204,
    ),
    Answer("no-content-with-coding-and-second-answer", _no_content(_CODING, body=SECOND), 502),
    Answer("no-content-with-trailers", _no_content(_CODING, body=b"0\r\nX: y\r\n\r\n"), 502),
    Answer("no-content-with-extension", _no_content(_CODING, body=b"0;a\r\n\r\n"), 502),
    Answer("no-content-with-chunks-that-end-by-lf", _no_content(_CODING, body=b"0\n\n"), 502),
    Answer(
        "no-content-with-two-codings",
        _no_content(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        502,
    ),
    Answer("no-content-with-both", _no_content(_CODING, b"Content-Length: 0", body=b"0\r\n\r\n"), 502),
    Answer(
        "no-content-with-empty-chunks-in-http-1.0",
        ok(_CODING, first=b"HTTP/1.0 204 No Content", body=b"0\r\n\r\n"),
        502,
    ),
    Answer("head-no-content-with-coding", _no_content(_CODING, body=b""), 204, b"HEAD"),
    Answer("head-no-content-with-empty-chunks", _no_content(_CODING, body=b"0\r\n\r\n"), 204, b"HEAD"),
    Answer("no-content-with-body", ok(first=b"HTTP/1.1 204 No Content"), 204),
    Answer("reset-content-with-body", ok(LENGTH, first=b"HTTP/1.1 205 Reset Content"), 205),
    Answer(
        "not-modified-with-chunks",
        ok(b"Transfer-Encoding: chunked", first=b"HTTP/1.1 304 Not Modified", body=CHUNKS),
        304,
    ),
    Answer("not-modified-with-second-answer", ok(first=b"HTTP/1.1 304 Not Modified", body=b"") + SECOND, 304),
    Answer("head-with-chunks", ok(b"Transfer-Encoding: chunked", body=CHUNKS), PASSES, b"HEAD"),
    Answer("head-with-length-list", ok(b"Content-Length: 5, 6", body=b""), 502, b"HEAD"),
    Answer("head-with-two-lengths", ok(LENGTH, b"Content-Length: 6", body=b""), 502, b"HEAD"),
    Answer("head-with-both", ok(LENGTH, b"Transfer-Encoding: chunked", body=b""), 502, b"HEAD"),
    Answer("not-modified-with-body", ok(LENGTH, first=b"HTTP/1.1 304 Not Modified"), 304),
    Answer("head-with-body", ok(LENGTH), PASSES, b"HEAD"),
    Answer("head-with-second-answer", ok(LENGTH, body=b"") + SECOND, PASSES, b"HEAD"),
    Answer("interim-only", b"HTTP/1.1 100 Continue\r\n\r\n", 502, end=True),
    Answer("interim-forty", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40 + ok(LENGTH), 502),
    Answer(
        "interim-with-length", b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello" + ok(LENGTH), 502
    ),
    Answer(
        "interim-with-coding",
        b"HTTP/1.1 103 E\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS + ok(LENGTH),
        502,
    ),
    Answer(
        "interim-with-length-hides-an-answer",
        b"HTTP/1.1 103 E\r\nContent-Length: %d\r\n\r\n" % len(SECOND) + SECOND + ok(LENGTH),
        502,
    ),
    Answer("interim-then-empty-line", _EARLY + b"\r\n" + ok(LENGTH), 502),
    Answer("interim-then-rtsp", _EARLY + ok(LENGTH, first=b"RTSP/1.0 200 OK"), 502),
    Answer(
        "switching-nobody-asked",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nxx",
        502,
    ),
    Answer(
        "interim-with-length-and-no-body", b"HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\n" + ok(LENGTH), 502
    ),
    Answer(
        "interim-with-coding-and-no-body",
        b"HTTP/1.1 103 E\r\nTransfer-Encoding: chunked\r\n\r\n" + ok(LENGTH),
        502,
    ),
    Answer("interim-with-length-zero", b"HTTP/1.1 103 E\r\nContent-Length: 0\r\n\r\n" + ok(LENGTH), PASSES),
    Answer("interim-nobody-asked", b"HTTP/1.1 100 Continue\r\n\r\n" + ok(LENGTH), PASSES),
    Answer("interim-bad-header", b"HTTP/1.1 103 E\r\nX : y\r\n\r\n" + ok(LENGTH), 502),
    Answer("interim-fold", b"HTTP/1.1 103 E\r\nX: y\r\n z\r\n\r\n" + ok(LENGTH), 502),
    Answer("interim-of-another-protocol", b"RTSP/1.0 100 Continue\r\n\r\n" + ok(LENGTH), 502),
    Answer("interim-then-nothing", b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n", 502, end=True),
    Answer(
        "switching-to-another-protocol",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nxx",
        502,
        ask=WEBSOCKET,
    ),
    Answer(
        "switching-to-two-protocols",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\nxx",
        502,
        ask=WEBSOCKET,
    ),
    Answer("switching-to-nothing-named", b"HTTP/1.1 101 Switching Protocols\r\n\r\nxx", 502, ask=WEBSOCKET),
    Answer(
        "switching-with-length",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nxx",
        502,
        ask=WEBSOCKET,
    ),
    Answer(
        "switching-with-coding",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\nxx",
        502,
        ask=WEBSOCKET,
    ),
    Answer("switching-refused-with-second-answer", ok(LENGTH) + SECOND, PASSES, ask=WEBSOCKET),
    Answer("length-with-blanks-around", ok(b"Content-Length: \t 5 \t"), PASSES),
    Answer("length-leading-zeros", ok(b"Content-Length: 0005"), PASSES),
    Answer("length-space-before-colon", ok(b"Content-Length : 5"), 502),
    Answer("length-twice-one-with-space-before-colon", ok(LENGTH, b"Content-Length : 0"), 502),
    Answer("length-nul-in-name", ok(LENGTH, b"Content-\x00Length: 0"), 502),
    Answer("length-fold", ok(b"Content-Length:\r\n 5"), 502),
    Answer("length-hidden-by-bare-cr", ok(b"X: y\rContent-Length: 0", LENGTH), 502),
    Answer("coding-with-blanks-around", ok(b"Transfer-Encoding: \t chunked  ", body=CHUNKS), PASSES),
    Answer("coding-with-underscore", ok(LENGTH, b"Transfer_Encoding: chunked"), PASSES),
    Answer("coding-other-case", ok(b"tRANSFER-eNCODING: cHUNKED", body=CHUNKS), PASSES),
    Answer("chunk-size-upper-case", chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), PASSES),
    Answer("chunk-one-byte-each", chunked(b"1\r\nh\r\n" * 500 + b"0\r\n\r\n"), PASSES),
    Answer("chunk-extension-plain", chunked(b'5;a=b;c="d"\r\nhello\r\n0\r\n\r\n'), PASSES),
    Answer("chunk-last-of-many-zeros", chunked(b"5\r\nhello\r\n00000000\r\n\r\n"), PASSES),
    Answer("chunk-last-ends-by-cr", chunked(b"5\r\nhello\r\n0\r\n\rX" + SECOND), CUT),
    Answer("chunk-last-only-in-data", chunked(b"f\r\n0\r\n\r\n"), CUT, end=True),
    Answer("trailer-nul", chunked(b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n"), CUT),
    Answer("trailer-space-before-colon", chunked(b"5\r\nhello\r\n0\r\nX : 1\r\n\r\n"), CUT),
    Answer(
        "trailer-length-with-underscore", chunked(b"5\r\nhello\r\n0\r\nContent_Length: 9\r\n\r\n"), PASSES
    ),
    Answer("status-line-only-and-close", b"HTTP/1.1 200 OK\r\n", 502, end=True),
    Answer("http-1.0-keep-alive", ok(LENGTH, b"Connection: keep-alive", first=b"HTTP/1.0 200 OK"), PASSES),
    Answer("http-1.0-until-close", ok(first=b"HTTP/1.0 200 OK"), PASSES, end=True),
    Answer("header-name-of-100000-bytes", ok(LENGTH, b"x" * 100_000 + b": y"), 502),
    Answer("value-with-high-bytes", ok(LENGTH, b"X-A: \xe4\xff"), PASSES),
    Answer("value-empty", ok(LENGTH, b"X-A:"), PASSES),
    Answer("phrase-empty", ok(LENGTH, first=b"HTTP/1.1 200 "), PASSES),
    Answer("phrase-with-high-bytes", ok(LENGTH, first=b"HTTP/1.1 200 \xe4"), PASSES),
    Answer("connection-names-cookie-and-length", ok(LENGTH, b"Connection: close, content-length"), PASSES),
    Answer("alternative-services-and-upgrade", ok(LENGTH, b"Upgrade: h2c", b"Connection: Upgrade"), PASSES),
    Answer("switching-without-upgrade", b"HTTP/1.1 101 Switching Protocols\r\n\r\nxx", 502),
    Answer("nothing-and-close", b"", 502, end=True),
    Answer("half-a-head-and-close", b"HTTP/1.1 200 OK\r\nContent-Le", 502, end=True),
    Answer("garbage", bytes(range(256)), 502),
    Answer("connection-names-content-length", ok(LENGTH, b"Connection: content-length"), PASSES),
    Answer("connection-names-set-cookie", ok(LENGTH, b"Connection: set-cookie", b"Set-Cookie: a=b"), PASSES),
    Answer("length-with-underscore", ok(LENGTH, b"Content_Length: 50"), PASSES),
    Answer("proxy-authenticate", ok(LENGTH, b"Proxy-Authenticate: Basic"), PASSES),
    Answer("until-close", ok(body=b"hello"), PASSES, end=True),
    Answer(
        "http-1.0-with-coding", ok(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK", body=CHUNKS), 502
    ),
)
