"""sidecar.service.switch: a configuration that is not switched to leaves nothing behind. What it does is in tests/e2e."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.config.load import load
from sidecar.config.models import Config
from sidecar.emulator.keys import Authority
from sidecar.service.life import Service
from sidecar.service.start_error import StartError
from sidecar.service.switch import Switch
from tests.support.clock import FakeClock
from tests.support.sidecar import free_port


def config(listen: str, route: str = "") -> Config:
    text = f"listen: '{listen}'\nroutes: [{{name: a, upstream: 'https://a.example', prefetch: off{route}}}]"
    return load(text, environ={}).config


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """One that was not started: nothing is asked for, nothing accepted."""
    made = Service(config("localhost:0"), asyncio.get_running_loop(), environ={}, clock=FakeClock())
    yield made
    await made.close()


async def test_files_of_a_configuration_that_failed_are_not_looked_at(
    service: Service, tmp_path: Path
) -> None:
    """Their changes are not reported either, as those of a route that is served are."""
    file = tmp_path / "ca.pem"
    file.write_bytes(Authority().pem)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match="cannot be listened on"):
            await Switch(service.parts, service.readiness, service.handouts).to(
                config(f"127.0.0.1:{port}", f", tls: {{ca_file: '{file}'}}")
            )
    os.utime(file, (1, 1))
    clock = service.parts.clock
    assert isinstance(clock, FakeClock)
    clock.advance(2.0)
    assert service.parts.dialer.look() == []


async def test_one_that_is_told_to_stop_switches_to_nothing(service: Service) -> None:
    """Though it was told after the new configuration was read: what was bound for that is closed, not served."""
    port = free_port()
    before = service.parts.config
    service.request_quit()
    with pytest.raises(StartError, match="shutting down"):
        await Switch(service.parts, service.readiness, service.handouts).to(config(f"127.0.0.1:{port}"))
    assert (service.parts.config, service.parts.bindings.uses) == (before, [])
    socket.create_server(("127.0.0.1", port)).close()


USER = '{"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}'
WILDCARD = """
listen: localhost:0
routes: [{name: a, host: '*.a.run.app', upstream: 'https://{host}', prefetch: off%s}]
"""


async def test_a_persons_token_is_for_no_wildcard(tmp_path: Path) -> None:
    """Where only the file behind `adc` tells that it is one: every host that matches would get the same."""
    file = tmp_path / "adc.json"
    file.write_text(USER)
    file.chmod(0o600)
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    made = Service(config("localhost:0"), asyncio.get_running_loop(), environ=environ, clock=FakeClock())
    switch = Switch(made.parts, made.readiness, made.handouts)
    try:
        with pytest.raises(StartError, match="`wildcard_audience: shared`"):
            await switch.to(load(WILDCARD % "", environ={}).config)
        assert made.parts.bindings.uses == []
        await switch.to(load(WILDCARD % ", wildcard_audience: shared", environ={}).config)
        assert [str(use.listener.address) for use in made.parts.bindings.uses] == ["localhost:0"] * 2
    finally:
        await made.close()
