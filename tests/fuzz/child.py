"""One libFuzzer process: `python -m tests.fuzz.child TARGET [libFuzzer's arguments]`. Needs atheris."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import atheris

INSTRUMENTED: Final = {
    "request": ["sidecar.proxy", "sidecar.routing.routes", "sidecar.grammar.hosts"],
    "answer": ["sidecar.proxy"],
    "config": ["sidecar.config", "sidecar.routing.routes", "sidecar.grammar.hosts"],
    "token": ["sidecar.tokens"],
    "http2": ["sidecar.proxy", "sidecar.routing.routes"],
    "http2_answer": ["sidecar.proxy"],
}
"""Only what is under test is watched: the rest runs at its own speed."""


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    target, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED[target], enable_loader_override=False):
        module = importlib.import_module(f"tests.fuzz.{target}")
    # What libFuzzer starts processes of its own with, to merge.
    command = f"{sys.executable} -m tests.fuzz.child {target}"
    atheris.Setup([command, *arguments], module.target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
