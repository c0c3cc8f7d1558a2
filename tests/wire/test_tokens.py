"""The token on the data path: never without it, never another's."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import load
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.errors import Reason, SidecarError
from sidecar.tokens.sources import build_sources
from tests.support.source import LIMIT
from tests.support.wire import GET, OK, End, Wire

INVALID = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 2\r\n\r\nno'


async def token_of(upstream: End) -> str:
    """The token of the next request."""
    head = await upstream.read_head()
    (line,) = [line for line in head.split(b"\r\n") if line.startswith(b"Authorization: Bearer ")]
    return line.decode().removeprefix("Authorization: Bearer ")


def claims(token: str) -> dict[str, object]:
    """What a token says."""
    payload = token.split(".")[1]
    decoded: dict[str, object] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return decoded


async def test_a_thousand_first_requests_make_one_fetch(wire: Wire) -> None:
    """All wait for it, and all are served."""
    await wire.start(prefetch=False, top="pool: {connections: 50}")
    wire.source.gate.clear()
    apps = [await wire.app() for _ in range(250)]
    for app in apps:
        await app.send(GET * 4)
    await wire.turn(lambda: wire.stats.in_flight == 1000)
    assert wire.upstream.waiting == 0
    wire.source.gate.set()

    async def serve() -> None:
        while True:
            end = await wire.upstream.accept()
            serving.append(asyncio.get_running_loop().create_task(answer(end)))

    async def answer(end: End) -> None:
        while True:
            try:
                await end.read_head()
            except (asyncio.IncompleteReadError, TimeoutError):
                return
            end.writer.write(OK)

    serving: list[asyncio.Task[None]] = []
    acceptor = asyncio.get_running_loop().create_task(serve())
    for app in apps:
        for _ in range(4):
            assert (await app.answer()).status == 200
    acceptor.cancel()
    for task in serving:
        task.cancel()
    await asyncio.gather(acceptor, *serving, return_exceptions=True)
    assert wire.source.minted == ["https://billing.example"]
    assert wire.stats.requests == {("GET", 200): 1000}


async def test_without_a_token_nothing_is_sent(wire: Wire) -> None:
    """503 with the reason, at once while fetches are backed off, and the upstream hears nothing."""
    await wire.start(prefetch=False)
    wire.source.error = SidecarError(
        Reason.TOKEN_ENDPOINT_UNREACHABLE, "Nothing answers at the metadata server."
    )
    app = await wire.app()
    for _ in range(3):
        await app.send(GET)
        answer = await app.answer()
        assert (answer.status, answer.reason) == (503, "token_endpoint_unreachable")
        assert int(answer.headers["retry-after"]) >= 1
    assert len(wire.source.minted) == 1
    assert wire.upstream.waiting == 0


async def test_a_fetch_that_hangs_costs_token_wait_and_no_more(wire: Wire) -> None:
    """The callers are told in time; it recovers by itself."""
    await wire.start(prefetch=False)
    wire.source.gate.clear()
    app = await wire.app()
    await app.send(GET)
    await wire.turn(lambda: wire.stats.in_flight == 1 and wire.source.minted)
    wire.clock.advance(9.9)
    assert wire.stats.in_flight == 1
    wire.clock.advance(0.2)
    assert (await app.answer()).status == 503
    wire.source.gate.set()
    await wire.token("https://billing.example")
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await token_of(upstream)
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_a_live_token_outlasts_the_metadata_server(wire: Wire) -> None:
    """Not one request fails while the old token lives; without one, 503; then it recovers."""
    await wire.start(top="pool: {idle: 2h}")
    wire.source.error = SidecarError(Reason.TOKEN_ENDPOINT_UNREACHABLE, "Down.")
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    first = await token_of(upstream)
    await upstream.send(OK)
    await app.answer()
    for _ in range(59):
        wire.clock.advance(60.0)
        app = await wire.app()
        await app.send(GET)
        assert await token_of(upstream) == first
        await upstream.send(OK)
        assert (await app.answer()).status == 200
    assert len(wire.source.minted) > 1
    wire.clock.advance(60.0)
    app = await wire.app()
    await app.send(GET)
    assert (await app.answer()).status == 503
    wire.source.error = None
    wire.clock.advance(60.0)
    await wire.token("https://billing.example")
    app = await wire.app()
    await app.send(GET)
    assert await token_of(upstream) != first


async def test_requests_are_served_within_seconds_of_the_end_of_an_outage(wire: Wire) -> None:
    """With a request a second the token is fetched again three seconds after the last failure at most, and no request is
    refused after that."""
    await wire.start(prefetch=False)
    wire.source.error = SidecarError(Reason.TOKEN_ENDPOINT_UNREACHABLE, "Down.")
    app = await wire.app()
    for _ in range(60):
        await app.send(GET)
        assert (await app.answer()).status == 503
        wire.clock.advance(1.0)
    assert 60 / 3 <= len(wire.source.minted) <= 60
    wire.source.error = None
    for _ in range(3):
        wire.clock.advance(1.0)
    await wire.token("https://billing.example")
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await token_of(upstream)
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_an_invalid_token_is_renewed_and_the_request_replayed_once(wire: Wire) -> None:
    """The app sees the second answer only."""
    await wire.start()
    app = await wire.app()
    await app.send(b"PUT /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 4\r\n\r\nbody")
    upstream = await wire.upstream.accept()
    first = await token_of(upstream)
    assert await upstream.read(4) == b"body"
    await upstream.send(INVALID)
    second = await wire.upstream.accept()
    assert await token_of(second) != first
    assert await second.read(4) == b"body"
    await second.send(OK)
    assert (await app.answer()).body == b"ok"
    assert (wire.stats.replays, wire.stats.requests) == (1, {("PUT", 200): 1})


async def test_a_target_that_calls_tokens_invalid_holds_up_no_other_route(wire: Wire) -> None:
    """Only the refused request waits for the renewal; a route with the same token is served meanwhile."""
    await wire.upstream.start()
    port = wire.upstream.port
    await wire.start(
        more=f"""
