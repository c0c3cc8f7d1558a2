"""/metrics: what a scrape brings, in both formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.admin.exposition import OPENMETRICS, content_type, parts
from sidecar.observe.families import FAMILIES
from sidecar.observe.family import Kind
from sidecar.observe.metrics import TOKEN_STATES, HandshakeFailure, Pause, RouteStats
from sidecar.runtime import built
from sidecar.tokens.entry import TokenState, TokenStatus
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.token import TokenKey
from tests.support.named_source import NamedSource

Parser = Callable[[str], Iterable[Metric]]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

FORMATS = [
    pytest.param("", parse_text, id="text"),
    pytest.param("application/openmetrics-text; version=1.0.0", parse_openmetrics, id="openmetrics"),
]
FORBIDDEN = {
    *("project_id", "location", "cluster", "namespace", "job", "instance", "instanceId"),
    *("service_name", "revision_name", "configuration_name"),
}


def _scrape(view: Any, accept: str = "", parse: Parser = parse_text) -> Samples:
    """Every sample of a scrape, under its name and labels; a series that comes twice fails."""
    samples: Samples = {}
    for family in parse(_page(view, accept)):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} comes twice"
            samples[key] = sample.value
    return samples


def _page(view: Any, accept: str = "") -> str:
    return b"".join(_parts(view, accept)).decode()


def _parts(view: Any, accept: str) -> list[bytes]:
    return list(parts(view.registry, openmetrics=content_type(accept).startswith(OPENMETRICS)))


def _at(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"idtoken_sidecar_{name}", frozenset(labels.items())]


def _token(
    audience: str, state: TokenState = TokenState.FRESH, expires_at: float | None = 2e9, kind: str = "id"
) -> Any:
    key = TokenKey(NamedSource("default"), audience, kind)
    return TokenStatus(key=key, state=state, expires_at=expires_at, renew_at=None, last_error=None, waiting=0)


@pytest.fixture
def busy(view: Any) -> Any:
    """A sidecar in which everything has happened once."""
    route = view.stats["billing"] = RouteStats()
    route.requests = {("GET", 200): 5, ("POST", 503): 2}
    route.refused = {"token_timeout": 2}
    route.cut = {"idle_timeout": 4}
    route.upstream_refusals = {"permission_missing": 3}
    route.tls_reloads, route.tls_current = {"ok": 2, "error": 1}, False
    route.connect_failures = {"connect_refused": 7}
    route.grpc, route.resets = {"OK": 3}, {("from_app", "CANCEL"): 2}
    threads = FetchThreads("default")
    threads.running, threads.abandoned, threads.given_up = 3, 1, 4
    view.threads = [("default", threads)]
    view.open = 12
    view.listeners.accepted, view.listeners.peers_refused = 30, 2
    view.listeners.paused, view.listeners.pausing = {Pause.DESCRIPTORS: 3}, 2
    view.listeners.handshakes_failed = {HandshakeFailure.PLAIN_HTTP: 4}
    view.shown = [
        SimpleNamespace(expires_at=2e9, is_current=True),
        SimpleNamespace(expires_at=1e9, is_current=False),
        SimpleNamespace(expires_at=None, is_current=True),
    ]
    view.client_certificates = {"billing": 3e9}
    route.total.observe(0.02)
    route.own.observe(0.00002)
    route.in_flight = 3
    route.bytes_sent, route.bytes_received = 10, 20
    route.connections_opened, route.connections_active, route.connections_idle = 4, 1, 2
    route.retries, route.replays, route.upgrades = 6, 7, 8
    route.retries_denied, route.tunnels, route.queued = 11, 12, 13
    route.idle_closed, route.pipelining_stopped = 14, 15
    nowhere = view.stats[""] = RouteStats()
    nowhere.requests = {("GET", 404): 1, ("", 400): 1}
    nowhere.refused = {"no_route": 1, "malformed_request": 1}
    view.statuses = [_token("https://a"), _token("https://b", TokenState.FAILING, None)]
    record = view.table.record("default", "https://a")
    record.fetches = {("ok", ""): 3, ("error", "token_denied"): 1}
    record.duration.observe(0.004)
    record.wait.observe(0.5)
    record.waits, record.waiting, record.invalidated = 9, 1, 2
    return view


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_a_scrape_brings_what_was_counted(busy: Any, accept: str, parse: Parser) -> None:
    """Each record is in the scrape under its name and labels, in both formats."""
    samples = _scrape(busy, accept, parse)
    route = {"route": "billing"}
    key = {"credential": "default", "audience": "https://a"}
    assert _at(samples, "answers_cut_total", **route, reason="idle_timeout") == 4
    assert _at(samples, "retries_denied_total", **route) == 11
    assert _at(samples, "tunnels", **route) == 12
    assert _at(samples, "requests_queued", **route) == 13
    assert _at(samples, "idle_connections_closed_total", **route) == 14
    assert _at(samples, "pipelining_stopped_total", **route) == 15
    assert _at(samples, "app_connections") == 12
    assert _at(samples, "app_connections_accepted_total") == 30
    assert _at(samples, "accept_pauses_total", reason="descriptors") == 3
    assert _at(samples, "accept_pauses_total", reason="memory") == 0
    assert _at(samples, "listeners_paused") == 2
    assert _at(samples, "peers_refused_total") == 2
    assert _at(samples, "listener_tls_handshakes_failed_total", reason="plain_http") == 4
    assert _at(samples, "listener_tls_handshakes_failed_total", reason="rejected") == 0
    assert _at(samples, "listener_certificate_expiry_timestamp_seconds") == 1e9
    assert _at(samples, "listener_certificate_last_reload_successful") == 0
    assert _at(samples, "tls_client_certificate_expiry_timestamp_seconds", **route) == 3e9
    assert _at(samples, "requests_total", **route, method="GET", code="200") == 5
    assert _at(samples, "requests_total", route="", method="", code="400") == 1
    assert _at(samples, "refused_total", **route, reason="token_timeout") == 2
    assert _at(samples, "refused_total", route="", reason="no_route") == 1
    assert _at(samples, "requests_in_flight", **route) == 3
    assert _at(samples, "request_body_bytes_total", **route) == 10
    assert _at(samples, "response_body_bytes_total", **route) == 20
    assert _at(samples, "upstream_connections", **route, state="active") == 1
    assert _at(samples, "upstream_connections", **route, state="idle") == 2
    assert _at(samples, "upstream_connections_opened_total", **route) == 4
    assert _at(samples, "retries_total", **route) == 6
    assert _at(samples, "token_replays_total", **route) == 7
    assert _at(samples, "upgrades_total", **route) == 8
    assert _at(samples, "token_fetches_total", **key, result="ok", reason="") == 3
    assert _at(samples, "token_fetches_total", **key, result="error", reason="token_denied") == 1
    assert _at(samples, "upstream_refusals_total", route="billing", reason="permission_missing") == 3
    assert _at(samples, "upstream_connect_failures_total", route="billing", reason="connect_refused") == 7
    assert _at(samples, "tls_files_reloads_total", route="billing", result="error") == 1
    assert _at(samples, "tls_files_last_reload_successful", route="billing") == 0
    assert _at(samples, "token_fetch_threads", credential="default", state="busy") == 2
    assert _at(samples, "token_fetch_threads", credential="default", state="abandoned") == 1
    assert _at(samples, "token_fetches_abandoned_total", credential="default") == 4
    assert _at(samples, "token_waits_total", **key) == 9
    assert _at(samples, "token_waiting", **key) == 1
    assert _at(samples, "token_invalidated_total", **key) == 2
    assert _at(samples, "faults_total") == 2
    assert _at(samples, "event_loop_lag_seconds_sum") == 0.3
    assert _at(samples, "event_loop_stalls_total", reason="blocked") == 1
    assert _at(samples, "log_lines_lost_total", reason="full") == 4
    assert _at(samples, "start_time_seconds") == busy.started_at
    (build,) = (labels for name, labels in samples if name == "idtoken_sidecar_build_info")
    assert dict(build)["version"] == "1.2.3"
    assert dict(build)["build"] == built.kind()
    assert re.fullmatch(r"3\.\d+\.\d+\S*", dict(build)["python"])


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
@pytest.mark.parametrize(
    ("name", "labels", "below", "bound", "total"),
    [
        pytest.param("request_duration_seconds", {"route": "billing"}, "0.01", "0.025", 0.02, id="total"),
        pytest.param("request_own_duration_seconds", {"route": "billing"}, "1e-05", "2e-05", 2e-5, id="own"),
        pytest.param(
            "token_fetch_duration_seconds", {"credential": "default"}, "0.0025", "0.005", 0.004, id="fetch"
        ),
        pytest.param("token_wait_seconds", {"credential": "default"}, "0.25", "0.5", 0.5, id="wait"),
    ],
)
def test_a_histogram_is_cumulative(
    busy: Any,
    accept: str,
    parse: Parser,
    name: str,
    labels: dict[str, str],
    below: str,
    bound: str,
    total: float,
) -> None:
    """A bucket counts everything up to its bound, +Inf counts all, and the sum is in seconds."""
    samples = _scrape(busy, accept, parse)
    assert _at(samples, f"{name}_bucket", **labels, le=below) == 0
    assert _at(samples, f"{name}_bucket", **labels, le=bound) == 1
    assert _at(samples, f"{name}_bucket", **labels, le="+Inf") == 1
    assert _at(samples, f"{name}_count", **labels) == 1
    assert _at(samples, f"{name}_sum", **labels) == total


@pytest.mark.parametrize("state", list(TokenState))
def test_a_token_is_in_one_state(view: Any, state: TokenState) -> None:
    """The state set of a token has 1 for the current state and 0 for each other."""
    view.statuses = [_token("https://a", state)]
    samples = _scrape(view)
    values = {
        known: _at(samples, "token_state", credential="default", audience="https://a", state=known)
        for known in TOKEN_STATES
    }
    assert values == {known: float(known == state) for known in TOKEN_STATES}


def test_an_expiry_is_shown_for_tokens_only(busy: Any) -> None:
    """A key without a token has no expiry: 0 would look expired since 1970."""
    samples = _scrape(busy)
    expiries = {
        dict(labels)["audience"]: value
        for (name, labels), value in samples.items()
        if name == "idtoken_sidecar_token_expiry_timestamp_seconds"
    }
    assert expiries == {"https://a": 2e9}


@pytest.mark.parametrize(
    "expiries",
    [
        pytest.param((2e9, 1e9), id="first-lives-longer"),
        pytest.param((1e9, 2e9), id="second-lives-longer"),
        pytest.param((None, 1e9), id="first-has-no-token"),
        pytest.param((1e9, None), id="second-has-no-token"),
    ],
)
def test_keys_with_the_same_labels_make_one_series(view: Any, expiries: tuple[float | None, ...]) -> None:
    """Of two keys that differ in their kind only, the one that expires first is shown."""
    view.statuses = [
        _token("https://a", TokenState.FRESH if expiry else TokenState.MISSING, expiry, kind)
        for kind, expiry in zip(("id", "access"), expiries, strict=True)
    ]
    samples = _scrape(view)
    shown = samples.get(
        (
            "idtoken_sidecar_token_expiry_timestamp_seconds",
            frozenset({("credential", "default"), ("audience", "https://a")}),
        )
    )
    assert shown == (None if None in expiries else 1e9)


@pytest.mark.parametrize(("reasons", "ready"), [([], 1), (["Route `a` has had no token yet."], 0)])
def test_ready_is_what_the_probe_says(view: Any, reasons: list[str], ready: int) -> None:
    """The gauge `ready` follows the readiness probe."""
    view.reasons = reasons
    assert _at(_scrape(view), "ready") == ready


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_every_family_is_exposed_as_declared(busy: Any, accept: str, parse: Parser) -> None:
    """The scrape and `FAMILIES` agree on names, kinds, help texts and labels; no forbidden label comes."""
    found = {family.name: family for family in parse(_page(busy, accept))}
    for declared in FAMILIES:
        family = found.pop(declared.name, None)
        if family is None:  # the parsers differ in what they call a counter's family
            family = found.pop(re.sub("_(total|info)$", "", declared.name))
        assert family.documentation == declared.help
        assert family.type == declared.kind or (declared.kind, family.type) == (Kind.INFO, "gauge")
        assert family.samples, f"{declared.name} has no sample in this test"
        assert {label for sample in family.samples for label in sample.labels} - {"le"} == set(
            declared.labels
        )
    assert all(name.startswith("process_") for name in found)
    labels = {label for family in found.values() for sample in family.samples for label in sample.labels}
    assert not labels & FORBIDDEN


def test_the_process_is_measured_too(view: Any) -> None:
    """Memory, CPU and file descriptors come with their standard names."""
    samples = _scrape(view)
    assert samples["process_resident_memory_bytes", frozenset()] > 1e6
    assert samples["process_cpu_seconds_total", frozenset()] > 0
    assert samples["process_open_fds", frozenset()] > 0


def test_a_counter_never_goes_back(busy: Any) -> None:
    """From scrape to scrape, whatever is cumulative only grows."""
    first = _scrape(busy)
    busy.stats["billing"].total.observe(400.0)
    busy.stats["billing"].requests["GET", 200] += 1
    busy.stats["late"] = RouteStats()
    busy.statuses = []
    busy.table.record("default", "https://c").waits += 1
    second = _scrape(busy)
    counters = [key for key in first if key[0].endswith(("_total", "_bucket", "_count", "_sum"))]
    assert counters
    assert all(second[key] >= first[key] for key in counters)


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_a_long_family_is_whole(view: Any, accept: str, parse: Parser) -> None:
    """A family of thousands of samples comes in several parts, with one head and no sample lost."""
    view.statuses = [_token(f"https://{number}.run.app") for number in range(700)]
    samples = _scrape(view, accept, parse)
    states = [key for key in samples if key[0] == "idtoken_sidecar_token_state"]
    assert len(states) == 700 * len(TOKEN_STATES)
    page = _page(view, accept)
    assert page.count("# TYPE idtoken_sidecar_token_state gauge\n") == 1
    assert page.count("# HELP idtoken_sidecar_token_state ") == 1
    assert page.count("# EOF\n") == bool(accept)
    sizes = [part.count(b"\n") for part in _parts(view, accept)]
    assert max(sizes) <= 503  # 500 samples and the head of a family


def test_a_label_value_is_escaped(view: Any) -> None:
    """An audience is configuration; whatever is in it cannot break the page."""
    audience = 'a"b\\c\nd{}#é'
    view.statuses = [_token(audience)]
    samples = _scrape(view)
    assert _at(samples, "token_state", credential="default", audience=audience, state="fresh") == 1


PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param(None, "text/plain", id="nothing-asked"),
        pytest.param("*/*", "text/plain", id="anything"),
        pytest.param("text/html", "text/plain", id="a-browser"),
        pytest.param("text/plain; version=0.0.4", "text/plain", id="text"),
        pytest.param(OPENMETRICS, OPENMETRICS, id="openmetrics"),
        pytest.param(PROMETHEUS_3, OPENMETRICS, id="prometheus-3"),
        pytest.param(f"{OPENMETRICS}; version=abc", "text/plain", id="a-version-that-is-none"),
        pytest.param(f"{OPENMETRICS}; version=1.x", "text/plain", id="half-a-version"),
        pytest.param(f"{OPENMETRICS}; version=", OPENMETRICS, id="an-empty-version"),
    ],
)
async def test_the_format_follows_accept(
    client: aiohttp.ClientSession, busy: Any, accept: str | None, content_type: str
) -> None:
    """OpenMetrics for those who ask for it, else Prometheus text; a broken Accept is no fault."""
    headers = {} if accept is None else {"Accept": accept}
    answer = await client.get("/metrics", headers=headers, skip_auto_headers=["Accept"])
    assert (answer.status, answer.content_type) == (200, content_type)
    assert answer.charset == "utf-8"
    text = await answer.text()
    parse = parse_openmetrics if content_type == OPENMETRICS else parse_text
    assert len(list(parse(text))) > len(FAMILIES)


@pytest.mark.parametrize("version", ["2.0.0", "7.0.0", "1.0.0.SECRET", "1.0.0; SECRET", "9" * 5000])
def test_a_version_that_is_not_known_is_not_repeated(version: str) -> None:
    """The answer says what it is, not what was asked for."""
    assert content_type(f"{OPENMETRICS};version={version}").partition("; escaping")[0] in (
        "text/plain; version=0.0.4; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )
