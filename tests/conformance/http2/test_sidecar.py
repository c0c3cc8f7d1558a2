"""Every table of this folder against a real sidecar: what it takes, what it refuses, and what a flood of it costs."""

from __future__ import annotations

from typing import Final

import pytest

from tests.conformance import strict
from tests.conformance.http2 import older
from tests.conformance.http2.answers import ANSWERS, BARE, EITHER, FLOODS, Answer, Flood
from tests.conformance.http2.app import PATIENCE, App
from tests.conformance.http2.attacks import ATTACKS, Attack, attack
from tests.conformance.http2.cost import HONEST, MEMORY, Spent
from tests.conformance.http2.heads import BOUNDED, HEADS, PASSES, REFUSED, Head
from tests.conformance.http2.play import answer_outcome, flood_course, head_outcome, section_outcome
from tests.conformance.http2.sections import HOST, MISSES, SECTIONS, Section, get
from tests.conformance.http2.target import Target
from tests.support.h2_frames import headers
from tests.support.process import SidecarProcess

UNIT: Final = 1000
"""Honest requests that are measured."""
COUNTED_BY_THE_LIBRARY: Final = frozenset(
    {"rapid-reset", "slow-rapid-reset", "rst-stream-flood", "slow-rst-stream-flood"}
)
"""Floods of which libnghttp2 counts the resets too, and says INTERNAL_ERROR where it is first."""


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in SECTIONS])
def test_section(sidecar: SidecarProcess, target: Target, case: Section) -> None:
    """One of the outcomes that the RFC permits; or, for a section that is named with its reason, another."""
    # Silence is what is known of these: to wait less for it can't make one fail.
    patience = 0.5 if case.name in MISSES else PATIENCE
    found, wrong = section_outcome(sidecar.port, target, case, patience)
    assert (found in case.allowed) is (case.name not in MISSES), (found, sorted(case.allowed))
    assert wrong == ""


def refused(case: Head, found: str) -> bool:
    """Whether it was refused on its stream; or at all, where it is so large that the connection may end."""
    if case.verdict == BOUNDED and found.startswith("GOAWAY("):
        return True
    status = {BOUNDED: "431", REFUSED: "400"}.get(case.verdict, case.verdict)
    return found in (status, f"{status}, RST_STREAM(NO_ERROR)", "RST_STREAM(PROTOCOL_ERROR)")


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in HEADS])
def test_head(sidecar: SidecarProcess, target: Target, case: Head) -> None:
    """Refused on its stream, and nothing whole forwarded; or forwarded as one unambiguous request, with one token."""
    found = head_outcome(sidecar.port, target, case)
    if case.verdict == PASSES:
        assert found == "forwards"
        (request,) = target.requests
        assert len(request.all(b"authorization")) == 1
        assert request.all(b"authorization")[0].startswith(b"Bearer ey")
    else:
        assert refused(case, found), found
        assert target.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in HEADS])
