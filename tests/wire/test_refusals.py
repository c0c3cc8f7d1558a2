"""A target's own refusal: it goes to the app untouched, and operators are told what it means, once a minute"""

from __future__ import annotations

import gc
import logging

import pytest

from sidecar.proxy.http1.downstream import DownstreamConnection
from sidecar.proxy.refusals.diagnosis import SAMPLE, Cause
from tests.support.wire import GET, OK, End, Wire

PAGE = (
    b"<html><h1>Error: Forbidden</h1><h2>Your client does not have permission to get URL <code>/x</code> from this "
    b"server.</h2></html>"
)
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (
    len(PAGE),
    PAGE,
)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "sidecar.targets")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [record.fields for record in log.records if record.name == "sidecar.targets"]  # type: ignore[attr-defined]


async def exchange(app: End, upstream: End, answer: bytes) -> object:
    await app.send(GET)
    await upstream.read_head()
    await upstream.send(answer)
    return await app.answer()


async def connected(wire: Wire) -> tuple[End, End]:
    """An app and its upstream connection, after a first good answer."""
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    await app.answer()
    return app, upstream


async def test_a_refusal_passes_untouched_and_is_explained(wire: Wire, log: pytest.LogCaptureFixture) -> None:
    """The app gets every byte of it; log, counter and status share the reason, and name what fixes it."""
    await wire.start("target: cloud_run")
    app, upstream = await connected(wire)
    answer = await exchange(app, upstream, FORBIDDEN)
    assert (answer.status, answer.body) == (403, PAGE)  # type: ignore[attr-defined]
    (line,) = lines(log)
    assert (line["route"], line["reason"], line["status"]) == ("billing", "permission_missing", 403)
    assert "--role=roles/run.invoker" in str(line["command"])
    assert wire.stats.upstream_refusals == {Cause.PERMISSION_MISSING: 1}
    last = wire.proxy.ledger.refusals.last("billing")
    assert last is not None
    assert (last.diagnosis.cause, last.status, last.at) == (Cause.PERMISSION_MISSING, 403, wire.clock.wall())


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"302 Found\r\nX-Goog-IAP-Generated-Response: true", True),
        (b"302 Found\r\nx-goog-iap-generated-response: true", True),
        (b"302 Found", False),
        (b"200 OK\r\nX-Goog-IAP-Generated-Response: true", False),
    ],
    ids=["iap", "lower-case", "of-the-target", "ok"],
)
async def test_a_redirect_to_iaps_sign_in_is_a_refusal(
    wire: Wire, log: pytest.LogCaptureFixture, head: bytes, told: bool
) -> None:
    """It passes untouched, and is logged like a 401; a redirect of the target's own is none."""
    await wire.start("target: cloud_run")
    app, upstream = await connected(wire)
    to = b"Location: https://accounts.google.com/o/oauth2/v2/auth"
    await app.send(GET)
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 %b\r\n%b\r\nContent-Length: 0\r\n\r\n" % (head, to))
    assert (await app.answer()).status == int(head[:3])
    assert [(line["status"], line["reason"]) for line in lines(log)] == ([(302, "sign_in")] if told else [])
    assert wire.stats.upstream_refusals == ({Cause.SIGN_IN: 1} if told else {})


async def test_it_is_logged_once_a_minute_and_always_counted(
    wire: Wire, log: pytest.LogCaptureFixture
) -> None:
    """Whatever the traffic; another reason is another line."""
    await wire.start("target: cloud_run")
    app, upstream = await connected(wire)
    for _ in range(5):
        await exchange(app, upstream, FORBIDDEN)
    assert len(lines(log)) == 1
    await exchange(app, upstream, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    assert [line["reason"] for line in lines(log)] == ["permission_missing", "unexplained"]
    wire.clock.advance(61)
    app, upstream = await connected(wire)
    await exchange(app, upstream, FORBIDDEN)
    assert [line["reason"] for line in lines(log)] == [
        "permission_missing",
        "unexplained",
        "permission_missing",
    ]
    assert wire.stats.upstream_refusals == {Cause.PERMISSION_MISSING: 6, Cause.UNEXPLAINED: 1}


async def test_a_chunked_refusal_of_any_size_is_looked_at_and_not_held(
    wire: Wire, log: pytest.LogCaptureFixture
) -> None:
    """Its beginning alone is kept; it streams like any other."""
    await wire.start("target: cloud_run")
    app, upstream = await connected(wire)
    await app.send(GET)
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
    whole = PAGE + b"x" * 10 * SAMPLE
    for start in range(0, len(whole), 7):
        piece = whole[start : start + 7]
        await upstream.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await upstream.send(b"0\r\n\r\n")
    answer = await app.answer()
    assert answer.body == whole
    assert lines(log)[0]["reason"] == "permission_missing"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nnot found",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_other_answers_are_not_refusals(
    wire: Wire, log: pytest.LogCaptureFixture, answer: bytes
) -> None:
    """Nothing is logged or counted."""
    await wire.start("target: cloud_run")
    app, upstream = await connected(wire)
    await exchange(app, upstream, answer)
    assert lines(log) == []
    assert wire.stats.upstream_refusals == {}
    assert wire.proxy.ledger.refusals.last("billing") is None


async def test_a_refusal_of_a_request_without_a_token_is_the_apps_business(
    wire: Wire, log: pytest.LogCaptureFixture
) -> None:
    """`on_conflict: keep`: the app's own credentials were refused."""
    await wire.start("on_conflict: keep\nheader: authorization")
    app = await wire.app()
    await app.send(b"GET /x HTTP/1.1\r\nHost: billing.internal\r\nAuthorization: Basic x\r\n\r\n")
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(FORBIDDEN)
    assert (await app.answer()).status == 403
    assert lines(log) == []


def connections() -> list[DownstreamConnection]:
    """All that the process holds."""
    return [thing for thing in gc.get_objects() if isinstance(thing, DownstreamConnection)]


async def test_a_kept_error_keeps_no_connection(wire: Wire) -> None:
    """What the status page remembers of a refused request holds nothing of the connection that it came on."""
    of_other_tests = connections()
    await wire.start()
    for request in (
        b"GET / HTTP/1.1\r\nHost: nowhere.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ):
        app = await wire.app()
        await app.send(request)
        await app.answer()
        await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    assert len(wire.proxy.ledger.outages.errors()) == 2
    gc.collect()
    assert [made for made in connections() if made not in of_other_tests] == []
