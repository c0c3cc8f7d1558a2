"""deploy/monitoring, with the real promtool and Prometheus: rules, alerts, and a dashboard whose queries find something"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.emulator.running import EmulatorThread
from tests.support.process import SidecarProcess
from tests.support.sidecar import free_port

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}".replace(" ", "-"))
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed here (Debian: apt install prometheus)"
)


@promtool
@pytest.mark.parametrize("words", [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]])
def test_rules(words: list[str]) -> None:
    """They are valid, and each alert fires when it should and not before."""
    found = subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_is_tested_and_has_its_section_in_the_runbook() -> None:
    """Reached by its `runbook_url`."""
    alerts = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
    tests = (MONITORING / "rules.test.yaml").read_text()
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    sections = {heading.lower() for heading in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}
    assert len(alerts) == 7
    for name, rule in alerts.items():
        assert f"alertname: {name}" in tests
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (ROOT / page).is_file()
        assert anchor in sections
        assert anchor == name.lower()


class Prometheus:
    """A real one that scrapes one sidecar every quarter of a second."""

    def __init__(self, directory: Path, target: int, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        config = {
            "global": {"scrape_interval": "250ms", "evaluation_interval": "1s"},
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

    def wait_for(self, expr: str, seconds: float = 30.0) -> list[Any]:
        """Its series, once there are some; empty if there are none in time."""
        until = time.monotonic() + seconds  # noqa: TID251
        while not (found := self.query(expr)) and time.monotonic() < until:  # noqa: TID251
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes a sidecar under load, in which everything that the dashboard shows happens."""
    directory = tmp_path_factory.mktemp("prometheus")
    with EmulatorThread() as thread:
        urls = {name: thread.add_target(name, **options).url for name, options in _TARGETS.items()}
        routes = "".join(
            f"  - {{name: {name}, host: {name}.test, upstream: '{url}', target: cloud_run, audience: '{url}'}}\n"
            for name, url in urls.items()
        )
        routes += "  - {name: gone, host: g.test, upstream: 'http://127.0.0.1:1'}\n"
        config = f"credentials: {{default: {{type: metadata}}}}\nroutes:\n{routes}"
        with SidecarProcess(config, directory, thread.google.environment()) as sidecar:
            stop = threading.Event()

            def load() -> None:
                while not stop.is_set():
                    for name in (*urls, "gone"):
                        sidecar.get(name)

            threads = [threading.Thread(target=load) for _ in range(4)]
            for one in threads:
                one.start()
            it = Prometheus(directory, sidecar.admin_port, free_port())
            try:
                assert it.wait_for("rate(idtoken_sidecar_requests_total[10s]) > 0"), "nothing was scraped"
                yield it
            finally:
                stop.set()
                for one in threads:
                    one.join()
                it.process.kill()
                it.process.wait()


_TARGETS: dict[str, dict[str, Any]] = {"svc": {}, "refusing": {"callers": ()}}


real = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="Prometheus is not installed here (Debian: apt install prometheus)",
)


@real
@pytest.mark.parametrize("expr", QUERIES)
def test_every_query_of_the_dashboard_finds_something(prometheus: Prometheus, expr: str) -> None:
    """In a Prometheus that scrapes the sidecar under load."""
    asked = expr.replace("$__rate_interval", "10s").replace("$route", ".*")
    assert prometheus.wait_for(asked), asked


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
