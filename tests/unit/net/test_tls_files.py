"""sidecar.net.tls_files"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from sidecar.config.groups import Tls
from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.net.tls_files import Contexts, make_context
from sidecar.routing.routes import Route, RouteTable
from sidecar.runtime.trust import for_upstreams
from tests.support.clock import FakeClock
from tests.support.openssl import authority, issue, revocations, write

CA = authority("a CA")
CLIENT = issue(CA)
ENCRYPTED = CLIENT.key.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"secret"),
)


def open_key(directory: Path) -> Tls:
    write(directory / "key", CLIENT.key_pem).chmod(0o644)
    return Tls(
        client_cert_file=str(write(directory / "cert", CLIENT.pem)), client_key_file=str(directory / "key")
    )


def pair(directory: Path, certificate: bytes | None, key: bytes | None) -> Tls:
    for name, pem in (("cert", certificate), ("key", key)):
        if pem is not None:
            write(directory / name, pem)
    return Tls(client_cert_file=str(directory / "cert"), client_key_file=str(directory / "key"))


def pipe(file: Path) -> Path:
    """One that nobody writes to: opening it would wait forever."""
    os.mkfifo(file, 0o600)
    return file


def large(file: Path) -> Path:
    """More than is read while everything waits; sparse."""
    with file.open("wb") as opened:
        opened.truncate(16 * 1024 * 1024 + 1)
    return file


def labelled(label: bytes) -> bytes:
    return CA.pem.replace(b"CERTIFICATE", label)


UNUSABLE: dict[str, tuple[Callable[[Path], Tls], str]] = {
    "no-ca-file": (
        lambda d: Tls(ca_file=str(d / "ca")),
        "`tls.ca_file` cannot be used ({d}/ca): no such file or directory.",
    ),
    "ca-file-is-text": (
        lambda d: Tls(ca_file=str(write(d / "ca", b"hello"))),
        "`tls.ca_file` cannot be used ({d}/ca): it holds no certificate in PEM.",
    ),
    "no-key": (
        lambda d: pair(d, CLIENT.pem, None),
        "`tls.client_key_file` cannot be used ({d}/key): no such file or directory.",
    ),
    "no-certificate": (
        lambda d: pair(d, None, CLIENT.key_pem),
        "`tls.client_cert_file` cannot be used ({d}/cert): no such file or directory.",
    ),
    "key-is-a-directory": (
        lambda d: pair(d, CLIENT.pem, (d / "key").mkdir()),
        "`tls.client_key_file` cannot be used ({d}/key): is a directory.",
    ),
    "certificate-is-a-directory": (
        lambda d: pair(d, (d / "cert").mkdir(), CLIENT.key_pem),
        "`tls.client_cert_file` cannot be used ({d}/cert): is a directory.",
    ),
    "key-of-another": (
        lambda d: pair(d, CLIENT.pem, CA.key_pem),
        "`tls.client_cert_file` cannot be used ({d}/cert with {d}/key): the key is another certificate's.",
    ),
    "key-needs-a-password": (
        lambda d: pair(d, CLIENT.pem, ENCRYPTED),
        "`tls.client_key_file` cannot be used ({d}/key): it wants a password: use a key without one.",
    ),
    "key-is-text": (
        lambda d: pair(d, CLIENT.pem, b"hello"),
        "`tls.client_cert_file` cannot be used ({d}/cert with {d}/key): it is no PEM file of that kind.",
    ),
    "key-for-everybody": (
        open_key,
        "`tls.client_key_file` cannot be used ({d}/key): every user of this machine can read it: `chmod o-r {d}/key`, "
        "for a Kubernetes secret `defaultMode: 0440` and the pod's `fsGroup`; or set `tls.allow_world_readable: true`.",
    ),
    "no-list": (
        lambda d: Tls(crl_file=str(d / "crl")),
        "`tls.crl_file` cannot be used ({d}/crl): no such file or directory.",
    ),
    "list-is-text": (
        lambda d: Tls(crl_file=str(write(d / "crl", b"hello"))),
        "`tls.crl_file` cannot be used ({d}/crl): no certificate or crl found.",
    ),
    "ca-file-is-a-pipe": (
        lambda d: Tls(ca_file=str(pipe(d / "ca"))),
        "`tls.ca_file` cannot be used ({d}/ca): it is a pipe, not a regular file.",
    ),
    "list-is-a-pipe": (
        lambda d: Tls(crl_file=str(pipe(d / "crl"))),
        "`tls.crl_file` cannot be used ({d}/crl): it is a pipe, not a regular file.",
    ),
    "key-is-a-pipe": (
        lambda d: pair(d, CLIENT.pem, (pipe(d / "key"), None)[1]),
        "`tls.client_key_file` cannot be used ({d}/key): it is a pipe, not a regular file.",
    ),
    "list-has-no-end": (
        lambda _: Tls(crl_file="/dev/zero"),
        "`tls.crl_file` cannot be used (/dev/zero): it is a device, not a regular file.",
    ),
    "list-is-too-large": (
        lambda d: Tls(crl_file=str(large(d / "crl"))),
        "`tls.crl_file` cannot be used ({d}/crl): it is larger than 16777216 bytes.",
    ),
    "list-is-empty": (
        lambda d: Tls(crl_file=str(write(d / "crl", b""))),
        "`tls.crl_file` cannot be used ({d}/crl): no certificate or crl found.",
    ),
    "list-is-half-written": (
        lambda d: Tls(crl_file=str(write(d / "crl", revocations(CA)[:-40]))),
        "`tls.crl_file` cannot be used ({d}/crl): it is no PEM file of that kind.",
    ),
    "list-brings-a-ca-that-is-called-trusted": (
        lambda d: Tls(crl_file=str(write(d / "crl", revocations(CA), labelled(b"TRUSTED CERTIFICATE")))),
        "`tls.crl_file` cannot be used ({d}/crl): there is a certificate in it: only revocation lists belong there.",
    ),
    "list-brings-a-ca-by-an-old-name": (
        lambda d: Tls(crl_file=str(write(d / "crl", labelled(b"X509 CERTIFICATE"), revocations(CA)))),
        "`tls.crl_file` cannot be used ({d}/crl): there is a certificate in it: only revocation lists belong there.",
    ),
    "list-brings-a-ca": (
        lambda d: Tls(crl_file=str(write(d / "crl", revocations(CA), CA.pem))),
        "`tls.crl_file` cannot be used ({d}/crl): there is a certificate in it: only revocation lists belong there.",
    ),
}


@pytest.mark.parametrize("place", ["pipe", "zero", "huge"])
@pytest.mark.parametrize("key", ["ca_file", "crl_file", "client_cert_file", "client_key_file"])
def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path, key: str, place: str) -> None:
    """OpenSSL would wait for a pipe on the event loop, and read a device forever."""
    file = tmp_path / "place"
    match place:
        case "pipe":
            os.mkfifo(file)
        case "zero":
            file.symlink_to("/dev/zero")
        case "huge":
            file.touch(0o600)
            os.truncate(file, 2**40)
    files = pair(tmp_path, CLIENT.pem, CLIENT.key_pem) if key.startswith("client") else Tls()
    with pytest.raises(SidecarError, match=f"`tls.{key}` cannot be used") as caught:
        make_context(files.model_copy(update={key: str(file)}))
    assert caught.value.reason is Reason.TLS_FILES


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_said_by_key_file_and_why(tmp_path: Path, case: str) -> None:
    """And nothing of a file's contents, nor a question on the terminal for a password."""
    made, says = UNUSABLE[case]
    with pytest.raises(SidecarError) as caught:
        make_context(made(tmp_path))
    assert caught.value.reason is Reason.TLS_FILES
    assert caught.value.detail == "The route's " + says.replace("{d}", str(tmp_path))


