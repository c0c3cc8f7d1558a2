"""sidecar.cli.exec_command: the listeners that `exec` adds"""

from __future__ import annotations

import pytest

from sidecar.cli.exec_command import beside_a_command, passed_on
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
    made = beside_a_command(load(text, environ={}).config)
    assert bool(made.routes[0].listen) is added


def test_what_is_not_set_has_other_defaults_beside_a_command() -> None:
    """Addresses that give way where they are taken, and a log of warnings only; what is set stays."""
    routes = "routes: [{name: a, upstream: 'https://a.example'}]"
    made = beside_a_command(load(routes, environ={}).config)
    addresses = [made.listen[0].address, made.routes[0].listen[0].address, *made.admin]
    assert [(str(it), it.auto) for it in addresses] == [
        ("localhost:8787", True),
        ("localhost:8801", True),
        ("localhost:9787", True),
    ]
    assert made.log_level == "warning"
    given = load(f"listen: localhost:1\nadmin: localhost:2\nlog_level: info\n{routes}", environ={}).config
    made = beside_a_command(given)
    assert (made.listen, made.admin, made.log_level) == (given.listen, given.admin, "info")


def test_what_a_command_sees_of_the_environment() -> None:
    """All but the sidecar's settings and the variables that its secrets come from, unless they are named; never what
    systemd says to the sidecar."""
    text = """
listen: [{address: "localhost:0", require_header: {X-Caller: "${CALLER}-${SALT:-none}"}}]
credentials: {default: {type: static, token: "${TOKEN}"}}
routes: [{name: a, upstream: "https://${HOST_OF_A}"}]
"""
    environ = {
        **{"CALLER": "c4ller", "TOKEN": "t0ken", "HOST_OF_A": "a.example", "PORT": "8080", "PATH": "/bin"},
        **{"IDTOKEN_SIDECAR_LOG_LEVEL": "debug", "IDTOKEN_SIDECAR_URL": "x", "SALT": "s", "LISTEN_FDS": "1"},
    }
    secret = load(text, environ=environ).config.secret_variables
    assert secret == {"CALLER", "TOKEN", "SALT"}
    assert passed_on(environ, secret, ()).keys() == {"HOST_OF_A", "PORT", "PATH"}
    named = ("CALLER", "IDTOKEN_SIDECAR_LOG_LEVEL", "LISTEN_FDS", "MISSING")
    assert passed_on(environ, secret, named).keys() == {
        *("HOST_OF_A", "PORT", "PATH", "CALLER", "IDTOKEN_SIDECAR_LOG_LEVEL")
    }
