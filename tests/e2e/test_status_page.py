"""The status page, in a real browser: what a person sees in each state, and that everybody can.

`IDTOKEN_WRITE_PICTURES=1` keeps what is seen in docs/images.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from tests.support.browser import CHROMIUM, Browser, browser
from tests.support.sidecar import LIMIT, Sidecar, Start, ask, free_port

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs/images"
AXE = Path(sys.prefix) / "npm/node_modules/axe-core/axe.min.js"

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (`make test-all` does it)")


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Browser]:
    async with browser(tmp_path) as found:
        await found.look()
        yield found


async def picture(page: Browser, name: str) -> None:
    if os.environ.get("IDTOKEN_WRITE_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        await page.picture(PICTURES / f"{name}.webp")


def config(billing: Any, reports: Any, more: str = "") -> str:
    return (
        f"drain: {{min: 0s, max: 1h}}\nroutes:\n"
        f"  - {{name: billing, host: billing.internal, path_prefix: /billing, listen: 'localhost:0', upstream: '{billing.url}'}}\n"
        f"  - {{name: reports, host: reports.internal, target: iap, audience: '{reports.audience}', upstream: '{reports.url}'}}\n"
        f"{more}"
    )


async def targets(google: Emulator) -> tuple[Any, Any]:
    return await google.add_target("billing"), await google.add_target(
        "reports", kind="iap", audience="1234-demo.apps.googleusercontent.com"
    )


def url(sidecar: Sidecar) -> str:
    return f"http://localhost:{sidecar.admin_port}/"


@needs_chromium
@pytest.mark.test_all
async def test_fresh(google: Emulator, start: Start, page: Browser) -> None:
    """Routes with every way in, tokens with their life, and what traffic there was; the page takes it in by itself."""
    sidecar = await start(config(*await targets(google)))
    await page.open(url(sidecar))
    assert await page.text(".state") == "ready"
    assert await page.text("title") or await page.run("document.title") == "idtoken-sidecar: ready"
    assert "All 2 routes are well." in await page.text("#state")
    first = "document.querySelector('#route-billing')"
    (called,) = {it["url"] for it in (await sidecar.status())["routes"] if it["name"] == "billing"}
    assert called in await page.text("#route-billing")
    for way in (
        f"http://billing.localhost:{sidecar.port}/",
        "Host: billing.internal",
        f"http://127.0.0.1:{sidecar.port}/billing/",
    ):
        assert way not in await page.text("#route-billing"), "the other ways in are folded away"
    await page.run(f"{first}.querySelector('summary').click()")
    for way in (
        f"http://billing.localhost:{sidecar.port}/",
        "Host: billing.internal",
        f"http://127.0.0.1:{sidecar.port}/billing/",
    ):
        assert way in await page.text("#route-billing")
    copied = await page.run(
        "[...document.querySelectorAll('button.copy')].map(button => button.dataset.text)"
    )
    assert f"http://127.0.0.1:{await sidecar.own_port('billing')}/" in copied
    tokens = await page.text("#routes")
    assert tokens.count("fresh") == 2
    assert "renewed in 5" in tokens
    assert await page.run("document.querySelectorAll('svg.life line.mark').length") == 2
    for _ in range(20):
        assert (await ask(sidecar.port, "GET", "/x", host="billing.internal"))[0] == 200
    assert (await ask(sidecar.port, "GET", "/x", host="biling.internal"))[0] == 404
    await page.until(
        "document.querySelector('#no-route')?.innerText.includes('The nearest route is billing')"
    )
    assert "no_route" in await page.text("#no-route")
    await page.until("document.querySelector('#route-billing').innerText.includes('20 requests')")
    assert await page.run(f"{first}.querySelector('details').open"), "what was opened stays open"
    await page.until("document.querySelectorAll('svg.plot path.line').length > 0")
    assert "30 min" in await page.text("#traffic")
    assert page.console == []
    await picture(page, "status-fresh")
    await page.look(dark=True)
    await picture(page, "status-fresh-dark")


@pytest.mark.parametrize("times", ['"exp":1e300', '"exp":253402387200', '"iat":-1e18,"exp":1900000000'])
async def test_a_token_with_an_absurd_time_harms_its_own_route_only(
    google: Emulator, start: Start, times: str
) -> None:
    """It is refused, with its reason; every other route is served and shown, in the document and on the page."""
    billing, reports = await targets(google)
    payload = (
        base64.urlsafe_b64encode(f'{{"aud":"https://odd.example",{times}}}'.encode()).decode().rstrip("=")
    )
    more = (
        f"  - {{name: odd, host: odd.internal, upstream: '{billing.url}', audience: 'https://odd.example', credential: odd}}\n"
        f"credentials: {{default: {{type: adc}}, odd: {{type: static, token: eyJhbGciOiJSUzI1NiJ9.{payload}.c2ln}}}}\n"
    )
    sidecar = await start(config(billing, reports, more), ready=False)
    await sidecar.logged("token fetch failed", reason="token_invalid")
    status, _, body = await ask(sidecar.port, "GET", "/x", host="odd.internal")
    assert (status, json.loads(body)["reason"]) == (503, "token_invalid")
    # Asked for, so that its token is there: the sidecar is not ready, and may still be fetching it.
    for host in ("billing.internal", "reports.internal"):
        assert (await ask(sidecar.port, "GET", "/x", host=host))[0] == 200
    shown = await sidecar.status()
    assert [route["name"] for route in shown["routes"]] == [
        "odd",
        "billing",
        "reports",
    ]  # what refuses is shown first
    assert {token["state"] for token in shown["tokens"] if token["credential"] == "default"} == {"fresh"}
    (odd,) = (token for token in shown["tokens"] if token["credential"] == "odd")
    assert odd["last_error"]["reason"] == "token_invalid"
    assert odd["state"] in ("failing", "fetching")  # where it is being tried again at this moment
    async with (
        aiohttp.ClientSession() as session,
        session.get(url(sidecar), headers={"Accept": "text/html"}) as page,
    ):
        assert page.status == 200
        assert (await page.text()).count("<tbody") == 3


@needs_chromium
async def test_failing(google: Emulator, start: Start, page: Browser) -> None:
    """What is wrong, for which token, and the command that fixes it."""
    billing, reports = await targets(google)
    google.principals.add("nobody@emulated-project.iam.gserviceaccount.com")
    credentials = (
        f"endpoints: {{iam_credentials: '{google.iam_url}'}}\n"
        "credentials:\n  me: {type: metadata}\n"
        "  default: {type: impersonate, source: me, service_account: nobody@emulated-project.iam.gserviceaccount.com}\n"
    )
    sidecar = await start(config(billing, reports, credentials) + "startup_wait: 1h\n", ready=False)
    await sidecar.logged("token fetch failed")
    await page.open(url(sidecar))
    await page.until("document.querySelectorAll('#routes .notice.worse').length == 2")
    assert "2 of 2 routes have no token: billing, reports." in await page.text("#state")
    assert await page.text(".state") == "not ready"
    assert "has had no token yet" in await page.text("#state")
    tokens = await page.text("#routes")
    assert "impersonation_denied" in tokens
    assert tokens.count("gcloud iam service-accounts add-iam-policy-binding nobody@") == 2
    await picture(page, "status-failing")


@needs_chromium
@pytest.mark.test_all
async def test_stale(google: Emulator, start: Start, page: Browser) -> None:
    """A token past its renewal point is served, and the page says so."""
    # Of two minutes, most of which have passed when they come: soon to be renewed, and used for long after that.
    now = google._now
    google.metadata._now = lambda: now() - 86.0
    google.metadata.token_lifetime = 120.0
    billing, reports = await targets(google)
    sidecar = await start(config(billing, reports))
    google.metadata.endpoint.fail(Fault("status", code=500))
    await page.open(url(sidecar))
    await page.until("document.querySelector('#routes').innerText.includes('being renewed')")
    assert "to be renewed now" in await page.text("#routes")
    assert await page.run("document.querySelectorAll('svg.life rect.stale').length") >= 1
    await picture(page, "status-stale")


@needs_chromium
async def test_reload(google: Emulator, start: Start, page: Browser, tmp_path: Path) -> None:
    """A bad file is said to be bad, with its place; a good one's routes appear."""
    billing, reports = await targets(google)
    sidecar = await start(config(billing, reports))
    await page.open(url(sidecar))
    file = tmp_path / "config-0.yaml"
    good = file.read_text("utf-8")
    file.write_text(good + "tokenwait: 1s\n", "utf-8")
    sidecar.send_signal(signal.SIGHUP)
    await page.until("document.querySelector('.state').innerText == 'ready, with the old configuration'")
    assert "tokenwait: unknown key; did you mean `token_wait`?" in await page.text("#state")
    await picture(page, "status-reload-failed")
    added = f"  - {{name: orders, host: orders.internal, upstream: '{billing.url}'}}\n"
    file.write_text(good.rstrip("\n") + "\n" + added, "utf-8")
    sidecar.send_signal(signal.SIGHUP)
    await page.until("document.querySelector('#routes').innerText.includes('orders')")
    await page.until("document.querySelector('.state').innerText == 'ready'")
    assert page.console == []


