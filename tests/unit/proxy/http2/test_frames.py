"""sidecar.proxy.http2.frames: the walk over an app's frames"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.http2.frames import FrameWalk
from tests.support import h2_frames as h2

HEAD = h2.headers(1, [(b":method", b"GET")])
OPEN = h2.headers(1, [(b":method", b"GET")], end_headers=False)
MORE = h2.frame(h2.CONTINUATION, 0, 1, b"x" * 10)
LAST = h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, b"")


def walk(*pieces: bytes) -> FrameWalk:
    made = FrameWalk()
    made.follow(h2.PREFACE)
    for piece in pieces:
        made.follow(piece)
    return made


@pytest.mark.parametrize(
    ("pieces", "in_head", "heads"),
    [
        pytest.param([], False, 0, id="nothing"),
        pytest.param([h2.settings(), h2.ping()], False, 0, id="no-head"),
        pytest.param([HEAD], False, 1, id="whole"),
        pytest.param([HEAD[:-1]], True, 1, id="all-but-a-byte"),
        pytest.param([HEAD[:-1], HEAD[-1:]], False, 1, id="in-two-reads"),
        pytest.param([HEAD[:9]], True, 1, id="a-frame's-header"),
        pytest.param([HEAD[:8]], False, 0, id="not-even-that"),
        pytest.param([OPEN], True, 1, id="without-an-end"),
        pytest.param([OPEN, MORE, MORE], True, 1, id="continued"),
        pytest.param([OPEN, MORE, LAST], False, 1, id="ended"),
        pytest.param([OPEN + LAST + OPEN], True, 2, id="a-second-one"),
        pytest.param([HEAD, h2.data(1, bytes(100))[:50]], False, 1, id="a-slow-body"),
    ],
)
def test_whether_a_head_is_whole(pieces: list[bytes], in_head: bool, heads: int) -> None:
    """From its first frame's header to the last byte of the frame that has END_HEADERS."""
    made = walk(*pieces)
    assert (made.in_head, made.heads) == (in_head, heads)


@pytest.mark.parametrize(
    ("frame", "is_malformed"),
    [
        (h2.priority(1), False),
        (h2.priority(3, 1), False),
        (h2.priority(0, 1), True),
        (h2.priority(0), True),
        (h2.priority(3, 3), True),
        (h2.priority(3, 0x80000003), True),
        (h2.frame(h2.PRIORITY, 0, 0x80000000, bytes((0, 0, 0, 1, 15))), True),
        (h2.priority(0x10003, 3), False),
        (h2.priority(0x1000003, 3), False),
        (h2.priority(3, 0x1000003), False),
        (h2.frame(h2.SETTINGS, 0, 0), False),
        (h2.frame(h2.WINDOW_UPDATE, 0, 3, b"\0\0\0\3"), False),
    ],
)
def test_priorities(frame: bytes, is_malformed: bool) -> None:
    """On no stream, or depending on themselves, they are errors; else they mean nothing."""
    assert walk(frame).is_malformed is is_malformed
    assert walk(*(frame[i : i + 1] for i in range(len(frame)))).is_malformed is is_malformed


@pytest.mark.parametrize("size", [0, 1, 255, 256, 300, 16_384, 65_535, 65_536, 70_000, 0x10203])
def test_a_frame_is_as_long_as_it_says(size: int) -> None:
    """Three bytes of it; what comes behind begins where it ends, whatever is inside."""
    long = h2.data(1, HEAD[:1] * size)
    assert walk(long + OPEN).heads == 1
    assert walk(long + h2.priority(0)).is_malformed
    assert walk(long, h2.priority(0x01000002, 0x01000003)).is_malformed is False
    assert walk(long[:-1]).heads == 0
    assert walk(long[:-1], long[-1:] + HEAD).in_head is False


FRAMES = st.sampled_from(
    [
        HEAD,
        OPEN,
        MORE,
        LAST,
        h2.settings(),
        h2.ping(),
        h2.data(1, bytes(30)),
        h2.priority(3, 1),
        h2.priority(5, 5),
    ]
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 300), max_size=12), st.integers(0, 40))
def test_reads_may_end_anywhere(frames: list[bytes], cuts: list[int], missing: int) -> None:
    """What is seen depends on the bytes alone."""
    data = h2.PREFACE + b"".join(frames)
    data = data[: max(0, len(data) - missing)]
    whole, cut = FrameWalk(), FrameWalk()
    whole.follow(data)
    places = sorted({0, *(place for place in cuts if place < len(data)), len(data)})
    for start, end in pairwise(places):
        cut.follow(data[start:end])
    assert (cut.in_head, cut.heads, cut.is_malformed) == (whole.in_head, whole.heads, whole.is_malformed)
