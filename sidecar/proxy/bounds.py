"""The limits of a connection, as the data path reads them.

Owns a copy of `limits` of the configuration. The data path reads a dozen of them for each request, and a field of a
pydantic model costs several times what an attribute of this class does.
"""

from __future__ import annotations

from typing import final

from sidecar.config.groups import Limits


@final
class Bounds:
    """`config.groups.Limits` says what each of them is; sizes are in bytes, times in seconds."""

    __slots__ = (
        "body_timeout",
        "buffer",
        "head",
        "head_timeout",
        "headers",
        "keep_alive",
        "pipelined",
        "send_timeout",
        "stream_window",
        "streams",
        "target",
        "tunnels",
    )

    def __init__(self, limits: Limits) -> None:
        self.head: int = limits.head
        self.headers: int = limits.headers
        self.pipelined: int = limits.pipelined
        self.target: int = limits.target
        self.buffer: int = limits.buffer
        self.streams: int = limits.streams
        self.stream_window: int = limits.stream_window
        self.tunnels: int = limits.tunnels
        self.head_timeout: float = limits.head_timeout
        self.body_timeout: float = limits.body_timeout
        self.send_timeout: float = limits.send_timeout
        self.keep_alive: float = limits.keep_alive
