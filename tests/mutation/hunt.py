"""Make the mutants and see which of them the tests kill: a script, run by `python -m tests.mutation`.

Owns the run. mutmut makes the mutants, has mypy refuse some, and finds out which tests call which function; its own runner
would start pytest anew for each mutant, which takes one or two seconds. Here the tests are collected once, and a fork of
this process runs those of one mutant, the quickest first, until one fails. What was killed stays so until its function
changes: a run tries what lives and what is new. In the folder mutants/; without that folder, all is tried.

A mutant may loop for good, with the interpreter's lock held and signals handled, or eat all memory. So each fork has limits
that the kernel keeps (`LIMITS`), and is killed with all that its tests have started once `HANGS` is over. Either is a kill.

What runs at import has run before the fork: mutants of what runs only then live.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from _pytest.config import _prepareconfig
from hypothesis import Phase, settings
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.type_checking import run_type_checker
from mutmut.utils.file_utils import change_cwd, copy_also_copy_files, copy_src_dir, setup_source_paths
from mutmut.utils.format_utils import get_mutant_name, mangled_name_from_mutant_name
from mutmut.workers.isolation import ForkServerRunner

WORK = Path("mutants").absolute()
LEFT_OUT = WORK / "left-out.txt"
SURVIVED, NO_TESTS, SUSPICIOUS, TIMEOUT, REFUSED = 0, 33, 35, 36, 37
LIVING = (None, SURVIVED, NO_TESTS, SUSPICIOUS)
HANGS = 60.0
"""Seconds after which a mutant hangs, on a busy machine too."""
LIMITS = {resource.RLIMIT_CPU: 10, resource.RLIMIT_AS: 4 << 30}
"""Seconds of CPU, after which the kernel sends SIGKILL, and bytes of address space, after which MemoryError is raised."""
PATIENCE = 3.0
"""Seconds that a test waits for what a mutant may never do; its own `LIMIT` is for machines that are busier."""


class Statistics(PytestRunner):
    """Which tests call which function. A test that fails without a mutant says nothing, and is left out, in `LEFT_OUT`:
    mutmut's own runner ends at the first one, so that one test, on a busy machine, is the end of all."""

    def execute_pytest(self, params: list[str], **options: Any) -> int:
        failed = set()

        class Failures:
            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                if report.failed:
                    failed.add(report.nodeid)

        words = [word for word in params if word != "-x"]
        code = super().execute_pytest(
            words, **{**options, "plugins": [*options.get("plugins", ()), Failures()]}
        )
        for tests in state().tests_by_mangled_function_name.values():
            tests -= failed
        for test in failed:
            state().duration_by_test.pop(test, None)
        LEFT_OUT.write_text("".join(f"{test}\n" for test in sorted(failed)))
        return 0 if code == pytest.ExitCode.TESTS_FAILED else code


