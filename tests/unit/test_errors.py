"""sidecar.errors, and what is told about each reason"""

from __future__ import annotations

import re

from sidecar.cli.advice import ADVICE
from sidecar.errors import MEANINGS, Reason, SidecarError, Source

PROXY_STATUS = set(
    "dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited "
    "destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout "
    "connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received "
    "http_request_error http_request_denied http_response_incomplete http_response_header_section_size "
    "http_response_timeout http_upgrade_failed http_protocol_error proxy_internal_response proxy_internal_error "
    "proxy_configuration_error proxy_loop_detected".split()
)
"""The registry of RFC 9209 section 2.3, as far as it fits."""


def test_every_reason_has_its_meaning_and_its_advice() -> None:
    """A new reason can't be forgotten."""
    assert set(MEANINGS) == set(Reason) == set(ADVICE)


def test_meanings_are_from_the_registries() -> None:
    """Status and Proxy-Status agree with whose fault it is."""
    for reason, meaning in MEANINGS.items():
        assert meaning.proxy_status in PROXY_STATUS, reason
        assert (meaning.status < 500) == (
            meaning.source is Source.APP and meaning.status not in (501, 508)
        ), reason
        assert re.fullmatch(r"[a-z0-9_]+", reason)


def test_an_error_reads_as_a_line() -> None:
    """Reason first, then the sentence."""
    assert str(SidecarError(Reason.NO_ROUTE, "No route.")) == "no_route: No route."
