"""Requests that try to be two things at once, each with what becomes of it.

Owns the table: a name that says the attack, the bytes, and the verdict, which is the status that the sidecar answers
with, the connection closed and no whole request sent on; or PASSES, where it may go on its way in another form: the
upstream then gets one unambiguous request. Run by test_hostile against the sidecar and by peers against nginx and
Envoy too. Sources: RFC 9112 sections 2 to 7 and 11, RFC 9110 sections 5 to 7; the smuggling literature's
families (CL.TE, TE.CL, TE.TE, chunk extensions, hop-by-hop abuse, absolute forms).
"""

from __future__ import annotations

from typing import Final, NamedTuple

PASSES: Final = 200
"""One request reaches the upstream, whole and unambiguous."""

HOST = b"billing.internal"
"""What the route is called by."""


class Hostile(NamedTuple):
    """One case."""

    name: str
    data: bytes
    verdict: int
    requests: int = 0
    """Whole requests that may reach the upstream: none, but where the attack comes after a good one."""


def get(*lines: bytes, target: bytes = b"/x", end: bytes = b"\r\n\r\n") -> bytes:
    """A GET with these further lines."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: " + HOST, *lines]) + end


def post(*lines: bytes, body: bytes = b"hello") -> bytes:
    """A POST with these further lines, and what follows its head."""
    return b"\r\n".join([b"POST /x HTTP/1.1", b"Host: " + HOST, *lines]) + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    """A POST whose body is these bytes."""
    return post(b"Transfer-Encoding: chunked", body=body)


def raw(line: bytes) -> bytes:
    """A request by its start line."""
    return line + b"\r\nHost: " + HOST + b"\r\n\r\n"


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: " + HOST + b"\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
BOTH = b"Content-Length: 5", b"Transfer-Encoding: chunked"

_LENGTHS = {
    "plus": b"+5",
    "minus": b"-5",
    "hexadecimal": b"0x5",
    "list-same": b"5, 5",
    "list-other": b"5, 6",
    "list-tight": b"5,5",
    "list-empty-member": b"5,",
    "list-leading-comma": b",5",
    "empty": b"",
    "inner-space": b"1 0",
    "inner-tab": b"5\t5",
    "fraction": b"5.0",
    "exponent": b"5e0",
    "underscore": b"1_0",
    "parameter": b"5;x",
    "quoted": b'"5"',
    "letters": b"five",
    "overflow-by-one": b"18446744073709551616",
    "overflow-twenty-digits": b"99999999999999999999",
    "overflow-wraps-to-five": b"18446744073709551621",
    "arabic-digit": "\u0665".encode(),
    "fullwidth-digit": "\uff15".encode(),
    "superscript": "\u00b2".encode("latin-1"),
    "nul": b"5\x00",
    "vertical-tab": b"\x0b5",
    "form-feed": b"5\x0c",
    "bare-cr": b"5\r5",
    "minus-zero": b"-0",
    "octal-prefix": b"0o5",
    "list-zero-and-five": b"0, 5",
    "list-tab": b"5\t,\t5",
    "next-line": b"5\x85",
    "no-break-space": b"\xa05",
    "nan": b"NaN",
}

_CODINGS = {
    "chunked-twice": b"chunked, chunked",
    "gzip-chunked": b"gzip, chunked",
    "chunked-gzip": b"chunked, gzip",
    "identity": b"identity",
    "identity-chunked": b"identity, chunked",
    "chunked-identity": b"chunked, identity",
    "x-prefixed": b"xchunked",
    "suffixed": b"chunkedx",
    "parameter": b"chunked;q=1",
    "quoted": b'"chunked"',
    "single-quoted": b"'chunked'",
    "trailing-comma": b"chunked,",
    "leading-comma": b",chunked",
    "unknown": b"cow",
    "unknown-chunked": b"cow, chunked",
    "empty": b"",
    "inner-space": b"chu nked",
    "vertical-tab": b"\x0bchunked",
    "form-feed": b"chunked\x0c",
    "nul": b"chunked\x00",
    "high-byte": b"chunked\xff",
    "no-break-space": b"\xa0chunked",
    "bare-cr": b"\rchunked",
    "deflate": b"deflate",
    "compress-chunked": b"compress, chunked",
    "br": b"br",
    "chunked-space-parameter": b"chunked ;a",
    "line-separator": "\u2028chunked".encode(),
    "kelvin-sign": "chun\u212aed".encode(),
    "backspace": b"x\x08chunked",
}

_CODINGS_MALFORMED = frozenset(
    (
        *("chunked-twice", "chunked-gzip", "chunked-identity", "trailing-comma", "empty"),
        *("vertical-tab", "form-feed", "nul", "bare-cr", "backspace"),
    )
)
"""Where the parser itself says 400; a coding that is not carried is a 501 (RFC 9112 section 6.1)."""

_SIZES = {
    "letters": b"zz",
    "minus": b"-5",
    "plus": b"+5",
    "hex-prefix": b"0x5",
    "leading-space": b" 5",
    "trailing-space": b"5 ",
    "trailing-tab": b"5\t",
    "empty": b"",
    "overflow": b"10000000000000005",
    "overflow-many-digits": b"fffffffffffffffffffff5",
    "underscore": b"0_5",
    "fraction": b"5.",
    "comma": b"5,5",
    "nul": b"5\x00",
    "quoted": b'"5"',
    "high-byte": b"5\xff",
    "bare-cr": b"5\r",
    "vertical-tab": b"5\x0b",
    "space-before-extension": b"5\x0b;a",
    "extension-with-nul": b"5;a\x00b",
    "extension-with-bare-lf": b"5;a\nb",
    "extension-with-bare-cr": b"5;a\rb",
    "extension-with-bare-cr-quoted": b'5;a="\r"',
    "extension-with-bare-lf-quoted": b'5;a="\n"',
    "extension-with-control": b"5;a=\x01",
    "leading-tab": b"\t5",
    "leading-zero-x": b"0x0",
    "letter-g": b"5g",
    "semicolon-only": b";",
    "extension-of-nothing": b"5;",
    "extension-unclosed-quote": b'5;a="b',
    "extension-space-before": b"5 ;a=b",
    "extension-with-high-byte": b"5;\xff",
    "extension-with-delete": b"5;a\x7f",
    "two-sizes": b"5 5",
    "ends-by-two-cr": b"5\r\r",
    "extension-ends-by-lf-hides-a-request": b"5;\nxxx",
}

_LINES = {
    "space-before-colon": b"X-A : 1",
    "tab-before-colon": b"X-A\t: 1",
    "no-colon": b"X-A",
    "empty-name": b": 1",
    "space-name": b" : 1",
    "space-in-name": b"X A: 1",
    "parenthesis-in-name": b"X(A): 1",
    "at-in-name": b"X@A: 1",
    "slash-in-name": b"X/A: 1",
    "quote-in-name": b'X"A: 1',
    "comma-in-name": b"X,A: 1",
    "bracket-in-name": b"X[A]: 1",
    "brace-in-name": b"X{A}: 1",
    "equals-in-name": b"X=A: 1",
    "backslash-in-name": b"X\\A: 1",
    "nul-in-name": b"X\x00A: 1",
    "control-in-name": b"X\x01A: 1",
    "delete-in-name": b"X\x7fA: 1",
    "high-byte-in-name": b"X\xe4: 1",
    "utf8-in-name": "X-\u00e4: 1".encode(),
    "cr-in-name": b"X\rA: 1",
    "nul-in-value": b"X-A: a\x00b",
    "control-in-value": b"X-A: a\x01b",
    "bell-in-value": b"X-A: \x07",
    "vertical-tab-in-value": b"X-A: a\x0bb",
    "form-feed-in-value": b"X-A: a\x0cb",
    "escape-in-value": b"X-A: \x1b[2J",
    "delete-in-value": b"X-A: a\x7fb",
    "bare-cr-in-value": b"X-A: a\rb",
    "bare-cr-hides-a-length": b"X-A: a\rContent-Length: 5",
    "bare-cr-hides-a-coding": b"X-A: a\rTransfer-Encoding: chunked",
    "bare-lf-ends-the-line": b"X-A: a\nX-B: b",
    "bare-lf-hides-a-coding": b"X-A: a\nTransfer-Encoding: chunked",
    "bare-lf-then-fold": b"X-A: a\n b",
    "fold-by-space": b"X-A: a\r\n b",
    "fold-by-tab": b"X-A: a\r\n\tb",
    "fold-of-nothing": b"X-A: a\r\n ",
    "fold-hides-a-coding": b"X-A: a\r\n Transfer-Encoding: chunked",
    "fold-of-a-coding": b"Transfer-Encoding:\r\n chunked",
    "fold-of-a-length": b"Content-Length:\r\n 5",
    "space-before-name": b" X-A: 1",
    "tab-before-name": b"\tX-A: 1",
    "double-cr": b"X-A: a\r\r\nX-B: b",
    "lf-cr": b"X-A: a\n\rX-B: b",
}

_TWINS = (
    *(b"Content_Length: 50", b"content_length: 0", b"CONTENT_LENGTH: 5"),
    *(b"Transfer_Encoding: chunked", b"transfer_encoding: identity"),
    *(b"X_Serverless_Authorization: Bearer mine", b"X-Serverless_Authorization: Bearer mine"),
    *(
        b"Proxy_Authorization: Basic eA==",
        b"Keep_Alive: timeout=9",
        b"Proxy_Connection: close",
        b"HTTP2_Settings: AAMA",
    ),
)
"""Names that CGI, WSGI and their heirs can't tell from those that frame and authenticate."""

