"""sidecar.runtime.trust: whose certificates are good"""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

from sidecar.runtime.trust import Bundle, Trust, UnusableCaError, for_token_endpoints, for_upstreams
from tests.support.openssl import authority, revocations, write

CA = authority("the CA")


def hashed(directory: Path) -> Path:
    """A directory as OpenSSL looks certificates up in it."""
    directory.mkdir()
    write(directory / "ca.pem", CA.pem)
    subprocess.run(["openssl", "rehash", str(directory)], check=True)
    return directory


def subjects(trust: Trust) -> list[str]:
    """The CAs that were read."""
    names = [dict(pair for part in ca["subject"] for pair in part) for ca in trust.context().get_ca_certs()]
    return [name.get("commonName", "") for name in names]


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"SSL_CERT_FILE": "f"}, ["SSL_CERT_FILE"]),
        ({"SSL_CERT_DIR": "d"}, ["SSL_CERT_DIR"]),
        ({"SSL_CERT_FILE": "f", "SSL_CERT_DIR": "d"}, ["SSL_CERT_FILE", "SSL_CERT_DIR"]),
        ({"REQUESTS_CA_BUNDLE": "f", "CURL_CA_BUNDLE": "d", "SSL_CERT_FILE": "d"}, ["REQUESTS_CA_BUNDLE"]),
        ({"REQUESTS_CA_BUNDLE": "d"}, ["REQUESTS_CA_BUNDLE"]),
        ({"CURL_CA_BUNDLE": "f", "SSL_CERT_FILE": "d"}, ["CURL_CA_BUNDLE"]),
        ({"REQUESTS_CA_BUNDLE": "", "SSL_CERT_FILE": ""}, []),
    ],
)
def test_what_counts(tmp_path: Path, variables: dict[str, str], named: list[str]) -> None:
    """For token endpoints; for upstreams the same without what only requests knows. `ca_file` goes before all."""
    places = {"f": str(write(tmp_path / "ca.pem", CA.pem)), "d": str(hashed(tmp_path / "hashed")), "": ""}
    environ = {name: places[place] for name, place in variables.items()}
    tokens = for_token_endpoints(environ, None)
    assert [bundle.name for bundle in tokens.bundles] == named
    assert set(tokens.files) <= {*environ.values()}
    of_openssl = [name for name, path in environ.items() if name.startswith("SSL_") and path]
    assert [bundle.name for bundle in for_upstreams(environ).bundles] == of_openssl
    if variables.get(named[0] if named else "") == "f":
        assert "the CA" in subjects(tokens)
    tokens.context()
    own = for_token_endpoints(environ, places["f"])
    assert subjects(own) == ["the CA"]
    assert str(own) == f"`ca_file` ({places['f']})"


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file or directory"),
    "text": (lambda path: write(path, b"hello"), "it holds no certificate in PEM"),
    "empty": (lambda path: write(path, b""), "it holds no certificate in PEM"),
    "only-revocations": (lambda path: write(path, revocations(CA)), "it holds no certificate in PEM"),
    "pipe": (lambda path: os.mkfifo(path), "it is a pipe, not a regular file"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
}


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "ca_file"])
def test_a_file_that_cannot_be_used_is_named_with_why(tmp_path: Path, variable: str, case: str) -> None:
    """And the system's store does not take its place."""
    make, words = UNUSABLE[case]
    path = tmp_path / "ca.pem"
    make(path)
    if case == "directory" and variable.endswith("BUNDLE"):
        words = "it holds no certificate under a name by which OpenSSL finds it (`openssl rehash`)"
    trust = (
        for_token_endpoints({}, str(path))
        if variable == "ca_file"
        else for_token_endpoints({variable: str(path)}, None)
    )
    name = "`ca_file`" if variable == "ca_file" else variable
    with pytest.raises(UnusableCaError) as caught:
        trust.context()
    assert str(caught.value) == f"{name} cannot be used ({path}): {words}"


def test_directories(tmp_path: Path) -> None:
    """One of several is enough; one that is missing, or none with a certificate, is named."""
    good, empty = hashed(tmp_path / "hashed"), tmp_path / "empty"
    empty.mkdir()
    both = os.pathsep.join((str(empty), str(good)))
    trust = for_upstreams({"SSL_CERT_DIR": both})
    assert trust.files == (str(empty), str(good))
    trust.context()
    for path in (empty, tmp_path / "gone"):
        with pytest.raises(UnusableCaError, match=r"SSL_CERT_DIR cannot be used \("):
            for_upstreams({"SSL_CERT_DIR": str(path)}).context()


def test_contents_in_the_place_of_a_path_are_not_quoted() -> None:
    """`SSL_CERT_FILE="$(cat ca.pem)"`."""
    pem = CA.pem.decode()
    with pytest.raises(UnusableCaError, match="that is not a path") as caught:
        for_upstreams({"SSL_CERT_FILE": pem}).context()
    assert pem[40:80] not in str(caught.value)


def test_every_context_verifies_chain_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no variable has the keys of its connections written down."""
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    for trust in (Trust(), Trust(Bundle("x", str(write(tmp_path / "ca.pem", CA.pem))))):
        context = trust.context()
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert not context.hostname_checks_common_name
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.keylog_filename is None
    assert not log.exists()


def test_a_machine_without_any_ca_has_those_of_certifi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both directions, as token endpoints had them before."""
    paths = ssl.get_default_verify_paths()
    bare = paths._replace(openssl_capath=str(tmp_path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: bare)
    for variable in (paths.openssl_cafile_env, paths.openssl_capath_env):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certifi.where())
    assert for_upstreams({}).context().cert_store_stats() == context.cert_store_stats()
    assert for_token_endpoints({}, None).context().cert_store_stats() == context.cert_store_stats()
