"""A request's body, as long as it may have to be sent again.

Owns its pieces and how much memory they take. Made by an exchange. Pure.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.proxy.fields.headers import Fields

_OF_A_PIECE: Final = 64
"""Bytes of memory that a piece takes beside its own: an object, its place in a list. They count for small ones that
follow another: a body that comes a byte at a time would take thirty times its size."""


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
        """Keep one more piece; False where the body takes more than `limit` with it."""
        size = len(data)
        self.size += size
        if size < _OF_A_PIECE and self.pieces:
            self.size += _OF_A_PIECE
        self.pieces.append(data)
        return self.size <= limit


NOTHING: Final = HeldBody()
"""The body of every request that has none; nothing is ever added to it."""
