"""sidecar.config.misplaced: contents in a configuration where something else belongs"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.credentials import CREDENTIAL_TYPES
from sidecar.config.document import given as given_document
from sidecar.config.document import json_schema, shown
from sidecar.config.load import SETTINGS, ConfigError, load
from tests.support.secret_shapes import SHAPES, shown_of

MARK = "k7Qw9ZtR2mXc4VbN8sLp3YhD6fGj"
KEY = SHAPES["key"](MARK)
SECRETS = [("credentials", "c", "json"), ("credentials", "c", "token")]


def settings() -> list[tuple[str | int, ...]]:
    """Every key of the schema that has a plain value, as a path to it; lists have one entry."""
    schema = json_schema()
    found: list[tuple[str | int, ...]] = []

    def walk(node: dict[str, Any], path: tuple[str | int, ...]) -> None:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        for inner in node.get("anyOf", ()):
            walk(inner, path)
        if "properties" in node:
            for name, inner in node["properties"].items():
                walk(inner, (*path, name))
        elif node.get("type") == "array" and "items" in node:
            walk(node["items"], (*path, 0))
        elif "anyOf" not in node and path not in found:
            found.append(path)

    walk({**schema, "properties": {k: v for k, v in schema["properties"].items() if k != "credentials"}}, ())
    for kind, model in CREDENTIAL_TYPES.items():
        for name, field in model.model_fields.items():
            found.append(("credentials", kind, field.alias or name))
    # A text of scopes may have several lines, and each is one.
    return [path for path in found if path and path[-1] != "scopes"]


PLACES = settings()


def document(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """A configuration that is good but for `value` at `path`."""
    route: dict[str, Any] = {"name": "a", "upstream": "https://a.example"}
    whole: dict[str, Any] = {"routes": [route]}
    if path[0] == "credentials":
        whole["credentials"] = {"default": {"type": "metadata"}, path[1]: {"type": path[1]}}
    at: Any = whole
    for part, following in pairwise(path):
        if isinstance(at, list):
            if not at:
                at.append([] if isinstance(following, int) else {})
            at = at[0]
        else:
            at = at.setdefault(part, [] if isinstance(following, int) else {})
    if isinstance(at, list):
        at[:] = [value]
    else:
        at[path[-1]] = value
    return whole


def refute(secret: str, text: str, where: object) -> None:
    found = shown_of(secret, text)
    assert found is None, f"{where}: {found!r} of it is shown"


def outcome(secret: str, **options: Any) -> ConfigError | None:
    """What is wrong; nothing of the secret is in it, nor in what is shown of a configuration that is good."""
    try:
        loaded = load(**options)
    except ConfigError as error:
        refute(secret, f"{error} {error!r} {error.problems!r}", options.get("text"))
        return error
    for text in (shown(loaded.config), given_document(loaded.config), repr(loaded), str(loaded.config)):
        refute(secret, text, "what is shown")
    return None


def test_there_are_settings_to_try() -> None:
    """As many as the reference page has, and those that files are named by."""
    assert len(PLACES) > 90
    assert ("routes", 0, "tls", "client_key_file") in PLACES
    assert ("credentials", "service_account_key", "file") in PLACES


@given(
    path=st.sampled_from(PLACES),
    shape=st.sampled_from(sorted(SHAPES)),
    mark=st.text("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=24, max_size=48),
    way=st.sampled_from(["written", "variable", "list", "mapping", "key"]),
)
def test_a_secret_at_any_setting_is_shown_nowhere(
    path: tuple[str | int, ...], shape: str, mark: str, way: str
) -> None:
    """Any form of it, written out or brought by a variable, as a value, inside of one, or as a key: no error and no
    `config show` has 12 characters of it. Where it is not a setting for secrets, it is refused."""
    secret = SHAPES[shape](mark)
    value: object = "${SECRET}" if way == "variable" else secret
    value = {"list": [value], "mapping": {"a": value}, "key": {secret: "a"}}.get(way, value)
    environ = {"SECRET": secret}
    error = outcome(secret, text=yaml.safe_dump(document(path, value)), environ=environ)
    takes_it = path[-1] in ("json", "token") and path[0] == "credentials"
    takes_it |= path == ("token_endpoint", "secret") or "require_header" in path
    assert error is not None or takes_it, path


@given(
    name=st.sampled_from([setting.name for setting in SETTINGS]),
    shape=st.sampled_from(sorted(SHAPES)),
    flag=st.booleans(),
)
def test_a_secret_in_a_flag_or_its_variable_is_shown_nowhere(name: str, shape: str, flag: bool) -> None:
    """They are YAML, so JSON becomes keys and values."""
    secret = SHAPES[shape](MARK)
    setting = next(one for one in SETTINGS if one.name == name)
    given_by: dict[str, Any] = {"flags": {name: secret}} if flag else {"environ": {setting.variable: secret}}
    text = "routes: [{name: a, upstream: 'https://a.example'}]"
    assert outcome(secret, text=text, **{"environ": {}, **given_by}) is not None


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    name=st.sampled_from(["", "a=", "https://", "a=https://a.example/?key="]),
)
def test_a_secret_for_a_target_is_shown_nowhere(shape: str, name: str) -> None:
    """Of `--to`, whose text stands in place of file and line."""
    secret = SHAPES[shape](MARK)
    assert outcome(secret, text=None, environ={}, to=[name + secret]) is not None
    if not name:
        assert outcome(secret, text=None, environ={}, to=[f"{secret}=https://a.example"]) is not None


@pytest.mark.parametrize(
    ("path", "secret", "says"),
    [
        pytest.param(
            ("credentials", "service_account_key", "file"),
            KEY,
            "contents, not a path (JSON): for a service account key use `json:`, else write them to a file, and name "
            "that here",
            id="key",
        ),
        pytest.param(
            ("credentials", "file", "path"),
            SHAPES["jwt"](MARK),
            "contents, not a path (a token): for a literal token use `type: static` with `token:`, else write them to a "
            "file, and name that here",
            id="token",
        ),
        pytest.param(
            ("routes", 0, "tls", "client_key_file"),
            SHAPES["pem"](MARK),
            "contents, not a path (PEM text): write them to a file, and name that here",
            id="pem",
        ),
        pytest.param(
            ("routes", 0, "tls", "ca_file"),
            MARK * 10,
            "contents, not a path (a name of more than 255 bytes): write them to a file, and name that here",
            id="no-name-is-so-long",
        ),
        pytest.param(
            ("routes", 0, "upstream"),
            KEY,
            "contents, not a plain value (JSON): what a secret's file holds does not belong here",
            id="upstream",
        ),
    ],
)
def test_it_is_said_what_to_do(path: tuple[str | int, ...], secret: str, says: str) -> None:
    """With the place of the value, also where a variable brought it."""
    text = yaml.safe_dump(document(path, "${SECRET}"), default_flow_style=False)
    line = next(n for n, found in enumerate(text.splitlines(), 1) if "${SECRET}" in found)
    error = outcome(secret, text=text, environ={"SECRET": secret}, file="FILE")
    assert error is not None
    (problem,) = error.problems
    assert problem.where.startswith(f"FILE:{line}:")
    assert problem.message == says


def test_secrets_stand_where_they_belong() -> None:
    """A key's text, a token, what callers must send; scopes may have a line each."""
    text = (
        "listen: {address: 'localhost:1', require_header: {X-A: '${JWT}'}}\n"
        "credentials: {default: {type: service_account_key, json: '${KEY}'}, b: {type: static, token: '${JWT}'}}\n"
        "routes:\n- {name: a, upstream: 'https://x.googleapis.com', token: access, scopes: '${SCOPES}'}\n"
    )
    environ = {"KEY": KEY, "JWT": SHAPES["jwt"](MARK), "SCOPES": "https://a.example/x\nhttps://a.example/y\n"}
    assert load(text, environ=environ).config.routes[0].scopes == (
        "https://a.example/x",
        "https://a.example/y",
    )
    assert outcome(environ["JWT"], text=text, environ=environ) is None
    assert outcome(KEY, text=text, environ=environ) is None


