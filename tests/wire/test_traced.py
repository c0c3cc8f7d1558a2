"""What a tracer learns of requests: which spans begin, how they end, and what the upstream is sent"""

from __future__ import annotations

from typing import Any, cast

from sidecar.observe.tracing import Tracer
from tests.support.wire import GET, OK, Wire

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OURS = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba90000-01"


class Recorder:
    """In the tracer's place: OpenTelemetry itself is met in tests/e2e/test_tracing.py."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(
        self, method: str, fields: list[tuple[bytes, bytes]], *, route: str, origin: bytes
    ) -> tuple[str, list[tuple[bytes, bytes]]]:
        self.told.append(("begin", method, route, origin))
        rest = [(name, value) for name, value in fields if name.lower() != b"traceparent"]
        return "span", [*rest, (b"traceparent", OURS)]

    def end(self, span: str, *, status: int, reason: str | None) -> None:
        self.told.append(("end", span, status, reason))

    def refused(self, method: str, fields: object, *, route: str, status: int, reason: str) -> None:
        self.told.append(("refused", method, route, status, reason))


async def traced(wire: Wire) -> Recorder:
    await wire.start()
    recorder = Recorder()
    wire.proxy.ledger.tracer = cast(Tracer, recorder)
    return recorder


async def test_a_request_that_goes_on_has_a_span(wire: Wire) -> None:
    """The upstream gets it as the parent; it ends with the answer's status."""
    recorder = await traced(wire)
    app = await wire.app()
    await app.send(GET[:-2] + b"Traceparent: %b\r\n\r\n" % PARENT)
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert head.lower().count(b"traceparent") == 1
    assert b"traceparent: %b\r\n" % OURS in head
    await upstream.send(OK)
    await app.answer()
    origin = b"http://127.0.0.1:%d" % wire.upstream.port
    assert recorder.told == [("begin", "GET", "billing", origin), ("end", "span", 200, None)]


async def test_a_request_that_fails_ends_its_span_with_the_reason(wire: Wire) -> None:
    """As the answer gives it."""
    recorder = await traced(wire)
    await wire.upstream.stop()
    app = await wire.app()
    await app.send(GET)
    await app.answer()
    assert recorder.told[1:] == [("end", "span", 502, "connect_refused")]


async def test_a_request_that_goes_nowhere_is_a_span_of_its_own(wire: Wire) -> None:
    """With what was answered; no route where none was found."""
    recorder = await traced(wire)
    app = await wire.app()
    await app.send(GET.replace(b"billing", b"nobody"))
    await app.answer()
    assert recorder.told == [("refused", "GET", "", 404, "no_route")]
