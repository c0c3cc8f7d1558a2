"""sidecar.proxy.http1.framing: how a body ends, by RFC 9112 section 6.3"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import SidecarError
from sidecar.proxy.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE, Chunks, request_body, response_body

TE, CL = b"transfer-encoding", b"content-length"


@pytest.mark.parametrize(
    ("found", "http10", "body"),
    [
        pytest.param({}, False, NO_BODY, id="none"),
        pytest.param({TE: b"Chunked  "}, False, CHUNKED, id="chunked"),
        pytest.param({CL: b" 12\t"}, True, 12, id="length"),
        pytest.param({CL: b"0"}, False, 0, id="zero"),
        pytest.param({CL: b"9" * 19}, False, 10**19 - 1, id="nineteen-digits"),
    ],
)
def test_a_requests_body(found: dict[bytes, bytes], http10: bool, body: int) -> None:
    """Chunked, a length, or none; white space around the value is no part of it."""
    assert request_body(found, http10=http10) == body


@pytest.mark.parametrize(
    ("found", "status", "head", "http10", "body"),
    [
        pytest.param({}, 200, False, False, UNTIL_CLOSE, id="until-close"),
        pytest.param({CL: b"3"}, 200, False, True, 3, id="length"),
        pytest.param({TE: b"chunked  "}, 200, False, False, CHUNKED, id="chunked"),
        pytest.param({TE: b"CHUNKED"}, 404, False, False, CHUNKED, id="any-case"),
        pytest.param({CL: b"3"}, 200, True, False, NO_BODY, id="head"),
        pytest.param({TE: b"gzip"}, 200, True, True, NO_BODY, id="head-with-any-framing"),
        pytest.param({CL: b"3"}, 304, False, False, NO_BODY, id="not-modified"),
        pytest.param({}, 204, False, False, NO_BODY, id="no-content"),
        pytest.param({CL: b" 0\t"}, 204, False, False, NO_BODY, id="no-content-of-length-zero"),
        pytest.param({TE: b"Chunked"}, 204, False, False, CHUNKED, id="no-content-in-chunks"),
        pytest.param({TE: b"chunked"}, 204, True, False, NO_BODY, id="head-no-content-in-chunks"),
        pytest.param({}, 101, False, False, NO_BODY, id="interim"),
    ],
)
def test_an_answers_body(found: dict[bytes, bytes], status: int, head: bool, http10: bool, body: int) -> None:
    """What was asked for and the status come before any header."""
    assert response_body(found, status=status, head=head, http10=http10) == body


@pytest.mark.parametrize("status", [100, 199, 204])
@pytest.mark.parametrize("found", [{CL: b"1"}, {TE: b"gzip"}, {TE: b"gzip, chunked"}, {TE: b""}, {CL: b"00"}])
@pytest.mark.parametrize("head", [True, False], ids=["head", "get"])
def test_an_answer_without_a_body_frames_none(status: int, found: dict[bytes, bytes], head: bool) -> None:
    """1xx and 204 can't have one: a recipient that believes the header would wait for it, or read the next answer."""
    with pytest.raises(SidecarError):
        response_body(found, status=status, head=head, http10=False)


@pytest.mark.parametrize(("status", "http10"), [(100, False), (103, False), (204, True)])
def test_chunks_are_for_nobody_but_a_204_of_http_11(status: int, http10: bool) -> None:
    """A 204 is passed on where its chunks are none but the last one, which many send; nothing else is."""
    with pytest.raises(SidecarError):
        response_body({TE: b"chunked"}, status=status, head=False, http10=http10)