@needs_chromium
@pytest.mark.test_all
async def test_draining(google: Emulator, start: Start, page: Browser) -> None:
    billing, reports = await targets(google)
    sidecar = await start(config(billing, reports))
    await page.open(url(sidecar))
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(b"GET /sse?n=1 HTTP/1.1\r\nHost: billing.internal\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    sidecar.send_signal(signal.SIGTERM)
    await page.until("document.querySelector('.state').innerText == 'shutting down'")
    await picture(page, "status-draining")
    billing.release()
    await reader.read()
    writer.close()
    assert await sidecar.ended() == 0
    await page.until("document.querySelector('#feed').innerText.includes('not connected')")


@needs_chromium
async def test_explain(google: Emulator, start: Start, page: Browser) -> None:
    """The form asks what the command asks, and keeps what was typed."""
    sidecar = await start(config(*await targets(google)))
    await page.open(url(sidecar))
    asked = json.dumps(f"http://billing.localhost:{sidecar.port}/invoices")
    await page.run(
        f"document.querySelector('#url').value = {asked};"
        "document.querySelector('#headers').value = 'Authorization: Basic <b>eA==</b>';"
        "document.querySelector('form').submit()"
    )
    await page.until("location.pathname == '/explain' && document.readyState == 'complete'")
    said = await page.text("#test")
    assert "The sidecar would refuse this request." in said
    assert "header_conflict" in said
    assert await page.run("document.querySelector('#headers').value") == "Authorization: Basic <b>eA==</b>"
    await page.run("document.querySelector('#headers').value = ''; document.querySelector('form').submit()")
    await page.until("document.querySelector('#test').innerText.includes('A route takes this request.')")
    assert "billing" in await page.text("#test dl")


@needs_chromium
async def test_without_a_script_it_says_the_same(google: Emulator, start: Start, page: Browser) -> None:
    sidecar = await start(config(*await targets(google)))
    await page.look(script=False)
    await page.open(url(sidecar))
    assert await page.text(".state") == "ready"
    await page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "http://billing.localhost" in await page.run(
        "document.querySelector('details').open = true, document.querySelector('#routes').innerText"
    )
    assert await page.run("document.querySelector('noscript meta').httpEquiv") == "refresh"
    assert await page.run("getComputedStyle(document.querySelector('button.copy')).display") == "none"


@needs_chromium
@pytest.mark.test_all
@pytest.mark.parametrize("width", [1200, 400], ids=["desktop", "phone"])
async def test_two_hundred_routes(google: Emulator, start: Start, page: Browser, width: int) -> None:
    """What is in trouble comes first and is named at the top; a filter finds the rest; nothing is wider than the page."""
    billing = await google.add_target("billing")
    names = [f"service-{number:03}" for number in range(200)]
    routes = "".join(f"  - {{name: {it}, host: {it}.internal, upstream: '{billing.url}'}}\n" for it in names)
    gone = free_port()
    routes = routes.replace(
        f"{{name: service-177, host: service-177.internal, upstream: '{billing.url}'",
        f"{{name: service-177, host: service-177.internal, upstream: 'http://127.0.0.1:{gone}'",
    )
    sidecar = await start(f"routes:\n{routes}")
    await page.look(width=width)
    await page.open(url(sidecar))
    assert "All 200 routes are well." in await page.text("#state")
    assert (await ask(sidecar.port, "GET", "/x", host="service-177.internal"))[0] == 502
    await page.until("document.querySelector('#routes tbody').id == 'route-service-177'")
    await page.until(
        "document.querySelector('#state').innerText.includes('1 of 200 routes is refusing requests: service-177.')"
    )
    assert await page.run("document.querySelectorAll('#routes tbody').length") == 200
    wanted = {"service-17": 10, "connect_refused": 1, "SERVICE 042": 1, "nothing-like-it": 0, "": 200}
    for typed, shown in wanted.items():
        await page.run(f"filter.value = {json.dumps(typed)}, filter.dispatchEvent(new Event('input'))")
        visible = "[...document.querySelectorAll('#routes tbody')].filter(it => it.checkVisibility()).length"
        assert await page.run(visible) == shown, typed
        assert await page.text("#shown") == (f"{shown} of 200" if typed else "")
    assert await page.run("document.documentElement.scrollWidth") <= width
    assert page.console == []


@needs_chromium
@needs_axe
@pytest.mark.parametrize(
    ("dark", "width"), [(False, 1200), (True, 1200), (False, 400)], ids=["light", "dark", "phone"]
)
async def test_everybody_can_read_it(
    google: Emulator, start: Start, page: Browser, dark: bool, width: int
) -> None:
    """axe-core finds nothing, with errors, a failing token and an answered question on the page."""
    billing, reports = await targets(google)
    sidecar = await start(config(billing, reports) + "startup_wait: 0s\n")
    assert (await ask(sidecar.port, "GET", "/x", host="biling.internal"))[0] == 404
    await page.look(dark=dark, width=width)
    await page.open(url(sidecar))
    await page.run(
        "document.querySelector('#url').value = 'http://nowhere.example/'; document.querySelector('form').submit()"
    )
    await page.until("location.pathname == '/explain' && document.readyState == 'complete'")
    await page.run("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    await page.run(AXE.read_text("utf-8") + ";undefined")
    found = await page.run(
        "axe.run().then(found => found.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' | ')))"
    )
    assert found == []


# without a browser


async def get(sidecar: Sidecar, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    status, found, body = await ask(sidecar.admin_port, "GET", path, {"Accept": "text/html", **headers})
    return status, found, body.decode()


async def test_nothing_on_it_comes_from_elsewhere_and_nothing_can_be_put_in(
    google: Emulator, start: Start
) -> None:
    sidecar = await start(config(*await targets(google)))
    await ask(sidecar.port, "GET", "/x", host="<script>alert(1)</script>")
    await ask(sidecar.port, "GET", "/x", host="a\"onload='x'.internal")
    status, headers, text = await get(sidecar)
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert "<script>alert" not in text
    assert "onload='x'" not in text
    assert " style=" not in text
    assert 'src="/page.js"' in text
    assert "http://" not in "".join(part.split('"')[0] for part in text.split('src="')[1:])
    curl = (await ask(sidecar.admin_port, "GET", "/", {"Accept": "*/*"}))[2].decode()
    assert curl.startswith("idtoken-sidecar: admin\n")


async def test_another_site_gets_neither_page_nor_feed_nor_answers(google: Emulator, start: Start) -> None:
    sidecar = await start(config(*await targets(google)))
    for path in ("/", "/events", "/page.js"):
        assert (await get(sidecar, path, Origin="https://evil.example"))[0] == 403
        assert (await get(sidecar, path, **{"Sec-Fetch-Site": "cross-site"}))[0] == 403
    status, _, _ = await ask(
        sidecar.admin_port,
        "POST",
        "/explain",
        {"Origin": "null", "Content-Type": "application/x-www-form-urlencoded"},
        b"url=x",
    )
    assert status == 403


async def test_the_form_is_taken(google: Emulator, start: Start) -> None:
    """The one body that the admin port reads, and only as a form."""
    sidecar = await start(config(*await targets(google)))

    async def explain(kind: str, body: bytes) -> tuple[int, str]:
        status, _, answer = await ask(sidecar.admin_port, "POST", "/explain", {"Content-Type": kind}, body)
        return status, answer.decode()

    form = f"url=http%3A%2F%2Fbilling.localhost%3A{sidecar.port}%2Fx&headers=".encode()
    status, text = await explain("application/x-www-form-urlencoded; charset=utf-8", form)
    assert status == 200
    assert "A route takes this request." in text
    assert (await explain("text/plain", form))[0] == 415
    assert (await explain("application/x-www-form-urlencoded", b"url=" + b"x" * 200_000))[0] == 413


async def test_the_number_of_feeds_is_bounded_and_they_end_with_the_sidecar(
    google: Emulator, start: Start
) -> None:
    sidecar = await start(config(*await targets(google)))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        feeds = [await session.get(url(sidecar) + "events") for _ in range(20)]
        assert {feed.status for feed in feeds} == {200}
        async with session.get(url(sidecar) + "events") as refused:
            assert refused.status == 503
        feeds[0].close()
        async with asyncio.timeout(LIMIT):
            while True:  # the server notices when it next writes
                async with session.get(url(sidecar) + "events") as again:
                    if again.status == 200:
                        break
                await ask(sidecar.port, "GET", "/x", host="nowhere.internal")
                await asyncio.sleep(0.02)
        sidecar.send_signal(signal.SIGTERM)
        assert await sidecar.ended() == 0
        assert [feed.status for feed in feeds] == [200] * 20
