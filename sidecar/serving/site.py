"""An application on its own listeners, behind the gate.

Owns how the servers of the control plane listen and answer: the admin server, and those that give tokens. `service`
binds the sockets, starts each `Site` and closes it. It knows no paths. Rules: connections pass `gate`, each has one
request and ends behind its answer. A handler goes on though its peer has left; one that answers in parts learns of it
at the next part.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Final, final

from sidecar.runtime.clock import Clock
from sidecar.runtime.tasks import Tasks
from sidecar.serving import intake
from sidecar.serving.application import Application
from sidecar.serving.gate import Gate, Gates
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import LAST_CHUNK, chunk

_BACKLOG: Final = 128

_CLOSE_WAIT: Final = 1.0
"""Seconds that answers under way get when the server closes."""


@final
class Site:
    """One application on its listeners.

    `sockets` are bound; they listen from `start` on and are closed by `close`. At the limit of connections the oldest
    one that has not asked makes room: who asks as soon as it is connected, as probes do, is served however many others
    say nothing.
    """

    def __init__(
        self, app: Application, sockets: Sequence[socket.socket], clock: Clock, takes: intake.Takes
    ) -> None:
        loop = asyncio.get_running_loop()
        self._app = app
        self._sockets = tuple(sockets)
        self._clock = clock
        self._task = f"request to the {takes.server}"
        self._servers: list[asyncio.Server] = []
        self._tasks = Tasks(loop)
        self._gates = Gates(loop, clock, self._serve, takes)

    def gate(self) -> Gate:
        """A gate for a connection that did not come through a socket of the site."""
        return self._gates()

    async def start(self) -> None:
        """Accept connections on every socket."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            # asyncio accepts up to `backlog` connections before anything else gets its turn, and goes on when
            # the descriptor table is full: it would log a line for each, once a second.
            self._servers.append(await loop.create_server(self._gates, sock=sock, backlog=1))
            sock.listen(_BACKLOG)

    async def close(self) -> None:
        """Close the listeners at once, and the connections after at most a second."""
        for server in self._servers:
            server.close()
        self._app.closing.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_WAIT):
                await self._gates.answered()
        await self._tasks.close()
        self._gates.close()

    def _serve(self, gate: Gate, request: WholeRequest) -> None:
        self._tasks.spawn(self._answer(gate, request), name=self._task)

    async def _answer(self, gate: Gate, request: WholeRequest) -> None:
        response = await self._app.answer(request)
        parts = response.parts
        try:
            head = response.head(http10=request.http10, now=self._clock.wall())
            if request.method == "HEAD":
                await gate.send(head)
            elif parts is None:
                await gate.send(head + response.body)
            else:
                await gate.send(head)
                async with aclosing(parts):
                    async for part in parts:
                        await gate.send(part if request.http10 else chunk(part))
                if not request.http10:
                    await gate.send(LAST_CHUNK)
        except ConnectionResetError:
            pass  # the peer has left
        except Exception as fault:  # noqa: BLE001  # logged
            self._app.fault(fault)
            gate.transport.abort()
            return
        gate.transport.close()
