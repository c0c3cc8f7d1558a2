"""Why the sidecar can't start, and the exit code that says so to the program that started it."""

from __future__ import annotations

from typing import Final

EXIT_CONFIG: Final = 2
EXIT_BIND: Final = 3
EXIT_REQUIRED: Final = 4


class StartError(Exception):
    """Tells the command with which exit code to end; where another configuration is tried, that it can't be served."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