_PATHS = {
    "percent-at-end": (b"/x%", 400),
    "percent-one-digit": (b"/x%2", 400),
    "percent-one-digit-then-slash": (b"/x%2/y", 400),
    "percent-u": (b"/x%u002e", 400),
    "percent-plus": (b"/x%+2", 400),
    "percent-with-space-digit": (b"/x% 0", 400),
    "percent-in-query": (b"/x?%zz", PASSES),
    "encoded-nul-in-query": (b"/x?%00", PASSES),
    "encoded-nul-before-suffix": (b"/x%00.html", 400),
    "encoded-dots-out-of-root": (b"/%2e%2e/x", 400),
    "encoded-dots-upper-case-out-of-root": (b"/%2E%2E/x", 400),
    "half-encoded-dots-out-of-root": (b"/.%2e/x", 400),
    "encoded-slashes-out-of-root": (b"/a/..%2f..%2fx", 400),
    "dots-out-of-root-at-end": (b"/..", 400),
    "dots-out-of-root-behind-empty-segments": (b"/a//../../x", 400),
    "dots-out-of-root-and-back": (b"/../x/..", 400),
    "dots-in-query": (b"/x?/../../y", PASSES),
    "dots-inside-root": (b"/a/b/../../x", PASSES),
    "dots-and-parameter": (b"/a/..;/x", PASSES),
    "three-dots": (b"/.../x", PASSES),
    "twice-encoded-dots": (b"/%252e%252e/x", PASSES),
    "overlong-utf-8-dots": (b"/%c0%ae%c0%ae/x", PASSES),
    "encoded-backslashes": (b"/a%5c..%5cx", PASSES),
    "encoded-high-byte": (b"/x%ff", PASSES),
    "encoded-delete": (b"/x%7f", PASSES),
    "encoded-space": (b"/x%20HTTP/1.1", PASSES),
    "encoded-fragment": (b"/x%23y", PASSES),
    "pipe": (b"/x|y", PASSES),
    "braces": (b"/{x}", PASSES),
    "brackets": (b"/x[1]", PASSES),
    "asterisk": (b"/*", PASSES),
    "at-sign": (b"/@evil.example/x", PASSES),
    "absolute-form-behind-slash": (b"/http://evil.example/x", PASSES),
}

