"""deploy/monitoring, with the real promtool and Prometheus: rules, alerts, and a dashboard whose queries find something"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.emulator.keys import Authority
from sidecar.emulator.running import EmulatorThread
from sidecar.errors import MEANINGS, Reason, Source
from sidecar.observe.families import FAMILIES
from sidecar.observe.family import Family
from sidecar.observe.metrics import HandshakeFailure, Stall
from sidecar.proxy.refusals.diagnosis import Cause
from tests.support import panels
from tests.support.browser import CHROMIUM, browser
from tests.support.eventually import eventually_here
from tests.support.google import DEFAULT, FLAVOR
from tests.support.h2_frames import PREFACE, FrameReader, rst_stream
from tests.support.h2_frames import headers as h2_headers
from tests.support.h2_frames import settings as h2_settings
from tests.support.process import SidecarProcess
from tests.support.sidecar import free_port

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PICTURE = ROOT / "docs/images/dashboard.webp"
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}".replace(" ", "-"))
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed here (Debian: apt install prometheus)"
)


@promtool
@pytest.mark.parametrize(
    "words",
    [
        ["check", "rules", "rules.yaml"],
        pytest.param(["test", "rules", "rules.test.yaml"], marks=pytest.mark.test_all),
    ],
)
def test_rules(words: list[str]) -> None:
    """They are valid, and each alert fires when it should and not before."""
    found = subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_is_tested_and_has_its_section_in_the_runbook() -> None:
    """Reached by its `runbook_url`."""
    alerts = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
    tests = (MONITORING / "rules.test.yaml").read_text()
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    sections = {heading.lower() for heading in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}
    assert sections == {name.lower() for name in alerts}
    for name, rule in alerts.items():
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n", tests), f"{name} never fires in a test"
        assert rule["labels"]["severity"] in ("critical", "warning")
        written = re.fullmatch(
            r'\{\{ or \$externalLabels\.idtoken_runbook "(https://[^"]+/runbook\.html)" \}\}#(\w+)',
            rule["annotations"]["runbook_url"],
        )
        assert written, f"{name}: pagers need an absolute address, whose base is the operator's to say"
        assert written[1] in (MONITORING / "rules.yaml").read_text().partition("groups:")[0]
        assert written[2] in sections
        assert written[2] == name.lower()


def test_the_log_lines_of_the_runbook_are_logged() -> None:
    """Word by word, so that they can be searched for: as the beginning of a message."""
    runbook = " ".join((ROOT / "docs" / "runbook.md").read_text().split())
    code = "".join(path.read_text() for path in (ROOT / "sidecar").rglob("*.py"))
    lines = re.findall(r"\bline `([^`]+)`", runbook) + re.findall(r"log then has `([^`]+)`", runbook)
    assert len(lines) > 8
    assert [line for line in lines if f'"{line}' not in code] == []


ALERTS = [
    pytest.param(rule["expr"], id=rule["alert"])
    for group in RULES["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
OF_OTHERS = {
    "up": {"job"},
    "process_cpu_seconds_total": {"job"},
    "process_open_fds": {"job"},
    "process_max_fds": {"job"},
    "process_resident_memory_bytes": {"job"},
}
CLOSED = {
    "idtoken_sidecar_refused_total": {"reason": set(Reason)},
    "idtoken_sidecar_answers_cut_total": {"reason": set(Reason)},
    "idtoken_sidecar_upstream_refusals_total": {"reason": set(Cause)},
    "idtoken_sidecar_event_loop_stalls_total": {"reason": set(Stall)},
    "idtoken_sidecar_listener_tls_handshakes_failed_total": {"reason": set(HandshakeFailure)},
    "idtoken_sidecar_token_fetches_total": {"result": {"ok", "same", "error"}},
    "idtoken_sidecar_token_fetch_threads": {"state": {"busy", "abandoned"}},
}
"""The values of labels, where they are from a closed set."""


def _selected(expr: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Each metric of an expression with its matchers: label, operator, value."""
    for name, matchers in re.findall(
        r"\b(up|process_\w+|idtoken_sidecar_\w+)(?:\{([^}]*)\})?(?=[\[ )]|$)", expr
    ):
        yield name, re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers)


@pytest.mark.parametrize("expr", ALERTS + QUERIES)
def test_what_is_asked_for_exists(expr: str) -> None:
    """Metrics and labels are declared ones, and every value and each part of a pattern is one that comes."""
    families = {family.name: family for family in FAMILIES}
    found = list(_selected(expr))
    assert found
    for name, matchers in found:
        family = families.get(re.sub("_(bucket|sum|count)$", "", name))
        labels = OF_OTHERS[name] if family is None else set(family.labels)
        assert {label for label, _, _ in matchers} <= labels
        for label, operator, value in matchers:
            values = CLOSED.get(name, {}).get(label)
            for part in re.split(r"\|(?![^(]*\))", value) if values and "~" in operator else [value]:
                assert values is None or any(re.fullmatch(part, known) for known in values), part
    for labels in re.findall(r"by \(([^)]*)\)", expr):
        declared = {label for name, _ in found for label in _labels(families, name)}
        assert set(labels.split(", ")) <= declared | {"instance", "le"}


