"""`idtoken-sidecar token` and `check`, as processes: what goes to a pipe, what to a terminal, exit codes"""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.emulator.faults import Fault
from sidecar.emulator.keys import signing_key
from sidecar.emulator.running import EmulatorThread
from tests.support import forks
from tests.support.sidecar import COMMAND, LIMIT, clean_environment


@pytest.fixture
def thread() -> Iterator[EmulatorThread]:
    with EmulatorThread() as running:
        running.run(running.google.add_target("svc"))
        yield running


@pytest.fixture
def file(thread: EmulatorThread, tmp_path: Path) -> str:
    url = thread.google.targets["svc"].url
    path = tmp_path / "c.yaml"
    path.write_text(
        f"credentials: {{default: {{type: metadata}}}}\n"
        f"routes:\n  - {{name: svc, upstream: '{url}', target: cloud_run, audience: '{url}'}}\n"
        "  - {name: all, host: '*.a.run.app', upstream: 'https://{host}'}\n"
    )
    return str(path)


def command(thread: EmulatorThread, *words: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environment(**thread.google.environment())
    return forks.run([*COMMAND, *words], env=environ, timeout=LIMIT)


def test_a_pipe_gets_the_token_and_nothing_else(thread: EmulatorThread, file: str) -> None:
    """For `$(…)`: one line that the target would take."""
    found = command(thread, "token", "svc", "-c", file)
    assert (found.returncode, found.stderr) == (0, "")
    claims = signing_key("google").verify(found.stdout.removesuffix("\n"))
    assert claims["aud"] == thread.google.targets["svc"].url


def test_a_terminal_is_warned(thread: EmulatorThread, file: str) -> None:
    """On stderr; the token is printed all the same."""
    leader, follower = pty.openpty()
    try:
        found = subprocess.run(
            [*forks.stand_in(), "token", "svc", "-c", file],
            env=clean_environment(**thread.google.environment()),
            stdout=follower,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
        )
        os.close(follower)
        printed = os.read(leader, 65536).decode()
    finally:
        os.close(leader)
    assert "this is a secret on your terminal" in found.stderr
    assert printed.startswith("eyJ")


def test_claims_are_shown_without_the_token(thread: EmulatorThread, file: str) -> None:
    """As JSON."""
    found = command(thread, "token", "svc", "--claims", "-c", file)
    assert json.loads(found.stdout)["aud"] == thread.google.targets["svc"].url
    assert "eyJ" not in found.stdout


def test_a_wildcards_token_needs_a_host(thread: EmulatorThread, file: str) -> None:
    """It is asked for, and then there is one."""
    found = command(thread, "token", "all", "-c", file)
    assert found.returncode == 1
    assert "name one with `--host`" in found.stderr
    found = command(thread, "token", "all", "--claims", "--host", "x-uc.a.run.app", "-c", file)
    assert json.loads(found.stdout)["aud"] == "https://x-uc.a.run.app"


def test_no_token(thread: EmulatorThread, file: str) -> None:
    """Exit code 1, and why, on stderr."""
    thread.call(lambda: thread.google.metadata.endpoint.fail(Fault("status", code=404)))
    found = command(thread, "token", "svc", "-c", file)
    assert (found.returncode, found.stdout) == (1, "")
    assert "svc: no_service_account: " in found.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["token", "svcc"], "no route is called `svcc`; did you mean `svc`?"),
        (["check", "nothing"], "no route is called `nothing` (there are svc, all)"),
        (["check", "--path", "x y"], "is not a path"),
        (["explain", "ftp://x"], "is not a URL"),
    ],
)
def test_mistakes_are_exit_code_2(thread: EmulatorThread, file: str, words: list[str], says: str) -> None:
    """With what there is."""
    found = command(thread, *words, "-c", file)
    assert found.returncode == 2
    assert says in found.stderr


def test_check_says_it_in_a_table_and_in_json(thread: EmulatorThread, file: str) -> None:
    """The same steps; colours on a terminal only; exit code 1 where one failed."""
    good = command(thread, "check", "svc", "-c", file)
    assert good.returncode == 0
    assert "\x1b" not in good.stdout
    assert [line.split()[:2] for line in good.stdout.splitlines() if line.startswith("  c")] == [
        ["credential", "ok"],
        ["claims", "ok"],
        ["clock", "ok"],
    ]
    thread.call(lambda: setattr(thread.google.metadata, "email", None))
    bad = command(thread, "check", "--json", "-c", file)
    assert bad.returncode == 1
    document = json.loads(bad.stdout)
    assert document["ok"] is False
    (svc, _) = document["routes"]
    assert svc["steps"][-1]["reason"] == "no_service_account"
