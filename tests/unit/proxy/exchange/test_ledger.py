"""sidecar.proxy.exchange.ledger: what is written down of a request that is over"""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.observe.logs import AccessLog
from sidecar.proxy.exchange.ledger import trace_of
from sidecar.proxy.messages import NO_BODY, UNKNOWN
from sidecar.proxy.ports import Loss
from tests.support.exchanges import OK, WITH_TOKEN, Exchanges

ERROR = SidecarError(Reason.SEND_TIMEOUT, "Too slow.")


class Entries(AccessLog):
    """Keeps them."""

    def __init__(self, mode: Any) -> None:
        super().__init__(mode)
        self.entries: list[dict[str, Any]] = []

    def request(self, **entry: Any) -> None:
        self.entries.append(entry)


class Spans:
    """What a tracer is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(self, method: str, fields: Any, *, route: str, origin: bytes) -> tuple[Any, Any]:
        self.told.append(("begin", method, route, origin))
        return self, [*fields, (b"traceparent", b"00-1")]

    def end(self, span: object, *, status: int, reason: Reason | None) -> None:
        self.told.append(("end", span, status, reason))

    def refused(self, method: str, fields: Any, *, route: str, status: int, reason: Reason) -> None:
        self.told.append(("refused", method, route, status, reason))


def test_bytes_are_counted_for_all_requests_of_a_route() -> None:
    """In both directions."""
    making = Exchanges()
    for _ in range(2):
        exchange, _ = making.sent(b"POST", body=5)
        exchange.request_body(b"abcde")
        exchange.request_end([])
        exchange.answer(*OK)
        exchange.answer_body(b"abcd")
        exchange.answer_end([])
    assert (making.stats.bytes_sent, making.stats.bytes_received) == (10, 8)
    assert making.stats.requests == {("POST", 200): 2}
    assert (making.stats.in_flight, making.keeper.users) == (0, 0)


@pytest.mark.parametrize("waited", [0.0, 0.5], ids=["at-once", "later"])
def test_the_sidecar_s_own_share_ends_when_the_request_is_sent_first(waited: float) -> None:
    """What the upstream takes is not part of it, nor what sending once more costs."""
    making = Exchanges()
    exchange = making.waiting()
    making.clock.advance(waited)
    making.connect(exchange)
    making.clock.advance(2.0)
    exchange.lost(Loss.STALE, None)
    making.connect(exchange)
    making.clock.advance(3.0)
    exchange.answer(*OK)
    exchange.answer_end([])
    stats = making.stats
    assert (stats.own.sum, stats.total.sum, stats.retries) == (waited, waited + 5.0, 1)


def test_where_nothing_was_sent_all_of_it_is_the_sidecar_s_own() -> None:
    """The time until the error."""
    making = Exchanges()
    exchange = making.waiting()
    making.clock.advance(2.0)
    exchange.not_connected(ERROR)
    assert making.stats.own.sum == 2.0


def test_an_end_is_counted_by_its_status() -> None:
    """The answer's, where one had begun; else the error's."""
    making = Exchanges()
    (waits, _), (answered, _), (left, _) = making.sent(), making.answering(), making.sent()
    waits.time_out(ERROR)
    answered.time_out(ERROR)
    left.app_gone(SidecarError(Reason.CLIENT_GONE, "Gone."))
    assert making.stats.requests == {("GET", 504): 1, ("GET", 200): 1, ("GET", 499): 1}
    assert (making.stats.refused, making.stats.cut) == ({"send_timeout": 1}, {"send_timeout": 1})


@pytest.mark.parametrize("mode", ["errors", "all", "off"])
def test_the_access_log_is_asked_who_made_the_answer(mode: Any) -> None:
    """An upstream's 403 is its own affair, and the sidecar's is an error."""
    making = Exchanges()
    making.ledger.access_log = log = Entries(mode)
    (theirs, _), ours = making.sent(), making.waiting()
    theirs.answer(403, b"Forbidden", [], {}, NO_BODY)
    theirs.answer_end([])
    ours.not_connected(SidecarError(Reason.NO_ROUTE, "Nowhere."))
    logged = [entry["status"] for entry in log.entries]
    assert logged == {"errors": [404], "all": [403, 404], "off": []}[mode]


def test_an_entry_says_what_there_is() -> None:
    """Bytes, seconds, where it went, the trace, and the error."""
    making = Exchanges()
    making.ledger.access_log = log = Entries("all")
    exchange, _ = making.sent(
        b"PUT",
        fields=[(b"X-Cloud-Trace-Context", b"4bf92f3577b34da6a3ce929d0e0e4736/1;o=1")],
        body=UNKNOWN,
    )
    exchange.request_body(b"abc")
    making.clock.advance(1.5)
    exchange.time_out(ERROR)
    (entry,) = log.entries
    trace = entry.pop("trace")
    assert trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert entry == {
        "route": "any",
        "method": "PUT",
        "target": "/x",
        "status": 504,
        "sent": 3,
        "received": 0,
        "duration": 1.5,
        "own_duration": 0.0,
        "reason": Reason.SEND_TIMEOUT,
        "detail": "Too slow.",
        "upstream": "https://a.example.com",
        "grpc": None,
        "untold": 0,
    }


def test_a_flood_of_the_same_error_has_a_line_a_minute() -> None:
    """With how many had none; of each when every request is logged."""
    for mode, lines in (("errors", 1), ("all", 3)):
        making = Exchanges()
        making.ledger.access_log = log = Entries(mode)
        for _ in range(3):
            making.waiting().not_connected(ERROR)
        assert len(log.entries) == lines
        making.clock.advance(61.0)
        making.waiting().not_connected(ERROR)
        assert log.entries[-1]["untold"] == (2 if mode == "errors" else 0)


def test_a_request_without_an_exchange_is_written_down_as_well() -> None:
    """Under its route, or as one that met none."""
    making = Exchanges()
    making.ledger.access_log = log = Entries("errors")
    making.ledger.tracer = spans = Spans()  # type: ignore[assignment]
    error = SidecarError(Reason.NOT_ALLOWED, "No.")
    came = making.clock.mono()
    making.clock.advance(0.25)
    for route in ("any", ""):
        making.ledger.refused(error, route=route, method="GET", fields=[], path=b"/p", began_mono=came)
    for stats in (making.stats, making.ledger.unrouted):
        assert (stats.refused, stats.requests) == ({"not_allowed": 1}, {("GET", 403): 1})
        assert (stats.own.sum, stats.total.sum) == (0.25, 0.25)
    assert [(entry["route"], entry["target"], entry["duration"]) for entry in log.entries] == [
        ("any", "/p", 0.25),
        ("", "/p", 0.25),
    ]
    assert spans.told == [("refused", "GET", route, 403, Reason.NOT_ALLOWED) for route in ("any", "")]


def test_a_span_begins_and_ends_with_its_request() -> None:
    """And goes out with it."""
    making = Exchanges()
    making.ledger.tracer = spans = Spans()  # type: ignore[assignment]
    good, _ = making.sent()
    assert list(good.request.fields) == [(b"traceparent", b"00-1")]
    good.answer(*OK)
    good.answer_end([])
    making.waiting().not_connected(ERROR)
    assert spans.told == [
        ("begin", "GET", "any", b"https://a.example.com"),
        ("end", spans, 200, None),
        ("begin", "GET", "any", b"https://a.example.com"),
        ("end", spans, 504, Reason.SEND_TIMEOUT),
    ]


def test_a_refusal_of_the_target_s_is_noted_with_its_token() -> None:
    """What it says may tell what is wrong with it."""
    making = Exchanges()
    noted: list[Any] = []
    making.ledger.refusals.note = lambda *said: noted.append(said)  # type: ignore[method-assign]
    exchange, _ = making.sent(plan=WITH_TOKEN)
    exchange.answer(403, b"Forbidden", [], {}, UNKNOWN)
    exchange.answer_body(b"why")
    exchange.answer_end([])
    assert noted == [(making.keeper.destination, exchange.sample, b"Bearer first", making.stats)]
    assert exchange.sample is not None


def test_the_trace_of_a_request_is_in_the_header_that_names_it() -> None:
    """Google's own counts where there is no traceparent."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace_of([]) is None
    for name, value in (
        (b"Traceparent", f"00-{trace}-00f067aa0ba902b7-01".encode()),
        (b"X-Cloud-Trace-Context", f"{trace}/1;o=1".encode()),
    ):
        found = trace_of([(name, value)])
        assert found is not None
        assert found.trace_id == trace
