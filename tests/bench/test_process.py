"""benchmarks/process.py: what a process of a run is given."""

from __future__ import annotations

from pathlib import Path

import process
import pytest


def test_no_setting_of_the_machine_reaches_a_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA file that is named, for example: the sidecar would read it at each start."""
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/of-this-machine.pem")
    monkeypatch.setenv("HOME", "/home/me")
    cores = process.Cores.of_this_machine()
    with process.Process(
        "env", ["env"], cores=[cores.product], directory=tmp_path, environ={"A": "1"}
    ) as started:
        started._child.wait()
        given = dict(line.partition("=")[::2] for line in started.log.read_text().splitlines())
    assert given["A"] == "1"
    assert given["HOME"] == "/home/me"
    assert set(given) - {"A"} <= set(process.INHERITED)