- name: other
  host: other.internal
  upstream: http://127.0.0.1:{port}
  audience: https://billing.example""",
        upstream_port=port,
    )
    app, other = await wire.app(), await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    first = await token_of(upstream)
    wire.source.gate.clear()
    await upstream.send(INVALID)
    await wire.turn(lambda: len(wire.source.minted) == 2)
    for _ in range(3):
        await other.send(GET.replace(b"billing", b"other"))
        neighbour = await wire.upstream.accept()
        assert await token_of(neighbour) == first
        await neighbour.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await other.answer()).status == 200
    assert wire.stats.in_flight == 1
    wire.source.gate.set()
    again = await wire.upstream.accept()
    assert await token_of(again) != first
    await again.send(OK)
    assert (await app.answer()).body == b"ok"


async def test_a_second_401_is_the_upstreams_own(wire: Wire) -> None:
    """It passes with its body; renewals are rate limited."""
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await token_of(upstream)
    await upstream.send(INVALID)
    second = await wire.upstream.accept()
    await token_of(second)
    await second.send(INVALID)
    answer = await app.answer()
    assert (answer.status, answer.body) == (401, b"no")
    await app.send(GET)
    await token_of(second)
    await second.send(INVALID)
    assert (await app.answer()).status == 401
    assert len(wire.source.minted) == 2


