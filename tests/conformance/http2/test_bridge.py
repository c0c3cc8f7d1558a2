"""The tables of HTTP/1.1 where the other side speaks HTTP/2: what is refused there is refused, and nothing is ambiguous."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance import requests, responses
from tests.conformance.http2 import older
from tests.conformance.http2.app import App
from tests.conformance.http2.play import wrong_in
from tests.conformance.http2.sections import get
from tests.conformance.http2.target import Target
from tests.conformance.play import play
from tests.support.h2_frames import headers
from tests.support.process import SidecarProcess


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in requests.REQUESTS])
def test_request_for_a_target_of_http2(
    sidecar: SidecarProcess, target: Target, case: requests.Hostile
) -> None:
    """Refused with the status that it has on HTTP/1.1, or one request of HTTP/2 that breaks no rule."""
    target.forget()
    outcome = asyncio.run(play(sidecar.port, case.data))
    assert target.ambiguous == []
    assert not any(b"/smuggled" in request.all(b":path")[0] for request in target.begun)
    assert len(target.requests) <= case.requests
    for request in target.requests:
        assert len(request.all(b"authorization")) == 1
        assert request.all(b"authorization")[0].startswith(b"Bearer ey")
    if case.verdict != requests.PASSES:
        assert outcome.statuses[:1] == [case.verdict]
    elif b"upgrade" not in case.data.lower():
        assert outcome.statuses[:1] == [200], outcome.data[:600]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in responses.RESPONSES])
def test_answer_for_an_app_of_http2(
    bridge: SidecarProcess, old_target: older.OlderTarget, case: responses.Answer
) -> None:
    """Passed on whole, or a 502, or a stream that is reset; never an end that looks whole."""
    old_target.forget()
    old_target.answer, old_target.closes = case.data, case.end
    with App(bridge.port) as app:
        app.send(headers(1, get(method=case.method)))
        assert app.until(lambda: app.stream(1).is_over, 30.0)
        answer = app.stream(1)
        assert app.bad == ""
        assert wrong_in(answer) == ""
        old_target.forget()
        app.send(headers(3, get()))
        assert app.until(lambda: app.stream(3).is_over, 30.0)
        assert (app.stream(3).status, app.stream(3).body) == (200, b"ok")
    if case.verdict == responses.PASSES:
        assert (answer.ended, answer.reset) == (True, None)
        assert answer.status not in (None, 502)
    elif case.verdict == responses.CUT:
        assert answer.reset is not None
    elif case.verdict == 502:
        assert answer.status == 502 or answer.reset is not None
