"""sidecar.serving.response: how an answer is written."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.serving import problems
from sidecar.serving.response import LAST_CHUNK, Response, chunk

NOW = 784111777.0


async def _nothing():
    yield b""


@pytest.mark.parametrize(
    ("response", "http10", "lines"),
    [
        pytest.param(
            Response.of_text("é"),
            False,
            ["HTTP/1.1 200 OK", "Content-Type: text/plain; charset=utf-8", "Content-Length: 2"],
            id="text",
        ),
        pytest.param(
            Response.of_json({"a": 1}, status=202),
            False,
            ["HTTP/1.1 202 Accepted", "Content-Type: application/json; charset=utf-8", "Content-Length: 8"],
            id="json",
        ),
        pytest.param(
            Response(301, headers={"Location": "/a/"}),
            True,
            ["HTTP/1.0 301 Moved Permanently", "Location: /a/", "Content-Length: 0"],
            id="to-http-1.0",
        ),
        pytest.param(
            Response(parts=_nothing()),
            False,
            ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"],
            id="in-parts",
        ),
        pytest.param(Response(parts=_nothing()), True, ["HTTP/1.0 200 OK"], id="in-parts-to-http-1.0"),
        pytest.param(
            problems.problem(404, "No.", {"X": "y"}),
            False,
            [
                "HTTP/1.1 404 Not Found",
                "Content-Type: application/problem+json",
                "X: y",
                "Content-Length: 55",
            ],
            id="problem",
        ),
    ],
)
def test_a_head_says_how_its_body_ends(response: Response, http10: bool, lines: list[str]) -> None:
    """Each has a date, and each says that the connection ends behind it."""
    first, *rest = response.head(http10=http10, now=NOW).decode().removesuffix("\r\n\r\n").split("\r\n")
    usual = {"Date: Sun, 06 Nov 1994 08:49:37 GMT", "Connection: close"}
    assert first == lines[0]
    assert usual <= set(rest)
    assert sorted(set(rest) - usual) == sorted(lines[1:])


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0b", "a\rb", "\x7f"])
def test_no_value_becomes_another_line(value: str) -> None:
    """It is a fault of ours, and nothing is sent."""
    with pytest.raises(ValueError, match="control character"):
        Response(headers={"Location": value}).head(http10=False, now=NOW)


class Read:
    """What a client's parser reads of an answer."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.is_complete = False
        httptools.HttpResponseParser(self).feed_data(data)

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.is_complete = True


@given(st.lists(st.binary(min_size=1)))
def test_parts_come_out_as_they_went_in(parts: list[bytes]) -> None:
    head = Response(parts=_nothing()).head(http10=False, now=NOW)
    read = Read(b"".join([head, *map(chunk, parts), LAST_CHUNK]))
    assert read.is_complete
    assert read.body == b"".join(parts)


@given(st.text())
def test_a_text_comes_out_as_it_went_in(text: str) -> None:
    response = Response.of_text(text.encode("utf-8", "replace").decode())
    read = Read(response.head(http10=False, now=NOW) + response.body)
    assert read.is_complete
    assert read.body == response.body


@pytest.mark.parametrize("head", [False, True])
def test_a_refusal_is_whole(head: bool) -> None:
    """To HEAD it is what GET would get, without the body."""
    sent, _, body = problems.answer(431, "Too long.", head=head, now=NOW).partition(b"\r\n\r\n")
    assert sent.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in sent
    assert bool(body) is not head
