"""`exec --transparent`: which routes it intercepts, and how to make a JVM use the sidecar.

Owns Java's trust store; `config.transparent` has the variables of other runtimes. Called by `exec`. Source: the JDK's
networking properties.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.config.groups import Intercept
from sidecar.config.models import Config, RouteConfig

_log = logging.getLogger(__name__)

_STORE_PASSWORD: Final = "changeit"
"""Java's own default, for a store that holds no secret."""
_STORE: Final = "trust.p12"
_BUNDLE: Final = "ca-bundle.pem"


def intercepting(config: Config, directory: str) -> Config:
    """The configuration with `intercept` on for every route that does not set it, and with a bundle in a directory of
    this process unless one is named.
    """
    group = config.intercept or Intercept()
    if group.bundle_file is None:
        group = group.model_copy(update={"bundle_file": os.path.join(directory, _BUNDLE)})
    routes = tuple(
        route.model_copy(update={"intercept": True}) if _may_be(route) else route for route in config.routes
    )
    return config.model_copy(update={"intercept": group, "routes": routes})


def _may_be(route: RouteConfig) -> bool:
    has_host = bool(route.host) or route.default_host is not None
    return has_host and "intercept" not in route.model_fields_set


def for_java(
    environ: Mapping[str, str], *, proxy: str, spared: Iterable[str], bundle: str, directory: str
) -> dict[str, str]:
    """The variables that make a JVM use a proxy and trust a bundle; empty if the command's path has no Java."""
    home = environ.get("JAVA_HOME", "")
    found = shutil.which("java", path=environ.get("PATH")) or (
        home and shutil.which("java", path=f"{home}/bin")
    )
    if not found:
        return {}
    store = os.path.join(directory, _STORE)
    if not _write_store(store, Path(bundle).read_bytes()):
        return {}
    split = urlsplit(proxy)
    direct = "|".join(f"*{name}" if name.startswith(".") else name for name in spared)
    options = [
        f"-D{scheme}.proxy{key}"
        for scheme in ("http", "https")
        for key in _address(split.hostname, split.port)
    ]
    options += [
        f"-Dhttp.nonProxyHosts={direct}",
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={_STORE_PASSWORD}",
    ]
    before = environ.get("JAVA_TOOL_OPTIONS", "")
    return {"JAVA_TOOL_OPTIONS": " ".join([before, *options] if before else options)}


def _address(host: str | None, port: int | None) -> tuple[str, str]:
    return f"Host={host}", f"Port={port}"


def _write_store(file: str, bundle: bytes) -> bool:
    """Write a trust store of a bundle's certificates. Returns whether that worked."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    write: Any = getattr(pkcs12, "serialize_java_truststore", None)  # since version 45
    if write is None:
        _log.warning("no trust store for Java: the package `cryptography` is older than 45")
        return False
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old roots with odd serial numbers
        for number, block in enumerate(_blocks(bundle)):
            try:
                certificate = x509.load_pem_x509_certificate(block)
            except ValueError:
                continue
            found.append(pkcs12.PKCS12Certificate(certificate, b"ca-%d" % number))
    password = serialization.BestAvailableEncryption(_STORE_PASSWORD.encode("ascii"))
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(write(found, password))
    return True


def _blocks(bundle: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----"
    return [block + end for block in bundle.split(end)[:-1]]
