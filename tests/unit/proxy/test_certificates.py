"""sidecar.proxy.certificates: when they are read again; which files can be used is in tests/wire/test_listener_tls.py"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from sidecar.config.listeners import ListenerTls
from sidecar.proxy.certificates import Certificate, Certificates
from sidecar.tokens.file_watch import EVERY
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


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_when_it_expires_is_known(files: Files) -> None:
    """For the metric; where the file can't be read by then, nothing is claimed."""
    issued = files.put(issue(files.authority, days=(-1, 7)))
    certificate = Certificate(files.settings)
    assert certificate.expires_at == issued.certificate.not_valid_after_utc.timestamp()


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
    assert "is not the key of the certificate" in caplog.records[-1].fields["detail"]  # type: ignore[attr-defined]
    replace(files.key, new.key_pem)
    certificates.look()
    assert certificate.is_current
    assert certificate.context is not first
    assert certificate.expires_at == new.certificate.not_valid_after_utc.timestamp()
    assert list(certificates.readings()) == [certificate]
    second = certificate.context
    certificates.read_again()
    assert certificate.context is not second
    certificates.stop()
    assert clock.pending == []
