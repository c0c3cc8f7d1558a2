"""The comparison with other proxies: what it refuses, and who takes part."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from machine import alone
from measure import Bench, Plan
from process import Cores, RunError
from products import catalogue
from run import MINUTES, PARTS, arguments, present

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
needs_programs = pytest.mark.skipif(
    not all(
        shutil.which(name, path=f"{Path('/usr/sbin')}:{Path('/usr/bin')}:{Path('/bin')}")
        for name in ("nginx", "wrk", "openssl", "taskset")
    ),
    reason="nginx, wrk, openssl or taskset is not installed here (`make bench` installs them)",
)


def test_two_runs_at_once_do_not_share_a_directory(tmp_path: Path) -> None:
    """The second one would write its products' configuration over that of the first, which is running."""
    with (
        alone(tmp_path),
        pytest.raises(RunError, match=r"^process \d+ already runs a benchmark"),
        alone(tmp_path),
    ):
        pass


def test_a_run_may_follow_another(tmp_path: Path) -> None:
    for _ in range(2):
        with alone(tmp_path):
            pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed here")
def test_a_contender_that_answers_wrong_is_out_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(Plan([], 1, 1, 0, 1, 1), tmp_path, Cores(0, (1,)))
    with bench.judged("live", "envoy"):
        raise RunError("answered 503")
    with bench.judged("live", "go"):
        bench.figures.add("events", "go", 1.0)
    with bench.judged("live", "nginx"):
        raise ConnectionResetError(104, "Connection reset by peer")
    assert bench.figures.out == {
        ("live", "envoy"): "answered 503",
        ("live", "nginx"): "[Errno 104] Connection reset by peer",
    }
    assert "envoy is OUT of `live`: answered 503" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.test_all
@needs_programs
def test_a_quick_run_writes_report_data_and_charts(tmp_path: Path) -> None:
    """Small requests and the start, of the sidecar alone: a few seconds."""
    done = subprocess.run(
        [
            *(sys.executable, str(RUN), "--quick", "--only", "sidecar", "--upstream", "plain"),
            *("--python", "own", "--parts", "small,rest", "--work", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "part 2 of 2: rest" in done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["out"] == []
    assert found["quick"]
    for row in ("small plain", "memory plain", "start", "memory at rest", "wake-ups"):
        [value] = found["rows"][row]["rounds"]["sidecar"]
        assert value >= 0
    assert "## Start and rest" in (tmp_path / "report.md").read_text()
    assert {file.name for file in (tmp_path / "charts").iterdir()} == {"small.svg", "rest.svg"}


@pytest.mark.parametrize("part", PARTS)
def test_the_page_has_every_part_with_its_minutes(part: str) -> None:
    page = (RUN.parents[1] / "docs" / "performance.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{part}` |")]
    assert row.endswith(f" | {MINUTES[part]} |")


def test_a_contender_that_is_not_installed_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = catalogue(envoy="", go="", sidecar_command="", earlier=None)
    asked = arguments(["--only", "sidecar,envoy,earlier,nghttpx"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [product.name for product in present(known, asked, None)] == ["sidecar", "envoy"]
    assert "without nghttpx: not installed (Debian: nghttp2-proxy)" in capsys.readouterr().err
    monkeypatch.undo()
    program = tmp_path / "nghttpx"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    names = [product.name for product in present(known, asked, tmp_path)]
    assert names == ["sidecar", "earlier", "envoy", "nghttpx"]
