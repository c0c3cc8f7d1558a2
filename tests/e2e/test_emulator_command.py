"""`idtoken-sidecar emulator` and its kit, as somebody else uses them: processes, files, a pytest of their own"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import forks
from tests.support.process import SidecarProcess
from tests.support.sidecar import COMMAND, LIMIT, clean_environment

REPOSITORY = Path(__file__).parents[2]


class Running(NamedTuple):
    process: subprocess.Popen[str]
    text: str
    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        """What `. env` would set."""
        return dict(
            re.findall(r"^export ([A-Z_]+)=(\S+)$", (self.directory / "env").read_text(), re.MULTILINE)
        )


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Running]:
    """A stand-in with a target of several kinds, and its files."""
    directory = tmp_path / "emulated"
    words = ["emulator", "--target", "billing", "--target", "reports=iap", "--target", "api=googleapis"]
    words += ["--target", "ledger=cloud_run,grpc"]
    process = subprocess.Popen(
        [*forks.stand_in(), *words, "--write", str(directory), "--platform", "cloud_run"],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    yield Running(process, "".join(lines), directory)
    process.kill()
    process.wait()
    process.stdout.close()


def command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return forks.run([*COMMAND, *words], env=clean_environment(**environ), timeout=LIMIT * 2)


def test_its_files_make_a_sidecar_work_with_every_target(emulator: Running) -> None:
    """The configuration it writes is whole; `check --online` finds nothing to fix."""
    config = str(emulator.directory / "config.yaml")
    found = command("check", "--config", config, "--online", **emulator.environ)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("let the request in and answered 200") == 3
    assert "let the call in; its health service says SERVING" in found.stdout
    text = Path(config).read_text()
    directory = emulator.directory.parent
    for credential in ("key", "acting", "federated", "me"):
        changed = text.replace('"name": "billing"', f'"name": "billing", "credential": "{credential}"')
        with SidecarProcess(
            f"# {credential}\n" + _without_listeners(changed), directory, emulator.environ
        ) as it:
            assert it.get("billing").json["verified"]["email"]


def _without_listeners(text: str) -> str:
    """The written configuration as a part of the one that the test writes: block style under its first lines."""
    import yaml

    return yaml.safe_dump(yaml.safe_load(text))


def test_a_connecting_service_calls(emulator: Running) -> None:
    """`emulator call` has the running stand-in send a token, and tells what came of it."""
    match = re.search(r"target billing +(\S+)", emulator.text)
    assert match is not None
    url = match[1]
    good = command(
        "emulator", "call", "--as", "scheduler", "--to", f"{url}/run", "--audience", url, **emulator.environ
    )
    assert (good.returncode, good.stdout.split()[0]) == (0, "200"), good.stderr
    bad = command("emulator", "call", "--as", "tasks", "--to", f"{url}/run", **emulator.environ)
    assert (bad.returncode, bad.stdout.split()[0]) == (1, "401")


def test_it_ends_when_told(emulator: Running) -> None:
    """With exit code 0."""
    emulator.process.send_signal(signal.SIGINT)
    assert emulator.process.wait(LIMIT) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["emulator", "--target", "a=b"], "kinds are cloud_run"),
        (["emulator", "--token-lifetime", "soon"], "is not a time"),
        (["emulator", "call", "--as", "tasks", "--to", "http://x"], "--control"),
        (["emulator", "call", "--as", "tasks", "--to", "http://x", "--control", "x"], "is not a URL"),
        (
            [
                "emulator",
                "call",
                "--as",
                "tasks",
                "--to",
                "http://x",
                "--control",
                "http://127.0.0.1:1/_emulator",
            ],
            "no stand-in answers",
        ),
    ],
)
def test_what_it_cannot_do_is_said(words: list[str], says: str) -> None:
    """In a line, with an exit code that is not 0."""
    found = command(*words)
    assert found.returncode != 0
    assert says in found.stderr


def test_the_fixture_in_a_project_of_somebody_else(tmp_path: Path) -> None:
    """An installed package is all it takes: no conftest, no import."""
    (tmp_path / "test_theirs.py").write_text(
        "import os, requests\n"
        "def test_mine(google_emulator):\n"
        "    target = google_emulator.run(google_emulator.google.add_target('billing'))\n"
        "    host = os.environ['GCE_METADATA_HOST']\n"
        "    url = f'http://{host}/computeMetadata/v1/instance/service-accounts/default/identity'\n"
        "    token = requests.get(url, params={'audience': target.url, 'format': 'full'},\n"
        "                         headers={'Metadata-Flavor': 'Google'}).text\n"
        "    answer = requests.get(target.url, headers={'Authorization': f'Bearer {token}'})\n"
        "    assert answer.json()['verified']['audience'] == target.url\n"
        "    assert target.requests[-1].verified.email\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT * 2,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 passed" in found.stdout
