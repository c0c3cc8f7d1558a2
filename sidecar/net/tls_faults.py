"""What a fault of TLS means: reason and sentence.

Owns the way from OpenSSL's numbers and names to a `SidecarError`. Called by `dial` for handshakes that failed and by
`upstream` for connections that ended in an error later. Pure: what OpenSSL said comes in as plain values, and time as
an argument. Rules: X509_V_ERR_* of openssl/x509_vfy.h for certificates, the TLS Alerts registry (RFC 8446 section 6)
for what the other side says, RFC 9209 section 2.3 for how the app is told. Decisions never rest on the text of a
message; the text is only quoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final, NamedTuple

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.certificates import NO_TRUSTED_CA, Certificate, issuer, shown

_NAMES_SHOWN: Final = 5


class Side(NamedTuple):
    """The upstream as the words of an error need it."""

    address: str
    """Host and port."""
    name: str
    """The name that was asked for and is verified."""
    has_ca_file: bool
    has_client_certificate: bool


_VERIFY: Final[Mapping[int, Reason]] = {
    9: Reason.TLS_CERTIFICATE_NOT_YET_VALID,
    10: Reason.TLS_CERTIFICATE_EXPIRED,
    18: Reason.TLS_SELF_SIGNED,
    23: Reason.TLS_REVOKED,
    # the issuer is missing, or nothing that is trusted is above it
    **dict.fromkeys(NO_TRUSTED_CA - {18}, Reason.TLS_UNKNOWN_CA),
    # host, e-mail address, IP address
    **dict.fromkeys((62, 63, 64), Reason.TLS_WRONG_NAME),
    # no list, one that can't be read or verified, one whose time is over, or whose scope is another
    **dict.fromkeys((3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44, 54), Reason.TLS_CRL_UNUSABLE),
    # signatures and dates that can't be read, length, purpose, a CA that is none, constraints of names, weak keys
    # and digests, what RFC 5280 demands of each certificate
    **dict.fromkeys(
        (
            4,
            6,
            7,
            13,
            14,
            22,
            24,
            25,
            26,
            29,
            30,
            31,
            32,
            34,
            37,
            38,
            39,
            40,
            41,
            42,
            43,
            47,
            48,
            49,
            51,
            52,
            53,
            55,
        ),
        Reason.TLS_BAD_CHAIN,
    ),
    **dict.fromkeys((66, 67, 68, *range(76, 96)), Reason.TLS_BAD_CHAIN),
}
"""By X509_V_ERR_*; the few others are TLS_CERTIFICATE."""

_ALERTS: Final[Mapping[str, tuple[int, str]]] = {
    "SSLV3_ALERT_UNEXPECTED_MESSAGE": (10, "unexpected_message"),
    "SSLV3_ALERT_BAD_RECORD_MAC": (20, "bad_record_mac"),
    "TLSV1_ALERT_RECORD_OVERFLOW": (22, "record_overflow"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (40, "handshake_failure"),
    "SSLV3_ALERT_BAD_CERTIFICATE": (42, "bad_certificate"),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": (43, "unsupported_certificate"),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": (44, "certificate_revoked"),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (45, "certificate_expired"),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": (46, "certificate_unknown"),
    "SSLV3_ALERT_ILLEGAL_PARAMETER": (47, "illegal_parameter"),
    "TLSV1_ALERT_UNKNOWN_CA": (48, "unknown_ca"),
    "TLSV1_ALERT_ACCESS_DENIED": (49, "access_denied"),
    "TLSV1_ALERT_DECODE_ERROR": (50, "decode_error"),
    "TLSV1_ALERT_DECRYPT_ERROR": (51, "decrypt_error"),
    "TLSV1_ALERT_PROTOCOL_VERSION": (70, "protocol_version"),
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": (71, "insufficient_security"),
    "TLSV1_ALERT_INTERNAL_ERROR": (80, "internal_error"),
    "TLSV1_ALERT_INAPPROPRIATE_FALLBACK": (86, "inappropriate_fallback"),
    "TLSV1_ALERT_USER_CANCELLED": (90, "user_canceled"),
    "TLSV1_ALERT_NO_RENEGOTIATION": (100, "no_renegotiation"),
    "TLSV13_ALERT_MISSING_EXTENSION": (109, "missing_extension"),
    "TLSV1_UNSUPPORTED_EXTENSION": (110, "unsupported_extension"),
    "TLSV1_UNRECOGNIZED_NAME": (112, "unrecognized_name"),
    "TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE": (113, "bad_certificate_status_response"),
    "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY": (115, "unknown_psk_identity"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (116, "certificate_required"),
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": (120, "no_application_protocol"),
}
"""OpenSSL's names (openssl/sslerr.h) for what the other side sent."""

