"""A look at a PEM file before OpenSSL opens it.

Owns what kind of file TLS files may be, and how large. Called by `tls_files` and `certificates`, on the event loop:
what is read there must be there at once. A pipe would be waited for, and /dev/zero has no end. It reads nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a file. OpenSSL reads a revocation list of 5 MB (100,000 certificates) in 70 ms: nothing else runs then."""


def look(file: str) -> int:
    """The `st_mode` of a file that may be read; OSError for one that can't be opened, is no regular file, or too large:
    its `strerror` is for the middle of a sentence."""
    # Without O_NONBLOCK this would wait for a pipe's writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", file)
    if found.st_size > LIMIT:
        raise OSError(errno.EFBIG, f"it is larger than {LIMIT >> 20} MiB", file)
    return found.st_mode