@pytest.mark.parametrize("around", [b"\x0b", b"\x0c", b"X", b'"'], ids=["vt", "ff", "letter", "quote"])
@pytest.mark.parametrize("found", [{CL: b"0"}, {CL: b"5"}, {TE: b"chunked"}])
def test_nothing_but_space_and_tab_is_taken_off(found: dict[bytes, bytes], around: bytes) -> None:
    """White space of HTTP is SP and HTAB (RFC 9110 section 5.6.3); what else stands there makes another value."""
    for odd in (
        {name: around + value for name, value in found.items()},
        {name: value + around for name, value in found.items()},
    ):
        with pytest.raises(SidecarError):
            request_body(odd, http10=False)
        for status in (200, 204):
            with pytest.raises(SidecarError):
                response_body(odd, status=status, head=False, http10=False)


DATA = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.sampled_from([b"\r\n\r\n" * 5, b"0\r\n\r\n", b"\r", b"\n\r\n0\r\n\r\n"]),
)
CHUNK = st.builds(
    lambda data, zeros, extension: b"%b%X%b\r\n%b\r\n" % (zeros, len(data), extension, data),
    DATA,
    st.sampled_from([b"", b"0", b"000"]),
    st.sampled_from([b"", b";a", b';a="b;0"']),
)
TRAILERS = st.sampled_from([b"", b"A: 1\r\n", b"A: 0\r\nB: \r\n"])


@given(
    st.lists(CHUNK, max_size=6),
    st.sampled_from([b"0\r\n", b"000\r\n", b"0;x\r\n"]),
    TRAILERS,
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"0\r\n\r\n"]),
    st.lists(st.integers(1, 40), max_size=30),
    st.integers(1, 50),
)
def test_where_a_chunked_body_ends(
    chunks: list[bytes], last: bytes, trailers: bytes, behind: bytes, cuts: list[int], limit: int
) -> None:
    """To the byte, whatever stands in it and behind it, and in whatever pieces it comes; and never in the middle of it
    where there is room for more."""
    body = b"".join([*chunks, last, trailers, b"\r\n"])
    rest = body + behind
    reading, ends, taken = Chunks(), [], 0
    while taken < len(body):
        piece = rest[: cuts.pop() if cuts else len(rest)]
        while piece and taken < len(body):
            size = reading.end(piece, limit)
            assert 0 < size <= limit
            if size < min(limit, len(piece)):
                ends.append(taken + size)
            taken += size
            piece, rest = piece[size:], rest[size:]
    assert taken == len(body)
    assert set(ends) <= {len(body)}


@pytest.mark.parametrize("line", [b"", b"x", b"-1", b"1_0", b" 5", b"5 ", b"0x5", b"5\r", b"\n5"])
def test_what_is_no_size_is_left_to_the_parser(line: bytes) -> None:
    """Which refuses it; until then nothing behind an empty line is taken for more of the body."""
    data = line + b"\r\nabcde\r\n\r\nGET"
    assert Chunks().end(data, 100) == len(data) - 3


def test_no_line_end_is_taken_from_beyond_what_is_asked_about() -> None:
    """Nor a CR for a whole one."""
    reading, data = Chunks(), b"0\r\n\r\nGET"
    assert reading.end(data, 1) == 1
    assert reading.end(data[1:], 7) == 4
    reading = Chunks()
    assert reading.end(b"5\r", 2) == 2
    assert reading.end(b"\r\n\r\nGET /", 9) == 4


def test_many_small_chunks_come_in_portions() -> None:
    """So that what is kept of them can be counted before all of a read is."""
    chunks = b"1\r\na\r\n"
    reading, data = Chunks(), chunks * 2500 + b"0\r\n\r\nGET"
    sizes = []
    while data != b"GET":
        sizes.append(reading.end(data, len(data)))
        data = data[sizes[-1] :]
    assert sizes == [len(chunks) * 1024, len(chunks) * 1024, len(chunks) * 452 + 5]


def test_many_empty_lines_in_a_chunk_are_one_piece() -> None:
    """A piece for each of them took seconds for a megabyte."""
    data = b"\r\n\r\n" * 10_000
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    assert Chunks().end(body, len(body)) == len(body)
