"""sidecar.proxy.http2.fields: heads, from their lines and back"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ngh2 import NeverIndexedHeader

from sidecar.config.groups import Limits
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.admission.admission import plans
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.fields import headers
from sidecar.proxy.http2 import fields
from sidecar.proxy.http2.fields import Http2Request
from sidecar.proxy.messages import HTTP2, NO_BODY, UNKNOWN
from tests.support.exchanges import Exchanges

LIMITS = Bounds(Limits())
PSEUDO = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/x?y"))
POST = ((b":method", b"POST"), *PSEUDO[1:])


def read(*lines: tuple[bytes, bytes], end: bool = True, limits: Bounds = LIMITS) -> Http2Request:
    request = Http2Request(1.0)
    fields.read_request(request, lines, limits, end=end)
    return request


def test_a_head_is_read() -> None:
    """Pseudo-headers apart from the lines, which stay as they came."""
    request = read(*PSEUDO, (b"a", b"1"), (b"b", b"2"))
    assert (request.method, request.path, request.authority) == (b"GET", b"/x?y", b"a.example")
    assert (list(request.fields), request.body, request.wire) == (
        [(b"a", b"1"), (b"b", b"2")],
        NO_BODY,
        HTTP2,
    )
    assert (request.is_bound, request.time_limit, request.upgrade) == (False, None, None)


@pytest.mark.parametrize(
    ("lines", "end", "body"),
    [
        ((), True, NO_BODY),
        ((), False, UNKNOWN),
        (((b"content-length", b"5"),), False, 5),
        (((b"content-length", b"0"),), False, UNKNOWN),
        (((b"content-length", b"00"),), False, UNKNOWN),
        (((b"content-length", b"05"),), False, 5),
        (((b"content-length", b"0"),), True, NO_BODY),
    ],
)
def test_how_long_a_body_is(lines: Any, end: bool, body: int) -> None:
    """A length never stands beside an unknown one: in HTTP/1 that would be two framings."""
    request = read(*POST, *lines, end=end)
    assert request.body == body
    told = [value for name, value in request.fields if name == b"content-length"]
    assert told in ([[b"5"]] if body == 5 else [[], [b"0"]] if end else [[]])


def test_a_call_is_bound_and_has_a_deadline() -> None:
    """It can go on in HTTP/2 only."""
    request = read(*POST, (b"content-type", b"application/grpc+proto"), (b"grpc-timeout", b"2S"), end=False)
    assert (request.is_bound, request.time_limit) == (True, 2.0)


def test_https_is_a_scheme_too() -> None:
    """It says what the app thinks that it speaks; nothing hangs on it."""
    assert read(PSEUDO[0], (b":scheme", b"https"), *PSEUDO[2:]).path == b"/x?y"


def test_options_of_the_whole_server() -> None:
    """`*` is a path for OPTIONS and nothing else (RFC 9113 section 8.3.1), and has one hop less."""
    head = ((b":method", b"OPTIONS"), *PSEUDO[1:3], (b":path", b"*"))
    assert read(*head).path == b"*"
    assert list(read(*head, (b"max-forwards", b"3")).fields) == [(b"max-forwards", b"2")]
    for bad in ((b":path", b"x"), (b":path", b"")):
        with pytest.raises(SidecarError, match=":path"):
            read(*head[:3], bad)


def test_a_tunnel_names_where_it_was_to_go() -> None:
    """CONNECT has no path: its authority is what to ask for instead."""
    with pytest.raises(SidecarError, match=r"http://a\.example/"):
        read((b":method", b"CONNECT"), (b":authority", b"a.example:443"))


def test_lines_that_say_nothing_stay_as_they_are() -> None:
    """Not copied: heads are read for each request."""
    lines = (*POST, (b"content-length", b"1"), (b"cookie", b"a=1"))
    assert list(read(*lines, end=False).fields) == list(lines[4:])


def test_two_crumbs_are_one_cookie() -> None:
    """As more of them are."""
    assert list(read(*PSEUDO, (b"cookie", b"a"), (b"cookie", b"b")).fields) == [(b"cookie", b"a; b")]


def test_crumbs_are_one_cookie() -> None:
    """At the place of the first (RFC 9113 section 8.2.3)."""
    request = read(*PSEUDO, (b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2"), (b"cookie", b"c=3"))
    assert list(request.fields) == [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"1")]


@pytest.mark.parametrize(
    ("authority", "host", "told"),
    [
        (b"a", None, b"a"),
        (None, b"b", b"b"),
        (b"a", b"a", b"a"),
        (b"a", b"A", None),
        (None, None, None),
        (b"a", b"", None),
    ],
)
def test_where_it_goes(authority: bytes | None, host: bytes | None, told: bytes | None) -> None:
    """`:authority` or Host; two that differ are none."""
    lines = [PSEUDO[0], PSEUDO[1], PSEUDO[3]]
    if authority is not None:
        lines.append((b":authority", authority))
    if host is not None:
        lines.append((b"host", host))
    if told is not None:
        assert read(*lines).authority == told
    else:
        with pytest.raises(SidecarError) as caught:
            read(*lines)
        assert caught.value.reason is Reason.BAD_HOST


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (((b":method", b"CONNECT"), (b":authority", b"a:443")), Reason.METHOD_NOT_CARRIED),
        ((*PSEUDO[:3], (b":path", b"http://a/"), (b"max-forwards", b"x")), Reason.MALFORMED_REQUEST),
        (((b":method", b"TRACE"), *PSEUDO[1:]), Reason.METHOD_NOT_CARRIED),
        (((b":method", b"get"), *PSEUDO[1:]), Reason.METHOD_NOT_CARRIED),
        ((*PSEUDO[:3], (b":path", b"*")), Reason.MALFORMED_REQUEST),
        ((*PSEUDO[:3], (b":path", b"http://a/")), Reason.MALFORMED_REQUEST),
        ((*PSEUDO[:3], (b":path", b"/a#b")), Reason.MALFORMED_REQUEST),
        ((*PSEUDO[:3], (b":path", b"/%00")), Reason.MALFORMED_REQUEST),
        ((*PSEUDO[:3], (b":path", b"/..")), Reason.MALFORMED_REQUEST),
        ((PSEUDO[0], (b":scheme", b"ws"), *PSEUDO[2:]), Reason.MALFORMED_REQUEST),
        ((*PSEUDO, (b"x_serverless_authorization", b"1")), Reason.MALFORMED_REQUEST),
        ((*PSEUDO, (b"expect", b"x")), Reason.EXPECTATION_FAILED),
    ],
)
def test_what_is_refused(lines: Any, reason: Reason) -> None:
    """What HTTP/1 refuses too, by the same checks."""
    with pytest.raises(SidecarError) as caught:
        read(*lines)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"target": "256B"}, Reason.TARGET_TOO_LONG),
        ({"head": "1024B"}, Reason.HEAD_TOO_LARGE),
        ({"headers": 2}, Reason.HEAD_TOO_LARGE),
    ],
)
def test_limits(limits: Any, reason: Reason) -> None:
    """Each says which one."""
    lines = (*PSEUDO[:3], (b":path", b"/".ljust(300, b"x")), (b"a", bytes(700)), (b"b", b""), (b"c", b""))
    read(*lines)
    with pytest.raises(SidecarError) as caught:
        read(*lines, limits=Bounds(Limits(**limits)))
    assert caught.value.reason is reason
    assert f"limits.{next(iter(limits))}" in caught.value.detail


def test_a_limit_itself_is_allowed() -> None:
    """Of the target, of the lines, and of what both take as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
    lines = (*PSEUDO[:3], (b":path", b"/".ljust(256, b"x")), (b"a", b"1"), (b"b", b"2"))
    size = sum(len(name) + len(value) + 32 for name, value in lines)
    lines = (*lines, (b"c", bytes(1024 - size - 33)))
    exact = Bounds(Limits(target="256B", head="1024B", headers=3))  # type: ignore[arg-type]
    assert len(read(*lines, limits=exact).path) == 256
    with pytest.raises(SidecarError, match=r"limits\.head`"):
        read(*lines[:-1], (b"c", bytes(1024 - size - 32)), limits=exact)


