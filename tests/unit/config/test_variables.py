"""sidecar.config.variables: what others' environment variables may hold"""

from __future__ import annotations

import pytest

from sidecar.config.load import ConfigError, load
from sidecar.config.variables import metadata_address, mutual_tls
from sidecar.tokens.grants.metadata import MetadataGrant

ROUTES = "routes: [{name: a, upstream: 'https://a.example'}]\n"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        pytest.param("169.254.169.254", "169.254.169.254", id="address"),
        pytest.param("metadata.google.internal", "metadata.google.internal", id="name"),
        pytest.param("127.0.0.1:8080", "127.0.0.1:8080", id="port"),
        pytest.param("http://127.0.0.1:8080", "127.0.0.1:8080", id="scheme"),
        pytest.param("HTTP://h:1", "h:1", id="scheme-in-capitals"),
        pytest.param("http://127.0.0.1:8080/", "127.0.0.1:8080", id="scheme-and-slash"),
        pytest.param("127.0.0.1:8080/", "127.0.0.1:8080", id="slash"),
        pytest.param(" 127.0.0.1:8080 ", "127.0.0.1:8080", id="blanks"),
        pytest.param("127.0.0.1:8080\r\n", "127.0.0.1:8080", id="end-of-line"),
        pytest.param("fd20:ce::254", "[fd20:ce::254]", id="bare-ipv6"),
        pytest.param("http://fd20:ce::254/", "[fd20:ce::254]", id="bare-ipv6-in-a-url"),
        pytest.param("[fd20:ce::254]", "[fd20:ce::254]", id="ipv6"),
        pytest.param("[::1]:80", "[::1]:80", id="ipv6-and-port"),
        pytest.param("Metadata.Google.Internal.", "metadata.google.internal", id="spelling"),
    ],
)
def test_what_is_plainly_meant_works(text: str, address: str) -> None:
    """As a variable of google-auth's, and as the key of the configuration; it is where tokens are asked for."""
    assert metadata_address(text) == address
    for variable in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT"):
        assert load(ROUTES, environ={variable: text}).config.routes
        found = MetadataGrant({variable: text}).describe()
        assert found == f"default service account of the metadata server at {address}"
    config = load(f"{ROUTES}endpoints: {{metadata: '${{HOST}}'}}\n", environ={"HOST": text.strip()}).config
    assert config.endpoints.metadata == address


@pytest.mark.parametrize(
    "text",
    [
        "https://169.254.169.254",
        "http://",
        "http://h/computeMetadata/v1",
        "h:0",
        "h:80808",
        "h:port",
        "me:secret@h",
        "fe80::1%eth0",
        "[::1]x",
        "a b",
        "ftp://h",
        "unix:/run/metadata.sock",
    ],
)
def test_what_is_not_is_an_error_that_names_the_variable(text: str) -> None:
    """Where a credential follows it: with what to set."""
    for variable in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT"):
        with pytest.raises(ConfigError) as caught:
            load(ROUTES, environ={variable: text})
        (problem,) = caught.value.problems
        assert problem.where == variable
        assert "set it to " in problem.message
        assert "`169.254.169.254` or `127.0.0.1:8080`" in problem.message
        assert "secret" not in problem.message
    with pytest.raises(ConfigError, match=r"endpoints\.metadata: .*set it to "):
        load(f"{ROUTES}endpoints: {{metadata: '{text}'}}\n", environ={})


def test_a_blank_says_nothing() -> None:
    """And the next variable counts, as where it is not set."""
    environ = {"GCE_METADATA_HOST": " ", "GCE_METADATA_ROOT": "r:2"}
    assert load(ROUTES, environ=environ).config.routes
    assert MetadataGrant(environ).describe().endswith(" at r:2")
    assert MetadataGrant({"GCE_METADATA_HOST": " "}).describe().endswith(" at metadata.google.internal")


PASSWORD = "s3cretWord"
KEY = "credentials: {default: {type: service_account_key, file: /x.json}}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("socks5://proxy:1080", "SOCKS is not supported", id="socks"),
        pytest.param(f"http://me:{PASSWORD}#x@proxy:3128", "write `#` as `%23`", id="hash"),
        pytest.param(f"me:{PASSWORD}", "not a proxy's URL", id="no-url"),
        pytest.param("http://localhost:8787", "this sidecar, which listens on localhost:8787", id="own"),
        pytest.param("http://127.0.0.1:9787", "this sidecar, which listens on localhost:9787", id="admin"),
        pytest.param("http://[::1]:7001", "this sidecar, which listens on localhost:7001", id="own-port"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_told_at_start(variable: str, text: str, says: str) -> None:
    """Once, by its variable and without its password, where a credential asks by it; the fetch says the same."""
    routes = "routes: [{name: a, upstream: 'https://a.example', listen: 'localhost:7001'}]\n"
    (warning,) = load(routes + KEY, environ={variable: text}).warnings
    assert warning.startswith(
        f"the environment variable {variable}, by which token endpoints are asked, can't be"
    )
    assert says in warning
    assert PASSWORD[:4] not in warning
    for credential in ("{type: static, token: x}", "{type: metadata}", "{type: gcloud}"):
        other = f"{routes}credentials: {{default: {credential}}}\n"
        assert load(other, environ={variable: text}).warnings == ()


@pytest.mark.parametrize("text", ["", " ", "http://proxy:3128", "proxy:3128", "http://localhost:3128"])
def test_a_proxy_that_can_be_used_is_not(text: str) -> None:
    """Nor none."""
    assert load(ROUTES + KEY, environ={"HTTPS_PROXY": text}).warnings == ()


@pytest.mark.parametrize("mode", ["", " ", "none", "NONE", "strict", " Default "])
def test_modes_of_mutual_tls(mode: str) -> None:
    """google-auth's."""
    environ = {"GCE_METADATA_MTLS_MODE": mode}
    assert load(ROUTES, environ=environ).config.routes
    assert mutual_tls(environ) is (mode.strip().lower() in ("strict", "default"))


def test_a_mode_of_mutual_tls_that_there_is_not() -> None:
    """It was taken for none, so that a metadata server was asked in plaintext where somebody wanted TLS."""
    for mode in ("on", "required", "true"):
        with pytest.raises(
            ConfigError, match=rf"GCE_METADATA_MTLS_MODE: `{mode}` is not a mode: set it to `strict`"
        ):
            load(ROUTES, environ={"GCE_METADATA_MTLS_MODE": mode})
    assert load(
        f"{ROUTES}credentials: {{default: {{type: static, token: x}}}}\n",
        environ={"GCE_METADATA_MTLS_MODE": "on"},
    )
