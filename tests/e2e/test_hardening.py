"""What the process forbids itself: core dumps, debuggers, and to hold key files open"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import Authority
from tests.support.google import signed
from tests.support.sidecar import COMMAND, LIMIT, Start, ask, clean_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")

CONFIG = """
listen: localhost:0
admin: localhost:0
log_format: json
log_level: debug
credentials: {default: {type: static, token: x}}
routes: [{name: a, upstream: 'http://127.0.0.1:1', audience: a, prefetch: false}]
"""
FOUND_FILES = 256
"""What the tests' shell sets as the soft limit of descriptors before it becomes the sidecar."""


class Limits(NamedTuple):
    """Soft and hard, as /proc/PID/limits has them."""

    core: tuple[str, str]
    files: tuple[str, str]


def limits(text: str) -> Limits:
    def pair(name: str) -> tuple[str, str]:
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        soft, hard, *_ = line.removeprefix(name).split()
        return soft, hard

    return Limits(pair("Max core file size"), pair("Max open files"))


def shell(*words: str) -> list[str]:
    """A command under limits as a developer's machine may have them: cores allowed, few descriptors."""
    return ["sh", "-c", f"ulimit -Sc $(ulimit -Hc); ulimit -Sn {FOUND_FILES}; exec {shlex.join(words)}"]


@pytest.fixture
def hard() -> Limits:
    """The hard limits that the tests themselves have."""
    core, files = resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)
    if core[1] == 0:
        pytest.skip("the hard limit of core dumps is 0 here already: nothing could be seen")
    names = ["unlimited" if value == resource.RLIM_INFINITY else str(value) for value in (core[1], files[1])]
    return Limits((names[0],) * 2, (str(FOUND_FILES), names[1]))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that end with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


UNPRIVILEGED: tuple[str, ...] = ()
"""Words before a command that is to have no capabilities: root's own would open every process to it."""
if os.geteuid() == 0:
    UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def begin(
    running: list[subprocess.Popen[str]],
    directory: Path,
    *words: str,
    keys: str = "",
    before: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """A sidecar that listens, its log on stdout; `before` are words before its command."""
    (directory / "config.yaml").write_text(CONFIG + keys)
    subcommand, *rest = words
    command = shell(*before, *COMMAND, subcommand, "--config", str(directory / "config.yaml"), *rest)
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=clean_environment(PYTHONPATH=os.getcwd()),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running.append(process)
    return process


def logged(process: subprocess.Popen[str], message: str) -> dict[str, object]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{") and (entry := json.loads(line))["message"].startswith(message):
            return dict(entry)
    raise AssertionError(f"it never logged `{message}`")


def aborts(process: subprocess.Popen[str]) -> int:
    """How it ends by SIGABRT: killed, or with a core dumped."""
    process.send_signal(signal.SIGABRT)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == signal.SIGABRT
    return ended.si_code


@pytest.mark.slow
def test_no_core_may_be_dumped_and_descriptors_are_plenty(
    tmp_path: Path, running: list[subprocess.Popen[str]], hard: Limits
) -> None:
    """Soft and hard limit of cores are 0; descriptors have the hard limit, and the log says so."""
    process = begin(running, tmp_path, "run")
    entry = logged(process, "process limits")
    assert (entry["dumpable"], entry["core"]) == (False, [0, 0])
    now = limits(Path(f"/proc/{process.pid}/limits").read_text())
    assert now.core == ("0", "0")
    assert now.files == (hard.files[1], hard.files[1])
    logged(process, "listening")
    assert aborts(process) == os.CLD_KILLED
    assert not list(tmp_path.glob("core*"))


@pytest.mark.slow
def test_core_dumps_can_be_allowed(
    tmp_path: Path, running: list[subprocess.Popen[str]], hard: Limits
) -> None:
    """With a warning; this is also how the other tests are known to see something."""
    process = begin(running, tmp_path, "run", keys="core_dumps: true\n")
    warned = logged(
        process, "core dumps and debuggers are allowed, and show every token and key (`core_dumps`)"
    )
    assert warned["severity"] == "WARNING"
    logged(process, "listening")
    assert limits(Path(f"/proc/{process.pid}/limits").read_text()).core == hard.core
    assert aborts(process) == os.CLD_DUMPED


@pytest.mark.slow
def test_a_limit_that_is_raised_from_outside_changes_nothing(
    tmp_path: Path, running: list[subprocess.Popen[str]], hard: Limits
) -> None:
    """The process is not dumpable either, whatever its limits say (and a pipe in core_pattern ignores them)."""
    process = begin(running, tmp_path, "exec", "--no-wait", "--", "sleep", "60")
    logged(process, "listening")
    maximum = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (maximum, maximum))
    assert aborts(process) == os.CLD_KILLED


READS = """
import ctypes, os, sys
pid, *names = sys.argv[1:]
for name in names:
    try:
        if name == "ptrace":
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.ptrace(16, int(pid), 0, 0) != 0:  # PTRACE_ATTACH
                raise PermissionError
        elif name == "fd":
            os.readlink(f"/proc/{pid}/fd/0")
        else:
            open(f"/proc/{pid}/{name}", "rb").close()
        print("read")
    except PermissionError:
        print("refused")
"""
SECRETS = ("mem", "environ", "maps", "fd", "auxv", "ptrace")
DUMPS = [
    pytest.param("false", dict.fromkeys(SECRETS, "refused"), id="off"),
    # Not `mem`: where Yama is on (kernel.yama.ptrace_scope), it is refused in any case.
    pytest.param("true", {"environ": "read", "maps": "read", "fd": "read"}, id="on"),
]


@pytest.mark.slow
@pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="root needs setpriv to be like others"
)
@pytest.mark.parametrize(("core_dumps", "said"), DUMPS)
def test_its_memory_is_not_for_others_of_its_user(
    tmp_path: Path, running: list[subprocess.Popen[str]], core_dumps: str, said: dict[str, str]
) -> None:
    """Neither to be read nor, by the same rule of the kernel, to be traced; unless `core_dumps` is on."""
    process = begin(running, tmp_path, "run", keys=f"core_dumps: {core_dumps}\n", before=UNPRIVILEGED)
    logged(process, "listening")
    done = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-c", READS, str(process.pid), *said],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [*said.values()]


