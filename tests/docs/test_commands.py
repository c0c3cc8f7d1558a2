"""Every command line of the documents: run where this machine can, and held against the command's own grammar else."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
import yaml

from sidecar.cli.commands import main
from sidecar.emulator.oauth import KEY_EMAIL
from tests.docs.test_docs import PAGES, ROOT
from tests.support.forks import COMMAND, stand_in
from tests.support.sidecar import free_port

GCLOUD_TREE = Path("/usr/lib/google-cloud-sdk/data/cli/gcloud_completions.py")

PLAIN = frozenset(
    ". [ apt-get cat cd cp curl docker echo git grpcurl export install journalctl kill mkdir npx pip python python3 rm sed sh sleep"
    " systemctl tee test true app openssl".split()
)
"""Commands whose grammar is left to the reader's machine."""

SHELL_WORDS = {"until", "do", "done", "if", "then", "fi", "sudo", "exec", "!"}
INDENTED = re.compile(
    r"^ {4}(?:\$ )?((?:idtoken-sidecar|gcloud|kubectl|make|curl|pip|git|sudo|npx|grpcurl|python3|docker|install|export|sh|\.) (?:.*\\\n)*.*)$",
    re.MULTILINE,
)
INNER = re.compile(r"\$\(((?:[^()]|\([^()]*\))+)\)")
"""A command in a `$(…)`, whose own words may have parentheses."""
FENCED = re.compile(r"```(?:sh|bash|console)( norun)?\n(.*?)```", re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, bool]]:
    """Each shell block of `page`, and whether the page says that it can be run as it stands."""
    text = page.read_text("utf-8")
    for norun, block in FENCED.findall(text):
        yield block, not norun
    for block in INDENTED.findall(FENCED.sub("", text)):
        yield block, False


def simple_commands(block: str) -> Iterator[list[str]]:
    """The words of each simple command in `block`, and of those in a `$(…)` of it."""
    for line in block.replace("\\\n", " ").splitlines():
        for text in (*INNER.findall(line), INNER.sub("SUBSTITUTED", line)):
            lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
            lexer.whitespace_split = True
            words: list[str] = []
            redirected = False
            for word in lexer:
                if word and set(word) <= set("();|&"):
                    yield words
                    words = []
                elif word and set(word) <= set("<>&"):
                    redirected = True
                elif redirected:
                    redirected = False
                elif not words and (word in SHELL_WORDS or re.match(r"\w+=", word)):
                    continue
                else:
                    words.append(word)
            yield words


def check_product(words: list[str], *, named: bool = False) -> None:
    """Click's own parser takes the line: the command, its options and their values. `named`: what it needs may be missing."""
    command: click.Command = main
    context = click.Context(main, info_name="idtoken-sidecar")
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, *rest = rest
        found = command.get_command(context, name)
        assert found is not None, f"no command {name}"
        command = found
        context = click.Context(command, parent=context, info_name=name)
    try:
        command.make_context(command.name, list(rest), parent=context)
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError) as error:
        if not named:
            pytest.fail(f"{' '.join(words)}: {error.format_message()}")
    except click.UsageError as error:
        pytest.fail(f"{' '.join(words)}: {error.format_message()}")
    except click.exceptions.Exit:
        pass  # --help and --version


@cache
def gcloud_tree() -> dict[str, Any]:
    """What gcloud ships for its shell completion: each command with its flags."""
    return runpy.run_path(str(GCLOUD_TREE))["STATIC_COMPLETION_CLI_TREE"]


def check_gcloud(words: list[str]) -> None:
    """Each word is a command group's, and each flag the command's or one of those that all have."""
    node = gcloud_tree()
    everywhere = node["flags"]
    rest = words[1:]
    while rest and rest[0] in node["commands"]:
        node = node["commands"][rest.pop(0)]
    assert not node["commands"], f"{' '.join(words)}: not a whole command"
    for word in rest:
        if word.startswith("--"):
            flag = word.split("=")[0]
            kind = node["flags"].get(flag, everywhere.get(flag))
            if kind is None and flag.startswith("--no-"):
                kind = node["flags"].get("--" + flag.removeprefix("--no-"))
                assert kind in (None, "bool")
            assert kind is not None, f"{' '.join(words)}: no {flag}"
            assert kind == "bool" or "=" in word, f"{' '.join(words)}: {flag} without =value"