_START_LINES = {
    "two-spaces-before-target": (b"GET  /x HTTP/1.1", 400),
    "two-spaces-before-version": (b"GET /x  HTTP/1.1", 400),
    "tab-before-target": (b"GET\t/x HTTP/1.1", 501),
    "tab-before-version": (b"GET /x\tHTTP/1.1", 400),
    "vertical-tab-before-version": (b"GET /x\x0bHTTP/1.1", 400),
    "space-before-method": (b" GET /x HTTP/1.1", 400),
    "tab-before-method": (b"\tGET /x HTTP/1.1", 400),
    "space-after-version": (b"GET /x HTTP/1.1 ", 400),
    "tab-after-version": (b"GET /x HTTP/1.1\t", 400),
    "text-after-version": (b"GET /x HTTP/1.1 X", 400),
    "version-lower-case": (b"GET /x http/1.1", 400),
    "version-1.2": (b"GET /x HTTP/1.2", 400),
    "version-1.9": (b"GET /x HTTP/1.9", 400),
    "version-2.0": (b"GET /x HTTP/2.0", 400),
    "version-2": (b"GET /x HTTP/2", 400),
    "version-3.0": (b"GET /x HTTP/3.0", 400),
    "version-0.9": (b"GET /x HTTP/0.9", 400),
    "version-one-digit": (b"GET /x HTTP/1", 400),
    "version-no-minor": (b"GET /x HTTP/1.", 400),
    "version-two-digits": (b"GET /x HTTP/1.10", 400),
    "version-leading-zero": (b"GET /x HTTP/01.1", 400),
    "version-no-dot": (b"GET /x HTTP/11", 400),
    "version-comma": (b"GET /x HTTP/1,1", 400),
    "version-inner-space": (b"GET /x HTTP/ 1.1", 400),
    "version-space-before-slash": (b"GET /x HTTP /1.1", 400),
    "version-other-protocol": (b"GET /x ICE/1.0", 400),
    "version-rtsp": (b"OPTIONS /x RTSP/1.0", 400),
    "version-missing": (b"GET /x", 400),
    "version-missing-with-space": (b"GET /x ", 400),
    "nothing-but-a-method": (b"GET", 501),
    "method-lower-case": (b"get /x HTTP/1.1", 501),
    "method-mixed-case": (b"Get /x HTTP/1.1", 501),
    "method-unknown": (b"FOO /x HTTP/1.1", 501),
    "method-empty": (b" /x HTTP/1.1", 400),
    "method-with-nul": (b"GET\x00 /x HTTP/1.1", 501),
    "method-with-parenthesis": (b"G(T /x HTTP/1.1", 501),
    "method-with-colon": (b"GET: /x HTTP/1.1", 501),
    "method-with-slash": (b"GET/x HTTP/1.1", 501),
    "method-prefix-of-another": (b"GETX /x HTTP/1.1", 501),
    "method-high-byte": (b"G\xc9T /x HTTP/1.1", 501),
    "method-of-4000-letters": (b"A" * 4000 + b" /x HTTP/1.1", 501),
    "method-source": (b"SOURCE /x HTTP/1.1", 501),
    "method-pri": (b"PRI /x HTTP/1.1", 400),
    "method-connect": (b"CONNECT billing.internal:443 HTTP/1.1", 501),
    "method-connect-path": (b"CONNECT /x HTTP/1.1", 400),
    "method-trace": (b"TRACE /x HTTP/1.1", 501),
    "method-rtsp-describe": (b"DESCRIBE /x HTTP/1.1", 400),
    "target-empty": (b"GET  HTTP/1.1", 400),
    "target-relative": (b"GET x HTTP/1.1", 400),
    "target-dots": (b"GET ../x HTTP/1.1", 400),
    "target-authority-form": (b"GET billing.internal:80 HTTP/1.1", 400),
    "target-asterisk-for-get": (b"GET * HTTP/1.1", 400),
    "target-asterisk-and-more": (b"OPTIONS *x HTTP/1.1", 400),
    "target-query-only": (b"GET ?x HTTP/1.1", 400),
    "target-with-space": (b"GET /x y HTTP/1.1", 400),
    "target-with-tab": (b"GET /x\ty HTTP/1.1", 400),
    "target-with-nul": (b"GET /x\x00y HTTP/1.1", 400),
    "target-with-control": (b"GET /x\x01y HTTP/1.1", 400),
    "target-with-bare-cr": (b"GET /x\ry HTTP/1.1", 400),
    "target-with-bare-lf": (b"GET /x\ny HTTP/1.1", 400),
    "target-with-delete": (b"GET /x\x7fy HTTP/1.1", 400),
    "target-with-high-byte": (b"GET /x\xe4 HTTP/1.1", PASSES),
    "target-with-utf8": ("GET /\u00e4 HTTP/1.1".encode(), PASSES),
    "target-with-high-byte-in-query": (b"GET /x?q=\xff HTTP/1.1", PASSES),
    "target-with-high-bytes-behind-percent": (b"GET /x%\xff HTTP/1.1", 400),
    "target-with-high-bytes-behind-percent-in-query": (b"GET /x?%\xff%c3\xa4 HTTP/1.1", PASSES),
    "target-with-high-bytes-out-of-root": (b"GET /\xff/../../x HTTP/1.1", 400),
    "target-with-overlong-dots": (b"GET /a/\xc0\xae\xc0\xae/x HTTP/1.1", PASSES),
    "target-with-next-line": (b"GET /x\x85y HTTP/1.1", PASSES),
    "target-with-line-separator": ("GET /x\u2028y HTTP/1.1".encode(), PASSES),
    "target-with-high-byte-and-fragment": (b"GET /x\xe4#y HTTP/1.1", 400),
    "target-with-high-byte-and-nul": (b"GET /x\xe4\x00y HTTP/1.1", 400),
    "target-with-high-byte-and-bare-lf": (b"GET /x\xe4\ny HTTP/1.1", 400),
    "target-with-high-byte-first": (b"GET \xe4/x HTTP/1.1", 400),
    "no-break-space-before-target": (b"GET\xa0/x HTTP/1.1", 501),
    "no-break-space-before-version": (b"GET /x\xa0HTTP/1.1", 400),
    "target-of-6000-high-bytes": (b"GET /" + b"\xe4" * 6000 + b" HTTP/1.1", 414),
    "target-absolute-with-high-byte": (b"GET http://billing.internal/x\xe4?\xff HTTP/1.1", PASSES),
    "target-absolute-with-high-byte-in-query-only": (b"GET http://billing.internal?\xff/ HTTP/1.1", PASSES),
    "target-absolute-with-high-byte-in-host": (b"GET http://billing\xe4.internal/x HTTP/1.1", 400),
    "target-absolute-with-high-byte-in-userinfo": (b"GET http://\xe4@billing.internal/x HTTP/1.1", 400),
    "target-with-fragment": (b"GET /x#y HTTP/1.1", 400),
    "target-with-quote": (b'GET /x"y HTTP/1.1', PASSES),
    "target-with-angle-bracket": (b"GET /x<y HTTP/1.1", PASSES),
    "target-with-backslash": (b"GET /x\\..\\y HTTP/1.1", PASSES),
    "target-with-caret": (b"GET /x^y HTTP/1.1", PASSES),
    "target-with-backtick": (b"GET /x`y HTTP/1.1", PASSES),
    "target-absolute-other-host": (b"GET http://evil.example/x HTTP/1.1", 404),
    "target-absolute-other-port": (b"GET http://billing.internal:81/x HTTP/1.1", PASSES),
    "target-absolute-userinfo": (b"GET http://u:p@billing.internal/x HTTP/1.1", 400),
    "target-absolute-userinfo-of-host": (b"GET http://billing.internal@evil.example/x HTTP/1.1", 400),
    "target-absolute-empty-host": (b"GET http:///x HTTP/1.1", 400),
    "target-absolute-no-slashes": (b"GET http:x HTTP/1.1", 400),
    "target-absolute-one-slash": (b"GET http:/x HTTP/1.1", 400),
    "target-absolute-bad-port": (b"GET http://billing.internal:x/ HTTP/1.1", 400),
    "target-absolute-huge-port": (b"GET http://billing.internal:99999/ HTTP/1.1", 400),
    "target-absolute-ftp": (b"GET ftp://billing.internal/x HTTP/1.1", 400),
    "target-absolute-file": (b"GET file:///etc/passwd HTTP/1.1", 400),
    "target-absolute-gopher": (b"GET gopher://billing.internal:6379/_x HTTP/1.1", 400),
    "target-absolute-javascript": (b"GET javascript:alert(1) HTTP/1.1", 400),
    "target-absolute-backslash-host": (b"GET http://billing.internal\\@evil.example/ HTTP/1.1", 400),
    "target-absolute-percent-host": (b"GET http://billing%2einternal/x HTTP/1.1", 400),
    "target-absolute-query-as-path-end": (b"GET http://evil.example?billing.internal/ HTTP/1.1", 404),
    "target-absolute-fragment": (b"GET http://billing.internal/#x HTTP/1.1", 400),
    "target-absolute-port-80": (b"GET http://billing.internal:80/x HTTP/1.1", PASSES),
    "target-absolute-trailing-dot": (b"GET http://billing.internal./x HTTP/1.1", PASSES),
    "target-absolute-upper-case": (b"GET HTTP://BILLING.internal/x HTTP/1.1", PASSES),
    "target-absolute-https": (b"GET https://billing.internal/x HTTP/1.1", 400),
    "target-absolute-no-path": (b"GET http://billing.internal HTTP/1.1", PASSES),
    "target-absolute-query-without-path": (b"GET http://billing.internal?x HTTP/1.1", PASSES),
    "target-absolute-bad-percent": (b"GET http://billing.internal/%zz HTTP/1.1", 400),
    "target-absolute-dots-out-of-root": (b"GET http://billing.internal/../x HTTP/1.1", 400),
    "target-absolute-ws": (b"GET ws://billing.internal/x HTTP/1.1", 400),
    "target-absolute-no-host-but-port": (b"GET http://:80/x HTTP/1.1", 400),
    "target-absolute-for-options-without-path": (b"OPTIONS http://billing.internal HTTP/1.1", PASSES),
    "target-asterisk-for-options": (b"OPTIONS * HTTP/1.1", PASSES),
    "target-with-space-at-end": (b"GET /x  HTTP/1.1", 400),
    "method-of-http-2": (b":method GET /x HTTP/1.1", 400),
    "method-with-crlf-encoded": (b"GET%0d%0a /x HTTP/1.1", 501),
    "version-with-nul": (b"GET /x HTTP/1.1\x00", 400),
    "version-ends-by-two-cr": (b"GET /x HTTP/1.1\r", 400),
    "target-of-40000-bytes": (b"GET /" + b"a" * 40000 + b" HTTP/1.1", 414),
}

