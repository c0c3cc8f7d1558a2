"""sidecar.proxy.exchange.held: how much of a body is kept to be sent again"""

from __future__ import annotations

import pytest

from sidecar.proxy.exchange.held import NOTHING, HeldBody


@pytest.mark.parametrize(
    ("sizes", "takes"),
    [
        pytest.param([10], 10, id="one"),
        pytest.param([64, 64], 128, id="large-enough"),
        pytest.param([1, 63], 1 + 63 + 64, id="a-small-one-behind-another"),
        pytest.param([64, 1, 1], 64 + 2 * (1 + 64), id="each-small-one"),
        pytest.param([0], 0, id="nothing"),
    ],
)
def test_what_a_body_takes(sizes: list[int], takes: int) -> None:
    """Its bytes, and 64 for each small piece behind the first; of just the limit it is still held."""
    for limit, fits in ((takes, True), (takes - 1, False)):
        held = HeldBody()
        pieces = [bytes(size) for size in sizes]
        added = [held.add(piece, limit) for piece in pieces]
        assert (held.size, added[-1]) == (takes, fits)
        assert (held.pieces, held.trailers) == (pieces, ())


def test_no_body_takes_nothing() -> None:
    """All requests without one share it."""
    assert (NOTHING.pieces, NOTHING.size, NOTHING.trailers) == ([], 0, ())
