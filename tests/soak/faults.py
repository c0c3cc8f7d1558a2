"""The faults of the soak: what is switched, whom it concerns, and what it excuses.

Each group has at most one fault at a time; several groups may have one at once. The plan follows from the seed alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple

METADATA, OAUTH, STS, IAM = "metadata", "oauth", "sts", "iam"
A, B = "upstream-a", "upstream-b"
PROCESS = "process"

TOKEN_REASONS = (
    *(
        "token_timeout",
        "token_endpoint_unreachable",
        "token_endpoint_failed",
        "token_rate_limited",
        "token_denied",
    ),
    *(
        "token_malformed",
        "token_wrong_audience",
        "token_no_expiry",
        "token_invalid",
        "token_expired",
        "impersonation_denied",
    ),
    *("credential_invalid", "subject_token_failed", "no_service_account"),
)
NO_TOKEN = frozenset(f"503 {reason}" for reason in TOKEN_REASONS)
LOST = frozenset({"502 upstream_closed", "502 upstream_reset"})
"""The upstream left before it answered, or ended the request's stream."""
CUT_OFF = LOST | {"cut", "502 upstream_incomplete"}
"""It may also have left in mid-answer."""
GONE = CUT_OFF | {
    "short",
    "502 tls_failed",
    "502 tls_closed",
    "502 connect_refused",
    "502 connect_failed",
    "504 connect_timeout",
}


class Kind(NamedTuple):
    """One way to misbehave."""

    name: str
    group: str
    order: Any
    """What its switch is told."""
    excuses: frozenset[str]
    """Outcomes that it explains; empty: it must not be noticed."""
    settle: float
    """Seconds for which it excuses them still, when it is off again."""


def _token_kinds(server: str) -> list[Kind]:
    # After some failures the next fetch starts up to 30 s later.
    faults: dict[str, tuple[dict[str, Any], float]] = {
        "failing": ({"kind": "status", "code": 500}, 35),
        "limited": ({"kind": "status", "code": 429, "headers": {"Retry-After": "2"}}, 35),
        "forbidden": ({"kind": "status", "code": 403}, 35),
        "hanging": ({"kind": "hang"}, 45),
        "slow": ({"kind": "slow", "seconds": 1.0}, 20),
        "reset": ({"kind": "reset"}, 35),
        "html": ({"kind": "html"}, 35),
        "garbage": ({"kind": "garbage"}, 35),
        "wrong audience": ({"kind": "wrong_audience"}, 35),
        "expired": ({"kind": "expired"}, 35),
        "refusing": ({"kind": "refuse"}, 35),
    }
    # Whose callers have left, a fetch goes on for a while; those of a wildcard's hosts may be all that are kept.
    excuses = NO_TOKEN | {"503 overloaded"} if server == METADATA else NO_TOKEN
    return [
        Kind(f"{server} {name}", server, order, excuses, settle) for name, (order, settle) in faults.items()
    ]


def _upstream_kinds(group: str) -> list[Kind]:
    kinds = {
        "reset": (0.3, LOST, 3.0),
        "close_idle": (0.3, LOST, 3.0),
        "slow": (0.5, frozenset[str](), 0.0),
        "stall": (0.1, frozenset({"504 response_timeout"}), 14.0),
        "truncate": (0.3, CUT_OFF, 3.0),
        "garbage": (0.3, LOST | {"502 upstream_malformed"}, 3.0),
        "refuse": (0.3, frozenset({"401"}), 3.0),
    }
    return [
        *(
            Kind(f"{group} {name}", group, {"mode": name, "share": share}, excuses, settle)
            for name, (share, excuses, settle) in kinds.items()
        ),
        Kind(f"{group} killed", group, "kill", GONE, 5.0),
    ]


PROCESS_KINDS = [
    Kind("reload", PROCESS, "reload", frozenset(), 0.0),
    Kind("log level", PROCESS, "level", frozenset(), 0.0),
    Kind("stopped for a second", PROCESS, "stop", frozenset(), 0.0),
    Kind("log reader stalled", PROCESS, "log", frozenset(), 0.0),
    Kind("listener's certificate renewed", PROCESS, "certificate", frozenset(), 0.0),
]
KINDS = {
    **{server: _token_kinds(server) for server in (METADATA, OAUTH, STS, IAM)},
    **{group: _upstream_kinds(group) for group in (A, B)},
    PROCESS: PROCESS_KINDS,
}
PACES = {
    METADATA: (25, 45),
    OAUTH: (25, 45),
    STS: (25, 45),
    IAM: (25, 45),
    A: (8, 20),
    B: (8, 20),
    PROCESS: (3, 10),
}
"""Seconds between two faults of a group, least and most."""
LENGTHS = {
    METADATA: (3, 20),
    OAUTH: (3, 20),
    STS: (3, 20),
    IAM: (3, 20),
    A: (2, 8),
    B: (2, 8),
    PROCESS: (1, 3),
}
"""Seconds that one lasts."""


class Window(NamedTuple):
    """A fault that was on, in monotonic seconds."""

    kind: Kind
    on: float
    off: float


STARVED = {
    group: Kind(
        f"{group} could not run",
        group,
        None,
        frozenset({"504 response_timeout", "504 connect_timeout", "504 tls_timeout", "504 idle_timeout"}),
        1.0,
    )
    for group in (A, B)
}
"""No fault of the plan: what an upstream notes of itself on a machine that has too much to do."""


Switch = Callable[[Kind, bool], Awaitable[None]]


async def inflict(
    group: str, seed: int, scale: float, until: float, switch: Switch, windows: list[Window]
) -> None:
    """One group's faults, one after the other, until the monotonic moment `until`; each ends before then.

    `scale` is by what the times above are multiplied.
    """
    random = Random(f"{seed}/{group}")  # noqa: S311
    loop = asyncio.get_running_loop()
    # Each kind once, in any order, before one comes again.
    bag: list[Kind] = []
    first = True
    while True:
        gap = random.uniform(*PACES[group]) * scale * (0.3 if first else 1.0)
        length = random.uniform(*LENGTHS[group]) * scale
        first = False
        if not bag:
            bag = random.sample(KINDS[group], len(KINDS[group]))
        kind = bag.pop()
        if loop.time() + gap + length > until:
            return
        await asyncio.sleep(gap)
        on = loop.time()
        at = len(windows)
        windows.append(Window(kind, on, float("inf")))
        await switch(kind, True)
        await asyncio.sleep(length)
        await switch(kind, False)
        windows[at] = Window(kind, on, loop.time())
