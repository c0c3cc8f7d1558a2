"""sidecar.config.load: from text to a configuration, or to every problem with its place"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.load import SETTINGS, ConfigError, load
from sidecar.config.tree import MAX_SIZE

CASES = Path(__file__).parents[2] / "cases" / "config"
ROUTE = "routes: [{name: a, upstream: 'https://a.example'}]\n"


@pytest.mark.parametrize("case", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_cases(case: Path) -> None:
    """NAME.yaml gives exactly the lines of NAME.expected; none for a good one."""
    expected = case.with_suffix(".expected").read_text("utf-8")
    with case.open(encoding="utf-8", newline="") as file:
        error = problems(file.read(), HOST="h.example")
    assert (f"{error}\n" if error is not None else "") == expected


def problems(text: str, **environ: str) -> ConfigError | None:
    """What is wrong with a configuration; None for a good one. Anything else that comes out fails the test."""
    try:
        load(text, file="FILE", environ=environ)
    except ConfigError as error:
        return error
    return None


def test_every_case_has_both_files() -> None:
    """A forgotten half would pass for nothing."""
    assert {p.stem for p in CASES.glob("*.yaml")} == {p.stem for p in CASES.glob("*.expected")}
    assert len(list(CASES.glob("*.yaml"))) > 60


def test_precedence() -> None:
    """Flag, then variable, then file, then default; each replaces the whole setting."""
    text = ROUTE + "drain: {min: 1s, max: 2s}\ntoken_wait: 1s\nstartup_wait: 1s\n"
    environ = {
        "IDTOKEN_SIDECAR_TOKEN_WAIT": "2s",
        "IDTOKEN_SIDECAR_DRAIN": "{max: 5s}",
        "IDTOKEN_SIDECAR_VIA": "off",
    }
    config = load(text, environ=environ, flags={"token_wait": "3s"}).config
    assert (config.token_wait, config.startup_wait, config.via) == (3.0, 1.0, False)
    assert (config.drain.min, config.drain.max) == (2.0, 5.0)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_has_a_flag_and_a_variable(setting: object) -> None:
    """And a problem in either names it instead of a file."""
    name, flag, variable, description = setting  # type: ignore[misc]  # a NamedTuple
    assert description
    for flags, environ, where in (({name: "[["}, {}, flag), ({}, {variable: "[["}, variable)):
        with pytest.raises(ConfigError) as caught:
            load(ROUTE, environ=environ, flags=flags)
        assert caught.value.problems[0].where == where


def test_unknown_variables_are_warned_about() -> None:
    """With the nearest name; those that `exec` sets are known."""
    environ = {
        "IDTOKEN_SIDECAR_TOKEN_WIAT": "1s",
        "IDTOKEN_SIDECAR_CONFIG": "x",
        "IDTOKEN_SIDECAR_URL": "x",
        "IDTOKEN_SIDECAR_URL_BILLING": "x",
    }
    assert load(ROUTE, environ=environ).warnings == (
        "the environment variable IDTOKEN_SIDECAR_TOKEN_WIAT is not a setting; "
        "did you mean `IDTOKEN_SIDECAR_TOKEN_WAIT`?",
    )


def test_to_adds_routes() -> None:
    """Named after the host's first label, or as given; unique; written down as a file would have them."""
    (alone,) = load(None, environ={}, to=["https://svc-abc-uc.a.run.app"]).config.routes
    assert (alone.name, alone.default_host, alone.path_prefix) == ("svc-abc-uc", "svc-abc-uc.a.run.app", None)
    local = load(None, environ={}, to=["http://localhost:3000", "http://localhost:3001"]).config.routes
    assert [(route.name, route.default_host) for route in local] == [
        ("localhost", None),
        ("localhost-2", None),
    ]
    config = load(
        ROUTE, environ={}, to=["https://a.example.org", "b=https://x.example", "https://a.example.net"]
    ).config
    assert [route.name for route in config.routes] == ["a", "a-2", "b", "a-3"]
    assert {route.path_prefix for route in config.routes} == {None}
    with pytest.raises(ConfigError, match=r"--to nonsense: routes\[0\]\.upstream"):
        load(None, environ={}, to=["nonsense"])
    with pytest.raises(ConfigError, match=r"config\.yaml:1:11: routes\[0\]\.name: .* string"):
        load("routes: [{name: {a: b}, upstream: 'https://a.example'}]", environ={}, to=["https://b.example"])


