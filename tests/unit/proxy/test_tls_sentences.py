"""sidecar.net.tls_faults, word for word: what an operator reads of a handshake that failed"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.net.tls_faults import (
    Side,
    certificate_fault,
    closed_in_handshake,
    handshake_fault,
    later_fault,
)

PLAIN = Side("`a.example:443`", "a.example", has_ca_file=False, has_client_certificate=False)
OWN = Side("`a.example:443`", "a.example", has_ca_file=True, has_client_certificate=True)
NOW = 1_800_000_000.0
LEAF = {
    "notBefore": "Feb  3 04:05:06 2028 GMT",
    "notAfter": "Feb  3 04:05:06 2025 GMT",
    "subjectAltName": (("DNS", "b.example"), ("IP Address", "192.0.2.1"), ("email", "x@b.example")),
    "issuer": ((("organizationName", "Acme"),), (("commonName", "Acme CA 2"),), (("localityName", "Y"),)),
}
NAMELESS = {"issuer": ((("countryName", "X"),), (("organizationName", "Acme"),))}


def verify(code: int, *chain: dict[str, object], side: Side = PLAIN) -> SidecarError:
    return certificate_fault(code, "what OpenSSL says", chain, side, NOW)


CASES: dict[str, tuple[Callable[[], SidecarError], Reason, str, int | None]] = {
    "expired": (
        lambda: verify(10, LEAF),
        Reason.TLS_CERTIFICATE_EXPIRED,
        "The certificate of `a.example:443` has expired on Mon, 03 Feb 2025 04:05:06 GMT; this machine's "
        "clock says Fri, 15 Jan 2027 08:00:00 GMT. Renew it there, or set this clock right.",
        None,
    ),
    "expired-without-a-date": (
        lambda: verify(10, {}),
        Reason.TLS_CERTIFICATE_EXPIRED,
        "The certificate of `a.example:443` has expired; this machine's clock says Fri, 15 Jan 2027 "
        "08:00:00 GMT. Renew it there, or set this clock right.",
        None,
    ),
    "not-yet": (
        lambda: verify(9, LEAF),
        Reason.TLS_CERTIFICATE_NOT_YET_VALID,
        "The certificate of `a.example:443` is not valid before Thu, 03 Feb 2028 04:05:06 GMT; this "
        "machine's clock says Fri, 15 Jan 2027 08:00:00 GMT. Set this clock right, or have the certificate "
        "issued again.",
        None,
    ),
    "not-yet-without-a-date": (
        lambda: verify(9),
        Reason.TLS_CERTIFICATE_NOT_YET_VALID,
        "The certificate of `a.example:443` is not valid yet; this machine's clock says Fri, 15 Jan 2027 "
        "08:00:00 GMT. Set this clock right, or have the certificate issued again.",
        None,
    ),
    "wrong-name": (
        lambda: verify(62, LEAF),
        Reason.TLS_WRONG_NAME,
        "The certificate of `a.example:443` is not for `a.example` but for `b.example`, `192.0.2.1`. Another "
        "server may answer there: check the name in the route's `upstream` and what DNS says of it. If the right one "
        "answers, have its certificate issued for this name, or set the route's `tls.server_name` to a name that it has.",
        None,
    ),
    "wrong-name-and-no-names": (
        lambda: verify(62, NAMELESS),
        Reason.TLS_WRONG_NAME,
        "The certificate of `a.example:443` is not for `a.example` and has no names at all. Another server may "
        "answer there: check the name in the route's `upstream` and what DNS says of it. If the right one answers, have "
        "its certificate issued for this name, or set the route's `tls.server_name` to a name that it has.",
        None,
    ),
    "wrong-name-of-nothing": (
        lambda: verify(62),
        Reason.TLS_WRONG_NAME,
        "The certificate of `a.example:443` is not for `a.example`. Another server may answer there: check the "
        "name in the route's `upstream` and what DNS says of it. If the right one answers, have its certificate issued "
        "for this name, or set the route's `tls.server_name` to a name that it has.",
        None,
    ),
    "self-signed": (
        lambda: verify(18, LEAF),
        Reason.TLS_SELF_SIGNED,
        "The certificate of `a.example:443` is signed by itself, and not trusted. Verification can't be "
        "switched off: to trust this one, set the route's `tls.ca_file` to its PEM file.",
        None,
    ),
    "unknown-ca": (
        lambda: verify(20, LEAF, LEAF),
        Reason.TLS_UNKNOWN_CA,
        "The certificate of `a.example:443` was issued by `Acme CA 2`, which is not trusted here. "
        "Verification can't be switched off: for a private CA set the route's `tls.ca_file`, or the top-level `ca_file`.",
        None,
    ),
    "unknown-ca-of-a-leaf-alone": (
        lambda: verify(20, LEAF),
        Reason.TLS_UNKNOWN_CA,
        "The certificate of `a.example:443` was issued by `Acme CA 2`, which is not trusted here; if that "
        "is an intermediate CA, have the server send its certificate too, which it did not. Verification "
        "can't be switched off: for a private CA set the route's `tls.ca_file`, or the top-level `ca_file`.",
        None,
    ),
    "unknown-ca-with-a-file": (
        lambda: verify(20, LEAF, LEAF, side=OWN),
        Reason.TLS_UNKNOWN_CA,
        "The certificate of `a.example:443` was issued by `Acme CA 2`, which is not in the route's "
        "`tls.ca_file`. Verification can't be switched off: for a private CA add its certificate to that "
        "file.",
        None,
    ),
    "unknown-ca-without-a-common-name": (
        lambda: verify(20, LEAF, NAMELESS),
        Reason.TLS_UNKNOWN_CA,
        "The certificate of `a.example:443` was issued by `Acme`, which is not trusted here. Verification "
        "can't be switched off: for a private CA set the route's `tls.ca_file`, or the top-level `ca_file`.",
        None,
    ),
    "unknown-ca-without-a-name": (
        lambda: verify(20, LEAF, {}),
        Reason.TLS_UNKNOWN_CA,
        "The certificate of `a.example:443` was issued by a CA, which is not trusted here. Verification "
        "can't be switched off: for a private CA set the route's `tls.ca_file`, or the top-level `ca_file`.",
        None,
    ),
    "unknown-ca-without-a-chain": (
        lambda: verify(20),
        Reason.TLS_UNKNOWN_CA,
        "The certificate of `a.example:443` was issued by a CA, which is not trusted here. Verification "
        "can't be switched off: for a private CA set the route's `tls.ca_file`, or the top-level `ca_file`.",
        None,
    ),
    "revoked": (
        lambda: verify(23, LEAF),
        Reason.TLS_REVOKED,
        "The certificate of `a.example:443`, or of a CA above it, is revoked by the route's "
        "`tls.crl_file`. The service needs a new one.",
        None,
    ),
    "no-list": (
        lambda: verify(3, LEAF),
        Reason.TLS_CRL_UNUSABLE,
        "Whether the certificate of `a.example:443` is revoked can't be told (what OpenSSL says). Put the "
        "current list of its CA into the route's `tls.crl_file`.",
        None,
    ),
    "bad-chain": (
        lambda: verify(26, LEAF),
        Reason.TLS_BAD_CHAIN,
        "The chain of certificates of `a.example:443` is not valid (what OpenSSL says). Have the "
        "service's owner fix it; verification can't be switched off.",
        None,
    ),
    "other": (
        lambda: verify(50, LEAF),
        Reason.TLS_CERTIFICATE,
        "The certificate of `a.example:443` was not accepted (what OpenSSL says). Verification can't be "
        "switched off.",
        None,
    ),
    "not-tls": (
        lambda: handshake_fault("WRONG_VERSION_NUMBER", PLAIN, agreed=False),
        Reason.TLS_NOT_SPOKEN,
        "`a.example:443` answered with something else than TLS, such as plain HTTP. Name the port that "
        "speaks TLS in the route's `upstream`, or begin it with `http://` if there is none.",
        None,
    ),
    "http": (
        lambda: handshake_fault("HTTP_REQUEST", PLAIN, agreed=False),
        Reason.TLS_NOT_SPOKEN,
        "`a.example:443` answered with something else than TLS, such as plain HTTP. Name the port that "
        "speaks TLS in the route's `upstream`, or begin it with `http://` if there is none.",
        None,
    ),
    "too-old": (
        lambda: handshake_fault("UNSUPPORTED_PROTOCOL", PLAIN, agreed=False),
        Reason.TLS_PROTOCOL_TOO_OLD,
        "`a.example:443` does not support TLS 1.2 or newer, and older versions are not supported here. Update it, or "
        "put a newer "
        "front end in front of it.",
        None,
    ),
    "too-old-by-its-alert": (
        lambda: handshake_fault("TLSV1_ALERT_PROTOCOL_VERSION", PLAIN, agreed=False),
        Reason.TLS_PROTOCOL_TOO_OLD,
        "`a.example:443` does not support TLS 1.2 or newer, and older versions are not supported here. Update it, or "
        "put a newer "
        "front end in front of it.",
        None,
    ),
    "other-handshake": (
        lambda: handshake_fault("SOME_NEW_THING", PLAIN, agreed=True),
        Reason.TLS_FAILED,
        "The TLS handshake with `a.example:443` failed: some new thing. Check that this port speaks TLS "
        "1.2 or newer.",
        None,
    ),
    "no-word": (
        lambda: handshake_fault("", PLAIN, agreed=True),
        Reason.TLS_FAILED,
        "The TLS handshake with `a.example:443` failed: no reason was given. Check that this port speaks "
        "TLS 1.2 or newer.",
        None,
    ),
    "no-cipher": (
        lambda: handshake_fault("SSLV3_ALERT_HANDSHAKE_FAILURE", OWN, agreed=False),
        Reason.TLS_NO_COMMON_CIPHER,
        "`a.example:443` found no cipher suite, group or kind of signature that both sides have (alert "
        "`handshake_failure`). Check what its TLS is restricted to.",
        40,
    ),
    "insufficient": (
        lambda: handshake_fault("TLSV1_ALERT_INSUFFICIENT_SECURITY", PLAIN, agreed=True),
        Reason.TLS_NO_COMMON_CIPHER,
        "`a.example:443` found no cipher suite, group or kind of signature that both sides have (alert "
        "`insufficient_security`). Check what its TLS is restricted to.",
        71,
    ),
    "wants-a-certificate": (
        lambda: handshake_fault("SSLV3_ALERT_HANDSHAKE_FAILURE", PLAIN, agreed=True),
        Reason.TLS_CLIENT_CERTIFICATE_MISSING,
        "`a.example:443` wants a client certificate (alert `handshake_failure`), and the route has none: "
        "set its `tls.client_cert_file` and `tls.client_key_file`.",
        40,
    ),
    "certificate-required": (
        lambda: handshake_fault("TLSV13_ALERT_CERTIFICATE_REQUIRED", PLAIN, agreed=True),
        Reason.TLS_CLIENT_CERTIFICATE_MISSING,
        "`a.example:443` wants a client certificate (alert `certificate_required`), and the route has "
        "none: set its `tls.client_cert_file` and `tls.client_key_file`.",
        116,
    ),
    "own-certificate-refused": (
        lambda: handshake_fault("TLSV1_ALERT_UNKNOWN_CA", OWN, agreed=True),
        Reason.TLS_CLIENT_CERTIFICATE_REFUSED,
        "`a.example:443` did not take the client certificate (alert `unknown_ca`). Check the one in the "
        "route's `tls.client_cert_file`: its CA, its dates, its chain.",
        48,
    ),
    "own-certificate-not-seen": (
        lambda: handshake_fault("TLSV13_ALERT_CERTIFICATE_REQUIRED", OWN, agreed=True),
        Reason.TLS_CLIENT_CERTIFICATE_REFUSED,
        "`a.example:443` did not take the client certificate (alert `certificate_required`). Check the one "
        "in the route's `tls.client_cert_file`: its CA, its dates, its chain.",
        116,
    ),
    "failure-with-a-certificate": (
        lambda: handshake_fault("SSLV3_ALERT_HANDSHAKE_FAILURE", OWN, agreed=True),
        Reason.TLS_ALERT,
        "`a.example:443` broke TLS off with the alert `handshake_failure`.",
        40,
    ),
    "unknown-name": (
        lambda: handshake_fault("TLSV1_UNRECOGNIZED_NAME", PLAIN, agreed=False),
        Reason.TLS_ALERT,
        "`a.example:443` broke TLS off with the alert `unrecognized_name`. Set the route's "
        "`tls.server_name` to a name that it serves.",
        112,
    ),
    "internal": (
        lambda: handshake_fault("TLSV1_ALERT_INTERNAL_ERROR", PLAIN, agreed=False),
        Reason.TLS_ALERT,
        "`a.example:443` broke TLS off with the alert `internal_error`.",
        80,
    ),
    "closed": (
        lambda: closed_in_handshake(PLAIN),
        Reason.TLS_CLOSED,
        "`a.example:443` closed the connection in the TLS handshake. Check that this port speaks TLS 1.2 "
        "or newer, and that whatever stands before the service lets `a.example` through.",
        None,
    ),
    "later": (
        lambda: later_fault("BAD_RECORD_TYPE", PLAIN, version="TLSv1.3"),
        Reason.TLS_FAILED,
        "TLS with `a.example:443` failed in mid-connection: bad record type.",
        None,
    ),
    "later-certificate": (
        lambda: later_fault("SSLV3_ALERT_BAD_CERTIFICATE", PLAIN, version="TLSv1.3"),
        Reason.TLS_CLIENT_CERTIFICATE_MISSING,
        "`a.example:443` wants a client certificate (alert `bad_certificate`), and the route has none: set "
        "its `tls.client_cert_file` and `tls.client_key_file`.",
        42,
    ),
    "renegotiation": (
        lambda: later_fault("TLSV1_ALERT_NO_RENEGOTIATION", PLAIN, version="TLSv1.2"),
        Reason.TLS_RENEGOTIATION,
        "`a.example:443` asked for a new TLS handshake in mid-connection, which is refused. Have it ask "
        "for a client certificate at the beginning of the connection, or speak TLS 1.3.",
        None,
    ),
    "renegotiation-refused": (
        lambda: later_fault("SSLV3_ALERT_HANDSHAKE_FAILURE", PLAIN, version=None),
        Reason.TLS_RENEGOTIATION,
        "`a.example:443` asked for a new TLS handshake in mid-connection, which is refused. Have it ask "
        "for a client certificate at the beginning of the connection, or speak TLS 1.3.",
        None,
    ),
    "no-renegotiation-in-1.3": (
        lambda: later_fault("TLSV1_ALERT_NO_RENEGOTIATION", PLAIN, version="TLSv1.3"),
        Reason.TLS_ALERT,
        "`a.example:443` broke TLS off with the alert `no_renegotiation`.",
        100,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_handshake_that_failed(case: str) -> None:
    """The reason, what is to be done with the keys to do it, and the alert's number where the server sent one."""
    act, reason, says, alert = CASES[case]
    error = act()
    assert (error.reason, error.detail, error.alert and error.alert[0]) == (reason, says, alert)
