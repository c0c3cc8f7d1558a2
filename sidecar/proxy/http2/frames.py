"""What libnghttp2 does not report about the frames that an app sends.

Owns the walk from one frame's header to the next, across reads that end anywhere. Called by `connection`. Pure. It
finds heads that are incomplete, so that slow apps can be timed out, and malformed PRIORITY frames, which libnghttp2
drops like all PRIORITY frames. libnghttp2 checks the sizes of frames. Rules: RFC 9113 sections 4.1, 4.3 and 6.3, RFC
7540 section 5.3.1.
"""

from __future__ import annotations

from typing import Final, final

_PREFACE: Final = 24
"""Bytes before a client's first frame."""
_HEADERS: Final = 1
_PRIORITY: Final = 2
_CONTINUATION: Final = 9
_END_HEADERS: Final = 4
_STREAM: Final = 2**31 - 1
"""The bits of a stream's number. The bit before them is reserved, or says that a dependency is exclusive."""


@final
class FrameWalk:
    """The frames of one connection."""

    __slots__ = ("_flags", "_kind", "_skip", "_tail", "heads", "is_malformed")

    def __init__(self) -> None:
        self._skip = _PREFACE
        """Bytes that come before the next frame's header."""
        self._tail = b""
        """The beginning of an incomplete header."""
        self._kind = self._flags = 0
        """Kind and flags of the latest frame."""
        self.heads = 0
        """How many heads have begun."""
        self.is_malformed = False
        """Whether a PRIORITY frame had no stream, or depended on itself."""

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and is incomplete."""
        if self._kind != _HEADERS and self._kind != _CONTINUATION:
            return False
        return not self._flags & _END_HEADERS or self._skip > 0

    def follow(self, data: bytes) -> None:
        """Read these bytes too."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        at, size = self._skip, len(data)
        while at + 9 <= size:
            self._kind = kind = data[at + 3]
            self._flags = data[at + 4]
            if kind == _HEADERS:
                self.heads += 1
            elif kind == _PRIORITY:
                if at + 13 > size:
                    break
                stream = int.from_bytes(data[at + 5 : at + 9]) & _STREAM
                depends = int.from_bytes(data[at + 9 : at + 13]) & _STREAM
                if stream == 0 or stream == depends:
                    self.is_malformed = True
            at += 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
        if at < size:
            self._tail = data[at:]
            self._skip = 0
        else:
            self._skip = at - size
