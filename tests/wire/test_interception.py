"""https that is read on its way: in tunnels and on listeners, with certificates of the sidecar's own CA"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from h2.events import ResponseReceived

from sidecar.net.callers import Callers
from sidecar.net.listeners import Settings
from sidecar.observe.metrics import HandshakeFailure
from sidecar.proxy.admission.admission import Admission
from tests.support.h2_peer import GET as GET2
from tests.support.h2_peer import Peer, fields
from tests.support.wire import GET, LIMIT, OK, End, Wire

CONNECT = b"CONNECT billing.internal:443 HTTP/1.1\r\nHost: billing.internal:443\r\n\r\n"
OTHER = """- {name: other, host: other.internal, upstream: 'http://127.0.0.1:9', audience: https://o.example}
- {name: third, host: ["*.third.internal"], upstream: 'https://{host}', audience: 'https://{host}', intercept: true}"""
BOTH_WAYS = pytest.mark.parametrize(
    "bytewise", [pytest.param(False, id="whole"), pytest.param(True, id="bytewise")]
)
NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME: certificates are made by the test's clock."""


async def intercepting(wire: Wire, tmp_path: Path, *, top: str = "") -> Path:
    """Start with one route that intercepts, another that does not, and a third by a wildcard; the bundle."""
    bundle = tmp_path / "bundle.pem"
    await wire.start("intercept: true", more=OTHER, top=f"intercept: {{bundle_file: '{bundle}'}}\n{top}")
    adopt(wire)
    return bundle


def adopt(wire: Wire) -> None:
    """As the service does at start and with another configuration."""
    interception = wire.proxy.interception
    interception.adopt(interception.prepare(wire.config.intercept, wire.table, {}), wire.table)


def trusting(bundle: Path, *alpn: str) -> ssl.SSLContext:
    """What an app does that trusts the bundle."""
    context = ssl.create_default_context(cafile=str(bundle))
    context.verify_flags |= NO_CHECK_TIME
    context.set_alpn_protocols(alpn or ["http/1.1"])
    return context


async def plain_tunnel(wire: Wire, ask: bytes = CONNECT) -> End:
    """An app that was given a tunnel, and has not begun TLS."""
    app = await wire.app()
    await app.send(ask)
    assert await app.read_head() == b"HTTP/1.1 200 OK\r\n\r\n"
    return app


async def tunnel(
    wire: Wire, context: ssl.SSLContext, name: str = "billing.internal", ask: bytes = CONNECT
) -> End:
    """An app inside of TLS inside of a tunnel."""
    app = await plain_tunnel(wire, ask)
    async with asyncio.timeout(LIMIT):
        await app.writer.start_tls(context, server_hostname=name)
    return app


def refused(caplog: pytest.LogCaptureFixture) -> str:
    """Why an app got no certificate, as logged."""
    (record,) = (one for one in caplog.records if one.getMessage() == "no certificate for an app")
    return str(record.fields["detail"])  # type: ignore[attr-defined]


async def serve_one(wire: Wire, app: End, ask: bytes = GET) -> bytes:
    """One request answered by the scripted upstream; its head as that got it."""
    await app.send(ask)
    upstream = await wire.upstream.accept()
    head = await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"
    return head


async def test_a_request_inside_gets_its_token(wire: Wire, tmp_path: Path) -> None:
    """By the CA of the bundle, on one connection that is counted as one; ALPN says http/1.1 to who speaks nothing else."""
    bundle = await intercepting(wire, tmp_path)
    app = await tunnel(wire, trusting(bundle))
    assert app.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    head = await serve_one(wire, app)
    assert head.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1")
    assert b"Authorization: Bearer ey" in head
    acceptors = wire.proxy.acceptors
    owner = acceptors.owner(wire.bound)
    assert (wire.proxy.connections, acceptors.open, owner.open, owner.arriving) == (1, 1, 1, 0)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    assert (acceptors.open, owner.open, acceptors.stats.handshakes_failed) == (0, 0, {})


async def test_http2_is_agreed_on(wire: Wire, tmp_path: Path) -> None:
    """By ALPN, as gRPC's clients do; each stream is judged by itself."""
    bundle = await intercepting(wire, tmp_path)
    end = await tunnel(wire, trusting(bundle, "h2", "http/1.1"))
    assert end.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    app = await Peer.begin(end, is_client=True)
    secure = (GET2[0], (b":scheme", b"https"), *GET2[2:])
    stream = await app.ask(secure)
    target = await Peer.begin(await wire.upstream.accept(), is_client=False)
    request = await target.asked()
    assert fields(request)[b"authorization"].startswith(b"Bearer ey")
    await target.answer(request.stream_id, ((b":status", b"200"),), body=b"ok")
    assert fields(await app.until(ResponseReceived, stream))[b":status"] == b"200"
    stray = await app.ask((*secure[:2], (b":authority", b"other.internal"), secure[3]))
    assert fields(await app.until(ResponseReceived, stray))[b":status"] == b"400"


async def test_what_points_at_the_upstream_is_mapped_to_https(wire: Wire, tmp_path: Path) -> None:
    """The app called an https URL, and is to go on with one; a page of that origin is no stranger there."""
    bundle = await intercepting(wire, tmp_path)
    app = await tunnel(wire, trusting(bundle))
    await app.send(GET[:-2] + b"Origin: https://billing.internal\r\n\r\n")
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:%d/there\r\n\r\n"
        % wire.upstream.port
    )
    assert (await app.answer()).headers["location"] == "https://billing.internal/there"
    await app.send(GET[:-2] + b"Origin: http://billing.internal\r\n\r\n")
    assert (await app.answer()).reason == "caller_refused"


