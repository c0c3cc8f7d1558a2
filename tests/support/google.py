"""Google on loopback for tests: the emulator, running in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sidecar.emulator.app import Emulator


@pytest.fixture
async def google() -> AsyncIterator[Emulator]:
    """A stand-in with tokens of an hour; add the targets you need."""
    async with Emulator() as emulator:
        yield emulator
