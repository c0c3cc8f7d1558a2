"""Where a configuration is read from: a regular file of bounded size, or standard input; nothing else is waited for"""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from tests.support.forks import stand_in
from tests.support.sampling import sampled
from tests.support.sidecar import COMMAND, LIMIT, clean_environment

TEXT = "routes: [{name: a, upstream: 'https://a.example'}]\n"


def show(
    *words: str, given: bytes | None = None, directory: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """`config show` with at most 1 GiB of memory."""
    return subprocess.run(
        [*COMMAND, "config", "show", *words],
        env=clean_environment(),
        input=given,
        cwd=directory,
        capture_output=True,
        timeout=LIMIT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
    )


@pytest.mark.parametrize(
    ("place", "says"),
    sampled(
        [
            ("/dev/zero", "it is a device, not a regular file"),
            ("pipe", "it is a pipe, not a regular file"),
            ("directory", "Is a directory"),
            ("huge", "it is larger than 4194304 bytes"),
            ("latin", "it is not text in UTF-8 or UTF-16"),
            ("missing", "No such file or directory"),
        ],
        [
            ("/dev/zero", "it is a device, not a regular file"),
            ("huge", "it is larger than 4194304 bytes"),
        ],
    ),
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, place: str, says: str) -> None:
    """With exit code 2, its name and why: no memory is filled, and no writer is waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "latin").write_bytes(b"# \xe9\n")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)
    found = show("--config", place, directory=tmp_path)
    assert found.returncode == 2
    assert found.stderr.decode().strip() == f"{place}: {says}"


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(name: str) -> None:
    """A pipe may be that; problems have its place, and too much of it is refused."""
    assert b"https://a.example" in show("--config", name, given=TEXT.encode()).stdout
    wrong = show("--config", name, given=b"routes: 7\n")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(b"(standard input):1:1: routes: ")
    large = show("--config", name, given=b"#" * (5 * 2**20))
    assert large.stderr.strip() == b"(standard input): it is larger than 4194304 bytes"


def test_a_sidecar_reads_standard_input_once(tmp_path: Path) -> None:
    """A reload finds the same again: what was read is gone from the pipe."""
    admin = f"unix:{tmp_path}/admin.sock"
    text = f"{TEXT}listen: localhost:0\nadmin: {admin}\nstartup: serve\nlog_format: json\n"
    with subprocess.Popen(
        [*stand_in(), "run", "--config", "-"],
        env=clean_environment(GCE_METADATA_HOST="127.0.0.1:1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(text.encode())
        process.stdin.close()
        try:
            assert any(b'"listen": [' in line for line in process.stdout)
            again = subprocess.run(
                [*stand_in(), "reload", "--admin", admin],
                env=clean_environment(),
                capture_output=True,
                timeout=LIMIT,
            )
        finally:
            process.kill()
    assert again.stdout == b"unchanged\n", again.stderr


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(
            "[localhost:1, unix:/tmp/x.sock]", "nothing answers at localhost:1", id="a-list-as-run-takes-it"
        ),
        pytest.param("localhost", "IDTOKEN_SIDECAR_ADMIN: `localhost` has no port", id="no-port"),
    ],
)
def test_commands_read_the_admin_variable_as_run_does(tmp_path: Path, value: str, says: str) -> None:
    """And name it where it is wrong: there is no `--admin`."""
    found = subprocess.run(
        [*stand_in(), "healthcheck"],
        env=clean_environment(IDTOKEN_SIDECAR_ADMIN=value),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert says in found.stderr
