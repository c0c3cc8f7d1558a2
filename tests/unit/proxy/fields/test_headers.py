"""sidecar.proxy.fields.headers and heads: what is read of a head, what is dropped, and what is written"""

from __future__ import annotations

import pytest

from sidecar.proxy.admission.admission import HeaderPlan
from sidecar.proxy.fields import headers
from sidecar.proxy.http1 import heads
from sidecar.proxy.messages import UNKNOWN
from tests.support import sides

HOP = [
    *("Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "TE"),
    *("Transfer-Encoding", "Upgrade", "HTTP2-Settings"),
]
SPELLINGS = [
    pytest.param(str.title, id="title"),
    pytest.param(str.lower, id="lower"),
    pytest.param(str.upper, id="upper"),
    pytest.param(lambda name: name.upper().replace("-", "_"), id="underscores"),
]


def written(fields: headers.Fields, names: frozenset[bytes]) -> bytes:
    out: list[bytes] = []
    headers.write_fields(out, fields, headers.drop_table(names))
    return b"".join(out)


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("name", HOP)
def test_what_is_for_this_hop_goes_no_further(name: str, spell: type[str]) -> None:
    """In every spelling, and with `_` for `-`."""
    fields = [(b"X-A", b"1"), (spell(name).encode(), b"2"), (b"Accept", b"3")]
    for names in (headers.REQUEST_DROPPED, headers.RESPONSE_DROPPED):
        assert written(fields, names) == b"X-A: 1\r\nAccept: 3\r\n"
    assert headers.kept_trailers(fields[:2], frozenset()) == fields[:1]


def test_a_length_with_an_underscore_is_dropped_though_the_length_stays() -> None:
    """CGI can't tell the two apart."""
    fields = [(b"Content-Length", b"5"), (b"CONTENT-length", b"5"), (b"Content_Length", b"6"), (b"x_y", b"7")]
    assert (
        written(fields, headers.RESPONSE_DROPPED) == b"Content-Length: 5\r\nCONTENT-length: 5\r\nx_y: 7\r\n"
    )


@pytest.mark.parametrize("name", sorted(headers.NOT_IN_TRAILERS - headers.HOP_BY_HOP))
def test_what_comes_too_late_in_a_trailer(name: bytes) -> None:
    """Framing, routing, authentication, modifiers, content description: RFC 9110 section 6.5.1."""
    for spelled in (name, name.upper(), name.replace(b"-", b"_")):
        assert headers.kept_trailers([(spelled, b"x")], frozenset()) == []


def test_a_trailer_keeps_what_may_pass() -> None:
    """But for what the plan drops."""
    fields = [(b"X-Sum", b"1"), (b"X-Own", b"2"), (b"X_own", b"3"), (b"Digest", b"4")]
    assert headers.kept_trailers(fields, {b"x-own"}) == [fields[0], fields[3]]


def test_the_last_chunk() -> None:
    """With trailer lines, and without."""
    assert heads.last_chunk(()) == heads.last_chunk([]) == b"0\r\n\r\n"
    assert heads.last_chunk([(b"X-Sum", b"1"), (b"T", b"")]) == b"0\r\nX-Sum: 1\r\nT: \r\n\r\n"


def test_white_space_behind_a_value_is_no_part_of_it() -> None:
    """Space and tab, and nothing else; what stands before it the parser has taken off."""
    fields = [(b"A", b" b \t"), (b"C", b"d\x0b"), (b"E", b"X"), (b"F", b"")]
    assert headers.trimmed(fields) == [(b"A", b" b"), *fields[1:]]
    assert headers.kept_trailers([(b"A", b"b ")], frozenset()) == [(b"A", b"b")]


def test_a_survey() -> None:
    """Names that matter, in any spelling, repeated lines joined; twins under one name; nothing else."""
    fields = [
        *[(b"Via", b"a"), (b"VIA", b"b"), (b"Accept", b"*/*"), (b"X-Other", b"c"), (b"ACCEPT", b"d")],
        *[(b"Content_Length", b"5"), (b"transfer_encoding", b"x"), (b"X-Serverless_Authorization", b"y")],
    ]
    assert headers.survey(fields) == {b"via": b"a, b", headers.TWIN: b"5, x, y"}


@pytest.mark.parametrize(
    ("value", "members"),
    [
        pytest.param(b"A, b\t,, c ,", [b"a", b"b", b"c"], id="list"),
        pytest.param(b"", [], id="empty"),
        pytest.param(b" , \t", [], id="nothing"),
        pytest.param(b"a b", [b"a b"], id="one"),
        pytest.param(b"\x0ba, Xb", [b"\x0ba", b"xb"], id="only-space-and-tab-are-white"),
    ],
)
def test_a_list(value: bytes, members: list[bytes]) -> None:
    """Small letters, no empty members."""
    assert headers.list_members(value) == members


def test_what_connection_nominates() -> None:
    """Everything but its own words and the framing."""
    assert headers.nominated(b"Close, keep-alive, Content-Length, X-A, te") == {b"x-a", b"te"}


def test_what_is_nominated_is_dropped_beside_the_rest() -> None:
    """In any spelling; the words of `Connection` itself name nothing."""
    fields = [(b"X-A", b"1"), (b"x_a", b"2"), (b"B", b"3"), (b"C", b"4")]
    for value in (b"close, x-a, b", b"close, x-a, b" + b", y" * 200):
        table = headers.drop_nominated(frozenset({b"c"}), value)
        out: list[bytes] = []
        headers.write_fields(out, fields, table)
        assert out == []
    table = headers.drop_nominated(frozenset({b"c"}), b"")
    assert {name for name, dropped in table.items() if dropped} == {b"c", b"C"}
    for value in headers.PERSISTENCE:
        assert headers.nominated(value) == frozenset()


def test_no_long_value_of_a_peer_is_remembered() -> None:
    """A client that sends many of them would fill memory; small ones, which recur, cost nothing the second time."""
    before = headers.drop_table.cache_info().currsize
    for number in range(20):
        headers.drop_nominated(frozenset(), b"x-%d" % number + b"a" * 257)
    assert headers.drop_table.cache_info().currsize == before
    small = headers.drop_nominated(frozenset(), b"x-small, of-this-test")
    assert headers.drop_nominated(frozenset(), b"x-small, of-this-test") is small


@pytest.mark.parametrize(
    ("length", "plain"),
    [(b"5", b"5"), (b"0", b"0"), (b"00", b"0"), (b"010", b"10"), (b"5\t", b"5"), (b"10", b"10")],
)
def test_a_length_goes_on_as_a_plain_number(length: bytes, plain: bytes) -> None:
    """A leading zero is octal to some."""
    fields = [(b"CONTENT-LENGTH", length), (b"X-A", b"1")]
    expected = [(b"CONTENT-LENGTH", plain), (b"X-A", b"1")]
    assert headers.plain_length(fields, headers.survey(fields)) == expected


PLAN = HeaderPlan(
    (b"Authorization", b"X-Own"), headers.REQUEST_DROPPED, headers.drop_table(headers.REQUEST_DROPPED)
)
LINES = [
    (b"Host", b"a"),
    (b"Connection", b"TE, X-Hop, close"),
    (b"X-Hop", b"1"),
    (b"TE", b"gzip, Trailers"),
    (b"B", b"2"),
]


def request(
    fields: headers.Fields, *, body: int = 0, upgrade: bytes | None = None, via: bytes = b"Via: 1.1 s\r\n"
) -> bytes:
    head = sides.request(b"GET", fields, body=body, upgrade=upgrade, via=via)
    return heads.request_head(head, b"/x", b"b.example", PLAN, b"Bearer t")


TOKEN = b"Authorization: Bearer t\r\nX-Own: Bearer t\r\n\r\n"
START = b"GET /x HTTP/1.1\r\nHost: b.example\r\n"


def test_a_requests_head() -> None:
    """Start line, Host, the app's lines, Via, framing, what is for the next hop, and the token last."""
    assert request(LINES) == START + b"B: 2\r\nVia: 1.1 s\r\nConnection: TE\r\nTE: trailers\r\n" + TOKEN
    assert (
        request(LINES[4:], body=UNKNOWN, via=b"") == START + b"B: 2\r\nTransfer-Encoding: chunked\r\n" + TOKEN
    )
    assert request(LINES[3:4], upgrade=b"websocket") == (
        START + b"Via: 1.1 s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + TOKEN
    )
    assert request([(b"TE", b"gzip")], body=5) == START + b"Via: 1.1 s\r\n" + TOKEN
    assert (
        request([(b"Connection", b"close"), (b"X-Hop", b"1")])
        == START + b"X-Hop: 1\r\nVia: 1.1 s\r\n" + TOKEN
    )


def answered(status: int, *, chunked: bool = False, http10: bool = False, keep_alive: bool = True) -> bytes:
    fields = [
        (b"Connection", b"X-Hop"),
        (b"X-Hop", b"1"),
        (b"Content-Length", b"5"),
        (b"TE", b"x"),
        (b"B", b"2"),
    ]
    return b"".join(
        heads.answer_head(
            status,
            b"Fine",
            fields,
            headers.survey(fields),
            chunked=chunked,
            http10=http10,
            keep_alive=keep_alive,
        )
    )


def test_an_answers_head() -> None:
    """The upstream's lines and phrase, one framing, and whether the connection stays, in the app's own version."""
    assert answered(200) == b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nB: 2\r\n\r\n"
    assert answered(204) == b"HTTP/1.1 204 Fine\r\nB: 2\r\n\r\n"
    assert answered(200, chunked=True).endswith(b"B: 2\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert answered(200, http10=True).endswith(b"B: 2\r\nConnection: keep-alive\r\n\r\n")
    assert answered(200, http10=True, keep_alive=False).endswith(b"B: 2\r\nConnection: close\r\n\r\n")


def test_heads_without_a_body() -> None:
    """Interim answers and 101: no length, and nothing of the hop but the one protocol."""
    fields = [
        *((b"Content-Length", b"0"), (b"Upgrade", b"evil"), (b"Link", b"</a>")),
        *((b"Connection", b"upgrade, x-hop"), (b"X-Hop", b"1")),
    ]
    assert (
        heads.interim_head(103, b"Early Hints", fields) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    )
    assert heads.switching_head(b"Switching", fields, b"websocket") == (
        b"HTTP/1.1 101 Switching\r\nLink: </a>\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, b"OK", b"HTTP/1.1 200 OK\r\n"),
        (200, b"", b"HTTP/1.1 200 \r\n"),
        (404, b"Nope", b"HTTP/1.1 404 Nope\r\n"),
        (299, b"Own", b"HTTP/1.1 299 Own\r\n"),
    ],
)
def test_a_status_line(status: int, reason: bytes, line: bytes) -> None:
    """With the upstream's own phrase, also none."""
    assert heads.status_line(status, reason) == line
