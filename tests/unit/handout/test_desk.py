"""sidecar.handout.desk: how long what a program is given lives, on a fake clock"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest

from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.handout.desk import STAND_IN_LIFE, Desk, HandedOut
from sidecar.observe.metrics import TokenStats
from sidecar.runtime.tasks import Tasks
from sidecar.tokens import placeholder
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import TokenKey
from tests.support.clock import FakeClock
from tests.support.source import Source

AUDIENCE = "https://billing.example"


class Room:
    """A desk before a store whose source a test commands."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.source = Source(self.clock)
        self.tasks = Tasks(asyncio.get_running_loop())
        self.tokens = TokenStore(
            [self.source],
            self.clock,
            self.tasks,
            lambda *_: TokenStats(),
            jitter=lambda: 0.0,
            wait=10.0,
            size=10,
        )
        self.desk = Desk("metadata_server", self.tokens, self.clock)
        # The store asks a source for its name and for tokens, and nothing else.
        self.key = TokenKey(cast(GoogleSource, self.source), AUDIENCE)
        self.access = TokenKey(cast(GoogleSource, self.source), "s", TokenKind.ACCESS)

    async def give(self, *, worthless: bool = False) -> HandedOut:
        return await self.desk.give(self.key, worthless=worthless)

    async def close(self) -> None:
        await self.tokens.close()
        await self.tasks.close()


@pytest.fixture
async def room() -> Room:
    return Room()


async def test_it_lives_as_long_as_it_says(room: Room) -> None:
    """Rounded down; the same token says less later on."""
    first = await room.give()
    assert first.expires_in == 3600
    room.clock.advance(100.5)
    later = await room.give()
    assert (later.value, later.expires_in) == (first.value, 3499)
    await room.close()


async def test_none_is_given_that_lives_less_than_the_policy_demands(room: Room) -> None:
    """The renewal has failed all the while, and the old one has half a minute left: an error, and not that one. With more than
    that it is given, as a request would still get it."""
    await room.give()
    room.source.error = SidecarError(Reason.TOKEN_ENDPOINT_FAILED, "down")
    room.clock.advance(3600 - 31)
    assert (await room.give()).expires_in == 31
    room.clock.advance(2)
    with pytest.raises(SidecarError) as refused:
        await room.give()
    assert refused.value.reason is Reason.TOKEN_ENDPOINT_FAILED
    with pytest.raises(SidecarError):
        await room.give(worthless=True)
    room.source.error = None
    room.clock.advance(40)
    assert (await room.give()).expires_in > 3000
    await room.close()


async def test_a_placeholder_lives_as_long_as_the_token_that_stays(room: Room) -> None:
    """So a library renews it when that is renewed; it is no token, and has none in it."""
    real = await room.give()
    room.clock.advance(1000)
    given = await room.give(worthless=True)
    assert given.expires_in == 2600
    assert placeholder.is_in(given.value.encode())
    assert real.value.split(".")[1] not in given.value
    await room.close()


async def test_one_that_stands_for_no_token_fetches_none(room: Room) -> None:
    """It is counted and logged like others."""
    given = room.desk.stand_in(room.access)
    assert (given.expires_in, room.source.minted) == (STAND_IN_LIFE, [])
    assert placeholder.is_in(given.value.encode())
    assert room.desk.stats.given == {"access": 1}
    await room.close()


async def test_no_word_of_a_token_is_logged(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is one in its text form; the same line comes once a minute, and says how often it was left out."""
    caplog.set_level(logging.DEBUG)
    given = [await room.give() for _ in range(3)]
    room.clock.advance(61)
    await room.give()
    lines = [record for record in caplog.records if "given to a program" in record.getMessage()]
    assert [record.fields["untold"] for record in lines] == [None, 2]  # type: ignore[attr-defined]
    shown = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert given[0].value not in shown
    assert "eyJ" not in shown + repr(given)
    assert room.desk.stats.given == {"id": 4}
    await room.close()
