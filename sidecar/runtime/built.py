"""Which build this is: the data path as Python, or as the machine code that mypyc makes of the same source."""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Final

_COMPILED_IN_ANY_CASE: Final = "sidecar.net.transport"
"""A module of the list in pyproject.toml (`[tool.idtoken-sidecar.compiled]`), which compiles all of them or none."""


def kind() -> str:
    """`compiled` or `pure`, for `--version`, the metric `build_info` and bug reports; nothing is imported for it."""
    spec = importlib.util.find_spec(_COMPILED_IN_ANY_CASE)
    origin = "" if spec is None or spec.origin is None else spec.origin
    return "compiled" if origin.endswith(tuple(EXTENSION_SUFFIXES)) else "pure"
