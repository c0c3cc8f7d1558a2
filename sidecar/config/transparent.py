"""What an app's environment must say for its https to come to the sidecar, and for it to trust what it is shown there.

Owns the variables that the common stacks read. Called by `exec`, which sets them for its command, and by manifests,
which set them for the app. Pure. Sources: the manuals of curl, Python's ssl and requests, Node (22.21, 24.5:
NODE_USE_ENV_PROXY), gRPC (GRPC_DEFAULT_SSL_ROOTS_FILE_PATH) and Go's crypto/x509.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SPARED: Final = (
    "localhost",
    ".localhost",
    "127.0.0.1",
    "::1",
    "169.254.169.254",
    "metadata.google.internal",
)
"""What a client must not ask the sidecar for: loopback, and the metadata server."""

_CA_VARIABLES: Final = (
    "SSL_CERT_FILE",  # OpenSSL, Python's ssl, Go, Ruby, Rust's native-certs
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)


def spared_beside(before: str) -> list[str]:
    """The entries of NO_PROXY: those that are there `before`, and those that no app may leave out."""
    kept = [entry for entry in (part.strip() for part in before.split(",")) if entry]
    return list(dict.fromkeys([*kept, *SPARED]))


def by_http(proxy: str, spared: Iterable[str]) -> dict[str, str]:
    """What leads plain http through a proxy, in the capitals and the small letters that programs read."""
    direct = ",".join(spared)
    return {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": direct, "no_proxy": direct}


def by_https(proxy: str, bundle: str) -> dict[str, str]:
    """What leads https through it, too, and has a process trust a bundle of CAs."""
    # Without this Node does not read the proxy variables.
    trust = {**dict.fromkeys(_CA_VARIABLES, bundle), "NODE_USE_ENV_PROXY": "1"}
    return {"HTTPS_PROXY": proxy, "https_proxy": proxy, **trust}
