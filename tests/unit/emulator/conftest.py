"""Fixtures and callers of the stand-in's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import signing_key
from sidecar.emulator.metadata import ISSUER

FLAVOR = {"Metadata-Flavor": "Google"}
DEFAULT = "/computeMetadata/v1/instance/service-accounts/default/"


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    """A client that follows no redirect of its own accord and keeps no cookie."""
    async with ClientSession() as made:
        yield made


@pytest.fixture
def metadata_url(google: Emulator) -> str:
    """The metadata server's origin."""
    return f"http://{google.metadata_address}"


def signed(now: float, **claims: Any) -> str:
    """A token of the stand-in's own issuer; a claim given as None is left out."""
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
