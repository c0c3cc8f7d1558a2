"""What is held of a request until its answer begins, and what happens to it when the wait was long"""

from __future__ import annotations

import pytest

from sidecar.errors import Reason, SidecarError
from tests.support.wire import GET, OK, Wire

HELD = 64 * 1024
"""The default of `limits.buffer`."""

INVALID = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n'


@pytest.mark.parametrize("early", [10, HELD + 10], ids=["most-of-it-later", "most-of-it-early"])
async def test_a_large_body_passes_whole_and_is_not_sent_twice(wire: Wire, early: int) -> None:
    """However much of it came before there was a token to send it with: what outgrew the bound is not replayed."""
    await wire.start(prefetch=False)
    wire.source.gate.clear()
    body = bytes(range(256)) * 1024
    app = await wire.app()
    head = b"PUT /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n" % len(body)
    await app.send(head + body[:10])
    await wire.turn(lambda: wire.stats.in_flight == 1)
    app.writer.write(body[10:early])
    for _ in range(20):
        await wire.yield_()
    wire.source.gate.set()
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    app.writer.write(body[early:] if early > 10 else body[10:])
    assert await upstream.read(len(body)) == body
    await upstream.send(INVALID)
    assert (await app.answer()).status == 401
    assert wire.stats.replays == 0


async def test_an_app_that_leaves_while_it_waits_for_a_token(wire: Wire) -> None:
    """Is forgotten: nothing is sent for it when the token comes, and the next one is served with it."""
    await wire.start(prefetch=False)
    wire.source.gate.clear()
    app = await wire.app()
    await app.send(GET)
    await wire.turn(lambda: wire.source.minted)
    app.reset()
    await wire.turn(lambda: not wire.proxy.connections)
    assert wire.stats.requests == {("GET", 499): 1}
    wire.source.gate.set()
    late = await wire.app()
    await late.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await late.answer()).status == 200
    assert wire.upstream.waiting == 0
    assert len(wire.source.minted) == 1


@pytest.mark.parametrize("fails", [False, True], ids=["renewed", "failed"])
async def test_a_token_that_expired_in_the_queue_is_not_sent(wire: Wire, fails: bool) -> None:
    """The wait for a connection may be longer than the token's life: it is looked up again, and what can't be had is a
    503."""
    hours = "timeouts: {response: 3h}"
    await wire.start(hours, top="pool: {connections: 1, queue_wait: 3h}")
    first = await wire.app()
    await first.send(GET)
    upstream = await wire.upstream.accept()
    old = await upstream.read_head()
    second = await wire.app()
    await second.send(GET)
    await wire.turn(lambda: wire.stats.queued == 1)
    wire.source.error = SidecarError(Reason.TOKEN_ENDPOINT_FAILED, "The test said so.")
    wire.clock.step_wall(2 * 3600)
    if not fails:
        wire.source.error = None
        wire.source.gate.clear()
    await upstream.send(OK)
    await first.answer()
    if fails:
        assert (await second.answer()).reason == "token_endpoint_failed"
        return
    await wire.turn(lambda: len(wire.source.minted) == 2)
    wire.source.gate.set()
    new = await upstream.read_head()
    assert token(new) != token(old)
    await upstream.send(OK)
    assert (await second.answer()).status == 200


def token(head: bytes) -> bytes:
    (line,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")]
    return line