@cache
def kubectl_help(command: str) -> str:
    """The help of a kubectl command, with the flags that all have."""
    done = subprocess.run(
        ["sh", "-c", f"kubectl {command} --help; kubectl options"],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout


def check_kubectl(words: list[str]) -> None:
    """The command is there, and has the flags."""
    command = words[1]
    if command in ("create", "rollout", "config"):
        command = f"{command} {words[2]}"
    text = kubectl_help(command)
    assert "Usage:" in text, command
    for word in words[2:]:
        if word == "--":
            break
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word.split('=')[0])}(?![\w-])", text), (
                f"kubectl {command}: no {word}"
            )


def check_make(words: list[str]) -> None:
    """The Makefile has each target."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for word in words[1:]:
        assert word.startswith("-") or "=" in word or word in targets, word


COMMANDS = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}-{' '.join(words)[:60]}")
    for page in PAGES
    for block, _ in blocks(page)
    for words in simple_commands(block)
    if words
]


@pytest.mark.parametrize("words", COMMANDS)
def test_lines_are_commands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may paste them, once their own names are in."""
    monkeypatch.setenv("IDTOKEN_EMULATOR_CONTROL", "http://127.0.0.1:1/_emulator")
    name = words[0] if words[0] == "." else Path(words[0]).name
    if name == "idtoken-sidecar":
        check_product(words)
    elif name == "gcloud":
        if not GCLOUD_TREE.exists():
            pytest.skip("gcloud is not installed")
        check_gcloud(words)
    elif name == "kubectl":
        if shutil.which("kubectl") is None:
            pytest.skip("kubectl is not installed")
        check_kubectl(words)
    elif name == "make":
        check_make(words)
    else:
        assert name in PLAIN, f"say in PLAIN, or check, what {name} is"


PROSE = {"app", "test", "true"}
"""Words of `PLAIN` that an indented line of other text begins with."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_escapes_the_reading(page: Path) -> None:
    """What looks like a command in an indented block is one that `blocks` finds."""
    text = INDENTED.sub(
        "", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    )
    first = re.findall(r"^ {4}(?:\$ )?(?:\w+=\S* )?([\w./-]+) ", text, re.MULTILINE)
    known = {*PLAIN, "idtoken-sidecar", "gcloud", "kubectl", "make", "helm", "terraform", "npm", "uv"} - PROSE
    assert [word for word in first if word in known] == []


RUN_BY = {
    "docs/languages.md": {
        "python",
        "js",
        "go",
        "java",
        "csharp",
        "php",
        "ruby",
    },  # tests/docs/test_languages.py
    "docs/how-to/grpc.md": {
        "python",
        "js",
        "go",
        "java",
    },  # below; the page says that Go's and Java's are not run
    "docs/tutorials/google-libraries.md": {"python"},  # below
    "docs/tutorials/an-app-you-cant-change.md": {"python"},  # below
}
"""Programs in documents: a test runs each."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_fenced_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    """Shell, by the tests here; YAML, as configurations (tests/docs/test_docs.py); JSON, below; or a program that is run."""
    kinds = re.findall(r"^ *(?:```|~~~)([^\n`]+)$", page.read_text("utf-8"), re.MULTILINE)
    checked = {"sh", "sh norun", "yaml", "json", *RUN_BY.get(str(page.relative_to(ROOT)), ())}
    assert set(kinds) <= checked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_json_is_json_and_its_commands_are_ours(page: Path) -> None:
    """The configurations of other programs, that start a command."""
    for block in re.findall(r"```json\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for server in json.loads(block).get("mcpServers", {}).values():
            if "command" in server:
                check_product([server["command"], *server["args"]])


def test_the_lines_for_grpc_are_those_that_are_run() -> None:
    """Python's makes a channel; Node's credentials are those of the client that calls through the sidecar."""
    page = (ROOT / "docs/how-to/grpc.md").read_text("utf-8")
    (python,), (node,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "js"))
    made: dict[str, Any] = {"grpc": grpc}
    exec(python, made)  # noqa: S102  # the page is ours
    made["channel"].close()
    (credentials,) = re.findall(r"grpc\.credentials\.\w+\(\)", node)
    assert credentials in (ROOT / "tests/grpc/programs/client.cjs").read_text("utf-8")
    assert "The lines for Go and Java are not run by our tests." in page


SPAN = re.compile(r"(?<!`)`((?:idtoken-sidecar|make) [^`{}]+)`")
"""A command in the middle of a sentence."""
SAYING = [
    *PAGES,
    *(
        ROOT / name
        for folder in ("sidecar", "deploy", "config.example.yaml")
        for name in subprocess.run(
            ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        if name.endswith((".py", ".yaml", ".yml", ".tf", ".tpl"))
    ),
]


def test_commands_in_sentences_are_there() -> None:
    """In documents, messages, help, alerts and manifests: with the options that the sentence names."""
    found = 0
    for page in SAYING:
        text = FENCED.sub("", page.read_text("utf-8"))
        if page.suffix == ".py":
            text = re.sub(r'"\s*\n\s*f?"', "", text)  # a message of several literals
        for span in SPAN.findall(text):
            for words in filter(None, simple_commands(" ".join(span.split()))):
                found += 1
                if words[0] == "make":
                    check_make(words)
                else:
                    check_product(words, named=True)
    assert found > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shells_can_read_the_blocks(page: Path) -> None:
    """No quote or loop is left open."""
    for block, _ in blocks(page):
        done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_yaml_is_yaml(page: Path) -> None:
    """Blocks of other programs' YAML, which are indented and not fenced."""
    for block in re.findall(r"(?:^ {4}[\w-]+:\n(?: {4}.*\n)+)", page.read_text("utf-8"), re.MULTILINE):
        assert yaml.safe_load(block)


