"""What the peers did with every case of HTTP/2, as verdicts.json keeps it. Written by `peers`, read by `page`.

The digest of each case's bytes shows where a case changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from tests.conformance.http2.answers import ANSWERS, FLOODS, Answer, Flood
from tests.conformance.http2.attacks import ATTACKS, Attack
from tests.conformance.http2.heads import HEADS, Head
from tests.conformance.http2.sections import SECTIONS, Section

RECORD: Final = Path(__file__).with_name("verdicts.json")

Case = Section | Head | Answer | Attack | Flood
Record = dict[str, dict[str, dict[str, str]]]
"""Table to name to `digest`, and each peer's verdict by its name; in `versions` what ran, by `peers`."""

TABLES: Final[Mapping[str, Sequence[Case]]] = {
    "sections": SECTIONS,
    "heads": HEADS,
    "answers": ANSWERS,
    "attacks": ATTACKS,
    "floods": FLOODS,
}
_UNITS: Final = 50
"""Of a flood, that count for its digest."""


def digest(case: Case) -> str:
    """Of all that a peer is sent."""
    match case:
        case Section():
            sent = b"".join(step for step in case.steps if isinstance(step, bytes))
        case Head() | Answer():
            sent = case.key
        case Attack():
            sent = case.settings + case.first + b"".join(islice(case.frames(), _UNITS))
        case Flood():
            sent = b"".join(islice(case.units(1), _UNITS))
    return hashlib.sha256(sent).hexdigest()[:12]


def load() -> Record:
    """What was kept last."""
    record: Record = json.loads(RECORD.read_text())
    return record


def dump(record: Record) -> str:
    """The file's text: one case a line, so that a change shows as one."""
    parts = []
    for table, cases in record.items():
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in cases.items())
        parts.append(f"  {json.dumps(table)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
