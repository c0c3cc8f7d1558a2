"""sidecar.serving.intake: a head is read in one way, or refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.serving.intake import BODY, Head, Takes, body_due, refuse_head
from sidecar.serving.problems import RefusedError

SERVER = Takes("server", forms=("/form",), purpose="do it")
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


def head(line: bytes, more: bytes = b"", host: bytes = b"Host: localhost\r\n") -> Head:
    return Head(line + b"\r\n" + host + more + b"\r\n")


def due(line: bytes, more: bytes) -> int:
    """How many bytes of body come behind this head."""
    found = head(line, more)
    refuse_head(found, SERVER)
    return body_due(found, SERVER, local=True)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        pytest.param(b"/", b"/", b"", id="root"),
        pytest.param(b"/a?b=c&d", b"/a", b"b=c&d", id="query"),
        pytest.param(b"/a?", b"/a", b"", id="empty-query"),
        pytest.param(b"/a?b?c", b"/a", b"b?c", id="two-question-marks"),
        pytest.param(b"/a%3Fb", b"/a%3Fb", b"", id="escaped"),
        pytest.param(b"/a#b?c", b"/a", b"", id="fragment"),
        pytest.param(b"/a?b#c", b"/a", b"b", id="fragment-behind-a-query"),
        pytest.param(b"//localhost/a", b"//localhost/a", b"", id="no-authority"),
        pytest.param(b"/http://x/y", b"/http://x/y", b"", id="a-url-in-a-path"),
        pytest.param(b"http://localhost/a?b", b"/a", b"b", id="url"),
        pytest.param(b"HTTP://LOCALHOST/a", b"/a", b"", id="url-in-capitals"),
        pytest.param(b"http://localhost", b"/", b"", id="url-without-a-path"),
        pytest.param(b"http://localhost?b", b"/", b"b", id="url-with-a-query-only"),
    ],
)
def test_a_target_has_a_path_and_a_query(target: bytes, path: bytes, query: bytes) -> None:
    """The same for a whole URL (RFC 9112 section 3.2.2)."""
    found = head(b"GET " + target + b" HTTP/1.1")
    refuse_head(found, SERVER)
    assert found.asked == (path, query)


def test_an_asterisk_is_a_path() -> None:
    found = head(b"OPTIONS * HTTP/1.1")
    refuse_head(found, SERVER)
    assert found.asked == (b"*", b"")


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET\t/ HTTP/1.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/2.0",
        b"GET / RTSP/1.0",
        b"DESCRIBE / RTSP/1.0",
        b"SOURCE / ICE/1.0",
        b"get / HTTP/1.1",
        b"NOSUCH / HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /",
        b"GET / HTTP/1.1\r\n folded",
    ],
)
def test_a_first_line_has_one_form(line: bytes) -> None:
    """What the parser would take besides is refused, as on the data path."""
    with pytest.raises(RefusedError) as refused:
        head(line)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("more", "status"),
    [
        pytest.param(b"Content-Length: 5\r\nContent-Length: 5\r\n", 400, id="two-lengths"),
        pytest.param(b"Content-Length: 5, 5\r\n", 400, id="a-list-of-lengths"),
        pytest.param(b"Content-Length: +5\r\n", 400, id="signed"),
        pytest.param(b"Content-Length: -5\r\n", 400, id="negative"),
        pytest.param(b"Content-Length: 0x5\r\n", 400, id="hexadecimal"),
        pytest.param(b"Content-Length: 5 5\r\n", 400, id="two-numbers"),
        pytest.param(b"Content-Length: %d\r\n" % 10**30, 400, id="longer-than-any"),
        pytest.param(b"Content-Length: %d\r\n" % (BODY + 1), 413, id="too-long"),
        pytest.param(b"Transfer-Encoding: chunked\r\n", 411, id="chunked"),
        pytest.param(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400, id="both"),
        pytest.param(b"Transfer-Encoding: gzip\r\n", 400, id="not-chunked"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400, id="chunked-twice"
        ),
        pytest.param(b"Content-Length: 5\r\nContent-Type: text/plain\r\n", 400, id="two-types"),
        pytest.param(b"Content-Length: 5\r\nUser-Agent: a\r\nUser-Agent: b\r\n", 400, id="two-agents"),
        pytest.param(b"Content-Length: 5\r\nSec-WebSocket-Key1: a\r\n", 400, id="old-websocket"),
        pytest.param(b"Content-Length: 5\r\nContent-Encoding: br\r\n", 415, id="compressed"),
        pytest.param(b"Content-Length: 5\r\nExpect: 100-continue\r\n", 417, id="expect"),
    ],
)
def test_framing_that_could_be_read_in_two_ways_is_refused(more: bytes, status: int) -> None:
    """So a body's length is what the gate counts."""
    with pytest.raises(RefusedError) as refused:
        due(b"POST /form HTTP/1.1", FORM + more)
    assert refused.value.status == status


@given(st.integers(0, BODY))
def test_a_body_has_its_length(size: int) -> None:
    assert due(b"POST /form HTTP/1.1", FORM + b"Content-Length: %d\r\n" % size) == size


PIECES = st.sampled_from(
    [
        *(
            b"GET",
            b"POST",
            b"OPTIONS",
            b" ",
            b"/",
            b"*",
            b"/form",
            b"?a=b",
            b"%",
            b"#",
            b"http://localhost",
            b"http://[",
        ),
        *(
            b" HTTP/1.1",
            b" HTTP/1.0",
            b"\r\n",
            b"\n",
            b"\r\n\r\n",
            b"Host: localhost",
            b"Content-Length: ",
            b"5",
            b"-1",
        ),
        *(
            b"Transfer-Encoding: chunked",
            b"Upgrade: h2c",
            b"Connection: upgrade",
            b"Expect: x",
            b":",
            b"\0",
            b"\xff",
        ),
    ]
)


@given(st.one_of(st.binary(), st.lists(PIECES, max_size=20).map(b"".join)))
def test_any_bytes_are_a_head_or_a_refusal(data: bytes) -> None:
    """And what is accepted has a path that begins with a slash, or is the asterisk."""
    with suppress(RefusedError):
        found = Head(data)
        refuse_head(found, SERVER)
        path, query = found.asked
        assert path[:1] == b"/" or path == b"*"
        assert query.isascii()
        assert 0 <= body_due(found, SERVER, local=True) <= BODY
