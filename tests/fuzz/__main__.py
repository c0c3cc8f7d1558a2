"""`make fuzz`: every target for a bounded number of runs, each in a process of its own.

Prints one line a target: runs, runs a second, findings and where they lie. Ends with 1 on a finding. Settings come as
variables: TARGET, RUNS (of each target), SECONDS (of each, 0: no bound), KEEP=1 (pack the corpus again).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from tests.fuzz.corpus import LONGEST, TARGETS, keep, kept, seeds, unpack

BUILD: Final = Path("build/fuzz")
SLOWEST: Final = 10
"""Seconds that one input may take: milliseconds are usual, so it is a hang."""
MEMORY: Final = 1024
"""MiB of the process."""
_HERE: Final = Path(__file__).parent


class Outcome(NamedTuple):
    """Of one target."""

    runs: int
    seconds: float
    ok: bool
    findings: list[Path]


def main() -> int:
    """Run what the environment asks for."""
    chosen = os.environ.get("TARGET") or ""
    targets = chosen.split() or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        print(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
        return 2
    runs, seconds = int(os.environ.get("RUNS") or 100_000), int(os.environ.get("SECONDS") or 0)
    ok = True
    for target in targets:
        outcome = fuzz(target, runs=runs, seconds=seconds)
        ok = ok and outcome.ok
        rate = outcome.runs / outcome.seconds
        found = ", ".join(map(str, outcome.findings)) or (
            "none" if outcome.ok else f"see {BUILD}/{target}/log"
        )
        print(f"{target}: {outcome.runs} runs, {rate:.0f}/s, findings: {found}", flush=True)
        if os.environ.get("KEEP") and outcome.ok:
            pack(target)
    return 0 if ok else 1


def fuzz(target: str, *, runs: int, seconds: int) -> Outcome:
    """One bounded run."""
    folder = BUILD / target
    corpus, findings = folder / "corpus", folder / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    known = set(findings.iterdir())
    unpack([*kept(target), *seeds(target)], corpus)
    log = folder / "log"
    arguments = [
        str(corpus),
        f"-runs={runs}",
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST[target]}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={findings}/",
        *(f"-dict={_HERE / words}" for words in _WORDS.get(target, ())),
        "-print_final_stats=1",
        "-reload=0",
    ]
    began = perf_counter()
    status = _child(target, arguments, log)
    took = perf_counter() - began
    text = log.read_text(errors="replace")
    done = re.findall(r"^#(\d+)\t", text, re.MULTILINE)
    found = sorted(set(findings.iterdir()) - known)
    if status and not found:
        sys.stdout.write(text[-2000:])
    return Outcome(int(done[-1]) if done else 0, took, status == 0, found)


def pack(target: str) -> None:
    """Keep the smallest inputs that reach all that `corpus` reaches."""
    folder = BUILD / target
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    if _child(target, [str(merged), str(folder / "corpus"), "-merge=1"], folder / "merge-log"):
        raise SystemExit(f"the merge failed: see {folder}/merge-log")
    keep(target, [path.read_bytes() for path in merged.iterdir()])


def _child(target: str, arguments: list[str], log: Path) -> int:
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "tests.fuzz.child", target, *arguments]
        return subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode


_WORDS: Final = {
    "request": ("http.dict",),
    "answer": ("http.dict",),
    "config": ("config.dict",),
    "token": ("token.dict",),
}
"""Those of HTTP/2 are the names and values of its seeds: frames have no words."""

if __name__ == "__main__":
    sys.exit(main())
