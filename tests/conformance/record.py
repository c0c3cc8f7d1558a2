"""What the peers did with every case, as verdicts.json keeps it.

Written by `peers`, read by `page`. The digest of each case's bytes shows where a case changed since.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypedDict

from tests.conformance.requests import Hostile
from tests.conformance.responses import Answer

RECORD = Path(__file__).with_name("verdicts.json")


class Record(TypedDict):
    """The file."""

    versions: dict[str, str]
    requests: dict[str, dict[str, str]]
    """Name of the case to `digest`, and each peer's verdict by its name."""
    responses: dict[str, dict[str, str]]


def load() -> Record:
    """What was kept last."""
    record: Record = json.loads(RECORD.read_text())
    return record


def dump(record: Record) -> str:
    """The file's text: one case a line, so that a change shows as one."""
    parts = [f'  "versions": {json.dumps(record["versions"])}']
    for kind, cases in (("requests", record["requests"]), ("responses", record["responses"])):
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in cases.items())
        parts.append(f'  "{kind}": {{\n{lines}\n  }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def digest(case: Hostile | Answer) -> str:
    """Of all that a peer is sent."""
    rest = b"" if isinstance(case, Hostile) else case.method + bytes([case.end]) + case.ask
    return hashlib.sha256(rest + case.data).hexdigest()[:12]
