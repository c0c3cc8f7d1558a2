"""What a server of the control plane answers.

Owns how a handler's result becomes an answer: the header fields that every one has, a refusal, a fault. `admin` and
`handout` make one each, with a handler; `site` asks it. It knows no connection. Rules: whatever a handler raises, there
is an answer, and it tells nothing of the inside. A method that a path does not have is told which it has (RFC 9110
section 15.5.6). HEAD is GET (section 9.3.2), whose body `site` leaves out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias, final

from sidecar.serving import problems
from sidecar.serving.problems import RefusedError
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response

_log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[WholeRequest], Awaitable[Response]]
"""Answers, or raises RefusedError."""


@final
class Application:
    """One server's answers."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        *,
        headers: Mapping[str, str] = problems.HEADERS,
        closing: asyncio.Event | None = None,
    ) -> None:
        """`name` is what it is called in the log. `headers` stand in every answer that has no others of these names.
        `closing` is set when the server closes, so that answers in parts end.
        """
        self._name = name
        self._handler = handler
        self._headers = headers
        self.closing = asyncio.Event() if closing is None else closing

    async def answer(self, request: WholeRequest) -> Response:
        """The answer, whatever happens."""
        try:
            response = await self._handler(request)
        except RefusedError as refusal:
            response = problems.problem(refusal.status, refusal.detail, refusal.headers)
        except Exception as fault:  # noqa: BLE001  # logged
            self.fault(fault)
            response = problems.problem(500, "The sidecar has an internal fault; its log says which.")
        response.headers = {**self._headers, **response.headers}
        return response

    def fault(self, fault: Exception) -> None:
        """Log what a handler raised."""
        _log.error(f"fault in the {self._name}", exc_info=fault)


@final
class Paths:
    """Handlers by path and method."""

    def __init__(self, table: Iterable[tuple[str, str, Handler]], nothing: str) -> None:
        """`table` has method, path and handler; `nothing` is said of any other path."""
        self._nothing = nothing
        self._paths: dict[str, dict[str, Handler]] = {}
        for method, path, handler in table:
            methods = (method, "HEAD") if method == "GET" else (method,)
            self._paths.setdefault(path, {}).update(dict.fromkeys(methods, handler))

    async def answer(self, request: WholeRequest) -> Response:
        """What the handler answers; raises RefusedError where there is none."""
        methods = self._paths.get(request.path)
        if methods is None:
            raise RefusedError(404, self._nothing)
        handler = methods.get(request.method)
        if handler is None:
            allowed = ", ".join(sorted(methods))
            raise RefusedError(405, f"{request.path} takes {allowed}.", {"Allow": allowed})
        return await handler(request)
