"""sidecar.service.service: a configuration that is not switched to leaves nothing behind. What it does is in tests/e2e."""

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
from sidecar.service.service import Service
from sidecar.service.start_error import StartError
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
    await made._close()


async def test_files_of_a_configuration_that_failed_are_not_looked_at(
    service: Service, tmp_path: Path
) -> None:
    """Nor told of when they change, as if they were those of a route that is served."""
    file = tmp_path / "ca.pem"
    file.write_bytes(Authority().pem)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match="cannot be listened on"):
            await service.switch(config(f"127.0.0.1:{port}", f", tls: {{ca_file: '{file}'}}"))
    os.utime(file, (1, 1))
    clock = service._clock
    assert isinstance(clock, FakeClock)
    clock.advance(2.0)
    assert service._dialer.look() == []


async def test_one_that_is_told_to_stop_switches_to_nothing(service: Service) -> None:
    """Though it was told after the new configuration was read: what was bound for that is closed, not served."""
    port = free_port()
    before = service.config
    service.request_quit()
    with pytest.raises(StartError, match="shutting down"):
        await service.switch(config(f"127.0.0.1:{port}"))
    assert (service.config, service.bindings.uses) == (before, [])
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
    try:
        with pytest.raises(StartError, match="`wildcard_audience: shared`"):
            await made.switch(load(WILDCARD % "", environ={}).config)
        assert made.bindings.uses == []
        await made.switch(load(WILDCARD % ", wildcard_audience: shared", environ={}).config)
        assert [str(use.listener.address) for use in made.bindings.uses] == ["localhost:0"] * 2
    finally:
        await made._close()


async def test_a_configuration_is_spelled_once(service: Service) -> None:
    """Whoever looks at the status page gets the same text; 200 routes are a quarter of a second of work."""
    first = await service.configuration()
    assert "https://a.example" in first
    assert await service.configuration() is first


@pytest.mark.parametrize(
    ("top", "environ", "says"),
    [
        ("ca_file: /nowhere/ca.pem\n", {}, r"`ca_file` cannot be used \(/nowhere/ca.pem\): no such file"),
        (
            "",
            {"SSL_CERT_FILE": "/nowhere/ca.pem"},
            r"SSL_CERT_FILE cannot be used \(/nowhere/ca.pem\): no such file",
        ),
    ],
)
async def test_cas_that_cannot_be_used_end_the_start(top: str, environ: dict[str, str], says: str) -> None:
    """By the name of what says where they are."""
    text = f"{top}listen: 'localhost:0'\nadmin: 'localhost:0'\nroutes: [{{name: a, upstream: 'https://a.example', prefetch: off}}]"
    made = Service(
        load(text, environ=environ).config, asyncio.get_running_loop(), environ=environ, clock=FakeClock()
    )
    with pytest.raises(StartError, match=says):
        await made.start()


async def test_cas_that_only_token_endpoints_are_judged_by_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A credential may ask nobody: what can still work starts."""
    environ = {"REQUESTS_CA_BUNDLE": "/nowhere/ca.pem"}
    text = "listen: 'localhost:0'\nadmin: 'localhost:0'\nroutes: [{name: a, upstream: 'https://a.example', prefetch: off}]"
    made = Service(
        load(text, environ=environ).config, asyncio.get_running_loop(), environ=environ, clock=FakeClock()
    )
    await made.start()
    made.request_quit()
    await made.run()
    assert "token endpoints can't be asked by https: REQUESTS_CA_BUNDLE cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("top", "told"),
    [
        ("", ["upstreams are reached directly: HTTPS_PROXY holds for token endpoints only"]),
        ("egress_proxy: none\n", []),
        ("egress_proxy: http://p.example:3128\n", []),
    ],
)
async def test_a_proxy_in_the_environment_is_for_no_upstream_and_that_is_told_once(
    caplog: pytest.LogCaptureFixture, top: str, told: list[str]
) -> None:
    """Unless the configuration says something of proxies."""
    caplog.set_level("INFO")
    environ = {"HTTPS_PROXY": "http://p.example:3128"}
    text = (
        f"{top}listen: 'localhost:0'\nadmin: 'localhost:0'\n"
        "routes: [{name: a, upstream: 'https://a.example', prefetch: off}, {name: b, upstream: 'https://b.example', prefetch: off}]"
    )
    made = Service(
        load(text, environ=environ).config, asyncio.get_running_loop(), environ=environ, clock=FakeClock()
    )
    await made.start()
    made.request_quit()
    await made.run()
    found = [record.message for record in caplog.records if "PROXY" in record.message]
    assert [message.partition(". ")[0] for message in found] == told


@pytest.mark.parametrize(("project", "warned"), [("my-project", False), ("", False), ("my project", True)])
async def test_a_project_that_is_none_names_no_trace(
    caplog: pytest.LogCaptureFixture, project: str, warned: bool
) -> None:
    """Its log lines would name traces that are not there; the variable is named once."""
    Service(
        config("localhost:0"),
        asyncio.get_running_loop(),
        environ={"GOOGLE_CLOUD_PROJECT": project},
        clock=FakeClock(),
    )
    assert ("GOOGLE_CLOUD_PROJECT is not the ID of a project" in caplog.text) is warned