def test_without_a_file_the_error_says_how_to_name_one() -> None:
    """Where nothing else gives a route: a command was run without its configuration."""
    with pytest.raises(
        ConfigError, match=r"no route: name a file by `--config FILE` or IDTOKEN_SIDECAR_CONFIG"
    ):
        load(None, environ={})


def test_what_a_variable_brings_is_no_yaml() -> None:
    """It can't add keys, and it is not expanded again."""
    text = "routes: [{name: a, upstream: 'https://a.example', audience: '${X}'}]\n"
    config = load(text, environ={"X": "a: {b: ${Y}}"}).config
    assert config.routes[0].audience == "a: {b: ${Y}}"


def test_secrets_are_in_no_error() -> None:
    """Not the value, wherever the problem is."""
    text = "credentials: {default: {type: service_account_key, json: '${KEY}', file: x}}\n" + ROUTE
    with pytest.raises(ConfigError) as caught:
        load(text, environ={"KEY": "private-key-bytes"})
    assert "private-key-bytes" not in str(caught.value)
    config = load(text.replace(", file: x", ""), environ={"KEY": "private-key-bytes"}).config
    assert "private-key-bytes" not in repr(config)


@pytest.mark.parametrize(
    "text",
    [
        "endpoints: {oauth: 'http://u:${KEY}@127.0.0.1/t'}",
        "endpoints: {sts: 'https://x.example/t?key=${KEY}#x'}",
        "tracing: {endpoint: 'https://u:${KEY}@collector.example'}",
        "tracing: {endpoint: 'https://collector.example/v1?key=${KEY}'}",
        "routes: [{name: a, upstream: 'ftp://${KEY}@a.example'}]",
        "routes: [{name: a, upstream: 'https://a.example/?key=${KEY}&b'}]",
        "routes: [{name: a, upstream: 'https://a.example', host: 'https://u:${KEY}@a.example/'}]",
        "routes: [{name: a, upstream: 'ftp://u:p@${KEY}@a.example'}]",
        "routes: [{name: a, upstream: 'ftp://u:p/${KEY}@a.example'}]",
        "routes: [{name: a, upstream: 'ftp://u:${KEY}?p@a.example'}]",
        "routes: [{name: a, upstream: 'ftp://a.example/?a@b=${KEY}'}]",
    ],
)
def test_what_people_hide_in_urls_is_in_no_error(text: str) -> None:
    """Passwords and queries: what is quoted of a wrong value has asterisks in their place."""
    with pytest.raises(ConfigError) as caught:
        load(text if "routes" in text else f"{text}\n{ROUTE}", environ={"KEY": "s3cret"})
    assert "s3cret" not in str(caught.value)
    assert "********" in str(caught.value)


def test_a_long_wrong_value_is_looked_through_once() -> None:
    """For what people hide in URLs: four times as long takes four times as long, and not sixteen times."""

    def seconds(repeats: int) -> float:
        began = time.thread_time()
        with pytest.raises(ConfigError):
            load(f"routes: [{{name: a, upstream: '{'://' * repeats}'}}]", environ={})
        return time.thread_time() - began

    assert seconds(80_000) < 10 * seconds(20_000) + 0.5


def test_a_password_on_the_command_line_is_in_no_error() -> None:
    """Though it stands in the place of the problem."""
    with pytest.raises(ConfigError) as caught:
        load("", environ={}, to=["https://u:s3cret@a.example"])
    assert str(caught.value).startswith("--to https://********@a.example: routes[0].upstream: ")


