"""The OAuth token endpoint: RFC 6749's client credentials, and a real Prometheus that knows nothing else"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import pytest
from aiohttp import web

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.keys import BadTokenError, signing_key
from tests.support.eventually import eventually
from tests.support.sidecar import LIMIT, Sidecar, Start, ask, clean_environment, free_port

AUDIENCE = "https://billing.example"
SECRET = "an-only-secret:of+the %test"  # with what must be encoded
PATH = "/oauth2/token"

Begin = Callable[..., Awaitable[tuple[Sidecar, int]]]


@pytest.fixture
def begin(google: Emulator, start: Start, tmp_path: Path) -> Begin:
    """A sidecar, and the port of its token endpoint."""

    async def begun(*, more: str = "", ready: bool = True) -> tuple[Sidecar, int]:
        key = google.write_key(tmp_path / "key.json")
        sidecar = await start(
            f"credentials: {{default: {{type: service_account_key, file: '{key}'}}, machine: {{type: metadata}}}}\n"
            f"endpoints: {{oauth: '{google.oauth_url}'}}\n"
            f"token_endpoint: {{listen: 'localhost:0', secret: '${{SECRET}}', {more or f'audiences: [{AUDIENCE!r}]'}}}\n"
            "routes:\n- {name: reports, upstream: 'https://reports-1.a.run.app', credential: machine}\n"
            "- {name: any, host: '*.b.run.app', upstream: 'https://{host}'}\n",
            ready=ready,
            SECRET=SECRET,
        )
        (found,) = (await sidecar.status())["handouts"]
        return sidecar, int(found["listen"][0].rpartition(":")[2])

    return begun


async def post(
    port: int,
    form: dict[str, str] | list[tuple[str, str]] | None,
    *,
    basic: str | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """`form` without the secret; `basic` is the client that says it in Authorization."""
    if basic is not None:
        client = urlencode({"": basic})[1:] + ":" + urlencode({"": SECRET})[1:]
        headers["Authorization"] = "Basic " + base64.b64encode(client.encode()).decode()
    fields = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    host = fields.pop("Host", "")
    status, answered, body = await ask(
        port, "POST", PATH, fields, urlencode(form or {}).encode() or b"x=", host=host
    )
    return status, answered, json.loads(body)


GRANT = {"grant_type": "client_credentials"}
SAID = {"client_id": "c", "client_secret": SECRET}


GIVEN = [
    pytest.param({"audience": AUDIENCE}, "prometheus", AUDIENCE, id="audience"),
    pytest.param({"resource": AUDIENCE}, "prometheus", AUDIENCE, id="resource"),
    pytest.param({"audience": AUDIENCE, "resource": AUDIENCE}, "p", AUDIENCE, id="both-the-same"),
    pytest.param({"audience": AUDIENCE, **SAID}, None, AUDIENCE, id="client-in-the-body"),
    pytest.param({"audience": AUDIENCE, "client_id": "c"}, "c", AUDIENCE, id="name-in-both"),
    pytest.param({}, "reports", "https://reports-1.a.run.app", id="a-route-s-name"),
    pytest.param({"audience": AUDIENCE}, "reports", AUDIENCE, id="audience-before-the-name"),
    pytest.param({"audience": AUDIENCE, "scope": "openid email"}, "p", AUDIENCE, id="scopes-of-openid"),
]


async def test_a_token_for_a_client(begin: Begin, google: Emulator) -> None:
    """As RFC 6749 section 5.1 has it. A route's name gets the route's own token, of the route's credential."""
    sidecar, port = await begin()
    for case in GIVEN:
        form, basic, audience = cast(tuple[dict[str, str], str | None, str], case.values)
        status, headers, body = await post(port, {**GRANT, **form}, basic=basic)
        assert status == 200, (case.id, body)
        assert (headers["cache-control"], headers["pragma"]) == ("no-store", "no-cache")
        claims = signing_key("google").verify(body["access_token"])
        assert (body["token_type"], claims["aud"]) == ("Bearer", audience), case.id
        assert 0 < body["expires_in"] <= claims["exp"] - claims["iat"]
        if not form:
            assert claims["email"] == google.metadata.email
        assert body["access_token"] not in sidecar.text
    count = await sidecar.metric("idtoken_sidecar_handouts_total", server="token_endpoint", kind="id")
    assert count == len(GIVEN)


