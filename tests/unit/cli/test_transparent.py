"""sidecar.cli.transparent and sidecar.config.transparent: what leads a command's https through the sidecar"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from sidecar.cli.transparent import for_java, intercepting
from sidecar.config.load import load
from sidecar.config.transparent import by_http, by_https, spared_beside
from tests.support import openssl

PROXY = "http://localhost:8787"


def test_every_route_is_read_that_does_not_say_otherwise() -> None:
    """And has a host to be asked for by; the bundle is in a directory of this process's own."""
    config = load(
        """
routes:
  - {name: a, upstream: "https://a.run.app"}
  - {name: b, upstream: "https://b.run.app", intercept: false}
  - {name: c, upstream: "http://localhost:1", audience: c}
""",
        environ={},
    ).config
    made = intercepting(config, "/own")
    assert [route.intercept for route in made.routes] == [True, False, False]
    assert made.intercept is not None
    assert made.intercept.bundle_file == "/own/ca-bundle.pem"


def test_what_the_configuration_names_stays() -> None:
    """A CA of one's own, and the place of the bundle."""
    text = "intercept: {bundle_file: /x/b.pem, ca_cert_file: c, ca_key_file: k}\n"
    config = load(
        text + "routes: [{name: a, upstream: 'https://a.run.app', intercept: true}]", environ={}
    ).config
    assert intercepting(config, "/own").intercept == config.intercept
    apart = load(
        "intercept: {ca_cert_file: c, ca_key_file: k}\n"
        "routes: [{name: a, upstream: 'https://a.run.app', intercept: true}]",
        environ={},
    ).config
    made = intercepting(apart, "/own").intercept
    assert made is not None
    assert (made.ca_cert_file, made.bundle_file) == ("c", "/own/ca-bundle.pem")


def test_the_variables_of_the_common_stacks() -> None:
    """Capitals and small letters; what went direct before goes on doing so."""
    spared = spared_beside("corp.example, localhost,,10.0.0.0/8")
    assert spared[:3] == ["corp.example", "localhost", "10.0.0.0/8"]
    assert {"169.254.169.254", "metadata.google.internal", "127.0.0.1"} < set(spared)
    http = by_http(PROXY, spared)
    assert (http["HTTP_PROXY"], http["http_proxy"]) == (PROXY, PROXY)
    assert http["NO_PROXY"] == http["no_proxy"] == ",".join(spared)
    https = by_https(PROXY, "/b.pem")
    assert (https["HTTPS_PROXY"], https["https_proxy"], https["NODE_USE_ENV_PROXY"]) == (PROXY, PROXY, "1")


@pytest.fixture
def java(tmp_path: Path) -> dict[str, str]:
    """An environment with a `java` in it."""
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return {"PATH": str(program.parent)}


def test_a_jvm_is_told_by_one_variable(tmp_path: Path, java: dict[str, str]) -> None:
    """Proxy and trust store; what the variable said before stays."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(openssl.authority("one").pem + openssl.authority("two").pem)
    found = for_java(
        {**java, "JAVA_TOOL_OPTIONS": "-Xmx1g"},
        proxy=PROXY,
        spared=["localhost", ".localhost"],
        bundle=str(bundle),
        directory=str(tmp_path),
    )
    options = found["JAVA_TOOL_OPTIONS"].split()
    assert options[0] == "-Xmx1g"
    assert {"-Dhttps.proxyHost=localhost", "-Dhttps.proxyPort=8787"} < set(options)
    assert "-Dhttp.nonProxyHosts=localhost|*.localhost" in options
    (store,) = (it.partition("=")[2] for it in options if it.startswith("-Djavax.net.ssl.trustStore="))
    held = pkcs12.load_pkcs12(Path(store).read_bytes(), b"changeit")
    assert held.key is None
    assert {it.certificate.subject.rfc4514_string() for it in held.additional_certs} == {"CN=one", "CN=two"}
    assert Path(store).stat().st_mode & 0o777 == 0o600


def test_a_jvm_of_java_home_is_found(tmp_path: Path, java: dict[str, str]) -> None:
    """Where none is on the path; without any, there is nothing to set."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(openssl.authority("one").pem)
    more = {"proxy": PROXY, "spared": [], "bundle": str(bundle), "directory": str(tmp_path)}
    assert for_java({"PATH": "/nonexistent"}, **more) == {}  # type: ignore[arg-type]
    assert not (tmp_path / "trust.p12").exists()
    assert for_java({"PATH": "/nonexistent", "JAVA_HOME": str(tmp_path)}, **more)  # type: ignore[arg-type]
