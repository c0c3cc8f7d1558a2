"""Quitting and reloading."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.admin.app import Admin, admin_server
from sidecar.admin.control import Control
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.serving.problems import RefusedError
from sidecar.serving.request import WholeRequest
from sidecar.tokens.renewals import Renewal, TooSoonError
from sidecar.tokens.token import TokenKey
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource


async def test_a_post_from_this_machine_quits(client: aiohttp.ClientSession, view: Any) -> None:
    """POST /quit is accepted and asks the sidecar to stop, once for each request."""
    answer = await client.post("/quit")
    assert (answer.status, await answer.json()) == (202, {"quitting": True})
    assert view.quits == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_but_post_quits(client: aiohttp.ClientSession, view: Any, method: str) -> None:
    """No other method quits: a link or a prefetch must not."""
    answer = await client.request(method, "/quit")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert view.quits == 0


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "http://evil.example"}, id="another-origin"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="another-site"),
        pytest.param({"Host": "evil.example"}, id="rebound-name"),
    ],
)
async def test_a_web_page_cannot_quit(
    client: aiohttp.ClientSession, view: Any, headers: dict[str, str]
) -> None:
    """A page of another site is refused though its browser runs on this machine."""
    assert (await client.post("/quit", headers=headers)).status == 403
    assert view.quits == 0


@pytest.mark.parametrize(
    ("outcome", "status"), [(("ok", ""), 200), (("unchanged", ""), 200), (("error", "It is broken."), 422)]
)
async def test_a_post_reloads_and_says_what_came_of_it(
    client: aiohttp.ClientSession, view: Any, outcome: tuple[str, str], status: int
) -> None:
    """422 where the old configuration stays in force; no other method does anything."""
    view.reloaded = outcome
    answer = await client.post("/reload")
    assert (answer.status, await answer.json()) == (
        status,
        dict(zip(("result", "detail"), outcome, strict=True)),
    )
    assert (await client.get("/reload")).status == 405


@pytest.mark.parametrize(
    ("query", "status", "levels"),
    [("", 200, [None]), ("?level=warning", 200, ["warning"]), ("?level=loud", 400, [])],
)
async def test_the_log_level_can_be_changed(
    client: aiohttp.ClientSession, view: Any, query: str, status: int, levels: list[str | None]
) -> None:
    """By POST only, to a level that there is."""
    answer = await client.post(f"/log-level{query}")
    assert (answer.status, view.levels) == (status, levels)
    assert (await client.get("/log-level")).status == 405


KEY = TokenKey(NamedSource("default"), "https://a")
DENIED = SidecarError(Reason.TOKEN_DENIED, "Not allowed.", command="gcloud grant it")


@pytest.mark.parametrize(
    ("renewals", "status", "said"),
    [
        pytest.param([], 200, {"result": "ok", "tokens": []}, id="nothing-in-use"),
        pytest.param([Renewal(KEY, "a", None)], 200, {"result": "ok"}, id="renewed"),
        pytest.param(
            [Renewal(KEY, "a", None), Renewal(KEY, "b", DENIED)], 502, {"result": "error"}, id="failed"
        ),
        pytest.param(
            KeyError("x"),
            404,
            {"detail": "There is no such route; /status.json has their names."},
            id="no-route",
        ),
        pytest.param(TooSoonError(3.2), 429, {"status": 429}, id="too-soon"),
    ],
)
async def test_a_post_renews_and_says_what_came_of_it(
    client: aiohttp.ClientSession, view: Any, renewals: Any, status: int, said: dict[str, Any]
) -> None:
    """Of one route or of all; by POST only."""
    view.renewals = renewals
    answer = await client.post("/renew?route=a")
    document = json.loads(await answer.text())
    assert answer.status == status
    assert said.items() <= document.items()
    assert answer.headers.get("Retry-After") == ("4" if status == 429 else None)
    if status == 502:
        assert document["tokens"][1] == {
            "route": "b",
            "credential": "default",
            "audience": "https://a",
            "result": "error",
            "reason": "token_denied",
            "detail": "Not allowed.",
            "command": "gcloud grant it",
        }
    await client.post("/renew")
    assert view.renewed == ["a", None]
    assert (await client.get("/renew")).status == 405


async def test_another_machine_cannot_quit(view: Any) -> None:
    """A peer that is not on this machine gets 403, also where the admin server listens for probes."""
    with pytest.raises(RefusedError) as refused:
        await Control(view).quit_sidecar(WholeRequest("POST", "/quit", peername=("10.4.0.1", 4711)))
    assert refused.value.status == 403
    assert view.quits == 0


async def test_the_refusal_says_who_may(
    client: aiohttp.ClientSession, view: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 403 of another machine is problem+json that names the rule."""
    monkeypatch.setattr("sidecar.serving.callers.is_local", lambda peer: False)
    answer = await client.post("/quit")
    assert (answer.status, answer.content_type) == (403, "application/problem+json")
    assert "this machine" in (await answer.json(content_type=None))["detail"]
    assert view.quits == 0


async def test_a_unix_socket_can_quit(view: Any, tmp_path: Path) -> None:
    """A caller by Unix socket is on this machine."""
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        server = admin_server(view, [sock], SystemClock(asyncio.get_running_loop()))
        await server.start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            answer = await session.post("http://localhost/quit")
            assert answer.status == 202
        await server.close()
    assert view.quits == 1


ASKED_FOR = ["/quit", "/reload", "/renew", "/log-level", "/explain"]


@pytest.mark.parametrize("path", ASKED_FOR)
async def test_what_is_asked_for_by_post_is_for_this_machine(
    client: aiohttp.ClientSession, view: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Others may look, and no more; nothing has happened."""
    monkeypatch.setattr("sidecar.serving.callers.is_local", lambda peer: False)
    answer = await client.post(path)
    assert (answer.status, answer.content_type) == (403, "application/problem+json")
    assert (view.quits, view.levels) == (0, [])
    assert (await client.get("/status.json")).status == 200


@pytest.mark.parametrize(
    "path", [*ASKED_FOR, "/", "/events", "/metrics", "/status.json", "/healthz/live", "/page.js"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("mark", ["Origin", "Sec-Fetch-Site"])
async def test_no_path_and_no_method_is_for_pages_of_other_sites(
    client: aiohttp.ClientSession, view: Any, method: str, path: str, mark: str
) -> None:
    """403 before anything else is said, a preflight's answer included."""
    headers = {
        mark: "https://evil.example" if mark == "Origin" else "cross-site",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = await client.request(method, path, headers=headers)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert (view.quits, view.levels) == (0, [])


def test_these_are_all_the_paths_that_take_post(view: Any) -> None:
    """A new one must be thought of here."""
    assert [path for method, path, *_ in Admin(view, FakeClock()).paths if method != "GET"] == [
        "/explain",
        "/reload",
        "/renew",
        "/log-level",
        "/quit",
    ]


async def test_head_of_the_feed_ends(client: aiohttp.ClientSession) -> None:
    """It has no body that anything could be sent in."""
    for _ in range(2):
        assert (await client.head("/events")).headers["Content-Type"] == "text/event-stream"
