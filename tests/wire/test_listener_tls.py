"""TLS on a listener: real handshakes, by a clock that the test moves"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.config.listeners import ListenerTls
from sidecar.emulator.keys import Authority
from sidecar.net.certificates import Certificate
from sidecar.net.listeners import PLAIN, Settings
from sidecar.observe.metrics import HandshakeFailure
from tests.support import openssl
from tests.support.source import LIMIT
from tests.support.wire import GET, OK, End, Wire

NAMES = ("localhost", "127.0.0.1")


def files(directory: Path, authority: Authority, **more: str | bool | None) -> ListenerTls:
    """A certificate and its key in one file, and the settings that name it."""
    file = directory / "both.pem"
    file.write_bytes(authority.issue(NAMES))
    file.chmod(0o600)
    return ListenerTls(cert_file=str(file), key_file=str(file), **more)


def client(authority: Authority) -> ssl.SSLContext:
    """What an app does that trusts this authority alone."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["http/1.1"])
    return context


async def secure(wire: Wire, context: ssl.SSLContext) -> End:
    """A new connection from the app, its handshake done."""
    async with asyncio.timeout(LIMIT):
        return await wire.connect(wire.port, tls=context)


async def blocking(wire: Wire, context: ssl.SSLContext) -> bytes:
    """One request by a blocking client, which tells the server in an alert what it does not like: asyncio's doesn't."""
    sock = socket.create_connection(("127.0.0.1", wire.port), timeout=LIMIT)

    def ask() -> bytes:
        with context.wrap_socket(sock, server_hostname="localhost") as secured:
            secured.sendall(GET)
            return secured.recv(100)

    return await asyncio.to_thread(ask)


async def gone(app: End) -> None:
    """It has ended, one way or the other."""
    with contextlib.suppress(ConnectionError):
        await app.rest()


@pytest.fixture
async def authority(wire: Wire, tmp_path: Path) -> Authority:
    """Whose certificate the wire's listener shows."""
    made = Authority()
    await wire.start()
    wire.proxy.reassign(wire.bound, None, Settings(certificate=Certificate(files(tmp_path, made))))
    return made


async def test_requests_come_and_answers_go(wire: Wire, authority: Authority) -> None:
    """One connection, several requests; ALPN says http/1.1 to a client that speaks nothing else."""
    app = await secure(wire, client(authority))
    assert app.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    await app.send(GET)
    upstream = await wire.upstream.accept()
    for _ in range(3):
        await upstream.read_head()
        await upstream.send(OK)
        assert (await app.answer()).body == b"ok"
        await app.send(GET)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    assert wire.proxy.acceptors.stats.handshakes_failed == {}