REFUSED = [
    pytest.param({}, None, {}, 401, "invalid_client", id="nobody"),
    pytest.param({**GRANT, "audience": AUDIENCE}, None, {}, 401, "invalid_client", id="no-secret"),
    pytest.param(
        {**GRANT, **SAID, "client_secret": "wrong", "audience": AUDIENCE},
        None,
        {},
        401,
        "invalid_client",
        id="wrong-secret",
    ),
    pytest.param({**GRANT, **SAID, "client_secret": ""}, None, {}, 401, "invalid_client", id="empty-secret"),
    pytest.param(GRANT, None, {"Authorization": "Basic !!"}, 401, "invalid_client", id="basic-that-is-none"),
    pytest.param(
        GRANT, None, {"Authorization": f"Bearer {SECRET}"}, 401, "invalid_client", id="another-scheme"
    ),
    pytest.param({**GRANT, **SAID}, "c", {}, 400, "invalid_request", id="two-secrets"),
    pytest.param({**GRANT, "client_id": "d"}, "c", {}, 400, "invalid_request", id="two-names"),
    pytest.param({"audience": AUDIENCE}, "c", {}, 400, "invalid_request", id="no-grant"),
    pytest.param({"grant_type": "password"}, "c", {}, 400, "unsupported_grant_type", id="another-grant"),
    pytest.param({**GRANT, "audience": "https://b.example"}, "c", {}, 400, "invalid_target", id="not-listed"),
    pytest.param(
        {**GRANT, "audience": "https://b.example"}, "reports", {}, 400, "invalid_target", id="not-a-route-s"
    ),
    pytest.param(
        {**GRANT, "audience": AUDIENCE, "resource": "https://b.example"},
        "c",
        {},
        400,
        "invalid_request",
        id="two-audiences",
    ),
    pytest.param(GRANT, "nobody", {}, 400, "invalid_target", id="no-audience-and-no-route"),
    pytest.param(GRANT, "any", {}, 400, "invalid_target", id="a-route-without-one-audience"),
    pytest.param(
        {**GRANT, "audience": AUDIENCE, "scope": "admin"}, "c", {}, 400, "invalid_scope", id="scope"
    ),
    pytest.param(
        [*GRANT.items(), ("audience", AUDIENCE), ("audience", "x")],
        "c",
        {},
        400,
        "invalid_request",
        id="twice",
    ),
    pytest.param(GRANT, "reports", {"Origin": "https://evil.example"}, 403, "access_denied", id="browser"),
    pytest.param(GRANT, "reports", {"Sec-Fetch-Site": "same-origin"}, 403, "access_denied", id="own-page"),
    pytest.param(GRANT, "reports", {"X-Forwarded-For": "10.0.0.1"}, 403, "access_denied", id="forwarded"),
    pytest.param(GRANT, "reports", {"Via": "1.1 squid"}, 403, "access_denied", id="through-a-proxy"),
    pytest.param(GRANT, "reports", {"Host": "evil.example"}, 403, "access_denied", id="rebound-name"),
    pytest.param(
        GRANT, "reports", {"Host": "0.0.0.0"}, 403, "access_denied", id="a-name-unknown-to-browsers"
    ),
]


async def test_what_gets_no_token(begin: Begin) -> None:
    """As RFC 6749 section 5.2 and RFC 8707 have it; who does not know the secret is told nothing of the lists."""
    sidecar, port = await begin()
    for case in REFUSED:
        form, basic, headers, status, error = cast(
            tuple[Any, str | None, dict[str, str], int, str], case.values
        )
        got, answered, body = await post(port, form, basic=basic, **headers)
        assert (got, body["error"], "access_token" in body) == (status, error, False), (case.id, body)
        assert ("www-authenticate" in answered) is (status == 401), case.id
        assert not set(body["error_description"]) & set('"\\\n'), case.id
        if status in (401, 403):
            assert AUDIENCE not in body["error_description"], case.id
        assert SECRET not in json.dumps(body) + sidecar.text, case.id


