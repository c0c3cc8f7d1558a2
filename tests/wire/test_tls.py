"""What the app is told when TLS to the upstream fails: each way has its reason; against OpenSSL's own server"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support import openssl
from tests.support.closing import close_server
from tests.support.openssl import Issued, authority, issue, revocations, write
from tests.support.wire import GET, Answer, End, Wire

TRUSTED = authority("trusted root")
MIDDLE = authority("middle", TRUSTED)
STRANGER = authority("a stranger's root")
GOOD = issue(TRUSTED)


class Shown(NamedTuple):
    """What the server shows, and how it is started."""

    certificate: Issued = GOOD
    chain: Iterable[Issued] = ()
    options: Iterable[str] = ()
    client: Issued | None = None
    crl: bytes = b""


def _below(*above: Issued) -> Shown:
    """A certificate issued by the first of `above`, all of which the server sends."""
    return Shown(issue(above[0]), above)


NO_CA = authority("no CA", TRUSTED, really=False)
NOT_TWO = authority("one level only", TRUSTED, below=0)
TOO_DEEP = authority("a level too deep", NOT_TWO)
FORGED = Issued(MIDDLE.certificate, authority("another key").key)
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505  # that is what is tested
MUTUAL = ("-Verify", "1", "-verify_return_error", "-CAfile", "ca.pem")
OLD = issue(TRUSTED, days=(-10, -1))

CASES: dict[str, tuple[Shown, str, str, str]] = {
    # what is shown, reason, Proxy-Status, what the sentence names
    "expired": (
        Shown(OLD),
        "tls_certificate_expired",
        "tls_certificate_error",
        "clock says Fri, 15 Jan 2027",
    ),
    "not-yet-valid": (
        Shown(issue(TRUSTED, days=(900, 999))),
        *("tls_certificate_not_yet_valid", "tls_certificate_error", "is not valid before"),
    ),
    "wrong-name": (
        Shown(issue(TRUSTED, ("other.example", "*.third.example"))),
        *(
            "tls_wrong_name",
            "tls_certificate_error",
            "not for `localhost` but for `other.example`, `*.third.example`",
        ),
    ),
    "no-name": (Shown(issue(TRUSTED, ())), "tls_wrong_name", "tls_certificate_error", "has no names at all"),
    "name-as-common-name": (
        Shown(issue(TRUSTED, (), subject="localhost")),
        *("tls_wrong_name", "tls_certificate_error", "has no names at all"),
    ),
    **{
        f"name-{name}": (
            Shown(issue(TRUSTED, (name,))),
            *("tls_wrong_name", "tls_certificate_error", f"but for `{name}`"),
        )
        for name in ("*", "l*", "*host", "local*st", "*.localhost", "localhost.", "127.0.0.1")
    },
    "name-with-nul": (
        Shown(issue(TRUSTED, ("localhost\0.evil.example",))),
        *("tls_wrong_name", "tls_certificate_error", "not for `localhost`"),
    ),
    "thousands-of-names": (
        Shown(issue(TRUSTED, tuple(f"{n}.evil.example" for n in range(3000)))),
        *("tls_wrong_name", "tls_certificate_error", "`4.evil.example` and 2995 more"),
    ),
    "self-signed": (Shown(issue(None)), "tls_self_signed", "tls_certificate_error", "`tls.ca_file`"),
    "unknown-ca": (
        Shown(issue(STRANGER)),
        *("tls_unknown_ca", "tls_certificate_error", "issued by `a stranger's root`"),
    ),
    "unknown-ca-sent-along": (
        _below(STRANGER),
        *("tls_unknown_ca", "tls_certificate_error", "add its certificate to that file"),
    ),
    "intermediate-not-sent": (
        Shown(issue(MIDDLE)),
        *("tls_unknown_ca", "tls_certificate_error", "have the server send its certificate too"),
    ),
    "issuer-is-no-ca": (_below(NO_CA), "tls_bad_chain", "tls_certificate_error", "invalid CA certificate"),
    "path-too-long": (_below(TOO_DEEP, NOT_TWO), "tls_bad_chain", "tls_certificate_error", "path length"),
    "signature-of-another": (
        Shown(issue(FORGED), (MIDDLE,)),
        *("tls_bad_chain", "tls_certificate_error", "is not valid"),
    ),
    "weak-key": (
        Shown(issue(TRUSTED, key=WEAK), options=("-cipher", "DEFAULT@SECLEVEL=0")),
        *("tls_bad_chain", "tls_certificate_error", "key too weak"),
    ),
    "tls-1.1": (
        Shown(options=("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")),
        *("tls_protocol_too_old", "tls_protocol_error", "does not support TLS 1.2 or newer"),
    ),
    "tls-1.0": (
        Shown(options=("-tls1", "-cipher", "DEFAULT@SECLEVEL=0")),
        *("tls_protocol_too_old", "tls_protocol_error", "does not support TLS 1.2 or newer"),
    ),
    "no-cipher-1.2": (
        Shown(options=("-tls1_2", "-cipher", "ECDHE-ECDSA-CAMELLIA128-SHA256")),
        *(
            "tls_no_common_cipher",
            "tls_alert_received; alert-id=40; alert-message=handshake_failure",
            "cipher suite",
        ),
    ),
    "no-cipher-1.3": (
        Shown(options=("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256")),
        *(
            "tls_no_common_cipher",
            "tls_alert_received; alert-id=40; alert-message=handshake_failure",
            "cipher suite",
        ),
    ),
    "no-group": (
        Shown(options=("-groups", "brainpoolP256r1")),
        *(
            "tls_no_common_cipher",
            "tls_alert_received; alert-id=40; alert-message=handshake_failure",
            "group",
        ),
    ),
    "client-certificate-wanted-1.2": (
        Shown(options=("-tls1_2", *MUTUAL)),
        *(
            "tls_client_certificate_missing",
            "tls_alert_received; alert-id=40; alert-message=handshake_failure",
        ),
        "`tls.client_cert_file`",
    ),
    "client-certificate-wanted-1.3": (
        Shown(options=("-tls1_3", *MUTUAL)),
        *(
            "tls_client_certificate_missing",
            "tls_alert_received; alert-id=116; alert-message=certificate_required",
        ),
        "`tls.client_cert_file`",
    ),
    "client-certificate-of-a-stranger-1.2": (
        Shown(options=("-tls1_2", *MUTUAL), client=issue(STRANGER)),
        *("tls_client_certificate_refused", "tls_alert_received; alert-id=48; alert-message=unknown_ca"),
        "alert `unknown_ca`",
    ),
    "client-certificate-of-a-stranger-1.3": (
        Shown(options=("-tls1_3", *MUTUAL), client=issue(STRANGER)),
        *("tls_client_certificate_refused", "tls_alert_received; alert-id=48; alert-message=unknown_ca"),
        "alert `unknown_ca`",
    ),
    "client-certificate-expired-1.3": (
        Shown(options=("-tls1_3", *MUTUAL), client=OLD),
        *(
            "tls_client_certificate_refused",
            "tls_alert_received; alert-id=45; alert-message=certificate_expired",
        ),
        "alert `certificate_expired`",
    ),
    "name-not-served": (
        Shown(
            options=("-servername", "x", "-servername_fatal", "-cert2", "shown.pem", "-key2", "shown-key.pem")
        ),
        *(
            "tls_alert",
            "tls_alert_received; alert-id=112; alert-message=unrecognized_name",
            "`tls.server_name`",
        ),
    ),
    "only-h2": (
        Shown(options=("-alpn", "h2")),
        *("tls_alert", "tls_alert_received; alert-id=120; alert-message=no_application_protocol"),
        "alert `no_application_protocol`",
    ),
}


LISTED = {
    "revoked": (Shown(crl=revocations(TRUSTED, [GOOD])), "tls_revoked", "`tls.crl_file`"),
    "revoked-above": (
        Shown(issue(MIDDLE), (MIDDLE,), crl=revocations(MIDDLE) + revocations(TRUSTED, [MIDDLE])),
        *("tls_revoked", "a CA above it"),
    ),
    "list-is-old": (Shown(crl=revocations(TRUSTED, days=(-9, -1))), "tls_crl_unusable", "CRL has expired"),
    "list-of-another-ca": (
        Shown(crl=revocations(STRANGER)),
        "tls_crl_unusable",
        "unable to get certificate CRL",
    ),
    "list-of-one-ca-of-two": (
        Shown(issue(MIDDLE), (MIDDLE,), crl=revocations(MIDDLE)),
        *("tls_crl_unusable", "unable to get certificate CRL"),
    ),
    "list-forged": (
        Shown(crl=revocations(Issued(TRUSTED.certificate, STRANGER.key))),
        *("tls_crl_unusable", "can't be told"),
    ),
}


@pytest.mark.parametrize("case", LISTED)
async def test_a_revocation_list_is_heeded(wire: Wire, tmp_path: Path, case: str) -> None:
    """Of each CA in the chain; where there is none to ask, the certificate is refused."""
    shown, reason, says = LISTED[case]
    write(tmp_path / "ca.pem", TRUSTED.pem)
    write(tmp_path / "crl.pem", shown.crl)
    async with openssl.s_server(tmp_path, shown.certificate, chain=tuple(shown.chain)) as server:
        answer = await ask(wire, tmp_path, server.port, tls=f", crl_file: {tmp_path}/crl.pem")
    assert (answer.status, answer.reason) == (502, reason)
    assert says in answer.body.decode()
    assert "error=tls_certificate_error;" in answer.headers["proxy-status"]


@pytest.mark.parametrize(
    ("crl", "check"),
    [
        pytest.param(revocations(MIDDLE) + revocations(TRUSTED), "chain", id="chain"),
        pytest.param(revocations(MIDDLE), "leaf", id="leaf"),
    ],
)
async def test_what_no_list_names_is_good(wire: Wire, tmp_path: Path, crl: bytes, check: str) -> None:
    """`crl_check: leaf` asks for the list of the certificate's own CA only."""
    write(tmp_path / "ca.pem", TRUSTED.pem)
    write(tmp_path / "crl.pem", crl)
    async with openssl.s_server(tmp_path, issue(MIDDLE), chain=(MIDDLE,)) as server:
        answer = await ask(
            wire, tmp_path, server.port, tls=f", crl_file: {tmp_path}/crl.pem, crl_check: {check}"
        )
    assert answer.status == 200