@pytest.mark.slow
@pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="root needs setpriv to be like others"
)
@pytest.mark.parametrize("command", ["check", "token"])
def test_commands_that_get_tokens_are_not_to_be_read_either(
    tmp_path: Path, running: list[subprocess.Popen[str]], command: str
) -> None:
    """They hold the same keys, if for a shorter time."""
    with socket.create_server(("127.0.0.1", 0)) as metadata:
        (tmp_path / "config.yaml").write_text(
            "credentials: {default: {type: metadata}}\nroutes: [{name: a, upstream: 'https://a.example'}]\n"
        )
        process = subprocess.Popen(
            [*UNPRIVILEGED, *COMMAND, command, "a", "--config", str(tmp_path / "config.yaml")],
            env=clean_environment(GCE_METADATA_HOST=f"127.0.0.1:{metadata.getsockname()[1]}"),
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        metadata.settimeout(LIMIT)
        asking, _ = metadata.accept()  # it asks for a token, and waits
        done = subprocess.run(
            [*UNPRIVILEGED, sys.executable, "-c", READS, str(process.pid), *SECRETS],
            capture_output=True,
            text=True,
            check=True,
        )
        asking.close()
    assert done.stdout.split() == ["refused"] * len(SECRETS)


@pytest.mark.slow
def test_a_command_finds_the_limits_as_they_were(
    tmp_path: Path, running: list[subprocess.Popen[str]], hard: Limits
) -> None:
    """Its cores are its own affair, and programs that use select() can't have many descriptors."""
    process = begin(running, tmp_path, "exec", "--no-wait", "--", "cat", "/proc/self/limits")
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert limits(text) == hard


@pytest.mark.slow
async def test_no_key_file_stays_open(start: Start, google: Emulator, tmp_path: Path) -> None:
    """Keys, logins, tokens, TLS files and the configuration are closed right after they were read."""
    target = await google.add_target("svc")
    google.write_key(tmp_path / "key.json")
    google.write_login(tmp_path / "login.json", google.oauth.add_user("me@example.com"))
    (tmp_path / "token").write_text(signed(time.time(), aud=target.url))  # noqa: TID251
    pem = tmp_path / "client.pem"  # certificate and key
    pem.write_bytes(Authority().issue(("localhost",)))
    pem.chmod(0o600)
    names = ("key", "me", "ready")
    routes = "".join(
        f"  - {{name: {name}, host: {name}.test, upstream: '{target.url}', target: cloud_run, audience: '{target.url}', "
        f"credential: {name}}}\n"
        for name in names
    )
    sidecar = await start(
        f"endpoints: {{oauth: '{google.oauth_url}'}}\ncredentials:\n"
        f"  key: {{type: service_account_key, file: {tmp_path}/key.json}}\n"
        f"  me: {{type: user, file: {tmp_path}/login.json}}\n"
        f"  ready: {{type: file, path: {tmp_path}/token}}\n"
        f"routes:\n{routes}"
        f"  - {{name: tls, upstream: 'https://127.0.0.1:1', audience: a, credential: ready, prefetch: false, tls: "
        f"{{ca_file: {pem}, client_cert_file: {pem}, client_key_file: {pem}}}}}\n",
        ready=False,
    )
    for name in (*names, "tls"):
        await ask(sidecar.port, "GET", "/x", {}, host=f"{name}.localhost")
    # A reload reads everything again.
    await sidecar.admin("/reload", "POST")
    descriptors = Path(f"/proc/{sidecar.process.pid}/fd")
    held = []
    for name in await asyncio.to_thread(os.listdir, descriptors):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held.append(os.readlink(descriptors / name))
    assert held
    assert [path for path in held if path.startswith(str(tmp_path))] == []
