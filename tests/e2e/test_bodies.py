"""Bodies of every size, both ways, with the same hash and without memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.backend import sha256_of_bytes
from tests.support.sidecar import Sidecar, Start

BLOCK = bytes(range(256)) * 1024
SIZES = [
    pytest.param((1, 65_537, 5_000_000, 1 << 26), id="up-to-64-MiB"),
    pytest.param((1 << 30,), id="1-GiB", marks=[pytest.mark.slow, pytest.mark.test_all]),
]
ALLOWED = 32 * 1024
"""KiB that all of them may add to the resident memory."""


def peak(sidecar: Sidecar) -> int:
    """The process's highest resident memory in KiB since it was last reset."""
    with open(f"/proc/{sidecar.process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def reset_peak(sidecar: Sidecar) -> int:
    with open(f"/proc/{sidecar.process.pid}/clear_refs", "w") as file:
        file.write("5")
    return peak(sidecar)


def reduced(sizes: tuple[int, ...], *, further: bool) -> list[int]:
    """Of a gigabyte a quarter, where there is more to do `further` than to copy it."""
    return [size >> 2 if further and size > 1 << 29 else size for size in sizes]


async def begin(google: Emulator, start: Start, tls: bool) -> tuple[Sidecar, str]:
    target = await google.add_target("billing", tls=tls)
    ca = f", tls: {{ca_file: '{google.ca_file}'}}" if tls else ""
    sidecar = await start(
        f"routes:\n  - {{name: billing, upstream: '{target.url}', listen: localhost:0{ca}}}"
    )
    return sidecar, f"http://127.0.0.1:{await sidecar.own_port('billing')}"


@pytest.mark.parametrize("framing", ["", "?chunked=1"], ids=["content-length", "chunked"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("sizes", SIZES)
async def test_down(google: Emulator, start: Start, sizes: tuple[int, ...], tls: bool, framing: str) -> None:
    """What the target sends is what the app gets."""
    sidecar, base = await begin(google, start, tls)
    before = reset_peak(sidecar)
    async with aiohttp.ClientSession() as session:
        for size in reduced(sizes, further=tls or framing != ""):
            digest, got = hashlib.sha256(), 0
            async with session.get(f"{base}/bytes/{size}{framing}") as answer:
                async for piece in answer.content.iter_any():
                    digest.update(piece)
                    got += len(piece)
            assert (got, digest.hexdigest()) == (size, sha256_of_bytes(size))
    assert peak(sidecar) - before < ALLOWED


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("sizes", SIZES)
async def test_up(google: Emulator, start: Start, sizes: tuple[int, ...], tls: bool, framing: str) -> None:
    """What the app sends is what the target gets."""
    sidecar, base = await begin(google, start, tls)
    before = reset_peak(sidecar)

    async def body(left: int, digest: hashlib._Hash) -> AsyncIterator[bytes]:
        while left:
            piece = BLOCK[:left]
            digest.update(piece)
            left -= len(piece)
            yield piece

    async with aiohttp.ClientSession() as session:
        for size in reduced(sizes, further=tls or framing == "chunked"):
            digest = hashlib.sha256()
            headers = {"Content-Length": str(size)} if framing == "content-length" else {}
            async with session.post(f"{base}/upload", data=body(size, digest), headers=headers) as answer:
                echo = json.loads(await answer.read())
            assert (echo["body_length"], echo["body_sha256"]) == (size, digest.hexdigest())
    assert peak(sidecar) - before < ALLOWED
