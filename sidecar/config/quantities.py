"""Durations and sizes, as people write them.

Owns the two notations of the configuration: `1m30s` and `64KiB`. Called by the models for every field of
those kinds. Pure. A bare number is refused: whether it means seconds or milliseconds has cost outages
elsewhere. Units: Go's durations (h, m, s, ms), IEC sizes (B, KiB, MiB, GiB).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from sidecar.grammar.contents import quoted

_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DURATION_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(h|ms|m|s))+$"
_SIZE_PATTERN: Final = r"^[0-9]+(B|KiB|MiB|GiB)$"
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s)")


def parse_duration(value: object) -> float:
    """Seconds of `10s`, `1m30s`, `250ms`; ValueError with a sentence for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"a duration needs a unit: `{value}s`, `{value}ms` or `{value}m`?")
    text = str(value).strip()
    if re.fullmatch(_DURATION_PATTERN, text) is None:
        if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", text):
            raise ValueError(f"a duration needs a unit: `{text}s`, `{text}ms` or `{text}m`?")
        raise ValueError(f"{quoted(text)} is not a duration such as `10s`, `1m30s` or `250ms`")
    return round(sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)), 9)


def format_duration(seconds: float) -> str:
    """The shortest notation that `parse_duration` reads back."""
    if seconds != int(seconds):
        milliseconds = seconds * 1000
        return (
            f"{milliseconds:.0f}ms" if abs(milliseconds - round(milliseconds)) < 1e-6 else f"{seconds:.9g}s"
        )
    whole = int(seconds)
    parts = [(whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s")]
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def parse_size(value: object) -> int:
    """Bytes of `64KiB`, `1MiB`, `512B`; ValueError with a sentence for anything else."""
    text = str(value).strip()
    if isinstance(value, bool) or re.fullmatch(_SIZE_PATTERN, text) is None:
        if re.fullmatch(r"[0-9]{1,20}", text):
            raise ValueError(f"a size needs a unit: `{text}B` or `{text}KiB`?")
        raise ValueError(f"{quoted(text)} is not a size such as `64KiB`, `1MiB` or `512B`")
    number, unit = re.match(r"([0-9]+)(.+)", text).groups()  # type: ignore[union-attr]  # the pattern matched
    return int(number) * _BYTES[unit]


def format_size(size: int) -> str:
    """The shortest notation that `parse_size` reads back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def _duration(value: Any) -> float:
    return parse_duration(value)


def _size(value: Any) -> int:
    return parse_size(value)


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION_PATTERN, "examples": ["10s", "1m30s", "250ms"]}),
]
"""Seconds, written with units."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _SIZE_PATTERN, "examples": ["64KiB", "1MiB"]}),
]
"""Bytes, written with units."""