PASSED_ON = [
    pytest.param(b"POST", INVALID, id="post"),
    pytest.param(b"GET", INVALID.replace(b"invalid_token", b"insufficient_scope"), id="another-error"),
    pytest.param(b"GET", b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", id="no-challenge"),
    pytest.param(b"GET", INVALID.replace(b"401", b"403"), id="403"),
]


@pytest.mark.parametrize(("method", "answer"), PASSED_ON)
async def test_other_refusals_pass_untouched(wire: Wire, method: bytes, answer: bytes) -> None:
    """Nothing is sent twice that might have been done, or that a new token can't fix."""
    await wire.start()
    app = await wire.app()
    await app.send(GET.replace(b"GET", method).replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"))
    upstream = await wire.upstream.accept()
    await token_of(upstream)
    await upstream.send(answer)
    got = await app.answer()
    assert (got.status, got.body) == (int(answer.split(b" ")[1]), b"no")
    assert wire.upstream.waiting == 0


HEADERS = [
    pytest.param("", b"", ["Authorization"], id="auto"),
    pytest.param("header: both", b"", ["Authorization", "X-Serverless-Authorization"], id="both"),
    pytest.param(
        "header: x-serverless-authorization",
        b"Authorization: mine\r\n",
        ["X-Serverless-Authorization"],
        id="xsa",
    ),
    pytest.param(
        "header: proxy-authorization", b"Proxy-Authorization: a\r\n", ["Proxy-Authorization"], id="proxy"
    ),
    pytest.param("header: X-Own", b"x-own: a\r\nX-OWN: b\r\n", ["X-Own"], id="own-name-replaces"),
    pytest.param(
        "on_conflict: replace",
        b"authorization: mine\r\nAuthorization: b\r\n",
        ["Authorization"],
        id="replace",
    ),
]


@pytest.mark.parametrize(("route", "lines", "names"), HEADERS)
async def test_the_token_is_in_its_header_exactly_once(
    wire: Wire, route: str, lines: bytes, names: list[str]
) -> None:
    """An inbound copy of what is set never passes; the app's own header elsewhere does."""
    await wire.start(route)
    app = await wire.app()
    await app.send(GET.replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n"))
    upstream = await wire.upstream.accept()
    head = (await upstream.read_head()).decode()
    for name in names:
        values = [line for line in head.split("\r\n") if line.lower().startswith(name.lower() + ":")]
        assert len(values) == 1
        assert values[0].startswith(f"{name}: Bearer ey")
    if "mine" in lines.decode() and names == ["X-Serverless-Authorization"]:
        assert "Authorization: mine\r\n" in head


async def test_keep_is_the_only_way_without_a_token(wire: Wire) -> None:
    """And only for a request that brought its own."""
    await wire.start("on_conflict: keep")
    app = await wire.app()
    await app.send(GET.replace(b"\r\n\r\n", b"\r\nAuthorization: mine\r\n\r\n") + GET)
    upstream = await wire.upstream.accept()
    assert b"\r\nAuthorization: mine\r\n" in await upstream.read_head()
    await upstream.send(OK)
    assert claims(await token_of(upstream))["aud"] == "https://billing.example"


HANGING = {
    "executable": "federated",
    "sts": "federated",
    "metadata": "attached",
    "iam": "acting",
    "gcloud": "cli",
}
ACTED_AS = "acted-as@emulated-project.iam.gserviceaccount.com"


def every_type(google: Emulator, directory: Path, hanging: str) -> str:
    """A credential of each type that can hang; what shall does."""
    google.write_key(directory / "key.json")
    google.write_login(directory / "login.json", google.oauth.add_user("me@example.com"))
    google.principals.add(ACTED_AS)
    for name, server in (("sts", google.sts), ("metadata", google.metadata), ("iam", google.iam)):
        if hanging == name:
            server.endpoint.fail(Fault("hang"))
    sleeper = directory / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    subject: dict[str, object] = {"file": str(directory / "login.json")}
    if hanging == "executable":
        subject = {"executable": {"command": str(sleeper), "timeout_millis": 120_000}}
    google.write_federation(directory / "wif.json", google.sts.add_provider(), subject)
    return f"""
credentials:
  default: {{type: service_account_key, file: {directory}/key.json}}
  attached: {{type: metadata}}
  federated: {{type: workload_identity_federation, file: {directory}/wif.json, service_account: {ACTED_AS}}}
  acting: {{type: impersonate, service_account: {ACTED_AS}, source: default}}
  cli: {{type: gcloud, service_account: {ACTED_AS}, command: {sleeper}, timeout: 120s}}
endpoints: {{oauth: '{google.oauth_url}', sts: '{google.sts_url}', iam_credentials: '{google.iam_url}'}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", HANGING)
async def test_one_credential_that_hangs_delays_no_other(
    wire: Wire, google: Emulator, tmp_path: Path, what: str
) -> None:
    """While its requests wait, another credential's calls are answered before any of them; they get their 503."""
    wire.clock.step_wall(time.time() - wire.clock.wall())  # noqa: TID251 - the stand-in's tokens are of today
    await wire.upstream.start()
    text = every_type(google, tmp_path, what) + "routes:\n"
    for name, credential in (("svc", "default"), ("hanging", HANGING[what])):
        text += (
            f"- {{name: {name}, host: {name}.internal, upstream: 'http://127.0.0.1:{wire.upstream.port}', "
            f"audience: 'https://{name}.example', credential: {credential}}}\n"
        )
    config = load(text, environ={}).config
    environ = {**google.environment(), "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES": "1"}
    sources: Any = build_sources(
        config.credentials, clock=wire.clock, environ=environ, endpoints=config.endpoints, seconds=10 * LIMIT
    )
    wire.sources = sources
    await wire.start_with(text)
    stats = wire.proxy.stats["hanging"]
    waiting = [await wire.app() for _ in range(20)]
    for app in waiting:
        await app.send(b"GET / HTTP/1.1\r\nHost: hanging.internal\r\n\r\n")
    await wire.turn(lambda: stats.in_flight == 20 and sources[HANGING[what]].threads.running)
    beside = await wire.app()
    upstream: End | None = None
    for _ in range(10):
        await beside.send(b"GET / HTTP/1.1\r\nHost: svc.internal\r\n\r\n")
        upstream = upstream or await wire.upstream.accept()
        await token_of(upstream)
        await upstream.send(OK)
        assert (await beside.answer()).status == 200
    assert stats.in_flight == 20
    wire.clock.advance(config.token_wait + 0.1)
    assert [(await app.answer()).status for app in waiting] == [503] * 20
    assert wire.upstream.waiting == 0
