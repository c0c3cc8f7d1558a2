"""The tables of hostile requests and answers once more, without sockets: in a second, for whoever runs them many times."""

from __future__ import annotations

import pytest

from tests.conformance.memory import make
from tests.conformance.play import ANSWER
from tests.conformance.requests import PASSES, REQUESTS, get
from tests.conformance.responses import RESPONSES, ask
from tests.conformance.test_hostile import judge_answer


@pytest.mark.parametrize("end", [1, 2], ids=["first-half", "second-half"])
async def test_every_request_gets_its_verdict(end: int) -> None:
    """The status of the table, and so many whole requests sent on."""
    memory = await make()
    for case in REQUESTS[end - 1 :: 2]:
        played = memory.play(case.data)
        assert played.ambiguous == [], case.name
        assert played.statuses[:1] == [case.verdict], (case.name, played.data)
        assert len(played.requests) == case.requests, case.name
        assert played.closed or case.verdict in (PASSES, 404), case.name


async def test_every_answer_gets_its_verdict() -> None:
    """Passed on as one unambiguous answer, broken off, or a 502; and nothing of it meets the next request."""
    memory = await make()
    for case in RESPONSES:
        memory.upstream.answer, memory.upstream.end = case.data, case.end
        judge_answer(case, memory.play(ask(case)).data)
        memory.upstream.answer, memory.upstream.end = ANSWER, False
        assert memory.play(get()).data.endswith(b"\r\n\r\nok"), case.name
