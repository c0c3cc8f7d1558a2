"""The wall clock is stepped under a real sidecar while the monotonic clock runs on: what NTP, a resumed machine or a person
does. The issuer's tokens are real ones, and the target judges them by the true time, without leeway."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.targets import Target
from sidecar.runtime.clock import SystemClock
from tests.support.sidecar import LIMIT, Sidecar, Start, ask, freeze
from tests.support.stepped_clock import SteppedClock

pytestmark = [pytest.mark.slow, pytest.mark.test_all]

TWO_HOURS = 7200.0
BACKOFF_FLOOR = 1.0
"""Seconds between the starts of two fetches, the first of which failed."""


def routes(target: Target) -> str:
    return f"routes:\n  - {{name: billing, upstream: '{target.url}'}}\n"


async def statuses(sidecar: Sidecar, count: int = 20) -> set[int]:
    """Of so many requests at once."""
    asked = [ask(sidecar.port, "GET", "/x", host="billing.localhost") for _ in range(count)]
    return {status for status, _, _ in await asyncio.gather(*asked)}


async def becomes(sidecar: Sidecar, wanted: int, *, until_then: int) -> None:
    """Ask until requests are answered so; never otherwise than `until_then` before that."""
    async with asyncio.timeout(LIMIT):
        while (found := await statuses(sidecar, 1)) != {wanted}:
            assert found == {until_then}


def is_whole(answer: bytes) -> bool:
    """Whether an answer has come to its end, however it is framed."""
    head, end, body = answer.lower().partition(b"\r\n\r\n")
    if b"content-length: " in head:
        return len(body) >= int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return bool(end) and body.endswith(b"0\r\n\r\n")


async def is_well(sidecar: Sidecar) -> None:
    """No fault came up, and no token was refused."""
    assert await sidecar.metric("idtoken_sidecar_faults_total") == 0
    assert await sidecar.metric("idtoken_sidecar_token_invalidated_total") == 0
    assert sidecar.process.returncode is None


async def test_a_clock_that_jumps_ahead_makes_old_tokens_unusable_at_once(
    start: Start, stepped_clock: SteppedClock
) -> None:
    """Two hours, for Google as well: a machine that was suspended. No old token is sent, and one fetch serves all who
    wait."""
    clock, passed = SystemClock(asyncio.get_running_loop()), 0.0
    async with Emulator(now=lambda: clock.wall() + passed) as google:
        billing = await google.add_target("billing")
        sidecar = await start(routes(billing), emulator=google, **stepped_clock.environment)
        for fetches in (1, 2, 3):
            stepped_clock.step_to(passed)
            assert await statuses(sidecar) == {200}
            assert google.metadata.endpoint.arrived == fetches
            passed += TWO_HOURS
        await is_well(sidecar)


async def test_a_clock_that_is_ahead_sends_nothing_and_storms_nobody(
    start: Start, stepped_clock: SteppedClock
) -> None:
    """Two hours, for the sidecar alone: whatever the issuer gives has expired by this clock. Requests are answered with the
    reason, the issuer is asked as the backoff allows, and once the clock is right they are served."""
    clock = SystemClock(asyncio.get_running_loop())
    async with Emulator() as google:
        billing = await google.add_target("billing")
        sidecar = await start(routes(billing), emulator=google, **stepped_clock.environment)
        assert await statuses(sidecar) == {200}
        sent, fetches = len(billing.requests), google.metadata.endpoint.arrived
        began = clock.mono()
        stepped_clock.step_to(TWO_HOURS)
        for _ in range(10):
            assert await statuses(sidecar) == {503}
        status, fields, body = await ask(sidecar.port, "GET", "/x", host="billing.localhost")
        assert (status, b"token_expired" in body, "retry-after" in fields) == (503, True, True)
        assert len(billing.requests) == sent
        tries = google.metadata.endpoint.arrived - fetches
        assert 1 <= tries <= 1 + (clock.mono() - began) / BACKOFF_FLOOR
        stepped_clock.step_to(0)
        await becomes(sidecar, 200, until_then=503)
        assert await statuses(sidecar) == {200}
        await is_well(sidecar)


async def test_a_clock_that_falls_back_keeps_no_token_alive(
    start: Start, stepped_clock: SteppedClock
) -> None:
    """Two hours, for the sidecar alone: by this clock its token is good for two hours more, and its issuer gives no other.
    It is not sent past its true end; with the issuer there again, and with the clock right again, requests are served."""
    clock, life = SystemClock(asyncio.get_running_loop()), 8.0
    async with Emulator(token_lifetime=life, cache_margin=life / 2) as google:
        billing = await google.add_target("billing")
        sidecar = await start(routes(billing), emulator=google, **stepped_clock.environment)
        assert await statuses(sidecar) == {200}
        stepped_clock.step_to(-TWO_HOURS)
        google.metadata.endpoint.fail(Fault("status", code=500))
        await becomes(sidecar, 503, until_then=200)
        google.metadata.endpoint.fail(None)
        await becomes(sidecar, 200, until_then=503)
        fetches, began = google.metadata.endpoint.arrived, clock.mono()
        while google.metadata.endpoint.arrived == fetches:
            assert await statuses(sidecar) == {200}
        # Renewed when three quarters of its life have passed, not at once and not all the time.
        assert clock.mono() - began > life / 2
        stepped_clock.step_to(0)
        assert await statuses(sidecar) == {200}
        await is_well(sidecar)


async def test_a_clock_that_falls_back_while_the_process_stands_still(
    start: Start, stepped_clock: SteppedClock
) -> None:
    """Requests that wait on open connections come before every timer that was due meanwhile: still no old token is sent."""
    life = 5.0
    async with Emulator(token_lifetime=life, cache_margin=0.0) as google:
        billing = await google.add_target("billing")
        sidecar = await start(routes(billing), emulator=google, **stepped_clock.environment)
        sockets = [socket.create_connection(("127.0.0.1", sidecar.port), LIMIT) for _ in range(20)]
        for sock in sockets:
            sock.setblocking(False)
        loop = asyncio.get_running_loop()

        async def post(sock: socket.socket) -> bytes:
            # Not sent again with another token: what comes back is what the first one got.
            await loop.sock_sendall(
                sock, b"POST /x HTTP/1.1\r\nHost: billing.localhost\r\nContent-Length: 0\r\n\r\n"
            )
            data = b""
            async with asyncio.timeout(LIMIT):
                while not is_whole(data):
                    data += await loop.sock_recv(sock, 1 << 16)
            return data[:12]

        for _ in range(3):
            stepped_clock.step_to(0)
            assert {await post(sock) for sock in sockets} == {b"HTTP/1.1 200"}
            freeze(sidecar.process.pid)
            stepped_clock.step_to(-TWO_HOURS)
            waiting = asyncio.gather(*(post(sock) for sock in sockets))
            await asyncio.sleep(life + 0.2)  # the fault itself: so long it stands still
            sidecar.send_signal(signal.SIGCONT)
            assert set(await waiting) == {b"HTTP/1.1 200"}
        for sock in sockets:
            sock.close()
        await is_well(sidecar)
