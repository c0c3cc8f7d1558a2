"""Describes certificates that were not accepted, for error messages.

Owns which parts of an unverified certificate are quoted, and which of OpenSSL's verdicts are about its CA. Called by
`net.tls_faults` for upstreams and by `tokens.fetch.endpoint` for token endpoints. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Certificate = Mapping[str, Any]
"""A certificate in the form of `ssl.SSLSocket.getpeercert()`."""

NO_TRUSTED_CA: Final = frozenset((2, 18, 19, 20, 21, 27, 28))
"""X509_V_ERR_* (openssl/x509_vfy.h) that mean: the certificate has no trusted CA above it."""
_NAME_SHOWN: Final = 253
"""Characters of a name: as many as a host name has at most."""


def shown(name: str) -> str:
    """A name from the other side's unverified certificate: at most as long as a host name, and without anything that
    drives a terminal, ends the quotes or turns the direction of writing.
    """
    text = "".join(c if c.isprintable() and c != "`" else "?" for c in name[:_NAME_SHOWN])
    return text if len(name) <= _NAME_SHOWN else f"{text}…"


def issuer(chain: Sequence[Certificate]) -> str:
    """The issuer of the last certificate in a chain, between backticks; empty if unknown."""
    name = _common_name(chain[-1].get("issuer", ())) if chain else ""
    return f"`{shown(name)}`" if name else ""


def _common_name(name: Sequence[Sequence[tuple[str, str]]]) -> str:
    """The last part of a distinguished name, which is the most telling where there is no common name."""
    pairs = [pair for part in name for pair in part]
    return next((value for key, value in pairs if key == "commonName"), pairs[-1][1] if pairs else "")
