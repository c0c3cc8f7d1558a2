"""The tables of hostile requests and answers once more, without sockets: in a second, so that they can be run many times."""

from __future__ import annotations

import pytest

from sidecar.net.origins import Origin
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


@pytest.mark.parametrize(("scheme", "port"), [(b"http://", 80), (b"https://", 443)])
async def test_every_request_gets_its_verdict_in_a_tunnel(scheme: bytes, port: int) -> None:
    """The same; but what is passed or unknown outside is refused here where it is written as to a proxy, or for another
    host or port."""
    memory = await make()
    memory.owner = memory.owner.inside(Origin(scheme, "billing.internal", port))
    others = 0
    for case in REQUESTS:
        played = memory.play(case.data)
        assert played.ambiguous == [], case.name
        if played.statuses[:1] == [case.verdict]:
            assert len(played.requests) == case.requests, case.name
            continue
        others += 1
        assert case.name.startswith(("start-target-absolute-", "host-", "start-method-connect-")), case.name
        assert played.statuses in ([400], [501]), case.name
        assert (played.requests, played.closed) == ([], True), case.name
    assert 15 < others < 30


async def test_every_answer_gets_its_verdict() -> None:
    """Passed on as one unambiguous answer, broken off, or a 502; and nothing of it meets the next request."""
    memory = await make()
    for case in RESPONSES:
        memory.upstream.answer, memory.upstream.end = case.data, case.end
        judge_answer(case, memory.play(ask(case)).data)
        memory.upstream.answer, memory.upstream.end = ANSWER, False
        assert memory.play(get()).data.endswith(b"\r\n\r\nok"), case.name