def test_the_context_verifies_and_renegotiates_nothing(tmp_path: Path) -> None:
    """TLS 1.2 or newer; a list is heeded for the server's own certificate, or for each of the chain."""
    crl = str(write(tmp_path / "crl", revocations(CA)))
    leaf, chain = ssl.VERIFY_CRL_CHECK_LEAF, ssl.VERIFY_CRL_CHECK_CHAIN
    for settings, flags in (
        (Tls(), 0),
        (Tls(ca_file=str(write(tmp_path / "ca", CA.pem))), 0),
        (Tls(crl_file=crl, crl_check="leaf"), leaf),
        (Tls(crl_file=crl, crl_check="chain"), chain),
    ):
        context = make_context(settings)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.verify_flags & ssl.VERIFY_X509_TRUSTED_FIRST
        assert context.verify_flags & (leaf | chain) == flags


def test_a_key_for_everybody_is_used_where_that_is_wanted(tmp_path: Path) -> None:
    """As with a credential's key."""
    make_context(open_key(tmp_path).model_copy(update={"allow_world_readable": True}))


def route(ca: Path | None) -> Route:
    tls = f", tls: {{ca_file: '{ca}'}}" if ca else ""
    text = f"routes: [{{name: a, upstream: 'https://a.example'{tls}}}]"
    return RouteTable.compile(load(text, environ={}).config).routes[0]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, object]]:
    return [(record.levelname, record.message, record.fields) for record in caplog.records]  # type: ignore[attr-defined]


