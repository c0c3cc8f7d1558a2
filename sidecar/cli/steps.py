"""What `check` reports: the steps of each route, each with its verdict.

Owns the form of a report. Made by `check` and `online`, printed by the command. Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from sidecar.errors import SidecarError


class Verdict(StrEnum):
    """How a step ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Step(NamedTuple):
    """One step for one route."""

    name: str
    verdict: Verdict
    says: str
    reason: str = ""
    command: str = ""
    """The shell command that fixes it."""


class RouteReport(NamedTuple):
    """Every step for one route."""

    route: str
    steps: tuple[Step, ...]

    @property
    def failed(self) -> bool:
        """Whether a step failed."""
        return any(step.verdict is Verdict.FAILED for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The form that `--json` prints."""
        return {
            "route": self.route,
            "ok": not self.failed,
            "steps": [
                {
                    "name": step.name,
                    "verdict": str(step.verdict),
                    "says": step.says,
                    "reason": step.reason or None,
                    "command": step.command or None,
                }
                for step in self.steps
            ],
        }


def failed(name: str, error: SidecarError) -> Step:
    """A step that ended with this error."""
    return Step(name, Verdict.FAILED, error.detail, error.reason, error.command)
