"""OpenTelemetry: what a real collector's protocol gets, and what the target sees of the trace."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidecar.emulator.app import Emulator
from tests.support.closing import close_server
from tests.support.sidecar import COMMAND, LIMIT, Start, ask, clean_environment

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


class Collector:
    """OTLP over HTTP on loopback."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Any] = []
        self.resources: list[Any] = []

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(
                {item.key: item.value.string_value for item in resource.resource.attributes}
            )
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type="application/x-protobuf")

    def attributes(self, number: int = 0) -> dict[str, Any]:
        found = {}
        for item in self.spans[number].attributes:
            kind = item.value.WhichOneof("value")
            found[item.key] = getattr(item.value, kind)
        return found


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
    yield found
    await runner.cleanup()


AT_ONCE = "drain: {min: 0s}\n"
"""Nobody asks once it was told to stop."""


async def begin(google: Emulator, start: Start, collector: Any, more: str = "") -> tuple[Any, Any]:
    billing = await google.add_target("billing")
    sidecar = await start(
        f"{AT_ONCE}tracing: {{endpoint: '{collector.url}'{more}}}\nroutes:\n"
        f"  - {{name: billing, host: billing.internal, upstream: '{billing.url}'}}\n"
    )
    return billing, sidecar


async def send(
    sidecar: Any, headers: dict[str, str] | None = None, method: str = "GET", path: str = "/x"
) -> dict[str, str]:
    """The headers that the target saw, by lower-case name."""
    status, _, body = await ask(sidecar.port, method, path, headers, host="billing.internal")
    assert status == 200
    return {name.lower(): value for name, value in json.loads(body)["headers"]}


def sampled(traceparent: str) -> bool:
    """By the first bit of the flags; the second only says that the id is random."""
    return bool(int(traceparent[-2:], 16) & 1)


async def stop(sidecar: Any) -> None:
    """The last spans are exported at the end."""

    sidecar.send_signal(signal.SIGTERM)
    assert await sidecar.ended() == 0


async def test_a_request_is_a_span_between_the_apps_and_the_targets(
    google: Emulator, start: Start, collector: Collector
) -> None:
    billing, sidecar = await begin(google, start, collector)
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    sent = await send(sidecar, headers, path="/invoices?secret=1")
    await stop(sidecar)
    (span,) = collector.spans
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert sent["traceparent"][:-3] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}"
    assert sent["tracestate"] == "vendor=1"
    assert (span.name, span.kind) == ("GET", 3)  # SPAN_KIND_CLIENT
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert collector.attributes() == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "idtoken_sidecar.route": "billing",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": int(billing.url.rpartition(":")[2]),
    }
    assert collector.resources[0]["service.name"] == "idtoken-sidecar"
    everything = b"".join(collector.bodies)
    assert b"secret" not in everything
    assert b"eyJ" not in everything
    assert b"Bearer" not in everything


async def test_a_trace_begins_here_where_the_app_has_none(
    google: Emulator, start: Start, collector: Collector
) -> None:
    _, sidecar = await begin(google, start, collector)
    sent = await send(sidecar, {"Traceparent": "nonsense"}, "POST")
    await stop(sidecar)
    (span,) = collector.spans
    assert span.parent_span_id == b""
    assert sent["traceparent"][:-3] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}"


async def test_what_the_sidecar_refuses_is_a_span_with_the_reason(
    google: Emulator, start: Start, collector: Collector
) -> None:
    _, sidecar = await begin(google, start, collector)
    assert (await ask(sidecar.port, "GET", "/x", {"traceparent": PARENT}, host="biling.internal"))[0] == 404
    await stop(sidecar)
    span = collector.spans[0]
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.status.code == 2  # STATUS_CODE_ERROR
    attributes = collector.attributes()
    assert attributes["idtoken_sidecar.reason"] == attributes["error.type"] == "no_route"
    assert attributes["http.response.status_code"] == 404


@pytest.mark.parametrize("more", ["", ", sample: 0"])
async def test_the_callers_decision_is_followed(
    google: Emulator, start: Start, collector: Collector, more: str
) -> None:
    """Sampled or not: by the parent, whatever share is kept of those that begin here."""
    _, sidecar = await begin(google, start, collector, more)
    seen = (await send(sidecar, {"traceparent": UNSAMPLED}))["traceparent"]
    assert seen[3:35] == UNSAMPLED[3:35]
    assert not sampled(seen)
    assert sampled((await send(sidecar, {"traceparent": PARENT}))["traceparent"])
    await stop(sidecar)
    assert len(collector.spans) == 1


