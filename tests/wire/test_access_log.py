"""What the access log, the states in a debugger and a tracer show of requests"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from sidecar.observe.logs import AccessLog
from tests.support.wire import GET, OK, Wire


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return record.fields  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


async def test_a_forwarded_request_has_its_entry(wire: Wire, log: pytest.LogCaptureFixture) -> None:
    """Route, upstream, status, body bytes, the sidecar's own share and the trace; the query is left out."""
    await wire.start()
    wire.proxy.ledger.access_log = AccessLog("all")
    app = await wire.app()
    trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
    await app.send(
        b"POST /x?secret=1 HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 3\r\n"
        b"traceparent: 00-%b-00f067aa0ba902b7-01\r\n\r\nabc" % trace
    )
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.read(3)
    await upstream.send(OK)
    await app.answer()
    (record,) = [record for record in log.records if record.message.startswith("request")]
    entry = fields(record)
    assert entry["httpRequest"] == {
        "requestMethod": "POST",
        "requestUrl": "/x",
        "status": 200,
        "requestSize": "3",
        "responseSize": "2",
        "latency": "0.000000s",
    }
    assert (entry["route"], entry["own_duration"]) == ("billing", "0.000000s")
    assert entry["upstream"] == f"http://127.0.0.1:{wire.upstream.port}"
    assert entry["logging.googleapis.com/trace"] == trace.decode()
    assert "reason" not in entry
    assert "Bearer" not in log.text


async def test_an_answer_of_our_own_has_its_entry_with_the_reason(
    wire: Wire, log: pytest.LogCaptureFixture
) -> None:
    """Whether the request found a route or not."""
    await wire.start()
    wire.proxy.ledger.access_log = AccessLog("errors")
    await wire.upstream.stop()
    app = await wire.app()
    await app.send(GET)
    assert (refused := await app.answer()).reason == "connect_refused"
    await app.send(GET.replace(b"billing", b"nobody").replace(b"/x", b"/x?secret=1"))
    assert (lost := await app.answer()).reason == "no_route"
    routed, unrouted = [fields(record) for record in log.records if record.message.startswith("request")]
    seen = {"requestMethod": "GET", "requestSize": "0", "responseSize": "0", "latency": "0.000000s"}
    assert routed == {
        "httpRequest": {**seen, "requestUrl": "/x", "status": 502},
        "route": "billing",
        "own_duration": "0.000000s",
        "reason": "connect_refused",
        "detail": json.loads(refused.body)["detail"],
        "upstream": f"http://127.0.0.1:{wire.upstream.port}",
    }
    assert unrouted == {
        "httpRequest": {**seen, "requestUrl": "/x", "status": 404},
        "route": "",
        "reason": "no_route",
        "detail": json.loads(lost.body)["detail"],
    }
    assert wire.proxy.ledger.unrouted.requests == {("GET", 404): 1}
    assert {group.route for group in wire.proxy.ledger.outages.errors()} == {"", "billing"}


@pytest.mark.parametrize("request_", [b"GET /x HTTP/1.1\r\n\r\n", b"GET /x HTTP/2.2\r\n\r\n"])
async def test_a_target_that_was_not_read_is_not_logged(
    wire: Wire, log: pytest.LogCaptureFixture, request_: bytes
) -> None:
    """It may be anything; the reason says what was wrong."""
    await wire.start()
    wire.proxy.ledger.access_log = AccessLog("errors")
    app = await wire.app()
    await app.send(request_)
    answer = await app.answer()
    (record,) = [fields(record) for record in log.records if record.message.startswith("request")]
    assert (record["reason"], record["httpRequest"]["requestUrl"]) == (answer.reason, "")


async def test_what_a_route_s_own_listener_refuses_is_the_route_s(
    wire: Wire, log: pytest.LogCaptureFixture
) -> None:
    """Counted, logged and remembered under its name, with the time it took."""
    await wire.start()
    wire.proxy.ledger.access_log = AccessLog("errors")
    wire.proxy.reassign(wire.bound, wire.table.routes[0])
    app = await wire.app()
    await app.send(b"GET /x HTTP/1.1\r\n")
    (down,) = wire.proxy.serving
    await wire.turn(lambda: down.reader.in_message)
    wire.clock.advance(0.25)
    await app.send(b"Host: elsewhere\r\n\r\n")
    answer = await app.answer()
    (record,) = [fields(record) for record in log.records if record.message.startswith("request")]
    assert (record["route"], record["reason"], record["httpRequest"]["latency"]) == (
        "billing",
        answer.reason,
        "0.250000s",
    )
    assert wire.stats.requests == {("GET", answer.status): 1}
    assert wire.stats.refused == {answer.reason: 1}
    assert wire.proxy.ledger.unrouted.requests == {}
    assert [group.route for group in wire.proxy.ledger.outages.errors()] == ["billing"]


async def test_what_a_debugger_shows_holds_no_secret(wire: Wire) -> None:
    """Connections, exchanges and pools say their route and state, and nothing of a request or a token."""
    await wire.start()
    app = await wire.app()
    await app.send(GET.replace(b"/x", b"/secret").replace(b"\r\n\r\n", b"\r\nX-Secret: secret\r\n\r\n"))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    (down,) = wire.proxy.serving
    exchange = down.current
    assert exchange is not None
    shown = [repr(down), repr(exchange), repr(exchange.pool), repr(exchange.side)]
    assert shown == [
        "<DownstreamConnection open current=<Exchange GET billing sent> queued=0>",
        "<Exchange GET billing sent>",
        f"<Pool http://127.0.0.1:{wire.upstream.port} open=1 idle=0 shared=0 waiting=0 queued=0>",
        f"<UpstreamConnection http://127.0.0.1:{wire.upstream.port} busy served=1>",
    ]


@pytest.mark.parametrize(
    ("line", "method"),
    [
        (b"CONNECT billing.internal:443 HTTP/1.1", "CONNECT"),
        (b"TRACE /x HTTP/1.1", "TRACE"),
        (b"SETUP /x HTTP/1.1", ""),
    ],
    ids=["connect", "trace", "rtsp"],
)
async def test_a_method_that_is_not_carried_is_named(
    wire: Wire, log: pytest.LogCaptureFixture, line: bytes, method: str
) -> None:
    """Where it is one of HTTP's: it says what the app tried."""
    await wire.start()
    wire.proxy.ledger.access_log = AccessLog("errors")
    app = await wire.app()
    await app.send(line + b"\r\nHost: billing.internal\r\n\r\n")
    status = (await app.answer()).status
    (entry,) = [fields(record) for record in log.records if record.message.startswith("request")]
    assert entry["httpRequest"].get("requestMethod", "") == method
    assert wire.proxy.ledger.unrouted.requests == {(method, status): 1}
