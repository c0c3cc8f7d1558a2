"""sidecar.proxy.framing: how a body ends, by RFC 9112 section 6.3"""

from __future__ import annotations

import pytest

from sidecar.errors import SidecarError
from sidecar.proxy.framing import CHUNKED, NO_BODY, UNTIL_CLOSE, request_body, response_body

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
        pytest.param({}, 101, False, False, NO_BODY, id="interim"),
    ],
)
def test_an_answers_body(found: dict[bytes, bytes], status: int, head: bool, http10: bool, body: int) -> None:
    """What was asked for and the status come before any header."""
    assert response_body(found, status=status, head=head, http10=http10) == body


@pytest.mark.parametrize("status", [100, 199, 204])
@pytest.mark.parametrize("found", [{CL: b"1"}, {TE: b"chunked"}, {CL: b"00"}])
@pytest.mark.parametrize("head", [True, False], ids=["head", "get"])
def test_an_answer_without_a_body_frames_none(status: int, found: dict[bytes, bytes], head: bool) -> None:
    """1xx and 204 can't have one: a recipient that believes the header would wait for it, or read the next answer."""
    with pytest.raises(SidecarError):
        response_body(found, status=status, head=head, http10=False)


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