def test_size_and_depth_are_bounded() -> None:
    """A file can't eat the memory or the stack."""
    for text in ("#" * (MAX_SIZE + 1), "a: " + "[" * 500 + "]" * 500, "a: " + "{b: " * 100 + "}" * 100):
        with pytest.raises(ConfigError):
            load(text, environ={})


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    """Nothing else comes out."""
    error = problems(text)
    assert error is None or error.problems


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*(s.name for s in SETTINGS), "name", "upstream", "host", "type", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(TREES)
def test_any_tree_is_a_configuration_or_a_config_error(tree: object) -> None:
    """Whatever stands where a value belongs."""
    error = problems(yaml.safe_dump(tree))
    assert error is None or all(problem.message for problem in error.problems)


@pytest.mark.parametrize(
    ("environ", "given", "wanted"),
    [
        ({}, "", (2.0, 8.0)),
        ({"K_SERVICE": "billing"}, "", (4.0, 8.0)),
        ({"K_SERVICE": "billing"}, "drain: {max: 2s}", (2.0, 2.0)),
        ({"K_SERVICE": "billing"}, "drain: {min: 0s}", (0.0, 8.0)),
        ({}, "drain: {max: 1s}", (1.0, 1.0)),
        ({"CLOUD_RUN_JOB": "nightly"}, "", (2.0, 8.0)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "", (4.0, 25.0)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "drain: {min: 10s}", (10.0, 25.0)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "drain: {max: 50s}", (4.0, 50.0)),
        ({"K_SERVICE": "", "KUBERNETES_SERVICE_HOST": ""}, "", (2.0, 8.0)),
    ],
)
def test_drain_follows_the_platform_where_nothing_is_said(
    environ: dict[str, str], given: str, wanted: tuple[float, float]
) -> None:
    config = load(ROUTE + given, environ=environ).config
    assert (config.drain.min, config.drain.max) == wanted


def test_a_drain_min_beyond_the_platforms_max_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`min` is longer than `max` \(8s\)"):
        load(ROUTE + "drain: {min: 9s}", environ={"K_SERVICE": "billing"})


@pytest.mark.parametrize(
    "route",
    [
        "{name: a, host: '*.a.run.app', upstream: 'https://{host}', required: true}",
        "{name: a, upstream: 'https://a.example', prefetch: false, required: true}",
    ],
)
def test_a_required_route_has_a_token_to_wait_for(route: str) -> None:
    with pytest.raises(ConfigError, match="a required route's token is fetched at start"):
        load(f"routes: [{route}]", environ={})


def test_an_alias_in_a_flag_has_the_flag_for_its_place() -> None:
    """Lines and columns are a file's."""
    with pytest.raises(ConfigError) as caught:
        load("routes: [{name: a, upstream: 'https://a.example'}]", environ={}, flags={"limits": "*head"})
    assert str(caught.value.problems[0]) == (
        "--limits: aliases are not read: repeat the value, or put one that begins with `*` in quotes"
    )


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:9", "localhost"),
        ("http://[::1]:9", "localhost"),
        ("http://localhost:3000", "localhost"),
        ("https://10.1.2.3", "10-1-2-3"),
        ("https://[2001:db8::1]:8443", "2001-db8-1"),
        ("https://www.example.com", "example"),
        ("https://billing-abc123-uc.a.run.app", "billing-abc123-uc"),
        ("https://under_score.example.com", "under-score"),
    ],
)
def test_a_route_of_to_has_a_readable_name(url: str, name: str) -> None:
    """After the host's first label that says something, or its whole address."""
    assert [route.name for route in load(None, environ={}, to=[url]).config.routes] == [name]


@pytest.mark.parametrize("secret", ["s3cr3t-word", "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.c2ln"])
@pytest.mark.parametrize(
    "text",
    [
        "a: *{0}",
        "a: &{0} x",
        "a: !{0}",
        "a: '{0}",
        "a: {{b: {0}",
        "a: [{0}",
        "a: b: {0}",
        "a: %{0}",
        "\t{0}",
        "a: b\n {0}: c",
        '"\\q{0}"',
        "a: @{0}",
        "--- {0}\n--- x",
        "%{0} x",
    ],
)
def test_what_is_no_yaml_is_told_without_its_words(text: str, secret: str) -> None:
    """A secret may stand in any of them."""
    with pytest.raises(ConfigError) as caught:
        load(text.format(secret), environ={})
    assert secret not in str(caught.value)
