"""sidecar.config.document, and config.example.yaml"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from sidecar.config.credentials import CREDENTIAL_TYPES, Endpoints
from sidecar.config.document import json_schema, shown
from sidecar.config.groups import Drain, Intercept, Limits, PoolSettings, RoutePool, Timeouts, Tls, Tracing
from sidecar.config.handouts import GoogleTokenEndpoints, MetadataServer, TokenEndpoint
from sidecar.config.listeners import ListenerConfig, ListenerTls, Peers
from sidecar.config.load import load
from sidecar.config.models import Config, RouteConfig

EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"


def keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_example_loads_and_has_every_key() -> None:
    """No key of the models is left out."""
    text = EXAMPLE.read_text("utf-8")
    load(text, environ={})
    tree: dict[str, Any] = yaml.safe_load(text)
    assert set(tree) == keys(Config)
    route = tree["routes"][0]
    assert {key for entry in tree["routes"] for key in entry} == keys(RouteConfig)
    assert set(route["tls"]) == keys(Tls)
    listener = route["listen"][1]
    assert set(listener) == keys(ListenerConfig)
    assert set(listener["tls"]) == keys(ListenerTls)
    assert set(listener["peers"]) == keys(Peers)
    assert set(route["timeouts"]) == keys(Timeouts)
    assert set(route["pool"]) == keys(RoutePool)
    for name, model in (
        ("drain", Drain),
        ("limits", Limits),
        ("pool", PoolSettings),
        ("endpoints", Endpoints),
        ("tracing", Tracing),
        ("metadata_server", MetadataServer),
        ("token_endpoint", TokenEndpoint),
        ("google_token_endpoints", GoogleTokenEndpoints),
        ("intercept", Intercept),
    ):
        assert set(tree[name]) == keys(model)
    shown_keys: dict[str, set[str]] = {}
    for credential in tree["credentials"].values():
        shown_keys.setdefault(credential["type"], set()).update(credential)
    assert shown_keys == {name: keys(model) for name, model in CREDENTIAL_TYPES.items()}


def test_the_examples_values_are_the_defaults() -> None:
    """So that it can be read as the reference; routes, credentials, endpoints, tracing, what gives tokens to programs and
    what has no default are examples."""
    config, defaults = load(EXAMPLE.read_text("utf-8"), environ={}).config, Config()
    for name in set(Config.model_fields) - {
        "routes",
        "credentials",
        "endpoints",
        "tracing",
        "ca_file",
        "egress_proxy",
        "intercept",
        "metadata_server",
        "token_endpoint",
        "google_token_endpoints",
    }:
        assert getattr(config, name) == getattr(defaults, name), name
    route = config.routes[0]
    for name in (
        "target",
        "token",
        "credential",
        "header",
        "on_conflict",
        "upstream_host",
        "grpc",
        "retry_budget",
        "prefetch",
        "allow_plaintext",
        "allow_cross_site",
    ):
        assert getattr(route, name) == RouteConfig.model_fields[name].default, name
    defaults = Timeouts()
    given = {"dns": defaults.connect, "tls": defaults.connect}
    assert route.timeouts.model_copy(update={"total": None}) == defaults.model_copy(update=given)


def test_shown_loads_again_to_the_same() -> None:
    """`config show` prints a configuration, with every default."""
    text = EXAMPLE.read_text("utf-8").replace(
        "    type: service_account_key\n    json:", "    type: service_account_key\n    file: x #"
    )
    text = text.replace("type: static\n    token:", "type: file\n    path: x #")
    text = text.replace("${PROXY_USER:-me}:${PROXY_PASSWORD:-change-me}@", "")
    text = text.replace("        require_header:", "        #").replace(
        "          X-Local-Caller:", "          #"
    )
    text = re.sub(r"(?m)^token_endpoint:\n(  .*\n)+", "", text)
    config = load(text, environ={}).config
    assert load(shown(config), environ={}).config == config


@pytest.mark.parametrize("peers", ["uid: 7", "gid: [8, 9]"])
def test_peers_of_one_kind_are_shown_so_that_they_load(peers: str) -> None:
    """What is not named is left out."""
    text = f"listen: {{address: 'unix:/run/x.sock', peers: {{{peers}}}}}\nroutes: [{{name: a, upstream: 'https://a.example'}}]"
    config = load(text, environ={}).config
    assert load(shown(config), environ={}).config == config


def test_what_looks_like_a_reference_stays_text() -> None:
    """A value with `${` in it is written so that it is not taken for a variable when it is read again."""
    text = "routes: [{name: a, upstream: 'https://a.example', audience: 'a $${b} $$${c}'}]"
    config = load(text, environ={}).config
    assert config.routes[0].audience == "a ${b} $${c}"
    assert load(shown(config), environ={"b": "x", "c": "x"}).config == config


def test_secrets_are_hidden() -> None:
    """As asterisks."""
    text = "credentials: {default: {type: service_account_key, json: '${K}'}}\nroutes: [{name: a, upstream: 'https://a.example'}]"
    out = shown(load(text, environ={"K": "very-secret"}).config)
    assert "very-secret" not in out
    assert "json: '********'" in out


def test_the_schema_accepts_the_example_and_refuses_typos() -> None:
    """Draft 2020-12; what the loader takes, an editor takes."""
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    json.dumps(schema)
    validator = jsonschema.Draft202012Validator(schema)
    tree = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    tree["access_log"] = "errors"
    assert list(validator.iter_errors(tree)) == []
    for wrong in ({**tree, "routs": []}, {**tree, "token_wait": 5}, {**tree, "limits": {"head": "big"}}):
        assert list(validator.iter_errors(wrong))


@pytest.mark.parametrize("name", sorted(Config.model_fields))
def test_every_key_says_what_it_is_for(name: str) -> None:
    """The reference page, the help and the schema print it."""
    assert Config.model_fields[name].description
