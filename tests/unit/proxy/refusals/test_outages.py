"""sidecar.proxy.refusals.outages: what is told and kept of requests that the sidecar refuses"""

from __future__ import annotations

import logging

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import RouteStats
from sidecar.observe.repeats import INTERVAL
from sidecar.proxy.refusals.outages import IN_A_ROW, Outages
from tests.support.clock import FakeClock

UNREACHABLE = SidecarError(Reason.TOKEN_ENDPOINT_UNREACHABLE, "It refused the connection. Check it.")
DENIED = SidecarError(Reason.TOKEN_DENIED, "Not allowed.", command="gcloud grant it")
CLOSED = SidecarError(Reason.UPSTREAM_CLOSED, "It hung up.")


class House:
    """Routes whose requests end, and the sweep."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self.clock = FakeClock()
        self.outages = Outages(self.clock)
        self.stats = RouteStats()
        self.log = log
        log.set_level(logging.INFO, "sidecar.proxy.refusals.outages")

    def refuse(self, error: SidecarError, times: int = 1, route: str = "billing") -> None:
        """As `Exchange` does: counted, then noted."""
        for _ in range(times):
            self._count(error.status)
            self.outages.note(error, route, self.stats)

    def answer(self, times: int = 1) -> None:
        for _ in range(times):
            self._count(200)

    def sweep(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.outages.look()

    def _count(self, status: int) -> None:
        self.stats.requests["GET", status] = self.stats.requests.get(("GET", status), 0) + 1

    def told(self) -> list[tuple[str, str]]:
        """Levels and messages since the last call."""
        found = [(record.levelname, record.getMessage()) for record in self.log.records]
        self.log.clear()
        return found


@pytest.fixture
def house(caplog: pytest.LogCaptureFixture) -> House:
    return House(caplog)


def test_ten_minutes_of_refusals_are_a_dozen_lines(house: House) -> None:
    """400 a second: one ERROR with route, reason, cause and fix; one WARNING a minute; one INFO at the end."""
    for second in range(600):
        house.refuse(UNREACHABLE, 4)
        if second == 0:
            assert house.told() == [
                (
                    "ERROR",
                    "route `billing` refuses requests with 503 token_endpoint_unreachable: It refused the connection. Check it.",
                )
            ]
        house.sweep()
    told = house.told()
    assert [level for level, _ in told] == ["WARNING"] * 9
    assert told[0][1].startswith(
        "route `billing` still refuses requests, 241 in 1 min, with 503 token_endpoint_unr"
    )
    house.answer()
    house.sweep()
    assert house.told() == [
        (
            "INFO",
            "route `billing` answers again: it refused 2400 requests in 10 min 1 s (token_endpoint_unreachable)",
        )
    ]
    house.answer(10)
    house.sweep()
    assert house.told() == []


def test_the_command_that_fixes_it_is_in_the_message(house: House) -> None:
    house.refuse(DENIED)
    assert house.told() == [
        (
            "ERROR",
            "route `billing` refuses requests with 503 token_denied: Not allowed. To fix it: gcloud grant it",
        )
    ]


SLOW = SidecarError(Reason.TLS_TIMEOUT, "The handshake did not finish.")
FULL = SidecarError(Reason.QUEUE_FULL, "All are busy.")


def test_a_full_queue_does_not_hide_why_it_is_full(house: House) -> None:
    """What the upstream fails with is shown, as long as it does so; the log has both."""
    house.refuse(SLOW)
    house.refuse(FULL, 5)
    found = house.outages.refusing("billing")
    assert found is not None
    assert (found.reason, found.detail, found.times) == (
        Reason.TLS_TIMEOUT,
        "The handshake did not finish.",
        6,
    )
    assert found.last_at == house.clock.wall()
    assert [message.partition(" with ")[2][:14] for _, message in house.told()] == [
        "504 tls_timeou",
        "503 queue_full",
    ]
    house.sweep(INTERVAL + 1)
    house.refuse(FULL)
    found = house.outages.refusing("billing")
    assert found is not None
    assert found.reason is Reason.QUEUE_FULL


def test_another_reason_of_the_same_outage_is_a_warning_at_once(house: House) -> None:
    """And there is one end, which names both."""
    house.refuse(UNREACHABLE, 3)
    house.refuse(DENIED, 3)
    house.refuse(UNREACHABLE, 3)
    assert [level for level, _ in house.told()] == ["ERROR", "WARNING"]
    house.answer()
    house.sweep()
    ((level, message),) = house.told()
    assert (level, message.partition(": ")[2]) == (
        "INFO",
        "it refused 9 requests in 1 s (token_denied, token_endpoint_unreachable)",
    )


def test_good_answers_before_the_last_refusal_end_nothing(house: House) -> None:
    """An upstream may have been answering while the last ones were refused."""
    house.refuse(UNREACHABLE)
    house.answer(5)
    house.refuse(UNREACHABLE)
    house.told()
    house.sweep()
    assert house.told() == []
    assert house.outages.refusing("billing") is not None
    house.answer()
    house.sweep()
    assert [level for level, _ in house.told()] == ["INFO"]
    assert house.outages.refusing("billing") is None


def test_a_route_that_comes_and_goes_is_logged_once_a_minute(house: House) -> None:
    """Every second request fails, for ten minutes."""
    for _ in range(600):
        house.refuse(UNREACHABLE)
        house.answer()
        house.sweep()
    levels = [level for level, _ in house.told()]
    assert (levels.count("ERROR"), levels.count("INFO"), len(levels)) == (10, 10, 20)


def test_what_one_request_met_is_no_outage(house: House) -> None:
    """Until so many in a row have met it."""
    for _ in range(10):
        house.refuse(CLOSED, IN_A_ROW - 1)
        house.answer()
        house.sweep()
    assert house.told() == []
    assert house.outages.refusing("billing") is None
    house.refuse(CLOSED, IN_A_ROW)
    assert [level for level, _ in house.told()] == ["ERROR"]


@pytest.mark.parametrize(
    "reason", [Reason.HEADER_CONFLICT, Reason.CLIENT_GONE, Reason.NOT_ALLOWED, Reason.DRAINING]
)
def test_the_apps_own_errors_and_a_drain_are_no_outage(house: House, reason: Reason) -> None:
    """They are counted all the same."""
    house.refuse(SidecarError(reason, "So it is."), 10)
    assert house.told() == []
    assert [group.times for group in house.outages.errors()] == [10]


def test_apps_that_leave_meanwhile_are_no_good_answers(house: House) -> None:
    """A 499 in an outage does not end it."""
    house.refuse(UNREACHABLE)
    house.refuse(SidecarError(Reason.CLIENT_GONE, "It left."), 5)
    house.told()
    house.sweep()
    assert house.told() == []


def test_a_flood_hides_no_other_cause(house: House) -> None:
    """Each route and reason is one group, with its first and last time, and what was said last."""
    began = house.clock.wall()
    house.refuse(DENIED, 1, "reports")
    house.clock.advance(5)
    house.refuse(UNREACHABLE, 5000)
    house.clock.advance(5)
    house.refuse(SidecarError(Reason.TOKEN_ENDPOINT_UNREACHABLE, "Now otherwise."))
    groups = [
        (it.route, it.reason, it.times, it.first_at - began, it.last_at - began)
        for it in house.outages.errors()
    ]
    assert groups == [
        ("billing", Reason.TOKEN_ENDPOINT_UNREACHABLE, 5001, 5.0, 10.0),
        ("reports", Reason.TOKEN_DENIED, 1, 0.0, 0.0),
    ]
    assert house.outages.errors()[0].detail == "Now otherwise."


def test_the_access_log_has_one_line_a_minute_for_each(house: House) -> None:
    """With how many had none."""
    due = []
    for seconds in (0.0, 1.0, INTERVAL):
        house.clock.advance(seconds)
        house.refuse(UNREACHABLE)
        due.append(house.outages.line_due("billing", UNREACHABLE.reason))
    assert due == [0, None, 1]


def test_what_is_kept_keeps_no_exception(house: House) -> None:
    """An exception holds the frames it came through, and with them connections and bodies."""
    error = SidecarError(Reason.QUEUE_FULL, "Full.", command="x")
    house.refuse(error)
    (group,) = house.outages.errors()
    assert error not in tuple(group)
    assert (group.reason, group.detail, group.command) == (Reason.QUEUE_FULL, "Full.", "x")