def test_bytes_above_ascii_in_a_path_are_escaped() -> None:
    """As in HTTP/1."""
    assert read(*PSEUDO[:3], (b":path", "/é?ü".encode())).path == b"/%C3%A9?%C3%BC"


def lines_of(request: Any, **more: Any) -> list[tuple[bytes, bytes]]:
    plan = plans(Exchanges().route.config, next(iter(Exchanges().keeper.destination.target.__class__))).usual
    return fields.request_lines(
        *(request, b"/p", b"t.example", plan, fields.TokenLines().of(plan.names, b"Bearer T")),
        tls=more.get("tls", True),
        now_mono=more.get("now_mono", 1.0),
    )


def test_the_lines_with_the_token_are_those_of_the_names_and_the_token() -> None:
    """They are made anew for another token or for other names, and only then."""
    tokens, names = fields.TokenLines(), (b"Authorization", b"X-Own")
    bearer, other = b"Bearer T", b"Bearer U"
    lines = tokens.of(names, bearer)
    assert [tuple(line) for line in lines] == [(b"Authorization", bearer), (b"X-Own", bearer)]
    assert all(isinstance(line, NeverIndexedHeader) for line in lines)
    assert tokens.of(names, bearer) is lines
    assert [tuple(line) for line in tokens.of(names, other)] == [(b"Authorization", other), (b"X-Own", other)]
    assert [tuple(line) for line in tokens.of((b"X-Own",), other)] == [(b"X-Own", other)]
    assert tokens.of((), other) == []


