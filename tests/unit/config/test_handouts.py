"""sidecar.config.audiences, .handouts and .handout_rules: what gives tokens to programs, as people write it"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.audiences import AudienceList, parse_audience, parse_audiences
from sidecar.config.load import ConfigError, load

BUNDLE = "intercept: {bundle_file: /run/bundle.pem}"
ROUTE = "routes: [{name: billing, upstream: 'https://billing-1.a.run.app'}]\n"


@pytest.mark.parametrize(
    ("entries", "audience", "is_in"),
    [
        pytest.param(["https://a.run.app"], "https://a.run.app", True, id="letter-by-letter"),
        pytest.param(["https://a.run.app"], "https://a.run.app/", False, id="slash"),
        pytest.param(["https://a.run.app"], "https://A.run.app", False, id="case"),
        pytest.param(["https://a.run.app"], "http://a.run.app", False, id="scheme"),
        pytest.param(["https://a.run.app/"], "https://a.run.app/", True, id="as-listed"),
        pytest.param(
            ["1-x.apps.googleusercontent.com"], "1-x.apps.googleusercontent.com", True, id="client-id"
        ),
        pytest.param(["https://*.a.run.app"], "https://b.a.run.app", True, id="wildcard"),
        pytest.param(["https://*.a.run.app"], "https://c.b.a.run.app", True, id="two-labels"),
        pytest.param(["https://*.a.run.app"], "https://a.run.app", False, id="its-own-suffix"),
        pytest.param(["https://*.a.run.app"], "https://.a.run.app", False, id="no-label"),
        pytest.param(["https://*.a.run.app"], "https://xa.run.app", False, id="not-a-label"),
        pytest.param(["https://*.a.run.app"], "https://b.a.run.app:443", False, id="port"),
        pytest.param(["https://*.a.run.app"], "https://b.a.run.app/", False, id="path"),
        pytest.param(["https://*.a.run.app"], "https://u@b.a.run.app", False, id="user"),
        pytest.param(
            ["https://*.a.run.app"], "https://evil.example/.a.run.app", False, id="suffix-in-a-path"
        ),
        pytest.param(
            ["https://*.a.run.app"], "https://evil.example?.a.run.app", False, id="suffix-in-a-query"
        ),
        pytest.param(
            ["https://*.a.run.app"], "https://evil.example#.a.run.app", False, id="suffix-in-a-fragment"
        ),
        pytest.param(["https://*.a.run.app"], "https://evil.example\\.a.run.app", False, id="backslash"),
        pytest.param(["https://*.a.run.app"], "https://B.a.run.app", False, id="capitals"),
        pytest.param(["https://*.a.run.app"], "https://b.a.run.app.", False, id="root-dot"),
        pytest.param(["https://*.a.run.app"], "https://*.a.run.app", False, id="the-wildcard-itself"),
        pytest.param(["https://*.a.run.app"], "https://b\n.a.run.app", False, id="line-break"),
        pytest.param([], "", False, id="nothing"),
    ],
)
def test_an_audience_is_in_a_list(entries: list[str], audience: str, is_in: bool) -> None:
    """Letter by letter, or as a host under a wildcard and nothing else."""
    assert (audience in AudienceList(map(parse_audience, entries))) is is_in


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_gets_under_a_wildcard_but_a_host(before: str, after: str) -> None:
    """Whatever is put around the suffix: what is let in is `https://`, labels, and the suffix."""
    audience = f"https://{before}.a.run.app{after}"
    if audience in AudienceList(["https://*.a.run.app"]):
        host = audience.removeprefix("https://")
        assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._")
        assert host.endswith(".a.run.app")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param("*", "a wildcard stands for the first labels", id="star"),
        pytest.param("*.a.run.app", "a wildcard stands for the first labels", id="no-scheme"),
        pytest.param("http://*.a.run.app", "a wildcard stands for the first labels", id="plain-http"),
        pytest.param("https://a.*.run.app", "a wildcard stands for the first labels", id="in-the-middle"),
        pytest.param("https://*.app", "at least two fixed labels", id="one-label"),
        pytest.param("https://*.a.run.app/x", "without port and path", id="path"),
        pytest.param("https://*.a.run.app:443", "without port and path", id="port"),
        pytest.param("https://*.A.run.app", "small letters", id="capitals"),
        pytest.param("https://*.0.0.1", "small letters", id="addresses"),
        pytest.param("", "is not an audience", id="empty"),
        pytest.param("a b", "is not an audience", id="space"),
        pytest.param(7, "is not an audience", id="number"),
        pytest.param([], "a list of them belongs here", id="empty-list"),
    ],
)
def test_what_is_no_entry_of_a_list(value: object, says: str) -> None:
    """A sentence says what is."""
    with pytest.raises(ValueError, match=says):
        parse_audiences(value if isinstance(value, list) else [value])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            "metadata_server: {listen: '0.0.0.0:8788'}",
            "metadata_server.listen: 0.0.0.0:8788 can be reached from other machines",
            id="remote",
        ),
        pytest.param(
            "allow_remote: true\ntoken_endpoint: {listen: '10.0.0.1:8789', secret: abcdefghabcdefgh}",
            "token_endpoint.listen: 10.0.0.1:8789 can be reached from other machines",
            id="remote-in-spite-of-allow-remote",
        ),
        pytest.param(
            "metadata_server: {credential: no-such-one}",
            "metadata_server.credential: no credential is called `no-such-one`",
            id="no-such-credential",
        ),
        pytest.param(
            "metadata_server: {peers: {gid: 5}}",
            "metadata_server.peers: the other end of a port tells its user and no groups",
            id="groups-on-a-port",
        ),
        pytest.param("metadata_server: {peers: {}}", "nobody is named", id="no-peers"),
        pytest.param(
            "metadata_server: {listen: 'localhost:9787'}", "are the same place", id="the-admin-port-s-address"
        ),
        pytest.param(
            "metadata_server: {listen: 'localhost:8789'}\ntoken_endpoint: {secret: abcdefghabcdefgh}",
            "localhost:8789 and localhost:8789 of `metadata_server` are the same place",
            id="each-other-s-address",
        ),
        pytest.param(
            "credentials: {default: {type: static, token: abc}}\nmetadata_server: {scopes: [a]}",
            "metadata_server.scopes: credential `default` gives no access tokens",
            id="no-access-tokens",
        ),
        pytest.param(
            "credentials: {default: {type: user}}\nmetadata_server: {audiences: ['https://*.a.run.app']}",
            "every audience under `https://*.a.run.app` would get the same ID token of a person",
            id="a-person-under-a-wildcard",
        ),
        pytest.param(
            "credentials: {default: {type: user}}\nmetadata_server: {audiences: ['https://api.example']}",
            "the ID token of a person is for gcloud's client id",
            id="a-person-for-what-takes-none",
        ),
        pytest.param(
            "credentials: {default: {type: adc}, other: {type: adc}}\nmetadata_server: {credential: other}",
            "it would give no tokens: no route has credential `other`",
            id="nothing-to-give",
        ),
        pytest.param("token_endpoint: {}", "token_endpoint: the key `secret` is missing", id="no-secret"),
        pytest.param("token_endpoint: {secret: ''}", "must be text, and not empty", id="empty-secret"),
        pytest.param("token_endpoint: {secret: 12345678}", "must be text", id="number-for-a-secret"),
        pytest.param(
            "metadata_server: {tokens: none}",
            "'real' or 'placeholder' belongs here",
            id="tokens-of-another-sort",
        ),
        pytest.param("google_token_endpoints: {}", "write `intercept: {bundle_file: PATH}`", id="no-ca"),
        pytest.param(
            f"google_token_endpoints: {{peers: {{gid: 5}}}}\n{BUNDLE}",
            "google_token_endpoints.peers: apps come by the port of the proxy",
            id="groups-behind-a-port",
        ),
        pytest.param(
            f"google_token_endpoints: {{peers: {{}}}}\n{BUNDLE}",
            "nobody could ask: give `uid`",
            id="no-peers",
        ),
        pytest.param(
            f"google_token_endpoints: {{credential: x}}\n{BUNDLE}", "no credential is called `x`", id="whose"
        ),
        pytest.param(
            f"google_token_endpoints: {{listen: 'localhost:1'}}\n{BUNDLE}",
            "unknown key",
            id="it-does-not-listen",
        ),
        pytest.param(
            f"google_token_endpoints: {{credential: k}}\ncredentials: {{default: {{type: adc}}, k: {{type: adc}}}}\n{BUNDLE}",
            "it would give no tokens: no route has credential `k`",
            id="placeholders-of-nothing",
        ),
    ],
)
def test_what_can_t_be(text: str, says: str) -> None:
    """Each with the key that it is about."""
    with pytest.raises(ConfigError) as error:
        load(f"{text}\n{ROUTE}", environ={})
    assert says in str(error.value)


@pytest.mark.parametrize("where", ["variable", "key"])
def test_a_sidecar_does_not_ask_itself(where: str) -> None:
    """Its own credential would be led to its own metadata server."""
    address, environ = "127.0.0.1:8788", {}
    text = "metadata_server: {}\n"
    if where == "key":
        text += f"endpoints: {{metadata: '{address}'}}\n"
    else:
        environ = {"GCE_METADATA_HOST": address}
    with pytest.raises(ConfigError, match="it leads to this sidecar's own metadata server"):
        load(text + ROUTE, environ=environ)
    load(f"{text}credentials: {{default: {{type: gcloud}}}}\n{ROUTE}", environ=environ)


@pytest.mark.parametrize(
    ("route", "fits"),
    [
        pytest.param(
            "host: oauth2.googleapis.com, upstream: 'https://x.googleapis.com'", False, id="as-host"
        ),
        pytest.param("upstream: 'https://sts.googleapis.com'", False, id="as-upstream"),
        pytest.param(
            "host: '*.googleapis.com', upstream: 'https://{host}', wildcard_audience: shared",
            True,
            id="under-a-wildcard",
        ),
    ],
)
def test_one_answers_for_a_host(route: str, fits: bool) -> None:
    """A route that takes https to one of Google's token endpoints, and this, too: only a wildcard may, and has the rest."""
    text = (
        f"google_token_endpoints: {{scopes: [a]}}\n{BUNDLE}\n"
        f"routes: [{{name: api, {route}, token: access, intercept: true}}]\n"
    )
    if fits:
        load(text, environ={})
        return
    with pytest.raises(ConfigError, match="is answered here, and route `api` takes it, too"):
        load(text, environ={})
    load(text.replace(", intercept: true", ""), environ={})


