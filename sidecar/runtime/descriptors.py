"""How many descriptors the process may have, and what happens when none is left.

Owns the arithmetic, and the error of a full table. The service calls `room` at start and when `limits` change
(`hardening` has raised the soft limit by then); code that opens outgoing connections calls the rest. Each connection
from an app and each one to an upstream takes a descriptor. If the limit has no room for both, accepting must stop
before connecting fails: an app that waits is served later, but one whose upstream can't be reached gets an error. If
connecting fails all the same, the upstream is not at fault, and must not be blamed or avoided.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

from sidecar.errors import Reason, SidecarError

EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE))
"""The process's table is full; the system's is."""

SERVED: Final = 100
"""Connections open at once to one server of the control plane; `serving.gate` keeps to it. Probes, scrapers and the
status page's feeds are some dozens at most."""

_OWN: Final = 200
"""Descriptors for everything else: listeners, the admin server's callers, token endpoints, files, subprocesses."""


def room(upstream: int) -> int | None:
    """How many connections from apps there is room for with so many to upstreams; None for any number."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if descriptors == resource.RLIM_INFINITY else shared_out(descriptors, upstream)


def shared_out(descriptors: int, upstream: int) -> int:
    """How many connections from apps a number of descriptors leaves room for; at least one."""
    rest = descriptors - min(_OWN, descriptors // 4)
    return max(1, rest - min(upstream, rest // 2))


def shortage() -> OSError | None:
    """Why no descriptor can be had now, if none can.

    For errors that hide it: with a full table the C library can neither read /etc/hosts nor ask a server, and says that
    a name is not known.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error if error.errno in EXHAUSTED else None
    return None


def none_left(doing: str, error: OSError) -> SidecarError:
    """What it means for a request that `doing`, such as "connecting to X", failed with one of `EXHAUSTED`."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if error.errno == errno.ENFILE:
        whose, remedy = "This machine", "raise the system's limit (`sysctl fs.file-max`)"
    else:
        whose = f"This process, which may have {soft},"
        remedy = (
            "raise its limit of open files (`ulimit -n`, systemd's `LimitNOFILE`, the container's `nofile`)"
        )
    return SidecarError(
        Reason.NO_DESCRIPTORS,
        f"{whose} has no file descriptor left for {doing}: nothing was sent. Either {remedy}, or lower "
        "`limits.connections` and the routes' `pool.connections`.",
        retry_after=1.0,
    )