def test_a_change_is_found_while_dialling_and_told_by_the_next_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no connection is there, nothing looks but the dial; at most once a second, since a burst may dial often."""
    caplog.set_level(logging.INFO)
    clock, file = FakeClock(), write(tmp_path / "ca.pem", CA.pem)
    contexts, one = Contexts(clock), route(file)
    first = contexts.of(one)
    clock.advance(1.0)
    assert contexts.of(one) is first
    assert contexts.look() == []
    write(file, authority("another CA, with a longer name").pem)
    assert contexts.of(one) is first
    clock.advance(1.0)
    second = contexts.of(one)
    assert second is not first
    assert [(found.route, found.ok) for found in contexts.look()] == [(one, True)]
    assert contexts.look() == []
    assert told(caplog) == [("INFO", "changed TLS files in use by route `a`", {"route": "a"})]
    clock.advance(1.0)
    assert contexts.of(one) is second
    contexts.forget([one])
    assert contexts.of(one) is not second
    contexts.forget([one, route(None)])


def test_the_expiry_of_a_client_certificate_is_known(tmp_path: Path) -> None:
    """Of the one that is in use: not of one that could not be taken, and of none for a route without one."""
    clock = FakeClock()
    contexts = Contexts(clock)
    pair(tmp_path, CLIENT.pem, CLIENT.key_pem)
    tls = f"client_cert_file: '{tmp_path}/cert', client_key_file: '{tmp_path}/key'"
    text = f"routes: [{{name: mine, upstream: 'https://a.example', tls: {{{tls}}}}}]"
    (mine,) = RouteTable.compile(load(text, environ={}).config).routes
    assert contexts.client_expiries() == {}
    for one in (mine, route(None), route(write(tmp_path / "ca.pem", CA.pem))):
        contexts.of(one)
    first = CLIENT.certificate.not_valid_after_utc.timestamp()
    assert contexts.client_expiries() == {"mine": first}
    renewed = issue(CA, days=(-1, 20))
    assert renewed.certificate.not_valid_after_utc.timestamp() != first
    for certificate, key, expires_at in (
        (renewed.pem, CLIENT.key_pem, first),
        (renewed.pem, renewed.key_pem, renewed.certificate.not_valid_after_utc.timestamp()),
    ):
        pair(tmp_path, certificate, key)
        clock.advance(1.0)
        contexts.of(mine)
        assert contexts.client_expiries() == {"mine": expires_at}
    contexts.forget([mine])
    assert contexts.client_expiries() == {}


def test_routes_without_files_share_one_context() -> None:
    """The system's CAs take milliseconds to load, and most routes have nothing else."""
    contexts = Contexts(FakeClock())
    assert contexts.of(route(None)) is contexts.of(route(None))


