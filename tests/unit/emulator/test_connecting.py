"""sidecar.emulator.connecting: what Scheduler, Tasks, Pub/Sub, Workflows and Eventarc send to a target"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectorCertificateError, ClientSession, web

from sidecar.emulator.app import Emulator
from sidecar.emulator.connecting import EMAIL
from sidecar.emulator.keys import signing_key

SERVICES = ["scheduler", "tasks", "pubsub", "workflows", "eventarc"]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("service", SERVICES)
async def test_each_calls_a_target_that_verifies_it(google: Emulator, service: str, tls: bool) -> None:
    """With a token for the configured audience, in the name of its service account."""
    target = await google.add_target("billing", tls=tls)
    called = await google.connecting.call(service, f"{target.url}/run", audience=target.url)
    assert called.status == 200
    verified = target.requests[-1].verified
    assert verified is not None
    assert (verified.audience, verified.email) == (target.url, EMAIL)
    assert target.requests[-1].method == "POST"


async def test_another_ca_can_be_trusted(google: Emulator, tmp_path: Path) -> None:
    """Instead of the stand-in's own; a target under neither is not believed."""
    async with Emulator() as elsewhere:
        target = await elsewhere.add_target("far", kind="open", tls=True)
        with pytest.raises(ClientConnectorCertificateError):
            await google.connecting.call("tasks", target.url)
        called = await google.connecting.call("tasks", target.url, ca_file=str(elsewhere.ca_file))
        assert called.status == 200


@pytest.fixture
async def seen(google: Emulator) -> Any:
    """An app that writes down what it gets."""
    requests: list[tuple[dict[str, str], bytes]] = []

    async def note(request: web.Request) -> web.Response:
        requests.append((dict(request.headers), await request.read()))
        return web.Response(text="x" * 100_000)

    app = web.Application()
    app.router.add_post("/run", note)
    await google.start(app)
    return google, f"http://{google._address(app)}/run", requests


@pytest.mark.parametrize(
    ("service", "header", "value"),
    [
        ("scheduler", "X-CloudScheduler", "true"),
        ("tasks", "X-CloudTasks-TaskRetryCount", "0"),
        ("pubsub", "Content-Type", "application/json"),
        ("workflows", "Content-Type", "application/json"),
        ("workflows", "User-Agent", "GoogleCloudWorkflows; (+https://cloud.google.com/workflows/docs)"),
        ("eventarc", "ce-specversion", "1.0"),
    ],
)
async def test_each_sends_what_the_real_one_does(seen: Any, service: str, header: str, value: str) -> None:
    """Its own headers; without an audience, the token is for the whole URL; the answer is kept up to a bound."""
    google, url, requests = seen
    called = await google.connecting.call(service, url, data='{"a": 1}', email="me@p.iam.gserviceaccount.com")
    ((headers, body),) = requests
    assert headers[header] == value
    claims = signing_key("google").verify(headers["Authorization"].removeprefix("Bearer "))
    assert (claims["aud"], claims["email"]) == (url, "me@p.iam.gserviceaccount.com")
    assert claims["email_verified"] is True
    sent = json.loads(body)
    if service == "pubsub":
        sent = json.loads(base64.b64decode(sent["message"]["data"]))
    assert sent == {"a": 1}
    assert len(called.body) == 64 * 1024
    assert headers["Authorization"] not in repr(called)


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"service": "scheduler"}, 400, "a call is"),
        ({"service": "cron", "url": "http://x"}, 400, "no service is called 'cron'"),
        ({"service": "tasks", "url": "http://127.0.0.1:1/"}, 502, "no answer"),
        ({"service": "tasks", "url": "not a url"}, 400, "not%20a%20url"),
        ({"service": "tasks", "url": 7}, 400, "a call is"),
        ({"service": "tasks", "url": "http://x", "token": "x"}, 400, "a call is"),
    ],
)
async def test_calls_over_http(
    google: Emulator, session: ClientSession, asked: dict[str, Any], status: int, says: str
) -> None:
    """What can't be done is said; the key never leaves the stand-in."""
    async with session.post(f"{google.control_url}/call", json=asked) as answer:
        assert answer.status == status
        assert says in await answer.text()
