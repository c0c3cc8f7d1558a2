"""That what `make test` starts as a fork does what a start does: `tests.support.forks`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import forks
from tests.support.eventually import LIMIT
from tests.support.forks import COMMAND
from tests.support.process import SidecarProcess
from tests.support.sidecar import clean_environment

ROUTES = "routes: [{name: a, upstream: 'https://a.example'}]\n"
SEEN = (
    "import json, os, sys; print(os.getcwd(), os.environ['GIVEN'], os.listdir('/proc/self/fd'), sys.argv[1:])"
)


@pytest.mark.skipif(sys.platform != "linux", reason="there are no forks elsewhere")
@pytest.mark.parametrize(
    "words",
    [
        ["config", "show", "--config", "c.yaml"],
        ["config", "validate", "--config", "nowhere.yaml"],
        ["--version"],
        ["mistyped"],
        ["exec", "--no-wait", "--config", "c.yaml", "--", sys.executable, "-c", SEEN, "a b"],
        ["exec", "--no-wait", "--config", "c.yaml", "--", "sh", "-c", "kill $$"],
    ],
    ids=lambda words: words[0] if len(words) < 7 else words[-1].split()[0],
)
def test_it_says_and_ends_as_a_start_does(tmp_path: Path, words: list[str]) -> None:
    """With the words, the variables and the folder that it is given, and no file of the server's."""
    (tmp_path / "c.yaml").write_text(f"{ROUTES}listen: localhost:0\nadmin: localhost:0\nlog_level: error\n")
    environ = clean_environment(GIVEN="yes", GCE_METADATA_HOST="127.0.0.1:1", IDTOKEN_SIDECAR_TOKEN_WAIT="3s")
    started = subprocess.run(
        [*COMMAND, *words], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    forked = forks.run([*COMMAND, *words], env=environ, cwd=tmp_path, timeout=LIMIT)
    by_others = subprocess.run(
        [*forks.stand_in(environ), *words],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    for found in (forked, by_others):
        assert (found.returncode, found.stdout, found.stderr) == (
            *(started.returncode, started.stdout, started.stderr),
        )


@pytest.mark.skipif(sys.platform != "linux", reason="there are no forks elsewhere")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_stands_in_for_it_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    """A signal reaches the fork; where it can't be passed on, the server ends the fork too."""
    (tmp_path / "c.yaml").write_text(f"{ROUTES}listen: localhost:0\nadmin: localhost:0\ndrain: {{min: 0s}}\n")
    with subprocess.Popen(
        [*forks.stand_in(), "run", "--config", "c.yaml", "--startup", "serve"],
        env=clean_environment(GCE_METADATA_HOST="127.0.0.1:1"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as stand_in:
        assert stand_in.stdout is not None
        assert any(b"listening" in line for line in stand_in.stdout)
        stand_in.send_signal(number)
        assert stand_in.wait(LIMIT) == (0 if number == signal.SIGTERM else -number)
        stand_in.communicate(timeout=LIMIT)  # nobody has the other end of its output any more


def test_it_is_signalled_as_any_process(tmp_path: Path) -> None:
    """And its end is told to more than one who waits."""
    with SidecarProcess(ROUTES + "startup: serve\n", tmp_path, {"GCE_METADATA_HOST": "127.0.0.1:1"}) as it:
        assert it.process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            it.process.wait(0)
        os.kill(it.process.pid, signal.SIGKILL)
        assert it.process.wait(LIMIT) == it.process.wait(LIMIT) == -signal.SIGKILL
        it.process.kill()