_ABOUT_CLIENT_CERTIFICATE: Final = frozenset((42, 43, 44, 45, 46, 48, 49, 51))
_NOT_TLS: Final = frozenset(
    ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL")
)
_TOO_OLD: Final = frozenset(("UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "VERSION_TOO_LOW"))


def certificate_fault(
    code: int, message: str, chain: Sequence[Certificate], side: Side, now_at: float
) -> SidecarError:
    """The certificate was not accepted, with X509_V_ERR_* number and text; `chain` is what the server sent."""
    reason = _VERIFY.get(code, Reason.TLS_CERTIFICATE)
    of = f"The certificate of {side.address}"
    leaf = chain[0] if chain else {}
    clock = formatdate(now_at, usegmt=True)
    match reason:
        case Reason.TLS_CERTIFICATE_EXPIRED:
            end = next((end for one in chain if (end := _date(one, "notAfter")) and end[0] < now_at), None)
            says = (
                f"{of} has expired{_when(' on ', end)}; this machine's clock says {clock}. "
                "Renew it there, or set this clock right."
            )
        case Reason.TLS_CERTIFICATE_NOT_YET_VALID:
            start = next((at for one in chain if (at := _date(one, "notBefore")) and at[0] > now_at), None)
            says = (
                f"{of} is not valid{_when(' before ', start, or_else=' yet')}; this machine's clock says {clock}. "
                "Set this clock right, or have the certificate issued again."
            )
        case Reason.TLS_WRONG_NAME:
            says = (
                f"{of} is not for `{side.name}`{_names(leaf)}. Another server may answer there: check the name in the "
                "route's `upstream` and what DNS says of it. If the right one answers, have its certificate issued "
                "for this name, or set the route's `tls.server_name` to a name that it has."
            )
        case Reason.TLS_SELF_SIGNED:
            says = (
                f"{of} is signed by itself, and not trusted. Verification can't be switched off: to trust this one, "
                "set the route's `tls.ca_file` to its PEM file."
            )
        case Reason.TLS_UNKNOWN_CA:
            says = _unknown_ca(of, chain, side)
        case Reason.TLS_REVOKED:
            says = f"{of}, or of a CA above it, is revoked by the route's `tls.crl_file`. The service needs a new one."
        case Reason.TLS_CRL_UNUSABLE:
            says = (
                f"Whether the certificate of {side.address} is revoked can't be told ({message}). "
                "Put the current list of its CA into the route's `tls.crl_file`."
            )
        case Reason.TLS_BAD_CHAIN:
            says = (
                f"The chain of certificates of {side.address} is not valid ({message}). Have the service's owner fix "
                "it; verification can't be switched off."
            )
        case _:
            says = f"{of} was not accepted ({message}). Verification can't be switched off."
    return SidecarError(reason, says)


def handshake_fault(mnemonic: str, side: Side, *, agreed: bool) -> SidecarError:
    """The handshake failed, and OpenSSL calls it `mnemonic`; `agreed`: a cipher had been chosen by then."""
    if (alert := _ALERTS.get(mnemonic)) is not None:
        return _alert(alert, side, agreed=agreed)
    if mnemonic in _NOT_TLS:
        return SidecarError(
            Reason.TLS_NOT_SPOKEN,
            f"{side.address} answered with something else than TLS, such as plain HTTP. Name the port that speaks TLS "
            "in the route's `upstream`, or begin it with `http://` if there is none.",
        )
    if mnemonic in _TOO_OLD:
        return _too_old(side)
    return SidecarError(
        Reason.TLS_FAILED,
        f"The TLS handshake with {side.address} failed: {_words(mnemonic)}. "
        "Check that this port speaks TLS 1.2 or newer.",
    )


def closed_in_handshake(side: Side) -> SidecarError:
    """The connection ended, or was reset, before the handshake did."""
    return SidecarError(
        Reason.TLS_CLOSED,
        f"{side.address} closed the connection in the TLS handshake. Check that this port speaks TLS 1.2 or newer, and "
        f"that whatever stands before the service lets `{side.name}` through.",
    )


def later_fault(mnemonic: str, side: Side, *, version: str | None) -> SidecarError:
    """The connection ended in an error after its handshake; `version` is TLS's, in OpenSSL's spelling.

    A TLS 1.3 client has finished before the server has looked at its certificate, so a refusal of that comes here
    (RFC 8446 section 4.4.2.4). A handshake that fails in a TLS 1.2 connection is one that the server asked for: this
    side refuses to renegotiate by a warning (RFC 5746 section 4.5), and the server gives up.
    """
    alert = _ALERTS.get(mnemonic)
    if alert is None:
        return SidecarError(
            Reason.TLS_FAILED, f"TLS with {side.address} failed in mid-connection: {_words(mnemonic)}."
        )
    if alert[0] in (40, 100) and version != "TLSv1.3":
        return SidecarError(
            Reason.TLS_RENEGOTIATION,
            f"{side.address} asked for a new TLS handshake in mid-connection, which is refused. Have it ask for "
            "a client certificate at the beginning of the connection, or speak TLS 1.3.",
        )
    return _alert(alert, side, agreed=True)


def _alert(alert: tuple[int, str], side: Side, *, agreed: bool) -> SidecarError:
    number, name = alert
    if number == 70:
        return _too_old(side)
    if (number == 40 and not agreed) or number == 71:
        return SidecarError(
            Reason.TLS_NO_COMMON_CIPHER,
            f"{side.address} found no cipher suite, group or kind of signature that both sides have (alert `{name}`). "
            "Check what its TLS is restricted to.",
            alert=alert,
        )
    if not side.has_client_certificate and (number in (40, 116) or number in _ABOUT_CLIENT_CERTIFICATE):
        return SidecarError(
            Reason.TLS_CLIENT_CERTIFICATE_MISSING,
            f"{side.address} wants a client certificate (alert `{name}`), and the route has none: set its "
            "`tls.client_cert_file` and `tls.client_key_file`.",
            alert=alert,
        )
    if number in _ABOUT_CLIENT_CERTIFICATE or number == 116:
        return SidecarError(
            Reason.TLS_CLIENT_CERTIFICATE_REFUSED,
            f"{side.address} did not take the client certificate (alert `{name}`). Check the one in the route's "
            "`tls.client_cert_file`: its CA, its dates, its chain.",
            alert=alert,
        )
    hint = " Set the route's `tls.server_name` to a name that it serves." if number == 112 else ""
    return SidecarError(
        Reason.TLS_ALERT, f"{side.address} broke TLS off with the alert `{name}`.{hint}", alert=alert
    )


def _too_old(side: Side) -> SidecarError:
    return SidecarError(
        Reason.TLS_PROTOCOL_TOO_OLD,
        f"{side.address} does not support TLS 1.2 or newer, and older versions are not supported here. Update it, or "
        f"put a newer "
        f"front end in front of it.",
    )


def _unknown_ca(of: str, chain: Sequence[Certificate], side: Side) -> str:
    where = "in the route's `tls.ca_file`" if side.has_ca_file else "trusted here"
    says = f"{of} was issued by {issuer(chain) or 'a CA'}, which is not {where}"
    if len(chain) == 1:
        says += "; if that is an intermediate CA, have the server send its certificate too, which it did not"
    how = (
        "add its certificate to that file"
        if side.has_ca_file
        else "set the route's `tls.ca_file`, or the top-level `ca_file`"
    )
    return f"{says}. Verification can't be switched off: for a private CA {how}."


def _date(certificate: Certificate, field: str) -> tuple[float, str] | None:
    """Unix seconds and text of one of its dates."""
    text = certificate.get(field)
    try:
        parsed = datetime.strptime(str(text), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return parsed, formatdate(parsed, usegmt=True)


def _when(words: str, date: tuple[float, str] | None, *, or_else: str = "") -> str:
    return or_else if date is None else f"{words}{date[1]}"


def _names(certificate: Certificate) -> str:
    names = [
        str(name) for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")
    ]
    if not names:
        return " and has no names at all" if certificate else ""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f" but for {', '.join(f'`{shown(name)}`' for name in names[:_NAMES_SHOWN])}{more}"


def _words(mnemonic: str) -> str:
    return mnemonic.lower().replace("_", " ") or "no reason was given"
