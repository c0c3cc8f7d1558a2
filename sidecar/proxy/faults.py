"""Faults of the sidecar itself: unexpected exceptions, running out of memory or stack included.

Owns how one is reported: one log entry with the traceback, and a count. The guards at the edges of the data path
call it:
where a transport calls its receiver, where a pool or the sweep goes from one connection to the next. Each guard then
ends the one connection that the fault met. It may not raise, even without memory.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any, final

from sidecar.errors import Reason, SidecarError

_log = logging.getLogger(__name__)


@final
class Faults:
    """The faults of the whole process."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def note(self, error: BaseException, where: str) -> None:
        """Report one more; `where` names the part in which it happened."""
        self.count += 1
        # It is counted: where there is no memory to say more, the count has to do.
        with contextlib.suppress(Exception):
            _log.error(
                f"fault in the sidecar ({where}): please report it with its traceback, which follows",
                exc_info=error,
                extra={"fields": {"where": where}},
            )

    def from_loop(self, loop: object, context: Mapping[str, Any]) -> None:
        """Report what asyncio caught in a callback. Set it as the event loop's exception handler."""
        error = context.get("exception")
        message = str(context.get("message"))
        if error is None or isinstance(error, OSError):
            _log.warning(
                f"event loop: {message}", extra={"fields": {"detail": message, "fault": repr(error)}}
            )
        else:
            self.note(error, message)


def internal() -> SidecarError:
    """The error that the app gets after a fault."""
    return SidecarError(Reason.INTERNAL, "A fault in the sidecar; its log has the traceback.")
