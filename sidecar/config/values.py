"""What all models of the configuration share: the base class, switches and counts.

Pure.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sidecar.grammar.contents import quoted


class Model(BaseModel):
    """What all models have in common."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True, defer_build=True
    )


def word(value: Any) -> Any:
    """YAML 1.1 reads `on` and `off` as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _switch(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("on", "off", "true", "false"):
        return value.lower() in ("on", "true")
    if not isinstance(value, bool):
        raise ValueError(f"{quoted(value)} is neither `on` nor `off`")
    return value


Switch = Annotated[bool, BeforeValidator(_switch)]


def _count(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


Count = Annotated[int, BeforeValidator(_count), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_count), Field(ge=0)]
