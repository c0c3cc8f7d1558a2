"""What is done inside of a tunnel, in plain HTTP and in TLS that the sidecar reads."""

from __future__ import annotations

from typing import Final

import pytest
from h2.events import ResponseReceived

from tests.support.h2_peer import GET as GET2
from tests.support.h2_peer import Peer, fields
from tests.support.wire import GET, OK, End, Wire


def wish(port: int) -> bytes:
    """CONNECT, for the route that every test has."""
    return b"CONNECT billing.internal:%d HTTP/1.1\r\nHost: billing.internal:%d\r\n\r\n" % (port, port)


INSIDE: Final = [
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: other.internal\r\n\r\n", 400, "bad_host", id="another-routes-host"
    ),
    pytest.param(b"GET / HTTP/1.1\r\nHost: billing.internal:81\r\n\r\n", 400, "bad_host", id="another-port"),
    pytest.param(
        b"GET https://billing.internal/ HTTP/1.1\r\nHost: billing.internal\r\n\r\n",
        400,
        "malformed_request",
        id="a-whole-https-url",
    ),
    pytest.param(wish(80), 501, "method_not_carried", id="another-tunnel"),
    pytest.param(wish(443), 501, "method_not_carried", id="another-tunnel-for-https"),
    pytest.param(
        GET[:-2] + b"Sec-Fetch-Site: cross-site\r\n\r\n", 403, "caller_refused", id="a-page-of-another-site"
    ),
    pytest.param(GET.replace(b"/x", b"/../x"), 400, "malformed_request", id="a-way-out-of-the-root"),
    pytest.param(
        b"POST / HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "malformed_request",
        id="two-framings",
    ),
]
"""What is refused in a tunnel to `billing.internal`, beside a route for other.internal: sent, status, reason."""


async def open_tunnel(wire: Wire, ask: bytes) -> End:
    """An app that was given the tunnel it asked for."""
    app = await wire.app()
    await app.send(ask)
    assert await app.read_head() == b"HTTP/1.1 200 OK\r\n\r\n"
    return app


async def serve_one(wire: Wire, app: End, ask: bytes = GET, *, upstream: End | None = None) -> bytes:
    """One request answered by the scripted upstream, on a new connection or on this one; its head as that got it."""
    await app.send(ask)
    upstream = upstream or await wire.upstream.accept()
    head = await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"
    return head


async def speak_http2(wire: Wire, end: End, scheme: bytes) -> None:
    """A request in HTTP/2 gets its token and its answer; one for another host is refused on its stream."""
    app = await Peer.begin(end, is_client=True)
    lines = (GET2[0], (b":scheme", scheme), *GET2[2:])
    stream = await app.ask(lines)
    target = await Peer.begin(await wire.upstream.accept(), is_client=False)
    request = await target.asked()
    assert fields(request)[b"authorization"].startswith(b"Bearer ey")
    await target.answer(request.stream_id, ((b":status", b"200"),), body=b"ok")
    assert fields(await app.until(ResponseReceived, stream))[b":status"] == b"200"
    stray = await app.ask((*lines[:2], (b":authority", b"other.internal"), lines[3]))
    assert fields(await app.until(ResponseReceived, stray))[b":status"] == b"400"
