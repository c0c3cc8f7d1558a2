"""What the command line is like to use: help, completion, the manual page, colours, patience."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType

import pytest
from click.testing import CliRunner

from sidecar.cli.commands import main
from tests.support import forks
from tests.support.sidecar import COMMAND, LIMIT, clean_environment

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "data/share/man/man1/idtoken-sidecar.1"
ROUTES = "routes: [{name: billing, upstream: 'https://a.example'}, {name: banking, upstream: 'https://b.example'}]\n"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return forks.run([*COMMAND, *arguments], env=clean_environment(**environ), timeout=LIMIT)


def on_terminal(*arguments: str, **environ: str) -> str:
    """What a person sees on a terminal."""
    parent, child = pty.openpty()
    process = forks.begin(
        [*COMMAND, *arguments], stdout=child, stderr=child, env=clean_environment(**environ)
    )
    os.close(child)
    seen = b""
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not data:
            break
        seen += data
    process.wait(LIMIT)
    os.close(parent)
    return seen.decode()


def test_the_help_names_every_command_once() -> None:
    out = run("--help").stdout
    names = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and "  " in line.strip()]
    for name in main.commands:
        assert names.count(name) == 1, name
    assert "..." not in out.partition("Run it:")[2]


def test_every_command_teaches_by_an_example() -> None:
    for name, command in main.commands.items():
        text = command.help or ""
        assert "idtoken-sidecar " in text or not command.params or name in ("healthcheck", "quit", "demo"), (
            name
        )


@pytest.mark.parametrize(
    ("words", "number", "wanted"),
    [
        ("idtoken-sidecar ch", "1", ["check"]),
        ("idtoken-sidecar check --onl", "2", ["--online"]),
        ("idtoken-sidecar token --config FILE b", "4", ["billing", "banking"]),
        ("idtoken-sidecar token --to billing=https://a.example bi", "4", ["billing"]),
        ("idtoken-sidecar token --config /nowhere b", "4", []),
        ("idtoken-sidecar manifest s", "2", ["systemd"]),
    ],
)
def test_completion(words: str, number: str, wanted: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ROUTES, "utf-8")
    done = run(
        _IDTOKEN_SIDECAR_COMPLETE="bash_complete",
        COMP_WORDS=words.replace("FILE", str(file)),
        COMP_CWORD=number,
    )
    assert [line.partition(",")[2] for line in done.stdout.split()] == wanted
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_installed_completion_scripts_are_the_commands_own(shell: str) -> None:
    (kept,) = (ROOT / "data").rglob(
        {"bash": "completions/idtoken-sidecar", "zsh": "_*", "fish": "*.fish"}[shell]
    )
    assert run("completion", shell).stdout == kept.read_text("utf-8")
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", str(kept)], timeout=LIMIT, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_page_is_sound() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-bcou", str(MANUAL)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in main.commands:
        assert f"\n   {name}" in done.stdout, name


def test_colours_on_a_terminal_only_and_not_where_they_are_not_wanted(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("credentials: {default: {type: static, token: x}}\n" + ROUTES, "utf-8")
    arguments = ("check", "--config", str(file), "billing")
    assert "\x1b[" in on_terminal(*arguments, TERM="xterm")
    assert "\x1b[" not in on_terminal(*arguments, TERM="xterm", NO_COLOR="1")
    assert "\x1b[" not in run(*arguments).stdout


@pytest.mark.slow
def test_a_wait_says_what_it_waits_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    done = run("wait", "--admin", f"127.0.0.1:{port}", "--timeout", "3s")
    assert done.returncode == 1
    assert done.stderr.startswith(f"waiting: nothing answers at 127.0.0.1:{port}")
    assert done.stderr.count("waiting:") == 1


def test_a_check_that_takes_long_says_so_on_a_terminal(tmp_path: Path) -> None:
    slow = tmp_path / "gcloud"
    slow.write_text("#!/bin/sh\nexec sleep 3\n", "utf-8")
    slow.chmod(0o755)
    file = tmp_path / "config.yaml"
    file.write_text(
        f"credentials: {{default: {{type: gcloud, command: {slow}, timeout: 2s}}}}\n{ROUTES}", "utf-8"
    )
    seen = on_terminal("check", "--config", str(file), "billing", TERM="dumb")
    assert "asking for the tokens of 1 route(s)" in seen
    assert "asking" not in run("check", "--config", str(file), "billing").stderr


@contextmanager
def listening(body: bytes, status: int = 200) -> Iterator[str]:
    """Something that is no sidecar, on the admin port: every request gets this."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode() + body)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            b'{"reasons": ["\\u009b2J\\u0007\\r\\nfine"], "detail": "\\u009b2J\\u202e", "result": "\\u0007"}',
            id="escapes",
        ),
        pytest.param(b"\x1b[2J\x1b]0;x\x07" * 20_000, id="no-json"),
        pytest.param(b"[1]", id="list"),
        pytest.param(b'{"reasons": [1, {}], "detail": {}, "result": []}', id="odd-types"),
        pytest.param(b'{"reasons": 5}', id="nothing-in-it"),
        pytest.param(b"[" * 50_000, id="deep"),
    ],
)
def test_whatever_answers_on_the_admin_port_drives_no_terminal(body: bytes) -> None:
    """Words of it are shown, cut short and spelled out; and none of it is a traceback."""
    runner = CliRunner(env=clean_environment())
    with listening(body, 503) as address:
        for words in (["healthcheck"], ["quit"], ["reload"], ["renew"], ["wait", "--timeout", "10ms"]):
            done = runner.invoke(main, [*words, "--admin", address])
            assert (done.exit_code, type(done.exception)) == (1, SystemExit), (words, done.exception)
            assert done.output.replace("\n", "").isprintable(), words
            assert len(done.output) < 5000
    with listening(body) as address:
        done = runner.invoke(main, ["reload", "--admin", address])
        assert type(done.exception) in (NoneType, SystemExit), done.exception
        assert done.output.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("validate -c x", "idtoken-sidecar config validate"),
        ("version", "idtoken-sidecar --version"),
        ("runn", "idtoken-sidecar run"),
        ("manifest kubernetes", "idtoken-sidecar manifest gke"),
        ("kubernetes", "idtoken-sidecar manifest gke"),
        ("config validat", "idtoken-sidecar config validate"),
        ("manifest validate", "idtoken-sidecar config validate"),
        ("manifest cloudrun", "idtoken-sidecar manifest cloud-run"),
        ("run --to localhost:3000", "http://localhost:3000"),
        ("run svc-abc-uc.a.run.app", "https://svc-abc-uc.a.run.app"),
        ("run config.yaml", "--config config.yaml"),
        ("help no_rute", "no_route"),
        ("check --online --route billing", "idtoken-sidecar check billing"),
        ("token --route=billing", "idtoken-sidecar token billing"),
        ("renew --route billing", "idtoken-sidecar renew billing"),
        ("urls --route billing", "idtoken-sidecar urls billing"),
    ],
)
def test_a_mistyped_word_is_told_what_it_was_meant_to_be(words: str, meant: str) -> None:
    """Commands, also those of other groups and other programs; upstreams without a scheme; reasons."""
    done = run(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert f"did you mean `{meant}`?" in done.stderr


@pytest.mark.parametrize(
    "words", ["validat0r-of-nothing", "run nonsense", "help eyJhbGciOiJub25lIn0.eyJhIjoxfQ.c2ln"]
)
def test_what_is_near_nothing_gets_no_suggestion(words: str) -> None:
    done = run(*words.split())
    assert done.returncode == 2
    assert "did you mean" not in done.stderr
    assert "eyJhbGci" not in done.stderr


@pytest.mark.parametrize("command", ["check", "run", "explain", "exec", "config validate", "manifest gke"])
def test_a_commands_own_options_come_before_the_settings(command: str) -> None:
    """The settings are the same thirty everywhere."""
    own, _, settings = run(*command.split(), "--help").stdout.partition(
        "\nSettings, each a key of the file too:\n"
    )
    assert "--config" in own
    assert "\n  --log-level" not in own
    assert "\n  --log-level" in settings


def test_a_reason_has_its_page_in_the_terminal() -> None:
    """What docs/errors.md says of it, without its markup; a target's refusals too; a command's own help."""
    shown = run("help", "header_conflict").stdout
    assert shown.startswith("header_conflict · 400 · source: app\n")
    assert "`on_conflict`" in shown
    assert "headers (docs/headers.md)" in " ".join(shown.split())
    assert run("help", "permission_missing").stdout.startswith("permission_missing · source: target\n")
    assert json.loads(run("help", "token-denied", "--json").stdout)["status"] == 503
    assert run("help", "wait").stdout.replace("help wait", "wait") == run("wait", "--help").stdout
    assert run("help").stdout == run("--help").stdout


def test_facts_come_as_json_too(tmp_path: Path) -> None:
    """Also what is wrong with a configuration."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(ROUTES)
    bad.write_text("routes: [{name: a, upstrem: 'https://a.example'}]")
    assert json.loads(run("config", "validate", "-c", str(good), "--json").stdout) == {
        "valid": True,
        "routes": ["billing", "banking"],
        "warnings": [],
    }
    done = run("config", "validate", "-c", str(bad), "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["problems"][1] == {
        "where": f"{bad}:1:20",
        "path": "routes[0].upstrem",
        "message": "unknown key; did you mean `upstream`?",
    }
    assert json.loads(run("config", "show", "-c", str(good), "--json").stdout)["listen"] == ["localhost:8787"]


@pytest.mark.parametrize(
    ("words", "body", "status", "found"),
    [
        ("healthcheck", b"{}", 200, {"ok": True, "why": None, "shortfall": None}),
        (
            "healthcheck",
            b'{"reasons": ["no token"]}',
            503,
            {"ok": False, "why": "no token", "shortfall": None},
        ),
        ("reload", b'{"result": "done", "detail": ""}', 200, {"result": "done", "detail": ""}),
        ("renew", b'{"result": "ok", "tokens": []}', 200, {"result": "ok", "tokens": []}),
        ("urls", b'{"routes": [{"name": "a", "url": null}]}', 200, {"a": None}),
    ],
)
def test_what_a_running_one_says_comes_as_json_too(
    words: str, body: bytes, status: int, found: object
) -> None:
    with listening(body, status) as address:
        done = run(words, "--json", "--admin", address)
    assert (done.returncode, json.loads(done.stdout)) == (0 if status == 200 else 1, found)


def test_validate_warns_of_files_that_are_not_there(tmp_path: Path) -> None:
    """Each once; what is there is not named. And the schema is pointed at only where a key is wrong."""
    there, file = tmp_path / "there.pem", tmp_path / "config.yaml"
    there.write_text("")
    file.write_text(
        "ca_file: /nowhere/ca.pem\ncredentials: {default: {type: file, path: /nowhere/token}}\n"
        f"routes: [{{name: a, upstream: 'https://a.example', tls: {{crl_file: {there}}}}}]"
    )
    done = run("config", "validate", "--config", str(file))
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "warning: there is no file /nowhere/token, which the configuration names",
        "warning: there is no file /nowhere/ca.pem, which the configuration names",
    ]
    file.write_text("routes: [{name: a, upstream: nonsense}]")
    assert "schema" not in run("config", "validate", "--config", str(file)).stderr
    file.write_text("rutes: []")
    assert (
        "`idtoken-sidecar config schema` prints every key"
        in run("config", "validate", "--config", str(file)).stderr
    )
