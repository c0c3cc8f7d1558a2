"""sidecar.proxy.fields.upgrades: what of a wish to upgrade is carried; with sockets it is in tests/wire/test_upgrades.py"""

from __future__ import annotations

import pytest

from sidecar.proxy.fields.upgrades import carried, refusal

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


NOT_ASKED = "with a protocol that was not asked for"
NOT_ITS_KEY = "with a `Sec-WebSocket-Accept` that does not follow from the request's key"
KEY = (b"Sec-WebSocket-Key", b" dGhlIHNhbXBsZSBub25jZQ== ")
ACCEPT = (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
"""RFC 6455 section 1.3."""
WEBSOCKET = (b"Upgrade", b"websocket")


@pytest.mark.parametrize(
    ("upgrade", "asked", "answered", "wrong"),
    [
        pytest.param(b"websocket", [KEY], [WEBSOCKET, ACCEPT], None, id="well"),
        pytest.param(b"websocket", [KEY], [WEBSOCKET], NOT_ITS_KEY, id="without-accept"),
        pytest.param(b"websocket", [KEY], [WEBSOCKET, (ACCEPT[0], b"x")], NOT_ITS_KEY, id="another-accept"),
        pytest.param(b"websocket", [], [WEBSOCKET], None, id="without-a-key"),
        pytest.param(b"SPDY/3.1", [KEY], [(b"upgrade", b"SPDY/3.1")], None, id="another-protocol"),
        pytest.param(b"SPDY/3.1, websocket", [KEY], [WEBSOCKET, ACCEPT], None, id="one-of-two"),
        pytest.param(b"a, b", [], [(b"Upgrade", b"a"), (b"Upgrade", b"b")], None, id="both-in-two-lines"),
        pytest.param(b"SPDY/3.1", [KEY], [WEBSOCKET, ACCEPT], NOT_ASKED, id="not-asked-for"),
        pytest.param(None, [KEY], [WEBSOCKET, ACCEPT], NOT_ASKED, id="nothing-asked-for"),
        pytest.param(None, [], [], NOT_ASKED, id="nothing-at-all"),
        pytest.param(b"websocket", [KEY], [ACCEPT], NOT_ASKED, id="without-upgrade"),
        pytest.param(b"XXXX", [], [(b"Upgrade", b"websocket, XXXX")], NOT_ASKED, id="more-than-asked-for"),
    ],
)
def test_what_a_101_may_say(
    upgrade: bytes | None,
    asked: list[tuple[bytes, bytes]],
    answered: list[tuple[bytes, bytes]],
    wrong: str | None,
) -> None:
    """Only protocols that were asked for; a WebSocket's answer follows from the request's key (RFC 6455 section 4.1)."""
    assert refusal(upgrade, asked, answered) == wrong
