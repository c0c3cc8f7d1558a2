"""sidecar.service.view: what the admin server is told."""

from __future__ import annotations

import asyncio

from sidecar.config.load import load
from sidecar.service.life import Service
from tests.support.clock import FakeClock


async def test_a_configuration_is_spelled_once() -> None:
    """Everyone who looks at the status page gets the same text; 200 routes are a quarter of a second of work."""
    config = load(
        "{listen: 'localhost:0', routes: [{name: a, upstream: 'https://a.example', prefetch: off}]}",
        environ={},
    ).config
    service = Service(config, asyncio.get_running_loop(), environ={}, clock=FakeClock())
    first = await service.view.configuration()
    assert "https://a.example" in first
    assert await service.view.configuration() is first
    await service.close()
