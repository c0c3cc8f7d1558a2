"""sidecar.reload: what reading the configuration again does to the rest. What comes of it is in tests/e2e/test_reload.py."""

from __future__ import annotations

import asyncio
import threading

from sidecar.config.load import Loaded, load
from sidecar.reload import Reloader
from sidecar.service import Service
from sidecar.tasks import Tasks
from tests.support.clock import FakeClock

LIMIT = 5.0


async def test_the_event_loop_turns_while_a_configuration_is_read() -> None:
    """A thousand routes take a third of a second, in which requests are answered."""
    loop, clock = asyncio.get_running_loop(), FakeClock()
    config = load("routes: [{name: a, upstream: 'https://a.example', prefetch: off}]", environ={})
    service = Service(config.config, loop, environ={}, clock=clock)
    turned = threading.Event()
    seen = []

    def read() -> Loaded:
        loop.call_soon_threadsafe(turned.set)
        seen.append(turned.wait(LIMIT))
        return config

    Reloader(service, clock, Tasks(loop), read, None)
    outcome = await service.reload()
    assert (seen, outcome.result) == ([True], "unchanged")
    await service._close()
