"""Reads whole files of bounded size.

Owns the reading of files that an operator names: configuration, credential, token, key, certificate. The rule:
regular files only, because a pipe or a terminal can keep its reader waiting forever, and a device has no end. The
limit holds while the file is read, because a file can grow, and those of /proc have no size.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from functools import cache
from typing import Final, NamedTuple

STANDARD_INPUT: Final = frozenset({"-", "/dev/stdin"})
"""How a command line names it."""
_CHUNK: Final = 64 * 1024
_KINDS: Final = (
    (stat.S_ISFIFO, "it is a pipe, not a regular file"),
    (stat.S_ISSOCK, "it is a socket, not a regular file"),
    (stat.S_ISCHR, "it is a device, not a regular file"),
    (stat.S_ISBLK, "it is a device, not a regular file"),
)


class Read(NamedTuple):
    """A file's contents; its text form shows none of them."""

    data: bytes
    mode: int
    """Its `st_mode`."""

    @property
    def text(self) -> str:
        """The contents as text; raises UnicodeDecodeError, which holds them."""
        return as_text(self.data)

    def __repr__(self) -> str:
        return f"<Read {len(self.data)} bytes>"


def as_text(data: bytes) -> str:
    """What `data` says in UTF-8 or UTF-16, with a byte order mark or without, as Windows' editors and shells write it;
    raises UnicodeDecodeError, which holds `data`. What begins with ASCII shows its encoding by its NULs (RFC 4627
    section 3)."""
    return data.decode(json.detect_encoding(data))


def read(file: str, limit: int) -> Read:
    """The whole of a regular file of at most `limit` bytes.

    Raises OSError: of the system's own kind, or (`strerror` is for the middle of a sentence, errno EINVAL or EFBIG) for
    what is no regular file or too large. No error has the file's name: the caller quotes it (`contents.place`).
    """
    if "\0" in file:
        raise OSError(errno.EINVAL, "its name has a NUL in it")
    try:
        # NONBLOCK: opening a pipe waits for its other end. NOCTTY: opening a terminal can make it this process's.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise type(error)(error.errno, error.strerror) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "it is not a regular file")
            raise OSError(errno.EINVAL, kind)
        return Read(_bounded(descriptor, limit), mode)
    finally:
        os.close(descriptor)


@cache
def read_standard_input(limit: int) -> bytes:
    """All that comes on standard input, read once in the life of the process; raises OSError above `limit` bytes."""
    return _bounded(sys.stdin.fileno(), limit)


def _bounded(descriptor: int, limit: int) -> bytes:
    found = bytearray()
    while data := os.read(descriptor, min(_CHUNK, limit + 1 - len(found))):
        found += data
        if len(found) > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
    return bytes(found)
