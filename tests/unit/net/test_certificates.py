"""sidecar.net.certificates: which files can be used, and when they are read again"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from sidecar.config.listeners import ListenerTls
from sidecar.net.certificates import Certificate, Certificates, why
from sidecar.runtime.file_watch import EVERY
from tests.support.clock import FakeClock
from tests.support.openssl import Issued, authority, issue


class Files:
    """A certificate and its key in two files."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.authority = authority("ca")
        self.put(issue(self.authority, days=(-1, 10)))
        self.settings = ListenerTls(cert_file=str(self.cert), key_file=str(self.key))

    def put(self, issued: Issued) -> Issued:
        replace(self.cert, issued.pem)
        replace(self.key, issued.key_pem)
        return issued


def replace(file: Path, data: bytes, mode: int = 0o600) -> None:
    """Another file in its place, as those who renew certificates write them."""
    new = file.with_name("new")
    new.write_bytes(data)
    new.chmod(mode)
    os.replace(new, file)


def told(caplog: pytest.LogCaptureFixture) -> tuple[str, str, object]:
    """The last entry of the log."""
    record = caplog.records[-1]
    return record.levelname, record.message, record.fields  # type: ignore[attr-defined]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_when_it_expires_is_known(files: Files) -> None:
    """For the metric; where the file can't be read by then, nothing is claimed."""
    issued = files.put(issue(files.authority, days=(-1, 7)))
    certificate = Certificate(files.settings)
    assert certificate.expires_at == issued.certificate.not_valid_after_utc.timestamp()
    assert certificate.is_current


@pytest.mark.parametrize("place", ["pipe", "zero"])
@pytest.mark.parametrize("key", ["cert_file", "key_file", "client_ca_file"])
def test_only_regular_files_are_read(files: Files, tmp_path: Path, key: str, place: str) -> None:
    """OpenSSL would wait for a pipe on the event loop, and read a device forever."""
    file = tmp_path / "place"
    if place == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    settings = files.settings.model_copy(update={key: str(file)})
    with pytest.raises(OSError, match="not a regular file") as caught:
        Certificate(settings)
    assert why(caught.value, settings).startswith(f"{file}: it is a ")


def test_the_context_is_a_servers_with_what_is_safe(files: Files) -> None:
    """TLS 1.2 or newer, no renegotiation, no compression, the server's choice of ciphers; a client shows nothing."""
    context = Certificate(files.settings).context
    assert context.protocol is ssl.PROTOCOL_TLS_SERVER
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for option in (ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_CIPHER_SERVER_PREFERENCE):
        assert context.options & option
    assert context.options & ssl.OP_NO_SSLv3
    assert context.verify_mode is ssl.CERT_NONE


