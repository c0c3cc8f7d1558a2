"""A request's body, kept for as long as it may have to be sent again.

Owns its pieces and how much memory they take. Made by an exchange. Pure.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.proxy.fields.headers import Fields

_OF_A_PIECE: Final = 64
"""Bytes of memory that a piece takes beside its own: an object, and its place in a list. They count for small pieces
that follow another. A body that arrives byte by byte would take thirty times its size.
"""


@final
class HeldBody:
    """The pieces that came so far; not framed."""

    __slots__ = ("pieces", "size", "trailers")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        """Bytes, with what the pieces take beside their own."""
        self.trailers: Fields = ()

    def add(self, data: bytes, limit: int) -> bool:
        """Keep one more piece. False if the body would exceed `limit`."""
        size = len(data)
        self.size += size
        if size < _OF_A_PIECE and self.pieces:
            self.size += _OF_A_PIECE
        self.pieces.append(data)
        return self.size <= limit


NOTHING: Final = HeldBody()
"""The body of every request that has none; nothing is ever added to it."""