async def test_certificates_are_for_the_one_host_and_for_hours(wire: Wire, tmp_path: Path) -> None:
    """From an issuer that is constrained, below a root that is, too; the key of each is its own."""
    bundle = await intercepting(wire, tmp_path)
    shown = []
    for _ in range(2):
        app = await tunnel(wire, trusting(bundle))
        der = app.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        shown.append(x509.load_der_x509_certificate(der))
        await app.close()
        wire.clock.advance(9 * 3600)  # three quarters of its life
    first, second = shown
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("billing.internal")]
    assert (first.not_valid_after_utc - first.not_valid_before_utc).total_seconds() == 13 * 3600
    assert first.not_valid_after_utc < second.not_valid_after_utc
    assert first.public_key() != second.public_key()


INSIDE = [
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: other.internal\r\n\r\n", 400, "bad_host", id="another-routes-host"
    ),
    pytest.param(b"GET / HTTP/1.1\r\nHost: billing.internal:80\r\n\r\n", 400, "bad_host", id="another-port"),
    pytest.param(
        b"GET https://billing.internal/ HTTP/1.1\r\nHost: billing.internal\r\n\r\n",
        400,
        "malformed_request",
        id="a-whole-url",
    ),
    pytest.param(CONNECT, 501, "method_not_carried", id="another-tunnel"),
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


@BOTH_WAYS
@pytest.mark.parametrize(("sent", "status", "reason"), INSIDE)
async def test_what_is_inside_is_judged_like_everything(
    wire: Wire, tmp_path: Path, sent: bytes, status: int, reason: str, bytewise: bool
) -> None:
    """And must be for what the tunnel was asked for."""
    bundle = await intercepting(wire, tmp_path)
    app = await tunnel(wire, trusting(bundle))
    with contextlib.suppress(ConnectionError):  # asyncio's TLS writes no more after the end
        await app.send(sent, bytewise=bytewise)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, reason)
    assert wire.upstream.waiting == 0


REFUSED = [
    pytest.param(b"other.internal:443", 501, "intercept: true", id="a-route-that-does-not-intercept"),
    pytest.param(b"billing.localhost:443", 501, "its hosts only", id="a-routes-name"),
    pytest.param(b"evil.com:443", 501, "NO_PROXY", id="no-route"),
    pytest.param(b"third.internal:443", 501, "NO_PROXY", id="a-wildcards-own-suffix"),
    pytest.param(b"billing.internal:8443", 501, "port 8443", id="another-port"),
]


