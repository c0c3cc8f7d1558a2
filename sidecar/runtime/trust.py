"""Which certificates are trusted, in both directions.

Owns the CAs for everything that this process connects to: upstreams (`net.tls_files`) and token endpoints
(`tokens.fetch.transport`), and the flags by which OpenSSL verifies a chain. The rule: a named file or directory of
CAs replaces the system's store, and if it can't be used, that is an error; the system's store is then not used.
SSL_CERT_FILE and SSL_CERT_DIR hold in both directions, as OpenSSL means them (one of them leaves the other's default
in force); REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE for token endpoints, as google-auth's users know them. A machine
without any CA has those of `certifi`, which comes with requests.

The flags are set on every version of Python, because `ssl` and urllib3 set others by themselves from 3.13 on.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, final

from sidecar.grammar.certificates import Certificate
from sidecar.grammar.contents import kind_of, place
from sidecar.runtime.regular_files import read

FLAGS: Final = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
"""Whatever is in the file of CAs is trusted, be it a root or a CA below one, as curl and Go do it.

Not Python's VERIFY_X509_STRICT: it refuses CAs without a key usage, such as those of `openssl req -x509`, which
curl and Go take.
"""
FILE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a file of certificates, keys or revocations. The system's CAs are under 300 KiB, large CRLs some MiB."""
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n[!-~\s]+?-----END CERTIFICATE-----")
_HASHED: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""How a certificate is called in a directory, so that OpenSSL finds it (openssl-rehash(1))."""


class UnusableCaError(Exception):
    """A place of CAs can't be used."""

    def __init__(self, name: str, path: str, words: str) -> None:
        """`name` is the key or variable, `words` what is wrong, for the middle of a sentence."""
        super().__init__(f"{name} cannot be used ({place(path)}): {words}")
        self.words = words


class Bundle(NamedTuple):
    """A place of CAs, and what names it."""

    name: str
    """A key of the configuration, between backticks, or a variable."""
    path: str
    files: bool = True
    directories: bool = False
    """Which of the two it may be; several directories are separated as in PATH."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Each place by itself."""
        separate = self.directories and not self.files
        return tuple(path for path in self.path.split(os.pathsep) if path) if separate else (self.path,)

    def __str__(self) -> str:
        return f"{self.name} ({place(self.path)})"


@final
class Trust:
    """The CAs of one direction."""

    def __init__(
        self, bundle: Bundle | None = None, *, file: Bundle | None = None, directory: Bundle | None = None
    ) -> None:
        """`bundle`, a file or a directory, replaces all of the system's CAs; without it `file` and `directory`
        replace the system's file and directory."""
        self._bundle = bundle
        self._file = file
        self._directory = directory

    def __str__(self) -> str:
        named = [str(bundle) for bundle in self.bundles]
        return " and ".join(named) or "this machine's store of CAs"

    @property
    def files(self) -> tuple[str, ...]:
        """What is to be watched for changes; empty where it is the system's store alone."""
        return tuple(path for bundle in self.bundles for path in bundle.paths)

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """What is named; empty where it is the system's store alone."""
        found = (self._bundle,) if self._bundle is not None else (self._file, self._directory)
        return tuple(bundle for bundle in found if bundle is not None)

    def context(self) -> ssl.SSLContext:
        """A client's context: chain and name are verified, TLS 1.2 or newer. Raises UnusableCaError.

        Not `ssl.create_default_context`, which also writes the keys of every connection to where SSLKEYLOGFILE says.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags = FLAGS
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        # RFC 9525 section 2: a common name is no name of a server's. OpenSSL would take one where there is no other.
        context.hostname_checks_common_name = False
        if self._bundle is not None:
            _load(context, self._bundle)
        elif self._file is None and self._directory is None:
            _load_system(context)
        else:
            defaults = ssl.get_default_verify_paths()
            _load_or_default(context, self._file, cafile=defaults.openssl_cafile)
            _load_or_default(context, self._directory, capath=defaults.openssl_capath)
        return context

    def certificates(self) -> list[str]:
        """All of them, each once, as PEM: for other programs that are to trust them, too. Raises UnusableCaError where
        what is named holds none."""
        defaults = ssl.get_default_verify_paths()
        if self._bundle is not None:
            texts = _texts(self._bundle)
        elif self._file is None and self._directory is None:
            texts = [*_readable(defaults.openssl_cafile), *_readable(defaults.openssl_capath)]
        else:
            file, directory = self._file, self._directory
            texts = _readable(defaults.openssl_cafile) if file is None else _texts(file)
            texts += _readable(defaults.openssl_capath) if directory is None else _texts(directory)
        found = _pems(texts)
        if not found and not self.bundles:
            import certifi

            found = _pems(_readable(certifi.where()))
        return found


def for_upstreams(environ: Mapping[str, str]) -> Trust:
    """What upstreams without a `ca_file` are judged by."""
    file, directory = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    return Trust(
        file=Bundle("SSL_CERT_FILE", file) if file else None,
        directory=Bundle("SSL_CERT_DIR", directory, files=False, directories=True) if directory else None,
    )


def for_token_endpoints(environ: Mapping[str, str], ca_file: str | None) -> Trust:
    """What token endpoints are judged by; `ca_file` is the configuration's top-level one."""
    if ca_file is not None:
        return Trust(Bundle("`ca_file`", ca_file))
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := environ.get(variable):
            return Trust(Bundle(variable, path, directories=True))
    return for_upstreams(environ)


