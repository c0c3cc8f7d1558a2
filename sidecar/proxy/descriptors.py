"""How many connections the process may hold.

Owns the arithmetic of its descriptors. Called by the service at start and where `limits` change; `hardening` has raised
the soft limit by then. Each connection is a descriptor, and so is each to an upstream: where the limit leaves no room
for both, accepting must stop before connecting fails, since an app that waits is served later and one whose upstream
can't be reached is not.
"""

from __future__ import annotations

import resource
from typing import Final

_OWN: Final = 200
"""Descriptors for everything else: listeners, the admin server's callers, token endpoints, files, subprocesses."""


def room(upstream: int) -> int | None:
    """How many connections from apps there is room for with so many to upstreams; None for any number."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if descriptors == resource.RLIM_INFINITY else shared_out(descriptors, upstream)


def shared_out(descriptors: int, upstream: int) -> int:
    """The same for a number of descriptors; at least one."""
    rest = descriptors - min(_OWN, descriptors // 4)
    return max(1, rest - min(upstream, rest // 2))
