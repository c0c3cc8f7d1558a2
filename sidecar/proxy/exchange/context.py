"""What every exchange and every connection from the app works with.

Owns nothing: it names what the proxy has put together. Made by `proxy.server`; handed to connections and exchanges,
so that none of them has to get it from another. A reload assigns new values here; they hold from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from sidecar.config.groups import Limits
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.exchange.ledger import Ledger
from sidecar.proxy.faults import Faults
from sidecar.proxy.pool.pools import Pools
from sidecar.proxy.ports import Relay
from sidecar.runtime.clock import Clock
from sidecar.tokens.store import TokenStore


@final
class Context:
    """See the module's docstring."""

    __slots__ = (
        "admission",
        "call_soon",
        "clock",
        "draining",
        "faults",
        "is_leaving",
        "ledger",
        "limits",
        "pools",
        "tokens",
        "tunnels",
        "via",
    )

    def __init__(
        self,
        clock: Clock,
        call_soon: Callable[..., Any],
        *,
        admission: Admission,
        limits: Limits,
        pools: Pools,
        tokens: TokenStore,
        ledger: Ledger,
    ) -> None:
        """`call_soon` is the event loop's."""
        self.clock = clock
        self.call_soon = call_soon
        self.admission = admission
        self.limits = Bounds(limits)
        self.pools = pools
        self.tokens = tokens
        self.ledger = ledger
        self.faults: Faults = pools.faults
        self.via = (b"", b"", b"")
        """The `Via` line for a request that came as HTTP/1.1, as 1.0, and as HTTP/2."""
        self.tunnels: set[Relay] = set()
        """The exchanges that are a tunnel, or have asked to become one."""
        self.is_leaving = False
        """Each answer ends its connection; new connections are still accepted."""
        self.draining = False
        """New connections are refused, and idle ones end."""
