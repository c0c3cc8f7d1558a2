"""sidecar.proxy.refusals.problem, and heads.own_answer: the sidecar's own answers, byte for byte"""

from __future__ import annotations

import json

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.http1.heads import own_answer
from sidecar.proxy.refusals.problem import fields, problem, reason_phrase

NOW = 1_800_000_000.0
NOT_ALLOWED = SidecarError(Reason.NOT_ALLOWED, "No …")
BODY = (
    '{"type": "tag:idtoken-sidecar,2026:not_allowed", "title": "The route does not allow this method or path", "status": 403, '
    '"detail": "No …", "reason": "not_allowed", "source": "app", "route": "billing"}\n'
).encode()
HEAD = (
    b"HTTP/1.1 403 Forbidden\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nCache-Control: no-store\r\n"
    b'Proxy-Status: idtoken-sidecar; error=http_request_denied; details="not_allowed"\r\n' % len(BODY)
)


def test_a_whole_answer() -> None:
    """RFC 9457 and RFC 9209; the connection stays unless it is said to end."""
    assert own_answer(NOT_ALLOWED, route="billing", now=NOW, head=False, close=False) == HEAD + b"\r\n" + BODY


def test_what_may_be_added() -> None:
    """No body for HEAD, though its length; that the connection ends."""
    made = own_answer(NOT_ALLOWED, route="billing", now=NOW, head=True, close=True)
    assert made == HEAD + b"Connection: close\r\n\r\n"


def test_its_lines_are_of_no_wire_format() -> None:
    """Of which each codec writes its own."""
    assert fields(NOT_ALLOWED, body=len(BODY), now=NOW) == [
        (name, value) for name, _, value in (line.partition(b": ") for line in HEAD.split(b"\r\n")[1:-1])
    ]


@pytest.mark.parametrize(
    ("reason", "asked", "line"),
    [
        pytest.param(Reason.QUEUE_FULL, None, b"Retry-After: 1\r\n", id="unavailable"),
        pytest.param(Reason.QUEUE_FULL, 0.0, b"Retry-After: 1\r\n", id="unavailable-for-no-time"),
        pytest.param(Reason.QUEUE_FULL, 1.2, b"Retry-After: 2\r\n", id="rounded-up"),
        pytest.param(Reason.NOT_ALLOWED, 0.2, b"Retry-After: 1\r\n", id="another-status"),
        pytest.param(Reason.NOT_ALLOWED, None, b"", id="none"),
    ],
)
def test_when_to_come_back(reason: Reason, asked: float | None, line: bytes) -> None:
    """Whole seconds, at least one, with every 503 and where the error knows."""
    made = own_answer(
        SidecarError(reason, "x", retry_after=asked), route=None, now=NOW, head=True, close=False
    )

    assert (line in made, b"Retry-After" in made) == (True, bool(line))


def test_a_tls_alert_stands_in_proxy_status() -> None:
    """With the parameters of RFC 9209 section 2.3.15."""
    error = SidecarError(Reason.TLS_ALERT, "x", alert=(42, "bad_certificate"))
    made = own_answer(error, route=None, now=NOW, head=True, close=False)
    assert (
        b"Proxy-Status: idtoken-sidecar; error=tls_alert_received; alert-id=42; alert-message=bad_certificate; "
        b'details="tls_alert"\r\n'
    ) in made


def test_a_problem_names_only_what_there_is() -> None:
    """The route where one was met, the command where one fixes it."""
    bare = json.loads(problem(SidecarError(Reason.LOOP, "x"), route=None))
    assert {"route", "command"}.isdisjoint(bare)
    assert json.loads(problem(SidecarError(Reason.LOOP, "x", command="y"), route="a")) == {
        **bare,
        "route": "a",
        "command": "y",
    }


def test_a_status_that_nobody_knows() -> None:
    """Has a phrase all the same."""
    assert (reason_phrase(404), reason_phrase(599)) == ("Not Found", "Unknown")
