"""What an app or its operator reads when a request is refused, word for word: what happened, and what to do about it"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config.allow import Allow
from sidecar.config.groups import Limits
from sidecar.errors import Reason, SidecarError
from sidecar.net.callers import Callers, peer_unknown
from sidecar.proxy.admission import guard
from sidecar.proxy.admission.allowed import Allowed
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.fields import headers, semantics
from sidecar.proxy.http1 import framing, target
from sidecar.proxy.http2 import fields as http2_fields
from sidecar.proxy.http2 import grpc

FIELDS = [(b"Sec-Fetch-Dest", b"document")]
NOT_HTTP = "The request is not valid HTTP/1.1: "
ANY_HTTP = "The request is not valid HTTP: "
LINE = NOT_HTTP + "Its first line is not `METHOD target HTTP/1.1`, with one space between them."
WHOLE = NOT_HTTP + "`Connection` names what is for every recipient (Host, X-Forwarded-For)."
ESCAPE = ANY_HTTP + "Its path has `%00`, or a `%` without two hexadecimal digits behind it."
ROOT = ANY_HTTP + "Its path leads out of the root (`..`)."
NO_HOST = "The request has no Host; one belongs beside an absolute target too."


def allowed() -> Allowed:
    return Allowed("billing", Allow(methods=("GET",), paths=("/a", "/b/*")))


def read(method: bytes, what: bytes, host: bytes | None = b"a") -> object:
    return target.read_target(method, what, {} if host is None else {b"host": host})


def fields(head: bytes, **found: bytes) -> None:
    target.check_fields({name.encode(): value for name, value in found.items()}, head)


def raising(error: SidecarError) -> None:
    raise error


def response(found: headers.Found, *, status: int = 200, http10: bool = False) -> int:
    return framing.response_body(found, status=status, head=False, http10=http10)


NOT_HTTP2 = "The request is not valid HTTP/2: "


def read2(*lines: tuple[bytes, bytes], **pseudo: bytes) -> None:
    """Read a head of HTTP/2, with other pseudo-headers than usual ones; an empty one is left out."""
    told = {"method": b"GET", "scheme": b"http", "authority": b"a", "path": b"/"} | pseudo
    head = [(b":" + name.encode(), value) for name, value in told.items() if value]
    http2_fields.read_request(http2_fields.Http2Request(0.0), [*head, *lines], Bounds(Limits()), end=True)


CASES: dict[str, tuple[Callable[[], object], Reason, str]] = {
    "a-scheme-of-http2": (
        lambda: read2(scheme=b"ws"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP2 + "Its `:scheme` is neither `http` nor `https`.",
    ),
    "a-path-of-http2": (
        lambda: read2(path=b"x"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP2 + "Its `:path` does not begin with `/`.",
    ),
    "a-fragment-in-http2": (
        lambda: read2(path=b"/#"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP2 + "A request target has no fragment.",
    ),
    "no-authority-in-http2": (
        lambda: read2(authority=b""),
        Reason.BAD_HOST,
        "The request has no `:authority` to say where it should go, and no Host.",
    ),
    "another-host-in-http2": (
        lambda: read2((b"host", b"b")),
        Reason.BAD_HOST,
        "The request's Host is another one than its `:authority`.",
    ),
    "a-status-of-http2": (
        lambda: http2_fields.read_answer([(b":status", b"600")], Bounds(Limits()), head=False, end=True),
        Reason.UPSTREAM_MALFORMED,
        "The upstream's answer is not valid HTTP/2: its status is 600.",
    ),
    "a-deadline-of-a-call": (
        lambda: grpc.time_limit([(b"grpc-timeout", b"1")]),
        Reason.MALFORMED_REQUEST,
        "The request is not valid gRPC: `grpc-timeout` is not a number of at most eight digits and a unit.",
    ),
    "a-process-that-the-system-does-not-name": (
        lambda: raising(peer_unknown()),
        Reason.CALLER_REFUSED,
        "This listener's `peers` names who may call, and the system does not say which process calls: all are refused. "
        "That takes Linux (SO_PEERCRED); elsewhere use `require_header`.",
    ),
    "another-site": (
        lambda: guard.refuse_browser({b"sec-fetch-site": b"cross-site"}, b"a", b"http://"),
        Reason.CALLER_REFUSED,
        "A browser made this request for a page of another site (Sec-Fetch-Site). Call from the app itself, or set "
        "`allow_cross_site: true` on the route.",
    ),
    "another-origin": (
        lambda: guard.refuse_browser({b"origin": b"http://b"}, b"a", b"http://"),
        Reason.CALLER_REFUSED,
        "The request has an `Origin` that is not this address, as a page of another site would send. Leave the header "
        "out, or set `allow_cross_site: true` on the route.",
    ),
    "stray-browser": (
        lambda: guard.refuse_stray_browser(FIELDS, {}, b"evil.example", b"http://"),
        Reason.CALLER_REFUSED,
        "A browser made this request, for a name that is neither loopback nor a route's. If pages are to use that "
        "name, add it to the route's `host` list.",
    ),
    "loop": (
        lambda: guard.refuse_loop({b"via": b"1.1 other, 1.1 me"}, b"me"),
        Reason.LOOP,
        "This request has passed through this sidecar before: the route's upstream leads back to it. Point the route's "
        "`upstream` at the service itself.",
    ),
    "request-line": (
        lambda: target.read_version(b"GET  / HTTP/1.1\r\n", b"GET", b"/"),
        Reason.MALFORMED_REQUEST,
        LINE,
    ),
    "no-method": (
        lambda: raising(target.no_method(b"\r\n\x16\x03\x01")),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "It does not begin with a method. Is this another protocol (TLS, SOCKS, …)?",
    ),
    "unknown-method": (
        lambda: raising(target.no_method(b"\r\nget / HTTP/1.1\r\n")),
        Reason.METHOD_NOT_CARRIED,
        "The request's method is not one of HTTP/1.1's, which are written in capitals.",
    ),
    "http-2": (
        lambda: raising(target.not_http(ValueError("x"), b"\r\nPRI * HTTP/2.0\r\n")),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "It begins as HTTP/2 does, and goes on otherwise.",
    ),
    "parser": (
        lambda: raising(target.not_http(ValueError("Invalid header token"), b"GET / HTTP/1.1\r\n")),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "Invalid header token.",
    ),
    "upgrade-to-no-list": (
        lambda: target.check_upgrade(b"web socket"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "`Upgrade` is not a list of protocols.",
    ),
    "fragment": (
        lambda: read(b"GET", b"/#a"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "A request target has no fragment.",
    ),
    "no-host": (
        lambda: read(b"GET", b"/", None),
        Reason.BAD_HOST,
        "The request has no Host to say where it should go.",
    ),
    "no-host-beside-absolute": (lambda: read(b"GET", b"http://a/", None), Reason.BAD_HOST, NO_HOST),
    "no-path-no-url": (
        lambda: read(b"GET", b"a/b"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "The request target is neither a path nor an http URL.",
    ),
    "ftp": (
        lambda: read(b"GET", b"ftp://a/b"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "The request target is neither a path nor an http URL.",
    ),
    "bad-escape": (lambda: read(b"GET", b"/%zz"), Reason.MALFORMED_REQUEST, ESCAPE),
    "encoded-nul": (lambda: read(b"GET", b"http://a/b%00"), Reason.MALFORMED_REQUEST, ESCAPE),
    "out-of-the-root": (lambda: read(b"GET", b"/a/../../b"), Reason.MALFORMED_REQUEST, ROOT),
    "out-of-the-root-encoded": (lambda: read(b"GET", b"/.%2e"), Reason.MALFORMED_REQUEST, ROOT),
    "connect": (
        lambda: read(b"CONNECT", b"a.example:443"),
        Reason.METHOD_NOT_CARRIED,
        "CONNECT asks for a tunnel, and what is encrypted inside one cannot be given a token. Ask for "
        "http://a.example/… instead of https://a.example/…: the sidecar itself speaks https to the service. "
        "Or call the route without a proxy: at its own `listen`, by its `path_prefix`, or as NAME.localhost.",
    ),
    "connect-with-a-password": (
        lambda: read(b"CONNECT", b"u:s3cret@a.example:443"),
        Reason.METHOD_NOT_CARRIED,
        "CONNECT asks for a tunnel, and what is encrypted inside one cannot be given a token. Ask for "
        "http://a.example/… instead of https://a.example/…: the sidecar itself speaks https to the service. "
        "Or call the route without a proxy: at its own `listen`, by its `path_prefix`, or as NAME.localhost.",
    ),
    "the-last-hop": (
        lambda: semantics.written_anew(b"OPTIONS", [], {b"max-forwards": b"0"}),
        Reason.METHOD_NOT_CARRIED,
        "OPTIONS with `Max-Forwards: 0` asks the sidecar for its own options, and it has none. Leave that "
        "header out to ask the service.",
    ),
    "no-number-of-hops": (
        lambda: semantics.written_anew(b"OPTIONS", [], {b"max-forwards": b"one"}),
        Reason.MALFORMED_REQUEST,
        ANY_HTTP + "`Max-Forwards` is not a number.",
    ),
    "connect-to-ipv6": (
        lambda: read(b"CONNECT", b"[::1\xff]:443"),
        Reason.METHOD_NOT_CARRIED,
        "CONNECT asks for a tunnel, and what is encrypted inside one cannot be given a token. Ask for "
        "http://[::1\N{REPLACEMENT CHARACTER}]/… instead of https://[::1\N{REPLACEMENT CHARACTER}]/…: "
        "the sidecar itself speaks https to the service. "
        "Or call the route without a proxy: at its own `listen`, by its `path_prefix`, or as NAME.localhost.",
    ),
    "trace": (
        lambda: read(b"TRACE", b"/"),
        Reason.METHOD_NOT_CARRIED,
        "TRACE is not forwarded: its answer would show the token to the caller.",
    ),
    "another-method": (
        lambda: read(b"PURGE\xff", b"/"),
        Reason.METHOD_NOT_CARRIED,
        "The method `PURGE\N{REPLACEMENT CHARACTER}` is not supported.",
    ),
    "https-without-tls": (
        lambda: target.check_scheme(b"HTTPS://a/", secure=False),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP
        + "Its target is an https URL, on a connection without TLS. Ask for http:// instead: the sidecar "
        "itself speaks https to the service.",
    ),
    "twin": (
        lambda: target.check_fields({headers.TWIN: b"5"}, b""),
        Reason.MALFORMED_REQUEST,
        ANY_HTTP + "A header's name is that of a framing or routing one, with `_` in place of `-`.",
    ),
    "tab": (
        lambda: fields(b"GET / HTTP/1.1\r\nhost: a\t\r\n"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "Its framing or its Host is written with a tab.",
    ),
    "expectation": (
        lambda: fields(b"", expect=b"200-ok"),
        Reason.EXPECTATION_FAILED,
        "The only expectation that is carried is `100-continue`.",
    ),
    "connection-host": (lambda: fields(b"", connection=b"close, Host"), Reason.MALFORMED_REQUEST, WHOLE),
    "connection-x-forwarded-for": (
        lambda: fields(b"", connection=b"x-forwarded-for"),
        Reason.MALFORMED_REQUEST,
        WHOLE,
    ),
    "connection-x-forwarded-host": (
        lambda: fields(b"", connection=b"x-forwarded-host"),
        Reason.MALFORMED_REQUEST,
        WHOLE,
    ),
    "connection-x-forwarded-proto": (
        lambda: fields(b"", connection=b"x-forwarded-proto"),
        Reason.MALFORMED_REQUEST,
        WHOLE,
    ),
    "connection-pseudo-header": (
        lambda: fields(b"", connection=b":path"),
        Reason.MALFORMED_REQUEST,
        WHOLE,
    ),
    "upgrade-to-nothing": (
        lambda: fields(b"", connection=b"Upgrade", upgrade=b""),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "`Upgrade` names no protocol.",
    ),
    "connection-ten": (
        lambda: fields(b"", connection=b"a,b,c,d,e,f,g,h,i,j"),
        Reason.MALFORMED_REQUEST,
        NOT_HTTP + "`Connection` names more than 9 headers.",
    ),
    "http-1.0-coding": (
        lambda: framing.request_body({b"transfer-encoding": b"chunked"}, http10=True),
        Reason.MALFORMED_REQUEST,
        "An HTTP/1.0 request may not use Transfer-Encoding.",
    ),
    "coding": (
        lambda: framing.request_body({b"transfer-encoding": b"gzip, chunked"}, http10=False),
        Reason.CODING_NOT_CARRIED,
        "The only transfer coding carried is a single `chunked`; compress with Content-Encoding.",
    ),
    "length": (
        lambda: framing.request_body({b"content-length": b"+5"}, http10=False),
        Reason.MALFORMED_REQUEST,
        "Content-Length is not a plain number.",
    ),
    "length-of-twenty-digits": (
        lambda: framing.request_body({b"content-length": b"1" * 20}, http10=False),
        Reason.MALFORMED_REQUEST,
        "Content-Length is not a plain number.",
    ),
    "answer-length": (
        lambda: response({b"content-length": b"5x"}),
        Reason.UPSTREAM_MALFORMED,
        "Content-Length is not a plain number.",
    ),
    "answer-204-with-length": (
        lambda: response({b"content-length": b"5"}, status=204),
        Reason.UPSTREAM_MALFORMED,
        "The upstream framed a body for a 204 answer, which can have none.",
    ),
    "answer-199-with-chunks": (
        lambda: response({b"transfer-encoding": b"chunked"}, status=199),
        Reason.UPSTREAM_MALFORMED,
        "The upstream framed a body for a 199 answer, which can have none.",
    ),
    "answer-coding": (
        lambda: response({b"transfer-encoding": b"gzip"}),
        Reason.UPSTREAM_MALFORMED,
        "The upstream answered with a transfer coding other than `chunked`, which was not asked for.",
    ),
    "answer-http-1.0-coding": (
        lambda: response({b"transfer-encoding": b"chunked"}, http10=True),
        Reason.UPSTREAM_MALFORMED,
        "The upstream answered with HTTP/1.0 and Transfer-Encoding, which that does not have.",
    ),
    "required-header": (
        lambda: Callers({"X-Local-Caller": "s"}).admit([(b"x-local-caller", b"t")]),
        Reason.CALLER_REFUSED,
        "This listener asks for the header `X-Local-Caller`, once and with its value (`require_header`), and the request "
        "did not bring that.",
    ),
    "allow-override": (
        lambda: allowed().check(b"GET", b"/a", [(b"X-HTTP-Method_Override", b"PUT")]),
        Reason.NOT_ALLOWED,
        "`X-HTTP-Method_Override` names another method or path than the request line, by which `allow` of route "
        "`billing` judges. Leave the header out.",
    ),
    "allow-method": (
        lambda: allowed().check(b"PUT\xff", b"/a", []),
        Reason.NOT_ALLOWED,
        "Route `billing` does not allow the method PUT\N{REPLACEMENT CHARACTER}. If the app needs it, add it to the "
        "route's `allow.methods`.",
    ),
    "allow-path": (
        lambda: allowed().check(b"GET", b"/c?d", []),
        Reason.NOT_ALLOWED,
        "Route `billing` does not allow the path `/c`. If the app needs it, add it to the route's `allow.paths`.",
    ),
    "allow-long-path": (
        lambda: allowed().check(b"GET", b"/" + b"c" * 80, []),
        Reason.NOT_ALLOWED,
        f"Route `billing` does not allow the path `/{'c' * 79}`. If the app needs it, add it to the route's "
        "`allow.paths`.",
    ),
    "allow-ambiguous": (
        lambda: allowed().check(b"GET", b"/b/../a", []),
        Reason.PATH_AMBIGUOUS,
        "The request's path has a segment of dots or spaces only (`.`, `..`), which not everybody reads alike, and route "
        "`billing` has `allow.paths`. Send the path in its plain form.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_says_what_and_what_to_do(case: str) -> None:
    """The reason, and one or two whole sentences that name the key, the route and the header."""
    act, reason, sentence = CASES[case]
    with pytest.raises(SidecarError) as caught:
        act()
    assert (caught.value.reason, caught.value.detail) == (reason, sentence)


@pytest.mark.parametrize("target", ["/a", "/a?c", "/b/", "/b/c"])
def test_what_is_allowed_has_no_sentence(target: str) -> None:
    """An exact path, and what is below a prefix."""
    allowed().check(b"GET", target.encode(), [])


@pytest.mark.parametrize("name", [b"X-Local_Caller", b"x-local-caller", b"X_LOCAL_CALLER"])
def test_a_required_header_is_taken_off_in_any_spelling(name: bytes) -> None:
    """Also where it is asked for with an underscore: what stands behind can't tell the two apart."""
    for asked in ("X-Local-Caller", "X_Local_Caller"):
        assert Callers({asked: "s"}).without([(name, b"s"), (b"A", b"b")]) == [(b"A", b"b")]
