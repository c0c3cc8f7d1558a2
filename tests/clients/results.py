"""What the libraries and clients did, as results.json keeps it and docs/clients.md shows it.

Written by the tests where IDTOKEN_KEEP_RESULTS is set (`make clients-page`), read by `page`. One file an item while tests
run beside each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

RECORD: Final = Path(__file__).with_name("results.json")
KEPT: Final = Path(__file__).parents[2] / "build" / "clients" / "results"


def keep(name: str, part: str, found: Mapping[str, bool | str]) -> None:
    """Note what one run brought, if a page is to be made of it."""
    if os.environ.get("IDTOKEN_KEEP_RESULTS") is None:
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}@{part}.json").write_text(json.dumps(dict(found)), "utf-8")


def gather() -> dict[str, dict[str, dict[str, bool | str]]]:
    """All of them: by name, then by part."""
    found: dict[str, dict[str, dict[str, bool | str]]] = {}
    for file in sorted(KEPT.glob("*.json")):
        name, _, part = file.stem.partition("@")
        found.setdefault(name, {})[part] = json.loads(file.read_text("utf-8"))
    return found


def load() -> dict[str, dict[str, dict[str, bool | str]]]:
    """What was kept last."""
    record: dict[str, dict[str, dict[str, bool | str]]] = json.loads(RECORD.read_text("utf-8"))
    return record
