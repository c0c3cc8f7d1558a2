"""How a test closes its own servers and connections.

Owns that nothing it has accepted outlives it: a connection that was accepted, and whose handler has not begun, would
stay open until the collector finds it, and then some other test fails.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def close_server(server: asyncio.Server) -> None:
    """Accept nothing more, let the handler of each accepted connection begin, and close. What the handlers do with
    their connections is theirs; tasks are cancelled at the end of a test.
    """
    loop = asyncio.get_running_loop()
    for sock in server.sockets:
        loop.remove_reader(sock.fileno())
    for _ in range(2):
        await asyncio.sleep(0)
    server.close()


def abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once. If it has TLS and has ended by itself, Python 3.11.2 (Debian 12's) raises."""
    with suppress(AttributeError):
        writer.transport.abort()
