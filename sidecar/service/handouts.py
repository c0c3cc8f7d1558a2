"""The servers of one running sidecar that give tokens to programs: the metadata server and the token endpoint.

Owns their applications and the sites they are served on. Called by `life`, `switch` and `view`. The rule: only
servers in the configuration exist. A new configuration changes the lists of a server that stays, without
interruption, and closes one that it does not have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, final

from sidecar.admin.status import HandoutStatus
from sidecar.config.handouts import GoogleTokenEndpoints, Handout
from sidecar.handout.desk import Desk
from sidecar.net import listeners
from sidecar.net.callers import Callers
from sidecar.net.listeners import Listener
from sidecar.observe.metrics import HandoutStats
from sidecar.proxy.handover import Handover
from sidecar.runtime.loading import loaded
from sidecar.service.build import Parts
from sidecar.service.start_error import EXIT_CONFIG, StartError

if TYPE_CHECKING:
    from sidecar.handout.apps import App
    from sidecar.serving.site import Site

_log = logging.getLogger(__name__)


class _Running(NamedTuple):
    """One server that is on."""

    app: App
    site: Site
    listeners: list[Listener]


@final
class Handouts:
    """The servers of one process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._desks: dict[str, Desk] = {}
        """Kept where a server is switched off: a counter is never taken back."""
        self._running: dict[str, _Running] = {}
        self._has_loaded = False
        """Whether the applications are loaded: not before one is named."""

    async def follow(self) -> None:
        """Serve what the configuration in force names, on the listeners that are bound for it, and nothing else."""
        parts = self._parts
        for key, running in list(self._running.items()):
            if parts.bindings.handouts.get(key) is not running.listeners:
                await self._close(key)
        if parts.bindings.handouts and not self._has_loaded:
            await loaded(_load)
            self._has_loaded = True
        for key, bound in parts.bindings.handouts.items():
            if (known := self._running.get(key)) is not None:
                self._adopt(key, known.app)
                continue
            await self._open(key, bound)

    async def _open(self, key: str, bound: list[Listener]) -> None:
        from sidecar.handout import apps

        parts = self._parts
        desk = self._desks.setdefault(key, Desk(key, parts.tokens, parts.clock))
        sockets = [listener.socket for listener in bound]
        app, site = apps.make(parts.config.handouts[key], desk, parts.clock, parts.project, sockets)
        self._adopt(key, app)
        self._running[key] = _Running(app, site, bound)
        await site.start()
        if isinstance(parts.config.handouts[key], GoogleTokenEndpoints):
            parts.proxy.interception.answer = lambda owner: Handover(
                parts.loop, site.gate(), owner, parts.proxy
            )
        self._tell(key, bound)

    async def close(self) -> None:
        """Close them all."""
        for key in list(self._running):
            await self._close(key)

    def stats(self) -> Iterable[tuple[str, HandoutStats]]:
        """The record of each server that has been on, by its key."""
        return ((key, desk.stats) for key, desk in self._desks.items())

    def status(self) -> list[HandoutStatus]:
        """What the status page shows of those that are on."""
        return [
            HandoutStatus(
                key,
                [str(listener) for listener in running.listeners],
                running.app.offer.source.name,
                running.app.offer.audiences.entries,
                running.app.offer.scopes,
                sum(self._desks[key].stats.given.values()),
                sum(self._desks[key].stats.refused.values()),
            )
            for key, running in self._running.items()
        ]

    def _adopt(self, key: str, app: App) -> None:
        from sidecar.handout import apps

        it = self._parts.config.handouts[key]
        apps.adopt(app, self._parts.offers[key], it, callers_of(key, it))

    def _tell(self, key: str, bound: list[Listener]) -> None:
        it, offer = self._parts.config.handouts[key], self._parts.offers[key]
        where = [str(listener) for listener in bound]
        by = f"on {', '.join(where)}" if where else "in tunnels (HTTPS_PROXY)"
        to = "every process of this machine" if it.peers is None else "those that `peers` names"
        what = "placeholders of tokens" if isinstance(it, GoogleTokenEndpoints) else "tokens"
        _log.info(
            f"`{key}` {by} gives {to} {what} of credential `{offer.source.name}`",
            extra={"fields": {"server": key, "listen": where, "credential": offer.source.name}},
        )

    async def _close(self, key: str) -> None:
        running = self._running.pop(key)
        if not running.listeners:
            self._parts.proxy.interception.answer = None
        await running.site.close()
        for listener in running.listeners:
            listeners.close(listener)


def _load() -> None:
    import sidecar.handout.apps  # noqa: F401  # used from then on where it is needed


def callers_of(key: str, it: Handout) -> Callers | None:
    """Whose processes may ask; raises StartError for a user or a group that there is not."""
    if it.peers is None:
        return None
    try:
        return listeners.callers_of(it.peers, {})
    except LookupError as error:
        raise StartError(f"`{key}.peers`: {error.args[0]}", EXIT_CONFIG) from error
