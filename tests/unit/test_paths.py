"""sidecar.paths: the normal form, and what is too ambiguous to have one"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.paths import normal_path

NORMAL = [
    pytest.param(b"/", b"/", id="root"),
    pytest.param(b"/v1/invoices", b"/v1/invoices", id="plain"),
    pytest.param(b"/v1/", b"/v1/", id="slash-at-the-end"),
    pytest.param(b"/v1/%69nvoices", b"/v1/invoices", id="unreserved-escaped"),
    pytest.param(b"/%7euser/%2dx", b"/~user/-x", id="tilde-and-hyphen"),
    pytest.param(b"/caf%c3%a9", b"/caf%C3%A9", id="escapes-in-capitals"),
    pytest.param(b"/a%2eb", b"/a.b", id="dot-within-a-name"),
    pytest.param(b"/.well-known/x", b"/.well-known/x", id="name-that-begins-with-a-dot"),
    pytest.param(b"/..a/b..", b"/..a/b..", id="names-with-two-dots"),
    pytest.param(b"/a;b=c/d", b"/a;b=c/d", id="parameters"),
    pytest.param(b"/a%3bb", b"/a%3Bb", id="escaped-semicolon"),
    pytest.param(b"/100%25", b"/100%25", id="percent"),
    pytest.param(b"/100%25/x", b"/100%25/x", id="percent-before-a-slash"),
    pytest.param(b"/a%20b+c", b"/a%20b+c", id="spaces"),
    pytest.param(b"/what%3f%23", b"/what%3F%23", id="question-mark-and-hash"),
    pytest.param(b"/!$&'()*+,;=:@", b"/!$&'()*+,;=:@", id="sub-delims"),
    pytest.param(b"/%E6%96%87", b"/%E6%96%87", id="chinese"),
    pytest.param(b"/%F0%9F%98%80", b"/%F0%9F%98%80", id="four-octets"),
    pytest.param(b"/%EF%BC%A1", b"/%EF%BC%A1", id="full-width-letter"),
]

AMBIGUOUS = [
    pytest.param(b"/public/../admin", "segment of dots", id="dot-dot"),
    pytest.param(b"/public/..", "segment of dots", id="dot-dot-at-the-end"),
    pytest.param(b"/./x", "segment of dots", id="dot"),
    pytest.param(b"/x/.", "segment of dots", id="dot-at-the-end"),
    pytest.param(b"/public/%2e%2e/admin", "segment of dots", id="dot-dot-escaped"),
    pytest.param(b"/public/%2E./admin", "segment of dots", id="dot-dot-half-escaped"),
    pytest.param(b"/%2e/x", "segment of dots", id="dot-escaped"),
    pytest.param(b"/public/..;x/admin", "segment of dots", id="dot-dot-with-parameters"),
    pytest.param(b"/public/..;/admin", "segment of dots", id="dot-dot-with-empty-parameters"),
    pytest.param(b"/public/%2e%2e%3bx/admin", "segment of dots", id="dot-dot-with-escaped-parameters"),
    pytest.param(b"/public/..%20/admin", "segment of dots", id="dot-dot-and-space"),
    pytest.param(b"/public/.../admin", "segment of dots", id="three-dots"),
    pytest.param(b"/public/%20/admin", "segment of dots", id="space"),
    pytest.param(b"//admin", "empty segment", id="two-slashes-at-the-start"),
    pytest.param(b"/public//admin", "empty segment", id="two-slashes"),
    pytest.param(b"/public//", "empty segment", id="two-slashes-at-the-end"),
    pytest.param(b"/public/;/admin", "parameters only", id="parameters-only"),
    pytest.param(b"/public/%3bx/admin", "parameters only", id="parameters-only-escaped"),
    pytest.param(b"/public%2fadmin", "%2F", id="slash-escaped"),
    pytest.param(b"/public%2Fadmin", "%2F", id="slash-escaped-in-capitals"),
    pytest.param(b"/public\\admin", "unescaped", id="backslash"),
    pytest.param(b"/public%5cadmin", "%5C", id="backslash-escaped"),
    pytest.param(b"/public%00.png", "control", id="nul"),
    pytest.param(b"/public%0a", "control", id="lf"),
    pytest.param(b"/public%0d%0a", "control", id="crlf"),
    pytest.param(b"/public%7f", "control", id="del"),
    pytest.param(b"/public\x01", "unescaped", id="control-raw"),
    pytest.param(b"/public\xc3\xa9", "unescaped", id="not-ascii-raw"),
    pytest.param(b"/public/%", "no escape", id="percent-at-the-end"),
    pytest.param(b"/public/%2", "no escape", id="half-an-escape"),
    pytest.param(b"/public/%zz", "no escape", id="no-hex"),
    pytest.param(b"/public/%u002e", "no escape", id="escape-of-iis"),
    pytest.param(b"/public/%252e%252e/admin", "twice", id="dot-dot-escaped-twice"),
    pytest.param(b"/public%252fadmin", "twice", id="slash-escaped-twice"),
    pytest.param(b"/public%25%32%66admin", "twice", id="slash-escaped-twice-in-pieces"),
    pytest.param(b"/public%25252fadmin", "twice", id="slash-escaped-three-times"),
    pytest.param(b"/%25u002e", "twice", id="escape-of-iis-escaped"),
    pytest.param(b"/public/%c0%af", "UTF-8", id="overlong-slash"),
    pytest.param(b"/public/%c0%ae%c0%ae/", "UTF-8", id="overlong-dots"),
    pytest.param(b"/public/%e0%80%af", "UTF-8", id="overlong-slash-in-three"),
    pytest.param(b"/%ff", "UTF-8", id="no-utf-8"),
    pytest.param(b"/%ed%a0%80", "UTF-8", id="surrogate"),
    pytest.param(b"/%c3", "UTF-8", id="half-a-character"),
    pytest.param(b"/public/%EF%BC%8E%EF%BC%8E/admin", "folded", id="full-width-dots"),
    pytest.param(b"/public/%E2%80%A5/admin", "folded", id="two-dot-leader"),
    pytest.param(b"/public%EF%BC%8Fadmin", "folded", id="full-width-slash"),
    pytest.param(b"/public%EF%BC%BCadmin", "folded", id="full-width-backslash"),
    pytest.param(b"/public/..%CD%BE/admin", "folded", id="greek-question-mark"),
    pytest.param(b"/%E2%84%85", "folded", id="care-of"),
    pytest.param(b"/%EF%BC%85", "folded", id="full-width-percent"),
    *(pytest.param(b"/a" + bytes((octet,)), "unescaped", id=f"raw-{chr(octet)}") for octet in b'"<>^`{|}[] '),
    pytest.param(b"public", "begin", id="no-slash"),
    pytest.param(b"", "begin", id="empty"),
    pytest.param(b"http://x/", "begin", id="a-url"),
]


@pytest.mark.parametrize(("path", "normal"), NORMAL)
def test_the_normal_form(path: bytes, normal: bytes) -> None:
    """Unreserved characters plain, other escapes in capitals; doing it again changes nothing."""
    assert normal_path(path) == normal
    assert normal_path(normal) == normal


@pytest.mark.parametrize(("path", "why"), AMBIGUOUS)
def test_what_two_parsers_could_read_differently(path: bytes, why: str) -> None:
    """Is refused with the reason, never put right."""
    with pytest.raises(ValueError, match=re.escape(why)):
        normal_path(path)


def test_the_examples_of_the_page_are_ambiguous() -> None:
    """docs/allow.md has the table, and every path in it is refused."""
    page = (Path(__file__).parents[2] / "docs" / "allow.md").read_text("utf-8")
    rows = [
        line.split(" | ")[1] for line in page.splitlines() if line.startswith("| ") and line.count(" | ") >= 2
    ]
    examples = [path for row in rows for path in re.findall(r"`([/%][^`]*)`", row)]
    assert len(examples) > 15
    for example in examples:
        with pytest.raises(ValueError, match=r"."):
            normal_path(b"/" + example.removeprefix("/").encode())
