"""Switches a running sidecar to another configuration.

Called by `reload`. The order: all new parts are built and checked while the old ones run, the first new tokens are
fetched, then the switch happens within one turn of the event loop. Requests in progress end under the old route
table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, final

from sidecar.config.models import Config
from sidecar.errors import SidecarError
from sidecar.handout.offer import Offer
from sidecar.net import listeners
from sidecar.observe import logs
from sidecar.routing.routes import RouteTable
from sidecar.service.bindings import ListenPlan
from sidecar.service.build import Parts, fixed_keys, inspected, limits, token_files
from sidecar.service.handouts import Handouts, callers_of
from sidecar.service.readiness import Readiness
from sidecar.service.start_error import EXIT_CONFIG, EXIT_REQUIRED, StartError
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.sources import unchanged
from sidecar.tokens.token import Token, TokenKey

_log = logging.getLogger(__name__)

PREFETCH_LIMIT: Final = 10.0
"""Seconds that another configuration waits for the tokens that are new in it."""

_AT_START: Final = ("admin", "tracing", "via", "token_wait", "token_cache", "log_format", "core_dumps")
"""Settings that a reload can't change."""


@final
class Switch:
    """Replaces the parts of one sidecar that depend on its configuration."""

    def __init__(self, parts: Parts, readiness: Readiness, handouts: Handouts) -> None:
        self._parts = parts
        self._readiness = readiness
        self._handouts = handouts

    async def to(self, config: Config) -> list[str]:
        """Serve by another configuration from now on; what to tell about it.

        Raises StartError, with everything as it was, where the new one can't be served. Tokens of credentials that mean
        the same are kept, the first ones of the others are fetched before the switch, for at most `PREFETCH_LIMIT`
        seconds.
        """
        parts = self._parts
        sources = parts.sources_of(config, self._kept_sources(config))
        told = [
            f"`{name}` takes effect at the next start"
            for name in _AT_START
            if getattr(config, name) != getattr(parts.config, name)
        ]
        table = RouteTable.compile(config, sources, parts.table.routes)
        offers = parts.offers_of(config, table, sources)
        told = [*inspected(config, sources, parts.environ, offers), *told]
        for key, it in config.handouts.items():
            callers_of(key, it)
        new = [route for route in table.routes if route not in parts.table.routes]
        plan = prepared = None
        try:
            parts.check_tls_files(new)
            prepared = parts.prepare_interception(config, table)
            plan = parts.bindings.plan(config, table)
            fetched = await self._fetch_first(table)
            self._refuse_missing(table, fetched)
            if self._readiness.is_draining:
                raise StartError("the sidecar is shutting down", EXIT_CONFIG)
        except BaseException:
            if plan is not None:
                plan.drop()
            if prepared is not None:
                parts.proxy.interception.restore(parts.environ)
            parts.dialer.forget(new)
            raise
        told = [*prepared.warnings, *told]
        parts.proxy.interception.adopt(prepared, table)
        self._take(config, table, sources, offers=offers, fetched=fetched, plan=plan)
        for use in plan.bound:
            await parts.proxy.serve(*use)
        await self._handouts.follow()
        parts.bindings.tell([route.name for route in table.routes], parts.version, table.urls)
        return told

    def _kept_sources(self, config: Config) -> dict[str, GoogleSource]:
        old = self._parts.config
        kept = unchanged(
            old.credentials,
            config.credentials,
            same_surroundings=_same_surroundings(old, config),
        )
        return {name: self._parts.sources[name] for name in kept}

    def _take(
        self,
        config: Config,
        table: RouteTable,
        sources: dict[str, GoogleSource],
        *,
        offers: dict[str, Offer],
        fetched: Mapping[TokenKey, Token],
        plan: ListenPlan,
    ) -> None:
        """The switch itself, within one turn of the event loop, so that no request sees half of it."""
        parts = self._parts
        gone = set(parts.table.routes) - set(table.routes)
        parts.tokens.switch(sources.values(), fixed_keys(table, offers))
        for key, token in fetched.items():
            parts.tokens.adopt(key, token)
        if config.log_level != parts.config.log_level:
            parts.log_level = config.log_level
            logs.set_level(config.log_level)
        parts.config, parts.table, parts.sources, parts.offers = config, table, sources, offers
        parts.proxy.switch(
            parts.admission(table),
            limits=limits(config),
            pool=config.pool,
            access_log=parts.access_log(config),
        )
        parts.dialer.forget(gone)
        parts.file_watch.watch(token_files(config))
        parts.pin_and_prefetch()
        surplus = parts.bindings.adopt(plan)
        table.urls = parts.bindings.urls(config.routes)
        for use in plan.stay:
            parts.proxy.reassign(*use)
        for listener in surplus:
            parts.proxy.stop_serving(listener)
            listeners.close(listener)

    async def _fetch_first(self, table: RouteTable) -> dict[TokenKey, Token]:
        """Fetch tokens that must be ready and are not there yet. Those that come too late are left out."""
        known = {status.key for status in self._parts.tokens.status() if status.expires_at is not None}
        keys = {
            key
            for route in table.routes
            if route.config.prefetch and (key := route.fixed_key()) is not None and key not in known
        }
        fetched: dict[TokenKey, Token] = {}

        async def fetch(key: TokenKey) -> None:
            try:
                fetched[key] = await key.source.mint(key)
            except SidecarError as error:
                fields = {"credential": key.credential, "audience": key.audience, "reason": str(error.reason)}
                _log.warning(
                    f"no token for `{key.audience}` before the switch to another configuration: {error}",
                    extra={"fields": {**fields, "detail": error.detail}},
                )

        with suppress(TimeoutError):
            async with asyncio.timeout(PREFETCH_LIMIT):
                await asyncio.gather(*(fetch(key) for key in keys))
        return fetched

    def _refuse_missing(self, table: RouteTable, fetched: Mapping[TokenKey, Token]) -> None:
        """A route that becomes required must have its token before it is served."""
        for route in table.routes:
            key = route.fixed_key()
            if not route.config.required or key is None or key in fetched:
                continue
            if not self._parts.tokens.ready_state(key)[0]:
                raise StartError(
                    f"route `{route.name}` is required, and no token came for it within {PREFETCH_LIMIT:.0f} s",
                    EXIT_REQUIRED,
                )


def _same_surroundings(one: Config, other: Config) -> bool:
    """Whether a credential that is the same in both asks the same places in the same way."""
    return (
        one.endpoints == other.endpoints
        and one.secret_variables == other.secret_variables
        and one.ca_file == other.ca_file
        and one.listening == other.listening
    )