BARE = authority("as openssl req -x509 makes it", usage=False)


@pytest.mark.parametrize(
    ("ca", "shown"),
    [
        pytest.param(BARE, Shown(issue(BARE)), id="no-key-usage"),
        pytest.param(MIDDLE, Shown(issue(MIDDLE)), id="an-intermediate-alone"),
        pytest.param(GOOD, Shown(GOOD), id="the-very-certificate"),
    ],
)
async def test_what_ca_file_may_hold_depends_on_no_version_of_python(
    wire: Wire, tmp_path: Path, ca: Issued, shown: Shown
) -> None:
    """Whatever is in it is trusted: the flags that Python sets by itself are others from 3.13 on."""
    write(tmp_path / "ca.pem", ca.pem)
    async with openssl.s_server(tmp_path, shown.certificate, chain=tuple(shown.chain)) as server:
        answer = await ask(wire, tmp_path, server.port)
    assert answer.status == 200, answer.body


async def ask(
    wire: Wire, tmp_path: Path, port: int, *, client: Issued | None = None, tls: str = ""
) -> Answer:
    """One request over TLS to that port."""
    if client is not None:
        write(tmp_path / "client.pem", client.pem)
        write(tmp_path / "client-key.pem", client.key_pem)
        tls += f", client_cert_file: {tmp_path}/client.pem, client_key_file: {tmp_path}/client-key.pem"
    route = f"tls: {{ca_file: {tmp_path}/ca.pem{tls}}}"
    await wire.start(route, upstream=f"https://localhost:{port}")
    app = await wire.app()
    await app.send(GET)
    return await app.answer()