def test_head_in_a_tunnel(sidecar: SidecarProcess, target: Target, case: Head) -> None:
    """The same inside of CONNECT; what no route takes, or is for another host, is refused as such."""
    found = head_outcome(sidecar.port, target, case, tunnel=b"billing.internal:80")
    if case.verdict == PASSES and found == "forwards":
        (request,) = target.requests
        assert request.all(b"authorization")[0].startswith(b"Bearer ey")
    else:
        assert refused(case, found) or found.startswith("400"), found
        assert target.requests == []


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in HEADS])
def test_head_for_a_target_of_http1(
    bridge: SidecarProcess, old_target: older.OlderTarget, case: Head
) -> None:
    """The same, where what is forwarded becomes lines of text."""
    old_target.forget()
    with App(bridge.port) as app:
        app.send(case.data)
        app.until(lambda: app.stream(1).is_over)
        answer = app.stream(1)
    assert old_target.ambiguous == []
    assert not any(b"/smuggled" in request.line for request in old_target.requests)
    if case.verdict == PASSES:
        assert answer.status == 200
        (request,) = old_target.requests
        assert request.all(b"authorization")[0].startswith(b"Bearer ey")
        assert len(request.all(b"cookie")) <= 1
    else:
        status = {BOUNDED: 431, REFUSED: 400}.get(case.verdict) or int(case.verdict)
        assert answer.status in (status, None)
        assert old_target.requests == []


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in ANSWERS])
def test_answer(sidecar: SidecarProcess, target: Target, case: Answer) -> None:
    """Passed on as one whole answer, or a 502, or a stream that is reset; and nothing of it meets the next request."""
    found = answer_outcome(sidecar.port, target, case)
    if case.verdict == PASSES:
        assert found == "passes on"
    elif case.verdict == BARE and found in ("204", "304", "passes on"):
        assert "RST" not in found
    elif case.verdict != EITHER or found != "passes on":
        assert found in ("502", "RST_STREAM(INTERNAL_ERROR)", "RST_STREAM(PROTOCOL_ERROR)"), found


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in ANSWERS])
def test_answer_for_an_app_of_http1(sidecar: SidecarProcess, target: Target, case: Answer) -> None:
    """The same, where what is passed on becomes lines of text."""
    target.forget()
    target.answer = lambda connection, request: connection.send(case.reply(request.stream))
    got = older.ask(sidecar.port, case.method, HOST)
    answer = strict.read_answer(got, case.method)
    assert answer is not None
    assert answer.framed
    assert answer.rest == b""
    assert b"second" not in got
    if case.verdict == PASSES:
        assert (answer.status, answer.whole) == (200, True)
    elif case.verdict == REFUSED:
        assert answer.status == 502 or not answer.whole


@pytest.fixture(scope="module")
def unit(sidecar: SidecarProcess, target: Target) -> float:
    """Seconds of CPU for one honest request."""
    target.forget()
    began = Spent.of(sidecar.process.pid)
    with App(sidecar.port) as app:
        for number in range(UNIT):
            stream = 1 + 2 * number
            app.send(headers(stream, get()))
            assert app.until(lambda stream=stream: app.stream(stream).is_over)  # type: ignore[misc]
    return max(0.01, Spent.of(sidecar.process.pid).cpu - began.cpu) / UNIT


def judge_cost(sidecar: SidecarProcess, began: Spent, unit: float) -> None:
    spent = Spent.of(sidecar.process.pid)
    assert spent.cpu - began.cpu <= HONEST * unit
    assert spent.peak - began.peak <= MEMORY


def answers_others(sidecar: SidecarProcess, target: Target) -> bool:
    """Whether an honest request on another connection is answered."""
    target.forget()
    with App(sidecar.port) as app:
        app.send(headers(1, get()))
        return app.until(lambda: app.stream(1).is_over) and app.stream(1).status == 200


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow, pytest.mark.test_all] if case.slow else [])
        for case in ATTACKS
    ],
)
def test_attack(sidecar: SidecarProcess, target: Target, unit: float, case: Attack) -> None:
    """It is ended, or costs little; nobody else notices."""
    target.forget()
    began = Spent.begin(sidecar.process.pid)
    course = attack(sidecar.port, case)
    if case.must_end:
        assert course.outcome.startswith(("GOAWAY(", "closes")), course
        assert course.outcome != "GOAWAY(INTERNAL_ERROR)" or case.name in COUNTED_BY_THE_LIBRARY
    judge_cost(sidecar, began, unit)
    assert answers_others(sidecar, target)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in FLOODS])
def test_flood(sidecar: SidecarProcess, target: Target, unit: float, case: Flood) -> None:
    """The same, of a target."""
    began = Spent.begin(sidecar.process.pid)
    course = flood_course(sidecar.port, target, case)
    if case.must_end:
        assert course.outcome.startswith(("GOAWAY(", "closes")), course
    judge_cost(sidecar, began, unit)
    assert answers_others(sidecar, target)
