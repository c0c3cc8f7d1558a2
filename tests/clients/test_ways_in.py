"""HTTP clients of many languages through every way into the sidecar: nothing is lost, mixed up or changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.backend import GZIPPED, sha256_of_bytes
from sidecar.emulator.targets import Target
from tests.clients.http_clients import CLIENTS, Client
from tests.clients.results import keep
from tests.support.programs import lines_of
from tests.support.sidecar import Start, clean_environment

LIMIT = 240.0
BODY: Final = bytes(range(250)) * 80_000
UP: Final = hashlib.sha256(BODY).hexdigest()


def is_echo(found: Any, **expected: Any) -> bool:
    """Whether an echo says that the target verified the token, and got what was sent."""
    return bool(found["verified"]) and expected.items() <= found.items()


JUDGES: Final[dict[str, Callable[[Any], bool]]] = {
    "up": lambda found: is_echo(found, body_sha256=UP, body_length=len(BODY)),
    "down": lambda found: found == sha256_of_bytes(len(BODY)),
    "chunked": lambda found: is_echo(found, body_sha256=hashlib.sha256(b"abc").hexdigest()),
    "gzip": lambda found: found == GZIPPED,
    "sse": lambda found: found == "".join(f"id: {n}\ndata: event {n}\n\n" for n in range(3)),
    "parallel": lambda found: [one["path"] for one in found] == [f"/n{n}" for n in range(50)],
    # As the client escapes it, or the sidecar where the client sends it raw: the case of the digits is its own.
    "utf8": lambda found: is_echo(found) and found["path"].upper() == "/GR%C3%BC%C3%9FE?X=%C3%BC",
    "websocket": lambda found: found == ["grüße", hashlib.sha256(BODY[:300_000]).hexdigest()],
}


def each() -> list[Any]:
    """Every client by every way, with the reason not to run it here."""
    found = []
    for name, client in CLIENTS.items():
        marks = []
        if missing := client.missing:
            reason = f"not installed here ({', '.join(missing)}): {client.package}"
            marks.append(pytest.mark.skip(reason=reason))
        for way in client.ways:
            seldom = [] if way in client.daily else [pytest.mark.test_all]
            found.append(pytest.param(name, way, id=f"{name}-{way}", marks=[*marks, *seldom]))
    return found


@pytest.fixture
async def billing(google: Emulator) -> Target:
    """A target that verifies."""
    return await google.add_target("billing")


async def run(client: Client, environ: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What each task brought."""
    lines, err = await lines_of(
        *client.command, environ=clean_environment(**environ, **dict(client.environ)), limit=LIMIT
    )
    assert lines, err[-3000:]
    return {line.pop("way"): line for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), each())
async def test_a_client_loses_nothing(start: Start, billing: Target, name: str, way: str) -> None:
    """Whatever it is written in: the target verifies each request, and gets and gives every byte."""
    client = CLIENTS[name]
    sidecar = await start(
        f"routes:\n  - {{name: billing, host: billing.internal, upstream: '{billing.url}', "
        "path_prefix: /billing, listen: localhost:0}"
    )
    here = f"http://127.0.0.1:{sidecar.port}"
    bases = {
        "listener": f"http://localhost:{await sidecar.own_port('billing')}",
        "prefix": f"{here}/billing",
        "host": here,
        "proxy": "http://billing.internal",
    }
    environ = {
        "BASE": bases[way],
        "HOST": "billing.internal" if way == "host" else "",
        "PROXY": here if way == "proxy" else "",
    }
    found = await run(client, environ)
    wrong = {}
    for task in client.tasks_by(way):
        brought = found.get(task, {"error": "it was not run"})
        if "error" in brought:
            wrong[task] = brought["error"]
        elif not JUDGES[task](brought["found"]):
            wrong[task] = str(brought["found"])[:500]
    keep(f"http-{name}", way, {task: task not in wrong for task in client.tasks_by(way)})
    assert wrong == {}
