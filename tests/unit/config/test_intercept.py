"""sidecar.config.intercept_rules: what `intercept` asks of the rest of a configuration, and what is warned of"""

from __future__ import annotations

import pytest

from sidecar.config.document import files_of
from sidecar.config.load import ConfigError, load

GROUP = "intercept: {bundle_file: /run/x/ca.pem}\n"
ROUTE = "routes: [{name: billing, upstream: 'https://billing-1.a.run.app', intercept: true}]\n"
PLAIN = ROUTE.replace(", intercept: true", "")
LISTENER = "listen: {address: '127.0.0.1:443', intercept: true}\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GROUP + ROUTE, id="a-bundle"),
        pytest.param("intercept: {ca_cert_file: a, ca_key_file: b}\n" + ROUTE, id="a-ca-that-apps-trust"),
        pytest.param(GROUP + ROUTE + LISTENER, id="a-listener"),
        pytest.param(
            GROUP + ROUTE.replace("true}", "true, listen: {address: '127.0.0.1:443', intercept: true}}"),
            id="a-listener-of-the-routes-own",
        ),
    ],
)
def test_what_is_right(text: str) -> None:
    """No error and no warning."""
    assert load(text, environ={}).warnings == ()


WRONG = [
    pytest.param(ROUTE, "routes[0].intercept", "bundle_file: PATH", id="no-group"),
    pytest.param("intercept: {}\n" + ROUTE, "intercept", "name a `bundle_file`", id="nothing-to-trust"),
    pytest.param(
        "intercept: {bundle_file: a, ca_cert_file: b}\n" + ROUTE, "intercept", "go together", id="no-key"
    ),
    pytest.param(
        "intercept: {bundle_file: a, ca_key_file: b}\n" + ROUTE,
        "intercept",
        "go together",
        id="no-certificate",
    ),
    pytest.param(
        "intercept: {bundle_file: a, allow_world_readable: true}\n" + ROUTE,
        "intercept.allow_world_readable",
        "`ca_key_file`, which is not set",
        id="a-switch-about-nothing",
    ),
    pytest.param(
        "intercept: {bundle_file: a, ca_cert_file: a, ca_key_file: b}\n" + ROUTE,
        "intercept.bundle_file",
        "would be overwritten",
        id="over-the-ca",
    ),
    pytest.param(
        "intercept: {bundle_file: a}\nca_file: a\n" + ROUTE,
        "intercept.bundle_file",
        "would be overwritten",
        id="over-what-is-trusted",
    ),
    pytest.param(
        "intercept: {bundle_file: a}\n"
        + ROUTE.replace("true}", "true, tls: {client_key_file: a, client_cert_file: b}}"),
        "intercept.bundle_file",
        "would be overwritten",
        id="over-a-routes-file",
    ),
    pytest.param(
        GROUP + "routes: [{name: a, upstream: 'http://localhost:1', audience: b, intercept: true}]\n",
        "routes[0].intercept",
        "give it a `host`",
        id="no-host",
    ),
    pytest.param(
        GROUP + PLAIN + LISTENER, "listen.intercept", "nobody could be served", id="a-listener-for-nobody"
    ),
    pytest.param(
        GROUP + PLAIN.replace("'}", "', listen: {address: '127.0.0.1:443', intercept: true}}"),
        "routes[0].listen.intercept",
        "on the route itself",
        id="a-routes-listener-alone",
    ),
    pytest.param(
        GROUP + ROUTE + LISTENER.replace("}", ", tls: {cert_file: a, key_file: b}}"),
        "listen.tls",
        "leave `tls` out",
        id="with-another-certificate",
    ),
    pytest.param(
        GROUP + ROUTE + LISTENER.replace("127.0.0.1:443", "unix:/run/a"),
        "listen.address",
        "port 443",
        id="on-a-unix-socket",
    ),
    pytest.param(
        GROUP + ROUTE + LISTENER.replace("127.0.0.1:443", "0.0.0.0:443"),
        "listen",
        "allow_remote",
        id="for-other-machines",
    ),
]


@pytest.mark.parametrize(("text", "path", "words"), WRONG)
def test_what_is_wrong(text: str, path: str, words: str) -> None:
    """Said at its key, with what to do."""
    with pytest.raises(ConfigError) as raised:
        load(text, environ={})
    assert [problem.path for problem in raised.value.problems] == [path]
    assert words in raised.value.problems[0].message


DOUBTFUL = [
    pytest.param(GROUP + PLAIN, "no CA is made", id="nothing-to-intercept"),
    pytest.param(
        GROUP
        + "routes: [{name: a, host: a.internal, upstream: 'http://b.internal', audience: b, allow_plaintext: true, "
        "intercept: true}]\n",
        "goes on in plaintext",
        id="plaintext-behind",
    ),
    pytest.param(
        GROUP + "routes: [{name: a, host: '*.a.run.app', upstream: 'https://{host}', intercept: true}]\n",
        "every name under `a.run.app`",
        id="a-wildcard",
    ),
    pytest.param(
        GROUP + ROUTE + "allow_remote: true\nlisten: '0.0.0.0:8787'\n", "other machines reach", id="remote"
    ),
    pytest.param(
        GROUP
        + ROUTE
        + "listen: [{address: 'localhost:1', require_header: {X-A: abc}}, {address: '127.0.0.1:443', "
        "intercept: true}]\n",
        "every process of this machine",
        id="a-way-round-a-guard",
    ),
]


@pytest.mark.parametrize(("text", "words"), DOUBTFUL)
def test_what_is_unsafe_is_explained(text: str, words: str) -> None:
    """As a warning, with what to do."""
    (warning,) = load(text, environ={}).warnings
    assert words in warning


def test_the_bundle_is_no_file_that_must_be_there() -> None:
    """It is written, not read."""
    config = load("intercept: {bundle_file: a, ca_cert_file: b, ca_key_file: c}\n" + ROUTE, environ={}).config
    assert list(files_of(config)) == ["b", "c"]