_HOSTS = {
    "two-same": (b"Host: billing.internal\r\nHost: billing.internal", 400),
    "two-other": (b"Host: billing.internal\r\nHost: evil.example", 400),
    "two-other-case": (b"Host: billing.internal\r\nhOST: evil.example", 400),
    "one-empty-one-good": (b"Host:\r\nHost: billing.internal", 400),
    "list": (b"Host: billing.internal, evil.example", 400),
    "empty": (b"Host:", 400),
    "blanks": (b"Host:   \t ", 400),
    "with-scheme": (b"Host: http://billing.internal", 400),
    "with-path": (b"Host: billing.internal/x", 400),
    "with-query": (b"Host: billing.internal?x", 400),
    "with-fragment": (b"Host: billing.internal#x", 400),
    "with-userinfo": (b"Host: evil@billing.internal", 400),
    "with-inner-space": (b"Host: billing.internal evil.example", 400),
    "with-inner-tab": (b"Host: billing.internal\tevil.example", 400),
    "with-bad-port": (b"Host: billing.internal:x", 400),
    "with-huge-port": (b"Host: billing.internal:99999", 400),
    "with-negative-port": (b"Host: billing.internal:-1", 400),
    "with-two-ports": (b"Host: billing.internal:80:81", 400),
    "with-port-and-path": (b"Host: billing.internal:80/x", 400),
    "with-nul": (b"Host: billing.internal\x00.evil.example", 400),
    "with-control": (b"Host: billing\x01.internal", 400),
    "with-percent": (b"Host: billing%2einternal", 400),
    "with-high-byte": (b"Host: billing\xe4.internal", 400),
    "with-backslash": (b"Host: billing.internal\\evil", 400),
    "with-asterisk": (b"Host: *.internal", 400),
    "with-bare-cr": (b"Host: billing.internal\rX: y", 400),
    "folded": (b"Host: billing\r\n .internal", 400),
    "unclosed-bracket": (b"Host: [::1", 400),
    "text-after-bracket": (b"Host: [::1]x", 400),
    "name-in-brackets": (b"Host: [billing.internal]", 400),
    "empty-label": (b"Host: billing..internal", 400),
    "leading-dot": (b"Host: .billing.internal", 400),
    "quoted": (b'Host: "billing.internal"', 400),
    "space-before-colon": (b"Host : billing.internal", 400),
    "of-254-bytes": (b"Host: " + b"a." * 127 + b"a", 400),
    "missing": (b"X-A: 1", 400),
    "compatible-letter": ("Host: bi\u217cling.internal".encode(), 400),
    "fullwidth-dot": ("Host: billing\uff0einternal".encode(), 400),
    "soft-hyphen": ("Host: bill\u00ading.internal".encode(), 400),
    "ipv6-zone": (b"Host: [fe80::1%25eth0]", 400),
    "ipv6-without-brackets": (b"Host: ::1", 400),
    "port-with-plus": (b"Host: billing.internal:+80", 400),
    "port-with-space": (b"Host: billing.internal: 80", 400),
    "port-of-six-digits": (b"Host: billing.internal:000080", 400),
    "two-dots-at-end": (b"Host: billing.internal..", 400),
    "with-semicolon": (b"Host: billing.internal;x", 400),
    "with-hash-and-port": (b"Host: billing.internal:80#@evil.example", 400),
    "with-tab-at-end": (b"Host: billing.internal\t", 400),
    "upper-case": (b"Host: BILLING.Internal", PASSES),
    "dot-at-end": (b"Host: billing.internal.", PASSES),
    "port-80": (b"Host: billing.internal:80", PASSES),
    "port-empty": (b"Host: billing.internal:", PASSES),
    "port-0": (b"Host: billing.internal:0", PASSES),
    "loopback-octal": (b"Host: 0177.0.0.1", 404),
    "forwarded-to-another": (
        b"Host: billing.internal\r\nX-Forwarded-Host: evil.example\r\nForwarded: host=evil.example",
        PASSES,
    ),
}

