"""Dates as text, and text as dates.

Owns every reading of a date that came from outside, and the writing of one for people and programs. Called by what
shows a moment or a duration, or reads one: the status page, the log, token endpoints' answers, gcloud, targets. Pure:
it has no clock. Moments are Unix seconds. The rule: no function raises. A text that is no date gives None, and a
moment outside the calendar is shown as the calendar's nearest end, so that one absurd number breaks nothing. Sources:
RFC 3339, RFC 9110 section 5.6.7.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_FIRST: Final = -62135596800.0
_LAST: Final = 253402300799.0
"""The years 1 and 9999, which are all that RFC 3339 and `datetime` have."""


def rfc3339(at: float) -> str:
    """`2026-11-30T05:41:46.000Z`; the nearest end of the calendar for what lies outside of it, or is no number."""
    if not at >= _FIRST:  # NaN, too
        at = _FIRST
    return datetime.fromtimestamp(min(at, _LAST), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def in_words(seconds: float) -> str:
    """A duration in its two largest units, for people: `3 h 20 min`."""
    whole = max(0, round(seconds))
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def from_rfc3339(text: object) -> float | None:
    """The moment, or None for what names none, or names no time zone."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else None


def from_http_date(text: str) -> float | None:
    """The moment in a `Date` or `Retry-After` line, or None where it is not one."""
    try:
        found = parsedate_to_datetime(text)
        # `-0000` is read as no zone (RFC 5322 section 3.3); HTTP has no other than UTC.
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
