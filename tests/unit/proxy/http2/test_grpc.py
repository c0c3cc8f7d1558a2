"""sidecar.proxy.http2.grpc: calls, their deadlines, and how they end"""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MEANINGS, Reason, SidecarError
from sidecar.proxy.http2 import grpc


@pytest.mark.parametrize(
    ("kind", "is_call"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc; charset=x", True),
        (b"application/grpc;charset=x", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/grpcx", False),
        (b"text/html", False),
        (b"", False),
    ],
)
def test_what_a_call_is(kind: bytes, is_call: bool) -> None:
    """By its content type; gRPC-Web is something else."""
    assert grpc.is_call(kind) is is_call


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999S", 99999999),
    ],
)
def test_a_deadline_has_a_unit(value: bytes, seconds: float) -> None:
    """https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md"""
    assert grpc.time_limit([(b"te", b"trailers"), (b"grpc-timeout", value)]) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"123456789S", b"1 S", b"1.5S"])
def test_a_deadline_that_can_t_be_read_is_an_error(value: bytes) -> None:
    """Nobody should wait forever because of a slip."""
    with pytest.raises(SidecarError, match="grpc-timeout"):
        grpc.time_limit([(b"grpc-timeout", value)])


def test_without_a_deadline_there_is_none() -> None:
    """None of the sidecar's own is made up."""
    assert grpc.time_limit([(b"te", b"trailers")]) is None


@given(st.floats(-10, 1e9))
def test_what_is_left_of_a_deadline_is_a_deadline(seconds: float) -> None:
    """Never more than there is, never below nothing, and readable."""
    (line,) = grpc.with_time_left([(b"grpc-timeout", b"1H")], seconds)
    left = grpc.time_limit([line])
    assert left is not None
    assert left <= max(0.0, seconds) + 1e-9
    if 0 < seconds < 90:
        assert left == pytest.approx(seconds, abs=2e-6)


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (99.999_999, b"99999999u"),
        (100, b"100000m"),
        (99_999.999, b"99999999m"),
        (100_000, b"100000S"),
        (99_999_999, b"99999999S"),
        (100_000_000, b"1666666M"),
        (6e9, b"1666666H"),
        (3.6e11, b"99999999H"),
        (1e30, b"99999999H"),
    ],
)
def test_a_deadline_is_written_with_eight_digits(seconds: float, value: bytes) -> None:
    """In the finest unit that has room for it; other lines stay as they are."""
    lines = [(b"te", b"trailers"), (b"grpc-timeout", b"1H")]
    assert grpc.with_time_left(lines, seconds) == [lines[0], (b"grpc-timeout", value)]


def test_what_a_message_may_say_as_it_is() -> None:
    """Printable ASCII but the percent sign, whose escapes have capitals; a slash is no exception."""
    assert dict(grpc.end(2, "a/b ~%\n\x7f/"))[b"grpc-message"] == b"a/b ~%25%0A%7F/"


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("x" * 1024, b"x" * 1024),
        ("x" * 1025, b"x" * 1024),
        ("x" * 1021 + "%", b"x" * 1021 + b"%25"),
        ("x" * 1021 + "%y", b"x" * 1021 + b"%25"),
        ("x" * 1022 + "%", b"x" * 1022),
        ("x" * 1023 + "%", b"x" * 1023),
        ("%" * 400, b"%25" * 341),
    ],
)
def test_where_a_message_is_cut(message: str, value: bytes) -> None:
    """At 1,024 bytes, or before the escape that goes beyond."""
    assert dict(grpc.end(2, message))[b"grpc-message"] == value


