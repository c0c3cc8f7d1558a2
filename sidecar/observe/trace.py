"""Trace context of a request, as its log entry names it.

Owns the reading of `traceparent` (https://www.w3.org/TR/trace-context/) and of Google's older `X-Cloud-Trace-Context`
(https://cloud.google.com/trace/docs/trace-context). Called for requests that are logged. Pure. Both headers pass to
the upstream unchanged. The rule: a malformed header is no trace, and W3C's header wins.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_W3C = re.compile(rb"(?!ff|00.{54})[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
"""Later versions may have more parts; version 00 has none."""
_CLOUD = re.compile(rb"([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-9]))?")


class Trace(NamedTuple):
    """One request's place in a trace."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits; empty where none came."""
    sampled: bool


def read_trace(traceparent: bytes | None, cloud: bytes | None) -> Trace | None:
    """The trace of a request, from the values of the two headers; None if it has none."""
    if traceparent is not None and (match := _W3C.fullmatch(traceparent.strip())) is not None:
        trace, span, flags = (part.decode("ascii") for part in match.groups())
        if trace.strip("0") and span.strip("0"):
            return Trace(trace, span, bool(int(flags, 16) & 1))
    if cloud is not None and (match := _CLOUD.fullmatch(cloud.strip())) is not None:
        trace = match[1].decode("ascii").lower()
        number = int(match[2] or b"0")
        if trace.strip("0") and number < 1 << 64:
            return Trace(trace, f"{number:016x}" if number else "", match[3] == b"1")
    return None