def test_files_that_are_gone_are_a_change_that_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a route whose files never could be used has no context at all."""
    clock, file = FakeClock(), write(tmp_path / "ca.pem", CA.pem)
    contexts, one = Contexts(clock), route(file)
    first = contexts.of(one)
    file.unlink()
    clock.advance(1.0)
    assert contexts.of(one) is first
    assert [(found.route, found.ok) for found in contexts.look()] == [(one, False)]
    says = f"The route's `tls.ca_file` cannot be used ({file}): no such file or directory."
    clock.advance(1.0)
    assert contexts.look() == []
    assert told(caplog) == [
        (
            "WARNING",
            f"changed TLS files not used: what was read before stays (route `a`: {says})",
            {"route": "a", "reason": "tls_files", "detail": says},
        )
    ]
    with pytest.raises(SidecarError):
        contexts.of(route(file))


def environment(file: Path, clock: FakeClock) -> Contexts:
    return Contexts(clock, for_upstreams({"SSL_CERT_FILE": str(file)}))


def test_changes_of_the_top_levels_file_are_found(tmp_path: Path) -> None:
    """As those of a route's own, which goes before it; plain http has neither."""
    clock, file = FakeClock(), write(tmp_path / "top.pem", CA.pem)
    text = (
        f"ca_file: '{file}'\nroutes:\n- {{name: a, upstream: 'https://a.example'}}\n"
        f"- {{name: b, upstream: 'https://b.example', tls: {{ca_file: '{write(tmp_path / 'own.pem', CA.pem)}'}}}}\n"
        "- {name: c, upstream: 'http://localhost:1'}\n"
    )
    config = load(text, environ={}).config
    files = [route.tls.ca_file for route in config.routes]
    assert files == [str(file), str(tmp_path / "own.pem"), None]
    a, b, _ = RouteTable.compile(config).routes
    contexts = Contexts(clock)
    first = [contexts.of(route) for route in (a, b)]
    write(file, authority("another CA, with a longer name").pem)
    clock.advance(1.0)
    assert [found.route for found in contexts.look()] == [a]
    assert [contexts.of(route) is was for route, was in zip((a, b), first, strict=True)] == [False, True]


def test_changes_of_what_the_environment_names_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For all routes without a file of their own, which go on sharing one context."""
    caplog.set_level(logging.INFO)
    clock, file = FakeClock(), write(tmp_path / "ca.pem", CA.pem)
    contexts, one, other, own = environment(file, clock), route(None), route(None), route(file)
    first = contexts.of(one)
    assert contexts.of(other) is first
    mine = contexts.of(own)
    assert mine is not first
    write(file, authority("another CA, with a longer name").pem)
    clock.advance(1.0)
    found = contexts.look()
    assert {renewed.route for renewed in found} == {one, other, own}
    assert all(renewed.ok for renewed in found)
    second = contexts.of(one)
    assert second is not first
    assert contexts.of(other) is second
    contexts.forget([other, own])
    file.unlink()
    clock.advance(1.0)
    assert contexts.of(one) is second
    assert [(renewed.route, renewed.ok) for renewed in contexts.look()] == [(one, False)]
    assert f"SSL_CERT_FILE cannot be used ({file}): no such file or directory." in caplog.text


def test_what_the_environment_names_and_is_not_there_is_named(tmp_path: Path) -> None:
    """At start, where an upstream is judged by it."""
    contexts = environment(tmp_path / "gone.pem", FakeClock())
    with pytest.raises(
        SidecarError, match=r"SSL_CERT_FILE cannot be used \(.*/gone\.pem\): no such"
    ) as caught:
        contexts.of(route(None))
    assert caught.value.reason is Reason.TLS_FILES
    contexts.of(route(write(tmp_path / "ca.pem", CA.pem)))
