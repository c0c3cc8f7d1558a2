"""The file of CAs that apps are to trust.

Owns how it is written: whole or not at all, for everybody to read and nobody else to write. Called by `interception`.
There is no secret in it.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress


def write(file: str, certificates: Iterable[str]) -> None:
    """Put a file of these certificates, in PEM, in the place of what is there; raises OSError with that as it was."""
    directory = os.path.dirname(os.path.abspath(file))
    if os.path.lexists(file) and not stat.S_ISREG(os.lstat(file).st_mode):
        # A link would be replaced by a file, and a device be gone.
        raise OSError(errno.EEXIST, "it is there, and is no regular file")
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=".idtoken-sidecar-")
    try:
        with open(descriptor, "w", encoding="ascii") as new:
            new.write("".join(certificates))
            new.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        os.replace(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def open_to_others(file: str) -> bool:
    """Whether every user of the machine can put another file in its place. A volume is for those who mount it, and
    Kubernetes makes each of them so."""
    directory = os.path.dirname(os.path.abspath(file))
    mode = os.stat(directory).st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX and not os.path.ismount(directory)
