"""Google on loopback for tests: the emulator, running in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import signing_key
from sidecar.emulator.metadata import ISSUER

FLAVOR = {"Metadata-Flavor": "Google"}
"""What the metadata server wants in every request."""
DEFAULT = "/computeMetadata/v1/instance/service-accounts/default/"


@pytest.fixture
async def google() -> AsyncIterator[Emulator]:
    """A stand-in with tokens of an hour; add the targets you need."""
    async with Emulator() as emulator:
        yield emulator


def signed(now: float, **claims: Any) -> str:
    """A token of the stand-in's own issuer, good for an hour from `now`; a claim given as None is left out."""
    whole = {
        "aud": "https://billing.example",
        "email": "caller@example.com",
        "exp": int(now) + 3600,
        "iat": int(now),
        "iss": ISSUER,
        "sub": "1",
        **claims,
    }
    return signing_key("google").sign({name: value for name, value in whole.items() if value is not None})
