"""sidecar.serving.request: how a handler reads what it is asked."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.serving.request import WholeRequest, decoded


@pytest.mark.parametrize(
    ("path", "is_read_as"),
    [
        pytest.param(b"/healthz/live", "/healthz/live", id="plain"),
        pytest.param(b"/%6detrics", "/metrics", id="an-escaped-letter"),
        pytest.param(b"/a%40b.example", "/a@b.example", id="an-address"),
        pytest.param(b"/caf%C3%A9", "/café", id="utf-8"),
        pytest.param(b"/a%2Fb%2fc", "/a%2Fb%2Fc", id="a-slash-stays-escaped"),
        pytest.param(b"/a%252Fb", "/a%2Fb", id="decoded-once"),
        pytest.param(b"/a+b", "/a+b", id="a-plus-is-no-space"),
        pytest.param(b"/%zz%", "/%zz%", id="no-escape"),
        pytest.param(b"/%ff", "/\ufffd", id="no-utf-8"),
        pytest.param(b"/../x", "/../x", id="dots-stay"),
        pytest.param(b"*", "*", id="asterisk"),
    ],
)
def test_a_path_is_decoded_once(path: bytes, is_read_as: str) -> None:
    assert decoded(path) == is_read_as


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/")))
def test_an_escaped_segment_is_one_segment(segment: str) -> None:
    """Whatever is in it; a `%2F` that it has itself is not told from an escaped slash."""
    found = decoded(b"/" + quote(segment, safe="").encode())
    assert found == f"/{segment}"


@given(st.binary())
def test_any_bytes_are_a_path(path: bytes) -> None:
    """And none makes a separator more."""
    assert decoded(path).count("/") == path.count(b"/")


@pytest.mark.parametrize(
    ("query", "values"),
    [
        pytest.param("", [], id="none"),
        pytest.param("b=1", [], id="another"),
        pytest.param("a=1", ["1"], id="one"),
        pytest.param("a=1&b=2&a=3", ["1", "3"], id="repeated"),
        pytest.param("a=", [""], id="empty"),
        pytest.param("a", [""], id="no-equals"),
        pytest.param("a=x%20y+z", ["x y z"], id="escapes"),
        pytest.param("a=1;a=2", ["1;a=2"], id="a-semicolon-separates-nothing"),
        pytest.param("a=1?a=2", ["1?a=2"], id="a-question-mark"),
        pytest.param("%61=1", ["1"], id="an-escaped-name"),
        pytest.param("a=%ff", ["\ufffd"], id="no-utf-8"),
        pytest.param("A=1", [], id="case-matters"),
    ],
)
def test_a_parameter_has_the_values_that_stand_there(query: str, values: list[str]) -> None:
    """The first counts where one is asked for."""
    request = WholeRequest("GET", "/", query)
    assert request.parameters("a") == values
    assert request.parameter("a") == (values[0] if values else None)


@given(st.text(st.characters(codec="ascii")))
def test_any_query_can_be_read(query: str) -> None:
    assert all(isinstance(value, str) for value in WholeRequest("GET", "/", query).parameters("a"))


def test_header_lines_are_found_in_any_case() -> None:
    """A character stands for a byte, so that nothing is lost."""
    request = WholeRequest("GET", "/", fields={b"accept": [b"a", b"b"], b"x": [b"\xff"]})
    assert request.headers("ACCEPT") == ["a", "b"]
    assert (request.header("Accept"), request.header("Cookie"), request.header("x")) == ("a", "", "\xff")
    assert request.headers("Cookie") == []


@pytest.mark.parametrize(
    ("body", "form"),
    [
        pytest.param(b"", {}, id="empty"),
        pytest.param(
            b"url=http%3A%2F%2Fa%2F&headers=X%3A+y%0D%0AZ%3A", {"url": "http://a/", "headers": "X: y\r\nZ:"}
        ),
        pytest.param(b"a=1&a=2", {"a": "1"}, id="the-first-counts"),
        pytest.param(b"a=\xff", {"a": "\ufffd"}, id="no-utf-8"),
    ],
)
def test_a_form_is_read(body: bytes, form: dict[str, str]) -> None:
    assert WholeRequest("POST", "/", body=body).form() == form


@given(st.binary())
def test_any_bytes_are_a_form(body: bytes) -> None:
    """One of an internal fault would be a line in the log for each."""
    assert isinstance(WholeRequest("POST", "/", body=body).form(), dict)


def test_a_request_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        WholeRequest("GET", "/").path = "/quit"  # type: ignore[misc]