def _labels(families: Mapping[str, Family], name: str) -> tuple[str, ...]:
    family = families.get(re.sub("_(bucket|sum|count)$", "", name))
    return () if family is None else family.labels


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_metric_has_an_alert_or_a_panel(family: Family) -> None:
    """What is counted is shown, or it would not be looked at."""
    everything = [param.values[0] for param in ALERTS + QUERIES]
    used = {name for expr in everything for name, _ in _selected(str(expr))}
    assert {family.name, f"{family.name}_bucket"} & used


def _matching(alert: str) -> set[Reason]:
    """The reasons that an alert on `refused_total` counts."""
    (expr,) = (str(param.values[0]) for param in ALERTS if param.id == alert)
    (matchers,) = (matchers for name, matchers in _selected(expr) if name == "idtoken_sidecar_refused_total")
    judges = {
        "=": lambda value, reason: value == reason,
        "!=": lambda value, reason: value != reason,
        "=~": lambda value, reason: re.fullmatch(value, reason) is not None,
    }
    return {
        reason
        for reason in Reason
        if all(judges[operator](value, str(reason)) for _, operator, value in matchers)
    }


def test_every_refusal_is_somebodys_alert() -> None:
    """By its reason or its 503; but for slow and absent apps, and for what is counted as a fault."""
    assert _matching("IdTokenUpstreamFails") == {
        reason for reason, meaning in MEANINGS.items() if meaning.source is Source.UPSTREAM
    }
    callers, requests = _matching("IdTokenCallersRefused"), _matching("IdTokenRequestsRefused")
    assert not callers & requests
    slow = {Reason.HEAD_TIMEOUT, Reason.BODY_TIMEOUT, Reason.CLIENT_GONE, Reason.CLIENT_STALLED}
    assert callers | requests | slow == {
        reason for reason, meaning in MEANINGS.items() if meaning.source is Source.APP
    }
    rest = [it for it in MEANINGS.items() if it[1].source in (Source.TOKEN, Source.SELF)]
    assert [reason for reason, meaning in rest if meaning.status != 503] == [Reason.INTERNAL]


def speak_http2(port: int) -> None:
    """A call that can't be bridged, and a request that is cancelled."""
    lines = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/x"),
        (b":authority", b"svc.localhost"),
    ]
    call = [*lines, (b"content-type", b"application/grpc")]
    with socket.create_connection(("localhost", port), timeout=10) as app:
        app.sendall(
            PREFACE + h2_settings() + h2_headers(1, lines, end=False) + rst_stream(1) + h2_headers(3, call)
        )
        reader = FrameReader()
        while not any(frame.stream == 3 for frame in reader.feed(app.recv(65536))):
            pass


