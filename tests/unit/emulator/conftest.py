"""Fixtures of the stand-in's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from sidecar.emulator.app import Emulator


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    """A client with a connection pool of its own."""
    async with ClientSession() as made:
        yield made


@pytest.fixture
def metadata_url(google: Emulator) -> str:
    """The metadata server's origin."""
    return f"http://{google.metadata_address}"
