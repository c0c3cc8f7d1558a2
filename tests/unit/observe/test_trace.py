"""sidecar.observe.trace: the two headers that name a request's trace"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.observe.trace import Trace, read_trace

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "cloud", "expected"),
    [
        (f"00-{ID}-{SPAN}-01", None, Trace(ID, SPAN, True)),
        (f"00-{ID}-{SPAN}-00", None, Trace(ID, SPAN, False)),
        (f"cc-{ID}-{SPAN}-01-what-the-future-brings", None, Trace(ID, SPAN, True)),
        (None, f"{ID}/{int(SPAN, 16)};o=1", Trace(ID, SPAN, True)),
        (None, f"{ID.upper()}/1;o=0", Trace(ID, "0000000000000001", False)),
        (None, ID, Trace(ID, "", False)),
        (f"00-{ID}-{SPAN}-01", f"{'1' * 32}/1;o=0", Trace(ID, SPAN, True)),
        ("nonsense", f"{ID};o=1", Trace(ID, "", True)),
        (f"ff-{ID}-{SPAN}-01", None, None),
        (f"00-{ID}-{SPAN}-01-more", None, None),
        (f"00-{ID}-{SPAN}-01" + "-" + "x" * 60_000, None, None),
        (f"00-{ID}-{SPAN}-01\n", None, Trace(ID, SPAN, True)),
        (f"00-{ID}-{SPAN}-01\x1b[2J", None, None),
        (f"00-{'0' * 32}-{SPAN}-01", None, None),
        (f"00-{ID}-{'0' * 16}-01", None, None),
        (f"00-{ID.upper()}-{SPAN}-01", None, None),
        (None, f"{'0' * 32}/1", None),
        (None, f"{ID}/{1 << 64}", None),
        (None, "x", None),
        (None, None, None),
    ],
)
def test_what_is_a_trace(traceparent: str | None, cloud: str | None, expected: Trace | None) -> None:
    """W3C's header wins; what is malformed is none."""
    found = read_trace(
        None if traceparent is None else traceparent.encode(), None if cloud is None else cloud.encode()
    )
    assert found == expected


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_nothing_breaks_it(traceparent: bytes, cloud: bytes) -> None:
    """Whatever a client sends."""
    found = read_trace(traceparent, cloud)
    assert found is None or len(found.trace_id) == 32