def words_of(error: OSError) -> str:
    """What was wrong with a file, for the middle of a sentence."""
    if isinstance(error, ssl.SSLError):
        if error.reason in (None, "NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE"):
            return "it holds no certificate in PEM"
        return error.reason.lower().replace("_", " ")
    text = error.strerror or "it cannot be read"
    return text[0].lower() + text[1:]


def presented(sock: ssl.SSLSocket) -> tuple[Certificate, ...]:
    """The certificates of a handshake that failed, unverified, for the words of its error.

    `getpeercert` has none before the handshake is done; what is under it does, and 3.13 made a part of that public.
    """
    read_chain: Any = getattr(sock._sslobj, "get_unverified_chain", None)  # type: ignore[attr-defined]  # no name without _
    return () if read_chain is None else tuple(certificate.get_info() for certificate in read_chain() or ())


def _load(context: ssl.SSLContext, bundle: Bundle) -> None:
    if kind_of(bundle.path) is not None:
        raise UnusableCaError(
            bundle.name, bundle.path, "that is not a path: write the certificates to a file, and name that"
        )
    if not bundle.files or (bundle.directories and os.path.isdir(bundle.path)):
        _load_directories(context, bundle)
        return
    known = context.cert_store_stats()["x509"]
    try:
        read(bundle.path, FILE_LIMIT)  # OpenSSL would wait for a pipe, and read a device forever
        context.load_verify_locations(cafile=bundle.path)
    except OSError as error:
        raise UnusableCaError(bundle.name, bundle.path, words_of(error)) from error
    if context.cert_store_stats()["x509"] == known:
        raise UnusableCaError(bundle.name, bundle.path, "it holds no certificate in PEM")


def _load_directories(context: ssl.SSLContext, bundle: Bundle) -> None:
    """One directory, or several as OpenSSL separates them. Nothing is read before a certificate is looked for."""
    try:
        hashed = any(_has_hashed(path) for path in bundle.paths)
        context.load_verify_locations(capath=bundle.path)
    except OSError as error:
        raise UnusableCaError(bundle.name, bundle.path, words_of(error)) from error
    if not hashed:
        raise UnusableCaError(
            bundle.name,
            bundle.path,
            "it holds no certificate under a name by which OpenSSL finds it (`openssl rehash`)",
        )


def _texts(bundle: Bundle) -> list[bytes]:
    """What the files of a place that is named hold."""
    found = [text for path in bundle.paths for text in _readable(path)]
    if not _pems(found):
        raise UnusableCaError(bundle.name, bundle.path, "it holds no certificate in PEM")
    return found


def _readable(path: str) -> list[bytes]:
    """What a file holds, or those of a directory's that OpenSSL finds; nothing where it can't be read."""
    found = []
    with suppress(OSError):
        files = [path]
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                files = sorted(entry.path for entry in entries if _HASHED.fullmatch(entry.name))
        for file in files:
            with suppress(OSError):
                found.append(read(file, FILE_LIMIT).data)
    return found


def _pems(texts: Iterable[bytes]) -> list[str]:
    """The certificates in these texts, each once and written alike."""
    found: dict[str, None] = {}
    for text in texts:
        for block in _CERTIFICATE.findall(text):
            with suppress(ValueError):
                found[ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(block.decode("ascii")))] = None
    return list(found)


def _has_hashed(path: str) -> bool:
    with os.scandir(path) as entries:
        return any(_HASHED.fullmatch(entry.name) for entry in entries)


def _load_or_default(context: ssl.SSLContext, bundle: Bundle | None, **default: str) -> None:
    if bundle is not None:
        _load(context, bundle)
        return
    # The system has one or the other, usually not both.
    with suppress(OSError):
        context.load_verify_locations(**default)


def _load_system(context: ssl.SSLContext) -> None:
    context.load_default_certs()
    if context.cert_store_stats()["x509"]:
        return
    with suppress(OSError):
        if _has_hashed(ssl.get_default_verify_paths().openssl_capath):
            return
    import certifi

    context.load_verify_locations(cafile=certifi.where())