def test_a_request_goes_out() -> None:
    """Hop-by-hop lines, the app's own token headers and what `Connection` names are left behind."""
    request = read(*PSEUDO, (b"a", b"1"), (b"te", b"trailers"), (b"proxy-authorization", b"x"))
    request.via = b"Via: 2.0 me\r\n"
    out = lines_of(request)
    assert out[:4] == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"t.example"),
        (b":path", b"/p"),
    ]
    assert out[4:] == [
        (b"a", b"1"),
        (b"te", b"trailers"),
        (b"via", b"2.0 me"),
        (b"Authorization", b"Bearer T"),
    ]


def test_what_an_app_of_http1_names_for_its_connection_stays_behind() -> None:
    """HTTP/2 knows no such lines; without TLS the scheme says so."""
    request = read(*PSEUDO)
    request.fields = [(b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"a", b"1")]
    request.found = headers.survey(request.fields)
    out = lines_of(request, tls=False)
    assert out[1] == (b":scheme", b"http")
    assert [name for name, _ in out[4:]] == [b"a", b"Authorization"]
    request.fields[0] = (b"Connection", b"keep-alive")
    request.found = headers.survey(request.fields)
    assert [name for name, _ in lines_of(request)[4:]] == [b"X-Hop", b"a", b"Authorization"]


def test_what_is_left_of_a_deadline_goes_out() -> None:
    """Not the whole of it."""
    request = read(*POST, (b"content-type", b"application/grpc"), (b"grpc-timeout", b"5S"), end=False)
    assert (b"grpc-timeout", b"3000000u") in lines_of(request, now_mono=3.0)


def test_an_answer_of_another_kind_keeps_its_length() -> None:
    """What `Connection` names goes; a length stays where the status may have a body."""
    got = [(b"Connection", b"x-hop"), (b"x-hop", b"1"), (b"Content-Length", b" 5\t"), (b"x", b"XaX")]
    found = headers.survey(got)
    assert fields.answer_lines(200, got, found)[1:] == [(b"Content-Length", b"5"), (b"x", b"XaX")]
    assert fields.answer_lines(200, got[2:], headers.survey(got[2:]))[1:] == [
        (b"Content-Length", b"5"),
        (b"x", b"XaX"),
    ]
    assert fields.answer_lines(204, got, found)[1:] == [(b"x", b"XaX")]


def test_an_interim_answer_has_neither_length_nor_hop_lines() -> None:
    """RFC 9110 section 8.6: a 1xx answer has no Content-Length."""
    got = [(b"Connection", b"x-hop"), (b"x-hop", b"1"), (b"content-length", b"5"), (b"link", b"\v</a>")]
    assert fields.interim_lines(103, got) == [(b":status", b"103"), (b"link", b"\v</a>")]
    assert fields.interim_lines(103, got[1:]) == [
        (b":status", b"103"),
        (b"x-hop", b"1"),
        (b"link", b"\v</a>"),
    ]


