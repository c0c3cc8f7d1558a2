"""sidecar.tokens.grants.ready_token: a token that someone else renews, as it stands in its file"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.grants.ready_token import token_file

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2ln"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(TOKEN.encode(), id="as-it-is"),
        pytest.param(f"\r\n{TOKEN} \r\n".encode(), id="lines-around-it"),
        pytest.param(TOKEN.encode("utf-8-sig"), id="byte-order-mark"),
        pytest.param(f"{TOKEN}\r\n".encode("utf-16"), id="utf-16"),
        pytest.param(f"\ufeff\ufeff{TOKEN}".encode(), id="two-marks"),
    ],
)
async def test_a_token_is_read_whatever_unicode_it_was_saved_in(tmp_path: Path, data: bytes) -> None:
    """Windows' editors put a byte order mark before UTF-8, its shells write UTF-16."""
    file = tmp_path / "token"
    file.write_bytes(data)
    flight = Flight(SystemClock(asyncio.get_running_loop()), 60)
    assert token_file(str(file)).id_token(flight, "x").value == TOKEN
    flight.close()