@pytest.mark.parametrize(("target", "status", "words"), REFUSED)
async def test_no_other_https_is_read(
    wire: Wire, tmp_path: Path, target: bytes, status: int, words: str
) -> None:
    """And no certificate is made for it; the answer says what to do."""
    await intercepting(wire, tmp_path)
    app = await wire.app()
    await app.send(b"CONNECT %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (status, "method_not_carried")
    assert words in answer.body.decode()
    assert await app.rest() == b""


async def test_hosts_under_a_wildcard_have_certificates_of_their_own(wire: Wire, tmp_path: Path) -> None:
    """The constraint lets the CA speak for all of them."""
    bundle = await intercepting(wire, tmp_path)
    ask = b"CONNECT a.b.third.internal:443 HTTP/1.1\r\nHost: x\r\n\r\n"
    app = await tunnel(wire, trusting(bundle), "a.b.third.internal", ask)
    await app.close()


async def test_another_name_inside_the_tunnel_ends_it(
    wire: Wire, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the alert unrecognized_name, a line and a count."""
    bundle = await intercepting(wire, tmp_path)
    app = await plain_tunnel(wire)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ssl.SSLError, match=r"UNRECOGNIZED_NAME|unrecognized"),
    ):
        await app.writer.start_tls(trusting(bundle), server_hostname="a.third.internal")
    failed = wire.proxy.acceptors.stats.handshakes_failed
    await wire.turn(lambda: failed == {HandshakeFailure.SERVER_NAME: 1})
    assert "the tunnel is to `billing.internal`" in refused(caplog)
    await wire.turn(lambda: not wire.proxy.acceptors.arriving)


async def test_an_app_that_does_not_trust_the_ca_is_logged(
    wire: Wire, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its alert says so, and the log says which file to trust."""
    bundle = await intercepting(wire, tmp_path)
    app = await plain_tunnel(wire)
    sock = app.writer.get_extra_info("socket")
    strangers = ssl.create_default_context()

    def shake() -> None:
        with strangers.wrap_socket(sock._sock.dup(), server_hostname="billing.internal"):
            pass

    sock._sock.setblocking(True)
    app.writer.transport.pause_reading()
    with caplog.at_level(logging.WARNING), pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(shake)
    failed = wire.proxy.acceptors.stats.handshakes_failed
    await wire.turn(lambda: failed == {HandshakeFailure.REJECTED: 1})
    assert (
        f"does not trust the certificate that it was shown for `billing.internal`: have it trust the CA of `intercept`, in {bundle}"
        in caplog.text
    )


async def test_plain_http_in_a_tunnel_for_https_is_told_so(wire: Wire, tmp_path: Path) -> None:
    """400, and never sent on."""
    await intercepting(wire, tmp_path)
    app = await plain_tunnel(wire)
    await app.send(GET)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (400, "malformed_request")
    assert await app.rest() == b""
    assert wire.upstream.waiting == 0


async def test_tls_may_not_begin_before_the_answer(wire: Wire, tmp_path: Path) -> None:
    """Which is a request to wait, and no tunnel."""
    await intercepting(wire, tmp_path)
    app = await wire.app()
    await app.send(CONNECT + b"\x16\x03\x01")
    assert (await app.answer()).reason == "malformed_request"
    assert await app.rest() == b""


async def test_a_handshake_that_does_not_come_has_its_time(wire: Wire, tmp_path: Path) -> None:
    """As on a listener; it counts as a connection meanwhile."""
    await intercepting(wire, tmp_path)
    app = await plain_tunnel(wire)
    assert wire.proxy.acceptors.arriving == 1
    wire.clock.advance(wire.config.limits.head_timeout)
    assert await app.rest() == b""
    assert wire.proxy.acceptors.stats.handshakes_failed == {HandshakeFailure.TIMEOUT: 1}
    await wire.turn(lambda: not wire.proxy.acceptors.arriving)
    assert wire.proxy.acceptors.owner(wire.bound).arriving == 0


async def test_another_configuration_ends_what_was_opened_by_the_old(wire: Wire, tmp_path: Path) -> None:
    """Each connection with its current answer; and a route that is intercepted no more opens no other."""
    bundle = await intercepting(wire, tmp_path)
    app = await tunnel(wire, trusting(bundle))
    await serve_one(wire, app)
    wire.switch(
        f"""
routes:
  - {{name: billing, host: billing.internal, upstream: 'http://127.0.0.1:{wire.upstream.port}', audience: https://billing.example}}
"""
    )
    adopt(wire)
    assert await app.rest() == b""
    again = await wire.app()
    await again.send(CONNECT)
    assert (await again.answer()).reason == "method_not_carried"


async def test_a_handshake_that_another_configuration_overtakes_comes_to_nothing(
    wire: Wire, tmp_path: Path
) -> None:
    """Its tunnel was asked for under other rules, and would outlive them."""
    bundle = await intercepting(wire, tmp_path)
    app = await plain_tunnel(wire)
    await wire.turn(lambda: wire.proxy.acceptors.arriving)
    adopt(wire)
    with contextlib.suppress(OSError):
        async with asyncio.timeout(LIMIT):
            await app.writer.start_tls(trusting(bundle), server_hostname="billing.internal")
        await app.send(GET)
        assert await app.rest() == b""
    await wire.turn(lambda: not wire.proxy.acceptors.arriving)
    assert not wire.proxy.connections


@pytest.mark.interpreted
async def test_a_tunnel_that_another_configuration_overtakes_is_refused(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the turn between its being granted and its answer."""
    await intercepting(wire, tmp_path)
    tunnels = wire.proxy.tunnels

    def later(*them: Any) -> None:
        wire.proxy.context.admission = Admission(wire.table, pseudonym=None)
        tunnels(*them)

    with monkeypatch.context() as patch:
        patch.setattr(type(wire.proxy), "tunnels", lambda _, *them: later(*them))
        app = await wire.app()
        await app.send(CONNECT)
        assert (await app.answer()).reason == "caller_refused"


async def test_a_tunnel_for_which_there_is_no_descriptor(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused as every connection is that there is none for, and is no fault."""
    await intercepting(wire, tmp_path)

    def full(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", full)
        app = await wire.app()
        await app.send(CONNECT)
        answer = await app.answer()
    assert (answer.status, answer.reason) == (503, "no_descriptors")
    assert wire.proxy.faults.count == 0


async def test_a_ca_that_has_expired_refuses_the_tunnel(wire: Wire, tmp_path: Path) -> None:
    """With an answer, and not with an end in place of one."""
    await intercepting(wire, tmp_path)
    wire.clock.step_wall(200 * 365 * 24 * 3600)
    app = await wire.app()
    await app.send(CONNECT)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (500, "internal")
    assert wire.proxy.faults.count == 0


async def listening(wire: Wire, tmp_path: Path, **more: Any) -> Path:
    """The same where the listener itself takes TLS."""
    bundle = await intercepting(wire, tmp_path)
    wire.proxy.reassign(wire.bound, None, Settings(intercepts=True, **more))
    return bundle


async def secure(wire: Wire, context: ssl.SSLContext, name: str) -> End:
    """An app that believes that this machine is the host."""
    async with asyncio.timeout(LIMIT):
        end = End(*await asyncio.open_connection("127.0.0.1", wire.port, ssl=context, server_hostname=name))
    return end


async def test_a_listener_shows_what_is_asked_for(wire: Wire, tmp_path: Path) -> None:
    """By SNI, with no proxy: what is asked for inside is that host's, on whichever port it is called."""
    bundle = await listening(wire, tmp_path)
    app = await secure(wire, trusting(bundle), "billing.internal")
    head = await serve_one(wire, app, GET.replace(b"internal", b"internal:8443"))
    assert b"Authorization: Bearer ey" in head
    await app.send(b"GET / HTTP/1.1\r\nHost: a.third.internal\r\n\r\n")
    assert (await app.answer()).reason == "bad_host"
    await app.close()
    third = await secure(wire, trusting(bundle), "a.third.internal")
    await third.close()


async def test_a_listener_that_intercepts_asks_each_request_for_its_header(
    wire: Wire, tmp_path: Path
) -> None:
    """There was no CONNECT that could have been asked."""
    bundle = await listening(wire, tmp_path, callers=Callers({"X-Caller": "s3cret-s3cret"}))
    app = await secure(wire, trusting(bundle), "billing.internal")
    await app.send(GET)
    assert (await app.answer()).reason == "caller_refused"
    await app.close()
    app = await secure(wire, trusting(bundle), "billing.internal")
    head = await serve_one(wire, app, GET.replace(b"\r\n\r\n", b"\r\nX-Caller: s3cret-s3cret\r\n\r\n"))
    assert b"s3cret" not in head
    await app.close()


@pytest.mark.parametrize("name", ["other.internal", "evil.com", "third.internal", "billing.localhost"])
async def test_a_listener_shows_nothing_for_other_names(
    wire: Wire, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither for a route that does not intercept, nor for no route: an alert, a line with the reason, a count."""
    bundle = await listening(wire, tmp_path)
    with caplog.at_level(logging.WARNING), pytest.raises(ssl.SSLError):
        await secure(wire, trusting(bundle), name)
    failed = wire.proxy.acceptors.stats.handshakes_failed
    await wire.turn(lambda: failed == {HandshakeFailure.SERVER_NAME: 1})
    assert f"`{name}`" in refused(caplog)


async def test_a_listener_shows_nothing_where_no_name_is_asked_for(
    wire: Wire, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no route that it could be for."""
    bundle = await listening(wire, tmp_path)
    context = trusting(bundle)
    context.check_hostname = False
    with caplog.at_level(logging.WARNING), pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", wire.port, ssl=context, server_hostname="")
    await wire.turn(lambda: wire.proxy.acceptors.stats.handshakes_failed == {HandshakeFailure.SERVER_NAME: 1})
    assert "names no host (SNI)" in refused(caplog)


async def test_a_routes_own_listener_is_for_that_route(wire: Wire, tmp_path: Path) -> None:
    """Another route's host has no certificate there."""
    bundle = await intercepting(wire, tmp_path)
    wire.proxy.reassign(wire.bound, wire.table.routes[0], Settings(intercepts=True))
    app = await secure(wire, trusting(bundle), "billing.internal")
    await serve_one(wire, app)
    await app.close()
    with pytest.raises(ssl.SSLError):
        await secure(wire, trusting(bundle), "a.third.internal")


async def test_a_listener_that_comes_to_intercept_serves_no_plain_http(wire: Wire, tmp_path: Path) -> None:
    """Its open connections end, as where `tls` is added."""
    await intercepting(wire, tmp_path)
    app = await wire.app()
    await serve_one(wire, app)
    wire.proxy.reassign(wire.bound, None, Settings(intercepts=True))
    assert await app.rest() == b""
    late = await wire.app()
    await late.send(GET)
    answer = await late.answer()
    assert (answer.status, answer.reason) == (400, "malformed_request")


TOKENS = b"CONNECT oauth2.googleapis.com:443 HTTP/1.1\r\nHost: a\r\n\r\n"
GOOGLES = """
- {name: googles, host: "*.googleapis.com", upstream: 'https://{host}', token: access, wildcard_audience: shared,
   intercept: true}"""


async def test_a_host_that_is_answered_here_is_no_routes(wire: Wire, tmp_path: Path) -> None:
    """Nor for the moment in which nothing answers yet, at a reload: no wildcard takes what is meant for nobody else. Another
    port is a matter of the routes."""
    bundle = tmp_path / "bundle.pem"
    await wire.start(
        "intercept: true",
        more=OTHER + GOOGLES,
        top=f"intercept: {{bundle_file: '{bundle}'}}\ngoogle_token_endpoints: {{}}",
    )
    adopt(wire)
    app = await tunnel(wire, trusting(bundle), "oauth2.googleapis.com", TOKENS)
    await app.send(GET.replace(b"billing.internal", b"oauth2.googleapis.com"))
    answer = await app.answer()
    assert (answer.status, answer.reason) == (503, "overloaded")
    app = await wire.app()
    await app.send(TOKENS.replace(b":443", b":8443"))
    assert (await app.answer()).status == 501