@pytest.mark.parametrize(
    "variable", ["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "GCE_METADATA_HOST"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_variables_that_credentials_follow(variable: str, shape: str) -> None:
    """Refused when they are read, where a credential follows them; else they are the app's own affair."""
    secret = SHAPES[shape](MARK)
    text = "routes: [{name: a, upstream: 'https://a.example'}]\n"
    error = outcome(secret, text=text, environ={variable: secret})
    assert error is not None
    assert [problem.where for problem in error.problems] == [variable]
    other = text + "credentials: {default: {type: static, token: x}}\n"
    assert outcome(secret, text=other, environ={variable: secret}) is None
    if variable == "GCE_METADATA_HOST":
        address = text + "endpoints: {metadata: '127.0.0.1:1'}\n"
        assert outcome(secret, text=address, environ={variable: secret}) is None


@pytest.mark.parametrize(
    "host", ["", "169.254.169.254", "metadata.google.internal", "127.0.0.1:80", "[::1]:80"]
)
def test_where_the_metadata_server_may_be(host: str) -> None:
    """Host and port; empty counts as not set, as google-auth reads it."""
    text = "routes: [{name: a, upstream: 'https://a.example'}]\n"
    assert load(text, environ={"GCE_METADATA_HOST": host}).config.routes


@pytest.mark.parametrize(
    "text",
    [
        "credentials: {default: {type: static, token: !%s x}}",
        "credentials: {default: {type: static, token: !!int %s}}",
        "credentials: {default: {type: static, token: &%s x}, b: &%s y}",
        "credentials: {default: {type: static, token: '${%s x}'}}",
        "credentials: {default: {type: static, token: '${A B:-%s}'}}",
        "listen: {address: 'localhost:1', require_header: {'%s x': X-Caller}}",
        "tracing: {endpoint: 'https://:%s@collector.example'}",
        "credentials: {default: {type: static, token: *%s}}",
        "credentials: {default: {type: file, path: !!binary %s}}",
    ],
)
def test_a_password_that_yaml_reads_otherwise_is_in_no_error(text: str) -> None:
    """As a tag, an anchor, a reference; in the place of the name that it belongs to."""
    text = text.replace("%s", MARK) + "\nroutes: [{name: a, upstream: 'https://a.example'}]\n"
    assert outcome(MARK, text=text, environ={}) is not None
