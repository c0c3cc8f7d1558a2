"""How many instructions a request costs, as valgrind counts them, and whether that is within the budget: `make budget`.

Owns: the run under valgrind, which budget is whose, and the judgement. `instructions_driver` is what runs.
Called by: people, through `make budget`; `tests/bench/test_budget.py`.
May not: need anything but the standard library.
Rule: a count is the same in each run to a few in ten thousand, however busy the machine is. It differs between versions
of Python, and with how Python was compiled: each has a budget of its own, and a Python without one is measured and
not judged. More than `ALLOWED` over the budget fails. The commit that makes requests cheaper, or has a good reason to
make them dearer, records its own (`make budget ARGS=--record`).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import environments
from machine import alone
from process import RunError

REPOSITORY = Path(__file__).resolve().parent.parent
WORK = REPOSITORY / "benchmarks" / ".work"
DRIVER = Path(__file__).with_name("instructions_driver.py")
BUDGETS = Path(__file__).with_name("budgets.json")
ALLOWED = 0.03
KINDS = ("http1", "http2", "grpc", "message")
REQUESTS = 200

Counts = Mapping[str, int]
"""Instructions of a request, for each kind."""


class BudgetError(Exception):
    """What was asked for can't be measured; says why."""


def who(python: Path) -> str:
    """What a budget is recorded for: this Python, and whether its `sidecar` is the compiled one."""
    return _run([str(python), str(DRIVER), "--who"], str(python)).stdout.strip()


def count(python: Path, kinds: tuple[str, ...] = KINDS) -> Counts:
    """Instructions of a request, each kind measured by itself in one process; some ten seconds."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "count"
        options = ["--tool=callgrind", "--instr-atstart=no", "--dump-before=getpriority"]
        command = ["valgrind", *options, f"--callgrind-out-file={out}", str(python), str(DRIVER)]
        _run([*command, "--counted", f"--requests={REQUESTS}", *kinds], "valgrind")
        # A file at each mark, and two marks a kind: the second has what its requests cost.
        return {kind: _total(Path(f"{out}.{2 * n + 2}")) // REQUESTS for n, kind in enumerate(kinds)}


def _total(dump: Path) -> int:
    found = re.search(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE) if dump.exists() else None
    if found is None:
        raise BudgetError(f"valgrind wrote no count to {dump.name}: is it older than 3.19?")
    return int(found[1])


def _run(command: list[str], what: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise BudgetError(
            f"there is no `{error.filename}` here (Debian: apt-get install valgrind)"
        ) from error
    except subprocess.CalledProcessError as error:
        raise BudgetError(f"{what} failed ({error.returncode}): {error.stderr[-2000:]}") from error


def budgets() -> dict[str, Counts]:
    """Every budget, by whose it is."""
    found: dict[str, Counts] = json.loads(BUDGETS.read_text())
    return found


def record(whose: str, counts: Counts) -> None:
    """Keep this as the budget."""
    BUDGETS.write_text(json.dumps(budgets() | {whose: counts}, indent=2, sort_keys=True) + "\n")


def over(counts: Counts, budget: Counts) -> list[str]:
    """A sentence for each kind that is over its budget."""
    return [
        f"{kind}: {counts[kind]:,} instructions a request, {counts[kind] / budget[kind] - 1:+.1%} of the budget's "
        f"{budget[kind]:,}. Make it cheaper, or record it with `make budget ARGS=--record` and say in the commit why."
        for kind in counts
        if kind in budget and counts[kind] > budget[kind] * (1 + ALLOWED)
    ]


def main() -> int:
    """0 within the budget, or without one; 1 over it; 2 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="benchmarks/instructions.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python",
        type=Path,
        default=REPOSITORY / ".venv/bin/python",
        metavar="FILE",
        help="of an environment with the sidecar (the checkout's); `image`: both builds for the image's Python, as"
        " `make bench` installs them",
    )
    parser.add_argument("--record", action="store_true", help="keep what is counted as this Python's budget")
    asked = parser.parse_args()
    try:
        pythons = of_image() if str(asked.python) == environments.IMAGE else [asked.python]
        return max(_judge(python, recorded=asked.record) for python in pythons)
    except (BudgetError, RunError) as error:
        print(f"benchmarks/instructions.py: {error}", file=sys.stderr)
        return 2


def of_image() -> list[Path]:
    """The Pythons of both builds, as they are installed for the image's Python; RunError where it isn't here."""
    python = environments.choose(environments.IMAGE, environments.of_image())
    assert python is not None
    with alone(WORK):
        installed = environments.provide(WORK, python)
    return [sidecar.with_name("python") for sidecar in (installed.sidecar, installed.compiled)]


def _judge(python: Path, *, recorded: bool) -> int:
    """Count and say it all for one environment; keep it, or hold it against its budget: 1 when over it."""
    whose = who(python)
    counts = count(python)
    budget = budgets().get(whose, {})
    print(whose)
    for kind, found in counts.items():
        known = budget.get(kind)
        beside = f" ({found / known - 1:+.2%} of {known:,})" if known else ", and no budget"
        print(f"  {kind}: {found:,} instructions a request{beside}")
    if recorded:
        record(whose, counts)
        return 0
    faults = over(counts, budget)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
