"""sidecar.grammar.terminal: text from outside, for a person's eyes and for a shell"""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.terminal import command, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain, tab\tand ünïcödé …", "plain, tab\tand ünïcödé …", id="plain"),
        pytest.param("a\x1b]0;title\x07b", "a\\x1b]0;title\\x07b", id="escape"),
        pytest.param("a\x9b31mb", "a\\x9b31mb", id="one-byte-escape"),
        pytest.param("a\r\nforged line", "a\\r\\nforged line", id="line-break"),
        pytest.param("a\u2028b", "a\\u2028b", id="line-separator"),
        pytest.param("moc.\u202eelgoog", "moc.\\u202eelgoog", id="turned-round"),
        pytest.param("a\u200bb", "a\\u200bb", id="of-no-width"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    """Everything else stays."""
    assert printable(text) == shown


def test_what_is_shown_is_bounded() -> None:
    """And says that it was cut."""
    assert printable("a" * 5000, limit=2000) == "a" * 1999 + "…"
    assert printable("\x1b" * 5000, limit=2000) == "\\x1b" * 499 + "\\x1" + "…"
    assert printable("a" * 2000, limit=2000) == "a" * 2000


@given(st.text(), st.integers(1, 50))
def test_nothing_that_is_shown_drives_a_terminal(text: str, limit: int) -> None:
    """Whatever text comes, and however short it must be."""
    shown = printable(text, limit=limit)
    assert len(shown) <= limit
    assert shown.replace("\t", "").isprintable()


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), min_size=1))
def test_a_command_is_the_words_that_it_was_made_of(words: list[str]) -> None:
    """To a shell."""
    assert shlex.split(command(*words)) == words


@pytest.mark.parametrize("word", ["a\nb", "\x1b[2J", "é", "\u202e", "x" * 2000])
def test_there_is_no_command_with_what_nobody_can_read(word: str) -> None:
    """A person is to see what will be run."""
    assert command("gcloud", word) == ""


def test_an_error_is_clean_whatever_it_quotes() -> None:
    """Its text goes to answers, logs, pages and terminals."""
    error = SidecarError(Reason.INTERNAL, "It is `\x1b[2J`.\nAnd more." + "x" * 10_000, command="a\nb")
    assert error.detail.startswith("It is `\\x1b[2J`.\\nAnd more.")
    assert len(error.detail) <= 4000
    assert "\n" not in error.command
