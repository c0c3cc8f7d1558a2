"""docs/languages.md: each block is run as it stands, through a real sidecar to a target that verifies."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from sidecar.emulator.app import Emulator
from tests.support.sidecar import Start, clean_environment

PAGE: Final = (Path(__file__).parents[2] / "docs" / "languages.md").read_text("utf-8")
LIMIT: Final = 240.0
"""Seconds; a compiler on a busy machine takes most of it."""

RUN: Final = {
    "sh": ("curl", "call.sh", "{}", ["sh"]),
    "python": (sys.executable, "call.py", "{}", [sys.executable]),
    "js": ("node", "call.mjs", "{}", ["node"]),
    "go": (
        "go",
        "call.go",
        'package main\nimport ("io"; "log"; "net/http"; "os")\nfunc main() {\n{}}\n',
        ["go", "run"],
    ),
    "java": (
        "javac",
        "Call.java",
        "import java.net.URI; import java.net.http.*;\n"
        "class Call { public static void main(String[] a) throws Exception {\n{}} }\n",
        ["java"],
    ),
    "php": ("php", "call.php", "<?php\n{}", ["php"]),
    "ruby": ("ruby", "call.rb", "{}", ["ruby"]),
}
"""By a block's language: the program that must be here, the file's name, what stands around the block, what runs it."""

BLOCKS: Final = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def cases() -> list[object]:
    found = []
    for language, (program, *_) in RUN.items():
        missing = shutil.which(program) is None
        marks = [pytest.mark.skip(reason=f"not installed here: {program}")] if missing else []
        if language in ("go", "java"):  # compiled first, which takes some seconds
            marks.append(pytest.mark.test_all)
        found.append(pytest.param(language, id=language, marks=marks))
    return found


@pytest.mark.parametrize("language", cases())
async def test_a_block_calls_the_target(
    google: Emulator, start: Start, tmp_path: Path, language: str
) -> None:
    """The target has verified the token, and the block prints what it answered."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"routes: [{{name: billing, upstream: '{billing.url}'}}]", "--listen", "[localhost:0, auto]"
    )
    (route,) = (await sidecar.status())["routes"]
    _, name, around, runner = RUN[language]
    assert "http://localhost:8801/invoices" in BLOCKS[language]
    block = BLOCKS[language].replace("http://localhost:8801", route["url"])
    (tmp_path / name).write_text(
        around.replace("\n{}}", f"\n{block}}}") if "{}}" in around else around.replace("{}", block), "utf-8"
    )
    process = await asyncio.create_subprocess_exec(
        *(*runner, str(tmp_path / name)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert json.loads(out)["verified"]["audience"] == billing.url


def test_what_is_not_run_says_so() -> None:
    """And nothing else does."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    marked = {section.splitlines()[0] for section in sections if "Not run by our tests." in section}
    assert marked == {".NET"}
    assert BLOCKS.keys() == {*RUN, "csharp"}
