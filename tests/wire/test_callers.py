"""`require_header`: who does not know the secret is refused, and nobody behind the sidecar learns it"""

from __future__ import annotations

import pytest

from sidecar.net.callers import Callers
from sidecar.net.listeners import PLAIN, Settings
from tests.support.wire import GET, OK, Wire

ASKED = "listen: {address: 'localhost:0', require_header: {X-Local-Caller: s3cret-s3cret}}"

REFUSED = [
    pytest.param(b"", id="absent"),
    pytest.param(b"X-Local-Caller: \r\n", id="empty"),
    pytest.param(b"X-Local-Caller: other\r\n", id="another-value"),
    pytest.param(b"X-Local-Caller: s3cret-s3cre\r\n", id="a-part-of-it"),
    pytest.param(b"X-Local-Caller: S3CRET-S3CRET\r\n", id="another-case"),
    pytest.param(b"X-Local-Caller: s3cret-s3cret\r\nX-Local-Caller: s3cret-s3cret\r\n", id="twice"),
    pytest.param(b"X-Local-Caller: s3cret-s3cret\r\nx-local-caller: other\r\n", id="twice-with-another"),
    pytest.param(b"X-Local-Caller: s3cret-s3cret, s3cret-s3cret\r\n", id="as-a-list"),
    pytest.param(b"X_Local_Caller: s3cret-s3cret\r\n", id="with-underscores"),
    pytest.param(b"Y-Local-Caller: s3cret-s3cret\r\n", id="another-name"),
]


@pytest.mark.parametrize("lines", REFUSED)
async def test_a_caller_without_the_secret_is_refused(wire: Wire, lines: bytes) -> None:
    """403 caller_refused, with the header's name and not its value; nothing is sent on, and it is counted."""
    await wire.start(top=ASKED)
    app = await wire.app()
    await app.send(GET[:-2] + lines + b"\r\n")
    answer = await app.answer()
    assert (answer.status, answer.reason) == (403, "caller_refused")
    assert (
        answer.headers["proxy-status"]
        == 'idtoken-sidecar; error=http_request_denied; details="caller_refused"'
    )
    assert b"`X-Local-Caller`" in answer.body
    assert b"s3cret" not in answer.body
    assert wire.upstream.waiting == 0
    assert wire.proxy.ledger.unrouted.refused == {"caller_refused": 1}


@pytest.mark.parametrize("name", [b"X-Local-Caller", b"x-local-caller", b"X-LOCAL-CALLER"])
async def test_the_secret_is_not_forwarded(wire: Wire, name: bytes) -> None:
    """Neither it nor a line that a CGI upstream could take for it; all else is, in its order."""
    await wire.start(top=ASKED)
    app = await wire.app()
    lines = (
        b"A: 1\r\n%b: s3cret-s3cret\r\nB: 2\r\nX_Local_Caller: x\r\nx-Local_caller: y\r\nC: 3\r\n\r\n" % name
    )
    await app.send(GET[:-2] + lines)
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    assert b"A: 1\r\nB: 2\r\nC: 3\r\n" in head
    assert b"local" not in head.lower()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_the_secret_is_not_forwarded_in_trailers(wire: Wire) -> None:
    """Nor does one there let anybody in."""
    await wire.start(top=ASKED)
    app = await wire.app()
    chunked = b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\n%b\r\n1\r\na\r\n0\r\n%b\r\n"
    trailer = b"X-Local-Caller: s3cret-s3cret\r\nX_local-caller: z\r\nSum: 1\r\n"
    await app.send(chunked % (b"X-Local-Caller: s3cret-s3cret\r\n", trailer))
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    assert await upstream.read_until(b"\r\n\r\n") == b"1\r\na\r\n0\r\nSum: 1\r\n\r\n"
    await upstream.send(OK)
    await app.answer()
    late = await wire.app()
    await late.send(chunked % (b"", trailer))
    assert (await late.answer()).reason == "caller_refused"


async def test_each_request_of_a_connection_is_judged(wire: Wire) -> None:
    """One that was let in does not vouch for the next; a refusal without a body keeps the connection."""
    await wire.start(top=ASKED)
    app = await wire.app()
    good = GET[:-2] + b"X-Local-Caller: s3cret-s3cret\r\n\r\n"
    await app.send(good + GET + good)
    upstream = await wire.upstream.accept()
    for expected in (200, 403, 200):
        if expected == 200:
            await upstream.read_head()
            await upstream.send(OK)
        assert (await app.answer()).status == expected


async def test_a_declined_upgrade_is_judged_too(wire: Wire) -> None:
    """Java's wish for h2c, whose head is parsed a second time, brings its header both times."""
    await wire.start(top=ASKED)
    app = await wire.app()
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    await app.send(GET[:-2] + wish + b"X-Local-Caller: s3cret-s3cret\r\n\r\n")
    upstream = await wire.upstream.accept()
    assert b"s3cret" not in await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    await app.send(GET[:-2] + wish + b"\r\n")
    assert (await app.answer()).status == 403


async def test_another_secret_counts_from_the_next_request_on(wire: Wire) -> None:
    """A reload reaches connections that are open; and one that asks for nothing lets all in again."""
    await wire.start(top=ASKED)
    app = await wire.app()
    wire.proxy.reassign(wire.bound, None, Settings(Callers({"X-Other": "new-secret"})))
    await app.send(GET[:-2] + b"X-Local-Caller: s3cret-s3cret\r\n\r\n")
    assert b"`X-Other`" in (await app.answer()).body
    await app.send(GET[:-2] + b"X-Other: new-secret\r\n\r\n")
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    wire.proxy.reassign(wire.bound, None, PLAIN)
    await app.send(GET)
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


def test_the_secret_is_in_no_repr() -> None:
    """What shows the rules shows names."""
    callers = Callers({"X-A": "very-secret"}, {0}, {5})
    assert "very-secret" not in repr(callers)
    assert "X-A" in repr(callers)


PEERS = [
    pytest.param(1000, (7,), True, id="the-user"),
    pytest.param(8, (50,), True, id="the-group"),
    pytest.param(8, (7, 50), True, id="a-further-group"),
    pytest.param(8, (7,), False, id="neither"),
    pytest.param(50, (1000,), False, id="the-numbers-the-other-way-round"),
    pytest.param(0, (0,), False, id="not-even-root"),
]


@pytest.mark.parametrize(("uid", "gids", "may"), PEERS)
def test_a_peer_may_by_user_or_by_group(uid: int, gids: tuple[int, ...], may: bool) -> None:
    """Either list is enough; nobody else may, root included."""
    assert Callers({}, {1000}, {50}).may_connect(uid, gids) is may


async def test_what_else_is_corrected_in_a_head_stays_corrected(wire: Wire) -> None:
    """The judgement of callers works on the lines as they will be sent, and not as they came."""
    await wire.start(top=ASKED)
    app = await wire.app()
    lines = b"Content-Length: 0002\r\nX-Local-Caller: s3cret-s3cret\r\n\r\nab"
    await app.send(b"POST /x HTTP/1.1\r\nHost: billing.internal\r\n" + lines)
    upstream = await wire.upstream.accept()
    assert b"Content-Length: 2\r\n" in await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