UNUSABLE: dict[str, tuple[dict[str, str], str]] = {
    "no-certificate": ({"cert_file": "none"}, "none: No such file or directory"),
    "no-key": ({"key_file": "none"}, "none: No such file or directory"),
    "no-authority": ({"client_ca_file": "none"}, "none: No such file or directory"),
    "the-key-of-another": ({"key_file": "other"}, "other is not the key of the certificate in cert.pem"),
    "a-key-that-all-can-read": (
        {"key_file": "open"},
        "open: every user of this machine can read it: `chmod o-r open`, for a Kubernetes secret `defaultMode: 0440` and the pod's `fsGroup`; "
        "or set `allow_world_readable: true`",
    ),
    "an-encrypted-key": ({"key_file": "locked"}, "the key is encrypted: give one without a passphrase"),
    "no-pem": ({"cert_file": "text"}, "one of text, key.pem is not what it should be in PEM"),
    "an-authority-that-is-no-pem": (
        {"client_ca_file": "text"},
        "one of cert.pem, key.pem, text is not what it should be in PEM (NO_CERTIFICATE_OR_CRL_FOUND)",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_files_that_cannot_be_used_are_named_with_what_is_wrong(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Each with its own words, and no question on the terminal for a password."""
    monkeypatch.chdir(tmp_path)
    change, message = UNUSABLE[case]
    other = issue(files.authority)
    replace(Path("other"), other.key_pem)
    replace(Path("open"), files.key.read_bytes(), 0o644)
    replace(Path("text"), b"hello")
    replace(
        Path("locked"),
        other.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        ),
    )
    settings = ListenerTls.model_validate({"cert_file": "cert.pem", "key_file": "key.pem"} | change)
    with pytest.raises((OSError, ValueError)) as raised:
        Certificate(settings)
    assert isinstance(raised.value, OSError | ValueError)
    assert why(raised.value, settings) == message


def no_reason() -> ssl.SSLError:
    """As OpenSSL's errors are where it names none."""
    error = ssl.SSLError(1, "odd")
    error.reason = ""
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(OSError(5, "Input/output error"), "cert.pem, key.pem: Input/output error", id="no-name"),
        pytest.param(OSError("odd"), "cert.pem, key.pem: odd", id="no-number"),
        pytest.param(no_reason(), "one of cert.pem, key.pem is not what it should be in PEM", id="no-reason"),
    ],
)
def test_an_error_that_says_little_is_told_with_all_files(error: OSError, message: str) -> None:
    """One of them it was."""
    assert why(error, ListenerTls(cert_file="cert.pem", key_file="key.pem")) == message


def test_a_changed_file_is_read_again(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """New connections get what is there; a file that can't be used leaves the old one in force, says so, and is taken
    once it is whole."""
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    certificates = Certificates(clock)
    found = certificates.read([files.settings])
    certificates.adopt(found)
    certificate = found[files.settings]
    assert certificates.read([files.settings]) == found
    first = certificate.context
    new = issue(files.authority, days=(-1, 20))
    replace(files.cert, new.pem)
    clock.advance(EVERY)
    assert certificate.context is first
    assert not certificate.is_current
    assert told(caplog) == (
        "WARNING",
        "the listener's certificate could not be read again: the old one stays in force "
        f"({files.key} is not the key of the certificate in {files.cert})",
        {
            "cert_file": str(files.cert),
            "detail": f"{files.key} is not the key of the certificate in {files.cert}",
        },
    )
    replace(files.key, new.key_pem)
    certificates.look()
    assert certificate.is_current
    assert told(caplog) == (
        "INFO",
        f"the listener's certificate was read again: {files.cert}",
        {"cert_file": str(files.cert)},
    )
    assert certificate.context is not first
    assert certificate.expires_at == new.certificate.not_valid_after_utc.timestamp()
    assert list(certificates.readings()) == [certificate]
    second = certificate.context
    certificates.read_again()
    assert certificate.context is not second


def test_a_file_that_changes_before_its_certificate_is_adopted(files: Files) -> None:
    """Another configuration is judged for seconds between: at the next look its certificate is read again."""
    clock = FakeClock()
    certificates = Certificates(clock)
    found = certificates.read([files.settings])
    certificate = found[files.settings]
    first = certificate.context
    new = issue(files.authority, days=(-1, 20))
    replace(files.cert, new.pem)
    replace(files.key, new.key_pem)
    certificates.adopt(found)
    clock.advance(EVERY)
    assert certificate.context is not first
    second = certificate.context
    clock.advance(EVERY)
    assert certificate.context is second
    certificates.stop()
    assert clock.pending == []


@pytest.mark.parametrize("which", ["cert", "key", "ca"])
def test_a_pipe_is_not_waited_for(files: Files, which: str) -> None:
    """Opening one that nobody writes to would stop the event loop; it is refused, at start and later."""
    settings = files.settings.model_copy(update={"client_ca_file": str(files.cert.with_name("ca.pem"))})
    ca = Path(str(settings.client_ca_file))
    replace(ca, files.authority.pem)
    certificate = Certificate(settings)
    file = {"cert": files.cert, "key": files.key, "ca": ca}[which]
    file.unlink()
    os.mkfifo(file, 0o600)
    before = certificate.context
    certificate.read_again()
    assert (certificate.is_current, certificate.context) == (False, before)
    with pytest.raises(OSError, match="a pipe, not a regular file") as caught:
        Certificate(settings)
    assert why(caught.value, settings) == f"{file}: it is a pipe, not a regular file"
