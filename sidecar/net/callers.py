"""Who may call through one listener.

Owns the two rules that a listener can have beside its address: the headers that each request must bring, and the
users and groups whose processes may connect to a Unix socket. Called by the acceptor for each connection and by the
downstream connection for each request, only where there is a rule. Pure: the kernel's answer about a peer comes in as
numbers. A value that is required is a secret: it is compared in constant time, never forwarded, and in no error.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from typing import Final, final

from sidecar.errors import Reason, SidecarError

Lines = list[tuple[bytes, bytes]]


@final
class Callers:
    """The rules of one listener."""

    __slots__ = ("_dropped", "_gids", "_required", "_uids")

    def __init__(
        self,
        required: Mapping[str, str],
        uids: Collection[int] | None = None,
        gids: Collection[int] | None = None,
    ) -> None:
        """`required` maps header names to their values; without `uids` and `gids` every process may connect."""
        self._required = [
            (name.lower().encode("ascii"), name, value.encode("ascii")) for name, value in required.items()
        ]
        self._dropped = frozenset(lower.replace(b"_", b"-") for lower, _, _ in self._required)
        self._uids = None if uids is None else frozenset(uids)
        self._gids = frozenset(gids or ())

    def __repr__(self) -> str:
        return (
            f"<Callers headers={[name for _, name, _ in self._required]} uids={self._uids} gids={self._gids}>"
        )

    @property
    def by_peer(self) -> bool:
        """Whether it matters which process calls."""
        return self._uids is not None

    @property
    def peers(self) -> tuple[Collection[int] | None, Collection[int]]:
        """The users and the groups whose processes may connect."""
        return self._uids, self._gids

    def may_connect(self, uid: int, gids: Collection[int]) -> bool:
        """Whether a process with this user or one of these groups may connect."""
        return self._uids is None or uid in self._uids or not self._gids.isdisjoint(gids)

    def admit(self, fields: Sequence[tuple[bytes, bytes]]) -> Lines:
        """The fields without the required headers. Raises CALLER_REFUSED unless each is there once, with its value."""
        if not self._required:
            return list(fields)
        wrong = ""
        for lower, name, value in self._required:
            sent = [found for key, found in fields if key.lower() == lower]
            # What is absent is compared as well: how long it takes tells nothing.
            if not hmac.compare_digest(sent[0] if sent else b"", value) or len(sent) != 1:
                wrong = name
        if wrong:
            raise SidecarError(
                Reason.CALLER_REFUSED,
                f"This listener asks for the header `{wrong}`, once and with its value (`require_header`), "
                "and the request did not bring that.",
            )
        return self.without(fields)

    def without(self, fields: Sequence[tuple[bytes, bytes]]) -> Lines:
        """The fields, or trailers, without the headers that callers must send, in any spelling."""
        return [field for field in fields if field[0].lower().replace(b"_", b"-") not in self._dropped]


ANYBODY: Final = Callers({})
"""No rule at all, for code that needs one."""


def peer_unknown() -> SidecarError:
    """The error for every process where the system can't say which one it is."""
    return SidecarError(
        Reason.CALLER_REFUSED,
        "This listener's `peers` names who may call, and the system does not say which process calls: all are refused. "
        "That takes Linux (SO_PEERCRED); elsewhere use `require_header`.",
    )


def peer_refused(uid: int, gid: int) -> SidecarError:
    """The error for a process that may not connect."""
    return SidecarError(
        Reason.CALLER_REFUSED,
        f"This process (uid {uid}, gid {gid}) may not call here: the listener's `peers` names neither.",
    )