@pytest.mark.parametrize("case", CASES)
async def test_every_way_to_fail_has_its_reason(wire: Wire, tmp_path: Path, case: str) -> None:
    """502, a reason of its own, the type and alert of RFC 9209, and a sentence that says what to do."""
    shown, reason, proxy_status, says = CASES[case]
    write(tmp_path / "ca.pem", TRUSTED.pem)
    async with openssl.s_server(
        tmp_path, shown.certificate, *shown.options, chain=tuple(shown.chain)
    ) as server:
        answer = await ask(wire, tmp_path, server.port, client=shown.client)
    assert (answer.status, answer.reason) == (502, reason)
    assert answer.headers["proxy-status"] == f'idtoken-sidecar; error={proxy_status}; details="{reason}"'
    assert says in answer.body.decode()
    assert f"localhost:{server.port}" in answer.body.decode()


class Plain:
    """A TCP server that answers whatever comes in its own way."""

    def __init__(self, act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        self._act = act

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._act, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        await close_server(self._server)


def saying(data: bytes, *, reset: bool = False) -> Plain:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if reset:
            End(reader, writer).reset()
        else:
            writer.write(data)
            writer.close()

    return Plain(act)


NO_TLS = {
    "plain-http": (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "tls_not_spoken", "tls_protocol_error"),
    "ssh": (saying(b"SSH-2.0-OpenSSH_9.2\r\n"), "tls_not_spoken", "tls_protocol_error"),
    "closed": (saying(b""), "tls_closed", "connection_terminated"),
    "reset": (saying(b"", reset=True), "tls_closed", "connection_terminated"),
    "cut-in-a-record": (saying(b"\x16\x03\x03\x00\x40\x02"), "tls_closed", "connection_terminated"),
    "no-handshake-record": (saying(b"\x17\x03\x03\x00\x02xx"), "tls_failed", "tls_protocol_error"),
}


@pytest.mark.parametrize("case", NO_TLS)
async def test_what_is_no_tls_has_its_reason(wire: Wire, tmp_path: Path, case: str) -> None:
    """Another protocol, or an end, in place of a handshake."""
    server, reason, proxy_status = NO_TLS[case]
    write(tmp_path / "ca.pem", TRUSTED.pem)
    async with server as port:
        answer = await ask(wire, tmp_path, port)
    assert (answer.status, answer.reason) == (502, reason)
    assert f"error={proxy_status};" in answer.headers["proxy-status"]


@pytest.mark.parametrize("served", [0, 1], ids=["first-request", "second-request"])
async def test_renegotiation_is_refused(wire: Wire, tmp_path: Path, served: int) -> None:
    """A server that asks for a new handshake before it answers gets none; nothing is sent twice for it but a GET."""
    write(tmp_path / "ca.pem", TRUSTED.pem)
    async with openssl.s_server(tmp_path, GOOD, "-tls1_2", "-crlf", page=False) as server:
        await wire.start(f"tls: {{ca_file: {tmp_path}/ca.pem}}", upstream=f"https://localhost:{server.port}")
        app = await wire.app()
        for number in range(served):
            await app.send(
                b"POST /%d HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 0\r\n\r\n" % number
            )
            await server.until(b"POST /%d" % number)
            server.type(b"HTTP/1.1 204 No Content\n\n")
            assert (await app.answer()).status == 204
        await app.send(b"POST /last HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 0\r\n\r\n")
        await server.until(b"POST /last")
        server.type(b"R\n")
        answer = await app.answer()
    assert (answer.status, answer.reason) == (502, "tls_renegotiation")
    assert "error=tls_protocol_error;" in answer.headers["proxy-status"]


async def test_renegotiation_in_mid_answer_cuts_it(wire: Wire, tmp_path: Path) -> None:
    """The app sees that the answer is not whole; the reason is in the metric."""
    write(tmp_path / "ca.pem", TRUSTED.pem)
    async with openssl.s_server(tmp_path, GOOD, "-tls1_2", "-crlf", page=False) as server:
        await wire.start(f"tls: {{ca_file: {tmp_path}/ca.pem}}", upstream=f"https://localhost:{server.port}")
        app = await wire.app()
        await app.send(GET)
        await server.until(b"GET /x")
        server.type(b"HTTP/1.1 200 OK\nContent-Length: 100\n\nhalf\n")
        await app.read_until(b"half")
        server.type(b"R\n")
        with suppress(ConnectionResetError):
            await app.rest()
    await wire.turn(lambda: not wire.stats.in_flight)
    assert wire.stats.requests == {("GET", 200): 1}
    assert [group.reason for group in wire.proxy.ledger.outages.errors()] == ["tls_renegotiation"]
