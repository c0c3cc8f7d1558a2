"""sidecar.tokens.grants.subprocess_run: one command, to its end or to a deadline, with nothing left behind"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.grants.subprocess_run import OUTPUT_LIMIT, Ended, run
from tests.support.eventually import eventually

ENVIRON = {"PATH": os.environ["PATH"], "ONLY": "this"}


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def flight(seconds: float = 60.0) -> Flight:
    return Flight(SystemClock(asyncio.get_running_loop()), seconds)


async def ended(program: str, seconds: float = 60.0) -> Ended:
    return await asyncio.to_thread(run, python(program), ENVIRON, flight(seconds))


async def test_what_it_printed_and_how_it_ended() -> None:
    """Both streams apart, and the exit code; its text form shows neither."""
    found = await ended("import sys; print('token'); print('warning', file=sys.stderr); sys.exit(3)")
    assert (found.code, found.stdout, found.stderr) == (3, "token\n", "warning\n")
    assert not found.late
    assert not found.too_long
    assert "token" not in repr(found)


async def test_an_end_that_another_reaper_took_away_is_no_success() -> None:
    """Whatever else in this process collects children: a status that was lost is unknown, and a failure is never 0."""
    codes: set[int | None] = set()
    over = threading.Event()

    def collect() -> None:
        while not over.is_set():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    thief = threading.Thread(target=collect)
    thief.start()
    try:
        for _ in range(30):
            codes.add(
                (
                    await asyncio.to_thread(run, ["/bin/sh", "-c", "echo token; exit 3"], ENVIRON, flight())
                ).code
            )
    finally:
        over.set()
        thief.join()
    assert codes <= {3, None}


async def test_a_command_killed_by_a_signal() -> None:
    """Its code is the negative number, as everywhere in Python."""
    assert (await ended("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")).code == -signal.SIGTERM


async def test_nothing_is_killed_once_the_command_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fetch is given up in the end, and the number of its command may be another process's by then."""
    it = flight()
    assert (await asyncio.to_thread(run, ["/bin/true"], ENVIRON, it)).code == 0
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append(group))
    it.abort()
    assert killed == []


async def test_its_environment_is_what_it_was_given() -> None:
    """Nothing of this process's own."""
    found = await ended("import os; print(sorted(name for name in os.environ if not name.startswith('LC_')))")
    assert found.stdout == "['ONLY', 'PATH']\n"


async def test_it_has_no_terminal_and_no_input() -> None:
    """So that it can't ask."""
    found = await ended("import sys; print(repr(sys.stdin.read()), sys.stdin.isatty())")
    assert found.stdout == "'' False\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_output_is_bounded(stream: str) -> None:
    """A command that prints without end is ended."""
    found = await ended(f"import sys\nwhile True: sys.{stream}.write('x' * 4096)")
    assert found.too_long
    assert len(getattr(found, stream)) <= OUTPUT_LIMIT + 8 * 1024


CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({file!r}, "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}")
os.rename({file!r}, {file!r} + ".done")
{then}
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pids(file: str) -> list[int]:
    """Of the command and its child, once both run; none before."""
    try:
        return [int(pid) for pid in Path(file + ".done").read_text().split()]
    except FileNotFoundError:
        return []


async def test_a_command_that_is_given_up_is_ended_with_its_children(tmp_path: Path) -> None:
    """The whole process group, so that no script's grandchild lives on."""
    file = str(tmp_path / "pids")
    given_up = flight()
    fetch = asyncio.get_running_loop().run_in_executor(
        None, run, python(CHILD.format(file=file, then="time.sleep(600)")), ENVIRON, given_up
    )
    await eventually(lambda: pids(file), why="the child's child has no pipe to say that it is there")
    given_up.abort()
    assert (await fetch).late
    for pid in pids(file):
        await _gone(pid)


async def test_a_command_is_ended_at_its_deadline() -> None:
    """Though nobody gave it up."""
    assert (await ended("import time; time.sleep(600)", seconds=0.2)).late


async def test_children_that_a_command_leaves_behind_are_ended(tmp_path: Path) -> None:
    """Also where the command itself ended in time, and closed its output."""
    file = str(tmp_path / "pids")
    program = CHILD.format(file=file, then="").replace(
        'time.sleep(600)"]', 'time.sleep(600)"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL'
    )
    found = await ended(program)
    assert found.code == 0
    await _gone(pids(file)[1])


async def test_a_command_that_is_not_there() -> None:
    """OSError, for the caller to say which."""
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(run, ["/nowhere/gcloud"], ENVIRON, flight())


async def _gone(pid: int) -> None:
    """The kernel ends a killed process in its own time; the process that reaps orphans takes it away."""
    await eventually(lambda: not is_running(pid), why="it is nobody's child by now, and nobody waits for it")
