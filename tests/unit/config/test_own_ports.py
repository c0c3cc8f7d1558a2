"""sidecar.config.own_ports: which routes `listen: auto` gives a port, and which number"""

from __future__ import annotations

import pytest

from sidecar.config.base_urls import configured_urls
from sidecar.config.load import ConfigError, load

A, B, C = (f"{{name: {name}, upstream: 'https://{name}.example'}}" for name in "abc")


@pytest.mark.parametrize(
    ("listen", "routes", "own"),
    [
        pytest.param("auto", [A, B], ["localhost:8801", "localhost:8802"], id="in-the-order-of-the-file"),
        pytest.param("[auto]", [B, A], ["localhost:8801", "localhost:8802"], id="a-list"),
        pytest.param(
            "localhost:8801", [f"{A[:-1]}, listen: auto}}"], ["localhost:8802"], id="past-the-shared-one"
        ),
        pytest.param(
            "localhost:1", [A, f"{B[:-1]}, listen: auto}}"], ["", "localhost:8801"], id="one-route's"
        ),
        pytest.param(
            "auto",
            [A, f"{B[:-1]}, listen: 'localhost:8801'}}", C],
            ["localhost:8802", "localhost:8801", "localhost:8803"],
            id="past-a-written-one",
        ),
        pytest.param(
            "auto",
            [f"{A[:-1]}, listen: 'unix:/run/a.sock'}}"],
            ["unix:/run/a.sock, localhost:8801"],
            id="beside-a-unix-socket",
        ),
        pytest.param(
            "auto", ["{name: s, host: '*.run.app', upstream: 'https://{host}'}"], [""], id="not-a-wildcard"
        ),
    ],
)
def test_the_ports_of_auto(listen: str, routes: list[str], own: list[str]) -> None:
    """From 8801 on; no number that the configuration has written elsewhere."""
    config = load(f"listen: {listen}\nroutes: [{', '.join(routes)}]", environ={}).config
    assert [", ".join(str(it.address) for it in route.listen) for route in config.routes] == own


def test_auto_leaves_the_shared_listeners_as_they_are() -> None:
    """The usual one where none is named; and the ports are what routes are called by."""
    config = load(f"listen: auto\nroutes: [{A}, {B}]", environ={}).config
    assert [str(it.address) for it in config.listen] == ["localhost:8787"]
    assert configured_urls(config) == {"a": "http://localhost:8801", "b": "http://localhost:8802"}
    config = load(f"routes: [{A}]", environ={}, flags={"listen": "['unix:/run/s.sock', auto]"}).config
    assert [str(it.address) for it in config.listen] == ["unix:/run/s.sock"]
    assert configured_urls(config) == {"a": "http://localhost:8801"}


def test_the_ports_require_the_header_that_the_shared_listener_does() -> None:
    """They are no way past it."""
    listen = "[{address: 'localhost:1', require_header: {X-Caller: s3cret}}, auto]"
    (route,) = load(f"listen: {listen}\nroutes: [{A}]", environ={}).config.routes
    ((name, value),) = route.listen[0].require_header or ()
    assert (name, value.get_secret_value()) == ("X-Caller", "s3cret")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen: [{address: 'unix:/s', peers: {uid: [1]}}, auto]", "listen: `peers` tells processes apart"),
        (
            "listen: [{address: 'localhost:1', tls: {cert_file: /c, key_file: /k, client_ca_file: /a}}, auto]",
            "listen: `client_ca_file` asks for certificates",
        ),
        ("listen: {address: auto, connections: 3}", "`auto` has no settings"),
        ("admin: auto", "admin: "),
    ],
)
def test_where_auto_cannot_be(text: str, says: str) -> None:
    """Where a port would ask less of its callers than the shared listener does; and the admin server has one address."""
    with pytest.raises(ConfigError) as caught:
        load(f"{text}\nroutes: [{A}]", environ={})
    assert says in str(caught.value)