async def test_bodies_of_many_records_pass_both_ways(wire: Wire, authority: Authority) -> None:
    """A megabyte up and down, with both sides' buffers full on the way."""
    body = bytes(range(256)) * 4096
    app = await secure(wire, client(authority))
    head = b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with asyncio.TaskGroup() as both:
        both.create_task(app.send(head + body))
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        assert await upstream.read(len(body)) == body
    async with asyncio.TaskGroup() as both:
        both.create_task(upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
        assert (await app.answer()).body == body
    await app.close()


@pytest.mark.parametrize("scheme", [b"http", b"https"])
async def test_the_listeners_origin_is_https(wire: Wire, authority: Authority, scheme: bytes) -> None:
    """A page that was served here has an https origin; and what points at the upstream is mapped to https."""
    app = await secure(wire, client(authority))
    await app.send(GET[:-2] + b"Origin: %b://billing.internal\r\n\r\n" % scheme)
    if scheme == b"http":
        assert (await app.answer()).reason == "caller_refused"
    else:
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        location = b"Location: http://127.0.0.1:%d/there\r\n" % wire.upstream.port
        await upstream.send(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + location + b"\r\n")
        assert (await app.answer()).headers["location"] == "https://billing.internal/there"
    await app.close()


PLAIN_REQUESTS = [
    pytest.param(GET, id="get"),
    pytest.param(GET.replace(b"GET", b"HEAD"), id="head"),
    pytest.param(GET.replace(b"GET", b"DELETE"), id="delete"),
    pytest.param(GET.replace(b"GET", b"OPTIONS"), id="options"),
    pytest.param(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", id="connect"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="preface-of-http-2"),
    pytest.param(
        b"PATCH /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000), id="body"
    ),
    pytest.param(b"G", id="a-beginning"),
    pytest.param(b"hello\n", id="a-person"),
]


@pytest.mark.parametrize("sent", PLAIN_REQUESTS)
async def test_plain_http_is_told_so(wire: Wire, authority: Authority, sent: bytes) -> None:
    """Whatever the method: 400 in plain text, then at once the orderly end of the connection; counted, and never sent on."""
    app = await wire.app()
    await app.send(sent)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (400, "malformed_request")
    assert b"https://" in answer.body
    assert await app.rest() == b""
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    acceptors = wire.proxy.acceptors
    assert acceptors.stats.handshakes_failed == {HandshakeFailure.PLAIN_HTTP: 1}
    assert (acceptors.open, acceptors.arriving, wire.upstream.waiting) == (0, 0, 0)
    assert wire.proxy.ledger.unrouted.refused == {"malformed_request": 1}


@pytest.mark.parametrize("sent", [b"\x00\x01\x02", b"\x80.\x01\x03\x01", b"\r\n\r\n", b"123 456 7890"])
async def test_what_is_neither_http_nor_tls_is_no_plain_http(
    wire: Wire, authority: Authority, sent: bytes
) -> None:
    """Nobody there reads an answer: it is closed."""
    app = await wire.app()
    await app.send(sent)
    app.writer.write_eof()
    await gone(app)
    assert HandshakeFailure.PLAIN_HTTP not in wire.proxy.acceptors.stats.handshakes_failed
    await wire.turn(lambda: sum(wire.proxy.acceptors.stats.handshakes_failed.values()) == 1)


REFUSED = [
    pytest.param(b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="before-a-request"),
    pytest.param(
        b"POST /x HTTP/1.1\r\nHost: nobody.internal\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000),
        404,
        id="with-its-body-on-the-way",
    ),
    pytest.param(GET.replace(b"/x HTTP", b"/x\x00 HTTP") + GET, 400, id="with-another-behind-it"),
]


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
@pytest.mark.parametrize(("sent", "status"), REFUSED)
async def test_a_refusal_ends_the_connection_at_once_and_in_order(
    wire: Wire, authority: Authority, sent: bytes, status: int, tls: bool
) -> None:
    """The answer, close_notify and FIN, without waiting for the client to leave; what it still sends is taken and dropped,
    so that nothing resets the answer away (RFC 9112 section 9.6)."""
    if not tls:
        wire.proxy.reassign(wire.bound, None, PLAIN)
    app = await secure(wire, client(authority)) if tls else await wire.app()
    app.writer.write(sent)
    assert (await app.answer()).status == status
    assert await app.rest() == b""
    assert wire.upstream.waiting == 0
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)


async def test_a_client_that_ignores_the_end_is_closed_after_a_moment(
    wire: Wire, authority: Authority
) -> None:
    """It has had the answer: two seconds later the connection goes, whatever it sends."""
    context = client(authority)
    sock = socket.create_connection(("127.0.0.1", wire.port), timeout=LIMIT)

    def ask() -> bytes:
        secured = context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)
        secured.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        data = b""
        while piece := secured.recv(4096):
            data += piece
        secured.sendall(b"x" * 1000)
        held.append(secured)
        return data

    held: list[ssl.SSLSocket] = []
    assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 400 ")
    assert wire.proxy.connections == 1
    wire.clock.advance(3.0)
    await wire.turn(lambda: not wire.proxy.connections)
    held[0].close()