ALLOWED = "routes: [{name: billing, upstream: 'https://billing-1.a.run.app', allow: {methods: [GET]}}]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            f"listen: {{address: 'localhost:8787', require_header: {{X-Caller: abcdefgh}}}}\nmetadata_server: {{}}\n{ROUTE}",
            "metadata_server: the listener localhost:8787 tells callers apart",
            id="a-guarded-listener-beside-an-open-server",
        ),
        pytest.param(
            f"listen: {{address: 'localhost:8787', require_header: {{X-Caller: abcdefgh}}}}\n"
            f"metadata_server: {{peers: {{uid: 5}}}}\n{ROUTE}",
            None,
            id="with-peers",
        ),
        pytest.param(
            f"metadata_server: {{}}\n{ALLOWED}",
            "route `billing` lets only some requests through (`allow`)",
            id="allow-beside-its-token",
        ),
        pytest.param(
            f"metadata_server: {{audiences: ['https://*.a.run.app']}}\n{ALLOWED}",
            "route `billing` lets only some requests through (`allow`)",
            id="allow-under-a-wildcard",
        ),
        pytest.param(
            f"metadata_server: {{audiences: [b]}}\n{ALLOWED}", None, id="allow-and-another-audience"
        ),
        pytest.param(
            f"token_endpoint: {{secret: short}}\n{ROUTE}",
            "token_endpoint.secret: it has fewer than 16 characters",
            id="short-secret",
        ),
        pytest.param(
            f"metadata_server: {{tokens: placeholder, audiences: ['https://b.example']}}\n{ROUTE}",
            "no route sends a token for `https://b.example`, so a placeholder for it is worth nothing anywhere",
            id="placeholder-for-no-route",
        ),
        pytest.param(
            f"metadata_server: {{tokens: placeholder, scopes: [a]}}\n{ROUTE}",
            "no route sends access tokens",
            id="placeholder-of-an-access-token-for-no-route",
        ),
        pytest.param(
            f"metadata_server: {{tokens: placeholder, audiences: ['https://billing-1.a.run.app']}}\n{ALLOWED}",
            None,
            id="allow-and-placeholders",
        ),
        pytest.param(
            f"google_token_endpoints: {{}}\n{BUNDLE}\nmetadata_server: {{}}\n{ROUTE}",
            "google_token_endpoints: it gives placeholders, and `metadata_server` gives the same programs real tokens",
            id="placeholders-beside-real-tokens",
        ),
        pytest.param(
            f"google_token_endpoints: {{}}\n{BUNDLE}\nmetadata_server: {{tokens: placeholder}}\n{ALLOWED}",
            None,
            id="placeholders-beside-placeholders",
        ),
        pytest.param(
            f"google_token_endpoints: {{scopes: [a]}}\n{BUNDLE}\n{ROUTE}",
            "google_token_endpoints.scopes: no route sends access tokens",
            id="a-dummy-key-for-no-route",
        ),
        pytest.param(
            f"google_token_endpoints: {{audiences: ['https://b.example']}}\n{BUNDLE}\n{ROUTE}",
            "google_token_endpoints.audiences: no route sends a token for `https://b.example`",
            id="a-dummy-keys-audience-of-no-route",
        ),
        pytest.param(f"google_token_endpoints: {{}}\n{BUNDLE}\n{ROUTE}", None, id="dummy-keys"),
        pytest.param(
            f"google_token_endpoints: {{}}\n{BUNDLE}\n"
            f"listen: {{address: 'localhost:8787', tls: {{cert_file: a, key_file: b}}}}\n{ROUTE}",
            "google_token_endpoints: apps ask these hosts through their proxy (HTTPS_PROXY)",
            id="dummy-keys-and-no-proxy",
        ),
        pytest.param(f"metadata_server: {{}}\n{ROUTE}", None, id="nothing-odd"),
    ],
)
def test_unsafe_mixes_are_explained(text: str, says: str | None) -> None:
    """They are valid, and a warning says what is given away and how not to."""
    warnings = load(text, environ={}).warnings
    assert [says in warning for warning in warnings] == [True] if says else warnings == ()


def test_its_secret_is_a_secret() -> None:
    """No message and no copy has it, and no program sees its variable."""
    loaded = load(f'token_endpoint: {{secret: "${{MINE}}"}}\n{ROUTE}', environ={"MINE": "abcdefghijklmnopq"})
    assert "abcdefgh" not in repr(loaded)
    assert loaded.config.secret_variables == {"MINE"}
