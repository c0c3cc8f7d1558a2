"""sidecar.config.egress: the notation of `egress_proxy`, and which routes have one"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from sidecar.config.document import json_schema, shown
from sidecar.config.egress_rules import told_at_start
from sidecar.config.load import ConfigError, load
from sidecar.routing.routes import RouteTable

ROUTES = """
routes:
- {name: usual, upstream: 'https://a.example'}
- {name: local, upstream: 'http://localhost:7001'}
- {name: asked, upstream: 'http://localhost:7002', egress_proxy: 'http://own:1'}
- {name: none, upstream: 'https://b.example', egress_proxy: none}
- {name: switched, upstream: 'https://c.example', egress_proxy: off}
- {name: inside, upstream: 'https://d.internal.example'}
- {name: address, upstream: 'https://10.1.2.3'}
- {name: any, upstream: 'https://{host}', host: '*.a.run.app'}
"""


def proxies(text: str, **environ: str) -> dict[str, str | None]:
    """Each route's proxy."""
    table = RouteTable.compile(load(text, environ=environ).config)
    found = {}
    for route in table.routes:
        destination = route.fixed() or route.destination("x.a.run.app")
        found[route.name] = None if destination.proxy is None else str(destination.proxy)
    return found


@pytest.mark.parametrize(
    ("top", "inside"),
    [
        pytest.param("http://p:3128", True, id="url"),
        pytest.param("{url: 'http://p:3128'}", True, id="mapping"),
        pytest.param("{url: 'http://p:3128', except: [internal.example, 10.0.0.0/8]}", False, id="list"),
        pytest.param("{url: 'http://p:3128', except: '.internal.example, 10.0.0.0/8'}", False, id="commas"),
        pytest.param("{url: 'http://p:3128', except: ''}", True, id="no-exceptions"),
    ],
)
def test_which_routes_have_the_top_levels(top: str, inside: bool) -> None:
    """All but those on loopback, those that are excepted, and those that say something themselves."""
    usual = "http://p:3128"
    assert proxies(f"egress_proxy: {top}\n{ROUTES}") == {
        "usual": usual,
        "local": None,
        "asked": "http://own:1",
        "none": None,
        "switched": None,
        "inside": usual if inside else None,
        "address": usual if inside else None,
        "any": usual,
    }


def test_without_one_at_the_top_level_only_a_routes_own_counts() -> None:
    """Whatever HTTPS_PROXY says."""
    for top in ("", "egress_proxy: none\n"):
        found = proxies(top + ROUTES, HTTPS_PROXY="http://p:3128", ALL_PROXY="http://p:3128")
        assert {name for name, proxy in found.items() if proxy} == {"asked"}


def test_its_credentials_are_a_secret() -> None:
    """`${VAR}` in the URL: hidden in print, and kept from other programs."""
    text = f"egress_proxy: 'http://${{USER_}}:${{PASS_}}@p:3128'\n{ROUTES}"
    config = load(text, environ={"USER_": "me", "PASS_": "s3cret%23Word"}).config
    assert config.secret_variables == {"USER_", "PASS_"}
    for printed in (shown(config), repr(config), str(config)):
        assert "s3cret" not in printed
    again = yaml.safe_load(shown(config))
    assert again["egress_proxy"] == again["routes"][0]["egress_proxy"] == "http://********@p:3128"
    with pytest.raises(ConfigError, match="what stands in print for a secret"):
        load(shown(config), environ={})


def test_what_is_printed_loads_again() -> None:
    """To the same, with exceptions and without."""
    for top in ("http://p:3128", "{url: 'http://p:3128', except: [internal.example, 10.0.0.0/8]}", "none"):
        config = load(f"egress_proxy: {top}\n{ROUTES}", environ={}).config
        assert load(shown(config), environ={}).config == config


