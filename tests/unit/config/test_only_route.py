"""sidecar.config.only_route: a route that the command line says by itself"""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.load import ConfigError, load
from sidecar.config.only_route import OnlyRoute, behind_a_socket

TOOLS = "https://tools-abc123-uc.a.run.app"
FILE = f"""
credentials:
  default: {{type: adc}}
  key: {{type: service_account_key, file: /k.json}}
routes:
  - {{name: billing, upstream: "https://billing.example", audience: a}}
  - {{name: tools, upstream: "{TOOLS}/", audience: its-own}}
  - {{name: reports, upstream: "https://reports.example", audience: a}}
"""


def test_a_url_is_a_route() -> None:
    (route,) = load(None, environ={}, only=OnlyRoute("mcp", TOOLS)).config.routes
    assert (route.name, route.upstream, route.credential, route.audience) == ("mcp", TOOLS, "default", None)
    assert (route.timeouts.response, route.timeouts.idle, route.timeouts.connect) == (3600.0, 3600.0, 5.0)


def test_the_files_route_with_this_upstream_is_used_as_it_is() -> None:
    route = load(FILE, environ={}, only=OnlyRoute("mcp", TOOLS)).config.routes[-1]
    assert (route.name, route.audience) == ("tools", "its-own")


def test_a_flag_makes_a_route_of_its_own_with_the_files_credentials() -> None:
    config = load(FILE, environ={}, only=OnlyRoute("mcp", TOOLS, "mine", "key")).config
    (route,) = config.routes
    assert (route.name, route.audience, route.credential) == ("mcp", "mine", "key")


@pytest.mark.parametrize(
    "text", [None, FILE, "credentials: {impersonated: {type: adc}, default: {type: adc}}"]
)
def test_impersonation_stands_on_the_credential(text: str | None) -> None:
    email = "sa@project.iam.gserviceaccount.com"
    config = load(text, environ={}, only=OnlyRoute("mcp", TOOLS, None, "gcloud", email)).config
    found = config.credentials[config.routes[-1].credential]
    assert (found.type, found.service_account, found.source) == ("impersonate", email, "gcloud")
    assert config.credentials["gcloud"].type == "gcloud"


@pytest.mark.parametrize(
    ("only", "says"),
    [
        pytest.param(OnlyRoute("mcp", "https://a b"), "the URL: routes", id="url"),
        pytest.param(OnlyRoute("mcp", TOOLS, credential="kee"), "did you mean", id="credential"),
        pytest.param(OnlyRoute("mcp", TOOLS, impersonate="me"), "--impersonate: credentials", id="email"),
    ],
)
def test_a_mistake_has_its_flag(only: OnlyRoute, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(FILE, environ={}, only=only)


def test_a_sidecar_behind_a_socket_listens_nowhere_else(tmp_path: Path) -> None:
    text = "listen: [localhost:1]\nadmin: localhost:2\n" + FILE.replace(
        "audience: a}", "audience: a, listen: auto}"
    )
    config = load(text, environ={}).config
    alone, socket = behind_a_socket(config, str(tmp_path), config.routes[:1])
    assert {it.path for it in alone.listening} == {socket, str(tmp_path / "admin.sock")}
    assert [it.name for it in alone.routes] == ["billing"]


def test_a_sidecar_behind_a_socket_gives_programs_no_tokens() -> None:
    """The sidecar of the same configuration may be running, and has those addresses."""
    text = (
        "routes: [{name: a, upstream: 'https://a.example'}]\n"
        "metadata_server: {listen: 'localhost:8788'}\n"
        "token_endpoint: {listen: 'localhost:8789', secret: '0123456789abcdef0123456789abcdef'}\n"
    )
    config = load(text, environ={}).config
    alone, _ = behind_a_socket(config, "/run/x", config.routes)
    assert config.metadata_server is not None
    assert (alone.metadata_server, alone.token_endpoint) == (None, None)