async def test_a_slow_handshake_ends_with_its_time(wire: Wire, authority: Authority) -> None:
    """`limits.head_timeout`; meanwhile it counts among the open connections, and others are served."""
    silent = await wire.app()
    await wire.turn(lambda: wire.proxy.acceptors.arriving == 1)
    other = await secure(wire, client(authority))
    wire.clock.advance(9.9)
    await wire.yield_()
    assert wire.proxy.acceptors.arriving == 1
    wire.clock.advance(0.2)
    assert await silent.rest() == b""
    await wire.turn(lambda: wire.proxy.acceptors.arriving == 0)
    assert wire.proxy.acceptors.stats.handshakes_failed == {HandshakeFailure.TIMEOUT: 1}
    await other.close()


async def test_a_slow_handshake_holds_its_place_at_the_limit(wire: Wire, authority: Authority) -> None:
    """Else a flood of them would pass every limit."""
    wire.proxy.acceptors.set_limits(limit=1, handshake=10.0)
    silent = await wire.app()
    await wire.turn(lambda: wire.proxy.acceptors.arriving == 1)
    async with asyncio.TaskGroup() as both:
        opening = both.create_task(secure(wire, client(authority)))
        await wire.turn(lambda: wire.proxy.acceptors.stats.paused)
        await silent.close()
    await opening.result().close()


def _old(context: ssl.SSLContext) -> None:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")


def _other_authority(context: ssl.SSLContext) -> None:
    context.load_verify_locations(cadata=Authority().pem.decode())


