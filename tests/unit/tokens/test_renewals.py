"""sidecar.tokens.renewals: fetching at once because somebody asks for it"""

from __future__ import annotations

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.tokens.renewals import INTERVAL, Renewals, TooSoonError
from tests.unit.tokens.test_store import KEY, World, fault


async def test_a_pause_after_failures_is_cut_short() -> None:
    """And what came of it is told, well or badly."""
    world = World(jitter=1.0)
    world.source.answer = fault(Reason.TOKEN_DENIED)
    world.store.prefetch([KEY])
    await world.advance(20, step=0.5)
    calls = len(world.source.calls)
    renewals = Renewals(world.store, world.clock)
    (renewal,) = await renewals.renew({KEY: "billing"})
    assert (renewal.route, renewal.error and renewal.error.reason) == ("billing", Reason.TOKEN_DENIED)
    assert len(world.source.calls) == calls + 1
    world.source.answer = world.source.new
    world.clock.advance(INTERVAL)
    (renewal,) = await renewals.renew({KEY: "billing"})
    assert renewal.error is None
    assert world.store.bearer(KEY) is not None
    await world.store.close()


async def test_a_key_is_fetched_once_in_so_many_seconds() -> None:
    """However often that is asked for; others are not held up by it."""
    world = World(jitter=0.5)
    renewals = Renewals(world.store, world.clock)
    await renewals.renew({KEY: "billing"})
    calls = len(world.source.calls)
    world.clock.advance(1.0)
    with pytest.raises(TooSoonError) as found:
        await renewals.renew({KEY: "billing"})
    assert (found.value.left, len(world.source.calls)) == (INTERVAL - 1.0, calls)
    assert await renewals.renew({}) == []
    await world.store.close()


async def test_a_store_that_closes_says_so() -> None:
    """As it does to every caller."""
    world = World(jitter=0.5)
    await world.store.close()
    (renewal,) = await Renewals(world.store, world.clock).renew({KEY: "billing"})
    assert isinstance(renewal.error, SidecarError)
    assert renewal.error.reason is Reason.DRAINING
