"""sidecar.grammar.moments: no date takes anything down."""

from __future__ import annotations

from datetime import datetime
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grammar.moments import from_http_date, from_rfc3339, rfc3339

FIRST, LAST = "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.000Z"


@pytest.mark.parametrize(
    ("at", "text"),
    [
        pytest.param(0.0, "1970-01-01T00:00:00.000Z", id="epoch"),
        pytest.param(1_796_017_306.5, "2026-11-30T05:41:46.500Z", id="now"),
        pytest.param(-1.0, "1969-12-31T23:59:59.000Z", id="before-the-epoch"),
        pytest.param(253402300799.0, LAST, id="last"),
        pytest.param(253402300799.9999, LAST, id="last-and-a-bit"),
        pytest.param(253402300800, LAST, id="year-10000"),
        pytest.param(1e300, LAST, id="1e300"),
        pytest.param(inf, LAST, id="infinity"),
        pytest.param(10**400, LAST, id="huge-integer"),
        pytest.param(-62135596800.0, FIRST, id="first"),
        pytest.param(-1e18, FIRST, id="minus-1e18"),
        pytest.param(-inf, FIRST, id="minus-infinity"),
        pytest.param(nan, FIRST, id="nan"),
    ],
)
def test_every_number_is_written_as_some_date(at: float, text: str) -> None:
    """What the calendar does not reach is its nearest end."""
    assert rfc3339(at) == text


@given(st.floats() | st.integers())
def test_what_is_written_can_be_read(at: float) -> None:
    """By `datetime`, as on the status page, and by ourselves."""
    assert from_rfc3339(rfc3339(at)) == datetime.fromisoformat(rfc3339(at)).timestamp()


@pytest.mark.parametrize(
    ("text", "at"),
    [
        pytest.param("2026-11-30T05:41:46Z", 1_796_017_306.0, id="utc"),
        pytest.param("2026-11-30T06:41:46.250+01:00", 1_796_017_306.25, id="offset"),
        pytest.param("9999-12-31T23:59:59-14:00", 253402351199.0, id="past-the-last"),
        pytest.param("0001-01-01T00:00:00+14:00", -62135647200.0, id="before-the-first"),
        pytest.param("2026-11-30T05:41:46", None, id="no-zone"),
        pytest.param("10000-01-01T00:00:00Z", None, id="year-10000"),
        pytest.param("tomorrow", None, id="words"),
        pytest.param(1_796_017_306, None, id="number"),
        pytest.param(None, None, id="none"),
    ],
)
def test_a_timestamp_is_read_or_none(text: object, at: float | None) -> None:
    """RFC 3339, with a zone."""
    assert from_rfc3339(text) == at


@pytest.mark.parametrize(
    ("text", "at"),
    [
        pytest.param("Mon, 30 Nov 2026 05:41:46 GMT", 1_796_017_306.0, id="gmt"),
        pytest.param("Mon, 30 Nov 2026 05:41:46 -0000", 1_796_017_306.0, id="no-zone-is-utc"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799.0, id="last"),
        pytest.param("Fri, 31 Dec 99999 23:59:59 GMT", None, id="year-99999"),
        pytest.param("Mon, 99 Nov 2026 05:41:46 GMT", None, id="day-99"),
        pytest.param("Mon, 30 Nov 2026 05:41:46 +9999", None, id="zone-9999"),
        pytest.param("", None, id="empty"),
        pytest.param("soon", None, id="words"),
    ],
)
def test_an_http_date_is_read_or_none(text: str, at: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever this machine is."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert from_http_date(text) == at


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,9} [A-Z][a-z]{2} \d{1,9} \d+:\d+:\d+ [+-]?\w{1,9}"))
def test_any_text_is_a_date_or_none(text: str) -> None:
    """And raises nothing."""
    for read in (from_http_date, from_rfc3339):
        assert isinstance(read(text), float | None)
