"""Break the code in every small way and see the tests go red: `make mutants`.

Owns: which mutants are made and by which tests they are hunted (pyproject.toml, `tool.mutmut`), and the judgement: of all
mutants of a run at least `SHARE` killed, each survivor listed in survivors.yaml with the reason why it may live. What is
listed there of a module that was tried, and does not live, is printed, too. `hunt` makes and tries them in the folder
mutants/; a mutant that mypy refuses counts as killed, for CI runs mypy.

    python -m tests.mutation [PATTERN …]        such as 'sidecar.proxy.http1.framing*'; without one, all
    python -m tests.mutation --report           judge the last run again, run nothing
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

SHARE = 0.90
"""Of the mutants, at least so many are killed."""

WORK = Path("mutants")
SURVIVORS = Path(__file__).with_name("survivors.yaml")
MYPY = "caught by type check"
KILLED = {"killed", "timeout", "segfault", MYPY}


class Mutant(NamedTuple):
    """One change, and what became of it."""

    name: str
    module: str
    status: str


class Survivor(NamedTuple):
    """What is printed about a mutant, without its number, which changes with the code."""

    where: str
    was: str
    is_: str


def mutants() -> Iterator[Mutant]:
    """All that the last run was about."""
    from mutmut.stats import status_by_exit_code

    chosen = set(json.loads((WORK / "chosen.json").read_text()))
    for meta in sorted(WORK.rglob("*.meta")):
        codes: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
        module = str(meta.relative_to(WORK)).removesuffix(".py.meta").replace(os.sep, ".")
        for name in chosen.intersection(codes):
            yield Mutant(name, module, status_by_exit_code[codes[name]])


def told(mutant: Mutant) -> Survivor:
    """The lines that differ."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    path = mutant.module.replace(".", os.sep) + ".py"
    was, is_ = [], []
    for line in get_diff_for_mutant(mutant.name, path=path).splitlines()[2:]:
        if line.startswith("-"):
            was.append(line[1:].strip())
        elif line.startswith("+"):
            is_.append(line[1:].strip())
    function = mutant.name.removeprefix(mutant.module + ".").partition("__mutmut_")[0]
    function = function.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    return Survivor(f"{mutant.module.removeprefix('sidecar.')}.{function}", " ".join(was), " ".join(is_))


class Reasons:
    """Survivors that may live: listed one by one, or by a pattern of what a change leads to."""

    def __init__(self) -> None:
        self._listed: dict[Survivor, str] = {}
        self._met: set[Survivor] = set()
        self._patterns: list[re.Pattern[str]] = []
        for entry in yaml.safe_load(SURVIVORS.read_text()):
            if "pattern" in entry:
                self._patterns.append(re.compile(entry["pattern"]))
            for change in entry.get("changes", ()):
                self._listed[Survivor(entry["where"], change["was"], change["is"])] = entry["reason"]

    def __contains__(self, survivor: Survivor) -> bool:
        self._met.add(survivor)
        return survivor in self._listed or any(pattern.search(survivor.is_) for pattern in self._patterns)

    def idle(self, modules: Iterable[str]) -> Iterator[Survivor]:
        """Those listed of these modules that were not asked about: killed by now, or no longer made."""
        known = tuple(f"{module.removeprefix('sidecar.')}." for module in modules)
        return (
            listed for listed in self._listed if listed not in self._met and listed.where.startswith(known)
        )


def judge() -> int:
    """Print the figures for each module and each survivor without a reason; 1 where that is not good enough."""
    by_module: dict[str, Counter[str]] = {}
    reasons, excused = Reasons(), 0
    for mutant in mutants():
        counts = by_module.setdefault(mutant.module, Counter())
        counts[mutant.status] += 1
        if mutant.status in KILLED:
            continue
        survivor = told(mutant)
        if survivor in reasons:
            excused += 1
            continue
        print(f"{mutant.status}: {mutant.name}\n    {survivor.where}\n  - {survivor.was}\n  + {survivor.is_}")
    if not by_module:
        print("no mutant has such a name")
        return 1
    for listed in reasons.idle(by_module):
        print(f"listed, but does not live: {listed.where}\n  - {listed.was}\n  + {listed.is_}")
    whole: Counter[str] = Counter()
    for counts in by_module.values():
        whole += counts
    for module, counts in (*by_module.items(), ("all", whole)):
        killed = sum(counts[status] for status in KILLED)
        print(
            f"{module:<28}{counts.total():>6} mutants{counts[MYPY]:>6} refused by mypy{killed - counts[MYPY]:>6} killed"
            f"{counts.total() - killed:>5} live{killed / counts.total():>8.1%}"
        )
    killed, total = sum(whole[status] for status in KILLED), whole.total()
    print(f"{excused} live with a reason, {total - killed - excused} without")
    return 0 if killed >= SHARE * total else 1


def main() -> int:
    """0 where at least nine of ten were killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--report", action="store_true", help="judge the last run again")
    parser.add_argument("--sample", type=int, metavar="N", help="of each module, N mutants by a fixed seed")
    parser.add_argument("--children", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument(
        "--budget",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="of tests, as long as they take without a mutant, that are spent on each; what lives longer survives",
    )
    asked = parser.parse_args()
    if not asked.report:
        # A process of its own, in which neither `sidecar` nor `tests` has been imported from here.
        how = {
            "patterns": asked.patterns,
            "children": asked.children,
            "sample": asked.sample,
            "budget": asked.budget,
        }
        hunt = [sys.executable, str(Path(__file__).with_name("hunt.py")), json.dumps(how)]
        if returncode := subprocess.run(hunt, check=False).returncode:
            return returncode
    return judge()


if __name__ == "__main__":
    sys.exit(main())
