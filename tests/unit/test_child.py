"""sidecar.child: the listeners that `exec` adds"""

from __future__ import annotations

import pytest

from sidecar.child import with_own_listeners
from sidecar.config.load import load

TLS = "cert_file: /c.pem, key_file: /k.pem"


@pytest.mark.parametrize(
    ("listen", "added"),
    [
        pytest.param("localhost:0", True, id="plain"),
        pytest.param(f"{{address: 'localhost:0', tls: {{{TLS}}}}}", True, id="https"),
        pytest.param(
            f"{{address: 'localhost:0', tls: {{{TLS}, client_ca_file: /ca.pem}}}}", False, id="certificates"
        ),
        pytest.param("{address: 'unix:/s', peers: {uid: [1]}}", False, id="peers"),
    ],
)
def test_no_port_is_added_that_asks_less_of_its_callers(listen: str, added: bool) -> None:
    """Than the shared listener does: one on loopback tells neither processes apart nor client certificates."""
    text = f"listen: [{listen}]\nroutes: [{{name: a, upstream: 'https://a.example'}}]"
    made = with_own_listeners(load(text, environ={}).config)
    assert bool(made.routes[0].listen) is added
