"""Sending once more, and where that ends."""

from __future__ import annotations

import pytest

from sidecar.proxy.pool.retry_budget import FLOOR
from tests.support.wire import GET, OK, End, Wire


async def test_an_upstream_that_drops_every_second_request_is_no_storm(wire: Wire) -> None:
    """One that answers once on each connection and resets it at the next request is asked a tenth more, not twice."""
    await wire.start()
    app = await wire.app()
    count, answers, seen = 300, {200: 0, 502: 0}, 0
    stale: End | None = None
    for _ in range(count):
        before = wire.stats.retries
        await app.send(GET)
        if stale is not None:
            await stale.read_head()
            seen += 1
            stale.reset()
            stale = None
            await wire.turn(lambda before=before: wire.stats.retries > before or wire.stats.refused)
        if not wire.stats.refused:
            stale = await wire.upstream.accept()
            await stale.read_head()
            seen += 1
            await stale.send(OK)
        answer = await app.answer()
        answers[answer.status] += 1
        if answer.status == 502:
            assert answer.reason == "upstream_closed"
            assert "`retry_budget`" in answer.body.decode()
        wire.stats.refused.clear()
    assert wire.stats.retries <= FLOOR + count // 10
    assert seen <= count + FLOOR + count // 10
    assert wire.stats.retries_denied == answers[502] > count // 4
    assert wire.upstream.waiting == 0


async def test_no_second_token_is_tried_over_the_budget(wire: Wire) -> None:
    """The 401 goes to the app as it came; the token is renewed all the same."""
    await wire.start("retry_budget: 0")
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(
        b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n'
    )
    assert (await app.answer()).status == 401
    assert (wire.stats.replays, wire.stats.retries_denied) == (0, 1)
    await wire.turn(lambda: len(wire.source.minted) == 2)


@pytest.mark.parametrize("share", [0, 0.1])
async def test_what_idled_as_long_is_dropped_with_a_stale_connection(wire: Wire, share: float) -> None:
    """An upstream that closes one idle connection has usually closed them all: none of the others is tried."""
    await wire.start(f"retry_budget: {share}")
    apps = [await wire.app() for _ in range(3)]
    ends = []
    for app in apps:
        await app.send(GET)
        ends.append(await wire.upstream.accept())
        await ends[-1].read_head()
    for app, end in zip(apps, ends, strict=True):
        await end.send(OK)
        await app.answer()
    await apps[0].send(GET)
    await ends[-1].read_head()
    ends[-1].reset()
    if not share:
        assert (await apps[0].answer()).reason == "upstream_closed"
    else:
        fresh = await wire.upstream.accept()
        await fresh.read_head()
        await fresh.send(OK)
        assert (await apps[0].answer()).status == 200
    for end in ends[:-1]:
        assert await end.rest() == b""
