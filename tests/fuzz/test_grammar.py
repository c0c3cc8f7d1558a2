"""Requests and answers made by the grammar, in every legal spelling, and cut anywhere: what is sent comes out, once.

The fuzzers ask that nothing odd gets through; here, that everything right does. Mutated, the same messages are the
fuzz targets' to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.play import ANSWER
from tests.conformance.requests import REQUESTS
from tests.conformance.responses import RESPONSES
from tests.fuzz import answer, reference, request
from tests.fuzz.corpus import mutated_by
from tests.fuzz.stage import leave_stage, on_stage
from tests.support.sampling import examples

FAST = settings(max_examples=examples(100), deadline=None, derandomize=True)

TOKEN = "!#$%&'*+.^`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"
RESERVED = {
    *(
        b"host",
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
    ),
    *(
        b"via",
        b"origin",
        b"authorization",
        b"keep-alive",
        b"cookie",
        b"cache-control",
        b"max-forwards",
        b"location",
    ),
}
"""Names that mean something to a proxy: made on purpose where they are wanted, never by chance."""

names = (
    st.text(TOKEN, min_size=1, max_size=12).map(str.encode).filter(lambda name: name.lower() not in RESERVED)
)
values = st.text([chr(code) for code in (*range(0x20, 0x7F), *range(0x80, 0x100))], max_size=20).map(
    lambda text: text.encode("latin-1").strip(b" \t")
)
spaces = st.sampled_from([b"", b" ", b"  "])
lines = st.lists(st.tuples(names, spaces, values, spaces), max_size=5)
bodies = st.binary(max_size=80)
targets = st.text("abcXYZ019-._~!$&'()*+,;=:@?", max_size=20).map(lambda text: b"/x" + text.encode())


def spelled(fields: list[tuple[bytes, bytes, bytes, bytes]]) -> bytes:
    """Header lines with the white space that may stand around values."""
    return b"".join(name + b":" + before + value + after + b"\r\n" for name, before, value, after in fields)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in chunks: sizes in either case and with zeros before, extensions, trailers. No white space around `;`,
    which the parser refuses though a sender's mistake may be forgiven (BWS in RFC 9112 section 7.1.1)."""
    out = b""
    while body:
        size = draw(st.integers(1, len(body)))
        digits = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"000%X"])) % size
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b";a=1;b=2"]))
        out += digits + extension + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n", b"x-sum:1 \r\nX-More: \r\n"]))
    return out + draw(st.sampled_from([b"0", b"000", b"0;last"])) + b"\r\n" + trailer + b"\r\n"


@st.composite
def framed(draw: st.DrawFn, body: bytes) -> bytes:
    """The framing line, the end of the head, and the body."""
    if draw(st.booleans()):
        line = draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked"]))
        return line + b"\r\n\r\n" + draw(chunked(body))
    return (
        draw(st.sampled_from([b"Content-Length: %d", b"content-length:%d "])) % len(body) + b"\r\n\r\n" + body
    )


