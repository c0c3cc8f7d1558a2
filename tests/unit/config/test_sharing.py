"""sidecar.config.sharing: no wildcard hands one token to all its hosts unless the route says so"""

from __future__ import annotations

import pytest

from sidecar.config.load import ConfigError, load
from sidecar.config.sharing import takes_persons
from sidecar.config.targets import Target

CREDENTIALS = """
credentials:
  default: {type: metadata}
  any: {type: adc}
  me: {type: user}
  person: {type: gcloud, account: me@example.com}
  robot: {type: gcloud, account: me@example.com, service_account: x@p.iam.gserviceaccount.com}
"""
SHARING = [
    pytest.param("host: '*.a.run.app', audience: 'https://x'", "audience", id="fixed-audience"),
    pytest.param("host: '*.example.com', audience: 'https://x'", "audience", id="fixed-audience-elsewhere"),
    pytest.param(
        "host: [a.example.com, '*.b.example.com'], audience: x", "audience", id="beside-a-listed-host"
    ),
    pytest.param(
        "host: '*.example.com', target: iap, audience: 1-a.apps.googleusercontent.com", "audience", id="iap"
    ),
    pytest.param(
        "host: '*.example.com', token: self_signed_jwt, audience: x", "audience", id="self-signed-jwt"
    ),
    pytest.param("host: '*.googleapis.com', token: access", "token", id="access-token"),
    pytest.param("host: '*.googleapis.com', token: access, scopes: [a, b]", "token", id="scopes"),
    pytest.param(
        "host: '*.corp.example', token: access, target: googleapis", "token", id="access-token-elsewhere"
    ),
    pytest.param("host: '*.a.run.app', credential: me", "credential", id="person"),
    pytest.param("host: '*.a.run.app', credential: person", "credential", id="person-by-gcloud"),
    pytest.param(
        "host: '*.a.run.app', audience: 'https://x', header: X-Api-Key", "audience", id="another-header"
    ),
]
OWN = [
    pytest.param("host: '*.a.run.app'", id="default-audience"),
    pytest.param("host: '*.a.run.app', audience: 'https://{host}/x'", id="template"),
    pytest.param("host: '*.example.com', token: self_signed_jwt", id="self-signed-jwt"),
    pytest.param("host: '*.googleapis.com', token: self_signed_jwt", id="self-signed-jwt-for-google"),
    pytest.param("host: '*.a.run.app', credential: robot", id="service-account"),
    pytest.param("host: '*.a.run.app', credential: any", id="what-the-file-decides"),
    pytest.param("host: a.example.com, audience: x", id="one-listed-host"),
    pytest.param("host: storage.googleapis.com, token: access", id="access-token-for-a-listed-host"),
]


def problems(keys: str, upstream: str = "https://{host}") -> list[str]:
    text = f"{CREDENTIALS}routes:\n  - {{name: a, upstream: '{upstream}', {keys}}}\n"
    try:
        load(text, file="FILE", environ={})
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(("keys", "key"), SHARING)
def test_a_wildcard_shares_no_token_unless_the_route_says_so(keys: str, key: str) -> None:
    """An error at the key that makes it so, with its line, and with what to write."""
    (problem,) = problems(keys)
    assert problem.startswith("FILE:9:")
    assert f": routes[0].{key}: every host that `*." in problem
    assert "`wildcard_audience: shared`" in problem
    assert problems(f"{keys}, wildcard_audience: shared") == []
    assert len(problems(f"{keys}, wildcard_audience: own")) == 1


@pytest.mark.parametrize("keys", OWN)
def test_each_host_its_own_token_needs_no_word(keys: str) -> None:
    """Nor does a host that was listed."""
    assert problems(keys) == []


@pytest.mark.parametrize(
    "keys", ["", "host: '*.example.com', audience: x", "host: [a.example.com, b.example.com]"]
)
def test_one_upstream_shares_nothing(keys: str) -> None:
    """Whatever hosts lead there: `shared` would say nothing."""
    assert problems(keys, "https://a.example") == []
    (problem,) = problems(f"{keys}{keys and ', '}wildcard_audience: shared", "https://a.example")
    assert "routes[0].wildcard_audience: " in problem


@pytest.mark.parametrize(
    "audience", ["https://{hostname}", "https://{Host}", "https://{host}/{x}", "{{host}}"]
)
def test_no_other_template_is_taken_for_one(audience: str) -> None:
    """A misspelt one would be one fixed audience for all."""
    assert any(
        "routes[0].audience: `{host}` is all that is replaced here" in problem
        for problem in problems(f"host: '*.a.run.app', audience: '{audience}'")
    )


@pytest.mark.parametrize(
    "host", ["*.0.0.1", "*.127.0.0.1", "*.0x7f.1", "*.0.0x1", "*.0.1.", "*.::1", "*.[::1]"]
)
def test_a_wildcard_is_for_names(host: str) -> None:
    """What resolvers read as an address is none."""
    assert any("routes[0].host: " in problem for problem in problems(f"host: '{host}'"))


def test_a_persons_token_that_only_the_file_tells_of_is_not_shared_either() -> None:
    """For `adc` and `gcloud` it shows when the credential is looked at."""

    def takes(keys: str, upstream: str = "https://{host}") -> bool:
        text = f"routes: [{{name: a, upstream: '{upstream}', {keys}}}]"
        (route,) = load(text, environ={}).config.routes
        return takes_persons(route, Target.CLOUD_RUN)

    assert not takes("host: '*.a.run.app'")
    assert takes("host: '*.a.run.app', wildcard_audience: shared")
    assert takes("host: [a.a.run.app, b.a.run.app]")
    assert takes("host: '*.internal.example'", "https://a.a.run.app")
    assert not takes("host: storage.googleapis.com, token: access")