_HOSTS_BESIDE = {
    "empty": (b"Host:", 400),
    "two-same": (b"Host: billing.internal\r\nHost: billing.internal", 400),
    "two-other": (b"Host: evil.example\r\nHost: billing.internal", 400),
    "list": (b"Host: billing.internal, evil.example", 400),
    "with-userinfo": (b"Host: evil@billing.internal", 400),
    "with-path": (b"Host: billing.internal/x", 400),
    "with-inner-space": (b"Host: billing.internal evil.example", 400),
    "with-bad-port": (b"Host: billing.internal:x", 400),
    "with-high-byte": (b"Host: billing\xe4.internal", 400),
    "tab-before": (b"Host:\tbilling.internal", 400),
    "port-80": (b"Host: billing.internal:80", PASSES),
    "dot-at-end": (b"Host: billing.internal.", PASSES),
    "upper-case": (b"Host: BILLING.Internal", PASSES),
    "of-the-proxy": (b"Host: localhost:8787", PASSES),
    "of-the-proxys-address": (b"Host: [::1]:8787", PASSES),
    "of-another": (b"Host: evil.example", PASSES),
}
"""Beside an absolute target of the route's: not what decides (RFC 9112 section 3.2.2), but a Host all the same."""

_TRAILERS = {
    "no-colon": b"X",
    "space-before-colon": b"X : 1",
    "empty-name": b": 1",
    "non-token-name": b"X(Y): 1",
    "nul-in-value": b"X: \x00",
    "control-in-value": b"X: \x01",
    "fold": b"X: 1\r\n 2",
    "bare-cr": b"X: 1\rY: 2",
    "bare-lf": b"X: 1\nY: 2",
    "high-byte-in-name": b"X\xe4: 1",
    "delete-in-value": b"X: \x7f",
    "space-before-name": b" X: 1",
    "double-cr": b"X: 1\r\r\nY: 2",
}

_CONNECTION = {
    "authorization": b"authorization",
    "cookie": b"cookie",
    "content-length": b"content-length",
    "x-serverless-authorization": b"X-Serverless-Authorization",
    "via": b"via",
    "close-and-authorization": b"close, authorization",
    "close-and-serverless": b"close, x-serverless-authorization",
    "nine-names": b", ".join(b"x-%d" % number for number in range(9)),
    "trailer": b"trailer",
    "expect": b"expect",
    "close-and-keep-alive": b"close, keep-alive",
    "itself": b"connection",
    "upgrade-without-one": b"upgrade",
    "te-without-one": b"te",
    "commas-only": b",,,,,",
    "junk-members": b"a b, (c), =",
}

_CONNECTION_REFUSED = {
    "host": b"host",
    "close-and-host": b"close, Host",
    "ten-names": b", ".join(b"x-%d" % number for number in range(10)),
    "x-forwarded-for": b"x-forwarded-for",
    "x-forwarded-host": b"close, X-Forwarded-Host",
    "x-forwarded-proto": b"x-forwarded-proto",
    "pseudo-header": b":path",
    "two-hundred-names": b", ".join(b"x-%d" % number for number in range(200)),
}

