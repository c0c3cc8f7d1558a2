"""sidecar.service.life: what stops a start, and what is told at one. What else it does is in tests/e2e."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.config.load import load
from sidecar.service.life import Service
from sidecar.service.start_error import StartError
from tests.support.clock import FakeClock


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
    """A credential may make no calls: what can still work starts."""
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
    environ = {"GOOGLE_CLOUD_PROJECT": project}
    text = "listen: 'localhost:0'\nadmin: 'localhost:0'\nroutes: [{name: a, upstream: 'https://a.example', prefetch: off}]"
    Service(load(text, environ={}).config, asyncio.get_running_loop(), environ=environ, clock=FakeClock())
    assert ("GOOGLE_CLOUD_PROJECT is not the ID of a project" in caplog.text) is warned