def _other_authority_1_2(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _other_authority(context)


FAILURES = [
    pytest.param(
        _old, HandshakeFailure.PROTOCOL, id="an-old-version", marks=pytest.mark.filterwarnings("ignore")
    ),
    pytest.param(_other_authority_1_2, HandshakeFailure.REJECTED, id="the-client-does-not-trust-it"),
    pytest.param(_other_authority, HandshakeFailure.REJECTED, id="the-same-in-1.3"),
]


@pytest.mark.parametrize(("change", "reason"), FAILURES)
async def test_failures_are_counted_by_reason(
    wire: Wire,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[ssl.SSLContext], None],
    reason: HandshakeFailure,
) -> None:
    """And logged for nobody but who debugs, with the listener; the next caller is served."""
    caplog.set_level("DEBUG", "sidecar.proxy.handshakes")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    change(context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await blocking(wire, context)
    await wire.turn(lambda: wire.proxy.acceptors.stats.handshakes_failed == {reason: 1})
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    assert failed_handshakes(caplog) == [{"reason": str(reason), "listen": str(wire.bound)}]
    await (await secure(wire, client(authority))).close()


def failed_handshakes(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What the log says of each."""
    records = (record for record in caplog.records if record.message.startswith("TLS handshake failed"))
    return [record.__dict__["fields"] for record in records]


LATE = [
    pytest.param("tlsv1 alert unknown ca", False, {HandshakeFailure.REJECTED: 1}, id="refused"),
    pytest.param("tlsv1 alert unknown ca", True, {}, id="an-alert-after-a-request"),
]


@pytest.mark.parametrize(("alert", "asked", "counted"), LATE)
async def test_a_client_may_refuse_the_certificate_after_the_handshake(
    wire: Wire,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    alert: str,
    asked: bool,
    counted: dict[HandshakeFailure, int],
) -> None:
    """Those that look at it only then, as GnuTLS has programs do; before the first request it counts as a failed
    handshake. What OpenSSL tells is made up here: none of the clients at hand does so."""
    caplog.set_level("DEBUG", "sidecar.proxy.handshakes")
    app = await secure(wire, client(authority))
    if asked:
        await app.send(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        await upstream.send(OK)
        await app.answer()
    await wire.turn(lambda: wire.proxy.connections)
    (connection,) = wire.proxy.serving
    connection.transport._fail(ssl.SSLError(1, f"[SSL] {alert} (_ssl.c:2580)"))  # type: ignore[attr-defined]
    await wire.turn(lambda: not wire.proxy.connections)
    assert wire.proxy.acceptors.stats.handshakes_failed == counted
    assert [told["listen"] for told in failed_handshakes(caplog)] == [str(wire.bound)] * len(counted)
    await app.close()


async def test_a_caller_that_leaves_in_the_handshake_is_counted(wire: Wire, authority: Authority) -> None:
    """By end or by reset."""
    polite, rude = await wire.app(), await wire.app()
    await polite.send(b"\x16\x03\x01")
    await wire.turn(lambda: wire.proxy.acceptors.arriving == 2)
    await polite.close()
    rude.reset()
    await wire.turn(lambda: wire.proxy.acceptors.stats.handshakes_failed == {HandshakeFailure.CLOSED: 2})


async def test_a_cut_answer_does_not_look_whole(wire: Wire, authority: Authority) -> None:
    """To an HTTP/1.0 client the end of the connection ends the body: here no close_notify may come."""
    app = await secure(wire, client(authority))
    await app.send(b"GET /x HTTP/1.0\r\nHost: billing.internal\r\n\r\n")
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await app.read_until(b"abc")
    await upstream.close()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await app.rest()


async def test_from_http_to_https_and_back(wire: Wire, authority: Authority) -> None:
    """Connections of the other kind end with their answer, new ones are of the new kind; the socket stays."""
    app = await secure(wire, client(authority))
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    wire.proxy.reassign(wire.bound, None, PLAIN)
    await upstream.send(OK)
    assert (await app.answer()).headers["connection"] == "close"
    plain = await wire.app()
    await plain.send(GET)
    await upstream.read_head()
    await upstream.send(OK)
    assert (await plain.answer()).status == 200
    await app.close()


async def test_other_client_certificates_end_the_connections_that_are_open(
    wire: Wire, authority: Authority, tmp_path: Path
) -> None:
    """They showed none, or others; another certificate of the listener's own ends none."""
    app = await secure(wire, client(authority))
    again = files(tmp_path, authority)
    (tmp_path / "other").mkdir()
    other = files(tmp_path / "other", authority)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    ends_of = {other: False, again.model_copy(update={"client_ca_file": str(ca)}): True}
    await app.send(GET)
    upstream = await wire.upstream.accept()
    for settings, ends in ends_of.items():
        if ends:
            await app.send(GET)
        await upstream.read_head()
        wire.proxy.reassign(wire.bound, None, Settings(certificate=Certificate(settings)))
        await upstream.send(OK)
        assert ("connection" in (await app.answer()).headers) is ends
    await app.close()


# files


def test_a_broken_pair_leaves_the_old_one_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning that says what is wrong; when it is fixed, the new one counts."""
    settings = files(tmp_path, Authority())
    certificate = Certificate(settings)
    old = certificate.context
    assert certificate.expires_at is not None
    Path(settings.cert_file).write_text("not PEM")
    certificate.read_again()
    assert (certificate.context is old, certificate.is_current) == (True, False)
    assert "the old one stays in force" in caplog.text
    files(tmp_path, Authority())
    certificate.read_again()
    assert (certificate.context is old, certificate.is_current) == (False, True)


def test_a_key_that_all_can_read_may_be_used_on_request(tmp_path: Path) -> None:
    """`allow_world_readable`, as for other key files."""
    settings = files(tmp_path, Authority(), allow_world_readable=True)
    Path(settings.key_file).chmod(0o644)
    Certificate(settings)


@pytest.mark.parametrize("known", [True, False], ids=["its-certificate", "no-certificate"])
async def test_a_client_certificate_can_be_asked_for(wire: Wire, tmp_path: Path, known: bool) -> None:
    """`client_ca_file`: who shows none, or another's, gets no further than the handshake."""
    made = Authority()
    await wire.start()
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", tmp_path / "c.key", "-out", tmp_path / "c.pem", "-subj", "/CN=app", "-days", "2"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    settings = files(tmp_path, made, client_ca_file=str(tmp_path / "c.pem"))
    wire.proxy.reassign(wire.bound, None, Settings(certificate=Certificate(settings)))
    context = client(made)
    if known:
        context.load_cert_chain(tmp_path / "c.pem", tmp_path / "c.key")
        app = await secure(wire, context)
        await app.send(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        await upstream.send(OK)
        assert (await app.answer()).status == 200
        await app.close()
        return
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await blocking(wire, context)
    failed = wire.proxy.acceptors.stats.handshakes_failed
    await wire.turn(lambda: failed == {HandshakeFailure.CLIENT_CERTIFICATE: 1})


async def test_an_https_target_is_for_https_listeners(wire: Wire, authority: Authority) -> None:
    """A client that takes the listener for its proxy may name the https URL there, and there alone."""
    target = b"GET https://billing.internal/x HTTP/1.1\r\nHost: billing.internal\r\n\r\n"
    app = await secure(wire, client(authority))
    await app.send(target)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    await app.close()
    wire.proxy.reassign(wire.bound, None, PLAIN)
    plain = await wire.app()
    await plain.send(target)
    assert (await plain.answer()).status == 400


@pytest.mark.parametrize("same", [False, True], ids=["another-ca", "the-same-ca"])
async def test_a_client_whose_ca_is_trusted_no_more_is_served_no_more(
    wire: Wire, tmp_path: Path, *, same: bool
) -> None:
    """Its open connection ends within a second of the file's change, with its answer; new files of the same CA end none."""
    made, clients = openssl.authority("a CA"), openssl.authority("clients")
    server, app_s = openssl.issue(made), openssl.issue(clients)
    ca = openssl.write(tmp_path / "clients.pem", clients.pem)
    settings = ListenerTls(
        cert_file=str(openssl.write(tmp_path / "cert.pem", server.pem)),
        key_file=str(openssl.write(tmp_path / "key.pem", server.key_pem)),
        client_ca_file=str(ca),
    )
    certificate = Certificate(settings)
    await wire.start()
    wire.proxy.reassign(wire.bound, None, Settings(certificate=certificate))
    context = ssl.create_default_context(cafile=openssl.write(tmp_path / "ca.pem", made.pem))
    context.load_cert_chain(openssl.write(tmp_path / "app.pem", app_s.pem, app_s.key_pem))
    busy, idle = await secure(wire, context), await secure(wire, context)
    upstream = None
    for app in (idle, busy):
        await app.send(GET)
        upstream = upstream or await wire.upstream.accept()
        await upstream.read_head()
        if app is idle:
            await upstream.send(OK)
            await app.answer()
    assert upstream is not None
    raw = socket.create_connection(("127.0.0.1", wire.port))
    await wire.turn(lambda: wire.proxy.acceptors.arriving)
    for _ in range(3):
        await asyncio.sleep(0)  # its task takes the context that is there
    openssl.write(ca, (clients if same else openssl.authority("others")).pem)
    certificate.read_again()
    wire.clock.advance(1.1)
    await upstream.send(OK)
    assert ("connection" in (await busy.answer()).headers) is not same
    if same:
        for app in (idle, busy):
            await app.send(GET)
            await upstream.read_head()
            await upstream.send(OK)
            assert (await app.answer()).status == 200
    else:
        assert [await app.rest() for app in (busy, idle)] == [b"", b""]
        # Its handshake began before: it was judged by the old one, too.
        late = End(*await asyncio.open_connection(sock=raw, ssl=context, server_hostname="localhost"))
        await late.send(GET)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert await late.rest() == b""
        await late.close()
        assert wire.upstream.waiting == 0
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await blocking(wire, context)
    for app in (idle, busy):
        await app.close()
    raw.close()
