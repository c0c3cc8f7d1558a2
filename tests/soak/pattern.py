"""Bodies that belong to one identity: no part of one is part of another's, and none repeats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

BLOCK = 64 * 1024


class Pattern:
    """The body of `size` bytes that belongs to `identity`."""

    def __init__(self, identity: str, size: int) -> None:
        self.size = size
        self._base = hashlib.shake_128(identity.encode()).digest(min(size, BLOCK))

    def block(self, number: int) -> bytes:
        """The block of this number; the last is shorter."""
        left = min(self.size - number * BLOCK, BLOCK)
        return (number.to_bytes(8, "big") + self._base[8:] if number else self._base)[:left]

    def blocks(self) -> Iterator[bytes]:
        """All of it."""
        for number in range(-(-self.size // BLOCK)):
            yield self.block(number)


class Checker:
    """Compares a body with its pattern as it comes."""

    def __init__(self, identity: str, size: int) -> None:
        self._pattern = Pattern(identity, size)
        self._number = -1
        self._block = b""
        self.received = 0
        self.intact = True

    def feed(self, data: bytes) -> None:
        """The next piece."""
        while data and self.intact:
            number, offset = divmod(self.received, BLOCK)
            if number != self._number:
                self._number, self._block = number, self._pattern.block(number)
            piece = data[: BLOCK - offset]
            self.intact = bool(piece) and piece == self._block[offset : offset + len(piece)]
            self.received += len(piece)
            data = data[len(piece) :]

    @property
    def complete(self) -> bool:
        """Whether it was all of the pattern and nothing else."""
        return self.intact and self.received == self._pattern.size