def test_what_an_own_answer_leaves_out() -> None:
    """No route, no command, and no command that the text has already."""

    def message(error: SidecarError, route: str | None) -> bytes:
        return dict(grpc.own_answer(error, route=route))[b"grpc-message"]

    plain = b"no_route: No route for this host. Text."
    assert message(SidecarError(Reason.NO_ROUTE, "Text."), None) == plain
    assert message(SidecarError(Reason.NO_ROUTE, "Text."), "") == plain
    told = SidecarError(Reason.NO_ROUTE, "Run `fix it`.", command="fix it")
    assert message(told, None) == b"no_route: No route for this host. Run `fix it`."


@given(st.text(max_size=400))
def test_a_message_comes_through(message: str) -> None:
    """Percent-encoded UTF-8, printable ASCII only."""
    message = message.encode("utf-8", "replace").decode()
    (_, (name, value)) = grpc.end(14, message)
    assert name == b"grpc-message"
    assert all(0x20 <= byte <= 0x7E for byte in value)
    if len(value) < 1000:
        assert unquote(value.decode()) == message


def test_a_long_message_is_cut_between_escapes() -> None:
    """Not in the middle of one."""
    for shift in range(4):
        value = dict(grpc.end(14, "x" * shift + "é" * 2000))[b"grpc-message"]
        assert len(value) <= 1024
        assert len(value.replace(b"x", b"")) % 3 == 0


def test_every_reason_is_a_status_of_grpc() -> None:
    """By a column of the table of reasons: timeouts, no route, refused callers, temporary faults, faults of our own."""
    assert {MEANINGS[reason].grpc for reason in Reason} <= set(range(1, 17))
    expected = {
        Reason.RESPONSE_TIMEOUT: 4,
        Reason.DEADLINE_EXCEEDED: 4,
        Reason.NO_ROUTE: 12,
        Reason.CALLER_REFUSED: 7,
        Reason.NOT_ALLOWED: 7,
        Reason.TOKEN_TIMEOUT: 14,
        Reason.CONNECT_REFUSED: 14,
        Reason.QUEUE_FULL: 14,
        Reason.DRAINING: 14,
        Reason.INTERNAL: 13,
        Reason.CLIENT_GONE: 1,
        Reason.MALFORMED_REQUEST: 3,
        Reason.HEAD_TOO_LARGE: 8,
    }
    assert {reason: MEANINGS[reason].grpc for reason in expected} == expected


def test_an_answer_of_the_sidecar_s_own() -> None:
    """One head: HTTP 200, and what the problem document would say."""
    error = SidecarError(Reason.NO_ROUTE, "No route has host `x`.", command="idtoken-sidecar urls")
    lines = dict(grpc.own_answer(error, route="billing"))
    assert lines[b":status"] == b"200"
    assert lines[b"content-type"] == b"application/grpc"
    assert lines[b"grpc-status"] == b"12"
    assert lines[b"grpc-message"] == (
        b"no_route: No route for this host (route billing). No route has host `x`. To fix it: idtoken-sidecar urls"
    )


@pytest.mark.parametrize(
    ("status", "name"),
    [
        *((400, "INTERNAL"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"), (404, "UNIMPLEMENTED")),
        *(
            (429, "UNAVAILABLE"),
            (502, "UNAVAILABLE"),
            (503, "UNAVAILABLE"),
            (504, "UNAVAILABLE"),
            (500, "UNKNOWN"),
        ),
    ],
)
def test_an_http_status_is_a_call_s(status: int, name: str) -> None:
    """As clients take it (grpc's http-grpc-status-mapping.md)."""
    assert grpc.name_of(grpc.of_http(status)) == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"0", "OK"),
        (b"16", "UNAUTHENTICATED"),
        (b"17", "UNKNOWN"),
        (b"x", "UNKNOWN"),
        (b"100", "UNKNOWN"),
        (b"001", "UNKNOWN"),
    ],
)
def test_how_a_call_ended(value: bytes, name: str) -> None:
    """What is none of the numbers is UNKNOWN, and so is none at all."""
    assert grpc.status_of([(b"a", b"b"), (b"grpc-status", value)]) == name
    assert grpc.status_of([]) == "UNKNOWN"