REQUESTS: Final[tuple[Hostile, ...]] = (
    *(Hostile(f"length-{name}", post(b"Content-Length: " + value), 400) for name, value in _LENGTHS.items()),
    Hostile("length-twice-same", post(b"Content-Length: 5", b"Content-Length: 5"), 400),
    Hostile("length-twice-other", post(b"Content-Length: 5", b"Content-Length: 0"), 400),
    Hostile("length-twice-other-case", post(b"Content-Length: 5", b"content-length: 6"), 400),
    Hostile("length-space-before-colon", post(b"Content-Length : 5"), 400),
    Hostile(
        "length-twice-one-with-space-before-colon", post(b"Content-Length: 5", b"Content-Length : 0"), 400
    ),
    Hostile("length-nul-in-name", post(b"Content-Length: 5", b"Content-\x00Length: 0"), 400),
    Hostile("length-then-coding", post(*BOTH, body=CHUNKS), 400),
    Hostile("coding-then-length", post(*reversed(BOTH), body=CHUNKS), 400),
    Hostile("length-and-coding-cl.te", post(*BOTH, body=b"0\r\n\r\n" + SMUGGLED), 400),
    Hostile("length-and-coding-te.cl", post(*BOTH, body=b"1e\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"), 400),
    Hostile(
        "length-zero-and-coding", post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=CHUNKS), 400
    ),
    Hostile("length-and-identity", post(b"Content-Length: 5", b"Transfer-Encoding: identity"), 400),
    Hostile("length-and-unknown-coding", post(b"Content-Length: 5", b"Transfer-Encoding: cow"), 400),
    Hostile("length-and-empty-coding", post(b"Content-Length: 5", b"Transfer-Encoding:"), 400),
    *(
        Hostile(
            f"coding-{name}",
            post(b"Transfer-Encoding: " + value, body=CHUNKS),
            400 if name in _CODINGS_MALFORMED else 501,
        )
        for name, value in _CODINGS.items()
    ),
    Hostile("coding-two-lines", post(*[b"Transfer-Encoding: chunked"] * 2, body=CHUNKS), 400),
    Hostile(
        "coding-two-lines-last-identity",
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=CHUNKS),
        400,
    ),
    Hostile(
        "coding-two-lines-first-identity",
        post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=CHUNKS),
        501,
    ),
    Hostile("coding-space-before-colon", post(b"Transfer-Encoding : chunked", body=CHUNKS), 400),
    Hostile("coding-space-before-name", post(b"X: y", b" Transfer-Encoding: chunked", body=CHUNKS), 400),
    Hostile("coding-nul-before-name", post(b"\x00Transfer-Encoding: chunked", body=CHUNKS), 400),
    Hostile("coding-nul-in-name", post(b"Transfer-\x00Encoding: chunked", body=CHUNKS), 400),
    Hostile(
        "coding-in-http-1.0",
        b"POST /x HTTP/1.0\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        400,
    ),
    *(
        Hostile(f"chunk-size-{name}", chunked(value + b"\r\nhello\r\n0\r\n\r\n"), 400)
        for name, value in _SIZES.items()
    ),
    Hostile("chunk-size-line-of-100000-zeros", chunked(b"0" * 100_000 + b"5\r\nhello\r\n0\r\n\r\n"), 431),
    Hostile(
        "chunk-extension-of-100000-bytes", chunked(b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"), 431
    ),
    Hostile("chunk-size-ends-by-lf", chunked(b"5\nhello\r\n0\r\n\r\n"), 400),
    Hostile("chunk-size-ends-by-cr", chunked(b"5\rhello\r\n0\r\n\r\n"), 400),
    Hostile("chunk-data-ends-by-lf", chunked(b"5\r\nhello\n0\r\n\r\n"), 400),
    Hostile("chunk-data-ends-by-cr", chunked(b"5\r\nhello\r0\r\n\r\n"), 400),
    Hostile("chunk-data-ends-by-nothing", chunked(b"5\r\nhello0\r\n\r\n"), 400),
    Hostile("chunk-data-too-long", chunked(b"5\r\nhello world\r\n0\r\n\r\n"), 400),
    Hostile("chunk-data-too-short", chunked(b"5\r\nhel\r\n0\r\n\r\n" + SMUGGLED), 400),
    Hostile("chunk-data-ends-by-two-other-bytes", chunked(b"5\r\nhelloXX0\r\n\r\n"), 400),
    Hostile("chunk-last-ends-by-lf", chunked(b"5\r\nhello\r\n0\n\n" + SMUGGLED), 400),
    Hostile("chunk-last-ends-by-lf-only", chunked(b"5\r\nhello\r\n0\r\n\n" + SMUGGLED), 400),
    Hostile("chunk-last-ends-by-cr", chunked(b"5\r\nhello\r\n0\r\n\rX" + SMUGGLED), 400),
    Hostile("chunk-last-is-negative-zero", chunked(b"5\r\nhello\r\n-0\r\n\r\n"), 400),
    *(
        Hostile(f"trailer-{name}", chunked(b"5\r\nhello\r\n0\r\n" + value + b"\r\n\r\n"), 400)
        for name, value in _TRAILERS.items()
    ),
    Hostile("trailers-of-100000-bytes", chunked(b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"), 431),
    Hostile("trailer-of-100000-bytes", chunked(b"0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), 431),
    *(
        Hostile(
            f"trailer-is-{name.decode().lower()}",
            chunked(b"5\r\nhello\r\n0\r\n" + name + b": 9\r\n\r\n"),
            PASSES,
            1,
        )
        for name in (
            *(b"Host", b"Authorization", b"Connection", b"Via"),
            *(b"X-Serverless-Authorization", b"Proxy-Authorization", b"Cookie", b"Expect", b"Upgrade", b"TE"),
        )
    ),
    *(
        Hostile(
            f"trailer-is-{name.decode().lower()}",
            chunked(b"5\r\nhello\r\n0\r\n" + name + b": 9\r\n\r\n"),
            400,
        )
        for name in (b"Content-Length", b"Transfer-Encoding")
    ),
    *(Hostile(f"header-{name}", get(value), 400) for name, value in _LINES.items()),
    Hostile("header-lines-end-by-lf", b"GET /x HTTP/1.1\nHost: billing.internal\n\n", 400),
    Hostile("header-section-ends-by-lf", get(end=b"\r\n\n"), 400),
    Hostile("header-section-ends-by-cr", get(end=b"\r\n\rX\r\n"), 400),
    Hostile("header-section-begins-with-space", b"GET /x HTTP/1.1\r\n Host: billing.internal\r\n\r\n", 400),
    Hostile("headers-1000", get(*[b"X-A: 1"] * 1000), 431),
    Hostile("header-of-100000-bytes", get(b"X-A: " + b"a" * 100_000), 431),
    Hostile("header-name-of-100000-bytes", get(b"a" * 100_000 + b": 1"), 431),
    Hostile("head-without-end", get(b"X-A: 1\r\n" * 20_000, end=b"\r\n"), 431),
    Hostile("empty-lines-100000", b"\r\n" * 100_000 + get(), 431),
    *(
        Hostile(f"start-{name}", raw(line), verdict, int(verdict == PASSES))
        for name, (line, verdict) in _START_LINES.items()
    ),
    Hostile("start-http-0.9", b"GET /x\r\n", 400),
    Hostile("start-http-0.9-ends-by-two", b"GET /x\r\n\r\n", 400),
    Hostile("start-target-of-200000-bytes", raw(b"GET /" + b"a" * 200_000 + b" HTTP/1.1"), 414),
    Hostile("start-lf-before", b"\n" + get(), 400),
    Hostile("start-cr-before", b"\r" + get(), 400),
    Hostile("start-nul-before", b"\x00" + get(), 400),
    Hostile("start-byte-order-mark", b"\xef\xbb\xbf" + get(), 400),
    Hostile("start-tls-client-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 64, 400),
    Hostile("start-socks-5", b"\x05\x01\x00", 400),
    Hostile("start-proxy-protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(), 501),
    *(
        Hostile(f"host-{name}", b"GET /x HTTP/1.1\r\n" + line + b"\r\n\r\n", verdict, int(verdict == PASSES))
        for name, (line, verdict) in _HOSTS.items()
    ),
    Hostile("host-missing-with-absolute-target", b"GET http://billing.internal/x HTTP/1.1\r\n\r\n", 400),
    *(
        Hostile(
            f"host-{name}-with-absolute-target",
            b"GET http://billing.internal/x HTTP/1.1\r\n" + line + b"\r\n\r\n",
            verdict,
            int(verdict == PASSES),
        )
        for name, (line, verdict) in _HOSTS_BESIDE.items()
    ),
    Hostile(
        "host-of-the-route-with-absolute-target-of-another",
        b"GET http://evil.example/x HTTP/1.1\r\nHost: billing.internal\r\n\r\n",
        404,
    ),
    Hostile(
        "host-missing-with-absolute-target-in-http-1.0",
        b"GET http://billing.internal/x HTTP/1.0\r\n\r\n",
        PASSES,
        1,
    ),
    Hostile("host-unknown", b"GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 404),
    *(
        Hostile(f"connection-names-{name}", get(b"Connection: " + value), PASSES, 1)
        for name, value in _CONNECTION.items()
    ),
    *(
        Hostile(f"connection-names-{name}", get(b"Connection: " + value), 400)
        for name, value in _CONNECTION_REFUSED.items()
    ),
    Hostile("connection-twice-names-host", get(b"Connection: close", b"connection: host"), 400),
    Hostile(
        "connection-names-content-length-with-body",
        post(b"Content-Length: 5", b"Connection: content-length"),
        PASSES,
        1,
    ),
    Hostile(
        "connection-names-transfer-encoding-with-body",
        post(b"Transfer-Encoding: chunked", b"Connection: transfer-encoding", body=CHUNKS),
        PASSES,
        1,
    ),
    Hostile(
        "upgrade-h2c",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
        PASSES,
        1,
    ),
    Hostile("upgrade-h2c-and-websocket", get(b"Connection: Upgrade", b"Upgrade: websocket, h2c"), PASSES, 1),
    Hostile(
        "upgrade-h2c-and-websocket-in-two-lines",
        get(b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket"),
        PASSES,
        1,
    ),
    Hostile(
        "upgrade-h2c-and-websocket-with-length",
        post(
            b"Connection: Upgrade",
            b"Upgrade: h2c, WebSocket",
            b"Content-Length: %d" % len(SMUGGLED),
            body=SMUGGLED,
        ),
        400,
    ),
    Hostile("upgrade-tls", get(b"Connection: Upgrade", b"Upgrade: TLS/1.2"), PASSES, 1),
    Hostile(
        "upgrade-tls-with-length-hides-a-request",
        post(
            b"Connection: Upgrade", b"Upgrade: TLS/1.2", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED
        ),
        PASSES,
        1,
    ),
    Hostile(
        "upgrade-tls-with-chunks-hides-a-request",
        post(
            b"Connection: Upgrade",
            b"Upgrade: TLS/1.2, HTTP/2.0",
            b"Transfer-Encoding: chunked",
            body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        ),
        PASSES,
        1,
    ),
    Hostile(
        "upgrade-tls-with-both",
        post(b"Connection: Upgrade", b"Upgrade: TLS/1.2", *BOTH, body=CHUNKS),
        400,
    ),
    Hostile(
        "upgrade-websocket-of-a-version", get(b"Connection: Upgrade", b"Upgrade: websocket/13"), PASSES, 1
    ),
    Hostile("upgrade-h2c-without-connection", get(b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), PASSES, 1),
    Hostile("upgrade-websocket-without-connection", get(b"Upgrade: websocket"), PASSES, 1),
    Hostile(
        "upgrade-in-http-1.0",
        b"GET /x HTTP/1.0\r\nHost: billing.internal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        PASSES,
        1,
    ),
    Hostile("upgrade-http2-settings-alone", get(b"HTTP2-Settings: AAMAAABk"), PASSES, 1),
    Hostile("upgrade-empty", get(b"Connection: Upgrade", b"Upgrade:"), 400),
    Hostile("upgrade-of-a-comma", get(b"Connection: Upgrade", b"Upgrade: ,"), 400),
    Hostile("upgrade-with-nul", get(b"Connection: Upgrade", b"Upgrade: websocket\x00"), 400),
    Hostile(
        "upgrade-get-with-length-hides-a-request",
        get(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
        400,
    ),
    Hostile(
        "upgrade-refused-by-upstream-hides-a-request",
        get(b"Connection: Upgrade, close", b"Upgrade: websocket") + SMUGGLED,
        PASSES,
        1,
    ),
    Hostile(
        "upgrade-with-length",
        post(
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Content-Length: %d" % len(SMUGGLED),
            body=SMUGGLED,
        ),
        400,
    ),
    Hostile(
        "upgrade-with-chunks",
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked", body=CHUNKS),
        400,
    ),
    Hostile(
        "upgrade-h2c-with-length-hides-a-request",
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
        PASSES,
        1,
    ),
    Hostile("upgrade-header-junk", get(b"Connection: Upgrade", b"Upgrade: (x)"), 400),
    Hostile("expect-other", post(b"Expect: 200-ok", b"Content-Length: 5"), 417),
    Hostile("expect-continue-and-other", post(b"Expect: 100-continue, x", b"Content-Length: 5"), 417),
    Hostile(
        "expect-twice", post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 5"), 417
    ),
    Hostile("expect-empty", post(b"Expect:", b"Content-Length: 5"), 417),
    Hostile("expect-parameter", post(b"Expect: 100-continue;q=1", b"Content-Length: 5"), 417),
    Hostile("expect-quoted", post(b'Expect: "100-continue"', b"Content-Length: 5"), 417),
    Hostile("expect-word-before", post(b"Expect: y 100-continue", b"Content-Length: 5"), 417),
    Hostile("expect-space-before-colon", post(b"Expect : 100-continue", b"Content-Length: 5"), 400),
    Hostile("expect-fold", post(b"Expect:\r\n 100-continue", b"Content-Length: 5"), 400),
    Hostile("expect-with-bare-cr", post(b"Expect: 100-continue\rX", b"Content-Length: 5"), 400),
    Hostile(
        "expect-twice-first-other", post(b"Expect: x", b"Expect: 100-continue", b"Content-Length: 5"), 417
    ),
    Hostile("expect-upper-case", post(b"EXPECT: 100-CONTINUE", b"Content-Length: 5"), PASSES, 1),
    Hostile("expect-without-body", get(b"Expect: 100-continue"), PASSES, 1),
    Hostile(
        "expect-with-length-hides-a-request",
        get(b"Expect: 100-continue", b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
        PASSES,
        1,
    ),
    *(
        Hostile(f"underscore-{line.partition(b':')[0].decode()}", post(b"Content-Length: 5", line), 400)
        for line in _TWINS
    ),
    *(
        Hostile(
            f"trailer-is-{name.decode()}",
            chunked(b"5\r\nhello\r\n0\r\n" + name + b": 9\r\n\r\n"),
            PASSES,
            1,
        )
        for name in (b"Content_Length", b"Transfer_Encoding", b"X_Serverless_Authorization", b"Set-Cookie")
    ),
    Hostile("token-header-in-other-case", get(b"x-SERVERLESS-authorization: Bearer mine"), PASSES, 1),
    Hostile("pipelined-garbage-after-a-good-one", get() + b"\x00\x00\x00\x00\r\n\r\n", PASSES, 1),
    Hostile("pipelined-bad-length-after-a-good-one", get() + post(b"Content-Length: x"), PASSES, 1),
    Hostile("pipelined-both-after-a-good-one", get() + post(*BOTH, body=CHUNKS), PASSES, 1),
    Hostile("pipelined-after-close", get(b"Connection: close") + SMUGGLED, PASSES, 1),
    Hostile(
        "get-with-length-hides-a-request", get(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED, PASSES, 1
    ),
    Hostile(
        "delete-with-chunks-hides-a-request",
        b"DELETE /x HTTP/1.1\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(SMUGGLED), SMUGGLED),
        PASSES,
        1,
    ),
    Hostile(
        "pipelined-two-spaces-after-chunks",
        chunked(CHUNKS) + b"GET  /smuggled HTTP/1.1\r\nHost: b\r\n\r\n",
        PASSES,
        1,
    ),
    Hostile(
        "pipelined-rtsp-after-length",
        post(b"Content-Length: 5") + b"OPTIONS /smuggled RTSP/1.0\r\nHost: billing.internal\r\n\r\n",
        PASSES,
        1,
    ),
    Hostile(
        "get-with-chunks-hides-a-request",
        get(b"Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        PASSES,
        1,
    ),
    Hostile(
        "options-with-length-hides-a-request",
        b"OPTIONS /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n%b"
        % (len(SMUGGLED), SMUGGLED),
        PASSES,
        1,
    ),
    Hostile(
        "options-with-chunks-hides-a-request",
        b"OPTIONS /x HTTP/1.1\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(SMUGGLED), SMUGGLED),
        PASSES,
        1,
    ),
    Hostile(
        "pipelined-after-http-1.0",
        b"GET /x HTTP/1.0\r\nHost: billing.internal\r\n\r\n" + SMUGGLED,
        PASSES,
        1,
    ),
    Hostile(
        "pipelined-length-with-tab-after-chunks",
        chunked(CHUNKS) + b"POST /smuggled HTTP/1.1\r\nHost: billing.internal\r\nContent-Length:\t0\r\n\r\n",
        PASSES,
        1,
    ),
    Hostile("pipelined-line-feed-after-length", post(b"Content-Length: 5") + b"\n" + SMUGGLED, PASSES, 1),
    Hostile("pipelined-cr-after-length", post(b"Content-Length: 5") + b"\r" + SMUGGLED, PASSES, 1),
    Hostile("pipelined-nul-after-length", post(b"Content-Length: 5") + b"\x00" + SMUGGLED, PASSES, 1),
    Hostile("pipelined-space-after-length", post(b"Content-Length: 5") + b" " + SMUGGLED, PASSES, 1),
    Hostile(
        "pipelined-http-0.9-after-length", post(b"Content-Length: 5") + b"GET /smuggled\r\n\r\n", PASSES, 1
    ),
    Hostile(
        "http-1.0-keep-alive",
        b"GET /x HTTP/1.0\r\nHost: billing.internal\r\nConnection: keep-alive\r\n\r\n",
        PASSES,
        1,
    ),
    Hostile("http-1.0-without-host", b"GET /x HTTP/1.0\r\n\r\n", 400),
    Hostile(
        "http-1.0-both-lengths",
        b"POST /x HTTP/1.0\r\nHost: billing.internal\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        + CHUNKS,
        400,
    ),
    Hostile(
        "http-1.0-keep-alive-with-coding",
        b"POST /x HTTP/1.0\r\nHost: billing.internal\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        + CHUNKS,
        400,
    ),
    Hostile("pipelined-line-feed-after-chunks", chunked(CHUNKS) + b"\n" + SMUGGLED, PASSES, 1),
    Hostile(
        "pipelined-unknown-method-after-chunks",
        chunked(CHUNKS) + b"GRAB /smuggled HTTP/1.1\r\nHost: billing.internal\r\n\r\n" + SMUGGLED,
        PASSES,
        1,
    ),
    Hostile("value-ends-by-space", get(b"X-A: a \t "), PASSES, 1),
    Hostile("length-ends-by-space", post(b"Content-Length: 5 "), PASSES, 1),
    Hostile("chunk-extension-plain", chunked(b"5;a=b\r\nhello\r\n0;c\r\n\r\n"), PASSES, 1),
    Hostile("chunk-extension-quoted", chunked(b'5;a="b;c"\r\nhello\r\n0\r\n\r\n'), PASSES, 1),
    Hostile("chunk-size-leading-zeros", chunked(b"0000000005\r\nhello\r\n0\r\n\r\n"), PASSES, 1),
    Hostile("chunk-one-byte-each", chunked(b"1\r\nh\r\n" * 50 + b"0\r\n\r\n"), PASSES, 1),
    Hostile("chunk-one-byte-each-5000", chunked(b"1\r\nh\r\n" * 5000 + b"0\r\n\r\n"), PASSES, 1),
    Hostile("chunk-size-upper-case", chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), PASSES, 1),
    Hostile("chunk-last-of-many-zeros", chunked(b"5\r\nhello\r\n00000000\r\n\r\n"), PASSES, 1),
    Hostile("chunk-extension-value-of-nothing", chunked(b"5;a=\r\nhello\r\n0\r\n\r\n"), PASSES, 1),
    Hostile("chunk-two-extensions", chunked(b"5;a=b;c\r\nhello\r\n0\r\n\r\n"), PASSES, 1),
    Hostile("te-gzip", get(b"TE: gzip, chunked"), PASSES, 1),
    Hostile("te-junk", get(b"Connection: TE", b"TE: (x)"), PASSES, 1),
    Hostile("value-empty", get(b"X-A:"), PASSES, 1),
    Hostile("value-of-blanks", get(b"X-A: \t  "), PASSES, 1),
    Hostile("value-with-tab-inside", get(b"X-A: a\tb"), PASSES, 1),
    Hostile("value-without-space-before", get(b"X-A:1"), PASSES, 1),
    Hostile("length-with-spaces-around", post(b"Content-Length:   5  "), PASSES, 1),
    Hostile("length-tab-before", post(b"Content-Length:\t5"), 400),
    Hostile("length-tab-behind", post(b"Content-Length: 5\t"), 400),
    Hostile("coding-with-spaces-around", post(b"Transfer-Encoding:   chunked  ", body=CHUNKS), PASSES, 1),
    Hostile("coding-tab-before", post(b"Transfer-Encoding:\tchunked", body=CHUNKS), 400),
    Hostile("coding-tab-behind", post(b"Transfer-Encoding: chunked\t", body=CHUNKS), 400),
    Hostile("host-tab-before", b"GET /x HTTP/1.1\r\nHost:\tbilling.internal\r\n\r\n", 400),
    Hostile("length-of-18-zeros", post(b"Content-Length: 000000000000000005"), PASSES, 1),
    *(
        Hostile(f"target-{name}", get(target=path), verdict, int(verdict == PASSES))
        for name, (path, verdict) in _PATHS.items()
    ),
    Hostile("length-leading-zeros", post(b"Content-Length: 0000000005"), PASSES, 1),
    Hostile("value-with-high-bytes", get(b"X-A: \xe4\xff"), PASSES, 1),
    Hostile("coding-other-case", post(b"tRANSFER-eNCODING: cHUNKED", body=CHUNKS), PASSES, 1),
    Hostile("target-bad-percent", get(target=b"/x%zz"), 400),
    Hostile("target-encoded-nul", get(target=b"/x%00"), 400),
    Hostile("target-encoded-crlf", get(target=b"/x%0d%0aX:%20y"), PASSES, 1),
    Hostile("target-two-slashes", get(target=b"//evil.example/x"), PASSES, 1),
    Hostile("target-dots-out-of-root", get(target=b"/a/../../x"), 400),
)