async def test_a_share_of_nothing_keeps_nothing(google: Emulator, start: Start, collector: Collector) -> None:
    _, sidecar = await begin(google, start, collector, ", sample: 0")
    assert not sampled((await send(sidecar))["traceparent"])
    await stop(sidecar)
    assert collector.spans == []


async def test_without_a_collector_configured_nothing_is_changed(google: Emulator, start: Start) -> None:
    billing = await google.add_target("billing")
    sidecar = await start(
        f"routes:\n  - {{name: billing, host: billing.internal, upstream: '{billing.url}'}}\n"
    )
    assert (await send(sidecar, {"traceparent": PARENT}))["traceparent"] == PARENT
    assert "traceparent" not in await send(sidecar)


async def test_a_collector_that_is_not_there_costs_spans_and_nothing_else(
    google: Emulator, start: Start, unused_tcp_port: int
) -> None:
    billing = await google.add_target("billing")
    sidecar = await start(
        f"{AT_ONCE}tracing: {{endpoint: 'http://127.0.0.1:{unused_tcp_port}'}}\nroutes:\n"
        f"  - {{name: billing, host: billing.internal, upstream: '{billing.url}'}}\n"
    )
    answers = await asyncio.gather(
        *(ask(sidecar.port, "GET", "/x", host="billing.internal") for _ in range(50))
    )
    assert {answer[0] for answer in answers} == {200}
    await stop(sidecar)
    assert sidecar.text.count("spans are lost") <= 1
    assert "Traceback" not in sidecar.text


MOST = 64 * 1024 * 1024
"""Bytes of an answer that has no end, before the test's collector gives up."""


class Hostile:
    """A collector that sends what `answer` yields to each export, until the sidecar has enough of it."""

    def __init__(self, answer: Callable[[], AsyncIterator[bytes]]) -> None:
        self.asked, self.ended = asyncio.Event(), asyncio.Event()
        self.sent = 0
        self._answer = answer

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked.set()
            async for piece in self._answer():
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            await close_server(self._server)
            self.ended.set()


async def endless() -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    for _ in range(MOST // 65536):
        yield bytes(65536)


async def trickling() -> AsyncIterator[bytes]:
    """Each byte comes before a read of the exporter's times out, and the head has no end."""
    yield b"HTTP/1.1 200 OK\r\nX-"
    while True:
        await asyncio.sleep(0.5)  # this is the fault, and nothing that the test waits for
        yield b"a"


async def exporting(google: Emulator, start: Start, hostile: Hostile) -> Any:
    """A sidecar that has begun to send a span there."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"{AT_ONCE}tracing: {{endpoint: '{await hostile.start()}'}}\nroutes:\n"
        f"  - {{name: billing, host: billing.internal, upstream: '{billing.url}'}}\n",
        OTEL_BSP_SCHEDULE_DELAY="10",
    )
    await send(sidecar)
    async with asyncio.timeout(LIMIT):
        await hostile.asked.wait()
    return sidecar


async def test_what_a_collector_answers_is_not_read_to_its_end(google: Emulator, start: Start) -> None:
    """It could fill the memory of the data path."""
    hostile = Hostile(endless)
    sidecar = await exporting(google, start, hostile)
    async with asyncio.timeout(LIMIT):
        await hostile.ended.wait()
    assert hostile.sent < MOST // 2  # what the kernels' buffers hold
    await send(sidecar)


async def test_a_collector_that_trickles_holds_up_neither_requests_nor_the_end(
    google: Emulator, start: Start
) -> None:
    """Spans wait in a bounded queue; the process ends without the thread that waits."""
    hostile = Hostile(trickling)
    sidecar = await exporting(google, start, hostile)
    for _ in range(3):
        await send(sidecar)
    sidecar.send_signal(signal.SIGTERM)
    # Two seconds are what the last spans may take; OpenTelemetry itself would wait for thirty.
    async with asyncio.timeout(20):
        assert await sidecar.ended() == 0
    async with asyncio.timeout(LIMIT):
        await hostile.ended.wait()


async def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """The runtime's own packages do not bring OpenTelemetry."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not installed')\n", "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "--to", "https://a.example", "--listen", "localhost:0", "--admin", "localhost:0"),
        *("--tracing", "{endpoint: 'http://localhost:4318'}"),
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(PYTHONPATH=str(tmp_path)),
    )
    async with asyncio.timeout(LIMIT):
        _, err = await process.communicate()
    assert process.returncode == 2
    assert b"pip install 'idtoken-sidecar[otel]'" in err
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text("utf-8")
    assert "opentelemetry" not in lock
