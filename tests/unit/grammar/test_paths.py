"""sidecar.grammar.paths: the normal form, and what is too ambiguous to have one"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grammar import lookalikes
from sidecar.grammar.lookalikes import CONTROLS, READ_AS, SEPARATORS
from sidecar.grammar.paths import escaped, normal_path

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
    pytest.param(b"/%E3%83%8E%E3%83%BC%E3%83%88", b"/%E3%83%8E%E3%83%BC%E3%83%88", id="katakana-no"),
    pytest.param(
        b"/%D9%85%DB%8C%E2%80%8C%D8%AE/%D9%A0", b"/%D9%85%DB%8C%E2%80%8C%D8%AE/%D9%A0", id="persian-joiner"
    ),
    pytest.param(b"/%E2%9D%A4%EF%B8%8F.png", b"/%E2%9D%A4%EF%B8%8F.png", id="emoji"),
    pytest.param(b"/cafe%CC%81", b"/cafe%CC%81", id="combining-accent"),
    pytest.param(b"/a%C2%A0b", b"/a%C2%A0b", id="no-break-space-in-a-name"),
    pytest.param(b"/%E7%AC%AC%E3%80%82", b"/%E7%AC%AC%E3%80%82", id="ideographic-full-stop-in-a-name"),
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
    pytest.param(b"/public/%", "not an escape", id="percent-at-the-end"),
    pytest.param(b"/public/%2", "not an escape", id="half-an-escape"),
    pytest.param(b"/public/%zz", "not an escape", id="no-hex"),
    pytest.param(b"/public/%u002e", "not an escape", id="escape-of-iis"),
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
    pytest.param(b"/public%E2%88%95admin", "folded", id="division-slash"),
    pytest.param(b"/public%E2%81%84admin", "folded", id="fraction-slash"),
    pytest.param(b"/public%E2%88%96admin", "folded", id="set-minus"),
    pytest.param(b"/public%C2%A5admin", "folded", id="yen-sign-of-code-page-932"),
    pytest.param(b"/public%E2%82%A9admin", "folded", id="won-sign-of-code-page-949"),
    pytest.param(b"/public%E2%A7%B8admin", "folded", id="big-solidus"),
    pytest.param(b"/public%D9%AA2e", "folded", id="arabic-percent"),
    pytest.param(b"/%C2%BD", "folded", id="one-half"),
    pytest.param(b"/public%C2%85", "control", id="next-line"),
    pytest.param(b"/public%E2%80%A8", "control", id="line-separator"),
    pytest.param(b"/public/.%C2%AD./admin", "segment of dots", id="soft-hyphen"),
    pytest.param(b"/public/..%E2%80%8B/admin", "segment of dots", id="zero-width-space"),
    pytest.param(b"/public/%E2%80%8D../admin", "segment of dots", id="zero-width-joiner"),
    pytest.param(b"/public/.%E2%81%A0./admin", "segment of dots", id="word-joiner"),
    pytest.param(b"/public/%EF%BB%BF../admin", "segment of dots", id="byte-order-mark"),
    pytest.param(b"/public/.%EF%B8%8F./admin", "segment of dots", id="variation-selector"),
    pytest.param(b"/public/.%E2%80%AE./admin", "segment of dots", id="right-to-left-override"),
    pytest.param(b"/public/.%F3%A0%80%A0./admin", "segment of dots", id="tag"),
    pytest.param(b"/public/.%CC%B8./admin", "segment of dots", id="combining-solidus"),
    pytest.param(b"/public/..%C2%A0/admin", "segment of dots", id="no-break-space"),
    pytest.param(b"/public/..%E3%80%80/admin", "segment of dots", id="ideographic-space"),
    pytest.param(b"/public/%E3%80%82%E3%80%82/admin", "segment of dots", id="ideographic-full-stops"),
    pytest.param(b"/public/%C2%B7%C2%B7/admin", "segment of dots", id="middle-dots"),
    pytest.param(b"/public/..%D8%9Bx/admin", "segment of dots", id="arabic-semicolon"),
    pytest.param(b"/public/%E2%80%8B/admin", "empty segment", id="zero-width-space-only"),
    pytest.param(b"/public/%D8%9Bx/admin", "parameters only", id="arabic-semicolon-only"),
    pytest.param(
        b"/public/%25%E2%80%8B2e%25%C2%AD2e/admin", "twice", id="escaped-twice-around-what-is-dropped"
    ),
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
    """Is refused with the reason, never corrected."""
    with pytest.raises(ValueError, match=re.escape(why)):
        normal_path(path)


def test_the_examples_of_the_page_are_ambiguous() -> None:
    """docs/allow.md has the table, and every path in it is refused."""
    page = (Path(__file__).parents[3] / "docs" / "allow.md").read_text("utf-8")
    rows = [
        line.split(" | ")[1] for line in page.splitlines() if line.startswith("| ") and line.count(" | ") >= 2
    ]
    examples = [path for row in rows for path in re.findall(r"`([/%][^`]*)`", row)]
    assert len(examples) > 15
    for example in examples:
        with pytest.raises(ValueError, match=r"."):
            normal_path(b"/" + example.removeprefix("/").encode())


def test_the_tables_have_all_that_this_version_of_python_knows() -> None:
    """They are our own, so that no path is refused by one version and let through by another; a Unicode that has more
    makes this test fail."""
    missed = []
    for code in (*range(0x80, 0xD800), *range(0xE000, 0x110000)):
        character = chr(code)
        folded = unicodedata.normalize("NFKC", character)
        read = character.translate(READ_AS)
        if character in SEPARATORS or character in CONTROLS:
            continue
        if folded != character and not folded.strip(".") and read != ".":
            missed.append((hex(code), "dots"))
        if folded != character and any(mark in folded for mark in "/\\;%\u2044\u2215"):
            missed.append((hex(code), "separator"))
        if character.isspace() and read != " ":
            missed.append((hex(code), "space"))
        if unicodedata.category(character) in ("Cc", "Cf") and read:
            missed.append((hex(code), "format"))
    assert missed == []


def test_nothing_rests_on_the_unicode_data_of_this_python() -> None:
    """No module of the sidecar asks it."""
    sources = Path(lookalikes.__file__).parent.rglob("*.py")
    assert [
        it.name for it in sources if re.search(r"^\s*(import|from) unicodedata", it.read_text(), re.M)
    ] == []


def test_each_character_is_in_one_table() -> None:
    """And none is ASCII, or what is left over once they are folded."""
    read = {chr(code) for code in READ_AS}
    assert read.isdisjoint(SEPARATORS | CONTROLS)
    assert SEPARATORS.isdisjoint(CONTROLS)
    assert all(ord(character) > 0x7F for character in read | SEPARATORS | CONTROLS)
    assert all(str(left).isascii() for left in READ_AS.values())


def test_the_tags_are_dropped_and_nothing_beside_them() -> None:
    """They stand in no table one by one."""
    text = "".join(map(chr, (0xDFFFF, 0xE0000, 0xE0041, 0xE0FFF, 0xE1000)))
    assert text.translate(READ_AS) == "\U000dffff\U000e1000"


@given(st.binary())
def test_escapes_lose_nothing(target: bytes) -> None:
    """Every byte of them comes back; ASCII, escapes that were there included, stays as it is."""
    made = escaped(target)
    assert made.isascii()
    assert unquote_to_bytes(made) == unquote_to_bytes(target)
    assert escaped(made) == made


def test_what_clients_send_unescaped() -> None:
    """A name in UTF-8, and bytes that are no text."""
    assert escaped("/café?q=ä&%c3%A4".encode()) == b"/caf%C3%A9?q=%C3%A4&%c3%A4"
    assert escaped(b"/x\x80\xff%") == b"/x%80%FF%"