def test_an_answer_of_the_sidecar_s_own_names_its_route() -> None:
    """As in HTTP/1: the same document, and its length."""
    error = SidecarError(Reason.CONNECT_REFUSED, "Nobody listens.")
    head, body = fields.own_answer(error, route="billing", now=0.0)
    assert head[0] == (b":status", b"502")
    assert dict(head)[b"Content-Length"] == b"%d" % len(body)
    assert b'"route":"billing"' in body.replace(b": ", b":")


names = st.sampled_from(
    [b"a", b"connection", b"keep-alive", b"upgrade", b"te", b"content-length", b"Set-Cookie", b"X-Hop"]
)


@given(
    st.lists(st.tuples(names, st.sampled_from([b"", b" v\\t", b"X-Hop", b"close"])), max_size=8),
    st.sampled_from([200, 204]),
)
def test_an_answer_has_no_line_that_http2_has_not(got: list[tuple[bytes, bytes]], status: int) -> None:
    """Whatever HTTP/1 brought: nothing of the connection, no white space around values, no length of a 204."""
    out = fields.answer_lines(status, got, headers.survey(got))
    assert out[0] == (b":status", b"%d" % status)
    lower = {name.lower() for name, _ in out[1:]}
    assert not lower & (headers.HOP_BY_HOP | ({b"content-length"} if status == 204 else set()))
    assert all(value == value.strip(b" \t") for _, value in out)
    if any(name == b"connection" and value == b"X-Hop" for name, value in got):
        assert b"x-hop" not in lower


@pytest.mark.parametrize(
    ("lines", "head", "end", "body"),
    [
        (((b":status", b"200"),), False, True, NO_BODY),
        (((b":status", b"200"),), False, False, UNKNOWN),
        (((b":status", b"200"), (b"content-length", b"7")), False, False, 7),
        (((b":status", b"200"), (b"content-length", b"7")), True, False, NO_BODY),
        (((b":status", b"304"), (b"content-length", b"7")), False, False, NO_BODY),
        (((b":status", b"204"),), False, False, NO_BODY),
        (((b":status", b"205"),), False, False, UNKNOWN),
        (((b":status", b"599"),), False, False, UNKNOWN),
    ],
)
def test_an_answer_s_body(lines: Any, head: bool, end: bool, body: int) -> None:
    """RFC 9110 section 6.4.1."""
    status, got, _, length = fields.read_answer(lines, LIMITS, head=head, end=end)
    assert (status, list(got), length) == (int(lines[0][1]), list(lines[1:]), body)


def test_an_empty_answer_that_goes_on_has_no_length() -> None:
    """Trailers may follow; in HTTP/1 they need chunks, and chunks stand beside no length."""
    lines = ((b":status", b"200"), (b"content-length", b"0"), (b"a", b"1"))
    assert fields.read_answer(lines, LIMITS, head=False, end=False)[1:4:2] == ([(b"a", b"1")], UNKNOWN)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (((b":status", b"600"),), Reason.UPSTREAM_MALFORMED),
        (((b":status", b"200"), (b"a", bytes(70_000))), Reason.UPSTREAM_HEAD_TOO_LARGE),
        (((b":status", b"200"), *((b"a", b"") for _ in range(201))), Reason.UPSTREAM_HEAD_TOO_LARGE),
    ],
)
def test_an_answer_that_does_not_go_on(lines: Any, reason: Reason) -> None:
    """Too large, or of no status that there is."""
    with pytest.raises(SidecarError) as caught:
        fields.read_answer(lines, LIMITS, head=False, end=False)
    assert caught.value.reason is reason


def test_an_answer_s_limits_themselves_are_allowed() -> None:
    """As many lines, and as many bytes."""
    lines = [(b":status", b"200"), (b"a", b"1"), (b"b", bytes(1024 - 34 - 33))]
    exact = Bounds(Limits(head="1024B", headers=2))  # type: ignore[arg-type]
    assert fields.size_of(lines[1:]) == 1024
    assert fields.read_answer(lines, exact, head=False, end=True)[0] == 200