OTHER_USER = """
import encodings.idna, os, sys, urllib.error, urllib.request
os.setgroups([]); os.setgid(4321); os.setuid(4321)
try:
    print(urllib.request.urlopen(sys.argv[1], sys.argv[2].encode()).status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize(("peers", "others"), [("0", 403), ("[0, 4321]", 200)])
async def test_processes_of_other_users(begin: Begin, peers: str, others: int) -> None:
    """Though they know the secret: the kernel is asked whose connection it is."""
    sidecar, port = await begin(more=f"audiences: [{AUDIENCE!r}], peers: {{uid: {peers}}}")
    form = {**GRANT, **SAID, "client_secret": SECRET, "audience": AUDIENCE}
    assert (await post(port, form))[0] == 200
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", OTHER_USER, f"http://127.0.0.1:{port}{PATH}", urlencode(form)),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(LIMIT):
        out, _ = await process.communicate()
    assert out.decode().startswith(str(others)), out
    if others == 403:
        await sidecar.logged("`token_endpoint` gave no token", reason="caller_refused")


async def test_what_is_no_request_for_a_token(begin: Begin) -> None:
    """Another method, path, body or Host; parameters in the URL, which logs have."""
    _, port = await begin()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode({**GRANT, **SAID, "audience": AUDIENCE}).encode()
    assert (await ask(port, "GET", PATH))[0] == 405
    assert (await ask(port, "POST", "/token"))[0] == 404
    assert (await ask(port, "POST", "/token", form, body))[0] == 413
    assert (await ask(port, "POST", PATH, {"Content-Type": "application/json"}, b"{}"))[0] == 415
    assert (await ask(port, "POST", f"{PATH}?client_secret=x", form, body))[0] == 400
    assert (await ask(port, "POST", PATH, form, b"\xff=%ff"))[0] == 400
    assert (await ask(port, "POST", PATH, form, b"&".join([b"a=1"] * 60)))[0] == 400
    assert (await ask(port, "POST", PATH, form, body, host="evil.example"))[0] == 403
    assert (await ask(port, "POST", PATH, form, body))[0] == 200


async def test_a_token_that_cannot_be_had(begin: Begin, google: Emulator) -> None:
    """The client may ask again later, and learns when."""
    google.oauth.endpoint.fault = Fault("status", 503)
    _, port = await begin(ready=False)
    status, headers, body = await post(port, {**GRANT, "audience": AUDIENCE}, basic="c")
    assert (status, body["error"]) == (503, "temporarily_unavailable")
    assert int(headers["retry-after"]) >= 1


class Scraped:
    """A target that lets nobody read its metrics who brings no token for it."""

    def __init__(self, audience: str) -> None:
        self.audience = audience
        self.refused: list[str] = []
        self.served = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_get("/metrics", self._metrics)

    async def _metrics(self, request: web.Request) -> web.Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            assert scheme == "Bearer"
            assert signing_key("google").verify(token)["aud"] == self.audience
        except (AssertionError, BadTokenError) as error:
            self.refused.append(str(error))
            return web.Response(status=401)
        self.served.set()
        return web.Response(text="scraped_total 1\n")


@pytest.fixture
async def scraped() -> AsyncIterator[tuple[Scraped, int]]:
    target = Scraped(AUDIENCE)
    runner = web.AppRunner(target.app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield target, runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.slow
@pytest.mark.test_all
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="not installed here: prometheus")
async def test_prometheus_scrapes_with_it(begin: Begin, scraped: tuple[Scraped, int], tmp_path: Path) -> None:
    """By `oauth2` in a scrape configuration, as it comes: every scrape has a token that the target takes."""
    _, port = await begin()
    target, target_port = scraped
    own = free_port()
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [
                    {
                        "job_name": "billing",
                        "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}],
                        "oauth2": {
                            "client_id": "prometheus",
                            "client_secret_file": str(tmp_path / "secret"),
                            "token_url": f"http://localhost:{port}{PATH}",
                            "endpoint_params": {"audience": AUDIENCE},
                        },
                    }
                ],
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        *(
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--web.listen-address=127.0.0.1:{own}",
        ),
        f"--storage.tsdb.path={tmp_path / 'data'}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(LIMIT):
            await target.served.wait()

            async def is_scraped() -> bool:
                _, _, body = await ask(own, "GET", "/api/v1/query?query=scraped_total")
                return bool(json.loads(body)["data"]["result"])

            await eventually(is_scraped, why="Prometheus is asked again, as by a dashboard")
    finally:
        process.terminate()
        await process.wait()
    assert target.refused == []