@pytest.mark.parametrize(
    ("top", "says"),
    [
        ("socks5://p:1080", "egress_proxy.url: SOCKS is not supported"),
        ("ftp://p", "egress_proxy.url: a proxy's URL begins with `http://`"),
        ("https://p:3129", "egress_proxy.url: TLS to the proxy itself is not supported"),
        ("'http://me:s3cret#x@p:3128'", "egress_proxy.url: its user name or password has a character"),
        ("http://169.254.169.254:80", "egress_proxy.url: `169.254.169.254` is never connected to"),
        ("http://metadata.google.internal", "is never connected to"),
        ("http://localhost:8787", "egress_proxy: it leads back to the sidecar itself"),
        ("http://127.0.0.1:9787", "egress_proxy: it leads back to the sidecar itself"),
        ("{except: [x]}", "egress_proxy: the key `url` is missing"),
        (
            "{url: 'http://p', except: ['a b']}",
            "egress_proxy.except: `a b` is not a host, address or network",
        ),
        ("{url: 'http://p', exept: []}", "did you mean `except`?"),
        ("[http://p]", "egress_proxy: a mapping of keys belongs here"),
        ("5", "egress_proxy: a mapping of keys belongs here"),
    ],
)
def test_what_is_none(top: str, says: str) -> None:
    """With its place, at the top level and at a route, and never with a password."""
    route = "routes:\n- {name: a, upstream: 'https://a.example'%s}\n"
    for text in (f"egress_proxy: {top}\n{route % ''}", route % f", egress_proxy: {top}"):
        with pytest.raises(ConfigError) as caught:
            load(text, environ={})
        assert says in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("route", "fails"),
    [
        ("upstream: 'https://a.example', allow_private: off", True),
        ("upstream: 'https://{host}', host: '*.a.run.app', allow_private: off", True),
        ("upstream: 'https://a.example', allow_private: off, egress_proxy: none", False),
        ("upstream: 'https://a.inside.example', allow_private: off", False),
        ("upstream: 'https://8.8.8.8', allow_private: off", False),
        ("upstream: 'https://a.example'", False),
    ],
)
def test_public_addresses_only_can_t_be_promised_through_a_proxy(route: str, fails: bool) -> None:
    """It looks names up by itself; a literal address can be told here."""
    top = "egress_proxy: {url: 'http://p:3128', except: inside.example}\n"
    try:
        load(f"{top}routes: [{{name: a, {route}}}]", environ={})
        found = ""
    except ConfigError as error:
        found = str(error)
    assert (
        "allow_private: through `egress_proxy` the upstream's name is looked up by the proxy" in found
    ) is fails


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        (
            "routes: [{name: a, upstream: 'https://a.example'}, {name: b, upstream: 'http://localhost:1'}]",
            {"HTTPS_PROXY": "http://p:1"},
            "HTTPS_PROXY holds for token",
        ),
        (
            "routes: [{name: a, upstream: 'https://a.example'}]",
            {"all_proxy": "http://p:1"},
            "all_proxy holds for token",
        ),
        ("routes: [{name: a, upstream: 'http://localhost:1'}]", {"HTTPS_PROXY": "http://p:1"}, None),
        ("routes: [{name: a, upstream: 'https://a.example'}]", {"HTTPS_PROXY": ""}, None),
        (
            "routes: [{name: a, upstream: 'https://a.example', egress_proxy: none}]",
            {"HTTPS_PROXY": "http://p:1"},
            None,
        ),
        (f"egress_proxy: http://p:1\n{ROUTES}", {"HTTPS_PROXY": "http://p:1"}, None),
        (f"egress_proxy: http://p:1\n{ROUTES}", {}, "token endpoints are reached directly"),
    ],
)
def test_what_is_told_at_start(text: str, environ: dict[str, str], says: str | None) -> None:
    """Where one direction has a proxy and the other has none, and nobody has said that this is meant."""
    found = told_at_start(environ, load(text, environ=environ).config)
    assert (found is None) if says is None else (found is not None and says in found)


def test_the_schema_has_every_form() -> None:
    """A URL or `none`, or a mapping."""
    schema: dict[str, Any] = json_schema()
    for properties in (schema["properties"], schema["$defs"]["RouteConfig"]["properties"]):
        forms = properties["egress_proxy"]["anyOf"]
        assert {"type": "null"} in forms
        assert any(form.get("type") == "string" for inner in forms for form in inner.get("anyOf", [inner]))
