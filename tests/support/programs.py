"""Programs of others, run to their end: what a client or a library says, a JSON object a line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from tests.support.sidecar import LIMIT


async def lines_of(
    *command: str, environ: Mapping[str, str], limit: float = LIMIT
) -> tuple[list[dict[str, Any]], str]:
    """The objects that it prints, and what it says on stderr. It is killed where it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(limit):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        raise
    return [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")], err.decode()
