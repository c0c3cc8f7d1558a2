"""The file of CAs that apps are to trust.

Owns how it is written: completely or not at all, readable by all users and writable by none but the sidecar's. Called
by `interception`. There is no secret in it.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress


def write(file: str, certificates: Iterable[str]) -> None:
    """Replace the file with these certificates, in PEM. Raises OSError and leaves the file as it was."""
    directory = os.path.dirname(os.path.abspath(file))
    if os.path.lexists(file) and not stat.S_ISREG(os.lstat(file).st_mode):
        # A link would be replaced by a file, and a device be gone.
        raise OSError(errno.EEXIST, "it is there, and is not a regular file")
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
    """Whether every user of the machine can replace the file. A volume is only for the containers that mount it, and
    Kubernetes lets all of those write.
    """
    directory = os.path.dirname(os.path.abspath(file))
    mode = os.stat(directory).st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX and not os.path.ismount(directory)
