"""sidecar.proxy.exchange.replay: what is sent once more, and what is said where it is not"""

from __future__ import annotations

import pytest

from sidecar.errors import Reason
from sidecar.proxy.exchange import replay
from sidecar.proxy.exchange.held import HeldBody
from sidecar.proxy.http2.fields import Http2Request
from sidecar.proxy.messages import RequestHead
from sidecar.proxy.ports import Loss


def request(method: bytes, upgrade: bytes | None = None) -> RequestHead:
    made = Http2Request(0.0)
    made.method, made.upgrade = method, upgrade
    return made


@pytest.mark.parametrize(
    ("method", "loss", "held", "again"),
    [
        (b"GET", Loss.UNTOUCHED, True, True),
        (b"GET", Loss.STALE, True, True),
        (b"PUT", Loss.STALE, True, True),
        (b"GET", Loss.UNKNOWN, True, False),
        (b"GET", Loss.STALE, False, False),
        (b"GET", Loss.UNTOUCHED, False, False),
        (b"POST", Loss.UNTOUCHED, True, True),
        (b"POST", Loss.STALE, True, False),
        (b"POST", Loss.UNKNOWN, True, False),
        (b"PATCH", Loss.STALE, True, False),
    ],
)
def test_after_a_lost_connection(method: bytes, loss: Loss, held: bool, again: bool) -> None:
    """Any method where the target has seen nothing, an idempotent one where it most likely has not; never without its
    body."""
    assert replay.after_loss(request(method), loss, HeldBody() if held else None) is again


@pytest.mark.parametrize(
    ("method", "upgrade", "held", "done", "again"),
    [
        (b"GET", None, True, True, True),
        (b"DELETE", None, True, True, True),
        (b"POST", None, True, True, False),
        (b"GET", b"websocket", True, True, False),
        (b"GET", None, False, True, False),
        (b"PUT", None, True, False, False),
    ],
)
def test_after_a_refused_token(
    method: bytes, upgrade: bytes | None, held: bool, done: bool, again: bool
) -> None:
    """The target has read the request: an idempotent one only, whole, and no upgrade."""
    body = HeldBody() if held else None
    assert replay.after_refusal(request(method, upgrade), body, request_done=done) is again


@pytest.mark.parametrize(
    ("challenge", "about_it"),
    [
        (b'Bearer error="invalid_token"', True),
        (b'Basic realm="x", Bearer ERROR="Invalid_Token"', True),
        (b'Bearer error="insufficient_scope"', False),
        (b"", False),
        (None, False),
    ],
)
def test_what_a_401_is_about(challenge: bytes | None, about_it: bool) -> None:
    """RFC 6750 section 3.1."""
    found = {} if challenge is None else {b"www-authenticate": challenge}
    assert replay.calls_token_invalid(found) is about_it


SPENT = " It was not sent again: the route's `retry_budget` is spent."


@pytest.mark.parametrize(
    ("method", "loss", "held", "retried", "said"),
    [
        (b"POST", Loss.STALE, True, False, " POST is not sent twice."),
        (b"GET", Loss.STALE, True, False, SPENT),
        (b"GET", Loss.UNTOUCHED, True, False, SPENT),
        (b"GET", Loss.UNKNOWN, True, False, ""),
        (b"GET", Loss.STALE, True, True, ""),
        (b"GET", Loss.STALE, False, False, ""),
    ],
)
def test_why_it_was_not(method: bytes, loss: Loss, held: bool, retried: bool, said: str) -> None:
    """Its method, or the budget; nothing where it was sent twice, or could not be."""
    body = HeldBody() if held else None
    error = replay.closed(request(method), loss, body, retried=retried)
    assert error.reason is Reason.UPSTREAM_CLOSED
    assert f"closed the connection before it answered.{said} If this" in error.detail
