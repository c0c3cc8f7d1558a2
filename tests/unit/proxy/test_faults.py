"""sidecar.proxy.faults: what is logged of one; that one ends nothing but its own connection is in tests/wire"""

from __future__ import annotations

import logging

import pytest

from sidecar.errors import Reason
from sidecar.proxy.faults import Faults, internal

FAULT = ZeroDivisionError("division by zero")
RESET = ConnectionResetError(104, "reset")


def test_each_is_counted_and_told_with_its_traceback_and_where(caplog: pytest.LogCaptureFixture) -> None:
    """One entry each."""
    faults = Faults()
    assert faults.count == 0
    for _ in range(2):
        faults.note(FAULT, "sweep")
    assert faults.count == 2
    for record in caplog.records:
        assert (record.levelname, record.message, record.fields) == (  # type: ignore[attr-defined]
            "ERROR",
            "fault in the sidecar (sweep): please report it with its traceback, which follows",
            {"where": "sweep"},
        )
        assert record.exc_info is not None
        assert record.exc_info[1] is FAULT


class Full(logging.Handler):
    """A log for which there is no memory."""

    def emit(self, record: logging.LogRecord) -> None:
        raise MemoryError


def test_one_that_cannot_be_told_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that notes a fault has a connection to end after that."""
    monkeypatch.setattr(logging.getLogger("sidecar.proxy.faults"), "handlers", [Full()])
    faults = Faults()
    faults.note(FAULT, "sweep")
    assert faults.count == 1


@pytest.mark.parametrize(
    ("context", "faults_count", "told"),
    [
        pytest.param(
            {"message": "a callback", "exception": FAULT},
            1,
            (
                "ERROR",
                "fault in the sidecar (a callback): please report it with its traceback, which follows",
                {"where": "a callback"},
            ),
            id="fault",
        ),
        pytest.param(
            {"message": "accept", "exception": RESET},
            0,
            (
                "WARNING",
                "event loop: accept",
                {"detail": "accept", "fault": "ConnectionResetError(104, 'reset')"},
            ),
            id="the-system's",
        ),
        pytest.param(
            {"message": "a socket was not closed"},
            0,
            (
                "WARNING",
                "event loop: a socket was not closed",
                {"detail": "a socket was not closed", "fault": "None"},
            ),
            id="no-exception",
        ),
    ],
)
def test_of_what_the_event_loop_caught_only_faults_are_counted(
    context: dict[str, object], faults_count: int, told: tuple[object, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The system's errors and asyncio's own complaints are warnings."""
    faults = Faults()
    faults.from_loop(None, context)
    (record,) = caplog.records
    assert (record.levelname, record.message.partition(": Zero")[0], record.fields) == told  # type: ignore[attr-defined]
    assert faults.count == faults_count
    assert (record.exc_info or (None, None))[1] is (FAULT if faults_count else None)


def test_the_app_is_told_where_to_look() -> None:
    """Nothing of the fault itself."""
    error = internal()
    assert error.reason is Reason.INTERNAL
    assert error.detail == "A fault in the sidecar; its log has the traceback."
