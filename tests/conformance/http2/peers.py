"""The tables of HTTP/2 against real Envoy and real nghttpx: `make compare-peers`.

Owns how every case is played against them, and verdicts.json, which keeps what they did; `page` makes
docs/conformance-http2.md of it. How they are set up is `tests.support.h2_proxies`. Needs benchmarks/ on the path, which
provides Envoy; nghttpx is Debian's nghttp2-proxy.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import provide_envoy

from tests.conformance.http2 import page
from tests.conformance.http2.attacks import attack
from tests.conformance.http2.play import answer_outcome, flood_course, head_outcome, section_outcome
from tests.conformance.http2.record import RECORD, TABLES, Record, digest, dump
from tests.conformance.http2.target import Target
from tests.support import h2_proxies


def _section(port: int, target: Target, case: Any) -> str:
    found, wrong = section_outcome(port, target, case)
    return f"{found}, but {wrong}" if wrong else found


def _attack(port: int, target: Target, case: Any) -> str:
    target.forget()
    return attack(port, case).outcome


PLAYERS: dict[str, Callable[[int, Target, Any], str]] = {
    "sections": _section,
    "heads": head_outcome,
    "answers": answer_outcome,
    "attacks": _attack,
    "floods": lambda port, target, case: flood_course(port, target, case).outcome,
}


def survey(peer: str) -> dict[str, dict[str, str]]:
    """Every table against one peer: name to verdict."""
    found: dict[str, dict[str, str]] = {}
    with (
        Target() as target,
        tempfile.TemporaryDirectory() as directory,
        h2_proxies.running(peer, Path(directory), target.port) as proxy,
    ):
        for table, cases in TABLES.items():
            print(f"==> {peer}: {len(cases)} {table}", file=sys.stderr, flush=True)
            found[table] = {case.name: PLAYERS[table](proxy.port, target, case) for case in cases}
    return found


def versions() -> dict[str, dict[str, str]]:
    """What ran."""

    def first(binary: str | None, pattern: str) -> str:
        assert binary is not None
        done = subprocess.run([binary, "--version"], stdout=subprocess.PIPE, text=True, check=True)
        found = re.search(pattern, done.stdout)
        return found[1] if found else "unknown"

    return {
        "peers": {
            "envoy": first(h2_proxies.envoy_binary(), r"/(\d[\d.]+)/"),
            "nghttpx": first(h2_proxies.nghttpx_binary(), r"nghttp2/(\S+)"),
        }
    }


def main() -> int:
    """Play, keep, and write the page."""
    provide_envoy(Path(__file__).parents[3] / "benchmarks" / ".work")
    by_peer = {peer: survey(peer) for peer in page.PEERS}
    record: Record = {"versions": versions()}
    for table, cases in TABLES.items():
        record[table] = {
            case.name: {
                "digest": digest(case),
                **{peer: by_peer[peer][table][case.name] for peer in page.PEERS},
            }
            for case in cases
        }
    if "--check" not in sys.argv:
        RECORD.write_text(dump(record))
        page.PAGE.write_text(page.render(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
