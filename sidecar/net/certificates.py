"""The certificates that listeners show.

Owns the server's TLS contexts: the files they are made from, and making them again when those files change. Made by
the service, read by the acceptor for each connection. The rule: a pair that can't be used at start or in a new
configuration is an error; one that can't be used later leaves the old one in force, with a warning and a metric. TLS
1.2 or newer, no renegotiation, ALPN http/1.1 (RFC 7301).
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Iterable, Mapping
from typing import final

from sidecar.config.listeners import ListenerTls
from sidecar.grammar.contents import place
from sidecar.grammar.key_files import exposed
from sidecar.runtime.clock import Clock
from sidecar.runtime.file_watch import FileWatch, stamp
from sidecar.runtime.regular_files import Read, read
from sidecar.runtime.trust import FILE_LIMIT

_log = logging.getLogger(__name__)


@final
class Certificate:
    """A listener's certificate, as last read."""

    __slots__ = ("client_cas", "context", "expires_at", "is_current", "settings", "stamps")

    def __init__(self, settings: ListenerTls) -> None:
        """Raises OSError, ssl.SSLError or ValueError, with the file's name where it is known."""
        self.settings = settings
        self.stamps = {file: stamp(file) for file in _files(settings)}
        """The state of its files before they were first read."""
        self.client_cas = _client_cas(settings)
        """Tells one set of client CAs from another; empty if no client certificate is required."""
        self.context = make_context(settings)
        self.expires_at = expiry(settings.cert_file)
        """Unix seconds; None if the certificate's date can't be read."""
        self.is_current = True
        """Whether it matches its files: the last reading succeeded."""

    def read_again(self) -> None:
        """Read the files again; new connections get the result."""
        settings = self.settings
        try:
            client_cas = _client_cas(settings)
            context = make_context(settings)
        except (OSError, ValueError) as error:
            self.is_current = False
            detail = why(error, settings)
            _log.warning(
                f"the listener's certificate could not be read again: the old one stays in force ({detail})",
                extra={"fields": {"cert_file": place(settings.cert_file), "detail": detail}},
            )
            return
        self.context = context
        self.client_cas = client_cas
        self.expires_at = expiry(settings.cert_file)
        self.is_current = True
        _log.info(
            f"the listener's certificate was read again: {place(settings.cert_file)}",
            extra={"fields": {"cert_file": place(settings.cert_file)}},
        )


@final
class Certificates:
    """All certificates of a configuration."""

    def __init__(self, clock: Clock) -> None:
        self._found: dict[ListenerTls, Certificate] = {}
        self._watch = FileWatch({}, clock, self._changed)

    def read(self, wanted: Iterable[ListenerTls]) -> dict[ListenerTls, Certificate]:
        """The certificates of another configuration: known ones stay, others are read now. Raises as `Certificate`
        does.
        """
        return {settings: self._found.get(settings) or Certificate(settings) for settings in wanted}

    def adopt(self, found: Mapping[ListenerTls, Certificate]) -> None:
        """Keep these up to date from now on."""
        self._found = dict(found)
        # A configuration can be judged for seconds before it is adopted: a file may have changed since it was read.
        read = {file: at for certificate in found.values() for file, at in certificate.stamps.items()}
        self._watch.watch({file: file for file in read}, read)

    def stop(self) -> None:
        """Stop watching."""
        self._watch.stop()

    def look(self) -> None:
        """Check now whether files have changed. Health probes call this too, because timers can be late."""
        self._watch.look()

    def read_again(self) -> None:
        """Read all again, changed or not."""
        for certificate in self._found.values():
            certificate.read_again()

    def readings(self) -> Iterable[Certificate]:
        """What the metrics show for each certificate."""
        return self._found.values()

    def _changed(self, file: str) -> None:
        for settings, certificate in self._found.items():
            if file in _files(settings):
                certificate.read_again()


def server_context() -> ssl.SSLContext:
    """A TLS context as all listeners have it, without a certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Beside Python's own: no compression, the server's choice of ciphers.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def make_context(settings: ListenerTls) -> ssl.SSLContext:
    """A listener's context; raises OSError, ssl.SSLError or ValueError for files that can't be used."""
    modes = {file: _whole(file).mode for file in _files(settings)}
    key = place(settings.key_file)
    if not settings.allow_world_readable and (wrong := exposed(key, modes[settings.key_file])):
        raise ValueError(f"{key}: {wrong}")
    context = server_context()
    context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_password)
    if settings.client_ca_file is not None:
        context.load_verify_locations(settings.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _whole(file: str) -> Read:
    """A regular file that OpenSSL may read; else OSError with the file's name.

    OpenSSL does not name the file it could not open, waits for pipes, and reads devices without end.
    """
    try:
        return read(file, FILE_LIMIT)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, file) from None


def why(error: OSError | ValueError, settings: ListenerTls) -> str:
    """What is wrong with the files, and with which one, as far as OpenSSL tells."""
    if isinstance(error, ssl.SSLError):
        files = ", ".join(map(place, _files(settings)))
        if error.reason == "KEY_VALUES_MISMATCH":
            return (
                f"{place(settings.key_file)} is not the key of the certificate in {place(settings.cert_file)}"
            )
        reason = f" ({error.reason})" if error.reason else ""
        return f"one of {files} is not what it should be in PEM{reason}"
    if isinstance(error, OSError):
        files = place(error.filename) if error.filename else ", ".join(map(place, _files(settings)))
        return f"{files}: {error.strerror or place(error)}"
    return str(error)


def _files(settings: ListenerTls) -> list[str]:
    return [file for file in (settings.cert_file, settings.key_file, settings.client_ca_file) if file]


def _client_cas(settings: ListenerTls) -> bytes:
    file = settings.client_ca_file
    if file is None:
        return b""
    return hashlib.sha256(_whole(file).data).digest()


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted: give one without a passphrase")


def expiry(file: str) -> float | None:
    """When the first certificate of a PEM file expires, in Unix seconds; None where that can't be read."""
    from cryptography import x509  # some megabytes, for sidecars that serve https only

    try:
        return x509.load_pem_x509_certificate(read(file, FILE_LIMIT).data).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None
