"""The table of hostile requests and answers, against the sidecar."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.conformance import strict
from tests.conformance.memory import make
from tests.conformance.play import ANSWER, Outcome, Recorder, play
from tests.conformance.requests import PASSES, REQUESTS, Hostile, get
from tests.conformance.responses import CUT, RESPONSES, Answer, ask
from tests.support.sampling import sampled
from tests.support.wire import Wire


@pytest.fixture
async def upstream() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    await recorder.start()
    yield recorder
    await recorder.stop()


@pytest.fixture
async def front(wire: Wire, upstream: Recorder) -> Wire:
    """The sidecar before the recording upstream."""
    return await wire.start(upstream_port=upstream.port)


def judge(case: Hostile, outcome: Outcome, upstream: Recorder) -> None:
    """Hold what happened against the verdict."""
    assert upstream.ambiguous == []
    assert len(upstream.requests) == case.requests
    assert outcome.statuses[:1] == [case.verdict], outcome.data[:600]
    for request in upstream.requests:
        assert all(length in (b"0", b"5") or length[:1] != b"0" for length in request.all(b"content-length"))
        assert len(request.all(b"authorization")) == 1
        assert request.all(b"authorization")[0].startswith(b"Bearer ey")
        assert request.all(b"x-serverless-authorization") == []
        assert not {b"x_serverless_authorization", b"content_length"} & {name for name, _ in request.fields}
        assert request.all(b"host")[0] == b"127.0.0.1:%d" % upstream.port
        assert b"/smuggled" not in request.line
        assert request.all(b"upgrade") == [] or b" HTTP/1.0\r" not in case.data
        assert {name for name, _ in request.trailers} <= {b"x"}
    if case.verdict != PASSES:
        assert len(outcome.statuses) == 1
        if case.verdict != 404:
            assert outcome.closed
        answer = outcome.data.partition(b"\r\n\r\n")[2]
        assert json.loads(answer)["reason"] if answer else True


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in REQUESTS])
async def test_request(front: Wire, upstream: Recorder, case: Hostile) -> None:
    """Refused with the status of the table and nothing sent on; or sent on as one unambiguous request."""
    judge(case, await play(front.port, case.data), upstream)


EVERY = sampled((1, 23), [23])
"""Every place, or one of so many, which are others in each case."""


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY)
async def test_every_split_of_every_request_gets_the_same_verdict(every: int) -> None:
    """Wherever one read ends and the next begins; long cases at every place where their bytes change."""
    memory = await make()
    tried = 0
    for number, case in enumerate(REQUESTS):
        whole = memory.play(case.data)
        assert whole.statuses[:1] == [case.verdict], case.name
        assert len(whole.requests) == case.requests, case.name
        for cut in places(case.data)[number % every :: every]:
            split = memory.play(case.data, (cut,))
            assert split.ambiguous == [], (case.name, cut)
            assert split.statuses == whole.statuses, (case.name, cut, split.data)
            assert [request[:2] for request in split.requests] == [r[:2] for r in whole.requests], (
                case.name,
                cut,
            )
            assert [request.body for request in split.requests] == [r.body for r in whole.requests], (
                case.name,
                cut,
            )
            tried += 1
        if len(case.data) < 500:
            bytewise = memory.play(case.data, range(1, len(case.data)))
            assert bytewise.statuses == whole.statuses, case.name
            assert len(bytewise.requests) == case.requests, case.name
    assert tried > 25_000 // every


def places(data: bytes) -> list[int]:
    """Where to cut: everywhere, but in what is long, near its ends."""
    return [n for n in range(1, len(data)) if len(data) < 1000 or n < 80 or n > len(data) - 30]


def judge_answer(case: Answer, data: bytes) -> None:
    """Hold what the app was given against the verdict."""
    answer = strict.read_answer(data, case.method)
    assert answer is not None
    assert answer.framed
    assert (answer.status if answer.whole or answer.status != PASSES else CUT) == case.verdict, data[:600]
    assert answer.rest == b""
    assert b"second" not in data.lower()
    assert not {b"content_length", b"proxy-authenticate"} & {name for name, _ in answer.fields}
    if case.verdict == 502:
        head, _, body = data.rpartition(b"\r\n\r\n")
        assert case.method == b"HEAD" or json.loads(body)["reason"].startswith(
            ("upstream_", "upgrade_failed")
        )
        assert b"proxy-status: idtoken-sidecar; error=" in head.lower()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in RESPONSES])
async def test_answer(wire: Wire, case: Answer) -> None:
    """Passed on as one unambiguous answer, broken off, or a 502; and nothing of it meets the next request."""
    upstream = Recorder(case.data, close=case.end)
    await upstream.start()
    try:
        await wire.start(upstream_port=upstream.port)
        outcome = await play(wire.port, ask(case), method=case.method)
        judge_answer(case, outcome.data)
        upstream.answer, upstream.close_after = ANSWER, False
        again = await play(wire.port, get())
        assert again.data.endswith(b"\r\n\r\nok")
    finally:
        await upstream.stop()


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY)
async def test_every_split_of_every_answer_gets_the_same_verdict(every: int) -> None:
    """Wherever one read ends and the next begins."""
    memory = await make()
    tried = 0
    for number, case in enumerate(RESPONSES):
        for cut in places(case.data)[number % every :: every]:
            memory.upstream.answer, memory.upstream.pieces, memory.upstream.end = case.data, (cut,), case.end
            judge_answer(case, memory.play(ask(case)).data)
            tried += 1
        memory.upstream.answer, memory.upstream.pieces, memory.upstream.end = ANSWER, (), False
        assert memory.play(get()).data.endswith(b"\r\n\r\nok")
    assert tried > 7_000 // every