class Prometheus:
    """A real one that scrapes one sidecar every two seconds, which is also as long as a scrape may take."""

    def __init__(self, directory: Path, target: int, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        config = {
            "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "rules.yaml")],
            "scrape_configs": [
                {"job_name": "idtoken-sidecar", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
            ],
        }
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def query(self, expr: str) -> list[Any]:
        """The series that an expression has now."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # loopback
                return list(json.load(answer)["data"]["result"])
        except OSError:
            return []

    def wait_for(self, expr: str, seconds: float = 60.0) -> list[Any]:
        """Its series, once there are some."""
        return list(eventually_here(lambda: self.query(expr), why=f"Prometheus has {expr}", limit=seconds))


class Cutting(socketserver.StreamRequestHandler):
    """An upstream that breaks its answers off."""

    def handle(self) -> None:
        while self.rfile.readline() not in (b"", b"\r\n"):
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes a sidecar under load, in which everything that the dashboard shows happens."""
    directory = tmp_path_factory.mktemp("prometheus")
    with EmulatorThread() as thread, socketserver.ThreadingTCPServer(("127.0.0.1", 0), Cutting) as cutting:
        threading.Thread(target=cutting.serve_forever, daemon=True).start()
        urls = {name: thread.add_target(name, **options).url for name, options in _TARGETS.items()}
        routes = "".join(
            f"  - {{name: {name}, host: {name}.test, upstream: '{url}', target: cloud_run, audience: '{url}'}}\n"
            for name, url in urls.items()
        )
        routes += "  - {name: gone, host: g.test, upstream: 'http://127.0.0.1:1'}\n"
        authority = Authority()
        (directory / "ca.pem").write_bytes(authority.pem)
        (directory / "tls.pem").write_bytes(authority.issue(["localhost"]))
        (directory / "tls.pem").chmod(0o600)
        tls = f"tls: {{cert_file: {directory}/tls.pem, key_file: {directory}/tls.pem}}"
        routes += (
            "  - {name: secured, host: s.test, upstream: 'https://localhost:1', "
            f"tls: {{ca_file: {directory}/ca.pem, client_cert_file: {directory}/tls.pem, "
            f"client_key_file: {directory}/tls.pem}}, listen: {{address: 'localhost:0', {tls}}}}}\n"
            f"  - {{name: cut, host: c.test, upstream: 'http://127.0.0.1:{cutting.server_address[1]}'}}\n"
        )
        config = f"credentials: {{default: {{type: metadata}}}}\nmetadata_server: {{listen: 'localhost:0'}}\nroutes:\n{routes}"
        with SidecarProcess(config, directory, thread.google.environment()) as sidecar:
            stop = threading.Event()
            (server,) = sidecar.admin("/status.json").json["handouts"]
            programs = int(server["listen"][0].rpartition(":")[2])
            identity = f"{DEFAULT}identity?audience={urls['svc']}"

            def load() -> None:
                while not stop.wait(PAUSE):
                    for name in (*urls, "gone", "secured"):
                        sidecar.get(name)
                    for headers in ({}, FLAVOR):
                        sidecar.ask(programs, identity, headers)
                    speak_http2(sidecar.port)
                    with suppress(http.client.IncompleteRead):
                        sidecar.get("cut")

            threads = [threading.Thread(target=load) for _ in range(4)]
            for one in threads:
                one.start()
            it = Prometheus(directory, sidecar.admin_port, free_port())
            try:
                assert it.wait_for("rate(idtoken_sidecar_requests_total[10s]) > 0"), "nothing was scraped"
                (directory / "ca.pem").write_text("no certificate")
                yield it
            finally:
                stop.set()
                for one in threads:
                    one.join()
                cutting.shutdown()
                it.process.kill()
                it.process.wait()


PAUSE = 0.1
"""Seconds between what a thread of the load does: it lasts as long as the tests, and others run beside it."""
_TARGETS: dict[str, dict[str, Any]] = {"svc": {}, "refusing": {"callers": ()}}


real = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="Prometheus is not installed here (Debian: apt install prometheus)",
)


@real
@pytest.mark.parametrize("expr", QUERIES)
def test_every_query_of_the_dashboard_finds_something(prometheus: Prometheus, expr: str) -> None:
    """In a Prometheus that scrapes the sidecar under load."""
    asked = panels.asked(expr)
    assert prometheus.wait_for(asked), asked


@real
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
async def test_the_picture_in_the_docs_shows_every_panel(prometheus: Prometheus, tmp_path: Path) -> None:
    """Drawn by us from what Prometheus has, since no Grafana is to be had here; IDTOKEN_WRITE_PICTURES=1 keeps it."""
    for panel in DASHBOARD["panels"]:  # until everything has happened that it shows
        for target in panel["targets"]:
            await asyncio.to_thread(prometheus.wait_for, panels.asked(target["expr"]))
    if writing := "IDTOKEN_WRITE_PICTURES" in os.environ:  # a minute of it
        await asyncio.to_thread(prometheus.wait_for, "sum_over_time(idtoken_sidecar_ready[2m]) >= 55", 120.0)
    end = float(prometheus.query("time()")[0])
    html, counts = await asyncio.to_thread(panels.page, DASHBOARD, prometheus.url, end - 60.0, end)
    assert [title for title, count in counts.items() if not count] == []
    file = tmp_path / "dashboard.html"
    file.write_text(html, "utf-8")
    async with browser(tmp_path) as page:
        await page.look(width=1280)
        await page.open(file.as_uri())
        assert await page.run("document.querySelectorAll('figure').length") == len(DASHBOARD["panels"])
        if writing:
            await page.picture(PICTURE)


@real
def test_counters_only_grow_and_match(prometheus: Prometheus) -> None:
    """No scrape was ever smaller than the one before, and none failed."""
    assert prometheus.wait_for("up == 1")
    assert not prometheus.query("resets(idtoken_sidecar_requests_total[1m]) > 0")
    assert not prometheus.query("min_over_time(up[1m]) == 0")
    assert prometheus.wait_for("idtoken_sidecar:requests:rate5m > 0")
    assert prometheus.wait_for('ALERTS{alertname="IdTokenTargetRefuses"}')


@promtool
def test_the_exposition_is_what_promtool_wants(tmp_path: Path) -> None:
    """`promtool check metrics` finds nothing to say."""
    with EmulatorThread() as thread:
        url = thread.add_target("svc").url
        text = f"credentials: {{default: {{type: metadata}}}}\nroutes: [{{name: svc, upstream: '{url}'}}]\n"
        with SidecarProcess(text, tmp_path, thread.google.environment()) as sidecar:
            sidecar.get("svc")
            page = sidecar.admin("/metrics").body
    found = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60)
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")