@st.composite
def one_request(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, bytes]:
    """The bytes of a request, its method, target and body."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PROPFIND"]))
    target = draw(targets)
    body = draw(bodies) if method != b"GET" else b""
    fields = spelled(draw(lines))
    host = draw(st.sampled_from([b"Host: billing.internal\r\n", b"HOST:Billing.Internal:80\r\n"]))
    end = draw(framed(body)) if method != b"GET" else b"\r\n"
    first = method + b" " + target + b" HTTP/1.1\r\n"
    return first + host + fields + end, method, target, body


@st.composite
def pieces(draw: st.DrawFn, stream: bytes) -> tuple[int, ...]:
    """Where to cut: anywhere, or within an end of line."""
    ends = [
        at
        for match in re.finditer(rb"\r\n", stream)
        for at in (match.start(), match.start() + 1, match.end())
    ]
    inside = st.sampled_from([at for at in ends if 0 < at < len(stream)])
    return tuple(
        sorted(draw(st.sets(st.one_of(st.integers(1, len(stream) - 1), inside, inside), max_size=8)))
    )


@pytest.fixture(scope="module", autouse=True)
def stage() -> Iterator[None]:
    """The proxy in memory is closed in the end."""
    yield
    leave_stage()


@pytest.mark.slow
@FAST
@given(st.lists(one_request(), min_size=1, max_size=3), st.data())
def test_requests_by_the_grammar_are_forwarded(
    asked: list[tuple[bytes, bytes, bytes, bytes]], data: st.DataObject
) -> None:
    """Each, in order, with its target and body, wherever the reads end; and each is answered."""
    stream = b"".join(one for one, *_ in asked)
    if max(len(one) for one, *_ in asked) > 1000:
        return  # the limits have their own tests
    cuts = data.draw(pieces(stream))

    def play(on: object, _: bytes) -> None:
        played = on.memory.play(stream, cuts)  # type: ignore[attr-defined]
        sent = [(*one.line.split(b" ")[:2], one.body) for one in played.requests]
        assert sent == [(method, target, body) for _, method, target, body in asked]
        assert played.statuses == [200] * len(asked)
        assert played.ambiguous == []

    on_stage(play, b"")


@st.composite
def one_answer(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """The bytes of an answer, its status and body."""
    status = draw(st.sampled_from([200, 201, 206, 302, 400, 404, 500]))
    interim = draw(
        st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\n"])
    )
    body = draw(bodies)
    phrase = draw(st.sampled_from([b" OK", b" ", b" N\xe4h", b" a b"]))
    head = b"HTTP/1.1 %d" % status + phrase + b"\r\n" + spelled(draw(lines))
    return interim + head + draw(framed(body)), status, body


@pytest.mark.slow
@FAST
@given(one_answer(), st.data())
def test_answers_by_the_grammar_are_passed_on(
    given_one: tuple[bytes, int, bytes], data: st.DataObject
) -> None:
    """With status and body, wherever the reads end; and the connection serves the next request."""
    stream, status, body = given_one
    cuts = data.draw(pieces(stream))

    def play(on: object, _: bytes) -> None:
        memory = on.memory  # type: ignore[attr-defined]
        upstream = memory.upstream
        upstream.answer, upstream.pieces, upstream.end = stream, cuts, False
        played = memory.play(b"GET /x HTTP/1.1\r\nHost: billing.internal\r\n\r\n")
        upstream.answer, upstream.pieces = ANSWER, ()
        got = reference.read_answer(played.data, b"GET", ended=False)
        assert (got.status, got.body, got.whole, got.rest) == (status, body, True, b"")
        opened = len(upstream.lines)
        assert memory.play(b"GET /x HTTP/1.1\r\nHost: billing.internal\r\n\r\n").data == ANSWER
        assert len([line for line in upstream.lines if not line.gone]) == opened == 1

    on_stage(play, b"")


SHORT_REQUESTS = [case.data for case in REQUESTS if 8 < len(case.data) < 1000]
SHORT_ANSWERS = [case.data for case in RESPONSES if 8 < len(case.data) < 1000]
places = st.integers(1, 2**16 - 1).map(lambda number: number.to_bytes(2, "big"))


@pytest.mark.slow
@FAST
@given(st.sampled_from(SHORT_REQUESTS), places, places, st.randoms(use_true_random=False), st.integers(0, 2))
def test_hostile_requests_cut_twice_get_the_same_verdict(
    data: bytes, first: bytes, second: bytes, choose: object, changes: int
) -> None:
    """Every pair of cuts, of the table's cases and of mutations of them."""
    data = mutated_by(choose, data, SHORT_REQUESTS, changes)  # type: ignore[arg-type]
    request.target(first + second + data)


@pytest.mark.slow
@FAST
@given(
    st.integers(0, 31),
    st.sampled_from(SHORT_ANSWERS),
    places,
    places,
    st.randoms(use_true_random=False),
    st.integers(0, 2),
)
def test_hostile_answers_cut_twice_get_the_same_verdict(
    flags: int, data: bytes, first: bytes, second: bytes, choose: object, changes: int
) -> None:
    """Every pair of cuts, of the table's cases and of mutations of them, to every kind of request."""
    data = mutated_by(choose, data, SHORT_ANSWERS, changes)  # type: ignore[arg-type]
    answer.target(bytes([flags]) + first + second + data)
