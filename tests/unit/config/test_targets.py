"""What is known of each kind of target."""

from __future__ import annotations

import pytest

from sidecar.config.targets import service_of


@pytest.mark.parametrize(
    ("authority", "service", "region"),
    [
        ("billing-abc123def4-uc.a.run.app", "billing", "REGION"),
        ("my-long-name-abc123def4-ew.a.run.app", "my-long-name", "REGION"),
        ("canary---billing-abc123def4-uc.a.run.app", "billing", "REGION"),
        ("billing-123456789012.us-central1.run.app", "billing", "us-central1"),
        ("billing.example.com", "SERVICE", "REGION"),
        ("127.0.0.1:8080", "SERVICE", "REGION"),
    ],
)
def test_a_services_name_and_region(authority: str, service: str, region: str) -> None:
    """As far as its host tells; in capitals what is to be filled in."""
    assert service_of(authority) == (service, region)