VERIFIED = re.compile(
    r'"target": "billing".*"verified": {"audience": "http'
    r"|Hello from billing\. Your call was verified:\n  audience  http\S+\n  caller    serviceAccount:\S+\n  header    Authorization\n"
)
"""What a service says that a token came to, by JSON or in short."""


def run_blocks(page: Path, home: Path, commands: int) -> str:
    """What the blocks of `page` print, run in one shell as a reader would, but for the ports, which are the test's."""
    script = "".join(block for norun, block in FENCED.findall(page.read_text("utf-8")) if not norun)
    assert script.count("idtoken-sidecar") == commands
    proxy, admin = free_port(), free_port()
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if (start := stand_in()) != COMMAND:
        command = home / ".bin/idtoken-sidecar"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n')
        command.chmod(0o755)
        places.insert(0, str(command.parent))
    script = script.replace(":8787", f":{proxy}").replace(":8788", f":{free_port()}")
    environ = os.environ | {
        "PATH": ":".join(places),
        "HOME": str(home),
        "IDTOKEN_SIDECAR_LISTEN": f"localhost:{proxy}",
        "IDTOKEN_SIDECAR_ADMIN": f"localhost:{admin}",
    }
    done = subprocess.run(
        ["bash", "-eu", "-m"],
        input=f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}",
        capture_output=True,
        text=True,
        timeout=180,
        cwd=home,
        env=environ,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert VERIFIED.search(done.stdout), done.stdout
    return done.stdout


def test_the_readmes_first_call_does_what_it_says(tmp_path: Path) -> None:
    """In a new directory, without Google Cloud."""
    run_blocks(ROOT / "README.md", tmp_path, commands=2)


def test_the_laptops_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Its blocks start the stand-in and a sidecar, call through it, and see it refuse."""
    printed = run_blocks(ROOT / "docs/tutorials/laptop.md", tmp_path, commands=6)
    assert "routes:" in printed
    assert "biling.internal" in printed
    assert "billing" in printed.rsplit("biling.internal", 1)[1], "the nearest route is named"


@pytest.mark.test_all
def test_google_s_libraries_are_at_home_as_the_tutorial_says(tmp_path: Path) -> None:
    """google-auth in a program that knows nothing of the sidecar gets a token that the service takes, and no other."""
    page = ROOT / "docs/tutorials/google-libraries.md"
    (program,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (tmp_path / "app.py").write_text(program, "utf-8")
    printed = run_blocks(page, tmp_path, commands=6)
    assert f'"email": "{KEY_EMAIL}"' in printed
    assert '"email": "123456789012-compute@developer.gserviceaccount.com"' in printed, "by a dummy key file"
    assert "`https://other.example` is not in the list of audiences" in printed


@pytest.mark.test_all
def test_an_app_you_can_t_change_calls_as_the_tutorial_says(tmp_path: Path) -> None:
    """An https URL in a program of requests, and in curl, with nothing set but what the page sets."""
    page = ROOT / "docs/tutorials/an-app-you-cant-change.md"
    (program,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (tmp_path / "app.py").write_text(program, "utf-8")
    printed = run_blocks(page, tmp_path, commands=9)
    assert printed.count('"path": "/invoices"') == 3
    assert "HTTPS_PROXY=http://localhost:" in printed
    assert "DNS:billing.internal" in printed
    assert "CONNECT tunnel failed, response 501" in printed