def refused_by_mypy() -> set[str]:
    """The mutants in which mypy finds an error. As mutmut does it, but by `ast`: libcst takes minutes for these files.

    A mutant may cause an error outside of itself: mypy takes an attribute's type from all of a class. Those are printed,
    and the tests find that mutant.
    """
    with change_cwd(WORK):
        errors = run_type_checker(config().type_check_command)
        found = set()
        for path in {error.file_path for error in errors}:
            tree = ast.parse(path.read_text())
            functions = [
                node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            for line in (error.line_number for error in errors if error.file_path == path):
                around = [
                    at
                    for at in functions
                    if at.lineno <= line <= (at.end_lineno or 0) and "__mutmut_" in at.name
                ]
                if not around:
                    print(f"mypy refuses {path}:{line}, which is no mutant")
                    continue
                found.add(get_mutant_name(path.relative_to(Path.cwd()), around[0].name))
    return found


def prepare(children: int) -> None:
    """Mutants of all that changed, those that mypy refuses marked, and the tests of each function known."""
    set_mutant_under_test("mutant_generation")
    WORK.mkdir(exist_ok=True)
    for half in WORK.rglob("sidecar/**/*.py"):  # made by a run that was stopped
        if (
            config().should_mutate(half.relative_to(WORK))
            and not half.with_name(half.name + ".meta").exists()
        ):
            half.unlink()
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    refused: set[str] = set()
    mutmut.create_mutants(children)
    asked = WORK / "mypy-asked"
    if not asked.exists() or any(
        made.stat().st_mtime > asked.stat().st_mtime for made in WORK.rglob("sidecar/**/*.py")
    ):
        print("asking mypy", flush=True)
        refused = refused_by_mypy()
        for meta in WORK.rglob("*.meta"):
            kept = json.loads(meta.read_text())
            kept["exit_code_by_key"] |= {
                name: REFUSED for name in kept["exit_code_by_key"] if name in refused
            }
            meta.write_text(json.dumps(kept))
        asked.touch()
    print("running all tests once", flush=True)
    stats = WORK / "mutmut-stats.json"
    if stats.exists() and any(
        test.stat().st_mtime > stats.stat().st_mtime for test in Path("tests").rglob("*.py")
    ):
        stats.unlink()
    runner = ForkServerRunner(max_workers=1, test_runner_class=Statistics, test_runner_args={})
    mutmut.collect_or_load_stats(
        runner, mutants_caught_by_type_checker=dict.fromkeys(refused), apply_config_invalidation=True
    )
    if LEFT_OUT.exists() and (left_out := LEFT_OUT.read_text()):
        print(f"left out, for they fail without a mutant:\n{left_out}", end="")


def collect() -> dict[str, pytest.Item]:
    """All tests by name, in a session in the folder."""
    os.chdir(WORK)
    set_mutant_under_test("")
    chosen = [*config().pytest_add_cli_args_test_selection, *config().pytest_add_cli_args]
    made = _prepareconfig(["--rootdir=.", "-q", "-s", "--tb=no", *chosen])
    made._do_configure()
    # The first example that fails has killed the mutant: nobody reads the smallest one, which takes minutes to find.
    settings.register_profile("mutants", derandomize=True, phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutants")
    session = pytest.Session.from_config(made)
    made.hook.pytest_sessionstart(session=session)
    made.hook.pytest_collection(session=session)
    for name, module in list(sys.modules.items()):
        if name.startswith("tests.") and hasattr(module, "LIMIT"):
            module.LIMIT = PATIENCE
    return {item.nodeid: item for item in session.items}


class Order:
    """In which order the tests of a mutant are run, as far as `budget` reaches.

    What has killed mutants of the same function; the module's own tests; what has killed mutants of the same module; then
    one case of every other test before a second one of any. Quick ones first. The tables of tests/conformance, whole ones
    in a test each, come last whatever they take.
    """

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._kills: Counter[tuple[str, str]] = Counter()

    def tests(self, function: str, tests: set[str]) -> list[str]:
        """Those to run."""
        took, module = state().duration_by_test, function.rpartition(".")[0]
        kills, left = self._kills, self._budget
        # What people read has a table for all modules: one mutant, one case.
        own = re.compile(rf"/test_(sentences|{module.rpartition('.')[2]}(_\w+)?)\.py::")
        cases: Counter[str] = Counter()

        def place(test: str) -> tuple[int, bool, int, int]:
            case = cases[name := test.partition("[")[0]]
            cases[name] += 1
            return -kills[function, test], own.search(test) is None, -kills[module, test], case

        chosen = []
        for test in sorted(sorted(tests, key=lambda test: took.get(test, 0.0)), key=place):
            chosen.append(test)
            left -= took.get(test, 0.0)
            if left < 0:
                break
        tables = {test for test in tests if test.startswith("tests/conformance/")}
        return [*chosen, *sorted(tables.difference(chosen))]

    def learn(self, function: str, test: str) -> None:
        """It has killed one."""
        self._kills[function, test] += 1
        self._kills[function.rpartition(".")[0], test] += 1


def child(items: dict[str, pytest.Item], mutant: str, tests: list[str], tell: int) -> None:
    """Run the tests of one mutant; exits with 1 once one fails, told in `tell`, with 0 where none does."""
    os.setpgid(0, 0)
    for what, limit in LIMITS.items():
        resource.setrlimit(what, (limit, limit))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    set_mutant_under_test(mutant)
    chosen = [items[test] for test in tests if test in items]
    for item, following in zip(chosen, [*chosen[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            os.write(tell, f"{mutant}\t{item.nodeid}\n".encode())
            os._exit(1)
    os._exit(SURVIVED)


def choose(patterns: Sequence[str], sample: int | None) -> list[tuple[Path, str]]:
    """The living mutants that the patterns name, or those among `sample` of each module, small modules first; each with
    its file. All that were named are written down for the judgement."""
    wanted: list[tuple[Path, str]] = []
    chosen: list[str] = []
    made = {meta: json.loads(meta.read_text())["exit_code_by_key"] for meta in WORK.rglob("*.meta")}
    for meta, codes in sorted(made.items(), key=lambda module: (len(module[1]), module[0])):
        named = [
            name for name in codes if not patterns or any(fnmatch(name, pattern) for pattern in patterns)
        ]
        if sample is not None and len(named) > sample:
            named = random.Random(6).sample(named, sample)
        chosen += named
        wanted += [(meta.resolve(), name) for name in named if codes[name] in LIVING]
    (WORK / "chosen.json").write_text(json.dumps(chosen))
    return wanted


def end(pid: int) -> None:
    """Kill a child with all that its tests have started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def hunt(wanted: list[tuple[Path, str]], children: int, budget: float) -> None:
    """Try each of them, by `budget` seconds of tests, and write down what became of it."""
    items = collect()
    tests_of = state().tests_by_mangled_function_name
    running: dict[int, tuple[Path, str, float]] = {}
    order, total, started = Order(budget), len(wanted), time.monotonic()
    hear, tell = os.pipe()
    os.set_blocking(hear, False)

    def record(meta: Path, name: str, code: int) -> None:
        kept = json.loads(meta.read_text())
        kept["exit_code_by_key"][name] = code
        new = meta.with_suffix(".new")
        new.write_text(json.dumps(kept))
        new.replace(meta)
        left = len(wanted) + len(running)
        if left % 25 == 0:
            print(f"{total - left} of {total} tried in {time.monotonic() - started:.0f} s", flush=True)

    while wanted or running:
        while wanted and len(running) < children:
            meta, name = wanted.pop(0)
            function = mangled_name_from_mutant_name(name)
            tests = tests_of.get(function, set())
            if not tests:
                record(meta, name, NO_TESTS)
                continue
            chosen = order.tests(function, tests)
            if (pid := os.fork()) == 0:
                try:
                    child(items, name, chosen, tell)
                finally:
                    os._exit(SUSPICIOUS)
            running[pid] = (meta, name, time.monotonic() + HANGS)
        pid, status = os.waitpid(-1, os.WNOHANG) if running else (-1, 0)
        if pid in running:
            end(pid)
            meta, name, _ = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            record(meta, name, TIMEOUT if code == -signal.SIGKILL else code)
            with contextlib.suppress(BlockingIOError):
                for line in os.read(hear, 65536).decode().splitlines():
                    mutant, _, test = line.partition("\t")
                    order.learn(mangled_name_from_mutant_name(mutant), test)
        elif pid == 0:
            time.sleep(0.01)
        for pid, (_, _, ends) in running.items():
            if time.monotonic() > ends:
                end(pid)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # mypy's
    prepare(asked["children"])
    hunt(choose(asked["patterns"], asked["sample"]), asked["children"], asked["budget"])
