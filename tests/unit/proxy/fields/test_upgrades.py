"""sidecar.proxy.fields.upgrades: what of a wish to upgrade is carried; with sockets it is in tests/wire/test_upgrades.py"""

from __future__ import annotations

import pytest

from sidecar.proxy.fields.upgrades import carried

KNOWN = frozenset({b"websocket", b"spdy/3.1"})


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        pytest.param(b"websocket", b"websocket", id="one"),
        pytest.param(b" WebSocket\t", b"WebSocket", id="in-its-spelling"),
        pytest.param(b"SPDY/3.1,websocket", b"SPDY/3.1, websocket", id="in-its-order"),
        pytest.param(b"h2c, websocket ,TLS/1.2", b"websocket", id="one-of-three"),
        pytest.param(b"TLS/1.2", None, id="none"),
        pytest.param(b"h2c, TLS/1.2", None, id="none-of-two"),
        pytest.param(b"websocket/13", None, id="with-a-version"),
        pytest.param(b"SPDY", None, id="without-its-version"),
        pytest.param(b"SPDY/3", None, id="of-another-version"),
        pytest.param(b"web, socket", None, id="in-two-parts"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b",", None, id="a-comma"),
    ],
)
def test_what_is_carried_of_a_wish(wish: bytes, kept: bytes | None) -> None:
    """Names are compared whole and without regard to case (RFC 9110 section 7.8)."""
    assert carried(wish, KNOWN) == kept
    assert carried(wish, frozenset()) is None
