"""One OpenTelemetry span for each request, exported by OTLP over HTTP; only with the extra `idtoken-sidecar[otel]`.

Owns what a span says and how it gets out. Made by `service` if `tracing` is configured. The data path, which knows
nothing about OpenTelemetry, reports the beginning and end of each request. A thread exports spans from a bounded
queue: an unreachable collector costs spans, never requests. Rules: https://opentelemetry.io/docs/specs/semconv/http/
(the sidecar's span is a CLIENT's: it is the call to the service, the app's own span is its parent);
https://www.w3.org/TR/trace-context/ (the upstream gets this span as its parent; tracestate passes as it came). No
path, no query, no header and no token is in a span.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from sidecar.observe.repeats import Pace
from sidecar.observe.trace import read_trace

INSTALL: Final = "pip install 'idtoken-sidecar[otel]'"
_EXPORT_TIMEOUT: Final = 5.0

_log = logging.getLogger(__name__)

Fields = Sequence[tuple[bytes, bytes]]


class NotInstalledError(Exception):
    """The extra is not installed; the message says what to do."""


@final
class Tracer:
    """See the module's docstring."""

    def __init__(self, endpoint: str, *, sample: float, service_name: str, version: str) -> None:
        """`endpoint` is the collector's, such as http://localhost:4318; `sample` the share of new traces to keep.

        A trace that the caller has begun is followed as the caller decided. Raises NotInstalledError.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise NotInstalledError(f"`tracing` needs OpenTelemetry: {INSTALL}") from error
        _quiet()
        self._api = trace
        exporter = OTLPSpanExporter(
            f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT, session=_session()
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)),
            resource=Resource({"service.name": service_name, "service.version": version}),
            # The process's end is ours: see `close`.
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("idtoken-sidecar", version)

    def begin(
        self, method: str, fields: Fields, *, route: str, origin: bytes
    ) -> tuple[Any, list[tuple[bytes, bytes]]]:
        """A span for a request that goes on to `origin`, and the request's fields with it as the parent."""
        scheme, _, authority = origin.decode("ascii").partition("://")
        host, _, port = (
            authority.rpartition(":") if authority.rpartition(":")[2].isdigit() else (authority, "", "")
        )
        span = self._start(
            method,
            fields,
            {
                "idtoken_sidecar.route": route,
                "url.scheme": scheme,
                "server.address": host.strip("[]"),
                "server.port": int(port) if port else (443 if scheme == "https" else 80),
            },
        )
        context = span.get_span_context()
        parent = b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)
        rest = [(name, value) for name, value in fields if name.lower() != b"traceparent"]
        return span, [*rest, (b"traceparent", parent)]

    def end(self, span: Any, *, status: int, reason: str | None) -> None:
        """The request has ended; `reason` if the sidecar answered itself, or broke off."""
        if status:
            span.set_attribute("http.response.status_code", status)
        if reason is not None:
            span.set_attribute("idtoken_sidecar.reason", reason)
        if reason is not None or status >= 400:
            span.set_attribute("error.type", reason or str(status))
            span.set_status(self._api.StatusCode.ERROR)
        span.end()

    def refused(self, method: str, fields: Fields, *, route: str, status: int, reason: str) -> None:
        """A request that was not forwarded."""
        span = self._start(method, fields, {"idtoken_sidecar.route": route} if route else {})
        self.end(span, status=status, reason=reason)

    def close(self) -> None:
        """Export the rest; blocks for at most the time of one export."""
        self._provider.shutdown()

    def _start(self, method: str, fields: Fields, attributes: Mapping[str, Any]) -> Any:
        given = [value for name, value in fields if name.lower() == b"traceparent"]
        found = read_trace(given[0], None) if len(given) == 1 else None
        context = None
        if found is not None:
            parent = self._api.SpanContext(
                int(found.trace_id, 16),
                int(found.span_id, 16),
                True,
                self._api.TraceFlags(int(found.sampled)),
            )
            context = self._api.set_span_in_context(self._api.NonRecordingSpan(parent))
        return self._tracer.start_span(
            method or "HTTP",
            context=context,
            kind=self._api.SpanKind.CLIENT,
            attributes={"http.request.method": method or "_OTHER", **attributes},
        )


class _OnceAMinute(logging.Handler):
    """OpenTelemetry's own log lines, as one line a minute of ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._pace = Pace()

    def emit(self, record: logging.LogRecord) -> None:
        now_mono = time.monotonic()  # noqa: TID251  # in a thread of OpenTelemetry's, about its own log
        untold = self._pace.take(now_mono)
        if untold is not None:
            _log.warning(
                "spans are lost: the collector can't be reached",
                extra={"fields": {"by": record.name, "untold": untold or None}},
            )


def _session() -> Any:
    """The session for exports. It reads an answer's head only, because the body may be endless, and follows no
    redirect.
    """
    import requests

    class OneWay(requests.Session):
        def request(self, *args: Any, **options: Any) -> requests.Response:
            options |= {"stream": True, "allow_redirects": False}
            response = super().request(*args, **options)
            response.close()
            response._content = b""
            return response

    return OneWay()


def _quiet() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_OnceAMinute()]
