"""sidecar.config.base_urls: how an app finds the sidecar."""

from __future__ import annotations

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.config.base_urls import base_url, variable


@pytest.mark.parametrize(
    ("address", "url"),
    [
        pytest.param("localhost:8787", "https://localhost:8787", id="as-written"),
        pytest.param("127.0.0.1:8787", "https://localhost:8787", id="as-bound"),
        pytest.param("[::1]:8787", "https://localhost:8787", id="as-bound-v6"),
        pytest.param("0.0.0.0:8787", "https://localhost:8787", id="wildcard"),
        pytest.param("[::]:8787", "https://localhost:8787", id="wildcard-v6"),
        pytest.param("127.0.0.2:8787", "https://127.0.0.2:8787", id="another-loopback"),
        pytest.param("10.0.0.1:8787", "https://10.0.0.1:8787", id="other"),
        pytest.param("[fd00::1]:8787", "https://[fd00::1]:8787", id="other-v6"),
        pytest.param("unix:/run/proxy.sock", None, id="socket"),
    ],
)
def test_a_listener_is_called_by_its_name_on_this_machine(address: str, url: str | None) -> None:
    """Loopback and wildcard addresses by `localhost`, others as they are, in brackets where they are IPv6."""
    assert base_url(parse_listen(address), "https") == url


def test_a_routes_variable_has_its_name() -> None:
    """In capitals, and with the characters that a variable may have."""
    assert variable("billing-eu") == "IDTOKEN_SIDECAR_URL_BILLING_EU"
