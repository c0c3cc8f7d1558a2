"""Asking a running sidecar: whatever answers in its place, the command ends with a sentence."""

from __future__ import annotations

import asyncio
import http.client
from contextlib import suppress

import pytest

from sidecar.cli.probe import ask, readiness
from sidecar.config.addresses import ListenAddress, parse_listen
from tests.support.raw_endpoint import Behaviour, RawEndpoint, answer
from tests.support.raw_endpoint import http as reply


def address(raw: RawEndpoint) -> ListenAddress:
    return parse_listen(raw.origin)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        pytest.param(reply(200), None, id="ready"),
        pytest.param(
            reply(503, b'{"reasons": ["no token", "no network"]}'), "no token; no network", id="reasons"
        ),
        pytest.param(reply(503, b"not ready"), "it answered 503", id="no-json"),
        pytest.param(reply(503, b"[]"), "it answered 503", id="a-list"),
        pytest.param(reply(503, b'{"reasons": 7}'), "it answered 503", id="no-reasons"),
        pytest.param(reply(503, b'{"reasons": [7, null]}'), "it answered 503", id="reasons-that-are-none"),
        pytest.param(reply(503, b"[" * 50_000), "it answered 503", id="deep"),
    ],
)
async def test_why_it_is_not_ready(raw: RawEndpoint, behaviour: Behaviour, why: str | None) -> None:
    raw.behaviour = behaviour
    assert await asyncio.to_thread(readiness, address(raw)) == (why, "")


@pytest.mark.parametrize(
    ("said", "shortfall"),
    [
        (b'{"shortfall": "1 of 2 tokens missing: x"}', "1 of 2 tokens missing: x"),
        (b'{"shortfall": 7}', ""),
        (b"[]", ""),
    ],
)
async def test_what_is_missing_though_it_is_ready(raw: RawEndpoint, said: bytes, shortfall: str) -> None:
    raw.behaviour = reply(200, said)
    assert await asyncio.to_thread(readiness, address(raw)) == (None, shortfall)


async def test_an_answer_without_end_is_not_read_to_its_end(raw: RawEndpoint) -> None:
    """Some other server may have the port."""
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 503 X\r\nContent-Type: text/plain\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    raw.behaviour = endless
    with pytest.raises(http.client.HTTPException):
        await asyncio.to_thread(ask, address(raw), "GET", "/healthz/ready")
    await raw.gone.wait()
    assert sent < 100_000_000


async def test_an_answer_that_trickles_has_an_end(raw: RawEndpoint) -> None:
    """The time is that of the whole, not of each byte."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not reader.at_eof():
            writer.write(b"y")
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.05)

    raw.behaviour = trickle
    with pytest.raises((OSError, http.client.HTTPException)):
        await asyncio.to_thread(ask, address(raw), "GET", "/healthz/ready", timeout=0.5)


async def test_nothing_of_http_is_an_error(raw: RawEndpoint) -> None:
    raw.behaviour = answer(b"SSH-2.0-x\r\n")
    with pytest.raises(http.client.HTTPException):
        await asyncio.to_thread(ask, address(raw), "GET", "/healthz/ready")
